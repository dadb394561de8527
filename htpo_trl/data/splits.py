"""Splits and overlaps, by the text of the problem, white space aside. A problem in other words is not found."""

import hashlib
import math
from bisect import bisect
from collections.abc import Iterator, Mapping
from itertools import accumulate, combinations
from typing import TYPE_CHECKING

from ..utils import UsageError


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


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
        raise UsageError(f"shares={dict(shares)} must be positive and add up to 1.")
    names, bounds = list(shares), list(accumulate(shares.values()))[:-1]
    members: dict[str, list[int]] = {name: [] for name in names}
    for row, key in enumerate(_keys(dataset)):
        digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
        members[names[bisect(bounds, int.from_bytes(digest[:8]) / 2**64)]].append(row)
    for name, rows in members.items():
        if not rows:
            raise UsageError(f"shares={dict(shares)} leave no row of {len(dataset)} for {name!r}: raise its share.")
    return DatasetDict({name: dataset.select(rows) for name, rows in members.items()})


def check_disjoint(datasets: Mapping[str, "Dataset"]) -> None:
    """Raise a [`UsageError`] if two of the data sets, which have the column `problem` and a name, share a problem."""
    keys = {name: set(_keys(dataset)) for name, dataset in datasets.items()}
    for first, second in combinations(keys, 2):
        if shared := keys[first] & keys[second]:
            raise UsageError(
                f"{first!r} ({len(keys[first])} problems) and {second!r} ({len(keys[second])}) share {len(shared)}, "
                f"such as {min(shared)!r:.200}. Remove them from one: exclude({first}, {second})."
            )


def exclude(dataset: "Dataset", *others: "Dataset") -> "Dataset":
    """The rows of a data set whose problem is in none of the others, as [`check_disjoint`] compares them."""
    taken = {key for other in others for key in _keys(other)}
    return dataset.select([row for row, key in enumerate(_keys(dataset)) if key not in taken])


def key_of(problem: str) -> str:
    """What two rows with the same problem have in common."""
    return " ".join(problem.split())


def _keys(dataset: "Dataset") -> Iterator[str]:
    if "problem" not in dataset.column_names:
        raise UsageError(f"There is no column 'problem', only {dataset.column_names}: load the data by htpo_trl.data.")
    return map(key_of, dataset["problem"])
