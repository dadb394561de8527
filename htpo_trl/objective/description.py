"""What can be said of an objective, from the table itself: the command, the documentation and help texts show this."""

from typing import Any

from .gates import FUNCTIONS
from .rules import Clip, Named, parts_of, rule_spec
from .selections import Selection
from .table import GROUPS, Table


# What a gate or a scale reads of the batch → what that asks for.
_NEEDS = {
    "is_correct": "verdicts",
    "entropies": "entropies",
    "sum": "a sum over the response",
    "mean": "a sum over the response",
    "future_sum": "a sum over the rest of the response",
    "place_in_batch": "statistics of the loss call",
    "p": "probabilities of the tokens",
    "q": "probabilities of the tokens",
}


def needs(table: Table) -> list[str]:
    """What it asks for beside importance ratios and advantages."""
    rows = table.rows
    found = ["entropies"] if rows[::2] != rows[1::2] else []
    found += ["verdicts"] if rows[:2] != rows[2:4] or rows[4:6] != rows[6:] else []
    found += ["difficulty"] if rows[:4] != rows[4:] else []
    for part in (part for row in dict.fromkeys(table.rows) for part in parts_of(row)):
        if isinstance(part, Named):
            code: Any = part.function.function
            found += [_NEEDS[name] for name in code.__code__.co_names if name in _NEEDS]
        elif isinstance(part, Selection):
            found += [] if part.takes_all else [f"a ranking by {part.by} over the {part.over}"]
            found += ["the mean entropy of the loss call"] if getattr(part, "entropy_below", None) is not None else []
    return list(dict.fromkeys(found))


def describe(table: Table) -> dict[str, Any]:
    """
    An objective as JSON can hold it: `name`, `source`, `rows` (group → written form of its rule), `formulas` (rule →
    formula, source and options with their defaults), `settings`, `needs`, and `note`, what is not reproduced.
    """
    named = {part.name for row in table.rows for part in parts_of(row) if isinstance(part, Named)}
    formulas = {
        name: {"formula": each.formula, "kind": each.kind, "source": each.source, "options": dict(each.options)}
        for name, each in FUNCTIONS.items()
        if name in named
    }
    return {
        "name": table.name,
        "source": table.source,
        "rows": {group: rule_spec(row) for group, row in zip(GROUPS, table.rows, strict=True)},
        "selection": table.selection,
        "formulas": formulas,
        "settings": dict(table.settings),
        "needs": needs(table),
        "note": table.note,
    }


def rule_of(table: Table) -> str:
    """The rule of all groups, or how many rules there are beside J_PPO; by entropy alone, the low and the high one."""
    low, high = table.rows[:2]
    rules = list(dict.fromkeys(row for row in table.rows if row != Clip())) or [Clip()]
    if low != high and table.rows == (low, high) * 4:
        return f"low: {low}; high: {high}"
    return str(rules[0]) if len({*table.rows}) == 1 else f"{len(rules)} rules by group"


def summary(table: Table) -> str:
    """One line: name, source, and [`rule_of`]."""
    return f"{table.name:18}  {table.source:35}  {rule_of(table)}"


def show(table: Table) -> str:
    """All of it, as text."""
    told = describe(table)
    lines = [str(table), ""]
    for name, each in told["formulas"].items():
        what = "w" if each["kind"] == "gate" else "Â′"
        options = ", ".join(f"{option}={value}" for option, value in each["options"].items())
        lines.append(f"{name:<10} {what} = {each['formula']}; options: {options or 'none'}; {each['source']}")
    settings = ", ".join(f"{name}={value}" for name, value in told["settings"].items())
    for title, text in (
        ("source", told["source"]),
        ("settings", settings),
        ("needs", "; ".join(told["needs"])),
        ("note", told["note"]),
    ):
        lines += [f"{title:<10} {text}"] if text else []
    return "\n".join(lines)
