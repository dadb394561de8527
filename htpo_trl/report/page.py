"""
What sections are made of: metrics and outlines, read from `panels.yaml`, and blocks; why a metric may be missing;
numbers as text.
"""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from ..objective.table import EFFECTS, GROUPS
from ..palette import group_label
from ..utils import write_atomically
from ..verifier import Verdict
from .pictures import Panel, draw_curves
from .runs import Run, RunSet


class Metric(NamedTuple):
    """A metric of the log and its panel; `panels.yaml` says what the fields mean."""

    key: str
    title: str
    unit: str
    signed: bool = False
    optional: bool = False
    decimals: int = 3
    final: bool = False
    paired: bool = False

    @property
    def scale(self) -> float:
        """Factor from what is logged to what is shown."""
        return 100.0 if self.unit.startswith("%") else 1.0

    @property
    def label(self) -> str:
        """Title and unit, for tables."""
        return self.title if self.unit.lower() in self.title.lower() else f"{self.title} ({self.unit})"


class Outline(NamedTuple):
    """A section: its name is that of its anchor and its picture, its metrics are drawn in a panel each."""

    name: str
    heading: str
    caption: str = ""
    missing: str = ""
    metrics: Sequence[Metric] = ()


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
        shared = len(why) == len(self.sets) and len({*why.values()}) == 1
        return "; ".join({*why.values()} if shared else (f"{name}: {reason}" for name, reason in why.items()))


def outlines(sets: Sequence[RunSet]) -> list[Outline]:
    """The sections in order."""
    pattern = re.compile(rf"(?!eval_)(.+)/({'|'.join(Verdict)})")
    names = {name for _, runs in sets for run in runs for name in run.log}
    rewards = sorted({match[1] for name in names if (match := pattern.fullmatch(name))}) or ["math_reward"]
    content = yaml.safe_load(Path(__file__).with_name("panels.yaml").read_text(encoding="utf-8"))
    return [Outline(**each | {"metrics": _metrics(each.get("metrics", ()), rewards)}) for each in content]


def _metrics(entries: Sequence[dict[str, Any]], rewards: Sequence[str]) -> list[Metric]:
    found = {}
    for entry, group, effect, reward, verdict in product(entries, GROUPS, EFFECTS, rewards, Verdict):
        key = entry["key"].format(group=group, effect=effect, reward=reward, verdict=verdict)
        labels = {"group": group_label(group), "reward": reward}
        labels |= {"effect": effect.replace("_", " "), "verdict": verdict.replace("_", " ")}
        found[key] = Metric(**entry | {"key": key, "title": entry["title"].format(**labels)})
    return list(found.values())


def why_missing(runs: Sequence[Run], key: str) -> str:
    """Why no band could be drawn for a set of runs, as far as the runs tell."""
    names = {name for run in runs for name in run.log}
    if not names:
        return "no training log"
    if key in names:
        return "no values at a step that two runs share" if len(runs) > 1 else "no finite value"
    if key.startswith("htpo/") and not any(name.startswith("htpo/") for name in names):
        return "plain GRPO run"
    sampled = [run.options is None or run.options.get("dynamic_sampling") for run in runs]
    if key.startswith("htpo/sampling/") and not any(sampled):
        return "dynamic sampling is off"
    if re.search(rf"/({'|'.join(Verdict)})$", key):
        return "its rewards log no verdicts"
    return "not in the log"


def difference_texts(d: Mapping[str, Any], decimals: int = 3) -> tuple[str | None, ...]:
    """Of a difference: both sides, the interval, p, and what it is over."""
    over = f"{d['n']} {d['units']}" if d["n"] > 1 else "1 seed: no interval"
    p = None if pd.isna(d["p"]) else "<0.001" if d["p"] < 0.001 else f"{d['p']:.3f}"
    sides = (f"{d[side]:z.{decimals}f}" for side in ("first", "second"))
    return *sides, interval_text(d, decimals, "+"), p, over


def interval_text(e: Mapping[str, Any] | None, decimals: int = 3, sign: str = "") -> str | None:
    """`0.512 [0.480, 0.544]`, or the mean alone where there is no interval; `sign` is `"+"` for differences."""
    if e is None or pd.isna(e["mean"]):
        return None
    mean, low, high = (f"{e[name]:{sign}z.{decimals}f}" for name in ("mean", "low", "high"))  # z: never -0.000
    return mean if pd.isna(e["low"]) else f"{mean} [{low}, {high}]"
