"""
What is said of a set of runs: curves with bands, final values, evaluations, and paired differences between two sets.

Intervals are 95% intervals: over seeds (Student's t) where a set has several, else over the problems of an evaluation
(bootstrap). What was not logged is NaN, or absent, never zero.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..evaluation.comparison import aligned
from ..evaluation.statistics import means_with_intervals, sign_flip_test, t_intervals
from .runs import Evaluation, Run, RunError
from .sets import RunSet


#: Points of a curve: beyond, neighbouring steps are averaged.
MAX_POINTS = 50
#: Share of the logged values, the last ones, whose mean is the final value.
FINAL_SHARE = 0.1


class Estimate(NamedTuple):
    """A mean with its 95% interval, NaN where there is none, over `n` `units`: seeds or problems."""

    mean: float
    low: float
    high: float
    n: int
    units: str


class Band(NamedTuple):
    """A curve over steps with its 95% interval over seeds; NaN where there is a gap, or no interval. All (S,)."""

    steps: NDArray
    mean: NDArray
    low: NDArray
    high: NDArray
    n: NDArray  # number of runs that each point is the mean of
    runs: int = 1  # that logged the metric at all
    width: int = 1  # number of steps that a point is the mean of


class Difference(NamedTuple):
    """A metric of two sides, paired, and the second minus the first."""

    metric: str
    first: float
    second: float
    difference: Estimate
    p: float  # of the sign-flip test, over the units of `difference`; NaN without one


def band(series: Iterable[dict[int, float]]) -> Band | None:
    """
    The mean over runs of a metric at every step, from each run's step → value. A step that only one of several runs
    logged has none; where that leaves nothing, the band is `None`.
    """
    runs = [one for one in series if not all(np.isnan(value) for value in one.values())]
    if not runs:
        return None
    width = -(-max(map(max, runs)) // MAX_POINTS) or 1
    binned = [_binned(one, width) for one in runs]
    steps = np.array(sorted({step for one in binned for step in one}))
    values = np.array([[one.get(step, np.nan) for step in steps] for one in binned])
    mean, low, high, n = t_intervals(values)
    mean = np.where(n >= min(2, len(runs)), mean, np.nan)  # one seed of several has no interval, and is not their mean
    if np.isnan(mean).all():
        return None
    # A point without a value wherever two steps are further apart than usual, so that no line crosses the gap.
    distances = np.diff(steps)
    far = np.flatnonzero(distances > 1.5 * np.median(distances)) + 1 if len(distances) else np.array([], dtype=int)
    table = np.insert(np.stack([steps, mean, low, high, n]), far, np.nan, axis=1)
    table[0, far + np.arange(len(far))] = (steps[far - 1] + steps[far]) / 2
    steps, mean, low, high, n = table
    return Band(steps, mean, low, high, n, len(runs), width)


def _binned(series: dict[int, float], width: int) -> dict[int, float]:
    """Means over `width` steps, at the last of them."""
    bins: dict[int, list[float]] = {}
    for step, value in series.items():
        bins.setdefault(-(-step // width) * width, []).append(value)
    finite = {step: [value for value in values if not np.isnan(value)] for step, values in bins.items()}
    return {step: sum(values) / len(values) if values else np.nan for step, values in finite.items()}


def final_values(runs: Iterable[Run], key: str) -> dict[int, float]:
    """Position of the run → mean of the last tenth of its logged values, of those runs that logged any."""
    finals = {}
    for i, run in enumerate(runs):
        values = [value for value in run.series(key).values() if not np.isnan(value)]
        if values:
            finals[i] = float(np.mean(values[-max(1, round(FINAL_SHARE * len(values))) :]))
    return finals


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean of one value per run; a single one has no interval."""
    mean, low, high, n = (column[0] for column in t_intervals(np.array(values, dtype=float)[:, None]))
    return Estimate(float(mean), float(low), float(high), int(n), "seeds")


def evaluated_steps(runs: Iterable[Run], benchmark: str) -> list[int | None]:
    """The steps at which every run that has the benchmark evaluated it."""
    found = [set(run.evaluations[benchmark]) for run in runs if benchmark in run.evaluations]
    return sorted(set.intersection(*found), key=lambda step: (step is not None, step)) if found else []


def evaluations_at(runs: Iterable[Run], benchmark: str, step: int | None) -> list[Evaluation]:
    """The evaluations of a benchmark at a step, one per run that has it."""
    return [found[step] for run in runs if step in (found := run.evaluations.get(benchmark, {}))]


def estimates(evaluations: Sequence[Evaluation], majority: bool = False) -> dict[str, Estimate]:
    """Metric → mean over the seeds' evaluations, or over the problems of the only one."""
    tables = [evaluation.scores(majority) for evaluation in evaluations]
    names = [name for name in tables[0] if all(table[name] for table in tables if name in table)]
    names = [name for name in names if all(name in table for table in tables)]
    if not names:
        return {}
    if len(tables) > 1:
        return {name: over_seeds([float(np.mean([*table[name].values()])) for table in tables]) for name in names}
    values = np.array([list(tables[0][name].values()) for name in names]).T  # (P, M)
    return {
        name: Estimate(*interval, len(values), "problems")
        for name, interval in zip(names, means_with_intervals(values), strict=True)
    }


def pairs(first: RunSet, second: RunSet) -> list[tuple[Run, Run]]:
    """
    Runs of the same seed, or the only run of each set.

    Raises:
        RunError: if there is no pair, saying why.
    """
    if len(first.runs) == len(second.runs) == 1:
        return [(first.runs[0], second.runs[0])]
    by_seed = []
    for name, runs in (first, second):
        counts = Counter(run.seed for run in runs if run.seed is not None)
        if repeated := [seed for seed, count in counts.items() if count > 1]:
            raise RunError(f"not paired: {name} has several runs of seed {repeated[0]}")
        by_seed.append({run.seed: run for run in runs if run.seed is not None})
    common = [seed for seed in by_seed[0] if seed in by_seed[1]]
    if not common:
        raise RunError(f"not paired: {first.name} and {second.name} have no seed in common")
    return [(by_seed[0][seed], by_seed[1][seed]) for seed in common]


def paired_scores(both: Sequence[tuple[Evaluation, Evaluation]]) -> list[Difference]:
    """
    Differences of evaluations that are paired by problem: for one pair the bootstrap interval over problems, for
    several (seeds) the mean over problems of each, with the t-interval over seeds.

    Raises:
        RunError: if the two of a pair are not of the same problems.
    """
    if any(one.results.problems.keys() != two.results.problems.keys() for one, two in both):
        raise RunError("not paired: the problems are not the same")
    tables = [aligned(one.scores(True), two.scores(True)) for one, two in both]
    if not all(len(before) for _, before, _ in tables):
        raise RunError("not paired: no problem could be judged")
    names = [name for name in tables[0][0] if all(name in table_names for table_names, _, _ in tables)]
    columns = [[table_names.index(name) for name in names] for table_names, _, _ in tables]
    # Lists over seeds of (P, M): P may differ, where seeds have problems of their own.
    first = [before[:, picked] for (_, before, _), picked in zip(tables, columns, strict=True)]
    second = [after[:, picked] for (_, _, after), picked in zip(tables, columns, strict=True)]
    if len(both) == 1:
        values = second[0] - first[0]
        intervals = [Estimate(*interval, len(values), "problems") for interval in means_with_intervals(values)]
    else:
        values = np.array([(two - one).mean(axis=0) for one, two in zip(first, second, strict=True)])  # (R, M)
        intervals = [over_seeds(column.tolist()) for column in values.T]
    sides = [np.mean([table.mean(axis=0) for table in side], axis=0) for side in (first, second)]
    return [
        Difference(name, float(one), float(two), interval, float(p))
        for name, one, two, interval, p in zip(names, *sides, intervals, sign_flip_test(values), strict=True)
    ]


def paired_finals(both: Sequence[tuple[Run, Run]], key: str, scale: float = 1.0) -> Difference | None:
    """Difference of the final values of a training metric, paired by seed; `None` where no pair has both."""
    one, two = ({i: scale * value for i, value in final_values(side, key).items()} for side in zip(*both, strict=True))
    common = [i for i in one if i in two]
    if not common:
        return None
    values = [two[i] - one[i] for i in common]
    p = sign_flip_test(np.array(values)[:, None])[0] if len(values) > 1 else np.nan
    first, second = (float(np.mean([side[i] for i in common])) for side in (one, two))
    return Difference(key, first, second, over_seeds(values), float(p))
