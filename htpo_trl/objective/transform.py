"""
The transform: an objective table and a batch of tokens become the inputs of an unchanged PPO-clip loss.

[`control`] turns the table into an effective advantage and an effective old log-probability per token, so that
PPO-clip computes the objective:

| rule            | effective advantage | effective old log-prob                               |
| --------------- | ------------------- | ---------------------------------------------------- |
| `Clip`          | Â                   | log π_old                                            |
| `Detach`        | 0                   | log π_old                                            |
| `KeepGradient`  | w·Â                 | log π, detached: the ratio is 1, the gradient lives  |

Pure tensor code: no TRL, any device, any floating dtype, no host synchronisation.
"""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int8, Shaped
from torch import Tensor

from .rules import Clip, Detach, KeepGradient, Rule, share_of
from .table import EFFECTS, GROUPS, Table, get_table


class Control(NamedTuple):
    """What [`control`] returns; every tensor is (B, T) and without gradient."""

    advantages: Float[Tensor, "batch token"]  #: effective advantages Â′
    old_per_token_logps: Float[Tensor, "batch token"]  #: effective log π_old′
    groups: Int8[Tensor, "batch token"]  #: place in GROUPS; -1 where masked or not judged
    effects: Int8[Tensor, "batch token"]  #: 1 + place in EFFECTS where a rule changed the objective, else 0


@torch.no_grad()
def control(
    *,
    per_token_logps: Float[Tensor, "batch token"],
    old_per_token_logps: Float[Tensor, "batch token"],
    entropies: Float[Tensor, "batch token"],
    advantages: Float[Tensor, "batch"] | Float[Tensor, "batch token"] | Float[Tensor, "batch 1"],
    is_hard: Bool[Tensor, "batch"],
    is_correct: Bool[Tensor, "batch"],
    mask: Shaped[Tensor, "batch token"],
    table: Table | str = "htpo",
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.28,
    top_entropy_share: float = 0.2,
    is_judged: Bool[Tensor, "batch"] | None = None,
) -> Control:
    """
    Turn an objective table into inputs of the PPO-clip loss.

    Feed the returned `advantages` and `old_per_token_logps`, with the live `per_token_logps`, to a PPO-clip loss with
    the same clip range: every token then has the objective of its group. Values in masked cells have no influence on
    the others, and the masked cells of the result mean nothing.

    Args:
        per_token_logps (`torch.Tensor` of shape (B, T)):
            Log-probability log π of every completion token under the current policy.
        old_per_token_logps (`torch.Tensor` of shape (B, T)):
            Log-probability log π_old under the policy that sampled.
        entropies (`torch.Tensor` of shape (B, T)):
            Entropy in nats of the current policy's next-token distribution.
        advantages (`torch.Tensor` of shape (B,), (B, 1) or (B, T)):
            Advantages Â.
        is_hard, is_correct (`torch.Tensor` of shape (B,), bool):
            Is the prompt hard for the policy, is the response correct?
        mask (`torch.Tensor` of shape (B, T), bool or 0/1):
            Tokens that are trained on.
        table ([`Table`] or `str`, *optional*, defaults to `"htpo"`):
            The objective, or the name of its preset.
        epsilon_low, epsilon_high (`float`, *optional*, default to 0.2 and 0.28):
            Clip range of the PPO loss: 1-ε_lo to 1+ε_hi.
        top_entropy_share (`float`, *optional*, defaults to 0.2):
            Share of a response's tokens with the highest entropy that count as high, at least one token.
        is_judged (`torch.Tensor` of shape (B,), bool, *optional*):
            False for a response without a verdict: it belongs to no group and keeps J_PPO. By default all are judged.

    Returns:
        [`Control`]: effective advantages and old log-probabilities, the group of every token, and what was changed.
    """
    table = get_table(table) if isinstance(table, str) else table
    mask = mask.bool()
    advantages = advantages.unsqueeze(1) if advantages.dim() == 1 else advantages  # (B, 1) or (B, T)
    is_hard, is_correct = is_hard.unsqueeze(1), is_correct.unsqueeze(1)  # (B, 1)
    grouped = mask if is_judged is None else mask & is_judged.unsqueeze(1)

    width = mask.shape[1]
    exact = table.selection == "exact"
    ties: Literal["earlier", "in"] = "earlier" if exact else "in"
    is_high = _select(entropies, grouped, top_entropy_share, of_at_most=width, at_least=1, ties=ties)
    is_low = grouped ^ is_high

    response = (4 * ~is_hard + 2 * ~is_correct).to(torch.int8)  # (B, 1): group of the response's low tokens
    groups = (response + is_high).masked_fill_(~grouped, -1)
    effects = torch.zeros_like(groups)
    new_advantages, new_old = advantages.expand_as(per_token_logps), old_per_token_logps
    ratio = None

    # Each token is in one row of the table, and in one region of it: no rule sees another's result.
    for (rule, entropy), members in _rows_by_rule(table).items():
        responses = torch.zeros_like(is_hard)  # (B, 1)
        for hard, correct in members:
            responses |= (is_hard == hard) & (is_correct == correct)
        tokens = responses & (is_high if entropy == "high" else is_low)  # (B, T)
        if isinstance(rule, Detach):
            lowest = rule.which == "lowest"
            chosen = _select(
                -entropies if lowest else entropies,
                tokens,
                rule.share,
                of_at_most=max(share_of(top_entropy_share, width), 1) if exact and entropy == "high" else width,
                at_least=0 if exact else 1,
                ties="out" if lowest and not exact else ties,
            )
            effects.masked_fill_(chosen & (advantages != 0), 1 + EFFECTS.index(f"detach_{rule.which}"))
            new_advantages = new_advantages.masked_fill(chosen, 0.0)
        elif isinstance(rule, KeepGradient):
            if ratio is None:
                ratio = torch.exp(per_token_logps - old_per_token_logps)
                positive, negative = advantages > 0, advantages < 0
                agrees = torch.where(is_correct, positive, negative)
                below, above = ratio < 1 - epsilon_low, ratio > 1 + epsilon_high
                # Where r lies, the edge of the clip range on that side, and the advantages that PPO clips there.
                regions = {
                    "below": (below, 1 - epsilon_low, negative),
                    "inside": (~(below | above), math.nan, negative & positive),
                    "above": (above, 1 + epsilon_high, positive),
                }
            for region, (where, edge, clips) in regions.items():
                weight = getattr(rule, region)
                if weight is None:
                    continue
                signs = {"agrees": agrees, "clipped": clips, "positive": positive, "always": positive | negative}
                chosen = tokens & where & signs[rule.when]
                if weight == "inverse_ratio":
                    weight = ratio.reciprocal().clamp_(max=rule.cap)
                else:
                    weight = min(edge if weight == "bound" else weight, rule.cap)
                new_advantages = torch.where(chosen, rule.sign * weight * advantages, new_advantages)
                new_old = torch.where(chosen, per_token_logps, new_old)
                effects.masked_fill_(chosen, 1 + EFFECTS.index(f"keep_{region}"))
        else:
            raise TypeError(f"control() does not know what the rule {rule!r} does.")

    return Control(new_advantages, new_old, groups, effects)


def effective_weight(
    per_token_logps: Tensor,
    old_per_token_logps: Tensor,
    advantages: Tensor,
    epsilon_low: float,
    epsilon_high: float,
    delta: float | None,
) -> Tensor:
    """
    Derivative by log π of a token's objective, which is maximised: min(min(r, δ)·Â, clip(r, 1-ε_lo, 1+ε_hi)·Â) with
    r = π/π_old, as TRL's loss has it. Plain PPO-clip gives r·Â, and 0 where the token is clipped. Of *effective*
    advantages and old log-probabilities it is 0 for a detached token and w·Â for a gradient kept with weight w. What
    TRL multiplies or adds afterwards (aggregation, KL, corrections for the engine that sampled) is not in it.

    Args:
        per_token_logps, old_per_token_logps, advantages (`torch.Tensor` of one shape):
            Effective ones or not; the weight has their shape.
        epsilon_low, epsilon_high, delta (`float`):
            Clip range and dual clip; `None` is no dual clip.
    """
    ratio = torch.exp(per_token_logps - old_per_token_logps)
    low, high = 1 - epsilon_low, 1 + epsilon_high
    unclipped = ratio if delta is None else ratio.clamp(max=delta)
    clipped = ratio.clamp(low, high)
    # Each branch of the minimum has a gradient where its clamp lets the ratio through.
    passes = torch.where(
        unclipped * advantages <= clipped * advantages, unclipped == ratio, (ratio >= low) & (ratio <= high)
    )
    return torch.where(passes, ratio * advantages, 0.0)


@torch.no_grad()
def token_sums(
    result: Control,
    *,
    mask: Bool[Tensor, "batch token"],
    per_token_logps: Float[Tensor, "batch token"],
    old_per_token_logps: Float[Tensor, "batch token"],
    entropies: Float[Tensor, "batch token"],
    advantages: Float[Tensor, "batch"] | Float[Tensor, "batch token"] | Float[Tensor, "batch 1"],
    epsilon_low: float,
    epsilon_high: float,
) -> dict[str, Float[Tensor, ""]]:
    """
    What the trainer logs, as sums over tokens: processes and micro-batches add up, a mean is a sum by another one.

    Args:
        result ([`Control`]):
            What [`control`] returned for these tokens; the other arguments are those that it was given.

    Returns:
        `dict` of scalar tensors. Numbers of tokens: `tokens` that are trained on, `not_finite`, those of them without
        a finite log-probability or entropy, `clip_ratio/low` and `clip_ratio/high`, which plain PPO-clip would clip,
        `special/<effect>`, whose objective a rule changed, `share/<group>`; and `entropy/<group>`, in nats.
    """
    advantages = advantages.unsqueeze(1) if advantages.dim() == 1 else advantages
    ratio = torch.exp(per_token_logps - old_per_token_logps)
    finite = per_token_logps.isfinite() & old_per_token_logps.isfinite() & entropies.isfinite()
    members = {group: result.groups == code for code, group in enumerate(GROUPS)}
    counted = {
        "tokens": mask,
        "not_finite": mask & ~finite,
        "clip_ratio/low": mask & (ratio < 1 - epsilon_low) & (advantages < 0),
        "clip_ratio/high": mask & (ratio > 1 + epsilon_high) & (advantages > 0),
        **{f"special/{effect}": mask & (result.effects == code) for code, effect in enumerate(EFFECTS, 1)},
        **{f"share/{group}": tokens for group, tokens in members.items()},
    }
    dtype = torch.promote_types(entropies.dtype, torch.float32)  # bfloat16 counts no further than 256
    sums = {name: tokens.sum().to(dtype) for name, tokens in counted.items()}
    return sums | {f"entropy/{g}": entropies.masked_fill(~t, 0).sum(dtype=dtype) for g, t in members.items()}


def _rows_by_rule(table: Table) -> dict[tuple[Rule, str], list[tuple[bool, bool]]]:
    """The rows that do something, rows of one rule and entropy together: a response is in at most one of them."""
    merged: dict[tuple[Rule, str], list[tuple[bool, bool]]] = {}
    for group, rule in zip(GROUPS, table.rows, strict=True):
        difficulty, correctness, entropy = group.split("_")
        if not isinstance(rule, Clip):
            merged.setdefault((rule, entropy), []).append((difficulty == "hard", correctness == "correct"))
    return merged


def _select(
    values: Float[Tensor, "batch token"],
    eligible: Bool[Tensor, "batch token"],
    share: float,
    *,
    of_at_most: int,
    at_least: int,
    ties: Literal["earlier", "in", "out"],
) -> Bool[Tensor, "batch token"]:
    """The `share` of each row's eligible cells (of which there are at most `of_at_most`) with the largest values."""
    if share == 1:
        return eligible
    most = min(max(share_of(share, of_at_most), at_least), values.shape[1])
    if most == 0:
        return torch.zeros_like(eligible)
    n = eligible.sum(dim=1, keepdim=True, dtype=torch.int32).long()  # summing bools in int64 takes three times as long
    count = share_of(share, n).clamp(min=at_least)  # (B, 1)
    # Each row has a rank of its own, but topk takes one for all: with `most - count` infinities appended, a row's
    # count-th largest value becomes its most-th largest. Unsorted topk only partitions, which is cheaper than a sort.
    infinite = torch.arange(most, device=values.device) < most - count
    padding = torch.where(infinite, math.inf, -math.inf).to(values.dtype)  # (B, most)
    candidates = torch.cat([values.masked_fill(~eligible, -math.inf), padding], dim=1)
    top = candidates.topk(most, dim=1, sorted=False).values
    threshold = top.amin(dim=1, keepdim=True)  # (B, 1)
    larger = eligible & (values > threshold)
    if ties == "out":
        return larger
    tied = eligible & (values == threshold)
    if ties == "earlier":
        room = (top == threshold).sum(dim=1, keepdim=True, dtype=torch.int32)
        tied &= tied.cumsum(dim=1, dtype=torch.int32) <= room
    return larger | tied
