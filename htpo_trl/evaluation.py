"""n samples per problem → pass@k and mean@n, with intervals over problems."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


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
    correct = np.asarray(correct)
    if not 1 <= k <= n:
        raise ValueError(f"k={k} must lie in 1..n={n}: draw more samples per problem, or ask for a smaller k.")
    if correct.size and not (correct.min() >= 0 and correct.max() <= n):
        raise ValueError(f"correct must lie in 0..n={n}, got {correct.min()}..{correct.max()}.")
    # C(n-c, k)/C(n, k) = Π_{j<k} (n-c-j)/(n-j): no large binomials; the product is 0 as soon as n-c < k.
    drawn = np.arange(k)
    return 1.0 - np.prod(np.clip(n - correct[:, None] - drawn, 0, None) / (n - drawn), axis=1)


def mean_with_interval(values: ArrayLike, resamples: int = 10_000, seed: int = 0) -> tuple[float, float, float]:
    """Mean over problems with its 95% percentile-bootstrap interval, `(mean, low, high)`; problems are resampled."""
    values = np.asarray(values, dtype=float)
    picks = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.percentile(values[picks].mean(axis=1), [2.5, 97.5])
    return float(values.mean()), float(low), float(high)
