"""
Advantage estimators: from the rewards of groups of responses to one advantage a response.

Each is a pure function of a few lines, registered by name: it is given the rewards (B,), NaN where a response has
none, and their [`Grouping`], and returns the advantages (B,). In formulas μ and σ are mean and standard deviation (n -
1) of the response's group. Where not said otherwise, a group of one, which has nothing to be compared with, has
advantage 0. No torch is imported: the names are in help texts.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..utils import UsageError


if TYPE_CHECKING:
    from torch import Tensor

    from .grouping import Grouping


#: What an estimator may ask of rewards.
REWARDS: dict[str, "Callable[[Tensor], Tensor]"] = {
    "finite": lambda rewards: rewards.isfinite(),
    "at least 0": lambda rewards: rewards.isfinite() & (rewards >= 0),
    "between 0 and 1": lambda rewards: (rewards >= 0) & (rewards <= 1),
    "verdicts, 0 or 1": lambda rewards: (rewards == 0) | (rewards == 1),
}


@dataclass(frozen=True)
class Estimator:
    """A function of rewards (B,) and their [`Grouping`], with what it asks for. Called, it looks at no value."""

    name: str
    function: "Callable[..., Tensor]"
    parameters: dict[str, float]  #: its keyword arguments, with the values in use
    takes: str = "finite"  #: the rewards that it is made for, one of `REWARDS`
    by_length: bool = False  #: it needs the lengths of the responses
    by_deviation: bool = False  #: it divides by the deviation of the group
    needs_two: bool = False  #: it has no meaning in a group of one

    def __post_init__(self) -> None:
        if self.takes not in REWARDS:
            raise UsageError(
                f"advantage={self.name!r}: takes={self.takes!r} is none of {', '.join(map(repr, REWARDS))}."
            )

    def __call__(self, rewards: "Tensor", groups: "Tensor", lengths: "Tensor | None" = None) -> "Tensor":
        from .grouping import Grouping

        grouping = Grouping(groups, rewards, None if lengths is None else lengths.to(rewards))
        advantages = self.function(rewards, grouping, **self.parameters)
        if advantages.shape != rewards.shape:
            raise UsageError(f"advantage={self.name!r} gives {tuple(advantages.shape)} for {len(rewards)} responses.")
        return advantages.where(grouping.counted, 0.0)

    @property
    def from_verdicts(self) -> bool:
        """Whether it learns from right and wrong alone."""
        return self.takes.startswith("verdicts")

    def describe(self) -> dict[str, Any]:
        """What `htpo objectives` shows of it, as JSON can hold it; formula and source are of the docstring."""
        formula, _, source = " ".join((inspect.getdoc(self.function) or "").split()).partition(". arXiv ")
        return {
            "name": self.name,
            "source": f"arXiv {source[:10]}" if source else "",
            "formula": formula.rstrip("."),
            "parameters": dict(self.parameters),
            "rewards": self.takes,
        }

    def summary(self) -> str:
        """One line of [`Estimator.describe`]."""
        told = self.describe()
        options = "".join(f"; {name}={value:g}" for name, value in self.parameters.items())
        return f"{self.name:18}  {told['source']:35}  {told['formula']}; rewards {self.takes}{options}"

    def __str__(self) -> str:
        values = ", ".join(f"{name}={value:g}" for name, value in self.parameters.items())
        return self.name + f" ({values})" * bool(values)


def defaults(function: Any) -> dict[str, float]:
    """The keyword arguments of an estimator, its parameters."""
    if not callable(function):
        raise UsageError(f"advantage: {function!r:.60} is no function of rewards and grouping.")
    parameters = inspect.signature(function).parameters.values()
    found = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    for name, default in found.items():
        if not isinstance(default, int | float):
            raise UsageError(f"advantage: {name} of {function.__name__} must have a number as its default.")
    return found


#: Name → estimator.
ESTIMATORS: dict[str, Estimator] = {}


def names(from_verdicts: bool) -> str:
    """The names of the estimators that learn from right and wrong alone, or of the others."""
    return ", ".join(name for name, each in ESTIMATORS.items() if each.from_verdicts == from_verdicts)


def register(name: str, **needs: Any) -> "Callable[[Callable[..., Tensor]], Callable[..., Tensor]]":
    """Make an estimator known by a name; `needs` are fields of [`Estimator`]. Its keyword arguments are options."""

    def known(function: "Callable[..., Tensor]") -> "Callable[..., Tensor]":
        ESTIMATORS[name] = Estimator(name, function, defaults(function), **needs)
        return function

    return known


@register("grpo", by_deviation=True)
def grpo(rewards: "Tensor", group: "Grouping", *, epsilon: float = 1e-4) -> "Tensor":
    """(reward - μ) / (σ + epsilon). arXiv 2402.03300; `epsilon` is TRL's, verl has 1e-6."""
    return (rewards - group.mean(rewards)) / (group.deviation(rewards) + epsilon)


@register("dr_grpo")
def dr_grpo(rewards: "Tensor", group: "Grouping") -> "Tensor":
    """reward - μ. arXiv 2503.20783."""
    return rewards - group.mean(rewards)


@register("rloo")
def rloo(rewards: "Tensor", group: "Grouping") -> "Tensor":
    """reward - mean of the others = n / (n - 1) · (reward - μ); a group of one keeps its reward. arXiv 2402.14740."""
    others = group.n - 1
    return (group.n / others * (rewards - group.mean(rewards))).where(others > 0, rewards)


@register("maxrl", takes="at least 0", needs_two=True)
def maxrl(rewards: "Tensor", group: "Grouping", *, epsilon: float = 1e-6) -> "Tensor":
    """(reward - μ) / (μ + epsilon): the rarer a success, the more it weighs. arXiv 2602.02710."""
    mean = group.mean(rewards)
    return (rewards - mean) / (mean + epsilon)


@register("a-grae", takes="between 0 and 1", by_deviation=True)
def a_grae(rewards: "Tensor", group: "Grouping", *, alpha: float = 1.0, epsilon: float = 1e-6) -> "Tensor":
    """
    a / 2 · ((1 - M) / (1 - √μ + epsilon) + M / (√μ + epsilon)) with a = (reward - μ) / (σ + epsilon) and M, the mean
    of all groups' μ; above 0 times min(1, M / alpha). arXiv 2602.05548, as if active (the released code never is).
    """
    mean = group.mean(rewards)
    batch, root = group.over_groups(mean), mean.sqrt()
    asymmetric = (1 - batch) / (1 - root + epsilon) + batch / (root + epsilon)
    advantages = asymmetric / 2 * grpo(rewards, group, epsilon=epsilon)
    return (advantages * (batch / alpha).clamp(max=1)).where(advantages > 0, advantages)


@register("hapo", by_length=True, by_deviation=True)
def hapo(rewards: "Tensor", group: "Grouping", *, bound: float = 5.0, epsilon: float = 1e-6) -> "Tensor":
    """
    (reward - μ_n) / (σ_n + epsilon), where μ_n and σ_n weigh each response by its length. If that, or -μ_n / (σ_n +
    epsilon) of padding, reaches `bound` in size, the group has grpo's with this epsilon. arXiv 2509.16591.
    """
    n: Any = group.lengths
    mean = group.mean(rewards, n)
    deviation = group.mean((rewards - mean) ** 2, n).sqrt() + epsilon
    advantages = (rewards - mean) / deviation
    largest = group.max(advantages.where(n > 0, 0.0).abs().maximum((mean / deviation).abs()))
    # Not below the bound, rather than at it: a group without any token has no mean of its own.
    return advantages.where(largest < bound, grpo(rewards, group, epsilon=epsilon))


@register("wapo")
def wapo(rewards: "Tensor", group: "Grouping") -> "Tensor":
    """max(reward - μ, 0). arXiv 2606.16154."""
    return (rewards - group.mean(rewards)).clamp(min=0)


@register("w-reinforce", takes="verdicts, 0 or 1")
def w_reinforce(rewards: "Tensor", group: "Grouping", *, positive: float = 0.1) -> "Tensor":
    """`positive` if right, -1 if wrong, without a baseline. arXiv 2506.01347."""
    return rewards.new_full(rewards.shape, -1.0).masked_fill(rewards > 0, positive)


@register("psr", takes="verdicts, 0 or 1")
def psr(rewards: "Tensor", group: "Grouping") -> "Tensor":
    """1 if right, 0 if wrong: the right ones alone. arXiv 2506.01347."""
    return rewards


@register("nsr", takes="verdicts, 0 or 1")
def nsr(rewards: "Tensor", group: "Grouping") -> "Tensor":
    """0 if right, -1 if wrong: the wrong ones alone. arXiv 2506.01347."""
    return rewards - 1
