"""
The objective, written a second time: one Python loop over tokens, straight from the paper's table.

Nothing is shared with `htpo_trl.objective`, and nothing goes through effective advantages: each token's objective J
and its derivative dJ/dlogπ are computed from their definitions.
"""

import math
from collections.abc import Mapping


#: Above this ratio a token with a negative advantage is clipped.
DUAL_CLIP = 10.0


def j_ppo(r: float, a: float, low: float, high: float) -> tuple[float, float]:
    """PPO-clip with dual clip, and its derivative by log π (dr/dlogπ = r)."""
    if a > 0:
        return (r * a, r * a) if r <= high else (high * a, 0.0)
    if r < low:
        return low * a, 0.0
    return (r * a, r * a) if r <= DUAL_CLIP else (DUAL_CLIP * a, 0.0)


def kept(weight: float, a: float) -> tuple[float, float]:
    """w·π/sg[π]·Â: its value and its derivative are both w·Â."""
    return weight * a, weight * a


def floor_share(share: tuple[int, int], n: int) -> int:
    """⌊share·n⌋, of a share that is a numerator and a denominator."""
    return share[0] * n // share[1]


def token_objective(
    preset: str, group: tuple[bool, bool, bool], r: float, a: float, detached: bool, low: float, high: float
) -> tuple[float, float]:
    """J and dJ/dlogπ of one token; `detached` says whether a detach rule with a share picked it."""
    hard, correct, is_high = group
    plain = j_ppo(r, a, low, high)
    if preset == "dapo":
        return plain
    if preset == "high-entropy-only":
        return plain if is_high else (0.0, 0.0)
    if preset == "gppo":
        if a > 0 and r > high:
            return kept(high, a)
        if a < 0 and r < low:
            return kept(low, a)
        return plain
    if preset == "aspo":
        return kept(min(1 / r, 10.0), a) if a > 0 and r <= high else plain
    assert preset == "htpo"
    if detached:
        return 0.0, 0.0
    if is_high and correct and hard and a > 0:
        if r > high:
            return kept(high, a)
        if r < low:
            return kept(min(1 / r, 10.0), a)
    if is_high and not correct and a < 0 and r < low:
        return kept(low, a)
    return plain


def reference(
    case: Mapping[str, list],
    preset: str = "htpo",
    top: tuple[int, int] = (1, 5),
    lowest: tuple[int, int] = (6, 1000),
    highest: tuple[int, int] = (2, 100),
    clip: tuple[float, float] = (0.2, 0.28),
) -> tuple[float, list[list[float]], list[list[tuple[bool, bool, bool] | None]]]:
    """
    Loss (token mean over the batch), dloss/dlogπ as nested lists, and each token's (hard, correct, high) or None.
    `case` holds nested lists; shares are pairs (numerator, denominator), `clip` is (ε_lo, ε_hi).
    """
    n_rows, n_columns = len(case["mask"]), len(case["mask"][0])
    n_tokens = sum(map(sum, case["mask"]))
    loss = 0.0
    grad = [[0.0] * n_columns for _ in range(n_rows)]
    groups: list[list[tuple[bool, bool, bool] | None]] = [[None] * n_columns for _ in range(n_rows)]
    for i in range(n_rows):
        valid = [t for t in range(n_columns) if case["mask"][i][t]]
        entropy = case["entropies"][i]
        # Ties go to the earlier token.
        descending = sorted(valid, key=lambda t: (-entropy[t], t))
        n_high = max(floor_share(top, len(valid)), 1)
        high = set(descending[:n_high])
        low_ascending = sorted((t for t in valid if t not in high), key=lambda t: (entropy[t], t))
        high_descending = [t for t in descending if t in high]
        hard, correct = case["is_hard"][i], case["is_correct"][i]
        detached = set()
        if hard and correct:
            detached = set(low_ascending[: floor_share(lowest, len(low_ascending))])
        if not hard and correct:
            detached = set(high_descending[: floor_share(highest, len(high_descending))])
        for t in valid:
            r = math.exp(case["per_token_logps"][i][t] - case["old_per_token_logps"][i][t])
            group = (hard, correct, t in high)
            a = case["advantages"][i]
            a = a[t] if isinstance(a, list) else a
            judged = case.get("is_judged", [True] * n_rows)[i]
            groups[i][t] = group if judged else None
            holds = judged or preset in ("gppo", "aspo", "high-entropy-only")  # which ask for no verdict
            value, slope = token_objective(
                preset if holds else "dapo", group, r, a, t in detached, 1 - clip[0], 1 + clip[1]
            )
            loss -= value / n_tokens
            grad[i][t] = -slope / n_tokens
    return loss, grad, groups
