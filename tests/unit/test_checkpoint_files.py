"""The files of a checkpoint by themselves: what is written, what is read again, which checkpoint an option names."""

import json
from collections import deque

import pytest
import torch
from safetensors.torch import save_file

from htpo_trl.training import checkpoint
from htpo_trl.training.checkpoint import SEAL, CheckpointError, as_json, check, chosen, load_state, save_state, seal


@pytest.fixture
def output_dir(tmp_path):
    """One complete checkpoint, of step 9, and an incomplete one, of step 10."""
    for name in ("checkpoint-9", "checkpoint-10"):
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "model.safetensors").write_bytes(b"weights")
    seal(tmp_path / "run" / "checkpoint-9")
    return tmp_path / "run"


def test_columns_of_any_name_are_kept_apart(tmp_path):
    batches = [{"a/b": torch.tensor([i]), "a": torch.tensor([-i])} for i in range(11)]
    save_state(tmp_path / "new" / "within" / "state", "HTPOTrainer", batches, {})
    found, _ = load_state(tmp_path / "new" / "within" / "state", "HTPOTrainer")
    assert [(batch["a/b"].item(), batch["a"].item()) for batch in found] == [(i, -i) for i in range(11)]


def test_tensors_come_to_the_device_that_is_asked_for(tmp_path):
    save_state(tmp_path / "state", "HTPOTrainer", [{"x": torch.ones(2)}], {})
    assert load_state(tmp_path / "state", "HTPOTrainer", "meta")[0][0]["x"].device.type == "meta"


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (
            {"format": 1, "writer": "HTPOTrainer"},
            "has format 1 and was written by HTPOTrainer; this is format 2 and H",
        ),
        (
            {"format": 2, "writer": "GRPOTrainer"},
            "has format 2 and was written by GRPOTrainer; this is format 2 and H",
        ),
        ({"writer": "HTPOTrainer"}, "has format none and was"),
        ({"format": 2}, "was written by unknown"),
    ],
)
def test_a_state_of_another_version_or_class_is_told(tmp_path, state, told):
    """Its tensors, which may be named otherwise, are left alone."""
    file = tmp_path / "state"

    def write(**changed):
        metadata = {"htpo": json.dumps({"batches": [{}], "counters": {"step": 5}} | changed)}
        save_file({"0/x" if changed == known else "of another version": torch.ones(1)}, file, metadata=metadata)

    known = {"format": 2, "writer": "HTPOTrainer"}
    write(**known)
    assert load_state(file, "HTPOTrainer")[1] == {"step": 5}
    write(**state)
    with pytest.raises(CheckpointError, match=told) as raised:
        load_state(file, "HTPOTrainer")
    assert str(file) in str(raised.value)
    assert "Resume with the trainer and the version of htpo_trl that wrote it." in str(raised.value)


@pytest.mark.parametrize(("size", "is_hashed"), [(9, True), (10, True), (11, False)])
def test_what_a_seal_tells_of_a_file(tmp_path, monkeypatch, size, is_hashed):
    assert checkpoint.HASHED_UP_TO == 64 << 20  # docs/resume.md
    monkeypatch.setattr(checkpoint, "HASHED_UP_TO", 10)
    (tmp_path / "file").write_bytes(b"x" * size)
    seal(tmp_path)
    told = json.loads((tmp_path / SEAL).read_text())["files"]["file"]
    assert told.pop("size") == size
    assert ([*told] == ["sha256"]) == is_hashed
    (tmp_path / "file").write_bytes(b"y" * size)
    if is_hashed:
        with pytest.raises(CheckpointError, match="file is damaged"):
            check(tmp_path)
    else:
        check(tmp_path)


@pytest.mark.filterwarnings("ignore:.*checkpoint-10 is skipped")
def test_the_checkpoint_that_an_option_names(output_dir, tmp_path):
    complete = str(output_dir / "checkpoint-9")
    for option in (True, "true", "True", "auto", "AUTO", complete):
        assert chosen(option, output_dir) == complete
    for option in (None, False, "false", ""):
        assert chosen(option, output_dir) is None
    assert chosen("auto", tmp_path / "empty") is None
    with pytest.raises(CheckpointError, match=r"there is no complete checkpoint in .*empty"):
        chosen(True, tmp_path / "empty")
    with pytest.raises(CheckpointError, match=f"{SEAL} is missing"):
        chosen(str(output_dir / "checkpoint-10"), output_dir)
    message = (
        f"resume_from_checkpoint='{output_dir}' is no checkpoint, but holds checkpoint-10, checkpoint-9: name one"
    )
    with pytest.raises(CheckpointError, match=message):
        chosen(str(output_dir), output_dir)
    with pytest.raises(CheckpointError, match="is no directory"):
        chosen(str(output_dir / "checkpoint-8"), output_dir)


def test_what_json_makes_of_options():
    assert as_json({"a": deque([1, (2,)]), "b": object, 3: None}) == {"a": [1, [2]], "b": str(object), "3": None}
