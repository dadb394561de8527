"""
What a trainer remembers from step to step beyond weights, optimizer and random states: read from it for a checkpoint,
and given back. docs/resume.md has the table of all that a trainer holds.
"""

from typing import Any

from huggingface_hub.dataclasses import type_validator
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from . import settings
from .checkpoint import as_json


class Watch(TrainerCallback):
    """Called first, at events that `Trainer` has no method for."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        # All is loaded. The loss since the last log goes into the next one; the mean of this training leaves it out.
        trainer = self.trainer
        if state.is_world_process_zero:
            settings.write(trainer, trainer._described, trainer._resumed)
        if trainer._state is not None:
            loss, trainer._globalstep_last_logged = trainer._state[1]["loss"]
            trainer._tr_loss.fill_(loss)
            trainer._total_loss_scalar -= loss

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer._is_pass_over = False

    def on_epoch_end(self, args, state, control, **kwargs):
        self.trainer._is_pass_over = True


def is_in_mid_batch(trainer: Any) -> bool:
    """Whether rollouts are left to be trained on."""
    return trainer._step % ((trainer.args.steps_per_generation or 1) * trainer.num_iterations) != 0


def batch_shape(trainer: Any) -> dict[str, Any]:
    """What buffered rollouts must agree with."""
    names = (
        *("per_device_train_batch_size", "steps_per_generation", "num_iterations", "num_generations"),
        *("gradient_accumulation_steps", "use_vllm", "vllm_importance_sampling_correction"),
    )
    return {"num_processes": trainer.accelerator.num_processes} | {name: getattr(trainer.args, name) for name in names}


def counters(trainer: Any) -> dict[str, Any]:
    """State of this process that JSON can hold."""
    in_mid_batch = is_in_mid_batch(trainer)
    tables = in_mid_batch and trainer.log_completions and trainer.accelerator.is_main_process
    return {
        # Where a batch is to be generated next, TRL starts from 0.
        "step": trainer._step if in_mid_batch else 0,
        "global_step": trainer.state.global_step,
        "batch_shape": batch_shape(trainer),
        "metrics": trainer._metrics["train"],  # not yet logged
        "loss": [trainer._tr_loss.item(), trainer._globalstep_last_logged],  # since the last log
        "stream": _place_in_stream(trainer),
        "tables": as_json(trainer._logs) if tables else {},  # of completions
        "callbacks": [[type(each).__name__, each.state()["attributes"]] for each in _exportable(trainer)],
    }


#: Of what kind they are.
KINDS: dict[str, Any] = {
    **{"step": int, "global_step": int, "batch_shape": dict[str, Any], "metrics": dict[str, list]},
    **{"loss": list[int | float], "stream": list[int] | None, "tables": dict[str, Any]},
    **{"callbacks": list[list], "settings": dict[str, Any]},
}


def check(counters: dict[str, Any]) -> None:
    """Raise a `KeyError` or `TypeError` for counters that no trainer has written."""
    for name, kind in KINDS.items():
        type_validator(name, counters[name], kind)


def restore(trainer: Any, counters: dict[str, Any]) -> None:
    """What [`counters`] returned, but for the loss, which [`Watch`] gives back, and the place in a stream."""
    trainer._step = counters["step"]
    trainer._metrics["train"].update(counters["metrics"])
    for name, rows in counters["tables"].items():
        if isinstance(rows, dict):
            for column, values in rows.items():
                trainer._logs[name][column].extend(values)
        elif name != "images":  # JSON holds none: trackers show the tables without them, until the next batch
            trainer._logs[name].extend(rows)
    saved = list(counters["callbacks"])
    for callback in _exportable(trainer):
        match = next((each for each in saved if each[0] == type(callback).__name__), None)
        if match is not None:
            saved.remove(match)
            vars(callback).update(match[1])


def _exportable(trainer: Any) -> list[Any]:
    """Callbacks that say what they remember, early stopping for one."""
    return [each for each in trainer.callback_handler.callbacks if isinstance(each, ExportableState)]


def _place_in_stream(trainer: Any) -> list[int] | None:
    """Of data without a length: the number of the pass, and how many micro-batches of it have been read."""
    if trainer._train_sampler is not None:
        return None
    n_pass, part = divmod(trainer.state.epoch or 0.0, 1)
    read = round(part * trainer.state.max_steps * trainer.args.gradient_accumulation_steps)
    return [int(n_pass) + 1, 0] if trainer._is_pass_over else [int(n_pass), read]


def optimizer_options(trainer: Any) -> tuple[list[dict[str, Any]], Any]:
    """What this run's options make of the optimizer and its schedule, before a checkpoint replaces it."""
    groups = getattr(trainer.optimizer, "param_groups", [])
    options = [{name: group[name] for name in ("betas", "eps", "weight_decay") if name in group} for group in groups]
    return options, getattr(trainer.lr_scheduler, "base_lrs", None)


def set_optimizer_options(trainer: Any, options: tuple[list[dict[str, Any]], Any]) -> None:
    """Give them back, so that a changed learning rate or weight decay takes effect."""
    schedule, groups = trainer.lr_scheduler, getattr(trainer.optimizer, "param_groups", [])
    for group, option in zip(groups, options[0], strict=False):
        group.update(option)
    if isinstance(schedule, LambdaLR):
        schedule.base_lrs = options[1]
        schedule._last_lr = [
            rate * factor(schedule.last_epoch) for rate, factor in zip(options[1], schedule.lr_lambdas, strict=True)
        ]
        for group, base, rate in zip(groups, schedule.base_lrs, schedule._last_lr, strict=False):
            group |= {"initial_lr": base, "lr": rate}
