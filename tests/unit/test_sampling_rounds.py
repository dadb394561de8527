"""Dynamic sampling in numbers worked out by hand: how large the rounds are, and what is logged of them."""

import math

import pytest
import torch

from htpo_trl.training.collect import CollectedBatch, Round, collect, informative_groups
from htpo_trl.training.prompts import PromptStream

from ..training_run import prompts


def rounds(informative, *, wanted, group_size=2, max_rounds=10):
    """
    Sample in one process, where the n-th round has `informative[n]` informative groups, its first ones, and the others
    are all wrong. Returns how many groups each round generated, and the batch.
    """
    sizes = []

    def roll_out(inputs):
        n_groups = len(inputs) // group_size
        n_informative = informative[len(sizes)]
        sizes.append(n_groups)
        assert n_informative <= n_groups
        rewards = torch.zeros(n_groups, group_size)
        rewards[:n_informative, 0] = 1
        accuracy = rewards.mean(dim=1).tolist()
        return Round(list(range(len(inputs))), rewards.view(-1, 1), accuracy, [0 < share < 1 for share in accuracy])

    data = prompts(200)
    batch = collect(
        [row for row in data[:wanted] for _ in range(group_size)],
        roll_out=roll_out,
        draw=PromptStream(data[wanted:], 0).draw,
        exchange=list,
        group_size=group_size,
        rank=0,
        n_processes=1,
        max_rounds=max_rounds,
    )
    return sizes, batch


@pytest.mark.parametrize(
    ("informative", "sizes"),
    [
        # 6 of 12, and 6 more are needed: 12. Then 9 of 24, and 3 are needed: 8. Then 10 of 32, 2: ⌈6.4⌉.
        ([6, 3, 1, 2], [12, 12, 8, 7]),
        # A round that falls short by one of twelve: 1 / (11/12) -> 2. It brings nothing: 1 / (11/14) -> 2, and so on,
        # until 11 of 22 ask for 2, and 11 of 24 for 3.
        ([11, 0, 0, 0, 0, 0, 0, 1], [12, 2, 2, 2, 2, 2, 2, 3]),
        # No informative group so far counts as one: 12 · 12, but no more than the batch.
        ([0, 0, 12], [12, 12, 12]),
    ],
)
def test_sizes_of_rounds(informative, sizes):
    got, batch = rounds(informative, wanted=12)
    assert got == sizes
    assert batch.rounds == len(sizes)
    assert batch.missing == 0


def test_metrics_are_shares_of_all_groups_that_were_generated():
    """Ten groups of four, of which five are trained on; in two of the ten, no response was judged."""
    accuracy = [0.25, math.nan, 1.0, 0.0, 0.5, math.nan, 0.0, 0.75, 0.0, 0.5]
    batch = CollectedBatch(rows=[], rewards=torch.zeros(20, 1), rounds=3, accuracy=accuracy, informative=4, missing=1)
    assert batch.metrics(group_size=4) == {
        "rounds": 3,
        "frac_informative": 4 / 10,
        "frac_all_correct": 1 / 10,
        "frac_all_wrong": 3 / 10,
        "frac_unjudged": pytest.approx(2 / 10),
        "accuracy": pytest.approx(3.0 / 8),  # of those judged
        "generated_per_trained": 40 / 20,
        "frac_filled": 1 / 5,
    }


def test_metrics_where_nothing_was_judged():
    batch = CollectedBatch(
        rows=[], rewards=torch.zeros(8, 1), rounds=1, accuracy=[math.nan] * 2, informative=0, missing=2
    )
    metrics = batch.metrics(group_size=4)
    assert metrics["frac_informative"] == metrics["frac_all_correct"] == metrics["frac_all_wrong"] == 0
    assert math.isnan(metrics["accuracy"])
    assert metrics["frac_filled"] == metrics["frac_unjudged"] == 1


@pytest.mark.parametrize(
    ("rewards", "accuracy", "informative"),
    [
        ([[1.0], [0.0]], 0.5, True),
        ([[1.0], [0.5]], 1.0, False),  # both correct: a shaped reward does not rescue a group that was judged
        # Nobody judged: the sum of the weighted rewards decides.
        ([[math.nan, 1.0], [math.nan, 0.0]], math.nan, True),
        ([[math.nan, 1.0], [math.nan, 1.0]], math.nan, False),
        ([[1.0, 0.0], [0.0, 2.0]], math.nan, False),  # weights 2 and 1
        ([[1.0, 0.0], [0.0, 1.0]], math.nan, True),
        (
            [[0.0, math.nan], [math.nan, math.nan]],
            math.nan,
            False,
        ),  # a single reward, nothing to compare with
        ([[math.nan, math.nan], [math.nan, math.nan]], math.nan, False),
    ],
)
def test_what_is_informative(rewards, accuracy, informative):
    beside = [[5.0] * len(rewards[0])] * 2  # another group, all equal
    groups = torch.tensor(rewards + beside)
    weights = torch.tensor([2.0, 1.0])[: len(rewards[0])]
    assert informative_groups([accuracy, math.nan], groups, weights) == [informative, False]
