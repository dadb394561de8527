"""Resuming in two processes what has another layout in files than in memory."""

import json

import pytest
import torch
from safetensors.torch import load_file

from ..architectures import build
from ..distributed_run import CAN_RESUME, ZERO3, launch, missing_for_zero3, records
from ..training_run import start


# Two steps per generation batch: step 3 lies within one.
OPTIONS = {
    **{"steps_per_generation": 2, "max_steps": 4, "save_strategy": "steps", "save_steps": 3, "num_generations": 4},
    **{"per_device_train_batch_size": 2, "max_completion_length": 6},
}


@pytest.mark.skipif(not CAN_RESUME, reason="this transformers cannot resume on several CPU processes")
@pytest.mark.parametrize("name", ["qwen3_moe", "llava"])
def test_ddp(tokenizer, tmp_path, name):
    tokenizer.save_pretrained(tmp_path / "model")
    ended = []
    for resume in (None, str(tmp_path / "run" / "checkpoint-3")):
        spec = {"directory": str(tmp_path), "options": OPTIONS, "architecture": name, "resume": resume}
        start(spec, 2).finish()
        ended.append([json.loads((tmp_path / f"result_{rank}.json").read_text())["weights"] for rank in (0, 1)])
    assert len({*ended[0], *ended[1]}) == 1


@pytest.mark.skipif(bool(missing_for_zero3()), reason=missing_for_zero3())
def test_zero3(tokenizer, tmp_path):
    """The engine loads a state of its own; each process proves its part. The reference model moves."""
    for place in ("model", "moe"):
        tokenizer.save_pretrained(tmp_path / place)
    build("qwen3_moe").save_pretrained(tmp_path / "moe")
    moves = {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.5}
    arguments = OPTIONS | moves | {"use_cpu": False, "ddp_backend": "gloo"}
    job = {"model": "moe", "arguments": arguments}
    resume = str(tmp_path / "run" / "checkpoint-3")
    launch(tmp_path, {"whole": job, "resumed": job | {"resume": resume}}, ZERO3)
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    initial = load_file(tmp_path / "moe" / "model.safetensors")
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []
    assert not any(torch.equal(whole[name], initial[name]) for name in whole if "experts" in name)
    logs = {name: records(tmp_path, name)[0]["log"] for name in ("whole", "resumed")}
    assert logs["whole"][3]["kl"] == logs["resumed"][3]["kl"] > 0
