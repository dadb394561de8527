"""
The pictures of a report: data in, a matplotlib `Figure` out. Nothing is read, no global state, no window.

Sets of runs are told apart by colour, dash and mark, so that colour-blind readers can read every picture, and all can
in grey. A panel without data says so.
"""

import importlib.util
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..palette import set_style
from .estimates import Band


_WIDTH = 11.0  # inches, of three panels
_MAX_LABEL = 48


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
    xlabel: str = ""  # of what is not over optimizer steps
    points: bool = False  # few points, each with an error bar, rather than a band
    powers: bool = False  # x in powers of two
    zero: bool = False  # a line at zero: differences


def require_matplotlib() -> None:
    """Raise with the mend where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError("Reports need matplotlib: pip install 'htpo_trl[report]'.")


def new_figure(height: float, width: float = _WIDTH) -> Any:
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
    figure = new_figure(0.6 + 2.9 * rows, _WIDTH * max(columns, 2) / 3)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(panels) :]:
        axis.remove()
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, panel)
    drawn = sorted({curve.set for panel in panels for curve in panel.curves})
    handles = [_line(**set_style(i)) for i in drawn]
    names = [labels[i] for i in drawn]
    if any(curve.faded for panel in panels for curve in panel.curves):
        handles.append(_line(color="black", linewidth=0.8, alpha=0.6, marker="."))
        names.append("thin: first evaluation")
    add_legend(figure, handles, names)
    return figure


def _draw(axis: Any, panel: Panel) -> None:
    partly = bool(panel.curves and panel.missing)
    axis.set_title(panel.title, fontsize=10, loc="left", pad=15 if partly else 6, parse_math=False)
    if partly:
        note = textwrap.shorten(f"not logged: {panel.missing}", 64, placeholder=" …")
        add_text(axis, 0, 1.02, note, va="bottom", fontsize=7.5, style="italic")
    axis.spines[["top", "right"]].set_visible(False)
    if not panel.curves:
        say_missing(axis, panel.missing)
        return
    axis.set_xlabel(panel.xlabel or step_label([curve.band.width for curve in panel.curves]), fontsize=9)
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
    else:
        axis.xaxis.get_major_locator().set_params(integer=True)
    _bound(axis, panel)


def _curve(axis: Any, panel: Panel, curve: Curve, shift: float) -> None:
    """Points of several sets stand side by side, by `shift`, so that their error bars do not hide each other."""
    style = set_style(curve.set)
    mark = style.pop("marker")
    steps, mean, low, high, *_ = curve.band
    if panel.points:
        span = np.ptp(steps) or 1.0
        x = steps * 2 ** (0.06 * shift) if panel.powers else steps + 0.012 * span * shift
        errors = np.maximum([mean - low, high - mean], 0)  # round-off
        style |= {"linewidth": 0.8, "alpha": 0.6} if curve.faded else {"linewidth": 1.5}
        axis.errorbar(x, mean, errors, marker="." if curve.faded else mark, markersize=4, capsize=2, **style)
        return
    every = len(steps) // 8 if len(steps) > 20 else 1
    axis.plot(
        steps,
        mean,
        linewidth=1.5,
        marker=mark,
        markersize=4,
        markevery=(curve.set % every, every),
        clip_on=False,
        **style,
    )
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
        add_text(axis, 0.5, 0.5, "all values are 0", ha="center", fontsize=9)
        return
    halves = np.concatenate([curve.band.high - curve.band.mean for curve in panel.curves])
    if not panel.points and np.nansum(halves):
        # A group with tokens in two seeds at one step has an interval there that would flatten all else.
        reach = max(2 * np.nanquantile(halves[halves > 0], 0.9), 0.05 * (np.nanmax(means) - np.nanmin(means)))
        low, high = max(low, np.nanmin(means) - reach), min(high, np.nanmax(means) + reach)
    if high - low < 1e-6 * np.nanmax(np.abs(means)):  # constant but for round-off
        low, high = (np.nanmean(means) + 0.05 * np.nanmax(np.abs(means)) * sign for sign in (-1, 1))
    margin = 0.03 * (high - low) if panel.points else 0.0  # for marks at the bounds
    least, most = panel.bounds
    axis.set_ylim(
        low if least is None else max(low, least - margin), high if most is None else min(high, most + margin)
    )


def _line(**style: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], markersize=4, **style)


def step_label(widths: Sequence[int]) -> str:
    """Label of an axis of steps, with how many of them a point is the mean of."""
    most = max(widths)
    means = f" (means of {'up to ' if min(widths) < most else ''}{most})" if most > 1 else ""
    return f"optimizer step{means}"


def add_legend(figure: Any, handles: list[Any], labels: Sequence[str]) -> None:
    """Above everything. Labels come from runs: no formulas in them, and none is hidden for an underscore."""
    for handle, label in zip(handles, labels, strict=True):
        handle.set_label(f" {shorten(label)}")
    if handles:
        ncols = 4 if figure.get_figwidth() == _WIDTH else 2
        place = {"loc": "outside upper left", "ncols": ncols}
        legend = figure.legend(handles=handles, **place, frameon=False, fontsize=9, handlelength=3.5)
        for text in legend.get_texts():
            text.set_parse_math(False)


def say_missing(axis: Any, why: str) -> None:
    """An empty frame with the reason in it, instead of an empty axis."""
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_color("0.8")
    lines = ["not logged", *textwrap.wrap(why, 40, max_lines=4, placeholder=" …")]
    add_text(axis, 0.5, 0.5, "\n".join(lines), ha="center", va="center", fontsize=9)


def add_text(axis: Any, x: float, y: float, text: str, **kwargs: Any) -> None:
    """A remark in grey, in shares of the axis; never read as a formula."""
    axis.text(x, y, text, transform=axis.transAxes, parse_math=False, color="0.35", **kwargs)


def shorten(label: str) -> str:
    """A label of a run on one line, without its middle where it is long: runs differ at their ends."""
    label = " ".join(label.split())
    half = _MAX_LABEL // 2
    return label if len(label) <= _MAX_LABEL else f"{label[: half - 1]}…{label[-half:]}"
