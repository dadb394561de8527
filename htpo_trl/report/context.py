"""What all sections of a report share: the sets, where pictures go, what is missing, and how numbers are written."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .estimates import Estimate
from .page import Picture, Section
from .sets import RunSet


_DPI = 130
#: What stands in a table where there is no value.
MISSING = "–"


class Context:
    """
    The sets of a report and the directory it is written to.

    Args:
        sets (`Sequence[RunSet]`):
            In the order in which they are drawn; the first is the baseline of differences.
        directory (`Path`):
            Made if it is not there.
    """

    def __init__(self, sets: Sequence[RunSet], directory: Path) -> None:
        self.sets, self.directory = sets, directory
        self.labels = [s.label for s in sets]
        self.benchmarks = list(dict.fromkeys(b for _, runs in sets for run in runs for b in run.evaluations))
        self.missing: list[tuple[str, str, str]] = []  # section, set, what is missing and why
        directory.mkdir(parents=True, exist_ok=True)

    def picture(self, name: str, figure: Any, alt: str) -> Picture:
        """Write a figure to `<name>.png`."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI)
        (self.directory / f"{name}.png").write_bytes(buffer.getvalue())
        return Picture(buffer.getvalue(), f"{alt} Sets: {', '.join(self.labels)}.")

    def nothing(self, name: str, heading: str, why: Mapping[str, str]) -> Section:
        """A section that says why no set has anything to draw; a picture of an earlier report is removed."""
        (self.directory / f"{name}.png").unlink(missing_ok=True)
        self.missing += [(heading, set_name, reason) for set_name, reason in why.items()]
        return Section(name, heading, [f"Not logged: {reasons(why, len(self.sets))}."])


def reasons(why: Mapping[str, str], n_sets: int) -> str:
    """Set → reason in words: the reason alone, where all sets share it."""
    if len(why) == n_sets and len(set(why.values())) == 1:
        return next(iter(why.values()))
    return "; ".join(f"{name}: {reason}" for name, reason in why.items())


def interval(e: Estimate, decimals: int = 3, sign: str = "") -> str:
    """`0.512 [0.480, 0.544]`, or the mean alone where there is no interval; `sign` is `"+"` for differences."""
    mean, low, high = (number(value, decimals, sign) for value in (e.mean, e.low, e.high))
    return mean if np.isnan(e.low) else f"{mean} [{low}, {high}]"


def number(value: float, decimals: int = 3, sign: str = "") -> str:
    """A number for a table, never `-0.000`."""
    return f"{round(value, decimals) + 0.0:{sign}.{decimals}f}"
