"""
The figures of the docs.

    python -m docs.figures                                     # all that the pages show, into docs/images
    python -m docs.figures aspo --output_dir runs/figures      # the table and the gradient of another preset

Each image carries its numbers (`figure_data.py`), which `test_docs_figures.py` compares with the code.
"""

import argparse
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import FixedLocator, NullLocator

from htpo_trl.objective import GROUPS, PRESETS, Clip, Detach
from htpo_trl.palette import HUES, group_colour, group_label, ink

from .figure_data import (
    DELTA,
    EDGES,
    EPSILON_HIGH,
    EPSILON_LOW,
    FAMILIES,
    LENGTHS,
    RANKED_LENGTH,
    counts_data,
    detached_data,
    family_data,
    gradient_data,
    objective_data,
)


IMAGES = Path(__file__).parent / "images"
WIDTH = 8.2  # inches; a page of the site shows it at about 90 pixels per inch
GREY = "#a0a0a0"
WEIGHT_TICKS = [-20, -10, -5, -2, -1, -0.5, 0, 0.5, 1, 2, 5, 10]


def figures(*presets: str) -> dict[str, tuple[Callable[[Any], Figure], Any]]:
    """By file name: how to draw it, and its numbers. Without `presets`, all the figures of the pages."""
    if presets:
        tables = [PRESETS[name] for name in presets]
        drawn: dict[str, tuple[Callable[[Any], Figure], Any]] = {
            f"objective-{table.name}": (draw_objective, objective_data(table)) for table in tables
        }
        changed = [table for table in tables if set(table.rows) != {Clip()}]
        return drawn | {f"gradient-{table.name}": (draw_gradient, gradient_data(table)) for table in changed}
    htpo, released = PRESETS["htpo"], PRESETS["htpo-released"]
    neighbours = (PRESETS["high-entropy-only"], PRESETS["gppo"], PRESETS["aspo"])
    return {
        "objective-htpo": (draw_objective, objective_data(htpo)),
        "gradient-htpo": (draw_gradient, gradient_data(htpo)),
        "gradient-htpo-released": (draw_gradient, gradient_data(released)),
        "gradient-neighbours": (draw_gradient, gradient_data(*neighbours)),
        "detached-htpo": (draw_detached, detached_data(htpo)),
        "detached-counts": (draw_counts, counts_data(htpo, released)),
        **{f"weights-{family}": (draw_family, family_data(family)) for family in FAMILIES[1:]},
    }


def _figure(width: float, height: float, **kwargs) -> Figure:
    figure = Figure(figsize=(width, height), dpi=150, **kwargs)
    FigureCanvasAgg(figure)  # draws to files alone: no window, no global state
    return figure


def draw_objective(rows: dict[str, str]) -> Figure:
    """The table as a tree: difficulty, correctness, entropy, objective."""
    figure = _figure(WIDTH, 6.2)
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(8.6, -0.2))
    axis.axis("off")
    columns = (0.15, 1.5, 2.95, 4.55)
    for x, title in zip(columns, ("prompt", "response", "token entropy", "objective (maximised)"), strict=True):
        axis.text(x, 0.12, title, weight="bold", va="center")
    places: dict[str, list[float]] = {}
    for i, group in enumerate(GROUPS):
        names = group.split("_")
        for depth in (1, 2, 3):
            places.setdefault("_".join(names[:depth]), []).append(i + 0.98)
    for name, ys in places.items():
        parent, _, label = name.rpartition("_")
        depth, y = name.count("_"), sum(ys) / len(ys)
        if parent:
            start = sum(places[parent]) / len(places[parent])
            axis.plot(
                (columns[depth - 1] + 0.95, columns[depth] - 0.08), (start, y), color=GREY, linewidth=1.2, zorder=0
            )
        edge = HUES.get("_".join(name.split("_")[:2]), "#000000") if depth else "#000000"
        box = FancyBboxPatch(
            (columns[depth], y - 0.24), 0.87, 0.48, boxstyle="round,pad=0.06", ec=edge, fc="white", lw=1.6
        )
        axis.add_patch(box)
        if depth == 2:
            axis.add_patch(Rectangle((columns[depth], y - 0.2), 0.22, 0.4, color=group_colour(name)))
        axis.text(columns[depth] + (0.58 if depth == 2 else 0.435), y, label, ha="center", va="center")
    for i, text in enumerate(rows.values()):
        changed = text != str(Clip())
        axis.text(columns[3] - 0.25, i + 0.98, str(i + 1), ha="center", va="center", color="#505050")
        lines = [text] if len(text) < 50 else re.split(r"(?<=,) (?=in range|r [<>])| (?=if )", text)
        axis.text(
            columns[3],
            i + 0.98,
            "\n".join(lines),
            va="center",
            fontsize=9,
            linespacing=1.2,
            color="#000000" if changed else "#606060",
        )
    return figure


def draw_gradient(curves: dict[str, Any]) -> Figure:
    """One column per curve, above for Â > 0, below for Â < 0; plain PPO-clip behind."""
    names = [name for name in curves if name not in ("ratio", "J_PPO")]
    figure = _figure(max(0.9 + (WIDTH - 0.9) / 3 * len(names), 5), 6, layout="constrained")
    axes = figure.subplots(2, len(names), sharex=True, sharey=True, squeeze=False)
    for (row, sign), (column, name) in itertools.product(enumerate(("Â > 0", "Â < 0")), enumerate(names)):
        axis = axes[row, column]
        clip_range = axis.axvspan(1 - EPSILON_LOW, 1 + EPSILON_HIGH, color="#e4e4e4", zorder=0)
        axis.axhline(0, color="#c8c8c8", linewidth=0.8, zorder=1)
        if sign == "Â < 0":
            dual_clip = axis.axvline(DELTA, color="#000000", linestyle=":", linewidth=1.2, zorder=1)
        for piece, plain, weights in zip(curves["ratio"], curves["J_PPO"][sign], curves[name][sign], strict=True):
            (behind,) = axis.plot(piece, plain, color=GREY, linewidth=5, solid_capstyle="butt")
            (front,) = axis.plot(piece, weights, color=HUES["hard_correct"], linewidth=1.8)
        axis.set(xscale="log", xlim=(EDGES[0], EDGES[-1]))
        axis.set_yscale("asinh", linear_width=0.4)
        axis.xaxis.set(major_locator=FixedLocator([0.1, 0.3, 1, 3, 10]), minor_locator=NullLocator())
        axis.yaxis.set(major_locator=FixedLocator(WEIGHT_TICKS), minor_locator=NullLocator())
        axis.xaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.spines[["top", "right"]].set_visible(False)
        if curves[name][sign] == curves["J_PPO"][sign]:
            axis.text(0.03, 0.95, "no change", transform=axis.transAxes, va="top", style="italic")
        if row == 0:
            axis.set_title(_curve_title(name), fontsize=10)
        else:
            axis.set_xlabel("importance ratio r = π/π_old")
        if column == 0:
            axis.set_ylabel(f"{sign}\nweight of ∇log π (in units of Â)")
    labels = (
        "plain PPO-clip",
        "the group's objective",
        f"clip range, {1 - EPSILON_LOW:g} to {1 + EPSILON_HIGH:g}",
        f"dual clip, δ = {DELTA:g}",
    )
    columns = 4 if len(names) > 2 else 2
    handles = (behind, front, clip_range, dual_clip)
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)
    return figure


def draw_family(curves: dict[str, Any]) -> Figure:
    """A panel per objective: its weight for Â > 0 and for Â < 0."""
    names = [name for name in curves if name != "ratio"]
    columns = 4 if len(names) > 4 else len(names)
    rows = -(-len(names) // columns)
    figure = _figure(WIDTH, 0.7 + 2.1 * rows, layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axis, name in itertools.zip_longest(axes, names):
        if name is None:
            axis.axis("off")
            continue
        clip_range = axis.axvspan(1 - EPSILON_LOW, 1 + EPSILON_HIGH, color="#e4e4e4", zorder=0)
        lines = [
            axis.plot(curves["ratio"], curves[name][sign], color=colour, linestyle=style, linewidth=width)[0]
            for sign, colour, style, width in (
                ("Â > 0", HUES["hard_correct"], "-", 2.6),
                ("Â < 0", "#000000", (0, (3, 1.5)), 1.3),
            )
        ]
        axis.set(xscale="log", xlim=(EDGES[0], EDGES[-1]))
        axis.set_yscale("asinh", linear_width=0.4)
        axis.set_title(name, fontsize=9)
        axis.xaxis.set(major_locator=FixedLocator([0.1, 1, 10]), minor_locator=NullLocator())
        axis.yaxis.set(major_locator=FixedLocator([-2, -1, 0, 1, 2, 5, 20]), minor_locator=NullLocator())
        axis.xaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("importance ratio r = π/π_old", fontsize=9)
    figure.supylabel("weight of ∇log π (in units of Â)", fontsize=9)
    labels = ("Â > 0", "Â < 0", f"clip range, {1 - EPSILON_LOW:g} to {1 + EPSILON_HIGH:g}")
    figure.legend((*lines, clip_range), labels, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _curve_title(name: str) -> str:
    """`htpo: hard_wrong_high easy_wrong_high` as `htpo`, `groups 4 and 8`, and what they have in common."""
    preset, _, groups = name.partition(": ")
    members = groups.split()
    if len(members) == len(GROUPS):
        return f"{preset}\nall groups\n"
    numbers = " and ".join(", ".join(str(GROUPS.index(group) + 1) for group in members).rsplit(", ", 1))
    detached = all(isinstance(PRESETS[preset].rows[GROUPS.index(group)], Detach) for group in members)
    parts = zip(*(group.split("_") for group in members), strict=True)
    what = "a detached token" if detached else " · ".join(part[0] for part in parts if len(set(part)) == 1)
    return f"{preset}\ngroup{'s' * (len(members) > 1)} {numbers}\n{what}"


def draw_detached(runs: dict[str, list]) -> Figure:
    """The ranking of a response's tokens by entropy, its two ends enlarged, with what is detached."""
    figure = _figure(WIDTH, 3.4, layout="constrained")
    left, middle, right = figure.subplots(1, 3, sharey=True, width_ratios=(1, 1.3, 1), gridspec_kw={"wspace": 0.08})
    for axis, ticks, title in (
        (left, (0, 0.4, 0.8, 1.2), "the lowest 1.2%"),
        (middle, (0, 20, 40, 60, 80, 100), "all tokens of a response"),
        (right, (98.8, 99.2, 99.6, 100), "the highest 1.2%"),
    ):
        for y, row in enumerate(runs.values()):
            for first, end, group, effect in row:
                low, high = 100 * first / RANKED_LENGTH, 100 * end / RANKED_LENGTH
                bar = {"y": y, "width": high - low, "left": low, "height": 0.62}
                if effect is None:
                    axis.barh(**bar, color=group_colour(group))
                else:
                    axis.barh(**bar, color="white", edgecolor="black", hatch="////", linewidth=1.2)
                if axis is middle and effect is None:
                    axis.text(
                        20 if low < 80 else 90,
                        y,
                        group.rpartition("_")[2],
                        ha="center",
                        va="center",
                        color=ink(group_colour(group)),
                    )
                if axis is not middle and effect and ticks[0] <= low and high <= ticks[-1]:
                    text = f"{end - first} of {RANKED_LENGTH}\ndetached"
                    x, side = (high + 0.04, "left") if axis is left else (low - 0.04, "right")
                    axis.text(x, y, text, va="center", ha=side, fontsize=9, color=ink(group_colour(group)))
        axis.set(xlim=(ticks[0], ticks[-1]), xticks=ticks)
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(left=False)
    left.set_yticks(range(len(runs)), list(runs))
    left.invert_yaxis()
    middle.set_xlabel("place of a token in the order of entropies, lowest first (% of the response's tokens)")
    return figure


def draw_counts(counts: dict[str, dict[str, list]]) -> Figure:
    """Detached tokens by response length."""
    figure = _figure(WIDTH, 3.4, layout="constrained")
    styles = {"linewidth": 5, "color": GREY}, {"linewidth": 1.6, "color": "#000000", "linestyle": "--"}
    for axis, (group, tables) in zip(figure.subplots(1, 2, sharey=True), counts.items(), strict=True):
        for (name, steps), style in zip(tables.items(), styles, strict=True):
            lengths, numbers = zip(*steps, (LENGTHS, steps[-1][1]), strict=True)
            axis.step(lengths, numbers, where="post", label=name, **style)
            if (name, steps[0][1]) == ("htpo", 0):
                first = steps[1][0]
                axis.annotate(
                    f"{first} tokens",
                    (first, 0.5),
                    xytext=(-5, 0),
                    textcoords="offset points",
                    fontsize=9,
                    ha="right",
                    va="center",
                )
        rule = PRESETS["htpo"].rows[GROUPS.index(group)]
        axis.set_title(f"{group_label(group)}: the {rule.which} {100 * rule.share:g}%", fontsize=10)
        axis.set(xlabel="length of the response (tokens)", xlim=(0, LENGTHS), yticks=range(6))
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, loc="upper left")
    figure.axes[0].set_ylabel("detached tokens of the response")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "presets", nargs="*", metavar="PRESET", help=f"Of {', '.join(PRESETS)}; else those of the pages."
    )
    parser.add_argument("--output_dir", type=Path, default=IMAGES)
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.presets) - set(PRESETS)):
        parser.error(f"no preset {', '.join(unknown)}; the presets are {', '.join(PRESETS)}.")
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    for name, (draw, data) in figures(*arguments.presets).items():
        path = arguments.output_dir / f"{name}.png"
        draw(data).savefig(path, metadata={"Data": json.dumps(data)})
        print(path)


if __name__ == "__main__":
    main()
