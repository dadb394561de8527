"""Options of optimizer, schedule and compiler, which transformers looks at after loading, before the first step."""

import inspect
import random
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import get_scheduler

from ..objective.rules import waits_for_drift
from ..utils import UsageError


#: Steps of the schedule that is tried: any number will do.
STEPS = 10


def check_optimization(args: Any) -> None:
    """Try the schedule on an optimizer of nothing. Raises a [`UsageError`] for arguments that it does not take."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    kind, given = args.lr_scheduler_type, args.lr_scheduler_kwargs
    try:
        get_scheduler(kind, optimizer, args.get_warmup_steps(STEPS), STEPS, scheduler_specific_kwargs=given)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"lr_scheduler_type={str(getattr(kind, 'value', kind))!r}, lr_scheduler_kwargs={given}: {error}. Set "
            "lr_scheduler_kwargs to what this schedule takes, as JSON on the command line."
        ) from error
    backend = args.torch_compile_backend
    if backend is not None and backend not in (known := torch.compiler.list_backends(exclude_tags=())):
        raise UsageError(f"torch_compile_backend={backend!r} is none of torch's: {', '.join(known)}.")
    names = {*inspect.signature(checkpoint).parameters, "preserve_rng_state"} - {"function", "args", "kwargs"}
    if unknown := {*(args.gradient_checkpointing_kwargs or {})} - names:
        raise UsageError(
            f"gradient_checkpointing_kwargs: {min(unknown)!r} is none of torch's: {', '.join(sorted(names))}."
        )
    pairs = [pair for pair in (args.optim_args or "").split(",") if pair.strip()]
    if any(pair.count("=") != 1 for pair in pairs):
        raise UsageError(f"optim_args={args.optim_args!r} must be name=value, with commas between several.")


def told_on_policy(args: Any) -> str:
    """That the rules beyond the clip range never act, in one line with the mend; nothing where they do."""
    if not args.is_on_policy or not any(map(waits_for_drift, args.table.rows)):
        return ""
    return (
        "Each generation batch is used up within one optimizer step (gradient_accumulation_steps="
        f"{args.gradient_accumulation_steps}, steps_per_generation={args.steps_per_generation}, num_iterations="
        f"{args.num_iterations}), so every importance ratio is 1 and the rules of objective={args.objective!r} beyond "
        f"the clip range never act. Set steps_per_generation={4 * args.gradient_accumulation_steps} (four optimizer "
        "steps, as in the paper) or raise num_iterations."
    )


def own_generator(trainer: Any, micro_batch: int, device: torch.device) -> torch.Generator | None:
    """
    The generator of the draws of an objective that has any, by seed, step, micro-batch and process: what else draws,
    an evaluation say, changes no draw, and a run that is resumed draws as it would have.
    """
    if not trainer.table.draws:
        return None
    place = (trainer.args.seed, trainer.state.global_step, micro_batch, trainer.accelerator.process_index)
    return torch.Generator(device).manual_seed(random.Random(repr(place)).getrandbits(63))
