"""What is in memory after a load is what was there when the checkpoint was saved, whatever layout its files have."""

import shutil

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, TrainerCallback

from htpo_trl.training import weights
from htpo_trl.training.checkpoint import CheckpointError, seal

from ..architectures import ARCHITECTURES, build


# Two steps per generation batch: step 1 lies within one, step 2 between two.
OPTIONS = {
    **{"steps_per_generation": 2, "max_steps": 3, "save_strategy": "steps", "save_steps": 1},
    **{"max_completion_length": 6, "per_device_train_batch_size": 4, "num_generations": 4, "objective": "dapo"},
}


def equal(trainer, other) -> list[str]:
    """Names of the weights in which two trainers differ, compared by their bits."""
    weights, others = trainer.model.state_dict(), other.model.state_dict()
    assert weights.keys() == others.keys()
    return [name for name in weights if not torch.equal(weights[name], others[name])]


@pytest.fixture
def saved(make_trainer, tmp_path):
    """A whole run, and the way to make another like it."""

    def make(name, peft=None, **kwargs):
        def again(**others):
            return make_trainer(model=build(name), peft_config=peft and peft(), **OPTIONS | kwargs | others)

        whole = again()
        whole.train()
        return whole, again, tmp_path / "run"

    return make


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("peft", [None, lambda: LoraConfig(r=2, target_modules="all-linear")], ids=["full", "lora"])
def test_other_layouts_resume_exactly(saved, name, peft, caplog):
    whole, again, run = saved(name, peft)
    initial = again()
    assert equal(whole, initial), "nothing was trained: the test could not fail"
    for step in (1, 2):
        resumed = again()
        resumed.train(resume_from_checkpoint=str(run / f"checkpoint-{step}"))
        assert equal(whole, resumed) == [], step
    assert "missing keys" not in caplog.text


def test_tied_weights_are_no_alarm(make_trainer, tmp_path, caplog, capfd):
    """The embedding serves as `lm_head` too, and is saved once."""
    make_trainer(**OPTIONS).train()
    capfd.readouterr()
    make_trainer(**OPTIONS).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    said = caplog.text + "".join(capfd.readouterr())
    assert "lm_head" not in said
    assert "missing" not in said.lower()


def test_shards_and_several_types(saved, monkeypatch):
    """Experts that lie in several files, and a head in another type than the rest."""
    save = PreTrainedModel.save_pretrained
    monkeypatch.setattr(
        PreTrainedModel,
        "save_pretrained",
        lambda self, *args, **kwargs: save(self, *args, max_shard_size=3000, **kwargs),
    )
    monkeypatch.setattr("tests.unit.test_resume_weights.build", lambda name: build_whole(name).bfloat16())
    whole, again, run = saved("qwen3_moe", cast_lm_head_to_fp32=True)
    assert len(list((run / "checkpoint-1").glob("model-*.safetensors"))) > 2
    assert {weight.dtype for weight in whole.model.state_dict().values()} == {torch.bfloat16, torch.float32}
    resumed = again()
    resumed.train(resume_from_checkpoint=str(run / "checkpoint-1"))
    assert equal(whole, resumed) == []


build_whole = build


@pytest.mark.parametrize("peft", [None, lambda: LoraConfig(r=2, target_modules="all-linear")], ids=["full", "lora"])
def test_the_best_model_is_the_one_that_was_saved(make_trainer, dataset, tmp_path, peft):
    options = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    options |= {"metric_for_best_model": "num_tokens", "greater_is_better": False}  # of the first evaluation
    trainer = make_trainer(
        model=build("qwen3_moe"),
        eval_dataset=dataset.select(range(2)),
        peft_config=peft and peft(),
        **OPTIONS | options,
    )
    trainer.train()
    assert trainer.state.best_global_step == 1
    weights.prove(tmp_path / "run" / "checkpoint-1", 0, {"model": trainer.model})
    with pytest.raises(CheckpointError, match="is not what it was when it was saved, in"):
        weights.prove(tmp_path / "run" / "checkpoint-3", 0, {"model": trainer.model})
    assert any(parameter.requires_grad for parameter in trainer.model.parameters())
    with pytest.raises(CheckpointError, match=r"ends at step .*/run/checkpoint-1 is a model already"):
        trainer.train(resume_from_checkpoint=True)
    shutil.rmtree(tmp_path / "run")

    class Delete(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            shutil.rmtree(tmp_path / "run" / "checkpoint-1", ignore_errors=True)

    trainer.add_callback(Delete())
    trainer.args.save_total_limit = 1
    with pytest.warns(UserWarning, match=r"The best checkpoint, .*/run/checkpoint-1, is gone: the last weights are"):
        trainer.train()
    weights.prove(tmp_path / "run" / "checkpoint-3", 0, {"model": trainer.model})


EXPERT = "model.layers.1.mlp.experts.2.up_proj.weight"


def drop(tensors):
    del tensors[EXPERT]


def add(tensors):
    tensors["model.layers.7.mlp.gate.weight"] = torch.zeros(3)


def change(tensors):
    tensors[EXPERT].view(-1)[5] += 1e-6


def reshape(tensors):
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1].clone()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (drop, f"{EXPERT} is missing in the files of"),
        (add, "model.layers.7.mlp.gate.weight is in none that was saved, but in the files of"),
        (change, r"model.layers.1.mlp.experts.gate_up_proj was float32 \[3, 16, 16\] \w{16} and is float32"),
        (reshape, "lm_head.weight is of another shape"),
    ],
)
def test_what_is_not_what_was_saved_is_named(saved, harm, said):
    _, again, run = saved("qwen3_moe", max_steps=2)
    file = run / "checkpoint-1" / "model.safetensors"
    tensors = load_file(file)
    harm(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    seal(file.parent)
    with pytest.raises(CheckpointError, match=said):
        again().train(resume_from_checkpoint=str(file.parent))


def test_an_adapter_on_another_base(saved, monkeypatch):
    _, again, run = saved("mixtral", lambda: LoraConfig(r=2, target_modules="all-linear"), max_steps=2)
    monkeypatch.setattr("tests.unit.test_resume_weights.build", lambda name: build_whole(name, seed=1))
    with pytest.raises(CheckpointError, match="Pass the base model that the adapter was trained on"):
        again().train(resume_from_checkpoint=str(run / "checkpoint-1"))


class TestDigests:
    def test_every_bit_counts(self):
        """Each flipped bit, each two elements exchanged, and each other type or shape show; chunks do not."""
        weight = torch.randn(4, 6)
        digest = weights._digest(weight)
        for i in range(weight.numel()):
            for bit in (0, 13, 31):
                bits = weight.clone().view(torch.int32)
                bits.view(-1)[i] ^= 1 << bit if bit < 31 else -(2**31)
                assert weights._digest(bits.view(torch.float32)) != digest
            exchanged = weight.clone().view(-1)
            exchanged[[0, i]] = exchanged[[i, 0]]
            assert (weights._digest(exchanged.view(4, 6)) == digest) == (i == 0)
        assert weights._digest(weight.view(6, 4)) != digest != weights._digest(weight.view(torch.int32))
        assert weights._digest(weight.T.contiguous().T) == digest

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.bool, torch.int64])
    def test_in_parts(self, monkeypatch, dtype):
        weight = torch.randn(1000).to(dtype)
        whole = weights._digest(weight)
        monkeypatch.setattr(weights, "CHUNK", 7)
        assert weights._digest(weight) == whole
        assert weights._digest(torch.empty(0, dtype=dtype)).endswith(f"[0] {0:016x}")
