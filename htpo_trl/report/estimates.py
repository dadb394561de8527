"""
What is said of sets of runs. Values are frames whose rows are the units, seeds or the problems of an evaluation, with
95% intervals: over seeds by Student's t, over problems by the bootstrap. What was not logged is NaN, or absent.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..evaluation.statistics import means_with_intervals, sign_flip_test, t_intervals
from .page import Metric
from .runs import Evaluation, Run, RunError, RunSet


#: Points of a curve: beyond, neighbouring steps are averaged.
MAX_POINTS = 50
#: Share of the logged values, the last ones, whose mean is the final value.
FINAL_SHARE = 0.1


def estimate(values: pd.DataFrame, units: str) -> pd.DataFrame:
    """The mean of every column with its interval; `n` and `units`, `"seeds"` or `"problems"`, what it is over."""
    if units == "seeds":
        columns = dict(zip(("mean", "low", "high", "n"), t_intervals(values), strict=True))
        return pd.DataFrame(columns, values.columns).assign(units=units)
    found: Any = means_with_intervals(values) if len(values) else []
    names = values.columns[: len(found)]
    return pd.DataFrame(found, names, ["mean", "low", "high"]).assign(n=len(values), units=units)


def differences(first: pd.DataFrame, second: pd.DataFrame, units: str) -> pd.DataFrame:
    """
    The [`estimate`] of second minus first, whose rows are paired, with the means `first` and `second` of the pairs
    that have both, and `p` of the sign-flip test. Columns without a pair are left out.
    """
    found = second - first
    p = sign_flip_test(found.fillna(0))  # a difference of 0 is as good as none: either sign is the same
    sides = {"first": first.where(found.notna()).mean(), "second": second.where(found.notna()).mean()}
    table = estimate(found, units).assign(p=p, **sides)
    table.loc[(table.n < 2) & (table.units == "seeds"), "p"] = np.nan
    return table.dropna(subset="mean")


def band(series: pd.DataFrame) -> pd.DataFrame | None:
    """
    The [`estimate`] of a metric at every step, from its values by step, a column per run; `width` is the number of
    steps that a point is the mean of. No band, where there would be gaps alone.
    """
    logged = series.dropna(axis=1, how="all")
    if logged.empty:
        return None
    width = -(-logged.index[-1] // MAX_POINTS) or 1
    found = estimate(logged.groupby(-(-logged.index // width) * width).mean().T, "seeds")
    # One of several seeds has no interval, and is not the mean of all: a gap.
    found["mean"] = found["mean"].where(found.n >= min(2, len(logged.columns)))
    if found["mean"].isna().all():
        return None
    # A point without a value wherever two are further apart than usual, so that no line crosses the gap. Of a metric
    # that is logged at every fourth step, bins of three steps are now three, now six apart.
    steps, usual = found.index.to_series(), logged.index.to_series().diff().median()
    apart = steps.diff()
    far = apart > max(1.5 * apart.median(), usual + width - 1)
    return found.reindex(found.index.union((steps - apart / 2)[far])).assign(width=width)


def final_values(runs: Sequence[Run], metrics: Sequence[Metric]) -> pd.DataFrame:
    """A row per run, a column per metric: the mean of the last tenth of its logged values, as shown."""

    logged = [{m.key: m.scale * run.series(m.key).dropna() for m in metrics} for run in runs]
    last = [{key: x.tail(max(1, round(FINAL_SHARE * len(x)))) for key, x in each.items()} for each in logged]
    return pd.DataFrame([{key: x.mean() for key, x in each.items()} for each in last])


def score(evaluations: Sequence[Evaluation], majority: bool = False) -> pd.DataFrame:
    """The [`estimate`] of every metric: over the problems of the only evaluation, or over seeds, of their means."""
    return estimate(*_by_unit([evaluation.scores(majority) for evaluation in evaluations]))


def _by_unit(tables: Sequence[pd.DataFrame]) -> tuple[pd.DataFrame, str]:
    if len(tables) == 1:
        return tables[0], "problems"
    return pd.DataFrame([table.mean() for table in tables]).dropna(axis=1), "seeds"


def paired(first: RunSet, second: RunSet) -> tuple[RunSet, RunSet]:
    """Both with the runs that are paired, one by one: of the same seed, or the only ones; [`RunError`] if none are."""
    if len(first.runs) == len(second.runs) == 1:
        return first, second
    for name, runs in (first, second):
        seeds = [run.seed for run in runs if run.seed is not None]
        if len({*seeds}) < len(seeds):
            raise RunError(f"not paired: {name} has several runs of seed {max(seeds, key=seeds.count)}")
    pairs = [(one, two) for one in first.runs for two in second.runs if one.seed == two.seed is not None]
    if not pairs:
        raise RunError(f"not paired: {first.name} and {second.name} have no seed in common")
    one, two = (RunSet("", list(runs)) for runs in zip(*pairs, strict=True))
    return one, two


def paired_scores(first: Sequence[Evaluation], second: Sequence[Evaluation]) -> pd.DataFrame:
    """The [`differences`] of every metric, paired by problem, over units as in [`score`]; [`RunError`] if unpaired."""
    both = list(zip(first, second, strict=True))
    if any(one.results.problems.keys() != two.results.problems.keys() for one, two in both):
        raise RunError("not paired: the problems are not the same")
    # A problem that one of a pair could not judge is left out of both.
    tables = [one.scores(True).align(two.scores(True), join="inner") for one, two in both]
    if any(one.empty for one, _ in tables):
        raise RunError("not paired: no problem could be judged")
    (one, units), (two, _) = (_by_unit(side) for side in zip(*tables, strict=True))
    return differences(one, two, units)
