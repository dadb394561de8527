"""A run that is stopped in the middle of a generation batch and resumed ends as one that was not, bit for bit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_flatten
from transformers import TrainerCallback

from ..trainer import HTPOTrainer
from .parts import Finding, Machine
from .tiny import build_model, logged, make_trainer, same_weights


_SAVED, _LAST = 6, 12  # steps; four of them are of one generation batch, so that another one comes after it


class _StopWhenSaved(TrainerCallback):
    def on_save(self, args, state, control, **kwargs):
        control.should_training_stop = True


def find(machine: Machine) -> Iterator[Finding]:
    """Weights, optimizer and log, in float32 and in bfloat16. The model has dropout, which draws random numbers."""
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")

        def make(directory: Path, seed: int = 0, dtype: torch.dtype = dtype, **others: Any) -> Any:
            options = {"max_steps": _LAST, "save_strategy": "steps", "save_steps": _SAVED}
            options |= {"bf16": dtype == torch.bfloat16, "output_dir": str(directory), **others}
            return make_trainer(HTPOTrainer, machine, build_model(seed, attention_dropout=0.1).to(dtype), **options)

        whole, stopped_in = make(machine.directory / name / "whole"), machine.directory / name / "stopped"
        whole.train()
        make(stopped_in, callbacks=[_StopWhenSaved()]).train()
        resumed = make(stopped_in, seed=1)  # all of it comes from the checkpoint
        started = [parameter.detach().clone() for parameter in resumed.model.parameters()]
        torch.manual_seed(1234)
        resumed.train(resume_from_checkpoint=str(stopped_in / f"checkpoint-{_SAVED}"))
        rows = {
            "weights": same_weights(whole.model, resumed.model),
            "optimizer state": _same_state(whole, resumed),
            "what is logged": logged(whole) == logged(resumed) and len(logged(whole)) == _LAST,
        }
        trained = not all(map(torch.equal, started, resumed.model.parameters()))
        for what, is_same in rows.items():
            yield Finding.same(f"{name}: {what}, resumed at step {_SAVED} of {_LAST}", is_same and trained)


def _same_state(whole: Any, resumed: Any) -> bool:
    (ours, shape), (others, other_shape) = (
        tree_flatten(trainer.optimizer.state_dict()["state"]) for trainer in (whole, resumed)
    )
    same = (torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(ours, others, strict=False))
    return shape == other_shape and len(ours) > 0 and all(same)
