"""What sections are made of, numbers as text, and the page as HTML: `page.html.jinja`, which escapes every text."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..utils import write_atomically
from .panels import Outline, outlines, why_missing
from .pictures import Panel, draw_curves
from .sets import RunSet


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
        self.sets, self.directory, self.outlines = sets, directory, outlines(sets)
        self.final = [metric for outline in self.outlines for metric in outline.metrics if metric.final]
        self.labels = [s.label for s in sets]
        self.benchmarks = list(dict.fromkeys(b for _, runs in sets for run in runs for b in run.evaluations))
        # Benchmark, position of the set, step → its evaluations.
        evaluated = [(b, i, s.evaluations(b)) for b in self.benchmarks for i, s in enumerate(sets)]
        self.evaluated = [each for each in evaluated if each[-1]]
        self.missing: list[tuple[str, str, str]] = []  # section, set, what is missing and why
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
        if len(why) == len(self.sets) and len(set(why.values())) == 1:
            return next(iter(why.values()))
        return "; ".join(f"{name}: {reason}" for name, reason in why.items())


def render(title: str, sections: Sequence[tuple[Outline, Sequence[Block]]]) -> str:
    """The page, self-contained: no script, nothing from the network."""
    files = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=files, autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html.jinja").render(title=title, sections=sections)


def difference_texts(d: Mapping[str, Any], decimals: int = 3) -> tuple[str | None, ...]:
    """Of a difference: both sides, the interval, p, and what it is over."""
    over = f"{d['n']} {d['units']}" if d["n"] > 1 else "1 seed: no interval"
    p = None if pd.isna(d["p"]) else "<0.001" if d["p"] < 0.001 else number_text(d["p"])
    sides = (number_text(d[side], decimals) for side in ("first", "second"))
    return *sides, interval_text(d, decimals, "+"), p, over


def interval_text(e: Mapping[str, Any] | None, decimals: int = 3, sign: str = "") -> str | None:
    """`0.512 [0.480, 0.544]`, or the mean alone where there is no interval; `sign` is `"+"` for differences."""
    if e is None or pd.isna(e["mean"]):
        return None
    mean, low, high = (number_text(e[name], decimals, sign) for name in ("mean", "low", "high"))
    return mean if pd.isna(e["low"]) else f"{mean} [{low}, {high}]"


def number_text(value: float, decimals: int = 3, sign: str = "") -> str:
    """A number for a table, never `-0.000`."""
    return f"{round(value, decimals) + 0.0:{sign}.{decimals}f}"
