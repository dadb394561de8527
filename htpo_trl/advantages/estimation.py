"""Estimating advantages by the name of an estimator, with what is refused."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..objects import import_object
from ..utils import UsageError, nearest
from .estimators import ESTIMATORS, REWARDS, Estimator, defaults
from .grouping import Grouping


def get_estimator(name: str, parameters: Mapping[str, float] | str | None = None) -> Estimator:
    """
    A registered estimator, or a function of one's own by `file.py:name` or `module:name`, with these parameters.

    Raises:
        UsageError: for an unknown name or parameter, with the nearest known one.
    """
    if not isinstance(name, str):
        raise UsageError(f"advantage={name!r:.60} must be a name: one of {', '.join(ESTIMATORS)}, or file.py:name.")
    if ":" in name:
        found = import_object(name, "advantage")
        known = (each for each in ESTIMATORS.values() if each.function is found)  # with what it needs
        estimator = next(known, None) or Estimator(name, found, defaults(found))
    elif name in ESTIMATORS:
        estimator = ESTIMATORS[name]
    else:
        raise UsageError(
            f"advantage={name!r} is none of {', '.join(ESTIMATORS)}. {nearest(name, ESTIMATORS)}Use one of them, or "
            "file.py:name for a function of your own."
        )
    if not isinstance(parameters, Mapping | None):
        raise UsageError(f"advantage_kwargs={parameters!r} must map names to numbers: JSON on the command line.")
    for key, value in (parameters or {}).items():
        if key not in estimator.parameters:
            near, all_of_them = nearest(key, estimator.parameters), ", ".join(estimator.parameters) or "none"
            raise UsageError(f"advantage_kwargs: {near}{key!r} is no parameter of {name!r}, which has {all_of_them}.")
        is_positive = estimator.parameters[key] > 0
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or (is_positive and value <= 0):
            raise UsageError(f"advantage_kwargs: {key}={value!r} must be a number{' above 0' * is_positive}.")
    return replace(estimator, parameters={**estimator.parameters, **(parameters or {})})


def estimate(
    name: str | Estimator, rewards: Tensor, groups: Tensor, lengths: Tensor | None = None, **parameters: float
) -> Tensor:
    """
    The advantages of responses by an estimator of [`ESTIMATORS`].

    The checks look at the values once; on a GPU the host waits for that. `get_estimator(name)(rewards, groups)` is the
    estimate alone.

    Args:
        name (`str` or [`Estimator`]):
            Of the estimator, or itself.
        rewards (`torch.Tensor` of shape (B,)):
            Floats, NaN where a response has none: it is left out of its group, and has advantage 0.
        groups (`torch.Tensor` of shape (B,)):
            A number for each group, in any order; groups may differ in size.
        lengths (`torch.Tensor` of shape (B,), *optional*):
            Tokens of each response, for `hapo`.
        **parameters (`float`):
            Keyword arguments of the estimator, e.g. `alpha=0.5`.

    Returns:
        `torch.Tensor` of shape (B,), of the type of the rewards.

    Raises:
        UsageError: for an unknown name or parameter, and for rewards that the estimator is not made for.

    Example:

    ```python
    >>> import torch
    >>> from htpo_trl.advantages import estimate

    >>> estimate("rloo", torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0]), torch.tensor([0, 0, 0, 7, 7]))
    tensor([ 1.0000, -0.5000, -0.5000,  0.0000,  0.0000])
    ```
    """
    estimator = name if isinstance(name, Estimator) else get_estimator(name, parameters)
    what = f"advantage={estimator.name!r}"
    if estimator.by_length and lengths is None:
        raise UsageError(f"{what} weighs responses by their lengths: pass lengths, the tokens of each.")
    if not rewards.is_floating_point() or not rewards.shape == groups.shape == (len(rewards),):
        raise UsageError(f"{what}: rewards must be floats of shape (B,), groups of shape (B,) too.")
    if not (REWARDS[estimator.takes](rewards) | rewards.isnan()).all():
        raise UsageError(
            f"{what} is made for rewards that are {estimator.takes}. Give it such, as htpo_trl.rewards.math_reward "
            "does, without penalties, or use an estimator that takes any, such as 'rloo'."
        )
    if estimator.needs_two and (Grouping(groups, torch.zeros_like(rewards)).n < 2).any():
        raise UsageError(f"{what} compares responses of a group, and there is a group of one: sample two or more.")
    advantages = estimator(rewards, groups, lengths)
    if not advantages.isfinite().all():
        raise UsageError(f"{what} gives NaN or infinity. Correct the function, so that its divisors cannot be 0.")
    return advantages


def check_advantage(config: Any) -> None:
    """Refuse options of a configuration that would have no effect beside its estimator, or undo it."""
    estimator, what = config.estimator, f"advantage={config.advantage!r}"
    if config.advantage == "grpo":
        if config.advantage_kwargs:
            raise UsageError(
                f"advantage_kwargs={config.advantage_kwargs} has no effect with advantage='grpo', which is TRL's. "
                "Leave it out."
            )
        return
    if config.multi_objective_aggregation != "sum_then_normalize":
        raise UsageError(
            f"multi_objective_aggregation={config.multi_objective_aggregation!r} normalises each reward as GRPO does, "
            f"in place of which there is {what}. Use 'sum_then_normalize'."
        )
    if config.scale_rewards == "batch" or (config.scale_rewards == "none" and estimator.by_deviation):
        mend = "'group', the default" if estimator.by_deviation else "'none'"
        raise UsageError(
            f"scale_rewards={config.scale_rewards!r} contradicts {what}, which divides by "
            f"{'the deviation of the group' if estimator.by_deviation else 'no deviation'}. Use scale_rewards={mend}."
        )
    if estimator.needs_two and config.num_generations_eval == 1:
        raise UsageError(
            f"num_generations_eval=1: {what} compares responses of a group. Set it to 2 or more, or leave it out."
        )
