"""
Which tokens of a group, and the rules that act on such a choice: [`Detach`], [`Scale`] and [`Penalty`]. No torch: the
tokens are chosen in `parts.py`.
"""

import functools
import math
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import Any, Literal

from ..utils import UsageError


#: What a [`Selection`] can rank tokens by.
SCORES = ("entropy", "surprisal", "covariance", "drift")


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


def check_number(owner: str, name: str, value: Any, least: float = -math.inf, finite: bool = False) -> None:
    """Raise an error that names the option and the value, unless it is a number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value < least:
        bound = "" if math.isinf(least) else f" of at least {least:g}"
        raise UsageError(f"{owner}: {name}={value!r} must be a number{bound}.")
    if finite and math.isinf(value):
        raise UsageError(f"{owner}: {name}={value!r} must be finite.")


def number(value: float) -> str:
    """A number as short as can be, so that no other one is written so."""
    return text if float(text := f"{value:g}") == value else repr(float(value))


def given(rule: Any, always: tuple[str, ...] = ()) -> str:
    """A rule as it would be written in Python: with the options that have not their default, and some always."""
    values = {each.name: getattr(rule, each.name) for each in fields(rule)}
    shown = (each.name for each in fields(rule) if each.name in always or values[each.name] != each.default)
    return f"{type(rule).__name__}({', '.join(f'{name}={values[name]!r}' for name in shown)})"


@dataclass(frozen=True)
class Selection:
    """
    Which tokens of a group a rule acts on. All options but the share keep their default unless said otherwise.

    Args:
        share (`float`, *optional*, defaults to `1.0`):
            Share of the tokens that is chosen, in (0, 1]. A share of n tokens is ⌊share·n⌋ tokens.
        which (`"lowest"`, `"highest"` or `"random"`, *optional*, defaults to `"lowest"`):
            The end of the ranking, or a draw. In training each micro-batch has a generator of its own, by seed, step
            and process, so that evaluation and resuming change no draw.
        by (`str`, *optional*, defaults to `"entropy"`):
            What is ranked: `"entropy"`, `"surprisal"` (-log π), `"covariance"` of Â and log π within the loss call
            (arXiv 2505.22617), `"drift"` (|log r|). Ties go to the earlier token.
        over (`"response"` or `"batch"`, *optional*, defaults to `"response"`):
            Whether the share is of the group's tokens of each response, or of those of the loss call, a micro-batch.
        at_least (`int`, *optional*, defaults to `0`):
            So many tokens at least, where there are any.
        rounded (`"down"` or `"up"`, *optional*, defaults to `"down"`):
            `"up"`: ⌈share·n⌉ tokens.
        above, below (`float`, *optional*):
            Only tokens whose ranked value lies strictly above, below.
        where (`"all"`, `"positive"`, `"negative"` or `"unclipped"`, *optional*, defaults to `"all"`):
            Only tokens with Â > 0, Â < 0, or all but those whose gradient the row's gate takes away, by whatever clip
            range it has. `above`, `below` and `"unclipped"` leave the share's n as it is; the sign does not.
    """

    share: float = 1.0
    which: Literal["lowest", "highest", "random"] = "lowest"
    by: Literal["entropy", "surprisal", "covariance", "drift"] = "entropy"
    over: Literal["response", "batch"] = "response"
    at_least: int = 0
    rounded: Literal["down", "up"] = "down"
    above: float | None = None
    below: float | None = None
    where: Literal["all", "positive", "negative", "unclipped"] = "all"

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_number(name, "share", self.share)
        if not 0 < self.share <= 1:
            raise UsageError(f"{name}: share={self.share} must lie in (0, 1]; use the rule `clip` to change nothing.")
        check_choice(name, "which", self.which, ("lowest", "highest", "random"))
        check_choice(name, "by", self.by, SCORES)
        check_choice(name, "over", self.over, ("response", "batch"))
        check_choice(name, "rounded", self.rounded, ("down", "up"))
        check_choice(name, "where", self.where, ("all", "positive", "negative", "unclipped"))
        if type(self.at_least) is not int or self.at_least < 0:
            raise UsageError(f"{name}: at_least={self.at_least!r} must be a number of tokens.")
        for bound in ("above", "below"):
            if getattr(self, bound) is not None:
                check_number(name, bound, getattr(self, bound))
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise UsageError(f"{name}: above={self.above} and below={self.below} leave no token; swap them.")

    def __repr__(self) -> str:  # checkpoints hold it, and those from before there were more options do
        return given(self, ("share", "which"))

    @property
    def is_whole(self) -> bool:
        """Whether it chooses all tokens."""
        return (self.share, self.above, self.below, self.where) == (1, None, None, "all")

    @property
    def takes_all(self) -> bool:
        """Whether it chooses all tokens of the sign that it asks for, so that nothing is ranked."""
        return self.share == 1 and self.above is self.below is None and self.where != "unclipped"

    @property
    def words(self) -> str:
        """The chosen tokens, in words."""
        ranked = "random" if self.which == "random" else f"{self.which}-{self.by}"
        counts = ["rounded up"] * (self.rounded == "up") + [f"at least {self.at_least}"] * (self.at_least > 0)
        part = f"the {ranked} {number(float(100 * fraction(self.share)))}%" + f" ({', '.join(counts)})" * bool(counts)
        part += f" of the group{' in the batch' if self.over == 'batch' else ''}"
        values = {"above": self.above, "below": self.below}
        bounds = [f"{name} {number(value)}" for name, value in values.items() if value is not None]
        part += f" with {self.by} {' and '.join(bounds)}" if bounds else ""
        part += {"all": "", "positive": " where Â > 0", "negative": " where Â < 0"}.get(
            self.where, " that has a gradient"
        )
        return "all" if self.is_whole else part


@dataclass(frozen=True, repr=False)
class Detach(Selection):
    """
    The chosen tokens get no gradient. They still count in the denominator of a token-mean loss. See [`Selection`]: by
    its defaults 0.006 bites from 167 tokens of a response in the group on, 0.02 from 50, and 1 detaches the group.
    """

    share: float = field()  # no default

    @property
    def is_ranked_by_entropy(self) -> bool:
        """Whether it is one of HTPO's rules: an end of the entropy ranking within each response."""
        return self == Detach(self.share, self.which) and self.which != "random"

    def __str__(self) -> str:
        return "detached" if self.is_whole else f"J_PPO; {self.words} detached"


@dataclass(frozen=True, repr=False)
class Scale(Selection):
    """
    The advantage of the chosen tokens is multiplied. See [`Selection`]; by default all tokens are chosen.

    Args:
        factor (`float`):
            By what, not negative.
        entropy_below (`float`, *optional*):
            Only while the mean entropy over the loss call, in nats, is below this.
    """

    factor: float = field(kw_only=True)
    entropy_below: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("Scale", "factor", self.factor, 0, finite=True)
        if self.entropy_below is not None:
            check_number("Scale", "entropy_below", self.entropy_below)

    def __str__(self) -> str:
        below = self.entropy_below
        only = f" while the mean entropy is below {number(below)}" if below is not None else ""
        return f"Â·{number(self.factor)}" + ("" if self.is_whole else f" for {self.words}") + only


@dataclass(frozen=True, repr=False)
class Penalty(Selection):
    """
    The chosen tokens are drawn back to π_old: β·|log r| is taken from their objective (arXiv 2505.22617, KL-Cov). See
    [`Selection`].

    Args:
        beta (`float`):
            Its strength.
    """

    beta: float = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("Penalty", "beta", self.beta, 0, finite=True)

    def __str__(self) -> str:
        return f"-{number(self.beta)}·|log r| for {self.words}"
