"""Names of data sets, in Python, on the command line and in recipes → the data sets."""

import logging
import os
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.utils import HFValidationError, validate_repo_id

from ..utils import MissingPackageError, UsageError, nearest
from ..verifier.golds import gold_text, is_missing
from . import countdown
from .benchmarks import BENCHMARKS, Benchmark
from .files import READERS, Row, arrow_rows, rows_of
from .prompts import PromptArguments


if TYPE_CHECKING:
    from datasets import Dataset

_logger = logging.getLogger(__name__)

#: Tasks of reasoning-gym (extra `procedural`) whose answer is one number and which were recomputed here without a
#: difference. Answers of others can be judged by the package's own scorers only, several of which evaluate the model's
#: text (`eval`, `sympy.parse_expr`); some are wrong (`basic_arithmetic` divides by flooring). None is ever called.
PROCEDURAL_TASKS = (
    *("binary_alternation", "chain_sum", "count_bits", "count_primes", "decimal_chain_sum", "dice", "gcd"),
    *("largest_island", "lcm", "letter_counting", "maze", "products", "rotten_oranges", "self_reference"),
    "simple_equations",
)
#: Generated here; they take `dataset_options`.
TASKS = (*PROCEDURAL_TASKS, "countdown")


class NotReachedError(UsageError, ConnectionError):
    """A data set of the Hub cannot be had from there."""


def load(
    name: str | Path | Benchmark,
    prompts: PromptArguments | None = None,
    *,
    path: str | Path | None = None,
    config: str | None = None,
    split: str | None = None,
    streaming: bool = False,
    **options: Any,
) -> "Dataset":
    """
    Load a data set by its name. Rows that repeat a problem are dropped, and so are all rows of a problem that has
    conflicting answers; the log says how many.

    Args:
        name (`str`, `Path` or [`~htpo_trl.data.Benchmark`]):
            A key of `BENCHMARKS`, such as `"aime24"`, or where another such set is; a file `.jsonl`, `.csv` or
            `.parquet` of your own; one of `PROCEDURAL_TASKS` or `"countdown"`; or an id on the Hub.
        prompts ([`~htpo_trl.data.prompts.PromptArguments`], *optional*):
            Options as the command line and recipes have them, to which `options` are changes.
        path (`str` or `Path`, *optional*):
            Downloaded copy of one of `BENCHMARKS`, with the Hub's columns, to read instead of the Hub.
        config, split (`str`, *optional*), streaming (`bool`, *optional*):
            Of a data set of the Hub by its id, `split="train"` by default. `"countdown"` has splits too.
        options:
            The fields of [`~htpo_trl.data.prompts.PromptArguments`], such as `template="answer"`.

    Returns:
        `datasets.Dataset` with the columns `prompt`, `solution` (the bare answer) and `problem` (the bare text). A
        data set of your own with the column `prompt` is taken as it is, unless `options` name its columns.

    Example:

    ```python
    from htpo_trl.data import check_disjoint, load

    train, test = load("dapo-math-17k", template="answer"), load("aime24", template="answer")
    check_disjoint({"train": train, "aime24": test})
    ```
    """
    from datasets import Dataset

    from .blocks import ROWS, IrregularError, tables_of
    from .columns import batches_to_dataset, file_as_it_is, rows_to_dataset

    known = list(vars(PromptArguments()))
    for option in options.keys() - {*known}:
        raise TypeError(f"load() has no option {option!r}. {nearest(option, known)}There are {', '.join(known)}.")
    prompts = replace(prompts or PromptArguments(), **options)
    if "dataset_options" in options:  # those of a command line may be for another of its data sets
        check_options([str(name)], prompts)
    task_options: Any = prompts.dataset_options or {}
    spec = name if isinstance(name, Benchmark) else BENCHMARKS.get(str(name))
    name = name.hub_id if isinstance(name, Benchmark) else str(name)
    as_it_is = not (spec or prompts.problem_column or prompts.solution_column)
    if path and not spec:
        raise UsageError(f"dataset_path={path!r} is a copy of one of {', '.join(BENCHMARKS)}, which {name!r} is not.")
    if spec or is_ours(name):
        part = None if name == "countdown" else split
        for option, value in (("dataset_config", config), ("split", part), ("dataset_streaming", streaming)):
            if value:
                raise UsageError(f"{option}={value!r} is for data sets of the Hub by their id, which {name!r} is not.")
    if not spec:
        path = name if is_ours(name) else None
        columns = prompts.problem_column or "problem", prompts.solution_column or "solution"
        spec = Benchmark(name, config, split or "train", *columns)
    if name == "countdown":
        with _options_of(name, task_options):
            return Dataset.from_list(countdown.rows(split or "train", **task_options))
    batches: Any = None
    if name in PROCEDURAL_TASKS:
        rows = generate(name, **task_options)
    elif path:
        if as_it_is and "prompt" in next(rows_of(path), ("", {}))[1]:
            _tell_unused(name, prompts)
            return file_as_it_is(Path(path))
        rows, batches = rows_of(path), tables_of(Path(path), [spec.problem, spec.solution])
    else:
        found = _from_hub(spec, streaming)
        if streaming or (as_it_is and "prompt" in found.column_names):
            _tell_unused(name, prompts)
            return found
        if {spec.problem, spec.solution} <= {*found.column_names}:  # otherwise row 1 says which there are
            found = found.select_columns([spec.problem, spec.solution])
        rows = arrow_rows(spec.hub_id, found.with_format("arrow").iter(ROWS))
        batches = found.with_format("arrow").iter(ROWS)
    source = path or spec.hub_id
    with suppress(IrregularError, ValueError):  # which the slow way tells with its place
        if batches is not None:
            return batches_to_dataset(source, batches, spec, prompts)
    return rows_to_dataset(source, rows, spec, prompts)


def generate(task: str, size: int = 1000, seed: int = 0, **options: Any) -> Iterator[Row]:
    """
    Rows with the problems of a task (`problem`) and their answers (`solution`), the same at every call.

    Two seeds give different problems, but small tasks repeat some: hold out by [`~htpo_trl.data.split`]. Further
    options are the task's, such as `max_terms=3` of `chain_sum`.
    """
    try:
        import reasoning_gym
    except ImportError as error:
        raise MissingPackageError(f"{task} needs reasoning-gym: pip install 'htpo_trl[procedural]'.") from error
    # reasoning-gym seeds problem i with seed + i: sets of neighbouring seeds would be the same but for a shift by one.
    start = random.Random(seed).getrandbits(32)
    with _options_of(task, options | {"size": size}):
        problems = reasoning_gym.create_dataset(task, size=size, seed=start, **options)
    for number, entry in enumerate(problems, 1):
        yield f"{task}, problem {number}", {"problem": entry["question"], "solution": entry["answer"]}


@contextmanager
def _options_of(task: str, options: dict[str, Any]) -> Iterator[None]:
    try:
        yield
    except (AssertionError, TypeError) as error:  # reasoning-gym asserts what an option must be
        raise UsageError(f"dataset_options={options} are not those of {task}: {error}.") from error


def check_hub_id(name: str) -> None:
    """Raise a [`UsageError`] for a name that is neither known, nor here, nor can be that of a data set on the Hub."""
    try:
        validate_repo_id(split_of(name)[0])
    except HFValidationError as error:
        raise UsageError(
            f"dataset_name={name!r}: there is no such file here, and it cannot be an id on the Hub."
        ) from error


def evaluation_problems(
    names: Sequence[str], prompts: PromptArguments, held_out: Any = None, option: str = "benchmarks"
) -> dict[str, "Dataset"]:
    """
    What to evaluate on, by what it is called in the results, see [`result_names`]. Where a set has splits, a name may
    be `NAME:SPLIT`, and is `NAME:test` without one. The name `test` is that of the part of the training data that is
    held out, where there is one.
    """
    found = {}
    for each, label in result_names(names, option).items():
        name, part = split_of(each)
        is_held_out = held_out is not None and each == "test"
        found[label] = held_out if is_held_out else load(name, prompts, split=part)
    return found


def split_of(name: str) -> tuple[str, str | None]:
    """The set and the split that the name of a benchmark stands for: `countdown:validation`, `owner/name:dev`."""
    if is_ours(name):
        return name, "test" if name == "countdown" else None
    bare, colon, part = name.partition(":")
    if colon and not part:
        raise UsageError(f"{name!r} names no split behind its colon. Name it, or leave the colon out.")
    if part and bare != "countdown" and is_ours(bare):
        raise UsageError(f"{name!r}: {bare} has no splits. Leave {':' + part!r} out.")
    return bare, part or "test"


def result_names(names: Sequence[str], option: str = "benchmarks") -> dict[str, str]:
    """
    What data sets are called in results, by their names: `aime24`, `d/sums.jsonl` → `sums`; where several would be
    called the same, with as many folders as tell them apart, `d-sums`. The order of the names does not matter.
    """
    paths = {name: Path(name).resolve() if Path(name).suffix in READERS else Path(name) for name in names}
    if len({*paths.values()}) < len(names):
        raise UsageError(f"{option}: {', '.join(names)} name one set twice. Name each once.")
    stems = {name: path.with_suffix("") if path.suffix in READERS else path for name, path in paths.items()}
    same = Counter(stems.values())  # of d/sums.csv beside d/sums.jsonl the suffix stays
    parts = {name: (stem if same[stem] == 1 else paths[name]).parts for name, stem in stems.items()}
    depths = dict.fromkeys(names, 1)
    while True:
        found = {
            name: re.sub(r"[^\w.-]+", "-", "-".join(parts[name][-depth:])).strip("-") for name, depth in depths.items()
        }
        count = Counter(found.values())
        alike = [name for name in names if count[found[name]] > 1]
        if not alike:
            return found
        if all(depths[name] == len(parts[name]) for name in alike):
            raise UsageError(
                f"{option}: the results of {' and '.join(alike)} would be called the same. Rename a file."
            )
        depths |= {name: min(depths[name] + 1, len(parts[name])) for name in alike}


def golds_of_file(name: str, prompts: PromptArguments, path: str | Path | None = None) -> Iterator[tuple[str, str]]:
    """Place and gold of each row of a data set that is a file, but for those of other tasks; nothing of others."""
    spec = BENCHMARKS.get(name)
    column, read = (spec.solution, spec.read_solution) if spec else (prompts.solution_column or "solution", gold_text)
    path = path or (name if Path(name).suffix in READERS else None)
    values = ((place, row.get(column)) for place, row in rows_of(path)) if path else ()
    return ((place, read(value)) for place, value in values if not is_missing(value) and value != "")


def is_ours(name: str) -> bool:
    """Whether the name is one of this package's, or of a local file: known without the Hub."""
    return name in {*BENCHMARKS, *TASKS} or Path(name).suffix in READERS or os.path.isfile(name)


def hub_id(name: str | None) -> str | None:
    """The data set's id on the Hub, if it is from there."""
    if name is None or is_ours(name):
        return BENCHMARKS[name].hub_id if name in BENCHMARKS else None
    bare = split_of(name)[0]
    return None if is_ours(bare) or os.path.exists(bare) else bare


def check_options(names: Sequence[str], prompts: PromptArguments) -> None:
    """Refuse options of procedural tasks where none of the data sets is one."""
    if prompts.dataset_options and not {name.partition(":")[0] for name in names} & {*TASKS}:
        raise UsageError(
            f"dataset_options={prompts.dataset_options} are for procedural tasks, which {', '.join(names)} is not. "
            f"The tasks: {', '.join(TASKS)}."
        )


def _from_hub(spec: Benchmark, streaming: bool) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    if not os.path.exists(spec.hub_id):
        check_hub_id(spec.hub_id)
    try:
        return load_dataset(spec.hub_id, spec.config, split=spec.split, streaming=streaming)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:  # not there, not reached, a script, damaged
        if spec in BENCHMARKS.values():
            raise NotReachedError(
                f"{error}. Download {spec.hub_id} elsewhere and pass its file as path=..., or --dataset_path."
            ) from error
        names = [*BENCHMARKS, *TASKS]
        mend = f"{nearest(spec.hub_id, names)}Names that are known: {', '.join(names)}."
        raise UsageError(f"dataset {spec.hub_id!r}: {error}. {mend}") from error


def _tell_unused(name: str, prompts: PromptArguments) -> None:
    plain = PromptArguments()
    unused = [each for each in ("template", "system_prompt") if getattr(prompts, each) != getattr(plain, each)]
    if unused:
        _logger.warning(
            "%s has the column 'prompt' and is taken as it is, without %s. To make prompts of another column, name it "
            "by problem_column.",
            *(name, " and ".join(unused)),
        )
