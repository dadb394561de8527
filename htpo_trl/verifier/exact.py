"""The comparisons that need no computer algebra: by the kind of the answers, and by exact arithmetic."""

import re
from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise

from .measures import equal, have_other_zeros, is_multiple, is_name, measure, numbers_agree
from .reading import Answer, Kind, is_constant, letter_of, members_of, read, read_gold
from .values import UndecidedError, Value, spend, start_work


_INTEGER = re.compile(r"-?[1-9]\d*", re.ASCII)
_FRACTION = re.compile(r"\A(-?)\\[dt]?frac\{(\d{1,12})\}\{(\d{1,12})\}\Z", re.ASCII)
_NUMBER = re.compile(
    r"-?(?:(?:0|[1-9]\d{0,11}|[1-9]\d{0,2}(?:,\d{3}){1,3})(?:\.(\d{1,12}))?|\d{1,12}/(?!0+\Z)\d{1,12})", re.ASCII
)
_APPROXIMATION = 0.05  # relative difference up to which x ≈ y is true
_MAX_PAIRS = 900  # of elements


def compare_plainly(gold: str, answer: str) -> bool | None:
    """Whether a bare answer is the gold; `None` where it takes algebra to tell."""
    if gold == answer and any(map(str.isalnum, gold)):
        return True
    if _INTEGER.fullmatch(gold) and _INTEGER.fullmatch(answer):
        return False
    a, b = _number(gold), _number(answer)
    if a is not None and b is not None:
        return numbers_agree(a[0], b[0], a[1], b[1])
    golds, answers = read_gold(gold), read(answer)
    if not (golds and answers):
        return None
    n = max(len(golds), len(answers))
    start_work()
    try:
        verdicts = {same(golds[i % len(golds)], answers[i % len(answers)]) for i in range(n)}
    except (UndecidedError, ArithmeticError, RecursionError):  # what is too large for floating point
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
    spend(1)
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
    g, a = letter_of(gold), letter_of(answer)
    if g and a and g.casefold() == a.casefold():
        return g == a or (g.upper() in "ABCDE" and g != "e")  # a choice in a lower-case letter; e is Euler's number
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
    name = letter_of(answer)
    return name if len(name or "") == 1 else None, None


def _same_words(gold: Answer, answer: Answer) -> bool | None:
    word, other = (gold, answer) if _name(gold) == "word" else (answer, gold)
    if isinstance(other, Kind):
        if other.name == "list":
            return _same_sets(gold, answer)
        # What has no solution may be the empty set.
        return gold == answer if other.name == "word" else None if other.name in ("set", "equation") else False
    return None if other.letters and len(word.marks[0]) < 5 else False  # type: ignore[union-attr] # `mgh` may be a product


def _same_bases(gold: Answer, answer: Answer) -> bool | None:
    if not (numeral := _numeral(gold)) or not (another := _numeral(answer)):
        return False
    (digits, base), (others, other) = numeral, another
    # Without a base, that which was asked for is meant.
    return digits == others and (base == other or None in (base, other))


def _numeral(answer: Answer) -> tuple[str, int | None] | None:
    if isinstance(answer, Kind):
        return answer.marks if answer.name == "base" else None
    n = answer.rational
    is_natural = n is not None and n.denominator == 1 and 0 <= n < 10**1000
    return (str(n), None) if is_natural else None


def _same_times(gold: Answer, answer: Answer) -> bool | None:
    if not (isinstance(gold, Kind) and isinstance(answer, Kind) and gold.name == answer.name):
        clock = gold if isinstance(gold, Kind) and gold.name == "time" else answer
        return False if clock.marks[0] else None  # type: ignore[union-attr] # 1:20 may be a ratio
    (hour, *rest), (other, *others) = gold.parts, answer.parts
    # Without a.m. or p.m. either is meant, if it is not by 24 hours.
    open_hour = None if gold.marks == answer.marks else other if gold.marks[0] else hour
    is_open = open_hour is not None and open_hour <= 12
    return rest == others and (hour == other or (is_open and hour % 12 == other % 12))


def _same_equations(gold: Answer, answer: Answer) -> bool | None:
    for side, other in ((answer, gold), (gold, answer)):
        if isinstance(side, Kind) and side.name == "equation" and _is_contradictory(side):
            return False if side is answer and _name(other) != "equation" else None
    if _name(gold) != _name(answer):
        equation, other = (gold, answer) if _name(gold) == "equation" else (answer, gold)
        first, *members = equation.parts  # type: ignore[union-attr]
        if equation is answer and (name := letter_of(first)) and any(name in _names(member) for member in members):
            return False  # x=x+1
        has_constant = any(map(is_constant, equation.parts))  # type: ignore[union-attr]
        if equation is answer and has_constant and not is_constant(other) and _name(other) != "base":
            return False  # 7=x+1 is no x+1
        members += [first] * is_constant(first)
        verdicts = [same(other, m) if other is gold else same(m, other) for m in members]
        if not any(verdict is not False for verdict in verdicts):
            return False
        return True if True in verdicts and (is_name(first) or is_constant(first)) else None
    (l1, *_, r1), (l2, *_, r2) = gold.parts, answer.parts  # type: ignore[union-attr]
    if is_name(l1) and is_name(l2):
        is_same_name = same(l1, l2)
        is_same = same(r1, r2)
        if is_same_name and is_same is not None:
            return is_same
        if is_same is False and isinstance(r1, Value) and isinstance(r2, Value) and r1.letters == r2.letters:
            # Unless one may be solved for the other's name.
            return None if (l1.letters ^ l2.letters) & r1.letters else False
    if is_constant(l2) and is_constant(r2) and not is_constant(l1) and same(r1, r2) is False:
        return False
    sides = gold.parts + answer.parts  # type: ignore[union-attr]
    if len(sides) > 4 or not all(isinstance(side, Value) for side in sides):
        return None
    a, b = l1 - r1, l2 - r2
    if is_multiple(a, b):
        return True
    # f(x)=2x and f(t)=2t may be the same.
    return False if a.letters == b.letters and have_other_zeros(a, b) else None


def _is_contradictory(equation: Kind) -> bool:
    """Whether numbers that are said to be equal are not: `3=4`."""
    constants = [*filter(is_constant, equation.parts)]  # of 3=x=4
    if {*equation.marks} == {"="} and any(same(a, b) is False for a, b in pairwise(constants)):
        return True
    for sign, a, b in zip(equation.marks, equation.parts, equation.parts[1:], strict=False):
        if sign != "=" and is_constant(a) and is_constant(b) and same(a, b) is False:
            (x, _), (y, _) = measure(a), measure(b)
            if abs(x - y) > _APPROXIMATION * max(abs(x), abs(y)) or (_is_whole(a) and _is_whole(b)):
                return True
    return False


def _is_whole(answer: Answer) -> bool:
    """Whether this is an integer, which is not written as a decimal."""
    return isinstance(answer, Value) and answer.unit is None and getattr(answer.rational, "denominator", 0) == 1


def _names(answer: Answer) -> frozenset[str]:
    return answer.letters if isinstance(answer, Value) else frozenset()


def _same_unions(gold: Answer, answer: Answer) -> bool | None:
    if isinstance(gold, Value) or isinstance(answer, Value):
        return False
    if _name(gold) != _name(answer):
        union, other = (gold, answer) if gold.name == "union" else (answer, gold)
        # x<1 or x>2 has its letter, and is no pair.
        pairs = [m for m in members_of(other, "list", "set") if isinstance(m, Kind) and not m.marks[2:]]
        return False if _is_apart(union) and other.name == "list" and pairs else None
    verdict = _same_sets(gold, answer)
    return verdict if verdict is not False or (_is_apart(gold) and _is_apart(answer)) else None


def _is_apart(union: Kind) -> bool:
    """Whether these are intervals with something between them, so that no other intervals have this union."""
    if not all(
        isinstance(part, Kind) and part.name == "tuple" and all(map(is_constant, part.parts)) for part in union[1]
    ):
        return False
    ends = sorted([float(measure(end)[0].real) for end in part.parts] for part in union.parts)
    return all(len(a) == 2 and a[1] < b[0] for a, b in pairwise(ends))


def _same_tuples(gold: Answer, answer: Answer) -> bool | None:
    if _name(gold) == _name(answer):
        (a, marks), (b, others) = gold[1:], answer[1:]  # type: ignore[misc]
        verdict = _all(map(same, a, b)) if len(a) == len(b) else False
        if marks[2:] and others[2:] and marks[2:] != others[2:]:
            return False  # x>5 and y>5
        if verdict is False or marks[:2] == others[:2]:
            return verdict
        # (1,2) and [1,2] differ as intervals; others are vectors.
        return False if len(a) == len(marks) == len(others) == 2 else None
    if isinstance(gold, Value) or isinstance(answer, Value):
        return False
    if not {gold.name, answer.name} <= {"tuple", "list", "set"}:
        return None
    if _is_one_unknown(gold) or _is_one_unknown(answer):
        return False
    # As one element, or as a list of its own.
    as_lists = (x._replace(name="list") for x in (gold, answer))
    return False if _same_sets(gold, answer) is False and _same_sets(*as_lists) is False else None


def _is_one_unknown(answer: Kind) -> bool:
    """Whether this lists values of one unknown, `x=1, x=2`."""
    firsts = [part.parts[0] for part in answer.parts if isinstance(part, Kind) and part.name == "equation"]
    return len(firsts) == len(answer.parts) > 1 and all(first == firsts[0] for first in firsts)


def _same_sets(gold: Answer, answer: Answer) -> bool | None:
    """Lists and sets, without order; what is neither is a set of one."""
    a, b = (members_of(x, "list", "set", "union") for x in (gold, answer))
    if len(a) * len(b) > _MAX_PAIRS:
        return None
    if len(a) != len(b) and 1 in (len(a), len(b)) and _letters(a) == _letters(b) != "":
        return True  # A, C and AC
    table = [[same(x, y) for y in b] for x in a]
    for row in (*table, *zip(*table, strict=True)):
        if not any(verdict is not False for verdict in row):
            return False
    if not a or not b:
        return a == b
    is_same = len(a) == len(b) and all(sum(v is True for v in row) == 1 for row in (*table, *zip(*table, strict=True)))
    return True if is_same else None


def _letters(answers: tuple[Answer, ...]) -> str:
    """Choices, as one word; empty where there is something else."""
    choices = [x for x in answers if _name(x) == "word" or is_name(x)]
    letters = sorted("".join(c for x in choices for c in (x.marks if isinstance(x, Kind) else x.letters)).upper())
    is_all = len(choices) == len(answers) and letters == sorted({*letters} & {*"ABCDEFGHIJ"})
    return "".join(letters) if is_all else ""


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    found = [*verdicts]
    return False if False in found else None if None in found else True


# In this order: what is compared by the first kind that one of the two is.
_COMPARISONS = {
    **{"choice": _same_choices, "equation": _same_equations, "word": _same_words, "base": _same_bases},
    **{"time": _same_times, "union": _same_unions},
    **{"tuple": _same_tuples, "set": _same_sets, "list": _same_sets},
}
