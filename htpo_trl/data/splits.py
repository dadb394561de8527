"""
Splits and overlaps, by the text of the problem, white space aside, or, without the column `problem`, of the prompt. A
problem in other words is not found.
"""

import hashlib
import math
from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate, combinations
from typing import TYPE_CHECKING, Any

from ..utils import UsageError


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


def split(dataset: "Dataset", shares: Mapping[str, float], seed: int = 0) -> "DatasetDict":
    """
    Split by a hash of the problem's text: a problem is in the same split whatever the order of the rows and whatever
    other rows there are, so that data can grow without test problems wandering into training.

    Args:
        dataset (`datasets.Dataset`):
            Data set with the column `problem`, or else `prompt`.
        shares (`dict[str, float]`):
            Share of each split, such as `{"train": 0.9, "test": 0.1}`; they add up to 1 and are met on average.
        seed (`int`, *optional*, defaults to `0`):
            Another seed, another split.
    """
    from datasets import DatasetDict

    if not math.isclose(sum(shares.values()), 1) or min(shares.values()) <= 0:
        raise UsageError(f"shares={dict(shares)} must be positive and add up to 1.")
    names, bounds = list(shares), list(accumulate(shares.values()))[:-1]
    members: dict[str, list[int]] = {name: [] for name in names}
    for row, key in enumerate(_keys(dataset, _column([dataset]))):
        digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
        members[names[bisect(bounds, int.from_bytes(digest[:8]) / 2**64)]].append(row)
    for name, rows in members.items():
        if not rows:
            raise UsageError(f"shares={dict(shares)} leave no row of {len(dataset)} for {name!r}: raise its share.")
    return DatasetDict({name: dataset.select(rows) for name, rows in members.items()})


def check_disjoint(datasets: Mapping[str, "Dataset"]) -> None:
    """Raise a [`UsageError`] if two of the data sets, which have the same column and a name, share a problem."""
    column = _column(datasets.values())
    keys = {name: set(_keys(dataset, column)) for name, dataset in datasets.items()}
    for first, second in combinations(keys, 2):
        if shared := keys[first] & keys[second]:
            raise UsageError(
                f"{first!r} ({len(keys[first])} problems) and {second!r} ({len(keys[second])}) share {len(shared)}, "
                f"such as {min(shared)!r:.200}. Remove them from one: exclude({first}, {second})."
            )


def exclude(dataset: "Dataset", *others: "Dataset") -> "Dataset":
    """The rows of a data set, or a stream, whose problem is in none of the others, as [`check_disjoint`] compares."""
    column = _column([dataset, *others])
    taken = {key for other in others for key in _keys(other, column)}
    if not hasattr(dataset, "__len__"):  # a stream: row by row, as it comes
        return dataset.filter(lambda row: key_of(row[column]) not in taken)
    return dataset.select([row for row, key in enumerate(_keys(dataset, column)) if key not in taken])


def key_of(problem: Any) -> str:
    """What two rows with the same problem have in common. Of a conversation, what the user said last."""
    if not isinstance(problem, str):
        content = next((m["content"] for m in reversed(problem) if m["role"] == "user"), "")
        problem = content if isinstance(content, str) else " ".join(part.get("text") or "" for part in content)
    return " ".join(problem.split())


def _column(datasets: Iterable["Dataset"]) -> str:
    """What all of them can be compared by. Beside a picture the text of a prompt is not the problem."""
    names = [each.column_names or [*next(iter(each), ())] for each in datasets]  # a stream may not know them
    for column in ("problem", "prompt"):
        if all(column in each and (column == "problem" or not {"image", "images"} & {*each}) for each in names):
            return column
    raise UsageError(f"No column 'problem' or 'prompt' is in all of {names}: load the data by htpo_trl.data.")


def _keys(dataset: "Dataset", column: str) -> Iterator[str]:
    return map(key_of, dataset[column])
