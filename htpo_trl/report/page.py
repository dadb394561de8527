"""What sections are made of, numbers as text, and the page as HTML: `page.html.jinja`, which escapes every text."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..utils import write_atomically
from .panels import Outline, outlines
from .pictures import Panel, draw_curves
from .sets import RunSet


#: What stands in a table where there is no value.
MISSING = "–"


class HtmlTable(NamedTuple):
    """Header and rows of text, the first `text_columns` to the left, numbers to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1


class Picture(NamedTuple):
    """A PNG with what it shows, in words."""

    png: bytes
    alt: str


#: What the content of a section is made of.
Block = str | HtmlTable | Picture


class Section(NamedTuple):
    """A part of the page: paragraphs, tables and pictures under a heading that the contents link to."""

    anchor: str
    heading: str
    content: Sequence[Block]


class Report:
    """What all sections share: the sets, the first of which is the baseline, and the directory, made for pictures."""

    def __init__(self, sets: Sequence[RunSet], directory: Path) -> None:
        self.sets, self.directory, self.outlines = sets, directory, outlines(sets)
        self.final = [metric for outline in self.outlines for metric in outline.metrics if metric.final]
        self.labels = [s.label for s in sets]
        self.benchmarks = list(dict.fromkeys(b for _, runs in sets for run in runs for b in run.evaluations))
        self.missing: list[tuple[str, str, str]] = []  # section, set, what is missing and why
        directory.mkdir(parents=True, exist_ok=True)

    def picture(self, name: str, figure: Any, alt: str) -> Picture:
        """Write a figure to `<name>.png`."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
        write_atomically(self.directory / f"{name}.png", buffer.getvalue())
        return Picture(buffer.getvalue(), f"{alt} Sets: {', '.join(self.labels)}.")

    def panels(self, outline: Outline, panels: Mapping[str, Panel], alt: str, why: Mapping[str, str]) -> list[Block]:
        """A picture of panels, by their titles, or, where none has a curve, why."""
        if not any(panel.curves for panel in panels.values()):
            return self.nothing(outline, why)
        figure = draw_curves([*panels.values()], self.labels)
        return [outline.caption, self.picture(outline.name, figure, f"{alt}: {', '.join(panels)}.")]

    def nothing(self, outline: Outline, why: Mapping[str, str]) -> list[Block]:
        """Say why no set has anything to draw; a picture of an earlier report is removed."""
        (self.directory / f"{outline.name}.png").unlink(missing_ok=True)
        self.missing += [(outline.heading, set_name, reason) for set_name, reason in why.items()]
        return [f"Not logged: {self.reasons(why)}."]

    def all_sets(self, reason: str) -> dict[str, str]:
        """Set → reason, the same for all."""
        return {s.name: reason for s in self.sets}

    def reasons(self, why: Mapping[str, str]) -> str:
        """Set → reason in words: the reason alone, where all sets share it."""
        if len(why) == len(self.sets) and len(set(why.values())) == 1:
            return next(iter(why.values()))
        return "; ".join(f"{name}: {reason}" for name, reason in why.items())


def render(title: str, sections: Sequence[Section]) -> str:
    """The page, self-contained: no script, nothing from the network."""
    files = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=files, autoescape=True, undefined=StrictUndefined)
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    return environment.get_template("page.html.jinja").render(title=title, sections=sections)


def difference_texts(d: Mapping[str, Any], decimals: int = 3) -> tuple[str, ...]:
    """Of a difference: both sides, the interval, p, and what it is over."""
    over = f"{d['n']} {d['units']}" if d["n"] > 1 else "1 seed: no interval"
    p = MISSING if pd.isna(d["p"]) else "<0.001" if d["p"] < 0.001 else number_text(d["p"])
    sides = (number_text(d[side], decimals) for side in ("first", "second"))
    return *sides, interval_text(d, decimals, "+"), p, over


def interval_text(e: Mapping[str, Any] | None, decimals: int = 3, sign: str = "") -> str:
    """`0.512 [0.480, 0.544]`, or the mean alone where there is no interval; `sign` is `"+"` for differences."""
    if e is None or pd.isna(e["mean"]):
        return MISSING
    mean, low, high = (number_text(e[name], decimals, sign) for name in ("mean", "low", "high"))
    return mean if pd.isna(e["low"]) else f"{mean} [{low}, {high}]"


def number_text(value: float, decimals: int = 3, sign: str = "") -> str:
    """A number for a table, never `-0.000`."""
    return f"{round(value, decimals) + 0.0:{sign}.{decimals}f}"
