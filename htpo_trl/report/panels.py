"""Read from `panels.yaml`: sections of a report and metrics in their pictures, and why a metric may be missing."""

import re
from collections.abc import Sequence
from itertools import product
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..objective.table import EFFECTS, GROUPS
from ..palette import group_label
from ..verifier import Verdict
from .runs import Run
from .sets import RunSet


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
    def bounds(self) -> tuple[float, float]:
        """Where the axis ends at the latest."""
        return -inf if self.signed else 0.0, 100.0 if self.unit.startswith("%") else inf

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
