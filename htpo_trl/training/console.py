"""What a run says on the terminal: a short line for each row of its log; once, that it learns nothing."""

import logging
import math
import time
import warnings
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TypeGuard

from transformers import TrainerCallback


_logger = logging.getLogger(__name__)

#: Generation batches in a row without a signal, after which [`NothingLearnt`] says so.
PATIENCE = 8
_GENERATED = {"reward": "reward {:.3f}", "htpo/accuracy": "accuracy {:.0%}", "htpo/frac_hard": "hard {:.0%}"}


class ConsoleLog(TrainerCallback):
    """
    Prints one line for each row of the log, in place of the dictionaries and the bar of transformers: step, reward,
    accuracy, hard prompts, tokens that a rule touched, entropy and the time left. Reward, accuracy and hard prompts
    are of the last generation batch. Trackers and `trainer_state.json` get every metric all the same.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        self._started, self._first_step = time.monotonic(), state.global_step
        self._generated: dict[str, float] = {}

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and state.is_world_process_zero and (line := self._line(state, logs)):
            width = len(str(state.max_steps))
            print(f"step {state.global_step:{width}}/{state.max_steps}  {line}", flush=True)

    def _line(self, state: Any, logs: Mapping[str, Any]) -> str:
        if "train_runtime" in logs:
            return f"done in {_duration(logs['train_runtime'])}"
        if "loss" not in logs:
            return _evaluation(logs)
        self._generated |= {name: logs[name] for name in _GENERATED if name in logs}
        known = self._generated
        shown = [text.format(known[name]) for name, text in _GENERATED.items() if _is_number(known.get(name))]
        touched = [value for name, value in logs.items() if name.startswith("htpo/special/")]
        if touched:
            shown.append(f"touched {sum(touched):.2%}")
        if _is_number(logs.get("entropy")):
            shown.append(f"entropy {logs['entropy']:.3f}")
        per_step = (time.monotonic() - self._started) / max(state.global_step - self._first_step, 1)
        return "  ".join([*shown, f"{_duration(per_step * (state.max_steps - state.global_step))} left"])


class NothingLearnt(TrainerCallback):
    """
    Says once, in one line, that no group of the last [`PATIENCE`] generation batches had two different rewards, or
    that an estimator other than TRL's gave no advantage: every advantage is 0 then, and the loss with it.
    """

    _is_said = False

    def on_train_begin(self, args, state, control, **kwargs):
        self._last_signal = state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        logs = logs or {}
        share = logs.get("htpo/frac_zero_advantage", logs.get("frac_reward_zero_std"))
        if not _is_number(share):  # no batch was generated since the last row
            return
        if share < 1:
            self._last_signal = state.global_step
        steps = args.steps_per_generation * args.num_iterations / args.gradient_accumulation_steps  # of a batch
        batches = (state.global_step - self._last_signal) / steps
        if batches < PATIENCE or self._is_said or not state.is_world_process_zero:
            return
        self._is_said = True
        accuracy = logs.get("htpo/accuracy")
        kind = (
            ("all correct" if accuracy == 1 else "all wrong" * (accuracy == 0))
            if _is_number(accuracy)
            else "not judged"
        )
        mend = "" if args.dynamic_sampling else " The option dynamic_sampling trains on other prompts in their place."
        _logger.warning(
            f"Step {state.global_step}: nothing was learnt from the last {batches:.0f} generation batches. Within a "
            f"group all rewards are equal{f' ({kind})' if kind else ''}, so that every advantage is 0.{mend} See 'The "
            "loss is 0' in docs/troubleshooting.md."
        )


def tell(args: Any, *lines: str) -> None:
    """Warn, on one process and at the caller's caller, of what is no error and yet not what a user may think."""
    for line in filter(None, lines if args.process_index == 0 else ()):
        warnings.warn(line, stacklevel=3)


def _evaluation(logs: Mapping[str, Any]) -> str:
    """`digits: mean@8 0.312, pass@8 0.610` of each benchmark; of TRL's own evaluation the reward."""
    shown: dict[str, list[str]] = {}
    for name, value in logs.items():
        benchmark, _, metric = name.removeprefix("eval_").rpartition("/")
        is_shown = "@" in metric or metric.endswith("reward")  # of one data set among several it is `name_reward`
        if name.startswith("eval_") and _is_number(value) and is_shown:
            shown.setdefault(benchmark or "evaluation", []).append(f"{metric} {value:.3f}")
    return "; ".join(f"{name}: {', '.join(dict.fromkeys((found[0], found[-1])))}" for name, found in shown.items())


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not math.isnan(value)


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
