"""
The pictures of a report: data in, a matplotlib `Figure` out. Sets of runs are told apart by colour, dash and mark,
stacked parts by colour and hatch: for colour-blind readers, and in grey. A panel without data says so.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..objective.table import GROUPS
from ..output.terminal import printable
from ..palette import group_colour, group_label
from .runs import RunError


_WIDTH = 11.0  # inches, of three panels
_MAX_HEIGHT = 120.0  # inches, of some 120 panels
_styled = style.context(Path(__file__).with_name("report.mplstyle"))  # while a picture is made, and no longer
_HATCHES = ("", "//", "..", "xx", "\\\\", "oo", "++", "--")
_EDGES: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.3}  # of stacked parts
_FADED: dict[str, Any] = {"linewidth": 0.8, "alpha": 0.6, "marker": "."}
# Of sets of runs: Okabe and Ito's colours again, with dashes and marks for grey.
_SET_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_SET_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)))
_SET_MARKS = ("o", "^", "s", "D", "v", "P", "X")
_LOGARITHMIC = {"k": "samples per problem, k", "rates": "learning rate"}
_VERDICT_COLOURS = ("#009E73", "#D55E00", "#E69F00", "#999999", "#CC79A7", "#000000")


class Curve(NamedTuple):
    """A line of a panel: of which set, by its position, and whether it stands back behind the set's other one."""

    set: int
    points: pd.DataFrame  # `mean`, `low`, `high` by step or k; `width`, where a point is the mean of several steps
    faded: bool = False


class Panel(NamedTuple):
    """One axis."""

    title: str
    unit: str  # label of the y-axis
    curves: list[Curve]
    missing: str = ""  # which sets have no data here, and why
    bounds: tuple[float, float] = (-np.inf, np.inf)  # the axis goes no further
    over: str = "training"  # or "evaluations", or one of _LOGARITHMIC: few points, each with an error bar
    zero: bool = False  # a line at zero: differences


@_styled
def draw_curves(panels: Sequence[Panel], labels: Sequence[str]) -> Any:
    """A grid of panels, row by row, with one legend; `labels` are those of the sets, by their positions."""
    columns = min(len(panels), 2 if len(panels) in (2, 4) else 3)
    figure, axes = _grid(len(panels), columns, 0.6, 2.9, _WIDTH * max(columns, 2) / 3)
    for axis, panel in zip(axes, panels, strict=True):
        _draw_panel(axis, panel)
    curves = [curve for panel in panels for curve in panel.curves]
    handles = [(Line2D([], [], **_set_style(i)), labels[i]) for i in sorted({curve.set for curve in curves})]
    if any(curve.faded for curve in curves):
        handles.append((Line2D([], [], color="black", **_FADED), "thin: first evaluation"))
    _add_legend(figure, handles)
    return figure


@_styled
def draw_shares(columns: Mapping[str, list[pd.DataFrame] | str]) -> Any:
    """Stacked shares of the eight groups, from set → bands in per cent, in their order; or why there is none."""
    figure, axes = _grid(len(columns), min(len(columns), 3), 1.0, 3.2)
    areas = []
    for axis, (label, bands) in zip(axes, columns.items(), strict=True):
        axis.set_title(_shorten(label))
        if isinstance(bands, str):
            _say_missing(axis, bands)
            continue
        shares = pd.concat([points["mean"] for points in bands], axis=1)
        areas = axis.stackplot(shares.index, shares.T, colors=[*map(group_colour, GROUPS)], hatch=_HATCHES, **_EDGES)
        axis.set(xlabel=_step_label(bands[:1]), ylabel="% of tokens", ylim=(0, 100), xmargin=0)
    _add_legend(figure, [(area, group_label(group)) for area, group in zip(areas, GROUPS, strict=False)])
    return figure


@_styled
def draw_verdicts(counts: pd.DataFrame) -> Any:
    """Stacked bars: for each row the shares of its verdicts, the columns."""
    figure, (axis,) = _grid(1, 1, 1.0, 0.45 * len(counts))
    shares = 100 * counts.div(counts.sum(axis=1), axis=0)
    left = shares.cumsum(axis=1) - shares
    bars = [
        axis.barh(range(len(shares)), shares[name], left=left[name], color=colour, hatch=hatch, **_EDGES)
        for name, colour, hatch in zip(shares, _VERDICT_COLOURS, _HATCHES, strict=False)
    ]
    axis.set_yticks(range(len(shares)), [_shorten(label) for label in shares.index], fontsize=9)
    axis.invert_yaxis()
    axis.set(xlim=(0, 100), xlabel="% of samples")
    _add_legend(figure, list(zip(bars, shares, strict=False)))
    return figure


@_styled
def draw_differences(panels: Mapping[str, pd.DataFrame], xlabel: str) -> Any:
    """From title → `mean`, `low`, `high` by set: a panel each, with a mark and its interval per row, from the second
    set's style on, since the first is what they differ from."""
    rows = max(map(len, panels.values()))
    figure, axes = _grid(len(panels), min(len(panels), 2), 0.3, 0.9 + 0.35 * rows)
    for axis, (title, table) in zip(axes, panels.items(), strict=True):
        axis.set_title(printable(title))
        axis.axvline(0, color="black", linewidth=0.8)
        axis.grid(axis="x")
        for i, (_, each) in enumerate(table.iterrows()):
            errors = [[max(each["mean"] - each.low, 0)], [max(each.high - each["mean"], 0)]]
            axis.errorbar([each["mean"]], [i], xerr=errors, **_set_style(i + 1))
        axis.set_yticks(range(len(table)), [_shorten(label) for label in table.index], fontsize=9)
        axis.set(ylim=(len(table) - 0.5, -0.5), xlabel=xlabel)
        axis.xaxis.get_major_locator().set_params(integer=False)
    return figure


def _grid(n: int, columns: int, margin: float, height: float, width: float = _WIDTH) -> tuple[Any, Any]:
    """A figure of `n` axes in rows of this height, in inches, that draws to files alone."""
    rows = -(-n // columns)
    if margin + height * rows > _MAX_HEIGHT:
        raise RunError(f"{n} panels are too many for one picture: report fewer runs or benchmarks at once.")
    figure: Any = Figure(figsize=(width, margin + height * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, i) for i in range(1, n + 1)]
    for axis in axes:
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure, axes


def _draw_panel(axis: Any, panel: Panel) -> None:
    axis.set_title(printable(panel.title), pad=15 if panel.curves and panel.missing else 6)
    if not panel.curves:
        _say_missing(axis, panel.missing)
        return
    if panel.missing:
        note = textwrap.shorten(f"not logged: {panel.missing}", 52, placeholder=" …")
        text = axis.text(0, 1.02, note, transform=axis.transAxes, color="0.35", va="bottom", fontsize=7.5)
        text.set(style="italic", in_layout=False)  # or a long note would take the panels' room
    axis.set(xlabel=_step_label([curve.points for curve in panel.curves]), ylabel=panel.unit)
    axis.grid()
    if panel.zero:
        axis.axhline(0, color="black", linewidth=0.8)
    drawn = sorted({curve.set for curve in panel.curves})
    for curve in panel.curves:
        if panel.over == "training":
            _draw_band(axis, curve)
        else:
            _draw_marks(axis, curve, drawn.index(curve.set) - (len(drawn) - 1) / 2, panel.over)
    if panel.over in _LOGARITHMIC:
        axis.set_xlabel(_LOGARITHMIC[panel.over])
        axis.set_xscale("log", base=2)
        ticks = sorted({x for curve in panel.curves for x in curve.points.index})
        axis.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axis.minorticks_off()
    _bound(axis, panel)


def _draw_marks(axis: Any, curve: Curve, shift: float, over: str) -> None:
    """Marks of several sets stand side by side, by `shift`, so that their error bars do not hide each other."""
    style, points = _set_style(curve.set), curve.points
    x = points.index.to_numpy(float)
    x = x * 2 ** (0.06 * shift) if over in _LOGARITHMIC else x + 0.012 * (np.ptp(x) or 1.0) * shift
    errors = np.maximum([points["mean"] - points.low, points.high - points["mean"]], 0)  # round-off
    axis.errorbar(x, points["mean"], errors, **style | (_FADED if curve.faded else {}))


def _draw_band(axis: Any, curve: Curve) -> None:
    style, points, steps = _set_style(curve.set), curve.points, curve.points.index
    every = len(steps) // 8 if len(steps) > 20 else 1
    axis.plot(steps, points["mean"], markevery=(curve.set % every, every), clip_on=False, **style)
    axis.fill_between(steps, points.low, points.high, color=style["color"], alpha=0.15, linewidth=0)
    for edge in (points.low, points.high):  # the bands of two sets can be told apart in grey, too
        axis.plot(steps, edge, color=style["color"], linestyle=style["linestyle"], linewidth=0.6, alpha=0.6)
    gap = points["mean"].isna()
    alone = points["mean"][gap.shift(1, fill_value=True) & gap.shift(-1, fill_value=True)]  # where no line goes
    axis.plot(alone.index, alone, linestyle="none", marker=".", color=style["color"])


def _bound(axis: Any, panel: Panel) -> None:
    """The view: all means, and intervals as far as they leave the means readable and the metric can go."""
    low, high = axis.get_ylim()
    points = pd.concat([curve.points for curve in panel.curves])
    lowest, highest, largest = points["mean"].min(), points["mean"].max(), points["mean"].abs().max()
    if panel.bounds[0] == largest == 0:
        axis.set(ylim=(0, 1), yticks=[0])
        axis.text(0.5, 0.5, "all values are 0", transform=axis.transAxes, color="0.35", ha="center", fontsize=9)
        return
    halves = points.high - points["mean"]
    if panel.over == "training" and halves.sum():
        # A group with tokens in two seeds at one step has an interval there that would flatten all else.
        reach = max(2 * halves[halves > 0].quantile(0.9), 0.05 * (highest - lowest))
        low, high = max(low, lowest - reach), min(high, highest + reach)
    if high - low < 1e-6 * largest:  # constant but for round-off
        low, high = (points["mean"].mean() + 0.05 * largest * sign for sign in (-1, 1))
    margin = 0.0 if panel.over == "training" else 0.03 * (high - low)  # for marks at the bounds
    axis.set_ylim(max(low, panel.bounds[0] - margin), min(high, panel.bounds[1] + margin))


def _set_style(i: int) -> dict[str, Any]:
    """Colour, dash and mark of the i-th set of runs, as matplotlib takes them; the first 49 differ."""
    n = len(_SET_COLOURS)
    other = (i + i // n) % n  # from the eighth set on, colours meet other dashes and marks
    return {"color": _SET_COLOURS[i % n], "linestyle": _SET_DASHES[other], "marker": _SET_MARKS[other]}


def _step_label(bands: Sequence[pd.DataFrame]) -> str:
    """Label of an axis of steps, with how many of them a point is the mean of."""
    widths = {int(width) for band in bands for width in band.get("width", [1])}
    most = max(widths)
    return "optimizer step" + (f" (means of {'up to ' if len(widths) > 1 else ''}{most})" if most > 1 else "")


def _add_legend(figure: Any, handles: Sequence[tuple[Any, str]]) -> None:
    """Above everything. None is hidden for an underscore that its label begins with."""
    artists, labels = [artist for artist, _ in handles], [f" {_shorten(label)}" for _, label in handles]
    figure.legend(artists, labels, loc="outside upper left", ncols=4 if figure.get_figwidth() == _WIDTH else 2)


def _say_missing(axis: Any, why: str) -> None:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set(visible=True, color="0.8")
    lines = ["not logged", *textwrap.wrap(why, 40, max_lines=4, placeholder=" …")]
    style = {"transform": axis.transAxes, "color": "0.35", "ha": "center", "va": "center", "fontsize": 9}
    axis.text(0.5, 0.5, "\n".join(lines), in_layout=False, **style)


def _shorten(label: str) -> str:
    """A label of a run on one line, without its middle where it is long: runs differ at their ends."""
    label = printable(" ".join(label.split()))
    return label if len(label) <= 36 else f"{label[:17]}…{label[-18:]}"
