"""`objective="dapo"` is TRL's `GRPOTrainer` bit for bit, in float32 and in bfloat16."""

from collections.abc import Iterator
from typing import Any

import torch
from trl import GRPOTrainer

from ..trainer import HTPOTrainer
from .parts import Finding, Machine
from .tiny import build_model, logged, make_trainer, same_weights


def find(machine: Machine) -> Iterator[Finding]:
    """
    Runs of both trainers, off-policy within each generation batch. Before that, whether TRL repeats itself on this
    machine, and after it, whether the same comparison sees another objective.
    """
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")

        def run(cls: Any, dtype: torch.dtype = dtype, **others: Any) -> Any:
            bf16 = dtype == torch.bfloat16
            trainer = make_trainer(cls, machine, build_model().to(dtype), bf16=bf16, num_iterations=2, **others)
            trainer.train()
            return trainer

        theirs = run(GRPOTrainer)
        again, dapo, htpo = run(GRPOTrainer), run(HTPOTrainer, objective="dapo"), run(HTPOTrainer, objective="htpo")
        rows = {
            f"{name}: GRPOTrainer twice, weights": (same_weights(theirs.model, again.model), True),
            f"{name}: dapo and GRPOTrainer, weights": (same_weights(theirs.model, dapo.model), True),
            f"{name}: dapo and GRPOTrainer, what is logged": (_same_logs(theirs, dapo), True),
            f"{name}: htpo and GRPOTrainer, weights": (same_weights(theirs.model, htpo.model), False),
        }
        for what, (is_same, expected) in rows.items():
            yield Finding.same(what, is_same, expected)


def _same_logs(theirs: Any, ours: Any) -> bool:
    """What TRL logs; HTPO logs more."""
    pairs = list(zip(logged(theirs), logged(ours), strict=True))
    return len(pairs) > 1 and all(row == {name: other.get(name) for name in row} for row, other in pairs)
