"""
Dynamic sampling (DAPO, arXiv 2503.14476): a group whose responses are all right or all wrong carries no signal. It is
discarded, and fresh prompts are drawn until every group of the batch is informative.

[`collect`] is the loop, on any number of processes: each decision is a function of gathered verdicts, so all processes
take the same one; [`PromptStream`] is where the fresh prompts come from. Nothing here knows of TRL.
"""

import copy
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sized
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class SamplingExhaustedError(RuntimeError):
    """No full batch of informative groups was found."""


class PromptStream:
    """
    An endless, seeded walk through the training data, apart from the trainer's own.

    Its order is a function of the data and the seed, so that `drawn`, the number of examples taken so far, is all its
    state: set it to go on from there.

    Args:
        dataset (map-style dataset or [`~datasets.IterableDataset`]):
            The training data. Going on in an iterable one reads the examples before `drawn` again.
        seed (`int`):
            Seed of the order, which is another one in each pass.
        shuffle (`bool`, *optional*, defaults to `True`):
            Whether to shuffle: a permutation of a map-style data set, a buffered shuffle of an iterable one.
    """

    def __init__(self, dataset: Any, seed: int, shuffle: bool = True) -> None:
        self.dataset, self.seed, self.shuffle = dataset, seed, shuffle
        self._is_map = isinstance(dataset, Sized)
        self.drawn = 0
        self._position = 0  # of the open walk; where it is not `drawn`, the walk is opened anew
        self._walk: Iterator[tuple[int, Any]] | None = None

    def draw(self, n: int, held: set[str]) -> list[dict[str, Any]]:
        """
        The next `n` examples whose prompts differ from each other and are not in `held` (keys by [`prompt_key`]).
        Fewer, if a whole pass through the data offers no more.
        """
        if self._walk is None or self._position != self.drawn:
            self._walk = itertools.islice(self._endless(), self.drawn, None)
        held = set(held)
        examples: list[dict[str, Any]] = []
        last_pass: int | None = None
        while len(examples) < n:
            current_pass, item = next(self._walk)
            self.drawn += 1
            if last_pass is None:
                last_pass = current_pass + 1  # a whole pass, wherever this one began
            elif current_pass > last_pass:
                break
            example = self.dataset[item] if self._is_map else item
            if (key := prompt_key(example["prompt"])) not in held:
                held.add(key)
                examples.append(example)
        self._position = self.drawn
        return examples

    def _endless(self) -> Iterator[tuple[int, Any]]:
        """(number of the pass, index or example), for ever."""
        stream = self.dataset.shuffle(seed=self.seed) if self.shuffle and not self._is_map else self.dataset
        for n_pass in itertools.count():
            items: Any = range(len(self.dataset)) if self._is_map else stream
            if self.shuffle and self._is_map:
                items = np.random.default_rng([self.seed, n_pass]).permutation(items).tolist()
            elif self.shuffle:
                stream.set_epoch(n_pass)
            item = None
            for item in items:
                yield n_pass, item
            if item is None:
                raise ValueError("The training data is empty.")


def prompt_key(prompt: Any) -> str:
    """What makes two prompts, text or conversations, the same."""
    return json.dumps(prompt, sort_keys=True)


def split_rows(columns: tuple, n: int) -> list[tuple]:
    """The rows of a table of `n` rows whose columns are lists, or else the same for every row."""
    return [tuple(column[i] if _is_per_row(column, n) else column for column in columns) for i in range(n)]


def join_rows(rows: list[tuple], like: tuple, n_like: int) -> tuple:
    """The table of these rows, with the columns of `like`, a table of `n_like` rows."""
    return tuple([row[k] for row in rows] if _is_per_row(column, n_like) else column for k, column in enumerate(like))


def _is_per_row(column: Any, n: int) -> bool:
    return isinstance(column, list) and len(column) == n


class Rollouts(NamedTuple):
    """Completions of one round."""

    rows: list[Any]  #: one per completion of this process; may go to another process
    rewards: Tensor  #: (n_processes * len(rows), n_rewards), of all processes
    accuracy: list[float]  #: of each group of all processes; NaN where no response was judged


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
    missing: int  #: groups of the batch that are not informative

    def metrics(self, group_size: int) -> dict[str, float]:
        """What the sampling was like; shares of the groups that were generated unless said otherwise."""
        n = len(self.accuracy)
        judged = [share for share in self.accuracy if not math.isnan(share)]
        return {
            "rounds": self.rounds,
            "frac_informative": sum(0 < share < 1 for share in judged) / n,
            "frac_all_correct": judged.count(1.0) / n,
            "frac_all_wrong": judged.count(0.0) / n,
            "accuracy": sum(judged) / len(judged) if judged else math.nan,
            "generated_per_trained": n * group_size / len(self.rewards),
            "frac_filled": self.missing * group_size / len(self.rewards),  # of the groups that are trained on
        }


def collect(
    first: list[dict[str, Any]],
    *,
    roll_out: Callable[[list[dict[str, Any]]], Rollouts],
    draw: Callable[[int, set[str]], list[dict[str, Any]]],
    exchange: Callable[[list[Any]], list[Any]],
    group_size: int,
    rank: int,
    n_processes: int,
    max_rounds: int,
) -> Batch:
    """
    Generate until every group of the batch is informative, that is, has responses of both verdicts.

    A later round generates as many groups as, at the share of informative ones so far, will fill the batch, but never
    more than the batch. The earliest informative groups are taken; only rows that end up on another process travel.

    Args:
        first (`list[dict]`):
            This process's rows of the batch: each prompt `group_size` times in a row, over all processes.
        roll_out (`Callable`):
            Generates and judges a completion for each row; called on every process with equally many rows.
        draw (`Callable`):
            Takes a number and the keys of the prompts that the batch holds; returns that many fresh examples, or
            fewer if there are no more. The same on every process.
        exchange (`Callable`):
            Concatenates the lists of all processes, in the order of their ranks.
        group_size (`int`):
            Number of responses to each prompt.
        rank, n_processes (`int`):
            This process, and how many there are.
        max_rounds (`int`):
            Rounds of generation, the first included.

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
        rollouts = roll_out(inputs)
        keys = exchange([prompt_key(x["prompt"]) for x in inputs])[::group_size]
        accuracy += rollouts.accuracy
        offset = rank * len(inputs)
        for i, (key, share) in enumerate(zip(keys, rollouts.accuracy, strict=True)):
            places = range(max(i * group_size, offset), min((i + 1) * group_size, offset + len(inputs)))
            group = _Group(
                rows={place - i * group_size: rollouts.rows[place - offset] for place in places},
                rewards=rollouts.rewards[i * group_size : (i + 1) * group_size],
                key=key,
            )
            if 0 < share < 1:
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
    rows: dict[int, Any] = {}
    leaving = []
    for i, group in enumerate(groups):
        for j, row in group.rows.items():
            place = i * group_size + j
            if place // n_rows == rank:
                rows[place] = row
            else:
                leaving.append((place, row))
    rows.update((place, row) for place, row in exchange(leaving) if place // n_rows == rank)
    return Batch(
        rows=[rows[place] for place in range(rank * n_rows, (rank + 1) * n_rows)],
        rewards=torch.cat([group.rewards for group in groups]),
        rounds=n_rounds,
        accuracy=accuracy,
        missing=max(needed, 0),
    )
