"""
What published objectives make of a token, each one pure function: a gate gives the weight w of the token's gradient,
dJ/dlogπ = w·Â, and a scale another advantage. A function that is registered here is the rule of that name, in tables,
recipes and on the command line, with the function's keyword arguments as its options.

Formulas and defaults are those of the code that is named with each; docs/objectives.md says where codes differ. No
torch is imported: `b` is a [`~htpo_trl.objective.batch.Batch`], whose tensors are (B, T) or, of a response, (B, 1).
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal


if TYPE_CHECKING:
    from torch import Tensor

    from .batch import Batch


@dataclass(frozen=True)
class Function:
    """A registered gate or scale."""

    name: str  #: of the rule
    kind: Literal["gate", "scale"]
    formula: str  #: of the weight w (gate), or of the advantage that takes the place of Â (scale)
    source: str  #: the paper
    function: "Callable[..., Tensor]"
    options: MappingProxyType[str, float]  #: and their defaults
    #: May a token with Â > 0 learn downwards, or the reverse, or one with Â = 0?
    changes_sign: bool = False
    #: Is it a gate that is 1 where r = 1?
    waits_for_drift: bool = False
    #: Is it a gate on the ratio of the whole response?
    of_response: bool = False


#: Name of the rule → gate or scale.
FUNCTIONS: dict[str, Function] = {}


def _registered(kind: Literal["gate", "scale"], formula: str, source: str, **traits: bool) -> Callable:
    def register(function: "Callable[..., Tensor]") -> "Callable[..., Tensor]":
        name = function.__name__.replace("_", "-")
        function.__doc__ = f"{formula}. {source}"
        options = {p.name: p.default for p in [*inspect.signature(function).parameters.values()][1:]}
        FUNCTIONS[name] = Function(name, kind, formula, source, function, MappingProxyType(options), **traits)
        return function

    return register


def gate(formula: str, source: str, waits_for_drift: bool = True, **traits: bool) -> Callable:
    """Register a function of tokens that returns the weight w."""
    return _registered("gate", formula, source, waits_for_drift=waits_for_drift, **traits)


def scale(formula: str, source: str, **traits: bool) -> Callable:
    """Register a function of tokens that returns the advantage in the place of Â."""
    return _registered("scale", formula, source, **traits)


# The ratio of the token.


@gate("r", "arXiv 2505.22617")
def unclipped(b: "Batch") -> "Tensor":
    return b.ratio


@gate("min(r, 1+ε_hi)", "arXiv 2506.13585")
def cispo(b: "Batch") -> "Tensor":
    return b.ratio.clamp(max=1 + b.epsilon_high)


@gate("min(r, cap)", "Ionides 2008, JCGS 17(2)")
def tis(b: "Batch", *, cap: float = 2.0) -> "Tensor":
    return b.ratio.clamp(max=cap)


@gate("4·s·(1-s)·r, s = sigmoid(τ·(r-1))", "arXiv 2511.20347")
def sapo(b: "Batch", *, tau_pos: float = 1.0, tau_neg: float = 1.05) -> "Tensor":
    x = b.by_sign(tau_pos, tau_neg) * (b.ratio - 1)
    return 4 * x.sigmoid() * (-x).sigmoid() * b.ratio  # 1-s would be 0 too soon


@gate("min(r, cap) while π-π_old has not moved by more than the threshold in the direction of Â", "arXiv 2602.04879")
def dppo_tv(b: "Batch", *, threshold_low: float = 0.15, threshold_high: float = 0.15, cap: float = 20.0) -> "Tensor":
    moved = b.p - b.q
    return b.ratio.clamp(max=cap) * b.by_sign(moved <= threshold_high, moved >= -threshold_low)


@gate("min(r, cap) while the binary KL of π_old and π in the direction of Â is no more", "arXiv 2602.04879")
def dppo_kl(b: "Batch", *, threshold_low: float = 0.05, threshold_high: float = 0.05, cap: float = 20.0) -> "Tensor":
    kl = -b.q * b.log_ratio + (1 - b.q) * ((1 - b.q + 1e-8) / (1 - b.p + 1e-8)).log()
    drop = b.by_sign((kl > threshold_high) & (b.p > b.q), (kl > threshold_low) & (b.p < b.q))
    return b.ratio.clamp(max=cap) * ~drop


@gate("r if Â > 0 and r ≤ 1+clip, else 0", "arXiv 2606.16154", waits_for_drift=False)
def wapo(b: "Batch", *, clip: float = 9.0) -> "Tensor":
    return b.ratio * ((b.ratio <= 1 + clip) & b.positive)


@gate("(1+h)·r within a clip range by the entropy's place h in the batch", "arXiv 2509.16591, as released")
def hapo_released(b: "Batch", *, pivot: float = 0.8) -> "Tensor":
    h = b.place_in_batch(b.entropies.clamp(min=1e-8).log(), pivot)  # kernels give 0 for peaked tokens
    low, high = b.epsilon_low, b.epsilon_high * (1 + h)  # low would be wider where h < 0, which no place is
    stretched = (h > 0) != ((b.ratio > 1 - low / 2) & (b.ratio < 1 + high / 2))
    return b.ppo(low, high) * (1 + h * stretched)


# The ratio of the response.


@gate("s in the clip range, s = exp(mean log r) of the response", "arXiv 2507.18071", of_response=True)
def gspo(b: "Batch") -> "Tensor":
    return b.ppo(b.epsilon_low, b.epsilon_high, math.inf, ratio=b.mean(b.log_ratio).exp())


@gate(
    "R where |log r| ≤ clip on the side of Â, R = exp(mean log r, so clipped) of the response",
    "arXiv 2507.20673",
    of_response=True,
)
def gmpo(b: "Batch", *, clip: float = 0.4) -> "Tensor":
    kept = b.by_sign(b.log_ratio.clamp(max=clip), b.log_ratio.clamp(min=-clip))
    return b.mean(kept).exp() * (kept == b.log_ratio)


@gate("W^k·exp(λ·(1-W)), W = Π r of the response", "arXiv 2602.10693", of_response=True)
def vespo(
    b: "Batch", *, k_pos: float = 2.0, lambda_pos: float = 3.0, k_neg: float = 3.0, lambda_neg: float = 2.0
) -> "Tensor":
    log_w = b.sum(b.log_ratio.clamp(-20, 20)).clamp(math.log(1e-8), 20)
    k, strength = b.by_sign(k_pos, k_neg), b.by_sign(lambda_pos, lambda_neg)
    return (k * log_w + strength * (1 - log_w.exp())).exp()


# Other advantages.


@scale(
    "positive for a correct response, negative for a wrong one, whatever Â is", "arXiv 2506.01347", changes_sign=True
)
def verdict(b: "Batch", *, positive: float = 0.1, negative: float = -1.0) -> "Tensor":
    return b.choose(b.is_judged, b.choose(b.is_correct, positive, negative), b.advantages)


@scale("(α·π_old + 1-α)·Â", "arXiv 2505.12929")
def ar(b: "Batch", *, alpha: float = 0.2) -> "Tensor":
    return b.advantages * (alpha * b.q + (1 - alpha))


@scale("Â times exp of the discounted sum of log r from the token on, clipped", "arXiv 2603.19835")
def fipo(
    b: "Batch", *, half_life: float = 32.0, low: float = 1.0, high: float = 1.2, safety: float = 10.0
) -> "Tensor":
    beyond = b.mask & (b.ratio > safety)
    future = b.future_sum(b.log_ratio.masked_fill(beyond, 0.0), 0.5 ** (1 / half_life) if half_life else 0.0)
    factor = future.exp().clamp(low, high)
    down = b.advantages < 0
    factor = factor.clamp(0.8, 1.0).where(beyond & down, factor)
    return b.advantages * factor * ~(down & (b.sum(beyond) > 1))
