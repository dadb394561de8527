"""
The pictures of a report: data in, a matplotlib `Figure` out. Nothing is read, no global state, no window.

Sets of runs are told apart by colour, dash and mark, groups and verdicts by colour and hatch, so that colour-blind
readers can read every picture, and all can in grey. A panel without data says so.
"""

import importlib.util
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..objective import GROUPS
from ..palette import SET_COLOURS, SET_DASHES, SET_MARKS, group_colour, group_label
from .estimates import Band


WIDTH = 11.0  # inches, of three panels
MAX_LABEL = 48
HATCHES = ("", "//", "..", "xx", "\\\\", "oo", "++", "--")
VERDICT_COLOURS = ("#009E73", "#D55E00", "#E69F00", "#999999", "#CC79A7", "#000000")


class Curve(NamedTuple):
    """A line of a panel: of which set, by its position, and whether it stands back behind the set's other one."""

    set: int
    band: Band
    faded: bool = False


class Panel(NamedTuple):
    """One axis: curves over steps, or over what `xlabel` says."""

    title: str
    unit: str  # label of the y-axis
    curves: list[Curve]
    missing: str = ""  # which sets have no data here, and why
    bounds: tuple[float | None, float | None] = (None, None)  # the axis goes no further
    xlabel: str = "optimizer step"
    points: bool = False  # few points, each with an error bar, rather than a band
    powers: bool = False  # x in powers of two
    zero: bool = False  # a line at zero: differences


def require_matplotlib() -> None:
    """Raise with the mend where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError("Reports need matplotlib: pip install 'htpo_trl[report]'.")


def new_figure(height: float, width: float = WIDTH) -> Any:
    """An empty figure, in inches, that draws to files alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def curves(panels: Sequence[Panel], labels: Sequence[str]) -> Any:
    """
    A grid of panels with one legend.

    Args:
        panels (`Sequence[Panel]`):
            What to draw, row by row.
        labels (`Sequence[str]`):
            Of the sets, by their positions.
    """
    columns = min(len(panels), 2 if len(panels) in (2, 4) else 3)
    rows = -(-len(panels) // columns)
    figure = new_figure(0.6 + 2.9 * rows, WIDTH * max(columns, 2) / 3)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(panels) :]:
        axis.remove()
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, panel)
    drawn = sorted({curve.set for panel in panels for curve in panel.curves})
    handles = [_line(i, marker=SET_MARKS[i % len(SET_MARKS)]) for i in drawn]
    names = [labels[i] for i in drawn]
    if any(curve.faded for panel in panels for curve in panel.curves):
        handles.append(_line(6, linewidth=0.8, alpha=0.6, marker=".", linestyle="-"))
        names.append("thin: first evaluation")
    _legend(figure, handles, names)
    return figure


def _draw(axis: Any, panel: Panel) -> None:
    partly = bool(panel.curves and panel.missing)
    axis.set_title(panel.title, fontsize=10, loc="left", pad=15 if partly else 6, parse_math=False)
    if partly:
        note = textwrap.shorten(f"not logged: {panel.missing}", 64, placeholder=" …")
        _text(axis, 0, 1.02, note, va="bottom", color="0.35", fontsize=7.5, style="italic")
    axis.spines[["top", "right"]].set_visible(False)
    if not panel.curves:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_color("0.8")
        _text(axis, 0.5, 0.5, _not_logged(panel.missing), ha="center", va="center", color="0.35", fontsize=9)
        return
    widths = [curve.band.width for curve in panel.curves]
    means = f" (means of {'up to ' if min(widths) < max(widths) else ''}{max(widths)})" if max(widths) > 1 else ""
    axis.set_xlabel(panel.xlabel + means, fontsize=9)
    axis.set_ylabel(panel.unit, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    if panel.zero:
        axis.axhline(0, color="black", linewidth=0.8)
    drawn = sorted({curve.set for curve in panel.curves})
    for curve in panel.curves:
        _curve(axis, panel, curve, drawn.index(curve.set) - (len(drawn) - 1) / 2)
    if panel.powers:
        axis.set_xscale("log", base=2)
        ks = sorted({int(k) for curve in panel.curves for k in curve.band.steps})
        axis.set_xticks(ks, [str(k) for k in ks])
        axis.minorticks_off()
    _bound(axis, panel)


def _curve(axis: Any, panel: Panel, curve: Curve, shift: float) -> None:
    """Points of several sets stand side by side, by `shift`, so that their error bars do not hide each other."""
    style: dict[str, Any] = {
        "color": SET_COLOURS[curve.set % len(SET_COLOURS)],
        "linestyle": SET_DASHES[curve.set % len(SET_DASHES)],
    }
    mark = SET_MARKS[curve.set % len(SET_MARKS)]
    steps, mean, low, high, *_ = curve.band
    if panel.points:
        span = np.ptp(steps) or 1.0
        x = steps * 2 ** (0.06 * shift) if panel.powers else steps + 0.012 * span * shift
        errors = np.nan_to_num(np.stack([mean - low, high - mean]))
        style |= {"linewidth": 0.8, "alpha": 0.6} if curve.faded else {"linewidth": 1.5}
        axis.errorbar(x, mean, errors, marker="." if curve.faded else mark, markersize=4, capsize=2, **style)
        return
    every = len(steps) // 8 if len(steps) > 20 else 1
    axis.plot(steps, mean, linewidth=1.5, marker=mark, markersize=4, markevery=(curve.set % every, every), **style)
    axis.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
    for edge in (low, high):  # the bands of two sets can be told apart in grey, too
        axis.plot(steps, edge, color=style["color"], linestyle=style["linestyle"], linewidth=0.6, alpha=0.6)
    present = np.concatenate([[False], ~np.isnan(mean), [False]])
    alone = present[1:-1] & ~present[:-2] & ~present[2:]  # between two gaps, where no line goes
    axis.plot(steps[alone], mean[alone], linestyle="none", marker=".", markersize=4, color=style["color"])


def _bound(axis: Any, panel: Panel) -> None:
    """The view: all means, and intervals as far as they leave the means readable and the metric can go."""
    low, high = axis.get_ylim()
    means = np.concatenate([curve.band.mean for curve in panel.curves])
    if not panel.zero and panel.bounds[0] == 0 and np.nanmax(np.abs(means)) == 0:
        axis.set(ylim=(0, 1), yticks=[0])
        _text(axis, 0.5, 0.5, "0 at every step that was logged", ha="center", color="0.35", fontsize=9)
        return
    halves = np.concatenate([curve.band.high - curve.band.mean for curve in panel.curves])
    if not panel.points and np.nansum(halves):
        # A group with tokens in two seeds at one step has an interval there that would flatten all else.
        reach = max(2 * np.nanquantile(halves[halves > 0], 0.9), 0.05 * (np.nanmax(means) - np.nanmin(means)))
        low, high = max(low, np.nanmin(means) - reach), min(high, np.nanmax(means) + reach)
    margin = 0.03 * (high - low) if panel.points else 0.0  # for marks at the bounds
    least, most = panel.bounds
    axis.set_ylim(
        low if least is None else max(low, least - margin), high if most is None else min(high, most + margin)
    )


def shares(columns: Mapping[str, tuple[Sequence[float], Mapping[str, Sequence[float]]] | str]) -> Any:
    """
    Stacked shares of the eight groups, one column per set of runs.

    Args:
        columns (`Mapping`):
            Label → steps and, for each group of `GROUPS`, the share at each step, in 0..1; or why there are none.
    """
    per_row = min(len(columns), 3)
    rows = -(-len(columns) // per_row)
    figure = new_figure(1.0 + 3.2 * rows)
    axes = figure.subplots(rows, per_row, squeeze=False).ravel()
    for axis in axes[len(columns) :]:
        axis.remove()
    for axis, (label, data) in zip(axes, columns.items(), strict=False):
        axis.set_title(_short(label), fontsize=10, loc="left", parse_math=False)
        if isinstance(data, str):
            axis.set(xticks=[], yticks=[])
            _text(axis, 0.5, 0.5, _not_logged(data), ha="center", va="center", color="0.35", fontsize=9)
            continue
        steps, values = data
        for area, group, hatch in zip(
            axis.stackplot(steps, [100 * np.asarray(values[group]) for group in GROUPS]), GROUPS, HATCHES, strict=True
        ):
            area.set(facecolor=group_colour(group), edgecolor="white", hatch=hatch, linewidth=0.3)
        axis.set(ylim=(0, 100), xlim=(steps[0], steps[-1] if steps[-1] > steps[0] else steps[0] + 1))
        axis.set_xlabel("optimizer step", fontsize=9)
        axis.set_ylabel("% of tokens", fontsize=9)
        axis.tick_params(labelsize=8)
    handles = [
        _patch(facecolor=group_colour(group), edgecolor="white", hatch=hatch, linewidth=0.3)
        for group, hatch in zip(GROUPS, HATCHES, strict=True)
    ]
    _legend(figure, handles, [group_label(group) for group in GROUPS])
    return figure


def verdicts(rows: Mapping[str, Mapping[str, int]], names: Sequence[str]) -> Any:
    """Stacked bars: for each label of `rows` the shares of the verdicts `names`, from their counts."""
    figure = new_figure(1.0 + 0.45 * len(rows))
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    left = np.zeros(len(rows))
    for name, colour, hatch in zip(names, VERDICT_COLOURS, HATCHES, strict=False):
        widths = np.array([100 * counts.get(name, 0) / sum(counts.values()) for counts in rows.values()])
        axis.barh(range(len(rows)), widths, left=left, color=colour, hatch=hatch, edgecolor="white", linewidth=0.3)
        left += widths
    axis.set_yticks(range(len(rows)), [_short(label) for label in rows], fontsize=9)
    for tick in axis.get_yticklabels():
        tick.set_parse_math(False)
    axis.invert_yaxis()
    axis.set(xlim=(0, 100))
    axis.set_xlabel("% of samples", fontsize=9)
    handles = [
        _patch(facecolor=colour, edgecolor="white", hatch=hatch, linewidth=0.3)
        for _, colour, hatch in zip(names, VERDICT_COLOURS, HATCHES, strict=False)
    ]
    _legend(figure, handles, [name.replace("_", " ") for name in names])
    return figure


def _line(i: int, **kwargs: Any) -> Any:
    from matplotlib.lines import Line2D

    style: dict[str, Any] = {
        "color": SET_COLOURS[i % len(SET_COLOURS)],
        "linestyle": SET_DASHES[i % len(SET_DASHES)],
        "markersize": 4,
    }
    return Line2D([], [], **{**style, **kwargs})


def _patch(**kwargs: Any) -> Any:
    from matplotlib.patches import Patch

    return Patch(**kwargs)


def _legend(figure: Any, handles: list[Any], labels: Sequence[str]) -> None:
    """Above everything. Labels come from runs: no formulas in them, and none is hidden for an underscore."""
    for handle, label in zip(handles, labels, strict=True):
        handle.set_label(f" {_short(label)}")
    if handles:
        legend = figure.legend(
            handles=handles,
            loc="outside upper left",
            ncols=4 if figure.get_figwidth() == WIDTH else 2,
            frameon=False,
            fontsize=9,
            handlelength=3.5,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)


def _not_logged(why: str) -> str:
    return "\n".join(["not logged", *textwrap.wrap(why, 40, max_lines=4, placeholder=" …")])


def _text(axis: Any, x: float, y: float, text: str, **kwargs: Any) -> None:
    axis.text(x, y, text, transform=axis.transAxes, parse_math=False, **kwargs)


def _short(label: str) -> str:
    label = " ".join(label.split())
    return label if len(label) <= MAX_LABEL else f"{label[: MAX_LABEL - 1]}…"
