"""The fights that are committed: results of their plans, which docs/results.md names."""

from pathlib import Path

import pytest

from htpo_trl.compare import read_outcome


ROOT = Path(__file__).parents[2]
FIGHTS = sorted((ROOT / "benchmarks" / "fights").glob("*/plan.json"))


@pytest.mark.parametrize("plan", FIGHTS, ids=lambda plan: plan.parent.name)
def test_results_are_of_the_plan_that_the_docs_name(plan):
    outcome = read_outcome(plan.parent)  # refuses results of another plan, or of runs that are not planned
    assert f"SHA-256 {outcome.digest[:12]}" in " ".join((ROOT / "docs" / "results.md").read_text().split())
    assert bool(outcome.judgement.comparisons) == outcome.judgement.is_over
