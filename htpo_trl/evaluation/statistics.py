"""
What n samples per problem say: pass@k, maj@k, bootstrap intervals and a paired test. Nothing but numpy.

Each metric is a number per problem; intervals and tests then treat problems as the independent units, since samples of
one problem are not. Where there are several runs, their seeds are the units: intervals by Student's t.
"""

from collections.abc import Sequence
from functools import cache
from math import comb, cos, pi, sin, sqrt, tan

import numpy as np
from numpy.typing import ArrayLike, NDArray


#: Up to so many problems that differ, all 2^14 sign vectors are enumerated.
EXACT_SIGNS = 14
#: Sign vectors where there are more.
RANDOM_SIGNS = 10_000


def pass_at_k(n: int, correct: ArrayLike, k: int) -> NDArray[np.float64]:
    """
    Unbiased estimate of the chance that at least one of k samples is correct: 1 - C(n-c, k)/C(n, k) (Chen et al. 2021,
    arXiv 2107.03374). With k = 1 it is the mean accuracy over the n samples, mean@n.

    Args:
        n (`int`):
            Samples per problem.
        correct (array-like of `int`, shape (P,)):
            Number of correct samples c of each problem.
        k (`int`):
            Sampling budget, at most `n`.

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
    self-consistency (Wang et al. 2022, arXiv 2203.11171).

    It is the exact mean over all C(n, k) subsets, no Monte Carlo. An answer that ties with others for the most votes
    wins its even share; samples without an answer do not vote, and where nobody votes nothing is right.

    Args:
        n (`int`):
            Samples of the problem.
        correct (`int`):
            Number of samples with the correct answer.
        rivals (`Sequence[int]`):
            Number of samples with each of the wrong answers. What is left of `n` does not vote.
        k (`int`):
            Number of voters, at most `n`.

    Returns:
        `float`: in 0..1, of this one problem.
    """
    _check_budget(n, k)
    if correct < 0 or correct + sum(rivals) > n or min(rivals, default=1) < 1:
        raise ValueError(
            f"correct={correct} and rivals={list(rivals)} must be counts of at most n={n} samples in all."
        )
    # A random subset of size k is what independent draws of every sample, with chance k/n, leave given that k are
    # drawn: so the number drawn of each answer is binomial, and numbers add by convolution.
    total = 0.0
    for votes in range(1, min(correct, k) + 1):  # for the correct answer
        size = k - votes + 1
        threats = [m for m in rivals if m >= votes]  # all others may be drawn as they like
        # Among j rivals that tie, the correct answer wins 1/(1+j) = ∫ y^j dy over 0..1; the quadrature is exact, since
        # the integrand is a polynomial in y of degree len(threats).
        nodes, weights = np.polynomial.legendre.leggauss(len(threats) // 2 + 1)
        y, weights = (nodes + 1) / 2, weights / 2
        ways = np.tile(_drawn(n - correct - sum(threats), k, n, size), (len(y), 1))  # (nodes, size)
        for m in threats:
            chances = np.tile(_drawn(m, k, n, votes + 1), (len(y), 1))  # of 0..votes, more would beat the correct one
            chances[:, votes] *= y
            longer = np.zeros_like(ways)
            for drawn in range(min(votes + 1, size)):
                longer[:, drawn:] += chances[:, drawn, None] * ways[:, : size - drawn]
            ways = longer
        total += _drawn(correct, k, n, votes + 1)[votes] * (weights @ ways[:, -1])
    return float(total / _drawn(n, k, n, k + 1)[k])


@cache
def _drawn(m: int, k: int, n: int, size: int) -> NDArray[np.float64]:
    """Chances that 0, 1, ... `size`-1 of m samples are drawn, each with chance k/n; exact until the last division."""
    chances = [comb(m, i) * k**i * (n - k) ** (m - i) / n**m if i <= m else 0.0 for i in range(size)]
    return np.array(chances)


def _check_budget(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k={k} must lie in 1..n={n}: draw more samples per problem, or ask for a smaller k.")


def mean_with_interval(values: ArrayLike, resamples: int = 10_000, seed: int = 0) -> tuple[float, float, float]:
    """Mean over problems with its 95% percentile-bootstrap interval, `(mean, low, high)`; problems are resampled."""
    return means_with_intervals(np.asarray(values, dtype=float)[:, None], resamples, seed)[0]


def means_with_intervals(
    values: ArrayLike, resamples: int = 10_000, seed: int = 0
) -> list[tuple[float, float, float]]:
    """[`mean_with_interval`] of every column of `values`, (P, M): the same problems are resampled for all of them."""
    values = np.asarray(values, dtype=float)
    if len(values) == 0:
        raise ValueError("There is no problem to average over: at least one is needed.")
    picks = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    results = []
    for column in values.T:
        low, high = np.percentile(column[picks].mean(axis=1), [2.5, 97.5])
        results.append((float(column.mean()), float(low), float(high)))
    return results


def t_intervals(values: ArrayLike) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """
    Mean over seeds with its 95% interval by Student's t, of every column.

    Args:
        values (array-like, shape (R, M)):
            One row per run; NaN where a run has no value.

    Returns:
        `mean`, `low`, `high` and the number of values `n`, each of shape (M,). The mean of no value is NaN, as is the
        interval of fewer than two.
    """
    values = np.asarray(values, dtype=float)
    present = ~np.isnan(values)
    n = present.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(present, values, 0).sum(axis=0) / n
        variance = (np.where(present, values - mean, 0) ** 2).sum(axis=0) / (n - 1)
        half = np.array([t_quantile(int(m) - 1) if m > 1 else np.nan for m in n]) * np.sqrt(variance / n)
    return mean, mean - half, mean + half, n


@cache
def t_quantile(freedom: int, probability: float = 0.95) -> float:
    """
    The t within which ±t holds `probability` of Student's distribution with `freedom` degrees of freedom; 0.95 gives
    the factor of 95% intervals, 12.7 for two seeds and 2.78 for five.
    """

    # P(|T| < t) in closed form with tan(angle) = t/√freedom (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4), inverted by
    # bisection.
    def inside(angle: float) -> float:
        odd = freedom % 2
        term = total = cos(angle) if odd and freedom > 1 else float(not odd)
        for i in range(2 + odd, freedom - 1, 2):
            term *= cos(angle) ** 2 * (i - 1) / i
            total += term
        return 2 / pi * (angle + sin(angle) * total) if odd else sin(angle) * total

    low, high = 0.0, pi / 2
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if inside(middle) < probability else (low, middle)
    return sqrt(freedom) * tan(low)


def sign_flip_test(differences: ArrayLike, seed: int = 0) -> NDArray[np.float64]:
    """
    Two-sided p-value of the hypothesis that a paired difference is as likely to be +d as -d (Fisher's randomization
    test, The Design of Experiments, 1935): the share of sign vectors whose mean is at least as far from 0.

    Exact where at most 14 problems differ; else from 10,000 random sign vectors, the observed one among them, so that
    p is never 0.

    Args:
        differences (array-like, shape (P, M)):
            One row per problem, one column per metric; the columns are tested one by one, by the same signs.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the random sign vectors.

    Returns:
        Array of shape (M,).
    """
    table = np.asarray(differences, dtype=float)
    table = table[(table != 0).any(axis=1)]  # a 0 is the same with either sign
    n = len(table)
    if n <= EXACT_SIGNS:
        signs = (np.arange(2**n)[:, None] >> np.arange(n) & 1) * 2.0 - 1
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(RANDOM_SIGNS, n))
        signs[0] = 1
    round_off = 1e-12 * np.abs(table).sum(axis=0)
    at_least = np.abs(signs @ table) >= np.abs(table.sum(axis=0)) - round_off
    return at_least.mean(axis=0)
