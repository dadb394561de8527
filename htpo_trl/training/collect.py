"""
The loop of dynamic sampling: generate until every group of the batch is informative. It knows nothing of TRL.

[`informative_groups`] is the criterion, [`collect`] the loop, on any number of processes: each decision is a function
of gathered verdicts, so that all processes take the same one.
"""

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .prompts import example_key


def informative_groups(accuracy: list[float], rewards: Tensor, weights: Tensor) -> list[bool]:
    """
    Which groups are kept: those whose responses have both verdicts, and, where none was judged (NaN), those whose
    rewards differ, so that there is something to learn.

    Args:
        accuracy (`list[float]`):
            Of each of the groups.
        rewards (`torch.Tensor` of shape (N, F)):
            Of each response, group by group, by F functions; NaN where one gave none.
        weights (`torch.Tensor` of shape (F,)):
            Of the functions, in the sum that is trained on.
    """
    total = (rewards * weights.to(rewards.device)).nansum(dim=1)
    nobody = rewards.isnan().all(dim=1)
    lowest = total.masked_fill(nobody, math.inf).view(len(accuracy), -1).amin(dim=1)
    highest = total.masked_fill(nobody, -math.inf).view(len(accuracy), -1).amax(dim=1)
    differ = (highest - lowest > 1e-8).tolist()  # TRL's bound of a spread that is none
    return [
        rewards_differ if math.isnan(share) else 0 < share < 1
        for share, rewards_differ in zip(accuracy, differ, strict=True)
    ]


class Round(NamedTuple):
    """Completions of one round of generation."""

    rows: list[Any]  #: one per completion of this process; may go to another process
    rewards: Tensor  #: (n_processes * len(rows), n_rewards), of all processes
    accuracy: list[float]  #: of each group of all processes; NaN where no response was judged
    informative: list[bool]  #: of each group, whether it is kept


class CollectedBatch(NamedTuple):
    """What [`collect`] returns."""

    rows: list[Any]  #: of this process
    rewards: Tensor  #: (n_processes * len(rows), n_rewards), of all processes
    rounds: int
    accuracy: list[float]  #: of every group that was generated, in order
    informative: int  #: of these groups
    missing: int  #: groups of the batch that are not informative

    def metrics(self, group_size: int) -> dict[str, float]:
        """
        `rounds` of generation; shares of the groups that were generated, `frac_informative`, `frac_all_correct`,
        `frac_all_wrong` and `frac_unjudged`, and their mean `accuracy`; `generated_per_trained` completions;
        `frac_filled`, the share of the groups trained on that are not informative.
        """
        n = len(self.accuracy)
        judged = [share for share in self.accuracy if not math.isnan(share)]
        return {
            "rounds": self.rounds,
            "frac_informative": self.informative / n,
            "frac_all_correct": judged.count(1.0) / n,
            "frac_all_wrong": judged.count(0.0) / n,
            "frac_unjudged": 1 - len(judged) / n,
            "accuracy": sum(judged) / len(judged) if judged else math.nan,
            "generated_per_trained": n * group_size / len(self.rewards),
            "frac_filled": self.missing * group_size / len(self.rewards),  # of the groups that are trained on
        }


def collect(
    first: list[dict[str, Any]],
    *,
    roll_out: Callable[[list[dict[str, Any]]], Round],
    draw: Callable[[int, set[str]], list[dict[str, Any]]],
    exchange: Callable[[list[Any]], list[Any]],
    group_size: int,
    rank: int,
    n_processes: int,
    max_rounds: int,
) -> CollectedBatch:
    """
    Generate until every group of the batch is informative, as [`informative_groups`] are.

    A later round generates as many groups as, at the share of informative ones so far, will fill the batch, but never
    more than the batch. The earliest informative groups are taken; only rows that end up on another process travel.

    Args:
        first (`list[dict]`):
            This process's rows of the batch: each prompt `group_size` times in a row, over all processes.
        roll_out (`Callable`):
            Generates and judges a completion for each row; called on every process with equally many rows.
        draw (`Callable`):
            Number, keys of the prompts that the batch holds → as many fresh examples, or fewer; the same everywhere.
        exchange (`Callable`):
            Concatenates the lists of all processes, in the order of their ranks.
        max_rounds (`int`):
            Rounds of generation, the first included.

    Returns:
        [`CollectedBatch`]: as many rows as `first`. Where the rounds or the prompts ran out before it was full,
        `missing` says how many of its groups are not informative; those are of the first round.
    """
    n_rows = len(first)
    wanted = n_rows * n_processes // group_size
    unit = n_processes // math.gcd(n_processes, group_size)  # groups that divide into equal numbers of rows
    accuracy, keys, rewards = list[float](), list[str](), list[Tensor]()  # of every group that was generated
    is_informative: list[bool] = []
    rows: dict[int, Any] = {}  # place among all completions -> row, of those of this process that may be taken
    inputs = first
    for n_rounds in range(1, max_rounds + 1):
        found = roll_out(inputs)
        begin = len(keys) * group_size + rank * len(inputs)
        accuracy += found.accuracy
        is_informative += found.informative
        keys += exchange([example_key(x) for x in inputs])[::group_size]
        rewards += found.rewards.split(group_size)
        for place, row in enumerate(found.rows, begin):
            if n_rounds == 1 or is_informative[place // group_size]:
                rows[place] = row
        informative = [i for i, kept in enumerate(is_informative) if kept]
        needed = wanted - len(informative)
        if needed <= 0 or n_rounds == max_rounds:
            break
        expected = math.ceil(needed * len(accuracy) / max(len(informative), 1))
        n_groups = min(math.ceil(expected / unit) * unit, wanted)
        examples = draw(n_groups, {keys[i] for i in informative})
        examples = examples[: len(examples) // unit * unit]
        if not examples:
            break
        per_process = len(examples) * group_size // n_processes
        places = range(rank * per_process, (rank + 1) * per_process)
        inputs = [copy.deepcopy(examples[place // group_size]) for place in places]

    spare = [i for i in range(wanted) if not is_informative[i]]  # of the first round
    groups = (informative + spare)[:wanted]
    taken = [group * group_size + j for group in groups for j in range(group_size)]
    held = {i: rows[place] for i, place in enumerate(taken) if place in rows}
    held.update(exchange([(place, row) for place, row in held.items() if place // n_rows != rank]))
    return CollectedBatch(
        rows=[held[place] for place in range(rank * n_rows, (rank + 1) * n_rows)],
        rewards=torch.cat([rewards[i] for i in groups]),
        rounds=n_rounds,
        accuracy=accuracy,
        informative=len(informative),
        missing=max(needed, 0),
    )
