"""
The transform: an objective table and a batch of tokens become the inputs of an unchanged PPO-clip loss.

[`control`] turns the table into an effective advantage and an effective old log-probability per token, so that
PPO-clip computes the objective:

| rule            | effective advantage | effective old log-prob                               |
| --------------- | ------------------- | ---------------------------------------------------- |
| `Clip`          | Â                   | log π_old                                            |
| `Detach`        | 0                   | log π_old                                            |
| `KeepGradient`  | w·Â                 | log π, detached: the ratio is 1, the gradient lives  |
| a named gate    | w·Â, w its weight   | log π, detached                                      |
| a scale         | Â times it          | log π_old                                            |

Pure tensor code: no TRL, any device, any floating dtype, no host synchronisation, no loop over responses.
"""

import functools
import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int8, Shaped
from torch import Tensor

from .batch import Batch, above_quantile, select
from .parts import outcome
from .presets import get_table
from .rules import KeepGradient, Rule
from .selections import Detach, fraction
from .table import EFFECTS, GROUPS, Table


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
    delta: float | None = 10.0,
    generator: torch.Generator | None = None,
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
            False for a response without a verdict: it belongs to no group and keeps J_PPO, unless the rules ask for
            neither verdict nor difficulty (`Table.holds_unjudged`) and so hold for it too. By default all are judged.
        delta (`float`, *optional*, defaults to `10.0`):
            Dual clip of the PPO loss, `None` for none. Only rules that are named or mixed need to know it.
        generator (`torch.Generator`, *optional*):
            Of the draws of a table that has any. By default torch's of the device.

    Returns:
        [`Control`]: effective advantages and old log-probabilities, the group of every token, and what was changed.
    """
    table = get_table(table) if isinstance(table, str) else table
    mask = mask.bool()
    advantages = advantages.unsqueeze(1) if advantages.dim() == 1 else advantages  # (B, 1) or (B, T)
    grouped = mask if is_judged is None or table.holds_unjudged else mask & is_judged.unsqueeze(1)
    kind = 3 - (2 * is_hard + is_correct)  # (B,): place in the table's pairs of rows, for low and for high tokens

    def of_response(rows: Sequence[tuple[float, ...]], dtype: torch.dtype) -> tuple[Tensor, ...]:
        """The columns of numbers that there are for each kind of response, by the response: (B, 1) each."""
        numbers = torch.tensor(rows, dtype=dtype).to(kind.device, non_blocking=True)
        return numbers[kind].unsqueeze(1).unbind(2)

    exact, width = table.selection != "released", mask.shape[1]
    top = fraction(top_entropy_share).as_integer_ratio()
    most_high = max(top[0] * width // top[1], 1)
    if table.selection == "quantile":
        is_high = above_quantile(entropies, grouped, top)
        most_high = width
    else:
        is_high = select(entropies, grouped, top, least=1, most=most_high, ties=None if exact else True)
    groups = ((2 * kind + 1).to(torch.int8).unsqueeze(1) + is_high) * grouped - 1
    effects = torch.zeros_like(groups)
    new_advantages, new_old = advantages.expand_as(per_token_logps), old_per_token_logps

    # Each token is in one row of the table, and in one region of it: no rule sees another's result.
    for rows in _detaching(table):
        group, direction, *share, effect = of_response(rows, torch.int64)
        chosen = groups == group.to(torch.int8)
        if any(0 < row[2] < row[3] for row in rows):
            most = max(row[2] * (most_high if exact and row[0] % 2 else width) // row[3] for row in rows)
            ties = None if exact else (direction > 0) | (share[0] == share[1])
            least = 0 if exact else 1
            chosen = select(entropies * direction, chosen, share, least, max(most, least), ties)
        effects += chosen * (effect * (advantages != 0)).to(torch.int8)
        new_advantages = torch.where(chosen, 0.0, new_advantages)

    if any(isinstance(rule, KeepGradient) for rule in table.rows):
        ratio = (per_token_logps - old_per_token_logps).exp_()
        below, above = ratio < 1 - epsilon_low, ratio > 1 + epsilon_high
        regions = {"below": (below, 1 - epsilon_low), "above": (above, 1 + epsilon_high), "inside": (None, math.nan)}
        for level in (0, 1):
            for region, (where, edge) in regions.items():
                weights = [_kept_weight(rule, region, edge, k % 2 == 0) for k, rule in enumerate(table.rows[level::2])]
                if not any(sign for _, _, *signs in weights for sign in signs):
                    continue
                floor, weight, if_positive, if_negative = of_response(weights, advantages.dtype)
                if any(row[0] < row[1] for row in weights):
                    weight = torch.maximum(torch.minimum(ratio.reciprocal(), weight), floor)
                sign = if_positive * (advantages > 0) + if_negative * (advantages < 0)
                tokens = is_high if level else grouped ^ is_high
                chosen = tokens & (sign != 0) & (~(below | above) if where is None else where)
                new_advantages = torch.where(chosen, weight * (sign * advantages), new_advantages)
                effects.add_(chosen, alpha=1 + EFFECTS.index(f"keep_{region}"))
        kept = effects > EFFECTS.index("detach_highest") + 1
        new_old = torch.where(kept, per_token_logps, new_old)

    if mixed := table.mixed:
        judged = torch.ones_like(is_correct) if is_judged is None else is_judged
        dual_clip = math.inf if delta is None else delta
        of_policy = (per_token_logps, old_per_token_logps, entropies, advantages, mask, is_correct, judged)
        batch = Batch(*of_policy, epsilon_low, epsilon_high, dual_clip, generator)
        for rule, places in mixed.items():
            if len(places) == len(GROUPS):
                result = outcome(rule, batch, mask)
                new_advantages, effects = result.advantages, result.effects
                new_old = per_token_logps.detach() if result.is_explicit else old_per_token_logps
                break
            pairs = [(low in places, low + 1 in places) for low in range(0, len(GROUPS), 2)]
            in_low, in_high = of_response(pairs, torch.bool)
            among = torch.where(is_high, in_high, in_low) & grouped
            result = outcome(rule, batch, among)
            new_advantages = torch.where(among, result.advantages, new_advantages)
            effects = torch.where(among, result.effects, effects)
            if result.is_explicit:
                new_old = torch.where(among, per_token_logps, new_old)

    if is_judged is not None and table.holds_unjudged:
        groups = groups.where(is_judged.unsqueeze(1), -1)
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
    effects: Sequence[str] = EFFECTS,
    of_response: Sequence[int] = (),
) -> dict[str, Float[Tensor, ""]]:
    """
    What the trainer logs, as sums over tokens: processes and micro-batches add up, a mean is a sum by another one.

    Args:
        result ([`Control`]):
            What [`control`] returned for these tokens; other arguments are those that it was given.
        effects (`Sequence` of `str`, *optional*, defaults to all):
            Those that are counted.
        of_response (`Sequence` of `int`, *optional*):
            Places of groups that have a gate on the ratio of the whole response, `Table.of_response`.

    Returns:
        `dict` of scalar tensors. Numbers of tokens: `tokens` that are trained on, `not_finite`, those of them without
        a finite log-probability or entropy, `clip_ratio/low` and `clip_ratio/high`, which plain PPO-clip would clip,
        or, where the gate is on the ratio of the response, which the gate cuts off, `special/<effect>`, whose
        objective a rule changed, `share/<group>`; and `entropy/<group>`, in nats.
    """
    advantages = advantages.unsqueeze(1) if advantages.dim() == 1 else advantages
    dtype = torch.promote_types(entropies.dtype, torch.float32)  # bfloat16 counts no further than 256
    log_ratio = torch.where(mask, per_token_logps - old_per_token_logps, 0.0)
    entropies = torch.where(mask, entropies, 0.0)
    ratio = log_ratio.exp()
    too_low, too_high = ratio < 1 - epsilon_low, ratio > 1 + epsilon_high
    if of_response:
        places = torch.tensor(of_response, dtype=torch.int8).to(mask.device, non_blocking=True)
        gated = torch.isin(result.groups, places) if len(of_response) < len(GROUPS) else mask
        detached = (result.effects > 0) & (result.effects <= 1 + EFFECTS.index("detach_highest"))
        detached |= result.effects == 1 + EFFECTS.index("detach_random")
        cut = gated & (result.advantages == 0) & ~detached
        too_low, too_high = torch.where(gated, cut, too_low), torch.where(gated, cut, too_high)
    counts = {
        "tokens": mask,
        "not_finite": ((log_ratio + entropies) * 0).isnan(),  # one of the three is
        "clip_ratio/low": too_low & (advantages < 0),
        "clip_ratio/high": too_high & (advantages > 0),
    }
    sums = {name: tokens.sum().to(dtype) for name, tokens in counts.items()}
    codes = torch.tensor([1 + EFFECTS.index(effect) for effect in effects], dtype=torch.int8)
    found = codes.to(mask.device, non_blocking=True)[:, None, None] == result.effects
    sums |= zip((f"special/{effect}" for effect in effects), found.sum(dim=(1, 2)).to(dtype).unbind(), strict=True)

    # Of each response its low and its high tokens, and their entropies; then of each kind of response.
    kind = result.groups.amax(dim=1, keepdim=True) >> 1  # (B, 1); -1 where it is in no group
    levels = [result.groups == 2 * kind + level for level in (0, 1)]
    by_response = [tokens.sum(dim=1) for tokens in levels]
    by_response += [(entropies * tokens).sum(dim=1, dtype=dtype) for tokens in levels]
    is_kind = kind == torch.arange(len(GROUPS) // 2, device=mask.device)  # (B, 4)
    by_kind = torch.where(is_kind, torch.stack(by_response).unsqueeze(2), 0.0).sum(dim=1)  # (4, 4)
    names = [f"{what}/{group}" for what in ("share", "entropy") for level in (0, 1) for group in GROUPS[level::2]]
    return sums | dict(zip(names, by_kind.flatten().unbind(), strict=True))


@functools.cache
def _detaching(table: Table) -> list[tuple[tuple[int, ...], ...]]:
    """
    For each kind of response a row that detaches: its group, -1 for the lowest or 1 for the highest, the share, and
    the effect. One ranking serves all kinds; the second is for kinds of which both rows detach.
    """
    found: list[list[tuple[int, ...]]] = [[] for _ in range(len(GROUPS) // 2)]
    for code, rule in enumerate(table.rows):
        if isinstance(rule, Detach) and rule.is_ranked_by_entropy:
            direction, effect = -1 if rule.which == "lowest" else 1, 1 + EFFECTS.index(f"detach_{rule.which}")
            found[code // 2].append((code, direction, *fraction(rule.share).as_integer_ratio(), effect))
        elif not isinstance(rule, Rule):
            raise TypeError(f"control() does not know what the rule {rule!r} does.")
    return [*zip_longest(*found, fillvalue=(-2, 1, 0, 1, 0))]


def _kept_weight(rule: Rule, region: str, edge: float, is_correct: bool) -> tuple[float, float, int, int]:
    """The weight is 1/r between two bounds, equal for a number: these; its sign for Â > 0 and Â < 0, 0 for J_PPO."""
    if not isinstance(rule, KeepGradient) or (weight := getattr(rule, region)) is None:
        return 0.0, 0.0, 0, 0
    most = rule.cap if weight == "inverse_ratio" else min(edge if weight == "bound" else weight, rule.cap)
    clipped = (region == "above", region == "below")
    signs = {"agrees": (is_correct, not is_correct), "clipped": clipped, "positive": (1, 0), "always": (1, 1)}[
        rule.when
    ]
    return 0.0 if weight == "inverse_ratio" else most, most, rule.sign * signs[0], rule.sign * signs[1]
