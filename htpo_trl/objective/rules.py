"""
The rules that a row of an objective table can hold: what happens to the tokens of one group. What HTPO's own do to the
loss is in `transform.py` (`control`), what the others do in `parts.py`.

A row is one rule, or a [`Mix`] of them: scales change the advantage, one gate makes a weight of the importance ratio,
and selections take single tokens out or push them.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..utils import UsageError, nearest
from .gates import FUNCTIONS, Function
from .selections import Detach, Penalty, Scale, check_choice, check_number, given, number


#: Of a kept gradient; see [`KeepGradient`].
Weight = Literal["bound", "inverse_ratio"] | float | None


@dataclass(frozen=True)
class Clip:
    """
    PPO-clip: J_PPO = min(r·Â, clip(r, 1-ε_lo, 1+ε_hi)·Â).

    Args:
        epsilon_low, epsilon_high (`float`, *optional*):
            A clip range of the group's own; by default the loss's.
        delta (`float` or `"none"`, *optional*):
            Dual clip of the group's own, the largest ratio of a token with Â < 0 that has a gradient, or none. By
            default the loss's.
    """

    epsilon_low: float | None = None
    epsilon_high: float | None = None
    delta: float | Literal["none"] | None = None

    def __post_init__(self) -> None:
        for name in ("epsilon_low", "epsilon_high", "delta"):
            if (value := getattr(self, name)) is not None and (name, value) != ("delta", "none"):
                check_number("Clip", name, value, 0)

    def __repr__(self) -> str:
        return given(self)

    def __str__(self) -> str:
        values = {"ε_lo": self.epsilon_low, "ε_hi": self.epsilon_high, "dual clip": self.delta}
        own = ", ".join(
            f"{name} {value if isinstance(value, str) else number(value)}"
            for name, value in values.items()
            if value is not None
        )
        return f"J_PPO with {own}" if own else "J_PPO"


@dataclass(frozen=True)
class KeepGradient:
    """
    J_PPO, but in the named regions of the importance ratio r the token's objective is w·π/sg[π]·Â: it keeps a gradient
    of weight w where PPO would clip it away (or weigh it by r).

    Args:
        above, inside, below (`"bound"`, `"inverse_ratio"`, `float` or `None`, *optional*, defaults to `None`):
            The weight w where r > 1+ε_hi, inside the clip range, and where r < 1-ε_lo. `"bound"` is the edge of the
            clip range on that side, `"inverse_ratio"` is 1/r, a number is itself, `None` leaves J_PPO.
        cap (`float`, *optional*, defaults to `math.inf`):
            Upper bound of the weight. 1/r is unbounded; 10, DAPO's dual-clip constant, bounds it as the other side is.
        when (`str`, *optional*, defaults to `"agrees"`):
            Which advantages the rule applies to: `"agrees"` where Â has the sign of the verdict (positive for a
            correct response, negative for a wrong one; a length penalty, say, can flip it), `"clipped"` where PPO-clip
            itself has no gradient (r above and Â > 0, or r below and Â < 0), `"positive"` where Â > 0, `"always"`.
        sign (`1` or `-1`, *optional*, defaults to `1`):
            -1 pushes the other way. Only the code released with the paper does that.
    """

    above: Weight = None
    inside: Weight = None
    below: Weight = None
    cap: float = math.inf
    when: Literal["agrees", "clipped", "positive", "always"] = "agrees"
    sign: Literal[1, -1] = 1

    def __post_init__(self) -> None:
        for name in ("above", "inside", "below"):
            weight = getattr(self, name)
            if isinstance(weight, str):
                check_choice("KeepGradient", name, weight, ("bound", "inverse_ratio"))
            elif weight is not None:
                check_number("KeepGradient", name, weight, finite=True)
                if weight <= 0:
                    raise UsageError(
                        f"KeepGradient: {name}={weight} must be positive; use sign=-1 for the other direction."
                    )
        if self.above is None and self.inside is None and self.below is None:
            raise UsageError("KeepGradient: give a weight for above, inside or below; use the rule `clip` for none.")
        if self.inside == "bound":
            raise UsageError("KeepGradient: inside='bound' has no meaning; use 'inverse_ratio' or a number.")
        if self.inside is not None and self.when == "clipped":
            raise UsageError("KeepGradient: nothing is clipped inside the range; drop `inside` or change `when`.")
        check_number("KeepGradient", "cap", self.cap)
        if self.cap <= 0:
            raise UsageError(f"KeepGradient: cap={self.cap} must be positive.")
        check_choice("KeepGradient", "when", self.when, ("agrees", "clipped", "positive", "always"))
        check_choice("KeepGradient", "sign", self.sign, (1, -1))

    def __str__(self) -> str:
        # That the edge of the clip range lies below a cap of 2 or more, which 1/r shows, goes without saying.
        shown = self.cap < 2 or "inverse_ratio" not in (self.above, self.inside, self.below)

        def term(weight: str | float, bound: str) -> str:
            if not isinstance(weight, str):
                text = number(min(weight, self.cap))
            else:
                text, capped = (bound, shown) if weight == "bound" else ("1/r", True)
                text = f"min({text}, {number(self.cap)})" if capped and not math.isinf(self.cap) else text
            return f"{'-' if self.sign < 0 else ''}{text}·π/sg[π]·Â"

        regions = (
            ("r > 1+ε_hi", self.above, "(1+ε_hi)"),
            ("in range", self.inside, ""),
            ("r < 1-ε_lo", self.below, "(1-ε_lo)"),
        )
        when = {
            "agrees": " if Â agrees with the verdict",
            "clipped": " if clipped",
            "positive": " if Â > 0",
            "always": "",
        }
        parts = [f"{where}: {term(weight, bound)}" for where, weight, bound in regions if weight is not None]
        return f"J_PPO; {', '.join(parts)}{when[self.when]}"


@dataclass(frozen=True)
class Named:
    """
    A published gate or scale: a function of [`~htpo_trl.objective.gates`] by its name.

    Args:
        name (`str`):
            Its name, such as `"cispo"`.
        options (`Mapping`, *optional*):
            Options that are not to have their default.
    """

    name: str
    options: Any = ()  # a mapping; kept as sorted pairs

    def __post_init__(self) -> None:
        if self.name not in FUNCTIONS:
            raise UsageError(f"Unknown rule {self.name!r}. {nearest(self.name, rule_names())}".rstrip())
        known, given = FUNCTIONS[self.name].options, dict(self.options)
        if unknown := sorted(given.keys() - known.keys()):
            takes = ", ".join(known) or "none"
            raise UsageError(f"Rule {self.name!r} has no option {', '.join(unknown)}; it takes {takes}.")
        for name, value in given.items():
            check_number(self.name, name, value, -math.inf if FUNCTIONS[self.name].changes_sign else 0)
        changed = {name: float(given[name]) for name in known if given.get(name, known[name]) != known[name]}
        object.__setattr__(self, "options", tuple(changed.items()))

    @property
    def function(self) -> Function:
        """What is registered under the name."""
        return FUNCTIONS[self.name]

    def __str__(self) -> str:
        given = ", ".join(f"{name} {number(value)}" for name, value in self.options)
        what = "w" if self.function.kind == "gate" else "Â′"
        return f"{self.name}{f' ({given})' if given else ''}: {what} = {self.function.formula}"


@dataclass(frozen=True)
class Mix:
    """
    Rules together: scales, in their order; then the gate, at most one ([`Clip`], [`KeepGradient`] or a named one; by
    default J_PPO); then selections, in their order.

    Args:
        parts (`Sequence` of rules):
            At least two.
    """

    parts: tuple["Part", ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        gates = [str(part) for part in self.parts if is_gate(part)]
        if len(gates) > 1:
            raise UsageError(f"A row has one gate, not {len(gates)}: {'; '.join(gates)}. Leave all but one out.")
        if len(self.parts) < 2:
            raise UsageError("A row that is a list holds at least two rules; write a single one without the list.")

    def __str__(self) -> str:
        first, *others = map(str, self.parts)
        return "; ".join([first, *(part.removeprefix("J_PPO; ") for part in others)])


def is_gate(rule: "Rule") -> bool:
    """Whether the rule makes a weight of the importance ratio."""
    return isinstance(rule, Clip | KeepGradient) or (isinstance(rule, Named) and rule.function.kind == "gate")


#: What a row of an objective table is made of.
Part = Clip | Detach | KeepGradient | Scale | Penalty | Named
#: A row of an objective table: one rule, or several together.
Rule = Part | Mix
_RULES: dict[str, type] = {
    "clip": Clip,
    "detach": Detach,
    "keep_gradient": KeepGradient,
    "scale": Scale,
    "penalty": Penalty,
}


def rule_names() -> list[str]:
    """All names that a row's rule can have, sorted by kind."""
    return [*_RULES, *FUNCTIONS]


def parts_of(rule: Rule) -> tuple[Part, ...]:
    """The rules that a row is made of."""
    return rule.parts if isinstance(rule, Mix) else (rule,)


def rewrites_ratio(rule: Rule) -> bool:
    """Whether the loss sees another importance ratio than the policy's on some tokens."""
    return any(isinstance(part, Penalty) or (is_gate(part) and part != Clip()) for part in parts_of(rule))


def changes_sign(rule: Rule) -> bool:
    """Whether a token can learn against the sign of its advantage, or without one."""
    return any(
        isinstance(part, Penalty)
        or (isinstance(part, KeepGradient) and part.sign < 0)
        or (isinstance(part, Named) and part.function.changes_sign)
        for part in parts_of(rule)
    )


def waits_for_drift(rule: Rule) -> bool:
    """Whether a rule other than J_PPO is J_PPO as long as every importance ratio is 1."""
    return rule != Clip() and all(
        isinstance(part, Penalty | Clip)
        or (isinstance(part, KeepGradient) and part.inside in (None, "inverse_ratio", 1))
        or (isinstance(part, Named) and part.function.waits_for_drift)
        for part in parts_of(rule)
    )


def effects_of(rule: Rule) -> set[str]:
    """What a rule can do to a token: names in [`~htpo_trl.objective.table.EFFECTS`]."""
    found: set[str] = set()
    for part in parts_of(rule):
        if isinstance(part, Detach):
            found.add(f"detach_{part.which}")
        elif isinstance(part, Penalty):
            found.add("penalised")
        elif part == rule and isinstance(part, KeepGradient):
            found |= {f"keep_{region}" for region in ("below", "inside", "above") if getattr(part, region) is not None}
        elif not is_gate(part):
            found.add("scaled")
        elif part != Clip():
            found |= {"gate_keeps", "gate_drops", "gate_weighs"}
    return found


def parse_rule(spec: Rule | str | Mapping | Sequence) -> Rule:
    """
    A rule from its written form: `"clip"`, or `{"rule": "detach", "share": 0.01, "which": "lowest"}` and alike; or a
    list of them.
    """
    if isinstance(spec, Rule):
        return spec
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        parts = [part for each in spec for part in parts_of(parse_rule(each))]
        return parts[0] if len(parts) == 1 else Mix(tuple(parts))
    arguments = dict(spec) if isinstance(spec, Mapping) else {"rule": spec}
    name = arguments.pop("rule", None)
    if isinstance(name, str) and name in FUNCTIONS:
        return Named(name, arguments)
    if not isinstance(name, str) or name not in _RULES:
        known = rule_names()
        hint = nearest(name, known) if isinstance(name, str) else ""
        raise UsageError(f"Unknown rule {name!r} in {spec!r}. {hint}The rules are {', '.join(known)}.")
    fields = {each.name: each.default for each in dataclasses.fields(_RULES[name])}
    if unknown := sorted(set(arguments) - set(fields)):
        raise UsageError(f"Rule {name!r} has no option {', '.join(unknown)}; it takes {', '.join(fields) or 'none'}.")
    if missing := [each for each in fields if fields[each] is dataclasses.MISSING and each not in arguments]:
        raise UsageError(
            f"Rule {name!r} needs {', '.join(missing)}, a number, as in {{rule: {name}, {missing[0]}: 0.5}}."
        )
    return _RULES[name](**arguments)


def rule_spec(rule: Rule) -> dict[str, Any] | list[dict[str, Any]]:
    """The written form of a rule, which [`parse_rule`] takes and JSON can hold; without options at their default."""
    if isinstance(rule, Mix):
        return [rule_spec(part) for part in rule.parts]  # type: ignore[misc]
    if isinstance(rule, Named):
        return {"rule": rule.name, **dict(rule.options)}
    (name,) = (name for name, kind in _RULES.items() if type(rule) is kind)
    values = ((each, getattr(rule, each.name)) for each in dataclasses.fields(rule))
    return {"rule": name} | {each.name: value for each, value in values if value != each.default}
