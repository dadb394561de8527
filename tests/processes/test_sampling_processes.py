"""Dynamic sampling in processes of their own, one or two."""

import json
from collections import Counter

import pytest

from .. import scenario_run
from ..forks import Forks
from ..training_run import mixed_groups, start


@pytest.mark.parametrize("n_processes", [1, 2])
def test_every_group_that_is_trained_on_is_mixed(make_model, tokenizer, tmp_path, n_processes):
    """Where about half of the prompts cannot be solved; with 2 processes, groups straddle them."""
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    share = {}
    for dynamic in (True, False):
        options = {
            "num_generations": 4,
            "per_device_train_batch_size": 10 // n_processes,
            "steps_per_generation": 2,
            "max_steps": 8,
            "dynamic_sampling": dynamic,
        }
        spec = {"directory": str(tmp_path), "options": options}
        start(spec, n_processes).finish()
        ranks = [json.loads((tmp_path / f"result_{i}.json").read_text()) for i in range(n_processes)]
        share[dynamic] = mixed_groups([rank["seen"] for rank in ranks], 4)
        assert len({rank["weights"] for rank in ranks}) == 1
        rows = ranks[0]["log"][:-1]
        if dynamic:
            assert all(row["frac_reward_zero_std"] == 0 for row in rows if "frac_reward_zero_std" in row)
            assert rows[0]["htpo/sampling/rounds"] > 1
            for batches in zip(*(rank["seen"] for rank in ranks), strict=True):
                ids = [tuple(row) for batch in batches for row in batch["prompt_ids"]]
                assert set(Counter(ids).values()) == {4}, "a prompt is repeated, or a group is torn"
    assert share[True] == 1
    assert share[False] < 0.7


def test_rows_keep_what_is_theirs_between_processes(tmp_path):
    """Episodes, fields of a `rollout_func`, of which some cannot leave their process, and pictures."""
    names = ["environment", "rollout_func", "pictures_in_messages"]
    Forks(scenario_run.main, tmp_path, names, output=tmp_path / "output.txt", n_processes=2).finish()
