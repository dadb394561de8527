"""Where the fresh prompts of dynamic sampling come from: its orders, and going on at another place."""

from itertools import combinations

import pytest
from datasets import Dataset, IterableDataset

from htpo_trl.training.sampling import PromptStream

from ..training_run import prompts


def stream(n, *, seed=0, iterable=False, shuffle=True):
    data = prompts(n)
    dataset = IterableDataset.from_generator(lambda: iter(data)) if iterable else Dataset.from_list(data)
    return PromptStream(dataset, seed, shuffle)


def numbers(walk, n):
    return [example["number"] for example in walk.draw(n, set())]


@pytest.mark.parametrize("iterable", [False, True])
class TestPromptStream:
    def test_no_two_passes_of_neighbouring_seeds_have_the_same_order(self, iterable):
        orders = {}
        for seed in range(3):
            walk = stream(12, seed=seed, iterable=iterable)
            orders |= {(seed, n_pass): numbers(walk, 12) for n_pass in range(3)}
        for (one, order), (other, other_order) in combinations(orders.items(), 2):
            assert order != other_order, f"{one} and {other} (seed, pass)"

    def test_goes_on_elsewhere_while_a_walk_is_open(self, iterable):
        """A run that is resumed in the process that it was interrupted in has the stream of before."""
        walk = stream(7, iterable=iterable, shuffle=False)
        assert numbers(walk, 5) == [0, 1, 2, 3, 4]
        walk.drawn = 2
        assert numbers(walk, 3) == [2, 3, 4]
        walk.drawn = 8  # the second of the next pass
        assert numbers(walk, 2) == [1, 2]
        assert walk.drawn == 10
        walk.drawn = 0
        assert numbers(walk, 1) == [0]

    def test_goes_back_in_a_shuffled_walk(self, iterable):
        walk = stream(7, iterable=iterable)
        first, second = numbers(walk, 7), numbers(walk, 7)
        walk.drawn = 3
        assert numbers(walk, 4) == first[3:]
        assert numbers(walk, 7) == second
