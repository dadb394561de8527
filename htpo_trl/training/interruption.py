"""Signals during training: the run stops where a checkpoint is exact, saves one, and says how to go on."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import SaveStrategy

from ..output.terminal import WARNINGS, steady_streams, warnings_to_heed
from ..utils import UsageError


#: That stop a run: Ctrl-C, `kill`, a terminal that closes, what schedulers send before the time is up.
SIGNALS = (signal.SIGINT, signal.SIGTERM, *WARNINGS)
#: Seconds. A launcher and a cluster manager may both pass on one signal; what comes later is another.
SAME_WITHIN = 1.0


@contextmanager
def stop_on_signals(trainer: Any) -> Iterator[None]:
    """
    Within, a signal stops training on all processes, whichever of them got it: SIGINT, SIGTERM, SIGHUP, SIGUSR1 or
    SIGUSR2. The optimizer step under way is finished, and the logging, evaluation and saving that are due after it; a
    checkpoint is saved whatever `save_strategy` says; the last line names it; and the processes exit with 128 + the
    number of the signal.

    A second signal stops at once, by `KeyboardInterrupt`, if one of the two is SIGINT; more of the others change
    nothing. SIGHUP, SIGUSR1 and SIGUSR2 are left to whoever handles or ignores them already, as `nohup` does. When the
    context is left signals are handled as before, and one that came when no step was left takes effect.

    Output whose reader goes away, or whose disk is full, goes nowhere and stops nothing.

    Args:
        trainer ([`ResumableGRPOTrainer`]):
            The trainer, the same on all processes.

    Raises:
        SystemExit: when training was stopped.
        UsageError: with `enable_jit_checkpoint`.
        ValueError: outside the main thread, to which Python gives all signals.

    Example:

    ```python
    with stop_on_signals(trainer):
        trainer.train()
    ```
    """
    if trainer.args.enable_jit_checkpoint:
        raise UsageError(
            "enable_jit_checkpoint=True handles SIGTERM in another way, on each process by itself. Leave it out: "
            "stop_on_signals saves a checkpoint on SIGTERM."
        )
    stop = _Stop(trainer)
    save_strategy = trainer.args.save_strategy
    heeded = (signal.SIGINT, signal.SIGTERM, *warnings_to_heed())
    handlers = {signum: signal.signal(signum, stop.receive) for signum in heeded}
    restore_streams = steady_streams()
    trainer.add_callback(stop)
    try:
        yield
    finally:
        trainer.remove_callback(stop)
        trainer.args.save_strategy = save_strategy
        restore_streams()
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    if stop.received:
        signal.raise_signal(stop.received)


class _Stop(TrainerCallback):
    """Added last, so that whatever other callbacks do at an event is done."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.received = 0  # the first signal to this process
        self._received_at = 0.0
        self._is_step_done = False
        self._pid = os.getpid()

    def receive(self, signum: int, frame: Any) -> None:
        """The signal handler."""
        if os.getpid() != self._pid:
            # In a forked child: a terminal gives Ctrl-C to all, but its work is needed until the step is done.
            if signum == signal.SIGTERM:
                signal.signal(signum, signal.SIG_DFL)
                signal.raise_signal(signum)
            return
        if not self.received:
            self.received, self._received_at = signum, time.monotonic()
            if self.trainer.accelerator.is_local_main_process:
                is_training = self.trainer.is_in_train
                when = "after this optimizer step, with a checkpoint" if is_training else "when this is done"
                line = f"\n{signal.Signals(signum).name}: stopping {when}. Ctrl-C (again) stops at once"
                with suppress(OSError):  # the terminal may be gone
                    # Not print(), which the signal may have interrupted.
                    os.write(2, f"{line}{', without one' * is_training}.\n".encode())
        elif signal.SIGINT in (signum, self.received) and time.monotonic() - self._received_at > SAME_WITHIN:
            raise KeyboardInterrupt(
                "Stopped at once by a second signal, without a checkpoint. "
                f"{self.trainer.resume_option.format(True)} takes the last complete one in "
                f"{self.trainer.args.output_dir}."
            )

    def _agreed(self) -> int:
        """The signal that any process got, the same on all; 0 for none, within a step, and after the last one."""
        if not self._is_step_done:
            return 0
        accelerator = self.trainer.accelerator
        return int(accelerator.gather(torch.tensor([self.received], device=accelerator.device)).max())

    def _save_if_agreed(self, args: Any, control: Any) -> None:
        if self._agreed():
            control.should_save = True
            args.save_strategy = SaveStrategy.STEPS  # "best" would decide anew after an evaluation

    def on_step_begin(self, args, state, control, **kwargs):
        self._is_step_done = False

    def on_step_end(self, args, state, control, **kwargs):
        # After the last step of an epoch, what is due at its end comes first: a resumed run would leave it out.
        self._is_step_done = state.global_step < state.max_steps and not float(state.epoch).is_integer()
        self._save_if_agreed(args, control)

    def on_epoch_end(self, args, state, control, **kwargs):
        self._is_step_done = state.global_step < state.max_steps
        self._save_if_agreed(args, control)

    def on_evaluate(self, args, state, control, **kwargs):
        self._save_if_agreed(args, control)

    def on_save(self, args, state, control, **kwargs):
        if not (signum := self._agreed()):
            return
        trainer = self.trainer
        trainer.callback_handler.on_train_end(args, state, control)  # trackers and progress bars close
        line = f"Stopped by {signal.Signals(signum).name}. {trainer.save_last_step()}"
        if state.is_world_process_zero:
            print(line, flush=True)
        trainer.accelerator.wait_for_everyone()  # a launcher ends the others as soon as one has exited
        raise SystemExit(128 + signum)
