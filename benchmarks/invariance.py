"""Which runs are equal, and by how much they differ: the measurements of the tests, as a table.

    python benchmarks/invariance.py [--output FILE]

Runs `test_invariance.py` and, of `test_command_line.py`, the runs on two processes (about 4 minutes on two cores, with
DeepSpeed's compilation), and keeps each difference that they measured. `docs/invariance.md` has the table and says
what it means.
"""

import argparse
import json
import math
from importlib.metadata import version
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "invariance.json"
PARTS = {"loss": ("loss",), "gradient": ("gradient", "gradient_norm"), "parameters": ("parameters",)}


class Collector:
    """A pytest plugin that keeps what the `compare` fixture of the tests recorded."""

    def __init__(self):
        self.rows = []

    def pytest_runtest_logreport(self, report):
        if report.when == "call":
            self.rows += [value for name, value in report.user_properties if name == "invariance"]


def table(rows: list[dict]) -> str:
    """One line per class: the largest of the largest differences, the mean of the mean ones."""
    lines = ["| class | | what varies | loss | gradient | parameters |", "| --- | --- | --- | --- | --- | --- |"]
    for group, holds in dict.fromkeys((row["class"], row["holds"]) for row in rows):
        members = [row for row in rows if (row["class"], row["holds"]) == (group, holds)]
        varies = ", ".join(dict.fromkeys(row["varies"] for row in members))
        cells = [group, "holds" if holds else "does not hold", varies]
        for names in PARTS.values():
            differences = [row[name] for row in members for name in names if name in row]
            largest = max((d["max"] for d in differences), default=math.nan)
            mean = sum(d["mean"] for d in differences) / max(len(differences), 1)
            cells.append("-" if not differences else f"{largest:.1e}, {mean:.1e}" if largest else "0")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS)
    output = parser.parse_args().output
    collector = Collector()
    # -rs: a class that is missing from the table because a tool is missing should say so.
    files = [str(ROOT / "tests" / "processes" / name) for name in ("test_invariance.py", "test_command_line.py")]
    chosen = "(test_invariance and not docs) or two_processes"
    arguments = ["-q", "-rs", "-k", chosen, *files]
    code = pytest.main(arguments, plugins=[collector])
    versions = {name: version(name) for name in ("torch", "transformers", "trl", "accelerate")}
    output.write_text(json.dumps({"versions": versions, "rows": collector.rows}, indent=1))
    print(table(collector.rows))
    raise SystemExit(code)


if __name__ == "__main__":
    main()
