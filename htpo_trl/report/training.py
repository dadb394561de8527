"""The sections of a report that are drawn from the training log."""

import numpy as np

from ..objective.table import GROUPS
from . import figures, stacks
from .context import Context, reasons
from .estimates import Band, band
from .figures import Curve, Panel
from .page import Section
from .panels import Curves, Metric, why_missing


def curves(context: Context, picture: Curves) -> Section:
    """Metrics over optimizer steps, a panel each."""
    drawn = [(metric, *_bands(context, metric)) for metric in picture.metrics]
    if not any(found for _, found, _ in drawn):
        why = {s.name: why_missing(s.runs, picture.metrics[0].key) for s in context.sets}
        return context.nothing(picture.name, picture.heading, why)
    panels = []
    lacking: list[tuple[str, str, str]] = []  # set, reason, metric
    for metric, found, why in drawn:
        if metric.optional and not found:
            continue
        lacking += [(name, reason, metric.title) for name, reason in why.items()]
        for curve in found:
            name, runs = context.sets[curve.set]
            if (fewest := np.nanmin(curve.band.n)) < len(runs):
                n = f"{fewest:.0f} to {np.nanmax(curve.band.n):.0f} of {len(runs)} runs at a point"
                lacking.append((name, n if len(runs) > 1 else "steps without a value", metric.title))
        panels.append(Panel(metric.title, metric.unit, found, reasons(why, len(context.sets)), metric.bounds))
    for name, reason in dict.fromkeys((name, reason) for name, reason, _ in lacking):
        titles = [title for *key, title in lacking if key == [name, reason]]
        context.missing.append((picture.heading, name, f"{reason}: {', '.join(titles)}"))
    alt = f"{picture.heading}, over optimizer steps: {', '.join(panel.title for panel in panels)}."
    png = context.picture(picture.name, figures.curves(panels, context.labels), alt)
    return Section(picture.name, picture.heading, [picture.caption, png])


def _bands(context: Context, metric: Metric) -> tuple[list[Curve], dict[str, str]]:
    """The bands of the sets that logged a metric, and why the others did not."""
    found, why = [], {}
    for i, (name, runs) in enumerate(context.sets):
        each = band(run.series(metric.key) for run in runs)
        if each is None:
            why[name] = why_missing(runs, metric.key)
        else:
            found.append(Curve(i, scaled(each, metric.scale)))
    return found, why


def scaled(each: Band, factor: float) -> Band:
    """The band in another unit."""
    return each._replace(mean=factor * each.mean, low=factor * each.low, high=factor * each.high)


def shares(context: Context) -> Section:
    """Shares of the eight groups, stacked: a column per set."""
    heading = "Shares of the eight groups"
    columns: dict[str, dict[str, Band] | str] = {}
    why: dict[str, str] = {}
    for label, (name, runs) in zip(context.labels, context.sets, strict=True):
        bands = {group: band(run.series(f"htpo/share/{group}") for run in runs) for group in GROUPS}
        found = {group: each for group, each in bands.items() if each is not None}
        if len(found) == len(GROUPS):
            columns[label] = found
        else:
            columns[label] = why[name] = why_missing(runs, f"htpo/share/{GROUPS[0]}")
    if len(why) == len(context.sets):
        return context.nothing("shares", heading, why)
    context.missing += [(heading, name, reason) for name, reason in why.items()]
    text = (
        "By difficulty of the prompt, correctness of the response and entropy of the token; means over a set's runs."
    )
    picture = context.picture("shares", stacks.shares(columns), f"{heading}, stacked, over optimizer steps.")
    return Section("shares", heading, [text, picture])
