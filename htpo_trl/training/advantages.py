"""The advantages of a trainer's responses by another estimator than TRL's, in the place of TRL's."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..advantages import Estimator, estimate
from ..utils import UsageError


def replaced(trainer: Any, mode: str, correct: Tensor, judged: Tensor) -> Tensor:
    """
    The advantages (P·B,) of all processes, from gathered rewards, so that all have the same and groups are whole; they
    take the place of TRL's in the table of completions too. Logs `htpo/frac_zero_advantage`.
    """
    estimator, rewards = trainer.args.estimator, trainer._rewards_per_func
    size = trainer.num_generations if mode == "train" else trainer.num_generations_eval
    lengths = None
    if estimator.by_length:
        lengths = trainer.accelerator.gather(torch.tensor(trainer._lengths, device=rewards.device))
    learnt = _learnt(estimator, rewards, trainer.reward_weights, correct, judged)
    try:
        advantages = estimate(estimator, learnt, _groups(learnt, size), lengths)
    except UsageError as error:
        raise UsageError(f"{error} {trainer.save_last_step()}") from error
    logged = trainer._logs["advantages"]
    for _ in range(min(len(logged), len(advantages))):
        logged.pop()
    logged.extend(advantages.tolist())
    trainer._metrics[mode]["htpo/frac_zero_advantage"].append((advantages == 0).float().mean().item())
    return advantages


def teaching_groups(
    estimator: Estimator, rewards: Tensor, weights: Tensor, correct: Tensor, judged: Tensor, size: int
) -> list[bool]:
    """
    Which groups an estimator gives any advantage, from their verdicts alone: a penalty for length does not rescue a
    group. Where nobody judged, from their rewards.

    Args:
        rewards (`torch.Tensor` of shape (N, F)):
            Of each response, group by group, by F functions; NaN where one gave none.
        weights (`torch.Tensor` of shape (F,)):
            Of the functions, in the sum that is trained on.
        correct, judged (`torch.Tensor` of shape (N,), bool):
            The verdict of each response, and whether there is one.
        size (`int`):
            Responses of a group.
    """
    verdicts = torch.where(judged, correct.to(rewards), torch.nan)
    is_judged = judged.view(-1, size).any(dim=1).repeat_interleave(size)
    learnt = torch.where(is_judged, verdicts, _learnt(estimator, rewards, weights, correct, judged))
    advantages = estimator(learnt, _groups(learnt, size), torch.ones_like(learnt))
    return (advantages != 0).view(-1, size).any(dim=1).tolist()


def check_rewards(args: Any, names: Sequence[str], judging: Sequence[int]) -> None:
    """
    Refuse weights that are not of these functions, and functions, or weights, that an estimator does not heed.
    `judging` are the places of those that judge correctness.
    """
    weights = args.reward_weights
    if weights is not None and len(weights) != len(names):
        raise UsageError(
            f"reward_weights={weights} must be one number for each of the reward functions {', '.join(names)}."
        )
    if not args.estimator.from_verdicts:
        return
    for place, name in enumerate(names):
        weight, wanted = (weights or [1.0] * len(names))[place], float(place in judging)
        if weight != wanted:
            mend = "Set it to 1" if wanted else "Set it to 0, so that the reward is logged alone, or leave it out"
            raise UsageError(
                f"advantage={args.advantage!r} learns from the verdict alone, and {name} has weight {weight:g} in "
                f"reward_weights, which would have no effect. {mend}."
            )


def _learnt(estimator: Estimator, rewards: Tensor, weights: Tensor, correct: Tensor, judged: Tensor) -> Tensor:
    """What an estimator learns from, (N,): the verdicts, or the weighted sum of rewards (N, F), as TRL sums them."""
    if estimator.from_verdicts:
        return torch.where(judged, correct.to(rewards), torch.nan)
    total = (rewards * weights.to(rewards.device)).nansum(dim=1)
    return total.masked_fill(rewards.isnan().all(dim=1), torch.nan)


def _groups(rewards: Tensor, size: int) -> Tensor:
    return torch.arange(len(rewards), device=rewards.device) // size
