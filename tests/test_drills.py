"""Failure drills: signals, reward functions that raise, full disks, dead processes. docs/failures.md is about them."""

import os
import re
import signal
import subprocess
import threading
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from htpo_trl.checkpoint import check, last_complete
from htpo_trl.interruption import stop_on_signals

from .test_resume import same_parameters
from .test_trainer import make_trainer  # noqa: F401 (a fixture)
from .training_run import prompts


class Send(TrainerCallback):
    """Signals to this process at an event after a given step."""

    def __init__(self, event, step, *signums):
        def send(args, state, control, **kwargs):
            if state.global_step == step:
                for signum in signums:
                    signal.raise_signal(signum)

        setattr(self, event, send)


class TestSignals:
    @pytest.fixture
    def make(self, make_trainer, make_model):  # noqa: F811
        """Two epochs of four steps each, eight gradient steps per generation batch, an evaluation after each epoch."""
        data = Dataset.from_list(prompts(8))

        def make(*callbacks, **kwargs):
            options = {"num_iterations": 2, "steps_per_generation": 4, "max_steps": 8, "eval_strategy": "epoch"}
            return make_trainer(
                model=make_model(),
                train_dataset=data,
                eval_dataset=data.select(range(2)),
                callbacks=list(callbacks),
                **options | kwargs,
            )

        return make

    @pytest.mark.parametrize(
        ("event", "step", "signum", "stopped", "options"),
        [
            ("on_train_begin", 0, signal.SIGINT, 1, {}),
            ("on_pre_optimizer_step", 2, signal.SIGTERM, 3, {"save_strategy": "best", "metric_for_best_model": "loss"}),
            ("on_pre_optimizer_step", 3, signal.SIGINT, 4, {}),
            ("on_prediction_step", 4, signal.SIGINT, 4, {"save_strategy": "best", "metric_for_best_model": "loss"}),
            ("on_save", 3, signal.SIGTERM, 3, {"save_strategy": "steps", "save_steps": 3}),
        ],
    )
    def test_stops_where_it_resumes_exactly(self, make, capfd, tmp_path, event, step, signum, stopped, options):
        whole = make()
        whole.train()
        handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
        trainer = make(Send(event, step, signum), **options)
        with pytest.raises(SystemExit) as ended, stop_on_signals(trainer):
            trainer.train()
        assert ended.value.code == 128 + signum
        assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
        out, err = capfd.readouterr()
        assert f"{signum.name}: stopping after this optimizer step" in err
        checkpoint = tmp_path / "run" / f"checkpoint-{stopped}"
        assert out.splitlines()[-1] == (
            f"Stopped by {signum.name}. The run is saved at step {stopped}. "
            f"To go on from there: resume_from_checkpoint={checkpoint}"
        )
        resumed = make()
        resumed.train(resume_from_checkpoint=str(checkpoint))
        assert same_parameters(whole, resumed)
        names = ("reward", "eval_reward", "entropy", "eval_entropy")
        logs = [[[row.get(name) for name in names] for row in run.state.log_history] for run in (whole, resumed)]
        assert logs[0] == logs[1]
