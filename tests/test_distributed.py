import json
import subprocess
import sys
from pathlib import Path

import pytest

from htpo_trl.objective import GROUPS


ROOT = Path(__file__).parent.parent


def test_groups_that_straddle_two_processes(make_model, tokenizer, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    subprocess.run(
        [*command, "-m", "tests.distributed_run", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=300,
    )
    ranks = [json.loads((tmp_path / f"rank{i}.json").read_text()) for i in (0, 1)]

    # The 16 rows of the one group, 8 on each process; it is hard or easy as a whole (see `scripted`).
    for first, second, turn in zip(ranks[0]["labels"], ranks[1]["labels"], range(4), strict=True):
        n_correct = (5, 1)[turn % 2]
        assert first["is_correct"] == [True] * 8
        assert second["is_correct"] == [True] * n_correct + [False] * (8 - n_correct)
        assert first["is_hard"] == second["is_hard"] == [n_correct == 1] * 8

    assert ranks[0]["parameters"] == ranks[1]["parameters"]
    for rank in ranks:
        for shares, row in zip(rank["expected_shares"], rank["log"], strict=False):
            assert [row[f"htpo/share/{group}"] for group in GROUPS] == pytest.approx(shares)
