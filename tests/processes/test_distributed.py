import numpy as np
import pytest

from htpo_trl.objective import GROUPS
from htpo_trl.tokens import read_record
from htpo_trl.tokens.record import recorded_steps

from ..distributed_run import launch, records


def test_groups_that_straddle_two_processes(make_model, tokenizer, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    arguments = {
        "max_steps": 16,
        "per_device_train_batch_size": 2,
        "num_generations": 16,  # of which each process holds a half
        "steps_per_generation": 4,
        "difficulty_threshold": 0.5,
    }
    record = {"steps": 8, "completions": 4}
    launch(tmp_path, {"run": {"arguments": arguments, "forced": True, "record_tokens": record}})
    ranks = records(tmp_path, "run")

    local_disagrees = False
    for first, second in zip(ranks[0]["labels"], ranks[1]["labels"], strict=True):
        # The 16 rows of the one group, 8 on each process.
        correct = first["is_correct"] + second["is_correct"]
        assert len(correct) == 16
        hard = sum(correct) / 16 < 0.5
        assert first["is_hard"] == second["is_hard"] == [hard] * 8
        local_disagrees |= any((sum(part["is_correct"]) / 8 < 0.5) != hard for part in (first, second))
    assert local_disagrees, "the data cannot tell gathered labels from local ones"

    assert ranks[0]["parameters"] == ranks[1]["parameters"]
    for rank in ranks:
        for shares, row in zip(rank["expected_shares"], rank["log"], strict=False):
            assert [row[f"htpo/share/{group}"] for group in GROUPS] == pytest.approx(shares)

    # The recorded tokens are those of both processes.
    assert list(recorded_steps(tmp_path / "run")) == [8, 16]
    for step in (8, 16):
        settings, completions = read_record(tmp_path / "run", step)
        assert settings.completions_in_step == len(completions) == 4
        groups = np.concatenate([completion.values["groups"] for completion in completions])
        shares = np.bincount(groups, minlength=len(GROUPS)) / len(groups)
        assert shares.tolist() == pytest.approx(ranks[0]["expected_shares"][step - 1])
