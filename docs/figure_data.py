"""
What the figures of the docs show, computed by the code: nothing comes from formulas.

Tables are printed rules, gradients are autograd's through `control` and a PPO-clip objective, detached tokens are
those that `control` detaches.
"""

import itertools
import json
from typing import Any

import torch

from htpo_trl.objective import (
    EFFECTS,
    GROUPS,
    PRESETS,
    Clip,
    Control,
    Detach,
    Penalty,
    Table,
    control,
    effective_weight,
)
from htpo_trl.objective.description import needs
from htpo_trl.objective.rules import is_gate, parts_of


EPSILON_LOW, EPSILON_HIGH, DELTA = 0.2, 0.28, 10.0  # the recipe's
# Importance ratios at which a weight may jump or turn (clip range, dual clip and its inverse), between two ends.
EDGES = (0.05, 1 / DELTA, 1 - EPSILON_LOW, 1 + EPSILON_HIGH, DELTA, 20.0)
PROBE_LENGTH = 500  # tokens; long enough that every share detaches at least one
RANKED_LENGTH = 1000
LENGTHS = 900
FAMILIES = ("own", "tokens", "selections", "scales", "responses")
PROBE = 0.04  # π_old of the tokens of the families' figures


def objective_data(table: Table) -> dict[str, str]:
    """The printed rule of every group."""
    return {group: str(rule) for group, rule in zip(GROUPS, table.rows, strict=True)}


def gradient_data(*tables: Table) -> dict[str, Any]:
    """
    Weight of ∇log π in units of Â, by importance ratio, for Â > 0 and Â < 0: of plain PPO-clip (`"J_PPO"`), and
    of each group's objective if it is another. Groups with the same weights share a curve, named `"preset: groups"`.
    """
    # The ends of a piece belong to it, not to its neighbours.
    inside = torch.linspace(1e-9, 1 - 1e-9, 9, dtype=torch.float64)
    ratios = torch.stack([low * (high / low) ** inside for low, high in itertools.pairwise(EDGES)])
    plain = _weights(PRESETS["dapo"], GROUPS[0], ratios)
    curves: dict[str, Any] = {"ratio": _rounded(ratios), "J_PPO": plain}
    for table in tables:
        shared: dict[str, list[str]] = {}
        for group, rule in zip(GROUPS, table.rows, strict=True):
            if rule != Clip():
                shared.setdefault(json.dumps(_weights(table, group, ratios)), []).append(group)
        curves |= {f"{table.name}: {' '.join(groups)}": json.loads(weights) for weights, groups in shared.items()}
    return curves


def _weights(table: Table, group: str, ratios: torch.Tensor) -> dict[str, list]:
    """Of one token of `group`, in a long response: the lowest or the highest in entropy, which is the one detached."""
    difficulty, correctness, entropy = group.split("_")
    n, token = ratios.numel(), -1 if entropy == "high" else 0
    weights = {}
    for sign in (1.0, -1.0):
        old = torch.zeros(n, PROBE_LENGTH, dtype=torch.float64)
        logps = old.clone()
        logps[:, token] = ratios.flatten().log()
        logps.requires_grad_()
        result = control(
            per_token_logps=logps.detach(),
            old_per_token_logps=old,
            entropies=torch.arange(PROBE_LENGTH, dtype=torch.float64).expand(n, -1),
            advantages=torch.full((n,), sign, dtype=torch.float64),
            is_hard=torch.full((n,), difficulty == "hard"),
            is_correct=torch.full((n,), correctness == "correct"),
            mask=torch.ones(n, PROBE_LENGTH, dtype=torch.bool),
            table=table,
            epsilon_low=EPSILON_LOW,
            epsilon_high=EPSILON_HIGH,
        )
        ratio = torch.exp(logps - result.old_per_token_logps)
        clipped = ratio.clamp(1 - EPSILON_LOW, 1 + EPSILON_HIGH)
        objective = torch.min(ratio.clamp(max=DELTA) * result.advantages, clipped * result.advantages)
        (gradient,) = torch.autograd.grad(objective.sum(), logps)
        weights["Â > 0" if sign > 0 else "Â < 0"] = _rounded(sign * gradient[:, token].view(ratios.shape))
    return weights


def family_of(table: Table) -> str:
    """The part of docs/objectives.md that an objective is in, one of `FAMILIES`."""
    parts = [part for row in table.mixed for part in parts_of(row)]
    if any(isinstance(part, Penalty | Detach) for part in parts):
        return "selections"
    if table.of_response:
        return "responses"
    if not parts:
        return "own"
    return "tokens" if all(map(is_gate, parts)) else "scales"


def family_data(family: str) -> dict[str, Any]:
    """
    Weight of ∇log π in units of Â, by importance ratio, of the objectives of a family: a response of one token, or of
    one low and one high one, correct where Â > 0, is the one that selections take of a batch without advantages.
    """
    ratios = torch.logspace(-1, 1, 121, base=EDGES[-1], dtype=torch.float64)
    curves: dict[str, Any] = {"ratio": [float(f"{ratio:.6g}") for ratio in ratios.tolist()]}
    for name, table in PRESETS.items():
        if family_of(table) == family and not table.is_plain:
            together = not any(word in need for need in needs(table) for word in ("batch", "loss call"))
            batches = [ratios] if together else ratios.split(1)
            by_level = table.rows[0] != table.rows[1]
            found = {
                sign: torch.cat([_family_weights(table, batch, side, by_level) for batch in batches])
                for sign, side in (("Â > 0", 1.0), ("Â < 0", -1.0))
            }
            for i, level in enumerate((", low", ", high") if by_level else ("",)):
                curves[name + level] = {
                    sign: [float(f"{weight:.5g}") + 0.0 for weight in weights[:, i].tolist()]
                    for sign, weights in found.items()
                }
    return curves


def _family_weights(table: Table, ratios: torch.Tensor, side: float, by_level: bool) -> torch.Tensor:
    n, length, rest = len(ratios), 1 + by_level, 200
    old = torch.full((n + rest, length), PROBE, dtype=torch.float64).log()
    old[n:] -= 3.2 * side  # so that the covariance of advantage and log π of the others is the largest
    logps = old.clone()
    logps[:n] += ratios.log()[:, None]
    advantages = torch.zeros(n + rest, dtype=torch.float64)
    advantages[:n] = side
    entropies = torch.linspace(0.01, 0.2, n + rest, dtype=torch.float64).flip(0)[:, None].repeat(1, length)
    entropies[:n] = torch.tensor([0.2, 0.25][-length:], dtype=torch.float64)
    clip = {"epsilon_low": EPSILON_LOW, "epsilon_high": EPSILON_HIGH, "delta": DELTA}
    of_response = torch.full((n + rest,), True)
    result = control(
        per_token_logps=logps,
        old_per_token_logps=old,
        entropies=entropies,
        advantages=advantages,
        is_hard=of_response,
        is_correct=of_response if side > 0 else ~of_response,
        mask=torch.ones(logps.shape, dtype=torch.bool),
        table=table,
        **clip,
    )
    return side * effective_weight(logps, result.old_per_token_logps, result.advantages, **clip)[:n]


def detached_data(table: Table) -> dict[str, list]:
    """For a response of 1000 tokens, ranked by entropy, per kind of response: runs of (first, end, group, effect)."""
    kinds = list(itertools.product((True, False), repeat=2))
    result = _on_policy(table, torch.ones(len(kinds), RANKED_LENGTH, dtype=torch.bool), *zip(*kinds, strict=True))
    runs: dict[str, list] = {}
    for (hard, correct), groups, effects in zip(kinds, result.groups.tolist(), result.effects.tolist(), strict=True):
        kind = f"{'hard' if hard else 'easy'} · {'correct' if correct else 'wrong'}"
        runs[kind], first = [], 0
        for (group, effect), tokens in itertools.groupby(zip(groups, effects, strict=True)):
            end = first + len(list(tokens))
            runs[kind].append([first, end, GROUPS[group], EFFECTS[effect - 1] if effect else None])
            first = end
    return runs


def counts_data(*tables: Table) -> dict[str, dict[str, list]]:
    """How many tokens of a correct response of 1, 2, ... 900 tokens are detached, per table and group."""
    mask = torch.ones(LENGTHS, LENGTHS, dtype=torch.bool).tril()
    counts: dict[str, dict[str, list]] = {}
    for group, table in itertools.product(("hard_correct_low", "easy_correct_high"), tables):
        result = _on_policy(table, mask, [group.startswith("hard")] * LENGTHS, [True] * LENGTHS)
        numbers = ((result.effects > 0) & mask).sum(dim=1).tolist()
        # As [response length, tokens], at each length from which the number is another.
        steps = [list(next(same)) for _, same in itertools.groupby(enumerate(numbers, 1), key=lambda step: step[1])]
        counts.setdefault(group, {})[table.name] = steps
    return counts


def _on_policy(table: Table, mask: torch.Tensor, is_hard, is_correct) -> Control:
    """`control` on responses whose entropies rise from token to token and whose importance ratios are all 1."""
    zeros = torch.zeros(mask.shape)
    return control(
        per_token_logps=zeros,
        old_per_token_logps=zeros,
        entropies=torch.arange(mask.shape[1], dtype=torch.float32).expand(mask.shape),
        advantages=torch.ones(len(mask)),
        is_hard=torch.tensor(is_hard),
        is_correct=torch.tensor(is_correct),
        mask=mask,
        table=table,
    )


def _rounded(values: torch.Tensor) -> list:
    return [[float(f"{value:.6g}") for value in piece] for piece in values.tolist()]
