"""
What gates, scales and selections see of the tokens of a loss call: ratios, probabilities, and the sums, means and
rankings over a response or over all tokens. What depends on how tokens lie in tensors stands here alone.
"""

import copy
import math
from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .selections import fraction


class Batch:
    """
    The tokens of a loss call, a micro-batch. (B, T) unless said otherwise, and neutral where masked: probability 1,
    ratio 1, entropy 0, no advantage. In single precision at least.

    Args:
        per_token_logps, old_per_token_logps, entropies, advantages, mask:
            As [`~htpo_trl.objective.transform.control`] takes them; `advantages` of shape (B, 1) or (B, T).
        is_correct, is_judged (`torch.Tensor` of shape (B,), bool):
            Likewise.
        epsilon_low, epsilon_high, delta (`float`):
            Clip range and dual clip of the loss; `delta` may be infinite.
        generator (`torch.Generator`, *optional*):
            Of draws. By default torch's of the device.
    """

    def __init__(
        self,
        per_token_logps: Float[Tensor, "batch token"],
        old_per_token_logps: Float[Tensor, "batch token"],
        entropies: Float[Tensor, "batch token"],
        advantages: Float[Tensor, "batch token"] | Float[Tensor, "batch 1"],
        mask: Bool[Tensor, "batch token"],
        is_correct: Bool[Tensor, "batch"],
        is_judged: Bool[Tensor, "batch"],
        epsilon_low: float,
        epsilon_high: float,
        delta: float,
        generator: torch.Generator | None = None,
    ) -> None:
        self.mask = mask
        self._logps, self._old_logps = per_token_logps, old_per_token_logps
        self._entropies, self._advantages = entropies, advantages
        self.is_correct, self.is_judged = is_correct.unsqueeze(1), is_judged.unsqueeze(1)  # (B, 1)
        self.epsilon_low, self.epsilon_high, self.delta = epsilon_low, epsilon_high, delta
        self.generator = generator

    def with_advantages(self, advantages: Float[Tensor, "batch token"]) -> "Batch":
        """The same tokens with other advantages."""
        other = copy.copy(self)
        other.advantages = advantages
        other.__dict__.pop("positive", None)
        return other

    def _neutral_where_masked(self, values: Tensor) -> Tensor:
        # Sums over a response, and a clip range of 0.0004, take more than half precision.
        return _single(values).where(self.mask, 0.0)

    @cached_property
    def logps(self) -> Tensor:
        """log π."""
        return self._neutral_where_masked(self._logps)

    @cached_property
    def log_ratio(self) -> Tensor:
        """log r."""
        return self._neutral_where_masked(_single(self._logps) - _single(self._old_logps))

    @cached_property
    def entropies(self) -> Tensor:
        """In nats."""
        return self._neutral_where_masked(self._entropies)

    @cached_property
    def advantages(self) -> Tensor:
        """Â, or what a scale has made of it."""
        return self._neutral_where_masked(self._advantages)

    @cached_property
    def ratio(self) -> Tensor:
        """r = π/π_old."""
        return self.log_ratio.exp()

    @cached_property
    def p(self) -> Tensor:
        """π of the token; no more than 1, although rounding can make log π positive."""
        return self.logps.exp().clamp(max=1)

    @cached_property
    def q(self) -> Tensor:
        """π_old of the token, likewise."""
        return (self.logps - self.log_ratio).exp().clamp(max=1)

    @cached_property
    def positive(self) -> Tensor:
        """Whether Â > 0."""
        return self.advantages > 0

    def choose(self, condition: Tensor, yes: Tensor | float, no: Tensor | float) -> Tensor:
        """`torch.where`, with numbers in the precision of the tokens."""
        yes, no = (each if isinstance(each, Tensor) else self.log_ratio.new_full((), each) for each in (yes, no))
        return torch.where(condition, yes, no)

    def by_sign(self, if_positive: Tensor | float, if_not: Tensor | float) -> Tensor:
        """The first where Â > 0, else the second."""
        return self.choose(self.positive, if_positive, if_not)

    def ppo(
        self,
        low: Tensor | float | None = None,
        high: Tensor | float | None = None,
        delta: float | None = None,
        ratio: Tensor | None = None,
    ) -> Tensor:
        """The weight of PPO-clip with dual clip: r, or 0 where it is clipped; by default the loss's own."""
        low, high = self.epsilon_low if low is None else low, self.epsilon_high if high is None else high
        ratio, delta = self.ratio if ratio is None else ratio, self.delta if delta is None else delta
        return ratio * self.by_sign(ratio <= 1 + high, (ratio >= 1 - low) & (ratio <= delta))

    # Of a response.

    def sum(self, values: Tensor) -> Float[Tensor, "batch 1"]:
        """Of values that are 0 where masked."""
        return values.sum(dim=1, keepdim=True)

    def mean(self, values: Tensor) -> Float[Tensor, "batch 1"]:
        """Of values that are 0 where masked; 0 of no tokens."""
        return self.sum(values) / self.sum(self.mask).clamp(min=1)

    def future_sum(self, values: Tensor, discount: float) -> Tensor:
        """Σ_{k≥t} discount^(k-t)·x_k, the token itself included; of values that are 0 where masked."""
        # By doubling: after n rounds each cell holds the sum over 2^n tokens. What lies further off than round-off is
        # left out, so that the rounds do not grow with the length.
        tokens = values.shape[1]
        farthest = tokens
        if 0 < discount < 1:
            farthest = min(tokens, math.ceil(math.log(torch.finfo(values.dtype).eps) / math.log(discount)))
        summed, span = values, 1
        while span < farthest:
            later = torch.nn.functional.pad(summed[:, span:], (0, min(span, tokens)))
            summed = summed + discount**span * later[:, :tokens]
            span *= 2
        return summed

    # Of the loss call.

    def batch_mean(self, values: Tensor) -> Float[Tensor, ""]:
        """Of values that are 0 where masked, over all tokens; 0 of none."""
        return values.sum() / self.mask.sum().clamp(min=1)

    @property
    def covariance(self) -> Tensor:
        """(Â - mean Â)·(log π - mean log π), means over the tokens of the loss call (arXiv 2505.22617)."""
        advantages = self.advantages - self.batch_mean(self.advantages)
        return (advantages * (self.logps - self.batch_mean(self.logps))).where(self.mask, 0.0)

    def place_in_batch(self, values: Tensor, pivot: float) -> Tensor:
        """
        Deviation from the `pivot`-quantile of all tokens' values, over its largest where it is above 0 and over its
        smallest elsewhere (arXiv 2509.16591, as released: the smallest is negative, so that no place is).
        """
        flat, n = values.where(self.mask, -math.inf).reshape(1, -1), self.mask.sum()
        # The place from below, nearest rank and half to even, is one from above: at most so many.
        place = ((n - 1).double() * pivot).round().long().minimum(n - 1).clamp(min=0)
        most = min(max(math.floor(1.5 + (flat.numel() - 1) * (1 - pivot)), 1), flat.numel())
        x = (values - _largest_at(flat, (n - place).reshape(1, 1), most)).where(self.mask, 0.0)
        z = x / (self.batch_mean(x.square())).sqrt()
        return torch.where(z > 0, z / z.amax(), z / z.amin()).where(self.mask, 0.0).nan_to_num(0.0)


def _single(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def count_of(cells: Bool[Tensor, "row cell"]) -> Tensor:
    """How many cells of each row, (B, 1)."""
    return cells.sum(dim=1, keepdim=True, dtype=torch.int32).long()  # in int64 bools take three times as long


def select(
    values: Float[Tensor, "row cell"],
    eligible: Bool[Tensor, "row cell"],
    share: Sequence[Tensor] | Sequence[int],
    least: int,
    most: int,
    ties: Tensor | bool | None,
) -> Bool[Tensor, "row cell"]:
    """
    The share, numerator and denominator, of each row's eligible cells with the largest values, at least and at most so
    many. Ties join where `ties` says so, (B, 1) or for all; with `None` the earlier join, as many as belong to it.
    """
    if most == 0:
        return torch.zeros_like(eligible)
    n = count_of(eligible)
    return select_n(values, eligible, (n * share[0] // share[1]).clamp(min=least).minimum(n), most, ties)


def select_n(
    values: Float[Tensor, "row cell"],
    eligible: Bool[Tensor, "row cell"],
    count: Tensor,
    most: int,
    ties: Tensor | bool | None,
) -> Bool[Tensor, "row cell"]:
    """As [`select`], with the numbers of cells, (B, 1), of which none is above `most`."""
    values = torch.where(eligible, values, -math.inf)
    threshold = _largest_at(values, count, most)  # above -inf: no other cell reaches it
    larger, tied = values > threshold, values == threshold
    if ties is None:
        ties = tied.cumsum(dim=1, dtype=torch.int32) <= count - count_of(larger)
    return larger | (tied & ties)


def above_quantile(
    values: Float[Tensor, "row cell"], eligible: Bool[Tensor, "row cell"], top: tuple[int, int]
) -> Bool[Tensor, "row cell"]:
    """Each row's eligible cells strictly above the row's linearly interpolated quantile at 1 less `top`."""
    # Between two cells the quantile lies above the lower one, where they differ: that one is the threshold.
    n = count_of(eligible)
    count = (top[0] * (n - 1) + top[1] - 1) // top[1] + 1
    most = (top[0] * (values.shape[1] - 1) + top[1] - 1) // top[1] + 1
    return select_n(values, eligible, count, most, ties=False)


def _largest_at(values: Float[Tensor, "row cell"], count: Tensor, most: int) -> Float[Tensor, "row 1"]:
    """The count-th largest value of each row, (B, 1); infinity for the one of count 0."""
    # Each row has a rank of its own, but a ranking takes one for all: with `most - count` infinities appended, a row's
    # count-th largest value becomes its most-th largest.
    infinite = torch.arange(most, device=values.device) < most - count
    padding = torch.where(infinite, math.inf, -math.inf).to(values.dtype)  # (B, most)
    return _nth_largest(torch.cat([values, padding], dim=1), most)


def _nth_largest(values: Float[Tensor, "row cell"], n: int) -> Float[Tensor, "row 1"]:
    """The n-th largest value of each row, which is rearranged."""
    if values.is_cpu and n > values.shape[1] // 64 and values.dtype in (torch.float32, torch.float64):
        # Takes a tenth of the time of topk, which moves places with the values; with few, topk is fast as well.
        values.numpy().partition(-n, axis=1)
        return values[:, -n].unsqueeze(1)
    return values.topk(n, dim=1, sorted=False).values.amin(dim=1, keepdim=True)


def most_of(share: float, n: int) -> int:
    """⌈share·n⌉, the most cells that a share of n or fewer can be."""
    return math.ceil(fraction(share) * n)
