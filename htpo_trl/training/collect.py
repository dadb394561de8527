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


class _Group(NamedTuple):
    rows: dict[int, Any]  # place in the group -> row, of those that this process holds
    rewards: Tensor  # (group_size, n_rewards)
    key: str


class Batch(NamedTuple):
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
) -> Batch:
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
        group_size, rank, n_processes, max_rounds (`int`):
            Responses to each prompt; this process, and how many there are; rounds of generation, the first included.

    Returns:
        [`Batch`]: as many rows as `first`. Where the rounds or the prompts ran out before it was full, `missing`
        says how many of its groups are not informative; those are of the first round.
    """
    n_rows = len(first)
    wanted = n_rows * n_processes // group_size
    unit = n_processes // math.gcd(n_processes, group_size)  # groups that divide into equal numbers of rows
    informative: list[_Group] = []
    spare: list[_Group] = []
    accuracy: list[float] = []
    inputs = first
    for n_rounds in range(1, max_rounds + 1):
        found = roll_out(inputs)
        keys = exchange([example_key(x) for x in inputs])[::group_size]
        accuracy += found.accuracy
        offset = rank * len(inputs)
        for i, (key, is_informative) in enumerate(zip(keys, found.informative, strict=True)):
            places = range(max(i * group_size, offset), min((i + 1) * group_size, offset + len(inputs)))
            group = _Group(
                rows={place - i * group_size: found.rows[place - offset] for place in places},
                rewards=found.rewards[i * group_size : (i + 1) * group_size],
                key=key,
            )
            if is_informative:
                informative.append(group)
            elif n_rounds == 1:
                spare.append(group)
        needed = wanted - len(informative)
        if needed <= 0 or n_rounds == max_rounds:
            break
        expected = math.ceil(needed * len(accuracy) / max(len(informative), 1))
        n_groups = min(math.ceil(expected / unit) * unit, wanted)
        examples = draw(n_groups, {group.key for group in informative})
        examples = examples[: len(examples) // unit * unit]
        if not examples:
            break
        per_process = len(examples) * group_size // n_processes
        places = range(rank * per_process, (rank + 1) * per_process)
        inputs = [copy.deepcopy(examples[place // group_size]) for place in places]

    groups = (informative + spare)[:wanted]
    held = {i * group_size + j: row for i, group in enumerate(groups) for j, row in group.rows.items()}
    held.update(exchange([(place, row) for place, row in held.items() if place // n_rows != rank]))
    return Batch(
        rows=[held[place] for place in range(rank * n_rows, (rank + 1) * n_rows)],
        rewards=torch.cat([group.rewards for group in groups]),
        rounds=n_rounds,
        accuracy=accuracy,
        informative=len(informative),
        missing=max(needed, 0),
    )
