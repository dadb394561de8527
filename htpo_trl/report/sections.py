"""The sections of a report: of which estimates their tables are made and their pictures are drawn."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from .. import __version__
from ..objective.table import GROUPS
from ..verifier import Verdict
from . import estimates
from .estimates import band, by_unit, differences, estimate, final_values, paired, paired_scores
from .page import MISSING, Block, HtmlTable, Report, difference_texts, interval_text
from .panels import Outline, why_missing
from .pictures import Curve, Panel, draw_curves, draw_shares, draw_verdicts
from .runs import RunError
from .sets import RunSet, differing_options


def runs_section(report: Report, outline: Outline) -> list[Block]:
    """Which runs the report is of, and how to read it."""
    header = ("set", "run", "seed", "kind", "last step", "directory")
    cells = [
        (s.name, run.path.name, run.seed, run.source, run.steps, os.path.relpath(run.path))
        for s in report.sets
        for run in s.runs
    ]
    table = HtmlTable(header, [[MISSING if c is None else str(c) for c in row] for row in cells], len(header))
    reading = outline.caption.format(max_points=estimates.MAX_POINTS, final_share=estimates.FINAL_SHARE)
    return [table, reading, f"Report of htpo_trl {__version__}."]


def summary_section(report: Report, outline: Outline) -> list[Block]:
    """Final values of training; first and last evaluation, and the gain."""
    finals = [estimate(final_values(s.runs, report.final), "seeds").to_dict("index") for s in report.sets]
    rows = [(m.label, *(interval_text(found[m.key], m.decimals) for found in finals)) for m in report.final]
    content: list[Block] = ["Final values of training:", HtmlTable(("metric", *report.labels), rows)]
    if all(set(cells) == {MISSING} for _, *cells in rows):
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
        first = estimate(*by_unit(before, True)).to_dict("index")
        try:
            gained = paired_scores(before, last).to_dict("index")
        except RunError as error:
            report.missing.append(("Summary", s.name, f"gain on {benchmark}: {error}"))
    steps = " → ".join(MISSING if step is None else str(step) for step in dict.fromkeys((start, end)))
    return [
        (
            *(benchmark, _metric_name(metric, last[0].samples), s.name, steps),
            *(interval_text(first.get(metric)), interval_text(each), interval_text(gained.get(metric), sign="+")),
            f"{each['n']} {each['units']}",
        )
        for metric, each in estimate(*by_unit(last, True)).to_dict("index").items()
    ]


def plot_section(report: Report, outline: Outline) -> list[Block]:
    """Metrics over optimizer steps, a panel each."""
    panels: dict[str, Panel] = {}
    lacking: dict[tuple[str, str], list[str]] = {}  # set, reason → titles of metrics
    for metric in outline.metrics:
        curves, why, partly = [], {}, {}
        for i, s in enumerate(report.sets):
            points = band(metric.scale * s.series(metric.key))
            if points is None:
                why[s.name] = why_missing(s.runs, metric.key)
                continue
            curves.append(Curve(i, points))
            if (fewest := points.n.min()) < len(s.runs):
                n = f"{fewest:.0f} to {points.n.max():.0f} of {len(s.runs)} runs at a point"
                partly[s.name] = n if len(s.runs) > 1 else "steps without a value"
        if curves or not metric.optional:
            panels[metric.title] = Panel(metric.title, metric.unit, curves, report.reasons(why), metric.bounds)
            for each in (*why.items(), *partly.items()):
                lacking.setdefault(each, []).append(metric.title)
    if any(panel.curves for panel in panels.values()):
        report.missing += [(outline.heading, s, f"{why}: {', '.join(each)}") for (s, why), each in lacking.items()]
    nothing = {s.name: why_missing(s.runs, outline.metrics[0].key) for s in report.sets}
    return report.panels(outline, panels, f"{outline.heading}, over optimizer steps", nothing)


def evaluations_section(report: Report, outline: Outline) -> list[Block]:
    """mean@n and pass@n of every benchmark over the steps at which it was evaluated."""
    panels: dict[str, Panel] = {}
    for benchmark in report.benchmarks:
        for i, s in enumerate(report.sets):
            found = {step: each for step, each in s.evaluations(benchmark).items() if step is not None}
            tables = [estimate(*by_unit(each)).assign(step=step) for step, each in found.items()]
            table = pd.concat([each for each in tables if len(each)] or [pd.DataFrame()])
            for metric in dict.fromkeys([*table.index[:1], *table.index[-1:]]):  # mean, and pass@n
                title = f"{benchmark}: {_metric_name(metric, [*found.values()][-1][0].samples)}"
                curve = Curve(i, table.loc[[metric]].set_index("step"))
                _add(panels, curve, title, "share of problems", bounds=(0, 1), over="evaluations")
    return report.panels(outline, panels, outline.heading, report.all_sets("no evaluation during training"))


def budgets_section(report: Report, outline: Outline) -> list[Block]:
    """pass@k and maj@k over k, of the last evaluation and, thin, of the first."""
    panels: dict[str, Panel] = {}
    for benchmark in report.benchmarks:
        for i, s in enumerate(report.sets):
            found = list(s.evaluations(benchmark).values())
            for each in [*found[:1], *found[1:][-1:]]:
                for name, points in _over_k(estimate(*by_unit(each, True))).items():
                    curve = Curve(i, points, faded=each is not found[-1])
                    _add(panels, curve, f"{benchmark}: {name}", name, bounds=(0, 1), over="k")
    why = report.all_sets("no evaluation with several samples per problem")
    return report.panels(outline, panels, f"{outline.heading}, over samples per problem", why)


def differences_section(report: Report, outline: Outline) -> list[Block]:
    """Every set minus the first one, paired by seed or by problem; nothing, where there is one set."""
    (report.directory / f"{outline.name}.png").unlink(missing_ok=True)
    baseline, *others = report.sets
    rows: list[Sequence[str]] = []
    panels: dict[str, Panel] = {}
    notes: list[tuple[str, str]] = []
    for i, other in enumerate(others, 1):
        try:
            sides = paired(baseline, other)
        except RunError as error:
            notes.append((other.name, str(error)))
            continue
        for benchmark in report.benchmarks:
            if not any(benchmark in run.evaluations for side in sides for run in side.runs):
                continue
            try:
                last = [side.last_evaluations(benchmark) for side in sides]
                if any(len(each) < len(sides[0].runs) for each in last):
                    raise RunError("not paired: not evaluated in both sets, or not by all seeds")
                scored = paired_scores(*last)
            except RunError as error:
                notes.append((other.name, f"{benchmark}: {error}"))
                continue
            for name, each in scored.to_dict("index").items():
                rows.append((other.name, f"{benchmark}: {name}", *difference_texts(each)))
            for name, points in _over_k(scored).items():
                _add(panels, Curve(i, points), f"{benchmark}: {name}", f"difference of {name}", zero=True, over="k")
        one, two = (final_values(side.runs, report.final) for side in sides)
        finals = differences(one, two, "seeds").to_dict("index")
        for metric in report.final:
            if metric.key in finals:
                rows.append((other.name, metric.label, *difference_texts(finals[metric.key], metric.decimals)))
            first, second = (side.series(metric.key) for side in sides)
            curve = band((metric.scale * (second - first)).dropna(how="all"))  # at steps that both logged
            if metric.paired and curve is not None:
                _add(panels, Curve(i, curve), metric.title, f"difference, {metric.unit}", zero=True)
    if not others:
        return []
    report.missing += [(outline.heading, name, note) for name, note in notes]
    content: list[Block] = [outline.caption.format(baseline=baseline.name), *(f"{a}: {b}." for a, b in notes)]
    if panels:
        labels = [f"{s.name} − {baseline.name}" for s in report.sets]
        alt = f"{outline.heading} to {baseline.name}: {', '.join(panels)}."
        content.append(report.picture(outline.name, draw_curves([*panels.values()], labels), alt))
    if rows:
        content.append(HtmlTable(("set", "metric", baseline.name, "the set", "difference", "p", "over"), rows, 2))
    return content


def shares_section(report: Report, outline: Outline) -> list[Block]:
    """Shares of the eight groups, stacked: a column per set."""
    columns: dict[str, dict[str, pd.DataFrame] | str] = {}
    why: dict[str, str] = {}
    for s in report.sets:
        bands = {group: band(s.series(f"htpo/share/{group}")) for group in GROUPS}
        found = {group: points for group, points in bands.items() if points is not None}
        if len(found) < len(GROUPS):
            why[s.name] = why_missing(s.runs, f"htpo/share/{GROUPS[0]}")
        columns[s.label] = why.get(s.name, found)
    if len(why) == len(report.sets):
        return report.nothing(outline, why)
    report.missing += [(outline.heading, name, reason) for name, reason in why.items()]
    alt = f"{outline.heading}, stacked, over optimizer steps."
    return [outline.caption, report.picture(outline.name, draw_shares(columns), alt)]


def evaluation_verdicts_section(report: Report, outline: Outline) -> list[Block]:
    """Verdicts of the samples of the last evaluation."""
    found = {
        f"{benchmark}: {s.name}": sum((each.verdicts for each in last), Counter())
        for benchmark in report.benchmarks
        for s in report.sets
        if (last := s.last_evaluations(benchmark))
    }
    if not found:
        return report.nothing(outline, report.all_sets("no evaluation"))
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
    rows = [(run.path.name, s.name, note) for s in report.sets for run in s.runs for note in run.notes]
    rows += report.missing
    same = "seeds that are not known to differ: the intervals take the runs for independent all the same"
    rows += [("seeds", s.name, same) for s in report.sets if len(s.runs) > 1 and not s.has_seeds]
    return [outline.caption, HtmlTable(("where", "set", "what"), rows, 3) if rows else "None."]


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


#: Sections that are no pictures of metrics over steps, by their names in `panels.yaml`.
SECTIONS: dict[str, Callable[[Report, Outline], list[Block]]] = {
    section.__name__.removesuffix("_section"): section
    for section in (
        *(runs_section, summary_section, evaluations_section, budgets_section, differences_section, shares_section),
        *(evaluation_verdicts_section, options_section, missing_section),
    )
}
