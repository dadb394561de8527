"""The comparisons that need no computer algebra: by the kind of the answers, and by exact arithmetic. Linear in the text."""

import math
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction

from .reading import INFINITY, Answer, Kind, is_constant, read, read_gold
from .values import (
    Undecided,
    Value,
    coefficient,
    constant_ratio,
    equal,
    have_other_zeros,
    is_call,
    measure,
    numbers_agree,
)


_FRACTION = re.compile(r"\A(-?)\\[dt]?frac\{(\d{1,12})\}\{(\d{1,12})\}\Z", re.ASCII)
_NUMBER = re.compile(
    r"-?(?:(?:0|[1-9]\d{0,11}|[1-9]\d{0,2}(?:,\d{3}){1,3})(?:\.(\d{1,12}))?|\d{1,12}/(?!0+\Z)\d{1,12})", re.ASCII
)
_APPROXIMATION = 0.05  # relative difference up to which x ≈ y is true
MAX_PAIRS = 900  # of elements


def compare_plainly(gold: str, answer: str) -> bool | None:
    """Whether a bare answer is the gold; `None` where it takes algebra to tell."""
    if gold == answer and any(map(str.isalnum, gold)):
        return True
    a, b = _number(gold), _number(answer)
    if a is not None and b is not None:
        return numbers_agree(a[0], b[0], a[1], b[1])
    golds, answers = read_gold(gold), read(answer)
    if not (golds and answers):
        return None
    n = max(len(golds), len(answers))
    try:
        verdicts = {same(golds[i % len(golds)], answers[i % len(answers)]) for i in range(n)}
    except Undecided:
        return None
    return verdicts.pop() if len(verdicts) == 1 else None


def _number(text: str) -> tuple[Fraction, Fraction | None] | None:
    """An integer, decimal or ratio of integers, and the unit of a decimal's last place."""
    text = _FRACTION.sub(r"\1\2/\3", text)
    if not (match := _NUMBER.fullmatch(text)):
        return None
    return Fraction(text.replace(",", "")), Fraction(1, 10 ** len(match[1])) if match[1] else None


def same(gold: Answer, answer: Answer) -> bool | None:
    """Whether two answers are the same; `None` where it takes algebra to tell."""
    if isinstance(gold, Value) and isinstance(answer, Value):
        return _same_values(gold, answer)
    names = {_name(gold), _name(answer)}
    for name, compare in _COMPARISONS.items():
        if name in names:
            return compare(gold, answer)
    raise AssertionError(names)


def _name(answer: Answer) -> str:
    return answer.name if isinstance(answer, Kind) else "value"


def _same_values(gold: Value, answer: Value) -> bool | None:
    if (g := gold.name) and (a := answer.name) and g != a and g.casefold() == a.casefold():
        return True if "A" <= g <= "E" else None  # a choice in a lower-case letter
    return equal(gold, answer)


def _same_choices(gold: Answer, answer: Answer) -> bool | None:
    (g, value), (a, other) = map(_choice, (gold, answer))
    if g and a:
        return g == a.upper() and not (value and other and same(value, other) is False)
    if g:
        return value is not None and same(value, answer)
    return other is not None and same(gold, other)


def _choice(answer: Answer) -> tuple[str | None, Answer | None]:
    if isinstance(answer, Kind):
        return (answer.marks[0], *answer.parts, None)[:2] if answer.name == "choice" else (None, None)
    return answer.name if len(answer.name or "") == 1 else None, None


def _same_words(gold: Answer, answer: Answer) -> bool | None:
    names = _name(gold), _name(answer)
    if names == ("word", "word"):
        return gold.marks == answer.marks
    other = answer if names[0] == "word" else gold
    # `mgh` may be a product, and what has no solution the empty set.
    text = gold.marks[0] if other is answer else answer.marks[0]  # type: ignore[union-attr]
    return (
        None
        if (isinstance(other, Value) and other.letters and len(text) < 5) or _name(other) in ("set", "equation")
        else False
    )


def _same_bases(gold: Answer, answer: Answer) -> bool | None:
    numerals = _numeral(gold), _numeral(answer)
    if numerals[0] is None or numerals[1] is None:
        return False
    (digits, base), (others, other) = numerals
    # Without a base, that which was asked for is meant.
    return digits == others and (base == other or None in (base, other))


def _numeral(answer: Answer) -> tuple[str, int | None] | None:
    if isinstance(answer, Kind):
        return answer.marks if answer.name == "base" else None  # type: ignore[return-value]
    n = answer.rational
    is_natural = n is not None and n.denominator == 1 and 0 <= n < 10**1000
    return (str(n), None) if is_natural else None


def _same_times(gold: Answer, answer: Answer) -> bool | None:
    if not (isinstance(gold, Kind) and isinstance(answer, Kind) and gold.name == answer.name):
        clock = gold if isinstance(gold, Kind) and gold.name == "time" else answer
        return False if clock.marks[0] else None  # type: ignore[union-attr] # 1:20 may be a ratio
    (hour, *rest), (other, *others) = gold.parts, answer.parts
    if gold.marks[0] and answer.marks[0]:
        return gold.parts == answer.parts
    # By 24 hours, or without a.m. and p.m.
    return rest == others and (hour == other or (hour % 12 == other % 12 and not (hour > 12 and other > 12)))


def _same_equations(gold: Answer, answer: Answer) -> bool | None:
    for side, other in ((answer, gold), (gold, answer)):
        if isinstance(side, Kind) and side.name == "equation" and _is_contradictory(side):
            return False if side is answer and _name(other) != "equation" else None
    if _name(gold) != _name(answer):
        equation, other = (gold, answer) if _name(gold) == "equation" else (answer, gold)
        first, *members = equation.parts  # type: ignore[union-attr]
        members += [first] * is_constant(first)
        verdict = _any(same(other, m) if other is gold else same(m, other) for m in members)
        return verdict if verdict is False or _is_named(first) or is_constant(first) else None
    (l1, *_, r1), (l2, *_, r2) = gold.parts, answer.parts  # type: ignore[union-attr]
    if _is_named(l1) and _is_named(l2):
        is_same_name = same(l1, l2)
        is_same = same(r1, r2)
        if is_same_name and is_same is not None:
            return is_same
        if is_same is False and is_constant(r1) and is_constant(r2):
            return False
    sides = (l1, r1, l2, r2)
    if not all(isinstance(side, Value) for side in sides):
        return None
    if len(gold.parts) + len(answer.parts) > 4:  # type: ignore[union-attr]
        return None
    return _same_zeros(l1 - r1, l2 - r2, (l1, l2))


def _is_contradictory(equation: Kind) -> bool:
    """Whether numbers that are said to be equal are not: `3=4`."""
    for sign, a, b in zip(equation.marks, equation.parts, equation.parts[1:]):
        if is_constant(a) and is_constant(b) and same(a, b) is False:
            if sign == "=":
                return True
            (x, _), (y, _) = measure(a), measure(b)
            if abs(x - y) > _APPROXIMATION * max(abs(x), abs(y)):
                return True
    return False


def _is_named(answer: Answer) -> bool:
    r"""Whether this is the name of what an equation gives: `x`, `f(x)`, `N(n)`, `\angle ABC`."""
    return isinstance(answer, Value) and (coefficient(answer) == 1 or answer.name is not None or is_call(answer))


def _same_zeros(a: Value, b: Value, names: tuple[Value, Value]) -> bool | None:
    """Whether a = 0 and b = 0 are the same equation."""
    if (ratio := constant_ratio(a, b)) is not None:
        return True
    if a.letters != b.letters and len(a.letters) == len(b.letters):
        # f(x)=2x and f(t)=2t
        return None
    return False if have_other_zeros(a, b) or have_other_zeros(b, a) else None


def _same_inequalities(gold: Answer, answer: Answer) -> bool | None:
    if not (isinstance(gold, Kind) and isinstance(answer, Kind)):
        return False
    if gold.name != answer.name or len(gold.parts) != 2 or len(answer.parts) != 2:
        return None
    if not all(isinstance(side, Value) for side in gold.parts + answer.parts):
        return None
    a, b = gold.parts[0] - gold.parts[1], answer.parts[0] - answer.parts[1]
    if (ratio := constant_ratio(a, b)) is not None:
        return ratio > 0 and gold.marks == answer.marks
    return False if a.letters == b.letters and have_other_zeros(a, b) else None


def _same_unions(gold: Answer, answer: Answer) -> bool | None:
    if isinstance(gold, Value) or isinstance(answer, Value):
        return False
    try:
        (low, high), (other_low, other_high) = _hull(gold), _hull(answer)
    except Undecided:
        return None
    if same(low, other_low) is False or same(high, other_high) is False:
        return False
    if _name(gold) == _name(answer):
        return True if _same_sets(gold, answer) else None
    return None


def _hull(answer: Answer) -> tuple[Value, Value]:
    """The least and the greatest number of a union of intervals and sets."""
    ends = [*_ends(answer)]
    if not ends or len(ends) > MAX_PAIRS:
        raise Undecided
    return min(ends, key=_place), max(ends, key=_place)


def _ends(answer: Answer) -> Iterator[Value]:
    if isinstance(answer, Value):
        yield answer
    elif answer.name in ("union", "tuple", "set", "list"):
        for part in answer.parts:
            yield from _ends(part)
    else:
        raise Undecided


def _place(value: Value) -> float:
    sign = -1 if any(c < 0 for c in value.numerator.values()) else 1
    if value.letters == {INFINITY}:
        return sign * math.inf
    if value.letters:
        raise Undecided
    return measure(value)[0].real


def _same_tuples(gold: Answer, answer: Answer) -> bool | None:
    if _name(gold) == _name(answer):
        (a, marks), (b, others) = gold[1:], answer[1:]  # type: ignore[misc]
        verdict = _all(map(same, a, b)) if len(a) == len(b) else False
        if verdict is False or marks == others:
            return verdict
        # (1,2) and [1,2] differ as intervals; longer ones are vectors.
        return False if len(a) == 2 else None
    other = gold if _name(answer) == "tuple" else answer
    pair = answer if other is gold else gold
    if isinstance(other, Value):
        return False
    if other.name not in ("list", "set"):
        return None
    # As one element, or as a list of its own.
    readings = (_same_sets(gold, answer), _same_sets(pair._replace(name="list"), other))  # type: ignore[union-attr]
    return False if readings == (False, False) else None


def _same_matrices(gold: Answer, answer: Answer) -> bool | None:
    if isinstance(gold, Value) or isinstance(answer, Value):
        return False
    if gold.name != answer.name:
        return None
    if [len(row.parts) for row in gold.parts] != [len(row.parts) for row in answer.parts]:  # type: ignore[union-attr]
        return False
    rows = zip(gold.parts, answer.parts, strict=True)
    return _all(same(a, b) for row, other in rows for a, b in zip(row.parts, other.parts, strict=True))  # type: ignore[union-attr]


def _same_sets(gold: Answer, answer: Answer) -> bool | None:
    """Lists and sets, without order; what is neither is a set of one."""
    names = ("list", "set", "union")
    a, b = (x.parts if isinstance(x, Kind) and x.name in names else (x,) for x in (gold, answer))
    if len(a) * len(b) > MAX_PAIRS:
        return None
    table = [[same(x, y) for y in b] for x in a]
    for row in (*table, *zip(*table, strict=True)):
        if not any(verdict is not False for verdict in row):
            return False
    if not a or not b:
        return a == b
    is_same = len(a) == len(b) and all(sum(v is True for v in row) == 1 for row in (*table, *zip(*table, strict=True)))
    return True if is_same else None


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    found = [*verdicts]
    return False if False in found else None if None in found else True


def _any(verdicts: Iterable[bool | None]) -> bool | None:
    found = [*verdicts]
    return True if True in found else None if None in found else False


# In this order: what is compared by the first kind that one of the two is.
_COMPARISONS = {
    **{"choice": _same_choices, "equation": _same_equations, "word": _same_words, "base": _same_bases},
    **{"time": _same_times, "inequality": _same_inequalities, "union": _same_unions, "matrix": _same_matrices},
    **{"tuple": _same_tuples, "set": _same_sets, "list": _same_sets},
}
