"""The sections of a report: of which estimates their tables are made and their pictures are drawn."""

import io
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .. import __version__
from ..objective.table import GROUPS
from ..utils import write_atomically
from ..verifier import Verdict
from .estimates import (
    FINAL_SHARE,
    MAX_POINTS,
    band,
    differences,
    estimates,
    final_values,
    paired_scores,
    pairs,
    scores,
)
from .page import Block, HtmlTable, Picture
from .panels import Outline, final_metrics, why_missing
from .pictures import Curve, Panel, draw_curves, draw_shares, draw_verdicts
from .runs import RunError
from .sets import RunSet, differing_options


_DPI = 130
_MISSING = "–"  # in a table, where there is no value
_OVER_K: dict[str, Any] = {"xlabel": "samples per problem, k", "marks": True, "powers": True}


class Report:
    """
    What all sections share.

    Args:
        sets (`Sequence[RunSet]`):
            In the order in which they are drawn; the first is the baseline of differences.
        directory (`Path`):
            Where pictures go; made if it is not there.
    """

    def __init__(self, sets: Sequence[RunSet], directory: Path) -> None:
        self.sets, self.directory = sets, directory
        self.labels = [s.label for s in sets]
        self.benchmarks = list(dict.fromkeys(b for _, runs in sets for run in runs for b in run.evaluations))
        self.missing: list[tuple[str, str, str]] = []  # section, set, what is missing and why
        directory.mkdir(parents=True, exist_ok=True)

    def picture(self, name: str, figure: Any, alt: str) -> Picture:
        """Write a figure to `<name>.png`."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI)
        write_atomically(self.directory / f"{name}.png", buffer.getvalue())
        return Picture(buffer.getvalue(), f"{alt} Sets: {', '.join(self.labels)}.")

    def panels(self, name: str, panels: Sequence[Panel], alt: str, labels: Sequence[str] = ()) -> Picture:
        """Draw panels."""
        titles = ", ".join(panel.title for panel in panels)
        return self.picture(name, draw_curves(panels, labels or self.labels), f"{alt}: {titles}.")

    def nothing(self, outline: Outline, why: str | Mapping[str, str]) -> list[Block]:
        """Say why no set, or each, has anything to draw; a picture of an earlier report is removed."""
        why = dict.fromkeys((s.name for s in self.sets), why) if isinstance(why, str) else why
        (self.directory / f"{outline.name}.png").unlink(missing_ok=True)
        self.missing += [(outline.heading, set_name, reason) for set_name, reason in why.items()]
        return [f"Not logged: {self.reasons(why)}."]

    def reasons(self, why: Mapping[str, str]) -> str:
        """Set → reason in words: the reason alone, where all sets share it."""
        if len(why) == len(self.sets) and len(set(why.values())) == 1:
            return next(iter(why.values()))
        return "; ".join(f"{name}: {reason}" for name, reason in why.items())


def runs_section(report: Report, outline: Outline) -> list[Block]:
    """Which runs the report is of, and how to read it."""
    header = ("set", "run", "seed", "kind", "last step", "directory")
    cells = [
        (s.name, run.name, run.seed, run.source, run.steps, os.path.relpath(run.path))
        for s in report.sets
        for run in s.runs
    ]
    table = HtmlTable(header, [[_MISSING if c is None else str(c) for c in row] for row in cells], len(header))
    reading = outline.caption.format(max_points=MAX_POINTS, final_share=FINAL_SHARE)
    return [table, reading, f"Report of htpo_trl {__version__}."]


def summary_section(report: Report, outline: Outline) -> list[Block]:
    """Final values of training; first and last evaluation, and the gain."""
    metrics = final_metrics()
    finals = [estimates(final_values(s.runs, metrics), "seeds").to_dict("index") for s in report.sets]
    rows = [(m.label, *(_interval(found[m.key], m.decimals) for found in finals)) for m in metrics]
    content: list[Block] = ["Final values of training:", HtmlTable(("metric", *report.labels), rows)]
    if all(set(cells) == {_MISSING} for _, *cells in rows):
        content = ["Final values of training: not logged."]
    gains = [row for benchmark in report.benchmarks for s in report.sets for row in _gains(report, s, benchmark)]
    if gains:
        header = ("benchmark", "metric", "set", "steps", "first", "last", "gain", "over")
        content += ["First and last evaluation, and the gain, paired by problem:", HtmlTable(header, gains, 4)]
    return content


def _gains(report: Report, s: RunSet, benchmark: str) -> list[tuple[str, ...]]:
    found = list(s.evaluations(benchmark).items())
    if not found:
        return []
    (start, before), (end, last) = found[0], found[-1]
    first, gained = {}, {}
    if len(found) > 1:
        first = estimates(*scores(before, True)).to_dict("index")
        try:
            gained = paired_scores(before, last).to_dict("index")
        except RunError as error:
            report.missing.append(("Summary", s.name, f"gain on {benchmark}: {error}"))
    steps = " → ".join(_MISSING if step is None else str(step) for step in dict.fromkeys((start, end)))
    return [
        (
            *(benchmark, _metric_name(metric, last[0].samples), s.name, steps),
            *(_interval(first.get(metric)), _interval(each), _interval(gained.get(metric), sign="+")),
            f"{each['n']} {each['units']}",
        )
        for metric, each in estimates(*scores(last, True)).to_dict("index").items()
    ]


def plot_section(report: Report, outline: Outline) -> list[Block]:
    """Metrics over optimizer steps, a panel each."""
    panels: list[Panel] = []
    lacking: dict[tuple[str, str], list[str]] = {}  # set, reason → titles of metrics
    for metric in outline.metrics:
        curves, why, partly = [], {}, {}
        for i, (name, runs) in enumerate(report.sets):
            points = band(metric.scale * run.series(metric.key) for run in runs)
            if points is None:
                why[name] = why_missing(runs, metric.key)
                continue
            curves.append(Curve(i, points))
            if (fewest := points.n.min()) < len(runs):
                n = f"{fewest:.0f} to {points.n.max():.0f} of {len(runs)} runs at a point"
                partly[name] = n if len(runs) > 1 else "steps without a value"
        if curves or not metric.optional:
            panels.append(Panel(metric.title, metric.unit, curves, report.reasons(why), metric.bounds))
            for each in (*why.items(), *partly.items()):
                lacking.setdefault(each, []).append(metric.title)
    if not any(panel.curves for panel in panels):
        return report.nothing(outline, {s.name: why_missing(s.runs, outline.metrics[0].key) for s in report.sets})
    report.missing += [(outline.heading, name, f"{why}: {', '.join(each)}") for (name, why), each in lacking.items()]
    return [outline.caption, report.panels(outline.name, panels, f"{outline.heading}, over optimizer steps")]


def evaluations_section(report: Report, outline: Outline) -> list[Block]:
    """mean@n and pass@n of every benchmark over the steps at which it was evaluated."""
    panels: dict[str, Panel] = {}
    for benchmark in report.benchmarks:
        for i, s in enumerate(report.sets):
            found = {step: each for step, each in s.evaluations(benchmark).items() if step is not None}
            tables = [estimates(*scores(each)).assign(step=step) for step, each in found.items()]
            table = pd.concat([each for each in tables if len(each)] or [pd.DataFrame()])
            for metric in dict.fromkeys([*table.index[:1], *table.index[-1:]]):  # mean, and pass@n
                title = f"{benchmark}: {_metric_name(metric, [*found.values()][-1][0].samples)}"
                options = {"bounds": (0, 1), "xlabel": "optimizer step", "marks": True}
                _add(panels, Curve(i, table.loc[[metric]].set_index("step")), title, "share of problems", **options)
    if not panels:
        return report.nothing(outline, "no evaluation during training")
    return [outline.caption, report.panels(outline.name, [*panels.values()], outline.heading)]


def budgets_section(report: Report, outline: Outline) -> list[Block]:
    """pass@k and maj@k over k, of the last evaluation and, thin, of the first."""
    panels: dict[str, Panel] = {}
    for benchmark in report.benchmarks:
        for i, s in enumerate(report.sets):
            found = list(s.evaluations(benchmark).values())
            for each in [*found[:1], *found[1:][-1:]]:
                for name, points in _over_k(estimates(*scores(each, True))).items():
                    curve = Curve(i, points, faded=each is not found[-1])
                    _add(panels, curve, f"{benchmark}: {name}", name, bounds=(0, 1), **_OVER_K)
    if not panels:
        return report.nothing(outline, "no evaluation with several samples per problem")
    alt = f"{outline.heading}, over samples per problem"
    return [outline.caption, report.panels(outline.name, [*panels.values()], alt)]


def differences_section(report: Report, outline: Outline) -> list[Block]:
    """Every set minus the first one, paired by seed or by problem; nothing, where there is one set."""
    (report.directory / f"{outline.name}.png").unlink(missing_ok=True)
    baseline, *others = report.sets
    rows: list[Sequence[str]] = []
    panels: dict[str, Panel] = {}
    notes: list[tuple[str, str]] = []
    for i, other in enumerate(others, 1):
        try:
            both = pairs(baseline, other)
        except RunError as error:
            notes.append((other.name, str(error)))
            continue
        sides = [RunSet("", list(runs)) for runs in zip(*both, strict=True)]
        for benchmark in report.benchmarks:
            if not any(benchmark in run.evaluations for side in sides for run in side.runs):
                continue
            try:
                last = [side.last_evaluations(benchmark) for side in sides]
                if any(len(each) < len(both) for each in last):
                    raise RunError("not paired: not evaluated in both sets, or not by all seeds")
                scored = paired_scores(*last)
            except RunError as error:
                notes.append((other.name, f"{benchmark}: {error}"))
                continue
            rows += [(other.name, f"{benchmark}: {m}", *_cells(each)) for m, each in scored.to_dict("index").items()]
            for name, points in _over_k(scored).items():
                _add(panels, Curve(i, points), f"{benchmark}: {name}", f"difference of {name}", zero=True, **_OVER_K)
        metrics = final_metrics()
        finals = differences(*(final_values(side.runs, metrics) for side in sides), units="seeds").to_dict("index")
        rows += [(other.name, m.label, *_cells(finals[m.key], m.decimals)) for m in metrics if m.key in finals]
        for metric in [metric for metric in metrics if metric.paired]:
            series = (one.series(metric.key).align(two.series(metric.key), join="inner") for one, two in both)
            curve = band(metric.scale * (two - one) for one, two in series)
            if curve is not None:
                _add(panels, Curve(i, curve), metric.title, f"difference, {metric.unit}", zero=True)
    if not others:
        return []
    report.missing += [(outline.heading, name, note) for name, note in notes]
    content: list[Block] = [outline.caption.format(baseline=baseline.name), *(f"{a}: {b}." for a, b in notes)]
    if panels:
        alt, labels = f"{outline.heading} to {baseline.name}", [f"{s.name} − {baseline.name}" for s in report.sets]
        content.append(report.panels(outline.name, [*panels.values()], alt, labels))
    if rows:
        header = ("set", "metric", baseline.name, "the set", "difference", "p", "over")
        content.append(HtmlTable(header, rows, 2))
    return content


def shares_section(report: Report, outline: Outline) -> list[Block]:
    """Shares of the eight groups, stacked: a column per set."""
    columns: dict[str, dict[str, pd.DataFrame] | str] = {}
    why: dict[str, str] = {}
    for s in report.sets:
        bands = {group: band(run.series(f"htpo/share/{group}") for run in s.runs) for group in GROUPS}
        found = {group: points for group, points in bands.items() if points is not None}
        if len(found) < len(GROUPS):
            why[s.name] = why_missing(s.runs, f"htpo/share/{GROUPS[0]}")
        columns[s.label] = why.get(s.name, found)
    if len(why) == len(report.sets):
        return report.nothing(outline, why)
    report.missing += [(outline.heading, name, reason) for name, reason in why.items()]
    alt = f"{outline.heading}, stacked, over optimizer steps."
    return [outline.caption, report.picture(outline.name, draw_shares(columns), alt)]


def verdicts_section(report: Report, outline: Outline) -> list[Block]:
    """Verdicts of the samples of the last evaluation."""
    found = {
        f"{benchmark}: {s.name}": sum((each.verdicts for each in last), Counter())
        for benchmark in report.benchmarks
        for s in report.sets
        if (last := s.last_evaluations(benchmark))
    }
    if not found:
        return report.nothing(outline, "no evaluation")
    words = {verdict: verdict.replace("_", " ") for verdict in Verdict}
    counts = pd.DataFrame([{word: each[v] for v, word in words.items()} for each in found.values()], [*found])
    counts = counts.loc[:, counts.any()]
    rows = [(label, *map(str, row)) for label, *row in counts.itertuples()]
    picture = report.picture(outline.name, draw_verdicts(counts), f"{outline.heading}, shares of the samples.")
    return [outline.caption, picture, HtmlTable(("benchmark and set", *counts), rows)]


def options_section(report: Report, outline: Outline) -> list[Block]:
    """Options and versions that are not the same in all runs."""
    rows = [
        (name, *(" | ".join(values) or "not recorded" for values in row))
        for name, row in differing_options(report.sets).items()
    ]
    table = HtmlTable(("option", *(s.name for s in report.sets)), rows, 1 + len(report.sets))
    versions = set.intersection(*(set(run.versions.items()) for s in report.sets for run in s.runs))
    notes = [f"Versions in all runs: {', '.join(f'{k} {v}' for k, v in sorted(versions))}."] if versions else []
    unknown = [s.name for s in report.sets if any(run.options is None for run in s.runs)]
    notes += [f"Runs without recorded options: {', '.join(unknown)}."] if unknown else []
    return [outline.caption, table if rows else "None.", *notes]


def missing_section(report: Report, outline: Outline) -> list[Block]:
    """The last one: the others have said what they lack."""
    rows = [(run.name, s.name, note) for s in report.sets for run in s.runs for note in run.notes] + report.missing
    same = "seeds that are not known to differ: the intervals take the runs for independent all the same"
    rows += [("seeds", s.name, same) for s in report.sets if len(s.runs) > 1 and not s.has_seeds]
    return [outline.caption, HtmlTable(("where", "set", "what"), rows, 3) if rows else "None."]


#: Sections that are no pictures of metrics over steps, by their names in `panels.yaml`.
SECTIONS: dict[str, Callable[[Report, Outline], list[Block]]] = {
    "runs": runs_section,
    "summary": summary_section,
    "evaluations": evaluations_section,
    "budgets": budgets_section,
    "differences": differences_section,
    "shares": shares_section,
    "evaluation_verdicts": verdicts_section,
    "options": options_section,
    "missing": missing_section,
}


def _add(panels: dict[str, Panel], curve: Curve, title: str, unit: str, **kwargs: Any) -> None:
    """A curve to the panel of this title, which is made if it is not there."""
    panels.setdefault(title, Panel(title, unit, [], **kwargs)).curves.append(curve)


def _over_k(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """`pass@k` and `maj@k` → estimates by k, where there are several; at k = 1 both are the mean accuracy."""
    found = {}
    for kind in ("pass", "maj"):
        ks = {name: int(name.partition("@")[2] or 1) for name in table.index if name.startswith(("mean", f"{kind}@"))}
        if len(ks) > 1:
            found[f"{kind}@k"] = table.loc[[*ks]].set_axis([*ks.values()])
    return found


def _metric_name(name: str, samples: int) -> str:
    return f"mean@{samples}" if name == "mean" else name


def _cells(d: Mapping[str, Any], decimals: int = 3) -> tuple[str, ...]:
    """Of a difference: both sides, the interval, p, and what it is over."""
    over = f"{d['n']} {d['units']}" if d["n"] > 1 else "1 seed: no interval"
    p = _MISSING if pd.isna(d["p"]) else "<0.001" if d["p"] < 0.001 else _number(d["p"])
    return _number(d["first"], decimals), _number(d["second"], decimals), _interval(d, decimals, "+"), p, over


def _interval(e: Mapping[str, Any] | None, decimals: int = 3, sign: str = "") -> str:
    """`0.512 [0.480, 0.544]`, or the mean alone where there is no interval; `sign` is `"+"` for differences."""
    if e is None or pd.isna(e["mean"]):
        return _MISSING
    mean, low, high = (_number(e[name], decimals, sign) for name in ("mean", "low", "high"))
    return mean if pd.isna(e["low"]) else f"{mean} [{low}, {high}]"


def _number(value: float, decimals: int = 3, sign: str = "") -> str:
    """A number for a table, never `-0.000`."""
    return f"{round(value, decimals) + 0.0:{sign}.{decimals}f}"
