"""
HTPO's objective as data: which token learns what (arXiv 2605.08283). No torch: names and tables are cheap to import.

Every token of a response belongs to one of eight groups: is the prompt hard or easy, is the response correct or
wrong, is the token's entropy high or low? A [`Table`] gives each group one rule; published ones
are in `presets.py`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, product
from typing import Any, Literal

from ..utils import UsageError
from .rules import Clip, KeepGradient, Named, Rule, effects_of, parse_rule, parts_of
from .selections import Detach, Selection, check_choice, fraction, share_of


#: The eight groups, in the order of the paper's figure; a group's place is the code that `control` returns.
GROUPS: tuple[str, ...] = tuple(
    "_".join(names) for names in product(("hard", "easy"), ("correct", "wrong"), ("low", "high"))
)
#: The options of `HTPOConfig` that an objective can bring, and the recipe's values.
SETTINGS: dict[str, Any] = {"epsilon": 0.2, "epsilon_high": 0.28, "loss_type": "dapo"}
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
            Options of [`HTPOConfig`] that are part of the objective as it was published, and their values:
            `epsilon`, `epsilon_high`, `loss_type`. They hold where the user leaves these options alone.
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
        object.__setattr__(self, "settings", tuple((str(name), value) for name, value in self.settings))
        if any(not isinstance(value, int | float | str) for _, value in self.settings):
            raise UsageError(f"Table {self.name!r}: settings={self.settings!r:.80} must be numbers and names.")
        if unknown := ", ".join(sorted({name for name, _ in self.settings} - SETTINGS.keys())):
            raise UsageError(f"Table {self.name!r}: settings can hold {', '.join(SETTINGS)}, not {unknown}.")

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
    def holds_unjudged(self) -> bool:
        """Whether its rules hold for a response without a verdict too: they ask for neither verdict nor difficulty."""
        agrees = any(isinstance(row, KeepGradient) and row.when == "agrees" for row in self.rows)
        return self.rows == self.rows[:2] * 4 and not agrees and not self.is_plain

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn at random."""
        parts = (part for row in self.mixed for part in parts_of(row))
        return any(isinstance(part, Selection) and part.which == "random" for part in parts)

    @property
    def of_response(self) -> tuple[int, ...]:
        """Places of rows whose gate is on the ratio of the whole response."""
        parts = [parts_of(row) for row in self.rows]
        return tuple(
            place
            for place, row in enumerate(parts)
            if any(isinstance(part, Named) and part.function.of_response for part in row)
        )

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

    def replace(self, overrides: Mapping[str, Rule | str | Mapping | Sequence]) -> "Table":
        """
        A copy in which the rows named in `overrides` have other rules. A name is that of a group
        (`{"hard_correct_low": "clip"}`), or some of its words, as in `"hard_wrong"` or `"high"`, for all groups that
        have them, or `"all"`; the name with more words holds. Where rows do differ it is called `<name>*`: it is no
        longer the objective of that name.
        """
        rules = {name: _rule_of(name, spec) for name, spec in overrides.items()}
        rows = tuple(_chosen(group, rules, row) for group, row in zip(GROUPS, self.rows, strict=True))
        name = self.name if rows == self.rows or self.name.endswith("*") else f"{self.name}*"
        return dataclasses.replace(self, name=name, rows=rows)

    def __str__(self) -> str:
        names = [" · ".join(group.split("_")) for group in GROUPS]
        lines = [f"{i:2}  {name:<21}  {row}" for i, (name, row) in enumerate(zip(names, self.rows, strict=True), 1)]
        how = {"released": " (sets by value, as released)", "quantile": " (high: above the response's quantile)"}
        return "\n".join([self.name + how.get(self.selection, ""), *lines])


def _words(name: str) -> list[str]:
    return [] if name == "all" else name.split("_")


def _rule_of(name: Any, spec: Rule | str | Mapping | Sequence) -> Rule:
    words = _words(name) if isinstance(name, str) else []
    if name != "all" and not (words and any({*words} <= {*group.split("_")} for group in GROUPS)):
        raise UsageError(
            f"No such group: {name}. The groups are {', '.join(GROUPS)}; some of the words, as in high or hard_wrong, "
            "name all groups that have them, all names all."
        )
    try:
        return parse_rule(spec)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error


def _chosen(group: str, rules: Mapping[str, Rule], row: Rule) -> Rule:
    """The rule under the name with the most words, of those that name the group; `row` where none does."""
    words = group.split("_")
    naming = [name for name in rules if {*_words(name)} <= {*words}]
    if not naming:
        return row
    most = max(len({*_words(name)}) for name in naming)
    nearest = [name for name in naming if len({*_words(name)}) == most]
    if len({rules[name] for name in nearest}) > 1:
        both = "_".join(word for word in words if any(word in _words(name) for name in nearest))
        mend = "Leave one out" if both in nearest else f"Add {both!r}, which goes before"
        raise UsageError(f"{' and '.join(map(repr, nearest))} name {group} with different rules. {mend}.")
    return rules[nearest[0]]
