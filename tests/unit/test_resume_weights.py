"""What is in memory after a load is what was there when the checkpoint was saved, whatever layout its files have."""

import pytest
import torch
from peft import LoraConfig

from ..architectures import ARCHITECTURES, build


# Two steps per generation batch: step 2 lies between two batches, step 3 within one.
OPTIONS = {
    **{"steps_per_generation": 2, "max_steps": 4, "save_strategy": "steps", "save_steps": 1},
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
    for step in (2, 3):
        resumed = again()
        resumed.train(resume_from_checkpoint=str(run / f"checkpoint-{step}"))
        assert equal(whole, resumed) == [], step
    assert "missing keys" not in caplog.text
