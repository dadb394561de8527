"""The fights that are committed: results of their plans, and the tables that the docs have of them."""

import json
import re
from pathlib import Path

import pytest

from htpo_trl.compare import markdown, read_outcome
from htpo_trl.scripts.arguments import load_recipe


ROOT = Path(__file__).parents[2]
FIGHTS = sorted((ROOT / "benchmarks" / "fights").glob("*/plan.json"))
TOLD = {"steps": "max_steps", "learning_rate": "learning_rate"}  # of a run, by the recipe
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


def test_the_docs_show_what_the_rules_touch_at_the_recipe_s_rate():
    runs = json.loads((ROOT / "benchmarks" / "results" / "laptop_long_rules.json").read_text())["runs"]
    recipe = load_recipe("laptop-long")[1]
    (run,) = [each for each in runs if all(each[of] == recipe[name] for of, name in TOLD.items())]
    told = (ROOT / "docs" / "recipes.md").read_text()
    for group, share in run["share of tokens"].items():
        (touched,) = re.findall(rf"^\| {group.replace('_', ', ')} \| {share:.1%} \| (.*) \|$", told, re.MULTILINE)
        counts = [n for n in map(int, re.findall(r"\d+", touched)) if n]
        expected = [*run["touched tokens"][group].values()]
        assert sorted(counts) == sorted({*expected, sum(expected)} - {0}), group
