"""
HTPO's objective as data: which token learns what (arXiv 2605.08283). No torch: names and tables are cheap to import.

Every token of a response belongs to one of eight groups: is the prompt hard or easy, is the response correct or
wrong, is the token's entropy high or low? A [`Table`] gives each group one rule.

>>> print(PRESETS["htpo"])  # doctest: +ELLIPSIS
htpo
 1  hard · correct · low   J_PPO; the lowest-entropy 0.6% of the group detached
...
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, product
from typing import Literal

from ..objects import import_object
from ..utils import UsageError, nearest
from .rules import Clip, Detach, KeepGradient, Rule, check_choice, fraction, parse_rule, share_of


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
            raise UsageError(
                f"Table {self.name!r} has {len(self.rows)} rows; give one for each of {', '.join(GROUPS)}."
            )
        check_choice("Table", "selection", self.selection, ("exact", "released"))

    @property
    def is_plain(self) -> bool:
        """Whether every token keeps plain J_PPO, so that the table changes nothing."""
        return all(isinstance(row, Clip) for row in self.rows)

    def detaches_from(self, top_entropy_share: float) -> dict[str, int]:
        """Group → how many tokens the shortest response has in which its [`Detach`] takes a gradient away."""
        found = {}
        for group, rule in zip(GROUPS, self.rows, strict=True):
            if isinstance(rule, Detach):
                wanted, exact = 1, self.selection == "exact"
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


def _preset(name: str, rules: Mapping[str, Rule], **kwargs) -> Table:
    return Table(name, tuple(rules.get(group, Clip()) for group in GROUPS), **kwargs)


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
    """
    The preset called `name`, or a table of your own by `file.py:TABLE` or `module:TABLE`, with the rows in `overrides`
    replaced.
    """
    if not isinstance(name, str):
        raise UsageError(
            f"objective={name!r:.80} must be a name. A table of your own is named by its file, as in mine.py:TABLE, "
            "or its module; to replace rows of a preset, set objective_overrides."
        )
    if name in PRESETS:
        table = PRESETS[name]
    elif ":" in name or "." in name:
        table = import_object(name, "objective")
        if not isinstance(table, Table):
            raise UsageError(f"objective={name!r} is a `{type(table).__name__}`; name a `Table`, as in mine.py:TABLE.")
    else:
        raise UsageError(
            f"Unknown objective {name!r}. {nearest(name, PRESETS)}The presets are {', '.join(PRESETS)}; a table of "
            "your own is named by its file, as in mine.py:TABLE, or its module, as in package.mine:TABLE."
        )
    return table.replace(overrides or {})
