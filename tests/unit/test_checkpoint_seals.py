"""
When a checkpoint counts as complete: not while it is written again, and not with damage anywhere in a file. That all
processes have written before it is sealed is tested in `test_drills.py`, in two processes.
"""

import hashlib
import json

import pytest
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from htpo_trl.training.checkpoint import SEAL, CheckpointError, check, last_complete, seal


MIB = 2**20


@pytest.mark.parametrize("place", [0, MIB - 1, MIB, 3 * MIB // 2, 2 * MIB], ids="byte {}".format)
def test_damage_anywhere_in_a_file_is_seen(tmp_path, place):
    file = tmp_path / "model.safetensors"
    content = bytearray(2 * MIB + 1)
    file.write_bytes(content)
    seal(tmp_path)
    check(tmp_path)
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{file} is damaged"):
        check(tmp_path)


def test_a_seal_holds_the_sha256_of_whole_files(tmp_path):
    contents = {"empty": b"", "small": b"abc", "large": b"x" * (2 * MIB + 1)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    seal(tmp_path)
    assert json.loads((tmp_path / SEAL).read_text())["files"] == {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }


class Dies(TrainerCallback, ExportableState):
    """Fails when its state is to be saved, which comes after weights and optimizer, at a given step."""

    def __init__(self, step):
        self.step, self.at = step, 0

    def on_step_end(self, args, state, control, **kwargs):
        self.at = state.global_step

    def state(self):
        if self.at == self.step:
            raise MemoryError("killed")
        return {"args": {"step": self.step}, "attributes": {}}


def test_a_checkpoint_that_is_written_again_has_no_seal_until_it_is_done(make_trainer, tmp_path):
    """Of large files the seal knows the size alone, which the weights of another step have too."""
    first, again = (tmp_path / "run" / f"checkpoint-{step}" for step in (1, 2))
    make_trainer(save_strategy="steps", save_steps=1, max_steps=2).train()
    weights = (again / "model.safetensors").read_bytes()
    rewritten = make_trainer(save_strategy="steps", save_steps=1, learning_rate=2e-2, callbacks=[Dies(2)])
    with pytest.raises(MemoryError):
        rewritten.train()
    assert (again / "model.safetensors").read_bytes() != weights, "it was not being written again"
    with pytest.raises(CheckpointError, match=f"{again / SEAL} is missing"):
        check(again)
    with pytest.warns(UserWarning, match="checkpoint-2 is skipped"):
        assert last_complete(first.parent) == str(first)
