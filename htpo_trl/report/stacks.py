"""The stacked pictures of a report: shares of the eight groups, and verdicts. Told apart by colour and hatch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..objective.table import GROUPS
from ..palette import group_colour, group_label
from .estimates import Band
from .figures import add_legend, new_figure, say_missing, shorten, step_label


_HATCHES = ("", "//", "..", "xx", "\\\\", "oo", "++", "--")
_VERDICT_COLOURS = ("#009E73", "#D55E00", "#E69F00", "#999999", "#CC79A7", "#000000")


def shares(columns: Mapping[str, Mapping[str, Band] | str]) -> Any:
    """
    Stacked shares of the eight groups, one column per set of runs.

    Args:
        columns (`Mapping`):
            Label → group of `GROUPS` → its share over steps, in 0..1; or why there is none.
    """
    per_row = min(len(columns), 3)
    rows = -(-len(columns) // per_row)
    figure = new_figure(1.0 + 3.2 * rows)
    axes = figure.subplots(rows, per_row, squeeze=False).ravel()
    for axis in axes[len(columns) :]:
        axis.remove()
    for axis, (label, data) in zip(axes, columns.items(), strict=False):
        axis.set_title(shorten(label), fontsize=10, loc="left", parse_math=False)
        if isinstance(data, str):
            say_missing(axis, data)
            continue
        first = data[GROUPS[0]]
        areas = axis.stackplot(first.steps, [100 * data[group].mean for group in GROUPS])
        for area, group, hatch in zip(areas, GROUPS, _HATCHES, strict=True):
            area.set(facecolor=group_colour(group), edgecolor="white", hatch=hatch, linewidth=0.3)
        axis.set(ylim=(0, 100), xlim=(first.steps[0], max(first.steps[-1], first.steps[0] + 1)))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlabel(step_label([first.width]), fontsize=9)
        axis.set_ylabel("% of tokens", fontsize=9)
        axis.tick_params(labelsize=8)
    handles = [
        _patch(facecolor=group_colour(group), edgecolor="white", hatch=hatch, linewidth=0.3)
        for group, hatch in zip(GROUPS, _HATCHES, strict=True)
    ]
    add_legend(figure, handles, [group_label(group) for group in GROUPS])
    return figure


def verdicts(rows: Mapping[str, Mapping[str, int]], names: Sequence[str]) -> Any:
    """Stacked bars: for each label of `rows` the shares of the verdicts `names`, from their counts."""
    figure = new_figure(1.0 + 0.45 * len(rows))
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    left = np.zeros(len(rows))
    for name, colour, hatch in zip(names, _VERDICT_COLOURS, _HATCHES, strict=False):
        widths = np.array([100 * counts.get(name, 0) / sum(counts.values()) for counts in rows.values()])
        axis.barh(range(len(rows)), widths, left=left, color=colour, hatch=hatch, edgecolor="white", linewidth=0.3)
        left += widths
    axis.set_yticks(range(len(rows)), [shorten(label) for label in rows], fontsize=9)
    for tick in axis.get_yticklabels():
        tick.set_parse_math(False)
    axis.invert_yaxis()
    axis.set(xlim=(0, 100))
    axis.set_xlabel("% of samples", fontsize=9)
    handles = [
        _patch(facecolor=colour, edgecolor="white", hatch=hatch, linewidth=0.3)
        for _, colour, hatch in zip(names, _VERDICT_COLOURS, _HATCHES, strict=False)
    ]
    add_legend(figure, handles, [name.replace("_", " ") for name in names])
    return figure


def _patch(**kwargs: Any) -> Any:
    from matplotlib.patches import Patch

    return Patch(**kwargs)
