"""The sections of a report that are drawn from evaluations, and paired differences."""

from collections.abc import Mapping, Sequence

import numpy as np

from ..verifier import Verdict
from . import figures, stacks
from .context import MISSING, Context, interval, number
from .estimates import (
    Band,
    Difference,
    Estimate,
    band,
    estimates,
    evaluated_steps,
    evaluations_at,
    paired_finals,
    paired_scores,
    pairs,
)
from .figures import Curve, Panel
from .page import Block, Section, Table
from .panels import FINAL
from .runs import Run, RunError
from .sets import RunSet
from .training import scaled


_PAIRING = (
    "Each difference is a set minus the first one, {}. Where they have several seeds in common, the two runs of each "
    "seed are subtracted, evaluations problem by problem and then averaged over problems, and the 95% interval is "
    "Student's t over seeds. With one pair of runs it is the bootstrap over problems, and training metrics have none. "
    "p is that of the sign-flip test over the same seeds or problems, not corrected for the number of metrics; with n "
    "seeds it cannot be below 2/2ⁿ."
)
_OVER_TRAINING = ("reward", "htpo/accuracy", "entropy", "completions/mean_length")  # differences that are drawn
_K = "samples per problem, k"


def gains(context: Context) -> Table:
    """First and last evaluation of every set, and the gain."""
    rows = [row for benchmark in context.benchmarks for s in context.sets for row in _gains(context, s, benchmark)]
    return Table(("benchmark", "metric", "set", "steps", "first", "last", "gain", "over"), rows, 4)


def _gains(context: Context, s: RunSet, benchmark: str) -> list[Sequence[str]]:
    steps = evaluated_steps(s.runs, benchmark)
    if not steps:
        return []
    runs = [run for run in s.runs if benchmark in run.evaluations]
    last = evaluations_at(runs, benchmark, steps[-1])
    final = estimates(last, majority=True)
    first: dict[str, Estimate] = {}
    gained: dict[str, Estimate] = {}
    if len(steps) > 1:
        before = evaluations_at(runs, benchmark, steps[0])
        first = estimates(before, majority=True)
        try:
            gained = {d.metric: d.difference for d in paired_scores(list(zip(before, last, strict=True)))}
        except RunError as error:
            context.missing.append(("Summary", s.name, f"gain on {benchmark}: {error}"))
    return [
        (
            benchmark,
            _metric_name(name, last[0].samples),
            s.name,
            " → ".join(MISSING if step is None else str(step) for step in dict.fromkeys((steps[0], steps[-1]))),
            interval(first[name]) if name in first else MISSING,
            interval(estimate),
            interval(gained[name], sign="+") if name in gained else MISSING,
            f"{estimate.n} {estimate.units}",
        )
        for name, estimate in final.items()
    ]


def evaluations(context: Context) -> Section:
    """mean@n and pass@n of every benchmark over the steps at which it was evaluated."""
    panels, heading = [], "Evaluations over training"
    for benchmark in context.benchmarks:
        points: dict[str, list[Curve]] = {}
        for i, (_, runs) in enumerate(context.sets):
            by_step = {
                step: (evaluations_at(runs, benchmark, step), estimates(evaluations_at(runs, benchmark, step)))
                for step in evaluated_steps(runs, benchmark)
                if step is not None
            }
            for name, samples in {
                name: found[0].samples for found, values in by_step.values() for name in ("mean", list(values)[-1])
            }.items():
                at = {step: values[name] for step, (_, values) in by_step.items() if name in values}
                points.setdefault(_metric_name(name, samples), []).append(Curve(i, _points(at)))
        panels += [
            Panel(f"{benchmark}: {name}", "share of problems", found, bounds=(0, 1), points=True)
            for name, found in points.items()
        ]
    if not panels:
        return context.nothing("evaluations", heading, {s.name: "no evaluation during training" for s in context.sets})
    text = "mean@n is the accuracy of single samples, the mean over n of them; pass@n, that of the best of n."
    alt = f"{heading}: {', '.join(panel.title for panel in panels)}."
    picture = context.picture("evaluations", figures.curves(panels, context.labels), alt)
    return Section("evaluations", heading, [text, picture])


def budgets(context: Context) -> Section:
    """pass@k and maj@k over k, of the last evaluation and, thin, of the first."""
    panels, heading = [], "Sampling budget: pass@k, maj@k"
    for benchmark in context.benchmarks:
        for kind in ("pass", "maj"):
            found = []
            for i, (_, runs) in enumerate(context.sets):
                steps = evaluated_steps(runs, benchmark)
                for step in dict.fromkeys((*steps[:1], *steps[-1:])):
                    by_k = _by_budget(estimates(evaluations_at(runs, benchmark, step), majority=True), kind)
                    if len(by_k) > 1:
                        found.append(Curve(i, _points(by_k), faded=step != steps[-1]))
            if found:
                panels.append(Panel(f"{benchmark}: {kind}@k", f"{kind}@k", found, "", (0, 1), _K, True, True))
    if not panels:
        why = {s.name: "no evaluation with several samples per problem" for s in context.sets}
        return context.nothing("budgets", heading, why)
    text = "At k = 1 a curve is mean@n; the mean accuracy of k samples, mean@k, is the same at every k."
    alt = f"{heading}: {', '.join(panel.title for panel in panels)}, over samples per problem."
    return Section("budgets", heading, [text, context.picture("budgets", figures.curves(panels, context.labels), alt)])


def differences(context: Context) -> Section:
    """Every set minus the first one, paired by seed or by problem."""
    baseline, heading = context.sets[0], "Paired differences"
    rows: list[Sequence[str]] = []
    panels: dict[str, Panel] = {}
    notes: list[tuple[str, str]] = []
    for i, other in enumerate(context.sets[1:], 1):
        try:
            both = pairs(baseline, other)
        except RunError as error:
            notes.append((other.name, str(error)))
            continue
        for benchmark in [b for b in context.benchmarks if any(b in run.evaluations for pair in both for run in pair)]:
            try:
                found = paired_scores(_last_evaluations(both, benchmark))
            except RunError as error:
                notes.append((other.name, f"{benchmark}: {error}"))
                continue
            rows += [_row(other.name, f"{benchmark}: {d.metric}", d) for d in found]
            for kind in ("pass", "maj"):
                by_k = _by_budget({d.metric: d.difference for d in found}, kind)
                if len(by_k) > 1:
                    title = f"{benchmark}: {kind}@k"
                    empty = Panel(title, f"difference of {kind}@k", [], "", (None, None), _K, True, True, True)
                    panels.setdefault(title, empty).curves.append(Curve(i, _points(by_k)))
        for metric in FINAL:
            difference = paired_finals(both, metric.key, metric.scale)
            if difference:
                rows.append(_row(other.name, metric.label, difference, metric.decimals))
            series = [(one.series(metric.key), two.series(metric.key)) for one, two in both]
            curve = band([{step: two[step] - one[step] for step in one if step in two} for one, two in series])
            if curve is not None and metric.key in _OVER_TRAINING:
                empty = Panel(metric.title, f"difference, {metric.unit}", [], zero=True)
                panels.setdefault(metric.key, empty).curves.append(Curve(i, scaled(curve, metric.scale)))
    context.missing += [(heading, name, note) for name, note in notes]
    content: list[Block] = [
        _PAIRING.format(baseline.name),
        *(f"{name}: {note}." for name, note in notes),
    ]
    if panels:
        alt = f"{heading} to {baseline.name}: {', '.join(panel.title for panel in panels.values())}."
        labels = [f"{s.name} − {baseline.name}" for s in context.sets]
        content.append(context.picture("differences", figures.curves(list(panels.values()), labels), alt))
    else:
        (context.directory / "differences.png").unlink(missing_ok=True)
    if rows:
        header = ("set", "metric", baseline.name, "the set", "difference", "p", "over")
        content.append(Table(header, rows, 2))
    return Section("differences", heading, content)


def verdicts(context: Context) -> Section:
    """Verdicts of the samples of the last evaluation."""
    rows: dict[str, dict[str, int]] = {}
    heading = "Verdicts in the last evaluation"
    for benchmark in context.benchmarks:
        for name, runs in context.sets:
            for step in evaluated_steps(runs, benchmark)[-1:]:
                found = evaluations_at(runs, benchmark, step)
                rows[f"{benchmark}: {name}"] = {str(v): sum(each.verdicts[v] for each in found) for v in Verdict}
    if not rows:
        return context.nothing("evaluation_verdicts", heading, {s.name: "no evaluation" for s in context.sets})
    names = [str(verdict) for verdict in Verdict if any(counts[verdict] for counts in rows.values())]
    table = Table(
        ("benchmark and set", *(name.replace("_", " ") for name in names)),
        [(label, *(str(counts[name]) for name in names)) for label, counts in rows.items()],
    )
    picture = context.picture(
        "evaluation_verdicts", stacks.verdicts(rows, names), f"{heading}, shares of the samples."
    )
    return Section("evaluation_verdicts", heading, ["Samples of all runs of a set.", picture, table])


def _last_evaluations(both: Sequence[tuple[Run, Run]], benchmark: str) -> list:
    """Of each pair of runs, each at the last step that all runs of its side have evaluated."""
    steps = [evaluated_steps(side, benchmark) for side in zip(*both, strict=True)]
    if not all(steps) or not all(benchmark in run.evaluations for pair in both for run in pair):
        raise RunError("not paired: not evaluated in both sets, or not by all seeds")
    return [(one.evaluations[benchmark][steps[0][-1]], two.evaluations[benchmark][steps[1][-1]]) for one, two in both]


def _points(values: Mapping[int, Estimate]) -> Band:
    steps, mean, low, high, n = np.array([(x, e.mean, e.low, e.high, e.n) for x, e in values.items()], dtype=float).T
    return Band(steps, mean, low, high, n)


def _by_budget(values: Mapping[str, Estimate], kind: str) -> dict[int, Estimate]:
    """k → estimate; at k = 1 each kind is the mean accuracy."""
    by_k = {1: values["mean"]} if "mean" in values else {}
    return by_k | {int(name.partition("@")[2]): e for name, e in values.items() if name.startswith(f"{kind}@")}


def _metric_name(name: str, samples: int) -> str:
    return f"mean@{samples}" if name == "mean" else name


def _row(set_name: str, metric: str, d: Difference, decimals: int = 3) -> Sequence[str]:
    over = f"{d.difference.n} {d.difference.units}" if d.difference.n > 1 else "1 seed: no interval"
    p = MISSING if np.isnan(d.p) else "<0.001" if d.p < 0.001 else number(d.p)
    sides = (number(d.first, decimals), number(d.second, decimals))
    return set_name, metric, *sides, interval(d.difference, decimals, "+"), p, over
