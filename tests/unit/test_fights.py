"""The fights that are committed: results of their plans, and the tables that docs/results.md has of them."""

import re
from pathlib import Path

import pytest

from htpo_trl.compare import markdown, read_outcome


ROOT = Path(__file__).parents[2]
FIGHTS = sorted((ROOT / "benchmarks" / "fights").glob("*/plan.json"))
SHOWN = ("Arms on the test problems", "Paired differences", "Learning rates")


@pytest.mark.parametrize("plan", FIGHTS, ids=lambda plan: plan.parent.name)
def test_the_docs_show_what_the_results_say(plan):
    outcome = read_outcome(plan.parent)  # refuses results of another plan, or of runs that are not planned
    told = (ROOT / "docs" / "results.md").read_text()
    assert f"SHA-256 {outcome.digest[:12]}" in " ".join(told.split())
    assert bool(outcome.judgement.comparisons) == outcome.judgement.is_over
    sections = dict(re.findall(r"### (.*)\n\n((?:(?!###).*\n?)*)", markdown(outcome)))
    for name in SHOWN if outcome.judgement.is_over else ():
        table = [line for line in sections[name].splitlines() if line.startswith("|")]
        assert "\n".join(table) in told, name
