"""Runs that are killed, and resumed."""

import itertools
import json

import pytest

from ..distributed_run import ROOT
from ..kill_and_resume import MOMENTS, OPTIONS, kill_and_resume, model_and_tokenizer, table, uninterrupted


@pytest.mark.parametrize(("moment", "iterable"), [("generation:70", True), ("save:12", False)], ids=str)
def test_killed_runs_end_as_if_they_had_not_been(tmp_path, moment, iterable):
    """Two of the moments of `kill_and_resume`, which by hand does all. Two processes resume in `test_drills.py`."""
    model_and_tokenizer(tmp_path)
    expected = uninterrupted(tmp_path, 1, iterable=iterable)
    row = kill_and_resume(tmp_path, moment, 1, expected, iterable=iterable)
    assert row["killed"], "it was not killed"
    assert row["checkpoints"], "it was killed before it saved anything"
    assert row["same_weights"]
    assert row["same_rollouts"]
    assert row["same_log"]


def test_recorded_kills():
    """
    What the page shows is of the moments and options that `kill_and_resume` has now, each on one process and on two:
    the last complete checkpoint is that of the arithmetic, where a moment is told by its step.
    """
    rows = json.loads((ROOT / "benchmarks" / "results" / "kill_and_resume.json").read_text())
    assert sorted((row["processes"], row["moment"]) for row in rows) == sorted(itertools.product((1, 2), MOMENTS))
    for row in rows:
        assert all(row[name] for name in ("killed", "same_weights", "same_log", "same_rollouts")), row
        kind, n = row["moment"].split(":")
        if kind in ("backward", "step"):  # one backward pass per step, and the one under way is lost
            last = (int(n) - 1) // OPTIONS["save_steps"] * OPTIONS["save_steps"]
            assert row["complete"][-1:] == ([last] if last else []), row
        assert len(row["complete"]) <= OPTIONS["save_total_limit"] + 1, row
    assert table(rows) in (ROOT / "docs" / "resume.md").read_text()
