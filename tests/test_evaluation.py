from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from htpo_trl.evaluation import mean_with_interval, pass_at_k


@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_hit(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    samples = [i < c for i in range(n)]
    share = np.mean([any(subset) for subset in combinations(samples, k)])
    assert pass_at_k(n, [c], k)[0] == pytest.approx(share)


def test_pass_at_k_with_large_n():
    assert pass_at_k(1024, [3], 100)[0] == pytest.approx(1 - comb(1021, 100) / comb(1024, 100))
    assert pass_at_k(64, [0, 16, 64], 1).tolist() == [0.0, 0.25, 1.0]
    assert pass_at_k(64, [0, 1, 64], 64).tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(("n", "correct", "k"), [(4, [1], 5), (4, [1], 0), (4, [5], 1), (4, [-1], 1)])
def test_impossible_counts_are_refused(n, correct, k):
    with pytest.raises(ValueError, match="must lie in"):
        pass_at_k(n, correct, k)


def test_interval_covers_the_mean_about_95_times_in_100():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        _, low, high = mean_with_interval(rng.beta(2, 5, size=60), resamples=1000, seed=seed)
        hits += low <= 2 / 7 <= high
    assert 180 <= hits <= 199
