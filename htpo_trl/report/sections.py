"""
The sections of a report: of which estimates their tables are made and their pictures are drawn. `NAME_section` makes
the one of this name in `panels.yaml`, [`plot_section`] those that have none.
"""

import base64
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from .. import __version__
from ..output.writing import write_atomically, writing
from ..verifier import Verdict
from . import estimates
from .estimates import Outline, band, difference_texts, differences, estimate, interval_text, score, why_missing
from .pictures import Curve, Panel, draw_curves, draw_shares, draw_verdicts
from .runs import Evaluation, RunError, RunSet, differing_options


class HtmlTable(NamedTuple):
    """Header and rows, the first `text_columns` to the left, numbers to the right; `None` is shown as a dash."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    text_columns: int = 1


class Picture(NamedTuple):
    """A PNG with what it shows, in words."""

    base64: str
    alt: str


#: What a section is made of, under its heading: paragraphs, tables and pictures.
Block = str | HtmlTable | Picture


class Report:
    """What all sections share: the sets, the first of which is the baseline, and the directory, made for pictures."""

    def __init__(self, sets: Sequence[RunSet], directory: Path) -> None:
        self.sets, self.directory, self.outlines = sets, directory, estimates.outlines(sets)
        self.final = [metric for outline in self.outlines for metric in outline.metrics if metric.final]
        self.labels = [s.label for s in sets]
        self.benchmarks = list(dict.fromkeys(b for _, runs in sets for run in runs for b in run.evaluations))
        # Benchmark, position of the set, step → its evaluations.
        evaluated = [(b, i, s.evaluations(b)) for b in self.benchmarks for i, s in enumerate(sets)]
        self.evaluated = [each for each in evaluated if each[-1]]
        self.missing: list[tuple[str, str, str]] = []  # section, set, what is missing and why
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)

    def picture(self, name: str, figure: Any, alt: str) -> Picture:
        """Write a figure to `<name>.png`."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
        write_atomically(self.directory / f"{name}.png", buffer.getvalue())
        return Picture(base64.b64encode(buffer.getvalue()).decode(), f"{alt} Sets: {', '.join(self.labels)}.")

    def panels(self, outline: Outline, panels: Mapping[str, Panel], alt: str) -> list[Block]:
        """A picture of panels, by their titles, or, where none has a curve, why."""
        if not any(panel.curves for panel in panels.values()):
            return self.nothing(outline)
        figure = draw_curves([*panels.values()], self.labels)
        return [outline.caption, self.picture(outline.name, figure, f"{alt}: {', '.join(panels)}.")]

    def nothing(self, outline: Outline) -> list[Block]:
        """Say why no set has anything to draw; a picture of an earlier report is removed."""
        (self.directory / f"{outline.name}.png").unlink(missing_ok=True)
        why = {s.name: outline.missing or why_missing(s.runs, outline.metrics[0].key) for s in self.sets}
        self.missing += [(outline.heading, name, reason) for name, reason in why.items()]
        return [f"Not logged: {self.reasons(why)}."]

    def reasons(self, why: Mapping[str, str]) -> str:
        """Set → reason in words: the reason alone, where all sets share it."""
        shared = len(why) == len(self.sets) and len({*why.values()}) == 1
        return "; ".join({*why.values()} if shared else (f"{name}: {reason}" for name, reason in why.items()))


def runs_section(report: Report, outline: Outline) -> list[Block]:
    """Which runs the report is of, and how to read it."""
    header = ("set", "run", "seed", "kind", "last step", "directory")
    rows = [
        (s.name, run.path.name, run.seed, run.source, run.steps, os.path.relpath(run.path))
        for s in report.sets
        for run in s.runs
    ]
    reading = outline.caption.format(max_points=estimates.MAX_POINTS, final_share=estimates.FINAL_SHARE)
    return [HtmlTable(header, rows, len(header)), reading, f"Report of htpo_trl {__version__}."]


def summary_section(report: Report, outline: Outline) -> list[Block]:
    """Final values of training; first and last evaluation, and the gain."""
    bounds = [metric.bounds for metric in report.final]
    values = [estimates.final_values(s.runs, report.final) for s in report.sets]
    finals = [estimate(each, "seeds", bounds).to_dict("index") for each in values]
    rows = [(m.label, *(interval_text(found[m.key], m.decimals) for found in finals)) for m in report.final]
    content: list[Block] = ["Final values of training:", HtmlTable(("metric", *report.labels), rows)]
    if not any(cell for _, *cells in rows for cell in cells):
        content = ["Final values of training: not logged."]
    gains = [row for each in report.evaluated for row in _gains(report, *each)]
    if gains:
        header = ("benchmark", "metric", "set", "steps", "first", "last", "gain", "over")
        content += ["First and last evaluation, and the gain, paired by problem:", HtmlTable(header, gains, 4)]
    return content


def _gains(report: Report, benchmark: str, i: int, found: Mapping[int | None, list[Evaluation]]) -> list[Any]:
    name, steps, evaluations = report.sets[i].name, [*found], [*found.values()]
    first, gained = {}, {}
    if len(found) > 1:
        first = score(evaluations[0], True).to_dict("index")
        try:
            gained = estimates.paired_scores(evaluations[0], evaluations[-1]).to_dict("index")
        except RunError as error:
            report.missing.append(("Summary", name, f"gain on {benchmark}: {error}"))
    when = None if steps == [None] else " → ".join(map(str, dict.fromkeys((steps[0], steps[-1]))))
    return [
        (
            *(benchmark, _metric_name(metric, evaluations[-1]), name, when),
            *(interval_text(first.get(metric)), interval_text(each), interval_text(gained.get(metric), sign="+")),
            f"{each['n']} {each['units']}",
        )
        for metric, each in score(evaluations[-1], True).to_dict("index").items()
    ]


def plot_section(report: Report, outline: Outline) -> list[Block]:
    """Metrics over optimizer steps, a panel each."""
    panels: dict[str, Panel] = {}
    lacking: dict[tuple[str, str], list[str]] = {}  # set, reason → titles of metrics
    for metric in outline.metrics:
        curves, why, partly = [], {}, {}
        for i, s in enumerate(report.sets):
            points = band([metric.scale * run for run in s.series(metric.key)], metric.bounds)
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
    return report.panels(outline, panels, f"{outline.heading}, over optimizer steps")


def evaluations_section(report: Report, outline: Outline) -> list[Block]:
    """mean@n and pass@n of every benchmark over the steps at which it was evaluated."""
    panels: dict[str, Panel] = {}
    for benchmark, i, found in report.evaluated:
        tables = [score(each).assign(step=step) for step, each in found.items() if step is not None]
        table = pd.concat([each for each in tables if len(each)] or [pd.DataFrame()])
        for metric in dict.fromkeys([*table.index[:1], *table.index[-1:]]):  # mean, and pass@n
            title = f"{benchmark}: {_metric_name(metric, [*found.values()][-1])}"
            curve = Curve(i, table.loc[[metric]].set_index("step"))
            _add(panels, curve, title, "share of problems", bounds=(0, 1), over="evaluations")
    return report.panels(outline, panels, outline.heading)


def budgets_section(report: Report, outline: Outline) -> list[Block]:
    """pass@k and maj@k over k, of the last evaluation and, thin, of the first."""
    panels: dict[str, Panel] = {}
    for benchmark, i, found in report.evaluated:
        steps = [*found]
        for step in dict.fromkeys((steps[0], steps[-1])):
            for name, points in _over_k(score(found[step], True)).items():
                curve = Curve(i, points, faded=step != steps[-1])
                _add(panels, curve, f"{benchmark}: {name}", name, bounds=(0, 1), over="k")
    return report.panels(outline, panels, f"{outline.heading}, over samples per problem")


def differences_section(report: Report, outline: Outline) -> list[Block]:
    """Every set minus the first one, paired by seed or by problem; nothing, where there is one set."""
    (report.directory / f"{outline.name}.png").unlink(missing_ok=True)
    baseline, *others = report.sets
    if not others:
        return []
    rows: list[tuple[str | None, ...]] = []
    panels: dict[str, Panel] = {}
    notes: list[tuple[str, str]] = []
    for i, other in enumerate(others, 1):
        try:
            sides = estimates.paired(baseline, other)
        except RunError as error:
            notes.append((other.name, str(error)))
            continue
        evaluated = {benchmark for side in sides for run in side.runs for benchmark in run.evaluations}
        for benchmark in [each for each in report.benchmarks if each in evaluated]:
            try:
                last = [next(reversed(side.evaluations(benchmark).values()), []) for side in sides]
                if any(len(each) < len(sides[0].runs) for each in last):
                    raise RunError("not paired: not evaluated in both sets, or not by all seeds")
                scored = estimates.paired_scores(*last)
            except RunError as error:
                notes.append((other.name, f"{benchmark}: {error}"))
                continue
            for name, each in scored.to_dict("index").items():
                rows.append((other.name, f"{benchmark}: {name}", *difference_texts(each)))
            for name, points in _over_k(scored).items():
                _add(panels, Curve(i, points), f"{benchmark}: {name}", f"difference of {name}", zero=True, over="k")
        one, two = (estimates.final_values(side.runs, report.final) for side in sides)
        spans = [(-metric.bounds[1], metric.bounds[1]) for metric in report.final]
        finals = differences(one, two, "seeds", spans).to_dict("index")
        for metric in report.final:
            if metric.key in finals:
                rows.append((other.name, metric.label, *difference_texts(finals[metric.key], metric.decimals)))
            pairs = zip(*(side.series(metric.key) for side in sides), strict=True)
            # At steps that both logged.
            apart = [metric.scale * (b - a).reindex(a.index.intersection(b.index)) for a, b in pairs]
            curve = band(apart, (-metric.bounds[1], metric.bounds[1]))
            if metric.paired and curve is not None:
                _add(panels, Curve(i, curve), metric.title, f"difference, {metric.unit}", zero=True)
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
    columns: dict[str, Any] = {}
    why: dict[str, str] = {}
    for s in report.sets:
        bands = [band([m.scale * run for run in s.series(m.key)], m.bounds) for m in outline.metrics]
        if any(points is None for points in bands):
            why[s.name] = why_missing(s.runs, outline.metrics[0].key)
        columns[s.label] = why.get(s.name, bands)
    if len(why) == len(report.sets):
        return report.nothing(outline)
    report.missing += [(outline.heading, name, reason) for name, reason in why.items()]
    alt = f"{outline.heading}, stacked, over optimizer steps."
    return [outline.caption, report.picture(outline.name, draw_shares(columns), alt)]


def evaluation_verdicts_section(report: Report, outline: Outline) -> list[Block]:
    """Verdicts of the samples of the last evaluation."""
    if not report.evaluated:
        return report.nothing(outline)
    last = {f"{b}: {report.sets[i].name}": [*found.values()][-1] for b, i, found in report.evaluated}
    found = {label: sum((each.verdicts for each in evaluations), Counter()) for label, evaluations in last.items()}
    counts = pd.DataFrame.from_dict(found, "index").reindex(columns=[*Verdict]).fillna(0).astype(int)
    counts = counts.loc[:, counts.any()].rename(columns=lambda verdict: verdict.replace("_", " "))
    picture = report.picture(outline.name, draw_verdicts(counts), f"{outline.heading}, shares of the samples.")
    return [outline.caption, picture, HtmlTable(("benchmark and set", *counts), [*counts.itertuples(name=None)])]


def options_section(report: Report, outline: Outline) -> list[Block]:
    """Options and versions that are not the same in all runs."""
    rows = [
        (name, *(" | ".join(values) or "not recorded" for values in row))
        for name, row in differing_options(report.sets).items()
    ]
    table = HtmlTable(("option", *(s.name for s in report.sets)), rows, 1 + len(report.sets))
    versions = set.intersection(*(set(run.versions.items()) for s in report.sets for run in s.runs))
    notes = [f"In all runs: {', '.join(f'{k} {v}' for k, v in sorted(versions))}."] if versions else []
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
    panels.setdefault(title, Panel(title, unit, [], **kwargs)).curves.append(curve)


def _over_k(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """`pass@k` and `maj@k` → estimates by k, where there are several; at k = 1 both are the mean accuracy."""
    found = {}
    for kind in ("pass", "maj"):
        ks = {name: int(name.partition("@")[2] or 1) for name in table.index if name.startswith(("mean", f"{kind}@"))}
        if len(ks) > 1:
            found[f"{kind}@k"] = table.loc[[*ks]].set_axis([*ks.values()])
    return found


def _metric_name(name: str, evaluations: list[Evaluation]) -> str:
    return f"mean@{evaluations[0].samples}" if name == "mean" else name
