"""The verdict on every case of `tests/data/verdicts`: lines of `completion`, `gold` and whether it is `right`."""

import json
import re
from pathlib import Path

import pytest

from htpo_trl.rewards import math_reward
from htpo_trl.verifier import Verdict, Verifier


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
