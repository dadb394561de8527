"""In each generation batch, the policy that generates is the one that is trained; and it learns."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook
from transformers import PreTrainedModel

from ..trainer import HTPOTrainer
from .parts import Finding, Machine
from .tiny import build_model, logged, make_trainer


#: Nats by which log-probabilities of the same policy may differ, generated token by token or in one forward pass.
TOLERANCE = 1e-3
#: Nats by which those of the first policy must differ from the last one's, or nothing could be seen.
STALE = 0.05
_GAIN = 0.2


class _Watched(HTPOTrainer):
    """Compares the log-probabilities that tokens were sampled by with those of the model that is trained."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        model: Any = self.model
        self.first = copy.deepcopy(model).eval()
        self.differences: list[tuple[float, float]] = []  # of each generation batch: to the model, to the first one

    @torch.no_grad()
    def _generate_and_score_completions(self, inputs):
        with _logits_of_generation() as steps:
            output = super()._generate_and_score_completions(inputs)
        ids, mask = output["completion_ids"], output["completion_mask"].bool()  # (B, T)
        # No step is taken on this batch before the next lines. What runs after the T tokens are there is not of them.
        sampled = (torch.stack(steps[: ids.shape[1]], dim=1) / self.temperature).log_softmax(dim=2)  # (B, T, V)
        sampled = sampled.gather(2, ids.unsqueeze(2)).squeeze(2)
        whole = [torch.cat([output[f"prompt_{x}"], output[f"completion_{x}"]], dim=1) for x in ("ids", "mask")]
        found = []
        for model in (self.model, self.first):
            logps = self._get_per_token_logps_and_entropies(model, *whole, ids.shape[1])[0]
            found.append((logps - sampled).abs()[mask].max().item())
        self.differences.append((found[0], found[1]))
        return output


@contextmanager
def _logits_of_generation() -> Iterator[list[Tensor]]:
    """The logits of the next token, (B, V), in each forward pass of whatever language model runs within."""
    steps: list[Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        if isinstance(module, PreTrainedModel) and getattr(output, "logits", None) is not None:
            steps.append(output.logits[:, -1].detach().float())

    handle = register_module_forward_hook(keep)
    try:
        yield steps
    finally:
        handle.remove()


def find(machine: Machine) -> Iterator[Finding]:
    """All weights, which learn an easy task by HTPO; then LoRA."""
    yield from _fresh("all weights", trainer := _train(machine))
    rewards = [row["reward"] for row in logged(trainer) if row.get("reward") is not None]
    first, last = rewards[0], sum(rewards[-2:]) / 2
    yield Finding(
        f"reward of htpo, {len(rewards)} generation batches",
        f"≥ {first + _GAIN:.2f} (first {first:.2f})",
        f"{last:.2f}",
        last >= first + _GAIN,
        {"rewards": rewards},
    )
    adapter = LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    yield from _fresh("LoRA", _train(machine, peft_config=adapter, max_steps=12))


def _train(machine: Machine, **others: Any) -> _Watched:
    options = {"max_steps": 24, "learning_rate": 5e-3, "per_device_train_batch_size": 16, "num_generations": 8}
    trainer: _Watched = make_trainer(_Watched, machine, build_model(), **options | others)
    trainer.train()
    return trainer


def _fresh(what: str, trainer: _Watched) -> Iterator[Finding]:
    to_model, to_first = (list(each) for each in zip(*trainer.differences, strict=True))
    sampled = f"{what}: sampled and trained log-probs, {len(to_model)} batches"
    yield Finding.near(sampled, max(to_model), TOLERANCE, control=len(to_model) > 2)
    last = to_first[-1]
    yield Finding(
        *(f"{what}: the last batch and the first policy", f"difference ≥ {STALE:g}", f"{last:.2f}", last >= STALE),
        {"differences": to_first},
    )
