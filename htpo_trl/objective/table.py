"""
HTPO's objective as data: which token learns what (arXiv 2605.08283). No torch: names and tables are cheap to import.

Every token of a response belongs to one of eight groups: is the prompt hard or easy, is the response correct or
wrong, is the token's entropy high or low? A [`Table`] gives each group one rule; published ones
are in `presets.py`.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count, product
from typing import Any, Literal

from ..utils import UsageError
from .rules import Clip, KeepGradient, Rule, effects_of, parse_rule
from .selections import Detach, check_choice, fraction, share_of


#: The eight groups, in the order of the paper's figure; a group's place is the code that `control` returns.
GROUPS: tuple[str, ...] = tuple(
    "_".join(names) for names in product(("hard", "easy"), ("correct", "wrong"), ("low", "high"))
)
#: What a rule can do to a token; `control` returns place + 1, and 0 where the token keeps plain J_PPO.
EFFECTS: tuple[str, ...] = (
    *("detach_lowest", "detach_highest", "keep_below", "keep_inside", "keep_above"),
    *("detach_random", "gate_keeps", "gate_drops", "gate_weighs", "scaled", "penalised"),
)


@dataclass(frozen=True)
class Table:
    """
    An objective: one rule per group.

    Args:
        name (`str`):
            Name of the objective.
        rows (`tuple` of eight rules):
            One rule per group, in the order of `GROUPS`.
        selection (`"exact"`, `"released"` or `"quantile"`, *optional*, defaults to `"exact"`):
            How a share of n tokens becomes a set. `"exact"`: exactly ⌊share·n⌋ tokens (at least one high token), ties
            to the earlier token. `"released"`: by threshold value, as in the code released with the paper, where ties
            join the high and the highest set and leave the lowest. `"quantile"`: high is what lies strictly above the
            linearly interpolated quantile of the response, none of a single token (arXiv 2507.15778).
        settings (`tuple` of pairs, *optional*):
            Options of [`HTPOConfig`] that are part of the objective as it was published, and their values: clip
            range, `loss_type`. They hold where the user leaves these options alone.
        source, note (`str`, *optional*):
            Where it comes from, and what of it is not reproduced.
    """

    name: str
    rows: tuple[Rule, ...]
    selection: Literal["exact", "released", "quantile"] = "exact"
    settings: tuple[tuple[str, Any], ...] = ()
    source: str = field(default="", compare=False)
    note: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if len(self.rows) != len(GROUPS):
            raise UsageError(
                f"Table {self.name!r} has {len(self.rows)} rows; give one for each of {', '.join(GROUPS)}."
            )
        check_choice("Table", "selection", self.selection, ("exact", "released", "quantile"))

    @property
    def is_plain(self) -> bool:
        """Whether every token keeps plain J_PPO, so that the table changes nothing."""
        return all(row == Clip() for row in self.rows)

    @property
    def effects(self) -> tuple[str, ...]:
        """What of `EFFECTS` is counted: what the rules can do to tokens; of HTPO's own, whatever any of them can."""
        if not self.mixed:
            return EFFECTS[:5]
        found = set().union(*map(effects_of, self.rows))
        return tuple(effect for effect in EFFECTS if effect in found)

    @property
    def mixed(self) -> dict[Rule, tuple[int, ...]]:
        """Rules that are more than HTPO's own, and the places of their rows."""
        found: dict[Rule, tuple[int, ...]] = {}
        for place, row in enumerate(self.rows):
            is_own = isinstance(row, KeepGradient) or row == Clip()
            if not is_own and not (isinstance(row, Detach) and row.is_ranked_by_entropy):
                found[row] = (*found.get(row, ()), place)
        return found

    def detaches_from(self, top_entropy_share: float) -> dict[str, int]:
        """Group → how many tokens the shortest response has in which its [`Detach`] takes a gradient away."""
        found = {}
        for group, rule in zip(GROUPS, self.rows, strict=True):
            if isinstance(rule, Detach) and rule.is_ranked_by_entropy:
                wanted, exact = 1, self.selection != "released"
                if not exact and rule.which == "lowest" and rule.share < 1:
                    wanted = 2  # the token at the threshold stays
                n = math.ceil(wanted / fraction(rule.share)) if exact or wanted == 2 else 1
                high = fraction(top_entropy_share)
                if group.endswith("high"):
                    found[group] = 1 if n == 1 else math.ceil(n / high)
                elif high < 1:
                    lengths = count(max(n, math.floor((n - 1) / (1 - high))))
                    found[group] = next(t for t in lengths if t - max(share_of(top_entropy_share, t), 1) >= n)
        return found

    def replace(self, overrides: Mapping[str, Rule | str | Mapping]) -> "Table":
        """
        A copy in which the rows named in `overrides` (`{"hard_correct_low": "clip"}`) have other rules. Where they do
        differ it is called `<name>*`: it is no longer the objective of that name.
        """
        if unknown := sorted(set(overrides) - set(GROUPS)):
            raise UsageError(f"No such group: {', '.join(unknown)}. The groups are {', '.join(GROUPS)}.")
        rows = tuple(parse_rule(overrides.get(group, row)) for group, row in zip(GROUPS, self.rows, strict=True))
        name = self.name if rows == self.rows or self.name.endswith("*") else f"{self.name}*"
        return dataclasses.replace(self, name=name, rows=rows)

    def __str__(self) -> str:
        names = [" · ".join(group.split("_")) for group in GROUPS]
        lines = [f"{i:2}  {name:<21}  {row}" for i, (name, row) in enumerate(zip(names, self.rows, strict=True), 1)]
        return "\n".join([self.name, *lines])
