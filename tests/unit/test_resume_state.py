"""What a checkpoint holds beyond weights, optimizer and rollouts, so that a run goes on as without a break."""

import shutil

import pandas as pd
import pytest
import torch
from datasets import IterableDataset
from peft import LoraConfig, get_peft_model
from transformers import EarlyStoppingCallback, TrainerCallback

from htpo_trl.training.checkpoint import CheckpointError

from ..tiny import same_parameters
from ..training_run import prompts


SHORT = {"per_device_train_batch_size": 4, "max_completion_length": 6}
SAVES = {"save_strategy": "steps", "save_steps": 1}
# `train_loss` is the mean of the last training's steps.
UNTIMED = ("time", "per_second", "train_loss")


def untimed(log):
    return [{name: row[name] for name in row if not any(part in name for part in UNTIMED)} for row in log]


class Pauses(TrainerCallback):
    """Stops a training after a step, as a kill after its checkpoint would."""

    def __init__(self, step):
        self.step = step

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.fixture
def make(make_trainer, make_model, tokenizer, tmp_path):
    """A trainer whose model lies in a directory, where its reference model comes from too."""
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")

    def make(model=None, **kwargs):
        return make_trainer(model=model or str(tmp_path / "model"), **SHORT | SAVES | kwargs)

    return make


@pytest.fixture
def resume(make, tmp_path):
    """Of a whole run, and of one that was stopped after a step and resumed."""

    def resume(step, make=make, **options):
        whole = make(**options)
        whole.train()
        resumed = make(**options)
        resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
        assert same_parameters(whole, resumed)
        assert untimed(whole.state.log_history) == untimed(resumed.state.log_history)
        return whole, resumed

    return resume


@pytest.mark.parametrize("step", [4, 5])
def test_a_reference_model_that_moves(resume, step):
    options = {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 0.5}
    whole, resumed = resume(step, max_steps=6, steps_per_generation=2, **options)
    assert all(map(torch.equal, whole.ref_model.parameters(), resumed.ref_model.parameters()))
    assert any(row.get("kl") for row in whole.state.log_history)


def test_the_reference_adapter_of_a_pretrained_one(make, make_trainer, make_model, tmp_path):
    """TRL keeps its first state as adapter "ref": it is in the checkpoint, and not a copy of what was trained."""

    def adapted():
        torch.manual_seed(0)
        model = get_peft_model(make_model(), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
        return make_trainer(model=model, beta=0.1, **SHORT | SAVES)

    whole = adapted()
    whole.train()
    resumed = adapted()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    weights, others = whole.model.state_dict(), resumed.model.state_dict()
    assert {name.split(".")[-2] for name in weights if "lora_A" in name} == {"default", "ref"}
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []


def test_a_stream_that_ends_before_the_run(make_trainer, make_model, tmp_path):
    """Three passes of four steps: within a pass, at its end, in mid batch."""
    data = prompts(8)

    def again():
        dataset = IterableDataset.from_generator(lambda: iter(data))
        options = {"max_steps": 12, "steps_per_generation": 2, "num_generations": 2}
        return make_trainer(model=make_model(), train_dataset=dataset, **SHORT | SAVES | options)

    whole = again()
    whole.train()
    for step in (5, 6, 8, 11):
        resumed = again()
        resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
        assert same_parameters(whole, resumed), step
        assert untimed(whole.state.log_history) == untimed(resumed.state.log_history), step


def test_the_loss_since_the_last_log(resume):
    whole, _ = resume(4, max_steps=9, logging_steps=3)
    assert len({row["loss"] for row in whole.state.log_history if "loss" in row}) == 3


def test_tables_of_completions_in_mid_batch(make, tmp_path):
    options = {"log_completions": True, "steps_per_generation": 4, "max_steps": 6}
    make(**options).train()
    files = sorted((tmp_path / "run" / "completions").iterdir())
    whole = [pd.read_parquet(file) for file in files]
    for file in files[2:]:
        file.unlink()
    make(**options).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert len(whole) == 6
    for file, table in zip(files, whole, strict=True):
        assert len(table) == 16
        pd.testing.assert_frame_equal(pd.read_parquet(file), table)


def test_a_reference_model_in_mid_batch(make, tmp_path):
    make(steps_per_generation=2).train()
    checkpoints = tmp_path / "run"
    with pytest.raises(CheckpointError, match=r"beta=0\.0, this run has 0\.1.*were not scored by a reference model"):
        make(steps_per_generation=2, beta=0.1).train(resume_from_checkpoint=str(checkpoints / "checkpoint-1"))
    trainer = make(steps_per_generation=2, beta=0.1)
    with pytest.warns(UserWarning, match=r"with other settings, which hold from here on: beta 0\.0 -> 0\.1"):
        trainer.train(resume_from_checkpoint=str(checkpoints / "checkpoint-2"))
    assert "kl" in trainer.state.log_history[-2]


def test_the_patience_of_early_stopping(make, make_trainer, make_model, dataset, tmp_path):
    """Evaluated at each step by a metric that never improves: a patience of three ends the run at step 4."""
    options = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True, "max_steps": 8}
    options |= {"metric_for_best_model": "never", "greater_is_better": True} | SHORT | SAVES

    def again(*callbacks):
        trainer = make_trainer(
            model=make_model(),
            eval_dataset=dataset.select(range(2)),
            callbacks=[EarlyStoppingCallback(3), *callbacks],
            **options,
        )
        trainer.evaluate = lambda **kwargs: (
            trainer.callback_handler.on_evaluate(
                trainer.args, trainer.state, trainer.control, metrics := {"eval_never": 0.0}
            )
            and metrics
        )
        return trainer

    whole = again()
    whole.train()
    assert whole.state.global_step == 4
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        again(Pauses(3)).train()
    resumed = again()
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4


def test_nothing_is_left_to_train(make, tmp_path):
    make(max_steps=4).train()
    with pytest.raises(CheckpointError, match="the checkpoint is of step 4, and the run ends at step 4"):
        make(max_steps=4).train(resume_from_checkpoint=True)
    with (
        pytest.warns(UserWarning, match="max_steps 4 -> 3"),
        pytest.raises(CheckpointError, match="the checkpoint is of step 4, and the run ends at step 3"),
    ):
        make(max_steps=3).train(resume_from_checkpoint="auto")
