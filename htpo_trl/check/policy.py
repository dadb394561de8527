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


class Watched(HTPOTrainer):
    """Compares the log-probabilities that tokens were sampled by with those of the model in the loss."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        model: Any = self.model
        self.first = copy.deepcopy(model).eval()
        self.differences: list[tuple[float, float]] = []  # of each generation batch: to the model, to the first one
        self._is_new = False

    def _generate(self, prompts):
        with _logits_of_generation() as steps:
            generated = super()._generate(prompts)
        self._steps = steps
        return generated

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        if self._mode() == "train":
            ids = output["completion_ids"]  # (B, T)
            logits = torch.stack(self._steps[: ids.shape[1]], dim=1)  # (B, T, V)
            logps = (logits / self.temperature).log_softmax(dim=2)
            output["generated_logps"] = logps.gather(2, ids.unsqueeze(2)).squeeze(2)
            self._is_new = True
        return output

    def _compute_loss(self, model, inputs):
        if self._is_new:  # no step has been taken on this batch
            self._is_new = False
            mask = inputs["completion_mask"].bool()
            sampled = inputs["generated_logps"]
            found = [(self._logps(each, inputs) - sampled).abs()[mask].max().item() for each in (model, self.first)]
            self.differences.append((found[0], found[1]))
        return super()._compute_loss(model, inputs)

    @torch.no_grad()
    def _logps(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        return self._get_per_token_logps_and_entropies(model, ids, mask, inputs["completion_ids"].shape[1])[0]


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


def _train(machine: Machine, **others: Any) -> Watched:
    options = {
        "max_steps": 24,
        "learning_rate": 5e-3,
        "per_device_train_batch_size": 16,
        "num_generations": 8,
        **others,
    }
    trainer: Watched = make_trainer(Watched, machine, build_model(), **options)
    trainer.train()
    return trainer


def _fresh(what: str, trainer: Watched) -> Iterator[Finding]:
    to_model, to_first = (list(each) for each in zip(*trainer.differences, strict=True))
    yield Finding(
        f"{what}: sampled and trained log-probs, {len(to_model)} batches",
        f"difference ≤ {TOLERANCE:g}",
        f"{max(to_model):.1e}",
        max(to_model) <= TOLERANCE and len(to_model) > 2,
        {"differences": to_model},
    )
    yield Finding(
        f"{what}: the last batch and the first policy",
        f"difference ≥ {STALE:g}",
        f"{to_first[-1]:.2f}",
        to_first[-1] >= STALE,
        {"differences": to_first},
    )
