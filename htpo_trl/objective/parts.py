"""
What the rules of a row make of its tokens where they are more than HTPO's own: scales, the gate, then selections.

With C = dJ/dlogπ of a token, the advantage C and the old log-probability log π, detached, give PPO-clip exactly that
gradient; where C is a factor times PPO-clip's own, the advantage times that factor and log π_old do.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .batch import Batch, count_of, most_of, select_n
from .rules import Clip, KeepGradient, Named, Rule, is_gate, parts_of
from .selections import Detach, Penalty, Scale, Selection, fraction
from .table import EFFECTS


class Outcome(NamedTuple):
    """Of the tokens of a row; (B, T)."""

    advantages: Tensor  #: effective advantages
    is_explicit: bool  #: whether they are C, for which the old log-probability is the current one
    effects: Tensor  #: int8: 1 + place in EFFECTS, or 0


def outcome(rule: Rule, batch: Batch, among: Tensor) -> Outcome:
    """What a rule makes of the tokens `among`, (B, T) bool; the other cells mean nothing."""
    parts = parts_of(rule)
    gate = next(filter(is_gate, parts), Clip())
    given = batch.advantages
    for part in parts:
        if isinstance(part, Scale):
            chosen = choose(part, batch, among, gate)
            if part.entropy_below is not None:
                chosen = chosen & (batch.batch_mean(batch.entropies) < part.entropy_below)
            batch = batch.with_advantages(torch.where(chosen, batch.advantages * part.factor, batch.advantages))
        elif isinstance(part, Named) and not is_gate(part):
            scaled = part.function.function(batch, **dict(part.options))
            batch = batch.with_advantages(torch.where(among, scaled, batch.advantages))
    effects = torch.zeros_like(among, dtype=torch.int8)
    if batch.advantages is not given:
        effects.masked_fill_(batch.advantages != given, _code("scaled"))

    advantages, is_explicit = batch.advantages, gate != Clip() or any(isinstance(part, Penalty) for part in parts)
    if is_explicit:
        plain, weight = batch.ppo(), _weight(gate, batch)
        changed = (batch.advantages != 0) & (weight != plain)
        effects.masked_fill_(changed, _code("gate_weighs"))
        effects.masked_fill_(changed & (plain == 0), _code("gate_keeps"))
        effects.masked_fill_(changed & (weight == 0), _code("gate_drops"))
        advantages = weight * batch.advantages
    for part in parts:
        if isinstance(part, Detach):
            chosen = choose(part, batch, among, gate)
            effects.masked_fill_(chosen & (advantages != 0), _code(f"detach_{part.which}"))
            advantages = advantages.masked_fill(chosen, 0.0)
        elif isinstance(part, Penalty):
            chosen = choose(part, batch, among, gate) & (batch.log_ratio != 0)
            effects.masked_fill_(chosen, _code("penalised"))
            advantages = torch.where(chosen, advantages - batch.log_ratio.sign() * part.beta, advantages)
    return Outcome(advantages, is_explicit, effects)


def choose(selection: Selection, batch: Batch, among: Tensor, gate: Rule) -> Tensor:
    """The tokens that a selection chooses among some, (B, T) bool, in a row with this gate."""
    eligible = among
    if selection.where in ("positive", "negative"):
        eligible = among & (batch.advantages > 0 if selection.where == "positive" else batch.advantages < 0)
    if selection.takes_all:
        return eligible
    values = _score(selection.by, batch)
    candidates = eligible
    if selection.above is not None:
        candidates = candidates & (values > selection.above)
    if selection.below is not None:
        candidates = candidates & (values < selection.below)
    if selection.where == "unclipped":
        candidates = candidates & ((_weight(gate, batch) != 0) | (batch.advantages == 0))
    if selection.which == "random":
        values = torch.rand(values.shape, generator=batch.generator, dtype=values.dtype, device=values.device)
    elif selection.which == "lowest":
        values = -values
    shape = values.shape
    if selection.over == "batch":
        values, eligible, candidates = (each.reshape(1, -1) for each in (values, eligible, candidates))
    numerator, denominator = fraction(selection.share).as_integer_ratio()
    n = count_of(eligible)
    count = (n * numerator + (denominator - 1) * (selection.rounded == "up")) // denominator
    count = count.clamp(min=selection.at_least).minimum(count_of(candidates))
    most = min(max(most_of(selection.share, values.shape[1]), selection.at_least), values.shape[1])
    return select_n(values, candidates, count, most, ties=None).reshape(shape)


def _score(by: str, batch: Batch) -> Tensor:
    if by == "entropy":
        return batch.entropies
    if by == "surprisal":
        return -batch.logps
    return batch.covariance if by == "covariance" else batch.log_ratio.abs()


def _weight(gate: Rule, batch: Batch) -> Tensor:
    if isinstance(gate, Named):
        return gate.function.function(batch, **dict(gate.options)).expand_as(batch.ratio)
    if isinstance(gate, KeepGradient):
        return _kept(gate, batch)
    delta = math.inf if gate.delta == "none" else gate.delta  # type: ignore[union-attr]
    return batch.ppo(gate.epsilon_low, gate.epsilon_high, delta)  # type: ignore[union-attr]


def _kept(rule: KeepGradient, batch: Batch) -> Tensor:
    below, above = batch.ratio < 1 - batch.epsilon_low, batch.ratio > 1 + batch.epsilon_high
    weight = batch.ppo()
    regions = {
        "below": (below, 1 - batch.epsilon_low),
        "above": (above, 1 + batch.epsilon_high),
        "inside": (~(below | above), math.nan),  # which has no bound
    }
    for region, (where, edge) in regions.items():
        if (kept := getattr(rule, region)) is None:
            continue
        up, down = batch.positive, ~batch.positive
        if rule.when == "agrees":
            where = where & torch.where(batch.is_correct, up, down) & batch.is_judged
        elif rule.when == "positive":
            where = where & up
        elif rule.when == "clipped":
            where = where & (up if region == "above" else down)
        number = (
            batch.ratio.reciprocal()
            if kept == "inverse_ratio"
            else torch.full_like(weight, edge if kept == "bound" else kept)
        )
        weight = torch.where(where, rule.sign * number.clamp(max=rule.cap), weight)
    return weight


def _code(effect: str) -> int:
    return 1 + EFFECTS.index(effect)
