"""Options of optimizer, schedule and compiler, which transformers looks at after loading, before the first step."""

import inspect
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import get_scheduler

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
