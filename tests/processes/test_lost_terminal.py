"""A run whose terminal is lost, whose log is full, or that was started without standard streams."""

import json
import os
import signal
from pathlib import Path

import pytest
from datasets import Dataset
from transformers import TrainerCallback

from htpo_trl import HTPOConfig, HTPOTrainer
from htpo_trl.demo.warm_start import build_tokenizer
from htpo_trl.training.checkpoint import check, last_complete
from htpo_trl.training.interruption import stop_on_signals

from ..forks import Forks
from ..tiny import CPU_ARGUMENTS, even_digits, tiny_model
from ..training_run import prompts


class Lost(TrainerCallback):
    """The terminal closes in the second step."""

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == 1:
            lose("reader")
            signal.raise_signal(signal.SIGHUP)


def lose(what):
    """The standard streams of this process."""
    if what == "streams":
        for descriptor in range(3):
            os.close(descriptor)
        return
    reader, writer = os.pipe()
    os.close(reader)
    if what == "room":
        writer = os.open("/dev/full", os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(writer, descriptor)


def train(directory, lost):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    if lost != "terminal":
        lose(lost)
    options = {"disable_tqdm": lost == "room", "log_completions": True}
    trainer = HTPOTrainer(
        tiny_model(),
        even_digits,
        HTPOConfig(str(directory / "run"), **CPU_ARGUMENTS | options),
        Dataset.from_list(prompts(8)),
        processing_class=build_tokenizer("0123456789"),
        callbacks=[Lost()] if lost == "terminal" else [],
    )
    with stop_on_signals(trainer):
        trainer.train()
        trainer.save_model()
    # Whatever is opened has not got the number of a standard stream, to which others write.
    with (directory / "log.json").open("w") as file:
        assert file.fileno() > 2
        json.dump(trainer.state.log_history, file)


@pytest.mark.parametrize("lost", ["terminal", "reader", "streams", "room"])
def test_the_run_goes_on_or_is_saved(tmp_path, lost):
    forks = Forks(train, tmp_path, lost, output=tmp_path / "output.txt")
    codes = forks.join()
    if lost == "terminal":
        assert codes == [128 + signal.SIGHUP]
        assert last_complete(tmp_path / "run") == str(tmp_path / "run" / "checkpoint-2")
        check(tmp_path / "run" / "checkpoint-2")
    else:
        assert codes == [0]
        assert len(json.loads((tmp_path / "log.json").read_text())) == 5
        assert (tmp_path / "run" / "model.safetensors").exists()
    assert "Error" not in Path(tmp_path / "output.txt").read_text()
