"""
The time of an optimizer step, generation included, against `GRPOTrainer`'s, in interleaved pairs in one process.

Both generate the same tokens. After a warm-up of each, the order alternates; what counts is the median of the pairs'
ratios. It is red only where its interval, of 95% or more, lies above the bar: a busy machine is no fault. On the CPU,
one thread's processor time is measured, which a busy machine changes less. The smaller the model, the more is visible
of what HTPO adds: here it is as small as the laptop job's on a CPU, and SmolLM2-135M's size on a GPU.
"""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from scipy.stats import binom
from transformers import TrainerCallback
from trl import GRPOTrainer

from ..trainer import HTPOTrainer
from .parts import Finding, Machine
from .tiny import build_model, make_trainer


_BAR = 1.02
_ARMS = {"GRPO": GRPOTrainer, "HTPO": HTPOTrainer}
_OPTIONS: dict[str, Any] = {"per_device_train_batch_size": 64, "num_generations": 16, "learning_rate": 1e-6}
_OPTIONS |= {"logging_steps": 1000, "seed": 3}
_ON_CPU: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3}
_ON_GPU: dict[str, Any] = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
_ON_GPU |= {"num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49152}
_ON_GPU |= {"initializer_range": 0.02, "max_position_embeddings": 512}
# Method -> phase. A phase is without the time of those within it.
_PHASES = {
    "_generate": "generation",
    "_calculate_rewards": "scoring",
    "_generate_and_score_completions": "scoring",
    "_compute_loss": "loss",
    "training_step": "backward, optimizer",
}


class Clock(TrainerCallback):
    """When, by `now`, steps begin and end."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.begun: list[float] = []
        self.ended: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.begun.append(self.now())

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.ended.append(self.now())


def timed(cls: Any, now: Callable[[], float], phases: dict[str, float], names: dict[str, str]) -> Any:
    """A subclass of `cls` whose methods add their time, without that of timed methods within them, to `phases`."""
    within = [0.0]  # what was timed within each method that runs

    def wrap(method: Any, phase: str) -> Any:
        def wrapper(self, *args, **kwargs):
            within.append(0.0)
            start = now()
            try:
                return method(self, *args, **kwargs)
            finally:
                took = now() - start
                phases[phase] += took - within.pop()
                within[-1] += took

        return wrapper

    return type(cls.__name__, (cls,), {name: wrap(getattr(cls, name), phase) for name, phase in names.items()})


def interval_of_median(values: Sequence[float]) -> tuple[float, float]:
    """Two of the values, between which the median lies with 95% or more; all values where they are fewer than six."""
    ordered, k = sorted(values), max(int(binom.ppf(0.025, len(values), 0.5)), 1)
    return ordered[k - 1], ordered[-k]


def find(machine: Machine, n_pairs: int = 10) -> Iterator[Finding]:
    """The ratio, then the phases of each."""
    on_gpu = machine.device == "cuda"
    passes = 2 if on_gpu else 1  # over one generation batch
    n_steps = 4 * passes
    if not on_gpu:
        torch.set_num_threads(1)

    def train(cls: Any) -> tuple[float, float, float]:
        """Seconds before the first step, of all steps, after the last."""
        model = build_model(**(_ON_GPU if on_gpu else _ON_CPU)).to(torch.bfloat16 if on_gpu else torch.float32)
        clock = Clock(machine.now)
        options = _OPTIONS | {"bf16": on_gpu, "max_completion_length": 96 if on_gpu else 32}
        options |= {"max_steps": n_steps, "num_iterations": passes}
        trainer = make_trainer(cls, machine, model, callbacks=[clock], **options)
        start = machine.now()
        trainer.train()
        steps = sum(b - a for a, b in zip(clock.begun, clock.ended, strict=True))
        return clock.begun[0] - start, steps, machine.now() - clock.ended[-1]

    for cls in _ARMS.values():
        train(cls)
    seconds: dict[str, list[float]] = {arm: [] for arm in _ARMS}
    for i in range(n_pairs):
        for arm in sorted(_ARMS, reverse=i % 2 == 1):
            seconds[arm].append(train(_ARMS[arm])[1] / n_steps)
    ratios = [mine / theirs for mine, theirs in zip(seconds["HTPO"], seconds["GRPO"], strict=True)]
    low, high = interval_of_median(ratios)
    step = {arm: statistics.median(values) for arm, values in seconds.items()}
    figures: dict[str, Any] = {"seconds_per_step": seconds, "ratios": ratios, "interval": [low, high]}
    found = (
        f"{statistics.median(ratios):.3f} ({low:.3f}-{high:.3f}); {step['HTPO']:.4f} s against {step['GRPO']:.4f} s"
    )
    yield Finding(f"ratio of steps to GRPOTrainer's, {n_pairs} pairs", f"≤ {_BAR}", found, low <= _BAR, figures)
    phases: dict[str, dict[str, float]] = {}
    for arm, cls in _ARMS.items():
        spent = phases[arm] = defaultdict(float)
        spent["before the first step"], steps, spent["after the last step"] = train(
            timed(cls, machine.now, spent, _PHASES)
        )
        spent["backward, optimizer"] += steps - sum(spent[phase] for phase in {*_PHASES.values()})
    for phase in ("before the first step", *dict.fromkeys(_PHASES.values()), "after the last step"):
        mine, theirs = phases["HTPO"][phase], phases["GRPO"][phase]
        what, figures = f"{phase}, in {n_steps} steps", {"HTPO": mine, "GRPO": theirs}
        yield Finding(what, f"GRPO {theirs:.3f} s", f"{mine:.3f} s", None, figures)
