"""HTPO's objective as data: which token learns what (arXiv 2605.08283).

Every token of a response belongs to one of eight groups: is the prompt hard or easy, is the response correct or
wrong, is the token's entropy high or low? A [`Table`] gives each group one rule. [`control`] turns the table into an
effective advantage and an effective old log-probability per token, so that an *unchanged* PPO-clip loss computes the
objective:

| rule            | effective advantage | effective old log-prob                               |
| --------------- | ------------------- | ---------------------------------------------------- |
| `Clip`          | Â                   | log π_old                                            |
| `Detach`        | 0                   | log π_old                                            |
| `KeepGradient`  | w·Â                 | log π, detached: the ratio is 1, the gradient lives  |

Pure tensor code: no TRL, any device, any floating dtype, no host synchronisation.

>>> print(PRESETS["htpo"])  # doctest: +ELLIPSIS
htpo
 1  hard · correct · low   J_PPO; the lowest-entropy 0.6% detached
...
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int8, Shaped
from torch import Tensor

from .rules import Clip, Detach, KeepGradient, Rule, check_choice, parse_rule


#: The eight groups, in the order of the paper's figure; a group's place is the code that `control` returns.
GROUPS: tuple[str, ...] = tuple(
    "_".join(names) for names in product(("hard", "easy"), ("correct", "wrong"), ("low", "high"))
)
#: What a rule can do to a token; `control` returns place + 1, and 0 where the token keeps plain J_PPO.
EFFECTS: tuple[str, ...] = ("detach_lowest", "detach_highest", "keep_below", "keep_inside", "keep_above")


@dataclass(frozen=True)
class Table:
    """
    An objective: one rule per group.

    Args:
        name (`str`):
            Name of the objective.
        rows (`tuple` of eight rules):
            One rule per group, in the order of `GROUPS`.
        selection (`"exact"` or `"released"`, *optional*, defaults to `"exact"`):
            How a share of n tokens becomes a set. `"exact"`: exactly ⌊share·n⌋ tokens (at least one high token), ties
            to the earlier token. `"released"`: by threshold value, as in the code released with the paper, where ties
            join the high and the highest set and leave the lowest.
    """

    name: str
    rows: tuple[Rule, ...]
    selection: Literal["exact", "released"] = "exact"

    def __post_init__(self) -> None:
        if len(self.rows) != len(GROUPS):
            raise ValueError(
                f"Table {self.name!r} has {len(self.rows)} rows; give one for each of {', '.join(GROUPS)}."
            )
        check_choice("Table", "selection", self.selection, ("exact", "released"))

    def replace(self, overrides: Mapping[str, Rule | str | Mapping]) -> "Table":
        """A copy in which the rows named in `overrides` (`{"hard_correct_low": "clip"}`) have other rules."""
        if unknown := sorted(set(overrides) - set(GROUPS)):
            raise ValueError(f"No such group: {', '.join(unknown)}. The groups are {', '.join(GROUPS)}.")
        rows = tuple(parse_rule(overrides.get(group, row)) for group, row in zip(GROUPS, self.rows, strict=True))
        return dataclasses.replace(self, rows=rows)

    def __str__(self) -> str:
        names = [" · ".join(group.split("_")) for group in GROUPS]
        lines = [f"{i:2}  {name:<21}  {row}" for i, (name, row) in enumerate(zip(names, self.rows, strict=True), 1)]
        return "\n".join([self.name, *lines])


def _preset(name: str, overrides: Mapping[str, Rule], **kwargs) -> Table:
    return Table(name, (Clip(),) * len(GROUPS), **kwargs).replace(overrides)


def _everywhere(rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(GROUPS, rule)


_PENALTY = KeepGradient(below="bound")
_RELEASED_PENALTY = KeepGradient(below="bound", when="always", sign=-1)

#: Name -> objective, with its source above each.
PRESETS: dict[str, Table] = {
    table.name: table
    for table in (
        # arXiv 2605.08283, Fig. 1b.
        _preset(
            "htpo",
            {
                "hard_correct_low": Detach(0.006, "lowest"),
                "hard_correct_high": KeepGradient(above="bound", below="inverse_ratio", cap=10.0),
                "hard_wrong_high": _PENALTY,
                "easy_correct_high": Detach(0.02, "highest"),
                "easy_wrong_high": _PENALTY,
            },
        ),
        # github.com/xcyao00/HTPO as released: the kept gradients have the other sign, and sets are cut by value.
        _preset(
            "htpo-released",
            {
                "hard_correct_low": Detach(0.006, "lowest"),
                "hard_correct_high": KeepGradient(above="bound", below="inverse_ratio", when="always", sign=-1),
                "hard_wrong_high": _RELEASED_PENALTY,
                "easy_correct_high": Detach(0.02, "highest"),
                "easy_wrong_high": _RELEASED_PENALTY,
            },
            selection="released",
        ),
        # arXiv 2503.14476: J_PPO everywhere, the baseline.
        _preset("dapo", {}),
        # arXiv 2506.01939 (80/20): only forking tokens learn. The paper ranks over the batch, we within a response.
        _preset("high-entropy-only", {group: Detach(1.0) for group in GROUPS if group.endswith("low")}),
        # arXiv 2508.07629: clipped tokens keep a bounded gradient, on both sides.
        _preset("gppo", _everywhere(KeepGradient(above="bound", below="bound", when="clipped"))),
        # arXiv 2510.06062: positive tokens are weighed by 1/r, softly bounded; PPO's clip above the range stays.
        _preset(
            "aspo",
            _everywhere(KeepGradient(inside="inverse_ratio", below="inverse_ratio", cap=10.0, when="positive")),
        ),
    )
}


def get_table(name: str, overrides: Mapping[str, Rule | str | Mapping] | None = None) -> Table:
    """The preset called `name`, with the rows in `overrides` replaced."""
    if name not in PRESETS:
        raise ValueError(f"Unknown objective {name!r}; the presets are {', '.join(PRESETS)}.")
    return PRESETS[name].replace(overrides or {})


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
                of_at_most=max(_share_of(top_entropy_share, width), 1) if exact and entropy == "high" else width,
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

    return Control(new_advantages, new_old, groups, effects)


def _rows_by_rule(table: Table) -> dict[tuple[Rule, str], list[tuple[bool, bool]]]:
    """The rows that do something, rows of one rule and entropy together: a response is in at most one of them."""
    merged: dict[tuple[Rule, str], list[tuple[bool, bool]]] = {}
    for group, rule in zip(GROUPS, table.rows, strict=True):
        difficulty, correctness, entropy = group.split("_")
        if not isinstance(rule, Clip):
            merged.setdefault((rule, entropy), []).append((difficulty == "hard", correctness == "correct"))
    return merged


def _share_of(share: float, n):
    """⌊share·n⌋ in whole numbers: 0.29 of 100 is 29, although 0.29 * 100 is less in floating point."""
    fraction = Fraction(repr(float(share)))
    return n * fraction.numerator // fraction.denominator


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
    most = min(max(_share_of(share, of_at_most), at_least), values.shape[1])
    if most == 0:
        return torch.zeros_like(eligible)
    n = eligible.sum(dim=1, keepdim=True, dtype=torch.int32).long()  # summing bools in int64 takes three times as long
    count = _share_of(share, n).clamp(min=at_least)  # (B, 1)
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
