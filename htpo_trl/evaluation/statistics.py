"""
What n samples per problem say: pass@k, maj@k, bootstrap intervals and a paired test.

Each metric is a number per problem; intervals and tests then treat problems as the independent units, since samples of
one problem are not. Where there are several runs, their seeds are the units: intervals and tests by Student's t.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats


#: Means of shares that differ by no more are equal.
ROUND_OFF = 1e-12
_legendre = cache(special.roots_legendre)  # nodes and weights of Gauss-Legendre quadrature over -1..1


def pass_at_k(n: int, correct: ArrayLike, k: int) -> NDArray[np.float64]:
    """
    Unbiased estimate of the chance that at least one of k samples is correct: 1 - C(n-c, k)/C(n, k) (Chen et al. 2021,
    arXiv 2107.03374). With k = 1 it is the mean accuracy over the n samples, mean@n.

    Args:
        n, k (`int`):
            Samples per problem, and how many of them are tried, at most `n`.
        correct (array-like of `int`, shape (P,)):
            Number of correct samples c of each problem.

    Returns:
        Array of shape (P,), one estimate per problem.
    """
    _check_budget(n, k)
    correct = np.asarray(correct)
    if correct.size and not (correct.min() >= 0 and correct.max() <= n):
        raise ValueError(f"correct must lie in 0..n={n}, got {correct.min()}..{correct.max()}.")
    # C(n-c, k)/C(n, k) = Π_{j<k} (n-c-j)/(n-j): no large binomials; the product is 0 as soon as n-c < k.
    drawn = np.arange(k)
    return 1.0 - np.prod(np.clip(n - correct[:, None] - drawn, 0, None) / (n - drawn), axis=1)


def majority_at_k(n: int, correct: int, rivals: Sequence[int], k: int) -> float:
    """
    Chance that the most frequent answer among k of the n samples is the correct one: maj@k, the accuracy of
    self-consistency (Wang et al. 2022, arXiv 2203.11171), exact over all C(n, k) subsets. Answers that tie for
    the most votes share the win evenly; where nobody votes nothing is right.

    Args:
        n, k (`int`):
            Samples of the problem, and how many of them are drawn to vote, at most `n`.
        correct (`int`), rivals (`Sequence[int]`):
            Number of samples with the correct answer, and with each of the wrong ones. The others of `n` do not vote.
    """
    _check_budget(n, k)
    if correct < 0 or correct + sum(rivals) > n or min(rivals, default=1) < 1:
        raise ValueError(
            f"correct={correct} and rivals={list(rivals)} must be counts of at most n={n} samples in all."
        )
    if k == n:  # there is one subset
        wins = correct >= max(rivals, default=1)
        return round(1 / (1 + list(rivals).count(correct)), 12) if wins else 0.0
    sizes, times = np.unique(np.array(rivals, dtype=int), return_counts=True)  # rivals of one size are alike
    # Whoever has more votes than any rival can have wins.
    largest = int(sizes[-1]) if len(sizes) else 0
    won = stats.hypergeom.sf(largest, n, correct, k)
    # A random subset of size k is what independent draws of every sample, with chance k/n, leave given that k are
    # drawn: so the number drawn of each answer is binomial. Numbers add where generating functions multiply, which is
    # done at roots of unity, as an FFT does. As many as it takes for the chance to draw k + n_roots to be nothing.
    p = k / n
    n_roots = min(int(stats.binom.isf(1e-19, n, p)) + 2, n + 1)
    roots = np.exp(-2j * np.pi / n_roots * np.arange(n_roots // 2 + 1))  # half of them, what is transformed is real
    votes = np.arange(min(correct, k, largest) + 1)
    drawn = stats.binom.pmf(votes, np.array([correct, *sizes])[:, None], p)
    chances, drawn = drawn[0], drawn[1:]
    fewer = np.zeros((len(sizes), len(roots)), dtype=complex)  # of a rival that gets fewer votes than the correct one
    total = 0.0
    for v in votes.tolist():
        ties = drawn[:, v, None] * roots**v  # (R, N), of one that gets as many
        threats = sizes >= v
        if v and chances[v] > 1e-19:
            others = n - correct - sizes[threats] @ times[threats]  # may be drawn as they like
            # Among j rivals that tie, the correct answer wins 1/(1+j) = ∫ y^j dy over 0..1; the quadrature is exact,
            # since the integrand is a polynomial in y, whose degree is the number of rivals that can have v votes.
            nodes, weights = _legendre(min(times[threats].sum(), (k - v) // v) // 2 + 1)
            ways = np.tile((1 - p + p * roots) ** others, (len(nodes), 1))  # (nodes, N)
            for less, tie, number in zip(fewer[threats], ties[threats], times[threats], strict=True):
                ways *= (less + (nodes[:, None] + 1) / 2 * tie) ** number
            total += chances[v] * np.fft.irfft(weights / 2 @ ways, n_roots)[k - v]
        fewer += ties
    # Round-off is below 1e-13; without it equal chances are equal, and certain ones are 1.
    return round(float(won + total / stats.binom.pmf(k, n, p)), 12)


def _check_budget(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k={k} must lie in 1..n={n}: draw more samples per problem, or ask for a smaller k.")


def mean_with_interval(values: ArrayLike, resamples: int = 10_000, seed: int = 0) -> tuple[float, float, float]:
    """Mean over problems with its 95% percentile-bootstrap interval, `(mean, low, high)`; problems are resampled."""
    return tuple(means_with_intervals(np.asarray(values, dtype=float)[:, None], resamples, seed)[0].tolist())


def means_with_intervals(values: ArrayLike, resamples: int = 10_000, seed: int = 0) -> NDArray[np.float64]:
    """[`mean_with_interval`] of every column of `values`, (P, M) → (M, 3): all are of the same resampled problems."""
    columns = np.array(np.asarray(values, dtype=float).T, order="C")
    if columns.shape[1] == 0:
        raise ValueError("There is no problem to average over: at least one is needed.")
    mean = low = high = columns.mean(axis=1)
    if columns.shape[1] > 1:  # else there is nothing to resample
        # Of one batch the resampled values would be gigabytes; the size of a batch changes none of them.
        low, high = stats.bootstrap(
            (columns,), np.mean, n_resamples=resamples, batch=100, axis=1, method="percentile", rng=seed
        ).confidence_interval
    return np.column_stack([mean, low, high])


def t_intervals(values: ArrayLike) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """
    `mean`, `low`, `high` and the number of values `n` of every column of `values`, (R, M): 95% intervals over runs by
    Student's t. NaN is no value; the mean of none is NaN, as is the interval of fewer than two.
    """
    table = pd.DataFrame(np.asarray(values, dtype=float))
    mean, n = table.mean().to_numpy(), table.count().to_numpy()
    half = stats.t.ppf(0.975, n - 1) * table.sem().to_numpy()
    return mean, mean - half, mean + half, n


def paired_t_test(differences: ArrayLike) -> NDArray[np.float64]:
    """
    Two-sided p of Student's paired test of differences (..., n), over the last axis; NaN where n is 1. Where all n are
    equal their variance says nothing, as scores are multiples of a share: p is that of the sign-flip test, 2/2ⁿ, or 1
    where they are 0.
    """
    x = np.asarray(differences, dtype=float)
    n = x.shape[-1]
    if n < 2:
        return np.full(x.shape[:-1], np.nan)
    mean, is_constant = x.mean(-1), np.ptp(x, -1) <= ROUND_OFF
    error = np.where(is_constant, 1, stats.sem(x, -1))
    equal = np.where(np.abs(mean) <= ROUND_OFF, 1.0, 2.0 ** (1 - n))
    return np.where(is_constant, equal, 2 * stats.t.sf(np.abs(mean) / error, n - 1))


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """p values (..., M) corrected for M tests, over the last axis (Holm, Scand. J. Statist. 1979)."""
    p = np.asarray(p, dtype=float)
    order = p.argsort(-1)
    steps = np.maximum.accumulate(np.take_along_axis(p, order, -1) * np.arange(p.shape[-1], 0, -1), -1)
    return np.take_along_axis(np.minimum(steps, 1), order.argsort(-1), -1)


def smallest_difference(differences: ArrayLike, level: float, power: float) -> NDArray[np.float64]:
    """
    The true difference that the paired t test, two-sided at `level`, shows with this power, if its standard deviation
    is that of these differences (..., n), over the last axis; NaN where they do not vary.
    """
    x = np.asarray(differences, dtype=float)
    n = x.shape[-1]
    if n < 2:
        return np.full(x.shape[:-1], np.nan)
    noncentrality = special.nctdtrinc(n - 1, 1 - power, stats.t.isf(level / 2, n - 1))
    return np.where(np.ptp(x, -1) <= ROUND_OFF, np.nan, noncentrality * stats.sem(x, -1))


def sign_flip_test(differences: ArrayLike, seed: int = 0) -> NDArray[np.float64]:
    """
    Two-sided p-value of the hypothesis that a paired difference is as likely to be +d as -d (Fisher's randomization
    test, The Design of Experiments, 1935): the share of sign vectors whose mean is at least as far from 0.

    Exact where at most 14 problems differ; else from 10,000 random sign vectors, drawn by `seed`, and the observed one
    among them, so that p is never 0.

    Args:
        differences (array-like, shape (P, M)):
            One row per problem, one column per metric; the columns are tested one by one, by the same signs.

    Returns:
        Array of shape (M,).
    """
    # Not scipy's permutation_test, which takes 15 times as long for 500 problems, and misses ties of sums near 0.
    table = np.asarray(differences, dtype=float)
    table = table[(table != 0).any(axis=1)]  # a 0 is the same with either sign
    n = len(table)
    round_off = 1e-12 * np.abs(table).sum(axis=0)
    observed = np.abs(table.sum(axis=0)) - round_off
    if n <= 14:
        signs = (np.arange(2**n)[:, None] >> np.arange(n) & 1) * 2.0 - 1
        return (np.abs(signs @ table) >= observed).mean(axis=0)
    rng, at_least = np.random.default_rng(seed), np.ones(table.shape[1])  # the observed one
    for part in range(100):  # of all of them at once the signs of 10,000 problems would be gigabytes
        signs = rng.choice([-1.0, 1.0], size=(100, n))[part == 0 :]
        at_least += (np.abs(signs @ table) >= observed).sum(axis=0)
    return at_least / 10_000
