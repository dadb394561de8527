"""What is left of a run in a process that goes on after it was stopped by a signal, as a notebook's does."""

import signal

import pytest
from transformers import TrainerCallback

from htpo_trl.training.interruption import stop_on_signals


class Tracker(TrainerCallback):
    """Counts as trackers and progress bars do: opened where training begins, closed where it ends."""

    def __init__(self):
        self.events = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.events.append("begin")

    def on_step_end(self, args, state, control, **kwargs):
        self.events.append(state.global_step)

    def on_save(self, args, state, control, **kwargs):
        self.events.append("save")

    def on_train_end(self, args, state, control, **kwargs):
        self.events.append("end")


class Stop(TrainerCallback):
    """A SIGTERM in the second step, once."""

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == 1:
            signal.raise_signal(signal.SIGTERM)
            self.on_pre_optimizer_step = lambda *args, **kwargs: None


def test_a_stop_ends_training_for_callbacks_and_leaves_nothing_behind(make_trainer):
    tracker = Tracker()
    trainer = make_trainer(callbacks=[tracker, Stop()])
    with pytest.raises(SystemExit), stop_on_signals(trainer):
        trainer.train()
    assert tracker.events == ["begin", 1, 2, "save", "end"]
    tracker.events.clear()
    trainer.train()
    assert tracker.events == ["begin", 1, 2, 3, 4, "end"]


@pytest.mark.parametrize("save_strategy", ["no", "steps", "epoch"])
def test_a_signal_in_the_last_step_lets_the_run_end(make_trainer, tmp_path, save_strategy):
    """A checkpoint of that step has nothing left to train: the best model would never be loaded."""

    class Interrupt(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            if state.global_step == 1:
                signal.raise_signal(signal.SIGINT)

    tracker = Tracker()
    trainer = make_trainer(callbacks=[tracker, Interrupt()], max_steps=2, save_strategy=save_strategy, save_steps=2)
    with pytest.raises(KeyboardInterrupt), stop_on_signals(trainer):
        trainer.train()
    assert tracker.events == ["begin", 1, 2, *(["save"] if save_strategy != "no" else []), "end"]
    assert (tmp_path / "run" / "trainer_state.json").is_file()
