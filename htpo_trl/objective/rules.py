"""
The rules that a row of an objective table can hold: what happens to the tokens of one group. What a rule does to the
loss is in `transform.py` (`control`).
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from ..utils import UsageError


#: Of a kept gradient; see [`KeepGradient`].
Weight = Literal["bound", "inverse_ratio"] | float | None


def check_choice(owner: str, name: str, value: object, choices: tuple) -> None:
    """Raise an error that names the option, the value and the choices there are."""
    if value not in choices:
        raise UsageError(f"{owner}: {name}={value!r} is not one of {', '.join(map(repr, choices))}.")


@functools.cache
def fraction(share: float) -> Fraction:
    """What a share means: 0.29 of 100 is 29, although 0.29 * 100 is less in floating point; 1 / 3 of 3 is 1."""
    return Fraction(repr(float(share))).limit_denominator(10**9)


def share_of(share: float, n: int) -> int:
    """⌊share·n⌋ in whole numbers."""
    return math.floor(fraction(share) * n)


@dataclass(frozen=True)
class Clip:
    """Plain PPO-clip: J_PPO = min(r·Â, clip(r, 1-ε_lo, 1+ε_hi)·Â)."""

    def __str__(self) -> str:
        return "J_PPO"


@dataclass(frozen=True)
class Detach:
    """
    J_PPO, but a share of the group's tokens of each response gets no gradient. Detached tokens still count in the
    denominator of a token-mean loss.

    Args:
        share (`float`):
            Share of the response's tokens in this group that is detached, in (0, 1]. A share of n tokens is ⌊share·n⌋
            tokens, so 0.006 bites from 167 tokens on and 0.02 from 50 on; 1 detaches the whole group.
        which (`"lowest"` or `"highest"`, *optional*, defaults to `"lowest"`):
            The end of the group's entropy ranking that is detached.
    """

    share: float
    which: Literal["lowest", "highest"] = "lowest"

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UsageError(f"Detach: share={self.share} must lie in (0, 1]; use the rule `clip` to detach nothing.")
        check_choice("Detach", "which", self.which, ("lowest", "highest"))

    def __str__(self) -> str:
        part = f"the {self.which}-entropy {self.share * 100:.4g}% of the group"
        return "detached" if self.share == 1 else f"J_PPO; {part} detached"


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
            elif weight is not None and not weight > 0:
                raise UsageError(
                    f"KeepGradient: {name}={weight} must be positive; use sign=-1 for the other direction."
                )
        if self.above is None and self.inside is None and self.below is None:
            raise UsageError("KeepGradient: give a weight for above, inside or below; use the rule `clip` for none.")
        if self.inside == "bound":
            raise UsageError("KeepGradient: inside='bound' has no meaning; use 'inverse_ratio' or a number.")
        if self.inside is not None and self.when == "clipped":
            raise UsageError("KeepGradient: nothing is clipped inside the range; drop `inside` or change `when`.")
        if not self.cap > 0:
            raise UsageError(f"KeepGradient: cap={self.cap} must be positive.")
        check_choice("KeepGradient", "when", self.when, ("agrees", "clipped", "positive", "always"))
        check_choice("KeepGradient", "sign", self.sign, (1, -1))

    def __str__(self) -> str:
        def term(weight: str | float, bound: str) -> str:
            if weight == "inverse_ratio":
                text = "1/r" if math.isinf(self.cap) else f"min(1/r, {self.cap:g})"
            else:
                text = bound if isinstance(weight, str) else f"{min(weight, self.cap):g}"
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


#: A row of an objective table: one of the three.
Rule = Clip | Detach | KeepGradient
_RULES: dict[str, type[Rule]] = {"clip": Clip, "detach": Detach, "keep_gradient": KeepGradient}


def parse_rule(spec: Rule | str | Mapping) -> Rule:
    """A rule from its written form: `"clip"`, or `{"rule": "detach", "share": 0.01, "which": "lowest"}` and alike."""
    if isinstance(spec, Rule):
        return spec
    arguments = dict(spec) if isinstance(spec, Mapping) else {"rule": spec}
    name = arguments.pop("rule", None)
    if not isinstance(name, str) or name not in _RULES:
        raise UsageError(f"Unknown rule {name!r} in {spec!r}; the rules are {', '.join(_RULES)}.")
    fields = [field.name for field in dataclasses.fields(_RULES[name])]
    if unknown := sorted(set(arguments) - set(fields)):
        raise UsageError(f"Rule {name!r} has no option {', '.join(unknown)}; it takes {', '.join(fields) or 'none'}.")
    try:
        return _RULES[name](**arguments)
    except TypeError as error:
        raise UsageError(f"Rule {spec!r} is incomplete or of a wrong type: {error}.") from error


def rule_spec(rule: Rule) -> dict[str, object]:
    """The written form of a rule, which [`parse_rule`] takes and JSON can hold; without options at their default."""
    (name,) = (name for name, kind in _RULES.items() if type(rule) is kind)
    values = ((field, getattr(rule, field.name)) for field in dataclasses.fields(rule))
    return {"rule": name} | {field.name: value for field, value in values if value != field.default}
