"""
What is said of sets of runs: metrics, and estimates of them. Values are frames whose rows are the units, seeds or the
problems of an evaluation, with 95% intervals: over seeds by Student's t, over problems by the bootstrap. Of two seeds
the interval would be many times as wide as what they differ by: they are shown themselves. What was not logged is NaN,
or absent.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import product
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml

from ..evaluation.statistics import means_with_intervals, sign_flip_test, t_intervals
from ..objective.table import EFFECTS, GROUPS
from ..palette import group_label
from ..verifier import Verdict
from .runs import Evaluation, Run, RunError, RunSet


#: Points of a curve: beyond, neighbouring steps are averaged.
MAX_POINTS = 50
#: Share of the logged values, the last ones, whose mean is the final value.
FINAL_SHARE = 0.1
#: Reward functions that log verdicts, over all runs.
MAX_REWARDS = 50


#: Lowest and highest possible value.
Bounds = tuple[float, float]


class Metric(NamedTuple):
    """A metric of the log and its panel; `panels.yaml` says what the fields mean."""

    key: str
    title: str
    unit: str
    signed: bool = False
    optional: bool = False
    decimals: int = 3
    final: bool = False
    paired: bool = False

    @property
    def scale(self) -> float:
        """Factor from what is logged to what is shown."""
        return 100.0 if self.unit.startswith("%") else 1.0

    @property
    def bounds(self) -> "Bounds":
        """Where its values, as shown, can lie."""
        return -inf if self.signed else 0.0, 100.0 if self.unit.startswith("%") else inf

    @property
    def label(self) -> str:
        """Title and unit, for tables."""
        return self.title if self.unit.lower() in self.title.lower() else f"{self.title} ({self.unit})"


class Outline(NamedTuple):
    """A section: its name is that of its anchor and its picture, its metrics are drawn in a panel each."""

    name: str
    heading: str
    caption: str = ""
    missing: str = ""
    metrics: Sequence[Metric] = ()


def outlines(sets: Sequence[RunSet]) -> list[Outline]:
    """The sections in order."""
    pattern = re.compile(rf"(?!eval_)(.{{1,100}})/({'|'.join(Verdict)})")
    names = {name for _, runs in sets for run in runs for name in run.log}
    rewards = sorted({match[1] for name in names if (match := pattern.fullmatch(name))}) or ["math_reward"]
    if len(rewards) > MAX_REWARDS:
        raise RunError(f"{len(rewards)} reward functions log verdicts: a report has room for {MAX_REWARDS}.")
    content = yaml.safe_load(Path(__file__).with_name("panels.yaml").read_text(encoding="utf-8"))
    return [Outline(**each | {"metrics": _metrics(each.get("metrics", ()), rewards)}) for each in content]


def _metrics(entries: Sequence[dict[str, Any]], rewards: Sequence[str]) -> list[Metric]:
    found = {}
    for entry, group, effect, reward, verdict in product(entries, GROUPS, EFFECTS, rewards, Verdict):
        key = entry["key"].format(group=group, effect=effect, reward=reward, verdict=verdict)
        labels = {"group": group_label(group), "reward": reward}
        labels |= {"effect": effect.replace("_", " "), "verdict": verdict.replace("_", " ")}
        found[key] = Metric(**entry | {"key": key, "title": entry["title"].format(**labels)})
    return list(found.values())


def why_missing(runs: Sequence[Run], key: str) -> str:
    """Why no band could be drawn for a set of runs, as far as the runs tell."""
    names = {name for run in runs for name in run.log}
    if not names:
        return "no training log"
    if key in names:
        return "no values at a step that two runs share" if len(runs) > 1 else "no finite value"
    if key.startswith("htpo/") and not any(name.startswith("htpo/") for name in names):
        return "plain GRPO run"
    if key.startswith("htpo/special/"):
        return "no rule of its objective does that"
    sampled = [run.options is None or run.options.get("dynamic_sampling") for run in runs]
    if key.startswith("htpo/sampling/") and not any(sampled):
        return "dynamic sampling is off"
    if re.search(rf"/({'|'.join(Verdict)})$", key):
        return "its rewards log no verdicts"
    return "not in the log"


def estimate(values: pd.DataFrame, units: str, bounds: Bounds | Sequence[Bounds] = (-inf, inf)) -> pd.DataFrame:
    """
    The mean of every column with its interval, within the bounds, of all columns or of each; `n` and `units`,
    `"seeds"` or `"problems"`, what it is over. Of two seeds `low` and `high` are the two.
    """
    if units == "seeds":
        columns = dict(zip(("mean", "low", "high", "n"), t_intervals(values), strict=True))
        found = pd.DataFrame(columns, values.columns).assign(units=units)
        lowest, highest = np.broadcast_to(np.array(bounds, dtype=float), (len(found), 2)).T
        two = found.n == 2
        found["low"] = np.where(two, values.min(), np.clip(found.low, lowest, None))
        found["high"] = np.where(two, values.max(), np.clip(found.high, None, highest))
        return found
    rows: Any = means_with_intervals(values) if len(values) else []
    names = values.columns[: len(rows)]
    return pd.DataFrame(rows, names, ["mean", "low", "high"]).assign(n=len(values), units=units)


def differences(
    first: pd.DataFrame, second: pd.DataFrame, units: str, bounds: Bounds | Sequence[Bounds] = (-inf, inf)
) -> pd.DataFrame:
    """
    The [`estimate`] of second minus first, whose rows are paired, with the means `first` and `second` of the pairs
    that have both, and `p` of the sign-flip test. Columns without a pair are left out.
    """
    found = second - first
    p = sign_flip_test(found.fillna(0))  # a difference of 0 is as good as none: either sign is the same
    sides = {"first": first.where(found.notna()).mean(), "second": second.where(found.notna()).mean()}
    table = estimate(found, units, bounds).assign(p=p, **sides)
    table.loc[(table.n < 2) & (table.units == "seeds"), "p"] = np.nan
    return table.dropna(subset="mean")


def band(runs: Sequence[pd.Series], bounds: Bounds = (-inf, inf)) -> pd.DataFrame | None:
    """
    The [`estimate`] of a metric at every step, from its values by step, of each run; `width` is the number of steps
    that a point is the mean of. A gap, which no line crosses, is a point without a mean: where a row of the log lacks
    the metric, or one of several seeds alone has it, whose value is not the mean of all. Steps at which a run logged
    nothing are none. No band, where there would be gaps alone.
    """
    runs = [run for run in runs if run.notna().any()]
    if not runs:
        return None
    width = -(-max(run.index[-1] for run in runs) // MAX_POINTS) or 1
    binned = [run.groupby(-(-run.index // width) * width).mean() for run in runs]
    table = pd.concat(binned, axis=1, keys=range(len(runs))).sort_index()
    found = estimate(table.T, "seeds", bounds)
    enough = found.n >= min(2, len(runs))
    found["mean"] = found["mean"].where(enough)
    if found["mean"].isna().all():
        return None
    lacks = [table.index.isin(run.index) | (table.index > run.index[-1]) for run in binned]
    is_gap = (table.isna() & np.column_stack(lacks)).any(axis=1)
    return found[enough | is_gap].assign(width=width)


def final_values(runs: Sequence[Run], metrics: Sequence[Metric]) -> pd.DataFrame:
    """A row per run, a column per metric: the mean of the last tenth of its logged values, as shown."""

    logged = [{m.key: m.scale * run.series(m.key).dropna() for m in metrics} for run in runs]
    last = [{key: x.tail(max(1, round(FINAL_SHARE * len(x)))) for key, x in each.items()} for each in logged]
    return pd.DataFrame([{key: x.mean() for key, x in each.items()} for each in last])


def score(evaluations: Sequence[Evaluation], majority: bool = False) -> pd.DataFrame:
    """The [`estimate`] of every metric: over the problems of the only evaluation, or over seeds, of their means."""
    return estimate(*_by_unit([evaluation.scores(majority) for evaluation in evaluations]), (0, 1))


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
    return RunSet("", [one for one, _ in pairs]), RunSet("", [two for _, two in pairs])


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
    return differences(one, two, units, (-1, 1))


def difference_texts(d: Mapping[str, Any], decimals: int = 3) -> tuple[str | None, ...]:
    """Of a difference: both sides, the interval, p, and what it is over."""
    over = f"{d['n']} {d['units']}" if d["n"] > 1 else "1 seed: no interval"
    p = None if pd.isna(d["p"]) else "<0.001" if d["p"] < 0.001 else f"{d['p']:.3f}"
    sides = (f"{d[side]:z.{decimals}f}" for side in ("first", "second"))
    return *sides, interval_text(d, decimals, "+"), p, over


def interval_text(e: Mapping[str, Any] | None, decimals: int = 3, sign: str = "") -> str | None:
    """
    `0.512 [0.480, 0.544]`, of two seeds `0.512 (0.480 and 0.544)`, or the mean alone where there is no interval;
    `sign` is `"+"` for differences.
    """
    if e is None or pd.isna(e["mean"]):
        return None
    mean, low, high = (f"{e[name]:{sign}z.{decimals}f}" for name in ("mean", "low", "high"))  # z: never -0.000
    if pd.isna(e["low"]):
        return mean
    return f"{mean} ({low} and {high})" if e["n"] == 2 and e["units"] == "seeds" else f"{mean} [{low}, {high}]"
