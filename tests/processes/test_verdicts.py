"""The verdict on every case of `tests/data/verdicts`: lines of `completion`, `gold` and whether it is `right`."""

import json
import random
import re
from pathlib import Path

import pytest

from htpo_trl.rewards import math_reward
from htpo_trl.verifier import Verdict, Verifier
from htpo_trl.verifier.algebra import compare
from htpo_trl.verifier.exact import compare_plainly
from htpo_trl.verifier.forms import bare_answer, bare_gold

from ..golds import DATA, golds_of, perturbed


FILES = sorted(Path(__file__).parents[1].glob("data/verdicts/*.jsonl"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_case_gets_the_right_verdict(path):
    cases = [*map(json.loads, path.read_text(encoding="utf-8").splitlines())]
    rewards = math_reward([case["completion"] for case in cases], [case["gold"] for case in cases])
    # A gold that cannot be read gives None: neither right nor, to a model that is not right, wrong.
    mistakes = [
        (case, reward) for case, reward in zip(cases, rewards, strict=True) if case["right"] != (reward == 1.0)
    ]
    assert not mistakes, "\n".join(f"{reward} for {json.dumps(case)}" for case, reward in mistakes)


def test_the_table_of_the_page_on_the_verifier_holds():
    page = (Path(__file__).parents[2] / "docs" / "verifier.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `(.+?)` \| `(.+?)` \| (right|wrong) \|$", page.split("## What counts as the same answer")[1], re.M
    )
    assert len(rows) >= 30
    golds, answers, _ = zip(*rows, strict=True)
    with Verifier() as verifier:
        verdicts = verifier.judge_answers(answers, golds)
    got = ["right" if verdict is Verdict.CORRECT else "wrong" for verdict in verdicts]
    assert [row for row, verdict in zip(rows, got, strict=True) if verdict != row[2]] == []


@pytest.mark.skipif(not DATA.is_dir(), reason="the benchmarks' files are not part of the project")
def test_what_is_decided_here_is_decided_so_by_algebra():
    """On wrong answers to real golds; benchmarks/verifier.py has 20,000. And nearly all of them are decided here."""
    rng = random.Random(0)
    golds = [*golds_of("math500"), *golds_of("minerva"), *golds_of("olympiadbench")]
    pairs = [(gold, answer) for gold in rng.sample(golds, 60) for answer in (perturbed(gold), rng.choice(golds))]
    bare = [(bare_gold(gold), bare_answer(answer)) for gold, answer in pairs]
    verdicts = {pair: compare_plainly(*pair) for pair in bare}
    decided = [pair for pair, verdict in verdicts.items() if verdict is not None]
    assert len(decided) > 0.9 * len(verdicts)
    assert [pair for pair in decided if verdicts[pair] != (compare(*pair) == "correct")] == []
