"""Going on from an adapter: the directory of a LoRA checkpoint is a model."""

import json

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from htpo_trl.utils import UsageError

from ..architectures import build


OPTIONS = {"per_device_train_batch_size": 4, "max_completion_length": 6, "save_strategy": "steps", "save_steps": 2}
LORA = {"r": 2, "lora_alpha": 6, "target_modules": "all-linear"}


@pytest.fixture(params=["tiny", "mixtral", "qwen2_5_vl"])
def checkpoint(request, make_trainer, make_model, tokenizer, tmp_path):
    """Of a run by LoRA, of a base model in a directory."""
    model = make_model() if request.param == "tiny" else build(request.param)
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    make_trainer(model=str(tmp_path / "base"), peft_config=LoraConfig(**LORA), **OPTIONS).train()
    return tmp_path / "run" / "checkpoint-2"


def adapter(model):
    return {name: weight for name, weight in model.state_dict().items() if "lora_" in name}


def test_it_is_trained_further(make_trainer, checkpoint, tmp_path):
    """From the weights of the checkpoint, on the base model; the whole run's options are no contradiction."""
    saved = load_file(checkpoint / "adapter_model.safetensors")
    for peft_config in (LoraConfig(**LORA), None):
        trainer = make_trainer(
            model=str(checkpoint), peft_config=peft_config, **OPTIONS | {"output_dir": str(tmp_path / "next")}
        )
        begins = {name.replace(".default", ""): weight for name, weight in adapter(trainer.model).items()}
        assert begins.keys() == saved.keys()
        assert all(torch.equal(begins[name], saved[name]) for name in saved)
        assert {n for n, p in trainer.model.named_parameters() if p.requires_grad} == adapter(trainer.model).keys()
    trainer.train()
    assert any(
        not torch.equal(weight, saved[name.replace(".default", "")]) for name, weight in adapter(trainer.model).items()
    )
    whole = adapter(trainer.model)
    resumed = make_trainer(model=str(checkpoint), **OPTIONS | {"output_dir": str(tmp_path / "next")})
    resumed.train(resume_from_checkpoint=str(tmp_path / "next" / "checkpoint-2"))
    assert all(torch.equal(whole[name], weight) for name, weight in adapter(resumed.model).items())


@pytest.mark.parametrize("checkpoint", ["tiny"], indirect=True)
class TestContradictions:
    def test_another_adapter(self, make_trainer, checkpoint):
        for options, said in (
            ({"r": 3}, "r=3, the adapter's is 2"),
            ({"target_modules": ["q_proj"]}, r"target_modules=\['q_proj'\], the adapter's is \['model.layers.0.mlp"),
            ({"use_dora": True}, "use_dora=True, the adapter's is False"),
        ):
            with pytest.raises(UsageError, match=f"is an adapter, and peft_config asks for another one: {said}"):
                make_trainer(model=str(checkpoint), peft_config=LoraConfig(**LORA | options), **OPTIONS)

    def test_a_base_that_is_gone(self, make_trainer, checkpoint):
        file = checkpoint / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "/no/such/base"}))
        with pytest.raises(UsageError, match=r"model '/no/such/base' cannot be loaded: .*adapter_config\.json"):
            make_trainer(model=str(checkpoint), **OPTIONS)
