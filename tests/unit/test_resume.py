import json
import re

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from htpo_trl import HTPOTrainer
from htpo_trl.training.checkpoint import (
    SEAL,
    CheckpointError,
    check,
    last_complete,
    load_state,
    save_state,
    seal,
    state_file,
)
from htpo_trl.training.resume import ResumableGRPOTrainer

from ..tiny import same_parameters
from ..training_run import prompts


@pytest.fixture
def checkpoint(tmp_path):
    """A complete checkpoint, as far as sealing goes."""
    directory = tmp_path / "checkpoint-3"
    (directory / "nested").mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(bytes(100))
    (directory / "nested" / "shard").write_bytes(b"abc")
    save_state(state_file(directory, 0), "HTPOTrainer", [{"x": torch.arange(3)}], {"step": 3})
    seal(directory)
    return directory


class TestState:
    def test_round_trip(self, tmp_path):
        rows = torch.arange(12.0).view(4, 3)
        shared = torch.tensor(7)
        batches = [
            {"rows": rows[i : i + 2], "n": shared, "mask": torch.tensor([True, False]), "none": None, "images": [1, 2]}
            for i in (0, 2)
        ]
        counters = {"step": 5, "metrics": {"a": [1.0, float("inf")]}, "none": None}
        save_state(tmp_path / "new" / "state", "HTPOTrainer", batches, counters)
        got, got_counters = load_state(tmp_path / "new" / "state", "HTPOTrainer")
        assert got_counters == counters
        for batch, expected in zip(got, batches, strict=True):
            assert batch.keys() == expected.keys()
            for name, value in expected.items():
                if isinstance(value, torch.Tensor):
                    assert torch.equal(batch[name], value)
                    assert batch[name].dtype == value.dtype
                else:
                    assert batch[name] == value

    def test_without_rollouts(self, tmp_path):
        save_state(tmp_path / "state", "HTPOTrainer", None, {"step": 0})
        assert load_state(tmp_path / "state", "HTPOTrainer") == (None, {"step": 0})

    def test_what_json_cannot_hold_is_refused(self, tmp_path):
        with pytest.raises(TypeError):
            save_state(tmp_path / "state", "HTPOTrainer", [{"x": object()}], {})

    def test_damage(self, tmp_path):
        file = tmp_path / "state"
        with pytest.raises(CheckpointError, match=f"{file} is missing or damaged"):
            load_state(file, "HTPOTrainer")
        save_state(file, "HTPOTrainer", [{"x": torch.arange(3)}], {})
        whole = file.read_bytes()
        for damaged in (b"", whole[:20], whole[:-1], b"\xff" * 200):
            file.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=f"{file} is missing or damaged"):
                load_state(file, "HTPOTrainer")


class TestSeal:
    def test_complete(self, checkpoint):
        check(checkpoint)
        assert last_complete(checkpoint.parent) == str(checkpoint)

    def test_unsealed(self, checkpoint):
        (checkpoint / SEAL).unlink()
        with pytest.raises(CheckpointError, match=rf"{checkpoint}/{SEAL} is missing.*resume_from_checkpoint=True"):
            check(checkpoint)

    def test_sealed_again_after_a_kill_within_sealing(self, checkpoint):
        (checkpoint / SEAL).unlink()
        (checkpoint / f"{SEAL}.partial").write_text("{")
        seal(checkpoint)
        check(checkpoint)

    @pytest.mark.parametrize("name", ["model.safetensors", "nested/shard", "htpo_state_0.safetensors"])
    def test_missing_and_damaged_files_are_named(self, checkpoint, name):
        file = checkpoint / name
        content = file.read_bytes()
        for damaged in (content[:-1], content + b"x", bytes([content[0] ^ 1]) + content[1:]):
            file.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=f"{file} is damaged"):
                check(checkpoint)
        file.unlink()
        with pytest.raises(CheckpointError, match=f"{file} is missing"):
            check(checkpoint)

    def test_damaged_seal(self, checkpoint):
        for content in ("", "{", "[]", "{}"):
            (checkpoint / SEAL).write_text(content)
            with pytest.raises(CheckpointError, match=f"{SEAL} is damaged"):
                check(checkpoint)

    def test_large_files_are_compared_by_size(self, checkpoint, monkeypatch):
        monkeypatch.setattr("htpo_trl.training.checkpoint.HASHED_UP_TO", 10)
        seal(checkpoint)
        (checkpoint / "model.safetensors").write_bytes(b"x" * 100)
        check(checkpoint)
        (checkpoint / "model.safetensors").write_bytes(b"x" * 99)
        with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
            check(checkpoint)

    def test_incomplete_ones_are_skipped_with_a_warning(self, checkpoint):
        for name in ("checkpoint-20", "checkpoint-100", "checkpoint-best"):
            (checkpoint.parent / name).mkdir()
        with pytest.warns(UserWarning, match="is skipped") as caught:
            assert last_complete(checkpoint.parent) == str(checkpoint)
        assert [re.search(r"checkpoint-\d+", str(w.message))[0] for w in caught] == ["checkpoint-100", "checkpoint-20"]
        (checkpoint / SEAL).unlink()
        with pytest.warns(UserWarning, match="checkpoint-3 is skipped"):
            assert last_complete(checkpoint.parent) is None


def save_all(make, **kwargs):
    """A whole run of 12 steps, with a checkpoint at each."""
    options = {"max_steps": 12, "save_strategy": "steps", "save_steps": 1, **kwargs}
    trainer = make(**options)
    trainer.train()
    return trainer, options


def test_every_step_resumes_exactly(make_trainer, make_model, tmp_path):
    """Eight gradient steps per generation batch, two of them per optimizer step, and three epochs."""
    options = {"num_iterations": 2, "gradient_accumulation_steps": 2, "steps_per_generation": 4, "logging_steps": 1}

    def make(**kwargs):
        return make_trainer(model=make_model(), train_dataset=Dataset.from_list(prompts(8)), **kwargs)

    whole, options = save_all(make, **options)
    for step in range(1, 12):
        resumed = make(**options)
        resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
        assert same_parameters(whole, resumed), step
        assert [row.get("reward") for row in resumed.state.log_history[:-1]] == [
            row.get("reward") for row in whole.state.log_history[:-1]
        ], step


@pytest.mark.parametrize(("cls", "exact"), [(ResumableGRPOTrainer, True), (GRPOTrainer, False)])
def test_plain_grpo(make_trainer, make_model, tmp_path, cpu_arguments, cls, exact):
    """The same for GRPO. TRL alone is the negative control: without the state there is something to be seen."""

    def make(**kwargs):
        config = GRPOConfig(**cpu_arguments | {"steps_per_generation": 4} | kwargs)
        return make_trainer(cls, model=make_model(), config=config)

    whole, options = save_all(make)
    resumed = make(**options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-6"))
    assert same_parameters(whole, resumed) == exact


def test_another_class_or_format_is_refused(make_trainer, make_model, tmp_path, cpu_arguments):
    """What a trainer counts depends on its class: another one cannot go on, and says so before it trains."""
    options = {"steps_per_generation": 4, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    plain = make_trainer(ResumableGRPOTrainer, config=GRPOConfig(**cpu_arguments | options))
    plain.train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    with pytest.raises(CheckpointError, match=r"written by ResumableGRPOTrainer; this is format 2 and HTPOTrainer"):
        make_trainer(**options).train(resume_from_checkpoint=str(checkpoint))

    class Own(HTPOTrainer):
        """A user's trainer has the state of the one that it derives from."""

    own = options | {"output_dir": str(tmp_path / "own")}
    make_trainer(Own, **own).train()
    checkpoint = tmp_path / "own" / "checkpoint-2"
    resumed = make_trainer(**own)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.state.global_step == 4
    with pytest.raises(CheckpointError, match="written by HTPOTrainer; this is format 2 and ResumableGRPOTrainer"):
        make_trainer(ResumableGRPOTrainer, config=GRPOConfig(**cpu_arguments | own)).train(
            resume_from_checkpoint=str(checkpoint)
        )
    file = state_file(checkpoint, 0)
    with safe_open(file, framework="pt") as stored:
        state = json.loads(stored.metadata()["htpo"])
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a mapping)
    for found, said in (({**state, "format": 1}, "has format 1"), ({"counters": {}, "batches": None}, "format none")):
        save_file(tensors, file, metadata={"htpo": json.dumps(found)})
        seal(checkpoint)
        with pytest.raises(CheckpointError, match=said):
            make_trainer(**own).train(resume_from_checkpoint=str(checkpoint))


def test_metrics_not_yet_logged_are_kept(make_trainer, tmp_path):
    """Logs every four steps; saved after the second."""
    whole, options = save_all(make_trainer, logging_steps=4)
    resumed = make_trainer(**options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    for row, expected in zip(resumed.state.log_history[:-1], whole.state.log_history[:-1], strict=True):
        for name in expected:
            if name.startswith("htpo/") or name in ("reward", "entropy", "clip_ratio/low_mean"):
                assert row[name] == expected[name], name


def test_lora_resumes_exactly(make_trainer, tmp_path):
    def make(**kwargs):
        return make_trainer(peft_config=LoraConfig(r=4, lora_dropout=0.1, target_modules="all-linear"), **kwargs)

    whole, options = save_all(make)
    resumed = make(**options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-6"))
    assert same_parameters(whole, resumed)


def test_damaged_checkpoints_are_not_resumed_from(make_trainer, tmp_path):
    run = tmp_path / "run"
    whole, options = save_all(make_trainer)
    optimizer = run / "checkpoint-12" / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-1])
    (run / "checkpoint-11" / "htpo_state_0.safetensors").unlink()
    resumed = make_trainer(**options)
    with pytest.raises(CheckpointError, match=f"{optimizer} is damaged"):
        resumed.train(resume_from_checkpoint=str(run / "checkpoint-12"))
    with pytest.raises(CheckpointError, match=r"htpo_state_0\.safetensors is missing"):
        resumed.train(resume_from_checkpoint=str(run / "checkpoint-11"))
    with pytest.warns(UserWarning, match="checkpoint-1[12] is skipped"):
        resumed.train(resume_from_checkpoint=True)
    assert same_parameters(whole, resumed)


def test_nothing_to_resume_from(make_trainer, tmp_path):
    with pytest.raises(CheckpointError, match="no complete checkpoint in"):
        make_trainer().train(resume_from_checkpoint=True)
    trainer = make_trainer(save_strategy="steps", save_steps=2, save_only_model=True)
    trainer.train()
    with pytest.raises(CheckpointError, match="save_only_model=True"):
        make_trainer().train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))


def test_rollouts_must_fit(make_trainer, tmp_path):
    _, options = save_all(make_trainer)
    other = make_trainer(**options | {"num_generations": 8})
    with pytest.raises(CheckpointError, match="was written with num_generations=4, this run has 8"):
        other.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-6"))
    # Where the next step generates, there are none to fit.
    other = make_trainer(**options | {"num_generations": 8})
    with pytest.warns(
        UserWarning, match="num_generations 4 -> 8 .the place in the data is counted in the new batches"
    ):
        other.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-8"))
    assert other.state.global_step == 12

    file = state_file(tmp_path / "run" / "checkpoint-8", 0)
    batches, counters = load_state(file, "HTPOTrainer")
    counters["batch_shape"]["num_processes"] = 2
    save_state(file, "HTPOTrainer", batches, counters)
    seal(file.parent)
    with pytest.raises(CheckpointError, match="num_processes=2, this run has 1"):
        make_trainer(**options).train(resume_from_checkpoint=str(file.parent))


def test_older_checkpoints_go_only_when_the_new_one_is_complete(make_trainer, tmp_path, monkeypatch):
    run = tmp_path / "run"

    def fail(directory):
        if directory.name.endswith("-3"):
            raise OSError("no space left on device")
        seal(directory)

    monkeypatch.setattr("htpo_trl.training.checkpoint.seal", fail)
    trainer = make_trainer(save_strategy="steps", save_steps=1, save_total_limit=1)
    with pytest.raises(OSError, match="no space left"):
        trainer.train()
    assert {path.name for path in run.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-3"}
    with pytest.warns(UserWarning, match="checkpoint-3 is skipped"):
        assert last_complete(run) == str(run / "checkpoint-2")
    monkeypatch.undo()
    trainer = make_trainer(save_strategy="steps", save_steps=1, save_total_limit=1)
    with pytest.warns(UserWarning, match="checkpoint-3 is skipped"):
        trainer.train(resume_from_checkpoint=True)
    assert trainer.args.save_total_limit == 1
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-4"]


class Poison(TrainerCallback):
    """Makes the model's logits NaN after the third step."""

    def on_step_end(self, args, state, control, model, **kwargs):
        if state.global_step == 3:
            with torch.no_grad():
                next(model.parameters()).fill_(float("nan"))


def test_non_finite_logits_stop_the_run_and_keep_the_checkpoint(make_trainer, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2}
    with pytest.raises(FloatingPointError, match="no finite log-probability or entropy after step 3"):
        make_trainer(callbacks=[Poison()], **options).train()
    assert last_complete(tmp_path / "run") == str(tmp_path / "run" / "checkpoint-2")
    resumed = make_trainer(**options)
    resumed.train(resume_from_checkpoint=True)
    whole = make_trainer(**options)
    whole.train()
    assert same_parameters(resumed, whole)
