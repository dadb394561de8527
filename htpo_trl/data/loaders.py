"""Data sets as the trainer reads them: sets of the Hub, local files, procedural tasks.

Every loader returns the columns `prompt`, `solution` (the bare answer, for the verifier) and `problem` (the bare
text, which makes two rows the same problem, white space aside). No text of data or model is ever evaluated.
"""

import hashlib
import logging
import math
import random
from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate, combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .benchmarks import BENCHMARKS, TEMPLATES, Benchmark, as_answer, as_text
from .countdown import Split, problems, solutions
from .files import Row, rows_of


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_logger = logging.getLogger(__name__)

#: The tasks of reasoning-gym whose answer is one number and which were recomputed here without a difference. Answers
#: of others can be judged by the package's own scorers only, several of which evaluate the model's text (`eval`,
#: `sympy.parse_expr`); some are wrong (`basic_arithmetic` divides by flooring). See `docs/data.md`.
PROCEDURAL_TASKS = (
    *("binary_alternation", "chain_sum", "count_bits", "count_primes", "decimal_chain_sum", "dice", "gcd"),
    *("largest_island", "lcm", "letter_counting", "maze", "products", "rotten_oranges", "self_reference"),
    "simple_equations",
)


def load(
    name: str | Benchmark,
    *,
    path: str | Path | None = None,
    template: str = "boxed",
    system_prompt: str | None = None,
    chat: bool = True,
) -> "Dataset":
    """
    Load a data set of the Hub. Rows that repeat a problem are dropped, and so are all rows of a problem that has
    conflicting answers; the log says how many.

    Args:
        name (`str` or `Benchmark`):
            A key of `BENCHMARKS`, such as `"dapo-math-17k"`, `"aime24"` or `"math500"`, or where another one is.
        path (`str` or `Path`, *optional*):
            Downloaded copy to read instead of the Hub: `.jsonl`, `.csv` or `.parquet`, with the Hub's columns.
        template (`str`, *optional*, defaults to `"boxed"`):
            What surrounds the problem: `"boxed"` (asks for `\\boxed{}`), `"answer"` (DAPO's, asks for a last line
            `Answer: ...`), `"none"`, or your own text with `{problem}` in it.
        system_prompt (`str`, *optional*):
            System message; without chat, a paragraph before the prompt.
        chat (`bool`, *optional*, defaults to `True`):
            Whether prompts are lists of messages, for the model's chat template, or plain strings, for base models.

    Returns:
        `datasets.Dataset` with the columns `prompt`, `solution` and `problem`.

    Raises:
        `ValueError`: for an unknown name or template, and for a bad file or row, with file, line and column.
        `ConnectionError`: if the Hub cannot be reached.

    Example:

    ```python
    from htpo_trl.data import check_disjoint, load

    train, test = load("dapo-math-17k", template="answer"), load("aime24", template="answer")
    check_disjoint({"train": train, "aime24": test})
    ```
    """
    if not isinstance(name, Benchmark) and name not in BENCHMARKS:
        raise ValueError(f"name={name!r} is none of {', '.join(BENCHMARKS)}. Your own files: load_file(path).")
    spec = name if isinstance(name, Benchmark) else BENCHMARKS[name]
    rows = _hub_rows(spec) if path is None else rows_of(Path(path))
    return _build(path or spec.hub_id, _pairs(rows, spec), template, system_prompt, chat)


def load_file(
    path: str | Path,
    *,
    problem_column: str = "problem",
    solution_column: str = "solution",
    template: str = "boxed",
    system_prompt: str | None = None,
    chat: bool = True,
) -> "Dataset":
    """
    Load problems of your own from a `.jsonl`, `.csv` or `.parquet` file. The solution is the bare answer: a text, a
    number or a list of them. Duplicates, the other options and errors are those of [`load`].

    Args:
        path (`str` or `Path`):
            The file, in UTF-8.
        problem_column (`str`, *optional*, defaults to `"problem"`):
            Column with the problem.
        solution_column (`str`, *optional*, defaults to `"solution"`):
            Column with the answer.
    """
    spec = Benchmark("", None, "", problem_column, solution_column)
    return _build(path, _pairs(rows_of(Path(path)), spec), template, system_prompt, chat)


def load_procedural(
    task: str,
    *,
    size: int = 1000,
    seed: int = 0,
    template: str = "boxed",
    system_prompt: str | None = None,
    chat: bool = True,
    **config: Any,
) -> "Dataset":
    """
    Generate problems of a reasoning-gym task (extra `procedural`), the same ones at every call.

    Args:
        task (`str`):
            One of `PROCEDURAL_TASKS`, whose answer is one number, so that the verifier can judge it.
        size (`int`, *optional*, defaults to `1000`):
            Number of problems to generate; repeated ones are dropped.
        seed (`int`, *optional*, defaults to `0`):
            Seed. Two seeds give different problems, but small tasks repeat some: use [`split`] to hold out.
        config:
            Options of the task, such as `max_terms=3` of `chain_sum`. The other options are those of [`load`].
    """
    if task not in PROCEDURAL_TASKS:
        raise ValueError(
            f"task={task!r} is not among those whose answer is one number, known to be right, which the verifier can "
            f"judge: {', '.join(PROCEDURAL_TASKS)}."
        )
    try:
        import reasoning_gym
    except ImportError as error:
        raise ImportError("load_procedural needs reasoning-gym: pip install 'htpo_trl[procedural]'.") from error
    # reasoning-gym seeds problem i with seed + i: sets of neighbouring seeds would be the same but for a shift by one.
    start = random.Random(seed).getrandbits(32)
    entries = reasoning_gym.create_dataset(task, size=size, seed=start, **config)
    pairs = ((as_text(entry["question"]), as_answer(entry["answer"])) for entry in entries)
    return _build(task, pairs, template, system_prompt, chat)


def load_countdown(subset: Split, *, seed: int = 0) -> "Dataset":
    """
    The laptop task, as plain prompts for `htpo_trl.data.countdown.countdown_reward`. A problem has many solutions: the
    column `solution` holds the first of them, to look at and not to compare with.

    Args:
        subset (`str`):
            `"train"`, `"validation"` or `"test"`.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the order in which each prompt gives its numbers.
    """
    from datasets import Dataset

    rng = random.Random(seed)
    return Dataset.from_list(
        [
            {
                "prompt": problem.prompt(rng),
                "solution": solutions(problem)[0],
                "problem": f"{','.join(map(str, problem.numbers))}>{problem.target}",
            }
            for problem in problems(subset)
        ]
    )


def split(dataset: "Dataset", shares: Mapping[str, float], seed: int = 0) -> "DatasetDict":
    """
    Split by a hash of the problem's text: a problem is in the same split whatever the order of the rows and whatever
    other rows there are, so that data can grow without test problems wandering into training.

    Args:
        dataset (`datasets.Dataset`):
            Data set with the column `problem`.
        shares (`dict[str, float]`):
            Share of each split, such as `{"train": 0.9, "test": 0.1}`; they add up to 1 and are met on average.
        seed (`int`, *optional*, defaults to `0`):
            Another seed, another split.
    """
    from datasets import DatasetDict

    if not math.isclose(sum(shares.values()), 1) or min(shares.values()) <= 0:
        raise ValueError(f"shares={dict(shares)} must be positive and add up to 1.")
    names, bounds = list(shares), list(accumulate(shares.values()))[:-1]
    members: dict[str, list[int]] = {name: [] for name in names}
    for row, key in enumerate(_keys(dataset)):
        digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
        members[names[bisect(bounds, int.from_bytes(digest[:8]) / 2**64)]].append(row)
    for name, rows in members.items():
        if not rows:
            raise ValueError(f"shares={dict(shares)} leave no row of {len(dataset)} for {name!r}: raise its share.")
    result = DatasetDict({name: dataset.select(rows) for name, rows in members.items()})
    check_disjoint(result)
    return result


def check_disjoint(datasets: Mapping[str, "Dataset"]) -> None:
    """
    Raise a `ValueError` if two data sets share a problem, by its exact text, white space aside. The same problem in
    other words is not found.

    Args:
        datasets (`dict[str, datasets.Dataset]`):
            Names, for the error, and data sets with the column `problem`.
    """
    keys = {name: set(_keys(dataset)) for name, dataset in datasets.items()}
    for first, second in combinations(keys, 2):
        if shared := keys[first] & keys[second]:
            raise ValueError(
                f"{first!r} ({len(keys[first])} problems) and {second!r} ({len(keys[second])}) share {len(shared)}, "
                f"such as {min(shared)!r:.200}. Remove them from one: exclude({first}, {second})."
            )


def exclude(dataset: "Dataset", *others: "Dataset") -> "Dataset":
    """The rows of a data set whose problem is in none of the others, as [`check_disjoint`] compares them."""
    taken = {key for other in others for key in _keys(other)}
    return dataset.select([row for row, key in enumerate(_keys(dataset)) if key not in taken])


def _key(problem: str) -> str:
    return " ".join(problem.split())


def _keys(dataset: "Dataset") -> Iterator[str]:
    if "problem" not in dataset.column_names:
        raise ValueError(f"There is no column 'problem', only {dataset.column_names}: load the data by htpo_trl.data.")
    return map(_key, dataset["problem"])


def _build(
    source: str | Path, pairs: Iterable[tuple[str, str]], template: str, system_prompt: str | None, chat: bool
) -> "Dataset":
    from datasets import Dataset

    text = TEMPLATES.get(template, template)
    if "{problem}" not in text:
        raise ValueError(f"template={template!r} is none of {', '.join(TEMPLATES)} and has no {{problem}} in it.")

    def prompt(problem: str) -> str | list[dict[str, str]]:
        content = text.replace("{problem}", problem)  # not format(): LaTeX is full of braces
        if not chat:
            return f"{system_prompt}\n\n{content}" if system_prompt else content
        system = [{"role": "system", "content": system_prompt}] if system_prompt else []
        return [*system, {"role": "user", "content": content}]

    rows, found, conflicts = 0, dict[str, tuple[str, str]](), set[str]()
    for problem, solution in pairs:
        rows += 1
        key = _key(problem)
        if found.setdefault(key, (problem, solution))[1] != solution:
            conflicts.add(key)  # which answer is right cannot be known here
    kept = [pair for key, pair in found.items() if key not in conflicts]
    if not kept:
        raise ValueError(f"{source}: no problem in {rows} rows, of which {len(conflicts)} have conflicting answers.")
    if len(kept) < rows:
        _logger.warning(
            "%s: %d rows, %d problems. Dropped: %d rows that repeat a problem, %d problems with conflicting answers.",
            *(source, rows, len(kept), rows - len(found), len(conflicts)),
        )
    return Dataset.from_list([{"prompt": prompt(p), "solution": solution, "problem": p} for p, solution in kept])


def _pairs(rows: Iterable[Row], spec: Benchmark) -> Iterator[tuple[str, str]]:
    """Problem and solution of every row; an error says where the row stands."""
    for place, row in rows:
        values = []
        for column, read in ((spec.problem, spec.read_problem), (spec.solution, spec.read_solution)):
            if column not in row:
                raise ValueError(f"{place}: no column {column!r}, only {', '.join(map(repr, row))}.")
            try:
                values.append(read(row[column]))
            except ValueError as error:
                raise ValueError(f"{place}, column {column!r}: the value {error}. Correct or remove it.") from None
        yield values[0], values[1]


def _hub_rows(spec: Benchmark) -> Iterator[Row]:
    from datasets import load_dataset

    try:
        dataset = load_dataset(spec.hub_id, spec.config, split=spec.split)
    except ConnectionError as error:
        raise ConnectionError(
            f"{error}. Download {spec.hub_id} elsewhere and pass its file as path=..., or --dataset_path."
        ) from error
    if {spec.problem, spec.solution} <= set(dataset.column_names):  # otherwise row 1 says which there are
        dataset = dataset.select_columns([spec.problem, spec.solution])
    rows = (row for table in dataset.with_format("arrow").iter(1000) for row in table.to_pylist())
    return ((f"{spec.hub_id}, row {number}", row) for number, row in enumerate(rows, 1))
