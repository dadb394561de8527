"""A run is what its settings say: what a checkpoint is compared by, and what `settings.json` and the report tell."""

import json
import random
import warnings
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig

from htpo_trl.report.runs import read_run
from htpo_trl.training import settings
from htpo_trl.training.checkpoint import CheckpointError

from ..architectures import build
from ..tiny import even_digits, same_parameters


OPTIONS = {
    **{"per_device_train_batch_size": 4, "max_completion_length": 6, "steps_per_generation": 2},
    **{"save_strategy": "steps", "save_steps": 2},
}


def another_reward(completions, **kwargs):
    return even_digits(completions)


@pytest.fixture
def make(make_trainer, make_model):
    return lambda **kwargs: make_trainer(**{"model": make_model()} | OPTIONS | kwargs)


@pytest.fixture
def checkpoint(make, tmp_path):
    """Of a run of four steps, the second."""
    make().train()
    return str(tmp_path / "run" / "checkpoint-2")


OTHER_DATA = Dataset.from_dict({"prompt": [f"{i:02d}" for i in range(63)] + ["99"]})
ANOTHER_RUN = {
    "objective": ({"objective": "dapo"}, r"objective 'htpo' -> 'dapo'\. Resume with"),
    "row": (
        {"objective_overrides": {"hard_correct_low": "clip"}},
        r"table\.hard_correct_low \"Detach\(share=0\.006, which='lowest'\)\" -> 'Clip\(\)'",
    ),
    "threshold": ({"difficulty_threshold": 0.5}, r"difficulty_threshold 0\.6 -> 0\.5"),
    "loss": ({"loss_type": "grpo"}, "loss_type 'dapo' -> 'grpo'"),
    "data": ({"train_dataset": OTHER_DATA}, "data '64 rows of prompt: .*' -> '64 rows of prompt: "),
    "rewards": ({"reward_funcs": another_reward}, r"rewards \['even_digits'\] -> \['another_reward'\]"),
    "weights": ({"reward_weights": [2.0]}, r"reward_weights \[1\.0\] -> \[2\.0\]"),
    "adapter": (
        {"peft_config": LoraConfig(r=2, target_modules="all-linear")},
        r"model\.default None -> 'LORA'; model\.parameters 19072 -> 21120\. Resume",
    ),
    "architecture": ({"model": build("mixtral")}, r"model\.architecture 'Qwen3ForCausalLM' -> 'MixtralForCausalLM'"),
    "precision": ({"model": build("mixtral").bfloat16()}, r"model\.dtype 'torch\.float32' -> 'torch\.bfloat16'"),
    "optimizer": ({"optim": "sgd"}, "optim '[a-z_]+' -> 'sgd'"),
    "schedule": (
        {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 2},
        "lr_scheduler_type 'linear' -> 'reduce_lr_on_plateau'",
    ),
}


def test_another_run_is_refused(make, checkpoint, dataset, tmp_path):
    told = (tmp_path / "run" / "settings.json").read_text()
    for case, (changed, said) in ANOTHER_RUN.items():
        trainer = make(**({"eval_dataset": dataset.select(range(2))} if case == "schedule" else {}), **changed)
        with pytest.raises(CheckpointError, match=said) as raised:
            trainer.train(resume_from_checkpoint=checkpoint)
        assert str(raised.value).startswith(f"{checkpoint} is of another run: ")
        assert "\n" not in str(raised.value)
        unfit = case in ("adapter", "architecture", "precision", "optimizer", "schedule")
        assert ("resume_with_changes to true" in str(raised.value)) != unfit, case
        trainer.args.resume_with_changes = True
        if unfit:  # the flag makes no weights of other weights
            with pytest.raises(CheckpointError, match="passing the checkpoint's directory as `model`"):
                trainer.train(resume_from_checkpoint=checkpoint)
        assert (tmp_path / "run" / "settings.json").read_text() == told, case


def test_a_checkpoint_knows_whether_reasoning_was_read():
    """One from before that was an option was made by its default."""
    assert settings.changes({}, {"skip_reasoning": True}) == {}
    changed = settings.changes({}, {"skip_reasoning": False})
    with pytest.raises(CheckpointError, match="skip_reasoning True -> False"):
        settings.compare(changed, "run/checkpoint-2", go_on=False, tell=False)


def test_going_on_knowingly(make, checkpoint, tmp_path):
    """It trains on, by the new objective, and `settings.json` and the report tell where it changed."""
    trainer = make(objective="dapo", resume_with_changes=True)
    with pytest.warns(UserWarning, match="which hold from here on: objective 'htpo' -> 'dapo'"):
        trainer.train(resume_from_checkpoint=checkpoint)
    assert trainer.state.global_step == 4
    told = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert told["HTPOConfig"]["objective"] == "dapo"
    assert told["resumes"] == [{"from": "checkpoint-2", "step": 2, "changed": {"objective": ["htpo", "dapo"]}}]
    assert read_run(tmp_path / "run").notes == ["resumed at step 2 with other settings: objective htpo → dapo"]


def test_what_takes_effect(make, checkpoint, tmp_path):
    """The rate of the next step, and the decay of the weights, are those of this run."""
    changed = {"learning_rate": 2e-3, "weight_decay": 0.5, "max_steps": 6, "logging_steps": 2, "temperature": 0.9}
    trainer = make(**changed)
    with pytest.warns(UserWarning, match="Resumed from") as caught:
        trainer.train(resume_from_checkpoint=checkpoint)
    (warning,) = (str(each.message) for each in caught if "Resumed from" in str(each.message))
    for told in (
        "learning_rate 0.01 -> 0.002",
        "max_steps 4 -> 6",
        "temperature 1.0 -> 0.9 (from the next generation batch)",
        "weight_decay 0.0 -> 0.5",
    ):
        assert told in warning
    steps = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 4, 6]
    assert [row["learning_rate"] for row in steps[2:]] == pytest.approx([2e-3 * (1 - step / 6) for step in (3, 5)])
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.0, 0.5}


def test_the_seed_of_the_data(make, checkpoint):
    with pytest.warns(
        UserWarning, match="seed 42 -> 7 .the data's order is that of the new seed; random numbers go on"
    ):
        make(seed=7).train(resume_from_checkpoint=checkpoint)


def test_what_makes_no_other_run(make, checkpoint, make_model, tmp_path):
    """Where it lies, what it tells and keeps; a copy of the data; a function defined again."""
    copy = Dataset.from_list([{"prompt": f"{i:02d}"} for i in range(100)]).select(range(64))
    exec_copy = {"output_dir": str(tmp_path / "elsewhere"), "run_name": "x", "save_total_limit": 3}
    whole = make()
    whole.train()
    trainer = make(train_dataset=copy, **exec_copy)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trainer.train(resume_from_checkpoint=checkpoint)
    assert same_parameters(whole, trainer)
    told = json.loads((tmp_path / "elsewhere" / "settings.json").read_text())
    assert told["resumes"] == [{"from": "checkpoint-2", "step": 2, "changed": {}}]


class TestWords:
    def test_auto(self, make, tmp_path):
        """Starts where there is nothing, and goes on where there is something."""
        first = make(max_steps=2)
        first.train(resume_from_checkpoint="auto")
        assert first.state.global_step == 2
        second = make()
        with pytest.warns(UserWarning, match="max_steps 2 -> 4"):
            second.train(resume_from_checkpoint="auto")
        assert (second.state.global_step, second._initial_global_step) == (4, 2)
        assert not (tmp_path / "auto").exists()

    @pytest.mark.parametrize("word", [False, "false", "False", None, "none"])
    def test_no(self, make, checkpoint, word):
        trainer = make(max_steps=1)
        trainer.train(resume_from_checkpoint=word)
        assert (trainer.state.global_step, trainer._initial_global_step) == (1, 0)

    def test_yes(self, make, checkpoint):
        trainer = make(max_steps=5)
        with pytest.warns(UserWarning, match="max_steps"):
            trainer.train(resume_from_checkpoint="true")
        assert trainer._initial_global_step == 4

    def test_the_directory_of_the_run(self, make, checkpoint, tmp_path):
        with pytest.raises(
            CheckpointError, match="is no checkpoint, but holds checkpoint-2, checkpoint-4: name one of"
        ):
            make().train(resume_from_checkpoint=str(tmp_path / "run"))

    def test_no_such_directory(self, make):
        with pytest.raises(CheckpointError, match="resume_from_checkpoint='no/such' is no directory"):
            make().train(resume_from_checkpoint="no/such")


class TestFingerprint:
    def test_content_alone(self, tmp_path):
        rows = [{"prompt": f"{i}", "solution": [i, None], "level": i / 3} for i in range(2500)]
        data = Dataset.from_list(rows)
        data.save_to_disk(tmp_path / "data")
        shuffled = Dataset.from_list(rows[::-1]).select(range(2499, -1, -1))
        for same in (Dataset.load_from_disk(tmp_path / "data"), shuffled, data.with_format("torch")):
            assert settings.fingerprint(same) == settings.fingerprint(data)
        rows[2400]["solution"] = [0, None]
        for other in (Dataset.from_list(rows), data.select(range(2499)), data.rename_column("level", "grade")):
            assert settings.fingerprint(other) != settings.fingerprint(data)

    def test_of_a_stream(self):
        """The first rows; and reading them leaves the random numbers of training alone."""

        def stream(start):
            def rows():
                for i in range(start, 100):
                    yield {"prompt": str(i), "noise": random.random() < 2 and torch.rand(()).item() < 2}

            return IterableDataset.from_generator(rows)

        state = random.getstate(), torch.random.get_rng_state()
        told = settings.fingerprint(stream(0))
        assert random.getstate() == state[0]
        assert torch.equal(torch.random.get_rng_state(), state[1])
        assert told.startswith("a stream of prompt, noise: ")
        assert told == settings.fingerprint(stream(0)) != settings.fingerprint(stream(1))


class TestRunOfPython:
    def test_the_report_knows_it(self, make, tmp_path):
        """Without a checkpoint too: its options, its log, and that it has finished."""
        make(save_strategy="no", seed=3).train()
        run = read_run(tmp_path / "run")
        assert (run.source, run.notes, run.steps, run.seed) == ("HTPO trainer", [], 4, 3)
        assert run.options["objective"] == "htpo"
        assert run.options["rewards"] == ["even_digits"]
        assert run.options["data"].startswith("64 rows of prompt: ")
        assert {"trl", "torch", "htpo_trl"} <= run.versions.keys()
        assert [*run.series("reward").index] == [1, 3]  # a log of each generation batch

    def test_one_that_failed_has_not_finished(self, make, tmp_path):
        def fails(completions, **kwargs):
            if trainer.state.global_step == 2:
                raise RuntimeError("no judge")
            return even_digits(completions)

        trainer = make(reward_funcs=fails)
        with pytest.raises(RuntimeError, match="no judge"):
            trainer.train()
        run = read_run(tmp_path / "run")
        assert run.notes == ["the log ends with checkpoint-2, the run's newest checkpoint: the run did not finish"]
        assert run.options["objective"] == "htpo"


def test_the_device_is_told(make, tmp_path, monkeypatch):
    trainer, told = make(), []
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA H200")
    for kind, n in (("cpu", 1), ("cuda", 1), ("cuda", 8), ("mps", 2)):
        accelerator = SimpleNamespace(device=torch.device(kind), num_processes=n)
        run = SimpleNamespace(args=trainer.args, settings=trainer.settings, accelerator=accelerator)
        settings.write(run, settings.describe(trainer), None)
        told.append(json.loads((tmp_path / "run" / "settings.json").read_text())["versions"]["device"])
    assert told == [f"cpu, threads: {torch.get_num_threads()}", "NVIDIA H200", "8 x NVIDIA H200", "2 x mps"]
