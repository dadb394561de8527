"""Names of data sets, as given on the command line or in a recipe → the data sets."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils import nearest
from .benchmarks import BENCHMARKS, Benchmark
from .files import SUFFIXES, rows_of
from .loaders import PROCEDURAL_TASKS, load, load_countdown, load_file, load_procedural


if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class PromptArguments:
    """How problems become prompts, the same for training and evaluation."""

    template: str = field(
        default="boxed",
        metadata={
            "help": "What surrounds a problem: 'boxed', 'answer', 'none', or a text with {problem} in it, see "
            "`htpo_trl.data.load`."
        },
    )
    system_prompt: str | None = field(
        default=None, metadata={"help": "System message; without chat, a paragraph before the prompt."}
    )
    chat: bool = field(
        default=True,
        metadata={"help": "Whether prompts are conversations, for the model's chat template. False for base models."},
    )
    problem_column: str | None = field(
        default=None,
        metadata={
            "help": "Column with the problem, of a file or Hub data set of your own ('problem' by default). Without "
            "it, a data set that has the column 'prompt' is taken as it is, as in TRL."
        },
    )
    solution_column: str | None = field(
        default=None,
        metadata={"help": "Column with the answer, of a file or Hub data set of your own ('solution' by default)."},
    )
    dataset_options: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": 'Options of a procedural task, as JSON: {"size": 500, "max_terms": 3}.'},
    )

    def __post_init__(self) -> None:
        self.dataset_options = as_options("dataset_options", self.dataset_options)

    @property
    def of_prompts(self) -> dict[str, Any]:
        """Keyword arguments of the loaders in `htpo_trl.data`."""
        return {"template": self.template, "system_prompt": self.system_prompt, "chat": self.chat}


def as_options(name: str, value: dict[str, Any] | str | None) -> dict[str, Any]:
    """Options that may be JSON, as on the command line."""
    if not isinstance(value, str):
        return value or {}
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"{name}={value!r} is not JSON: {error}.") from None


def is_ours(name: str) -> bool:
    """Whether the name is one of this package's, or of a local file: known without the Hub."""
    return name in {*BENCHMARKS, *PROCEDURAL_TASKS, "countdown"} or Path(name).suffix in SUFFIXES


def check_options(names: Sequence[str], prompts: PromptArguments) -> None:
    """Refuse options of procedural tasks where none of the data sets is one."""
    if prompts.dataset_options and not {*names} & {*PROCEDURAL_TASKS}:
        raise ValueError(
            f"dataset_options={prompts.dataset_options} are for procedural tasks, which {', '.join(names)} is not. "
            f"The tasks: {', '.join(PROCEDURAL_TASKS)}."
        )


def hub_id(name: str | None) -> str | None:
    """The data set's id on the Hub, if it is from there."""
    if name in BENCHMARKS:
        return BENCHMARKS[name].hub_id
    return None if name is None or is_ours(name) or os.path.exists(name) else name


def is_local(name: str) -> bool:
    """Whether the data set is made or read on this machine."""
    return is_ours(name) and name not in BENCHMARKS


def dataset(
    name: str,
    prompts: PromptArguments,
    *,
    path: str | None = None,
    config: str | None = None,
    split: str | None = None,
    streaming: bool = False,
) -> "Dataset":
    """
    A data set by the name of a benchmark (whose downloaded copy may lie at `path`), a procedural task or `countdown`,
    by the path of a `.jsonl`, `.csv` or `.parquet` file, or by its id on the Hub.

    Raises:
        ValueError: naming what is wrong with name, file, row or column.
    """
    if path and name not in BENCHMARKS:
        raise ValueError(f"dataset_path={path!r} is a copy of one of {', '.join(BENCHMARKS)}, which {name!r} is not.")
    if not is_ours(name):
        return _hub_dataset(name, prompts, config, split, streaming)
    part = None if name == "countdown" else split
    for option, value in (("dataset_config", config), ("split", part), ("dataset_streaming", streaming)):
        if value:
            raise ValueError(f"{option}={value!r} is for data sets of the Hub by their id, which {name!r} is not.")
    if name == "countdown":
        return load_countdown("test" if split == "test" else "train")
    if name in PROCEDURAL_TASKS:
        return load_procedural(name, **prompts.of_prompts, **as_options("dataset_options", prompts.dataset_options))
    if name in BENCHMARKS:
        return load(name, path=path, **prompts.of_prompts)
    if not os.path.isfile(name):
        raise ValueError(f"There is no file {name!r} in {os.getcwd()}.")
    columns = next(rows_of(Path(name)), ("", {}))[1]
    if "prompt" in columns and not (prompts.problem_column or prompts.solution_column):
        from datasets import Dataset

        return Dataset.from_list([row for _, row in rows_of(Path(name))])
    return load_file(
        name,
        problem_column=prompts.problem_column or "problem",
        solution_column=prompts.solution_column or "solution",
        **prompts.of_prompts,
    )


def benchmark(name: str, prompts: PromptArguments) -> tuple[str, "Dataset"]:
    """What a data set is called in the results of an evaluation, and the problems to evaluate on."""
    return Path(name).stem, dataset(name, prompts, split="test" if name == "countdown" else None)


def _hub_dataset(name: str, prompts: PromptArguments, config: str | None, split: str | None, streaming: bool):
    from datasets import load_dataset

    known = f"Names that are known: {', '.join([*BENCHMARKS, *PROCEDURAL_TASKS, 'countdown'])}."
    try:
        found = load_dataset(name, config, split=split, streaming=streaming)
    except (ConnectionError, FileNotFoundError) as error:
        raise ValueError(f"dataset {name!r}: {nearest(name, BENCHMARKS)}{error}. {known}") from error
    columns = found.column_names or []
    if streaming or ("prompt" in columns and not (prompts.problem_column or prompts.solution_column)):
        return found
    problem, solution = prompts.problem_column or "problem", prompts.solution_column or "solution"
    for option, column in (("problem_column", problem), ("solution_column", solution)):
        if column not in columns:
            raise ValueError(
                f"{name} has no column {column!r}, only {', '.join(columns)}. Set {option} to one of them."
            )
    return load(Benchmark(name, config, split or "train", problem, solution), **prompts.of_prompts)
