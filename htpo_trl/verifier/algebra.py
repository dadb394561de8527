"""Comparison by computer algebra: math-verify, and what we correct of it. Without limits: it runs in a worker."""

import logging
import math
import re
from dataclasses import replace
from functools import lru_cache
from typing import Any

import math_verify
from sympy import Eq, Expr, FiniteSet, Float, I, Intersection, Interval, MatrixBase, S, Symbol, Tuple, Union, oo
from sympy.core.relational import Relational
from sympy.logic.boolalg import Boolean

from .measures import TOLERANCE


# The whole boxed content is the answer: without this, math-verify picks numbers out of text that it cannot parse.
# Units are settled before: it would take the letter of `6m` for one.
_NORMALIZATION = replace(math_verify.LatexExtractionConfig().normalization_config, units=False)
_EXTRACTION = (math_verify.LatexExtractionConfig(False, 0, _NORMALIZATION),)

# The deadline is kept from outside: a signal of math-verify's own could not interrupt a long step in C.
logging.getLogger("math_verify").setLevel(logging.ERROR)

_RATIO = re.compile(r"\d{1,12}(?::\d{1,12}){2,9}")
_FUNCTION = re.compile(r"([A-Za-z])\(([A-Za-z])\)=([^,=]+)")
_NAME = re.compile(r"[A-Za-z]'*(?=\([A-Za-z]\)=)")
_ONE_SIDED = (re.compile(r"\\ldots\W*\Z"), re.compile(r"\d\)?_"))
_PRIMED_NAME = re.compile(r"\A[A-Za-z]'+\([A-Za-z]\)=")


def compare(gold: str, answer: str) -> str:
    """The verdict on the forms of a gold and an answer, the value of a `Verdict`. Without limits."""
    if _RATIO.fullmatch(gold) and _RATIO.fullmatch(answer):
        return "correct" if _lowest(gold) == _lowest(answer) else "wrong"
    if _RATIO.fullmatch(gold) or _RATIO.fullmatch(answer):
        return "wrong"  # 1:2:3 is no number
    answer = _with_argument_of(gold, answer)
    if not (golds := _parse_gold(gold)):
        return "unparsable_gold"
    if not (answers := _parse(answer)):
        return "unparsable_answer"
    is_equal = math_verify.verify(golds, answers, timeout_seconds=None)
    if is_equal:
        is_equal = not (_are_told_apart(gold, answer) or _differ(golds[0], answers[0]))
    else:
        is_equal = any(same(golds[0], answers[0]) for same in (_are_same_set, _are_same_vector, _are_same_complex))
    return "correct" if is_equal else "wrong"


def _parse(text: str) -> list:
    # math-verify takes an energy with a subscript for Euler's number, and then the whole for text.
    text = re.sub(r"(?<![A-Za-z\\])E_\{", r"\\Xi_{E", text)
    text = re.sub(r"_\{\\(max|min|odot|oplus|perp|parallel|star)\}", r"_{\1}", text)
    return math_verify.parse(f"\\boxed{{{text}}}", _EXTRACTION, parsing_timeout=None)


@lru_cache(maxsize=256)  # the answers of a group have one gold
def _parse_gold(text: str) -> list:
    return _parse(text)


def _lowest(ratio: str) -> list[int]:
    terms = [*map(int, ratio.split(":"))]
    return [term // (math.gcd(*terms) or 1) for term in terms]


def _with_argument_of(gold: str, answer: str) -> str:
    """`f(y)=2y` as `f(x)=2x` where the gold is a function of x: the name of an argument means nothing."""
    if (f := _FUNCTION.fullmatch(gold)) and (g := _FUNCTION.fullmatch(answer)) and f[1] == g[1] and f[2] != g[2]:
        letter = rf"(?<![A-Za-z\\]){g[2]}(?![A-Za-z])"
        if f[2] not in re.sub(r"\\[A-Za-z]+", "", g[3]):
            return f"{f[1]}({f[2]})={re.sub(letter, f[2], g[3])}"
    return answer


def _are_told_apart(gold: str, answer: str) -> bool:
    """
    Whether what math-verify overlooks tells two texts apart: primes, capital letters, dots at the end, subscripts of
    numbers, and the brackets of a set.
    """
    names = [name[0] for name in map(_NAME.match, (gold, answer)) if name]
    if len({*names}) > 1 or any(bool(found.search(gold)) != bool(found.search(answer)) for found in _ONE_SIDED):
        return True
    if _PRIMED_NAME.sub("", gold).count("'") != _PRIMED_NAME.sub("", answer).count("'"):
        return True
    if gold != answer and gold.lower() == answer.lower() and "\\text" not in gold:
        return True
    return {gold[:2] == "\\{" and gold[-1:] == "}", answer[:2] == "\\{" and answer[-1:] == "}"} == {True, False} and (
        (gold if answer[:2] == "\\{" else answer)[:1] in ("(", "[")
    )


def _differ(gold: Any, answer: Any) -> bool:
    """
    Whether two constants differ though math-verify's six decimals, or its fifteen digits, agree. Those of decimals may
    differ by the relative `TOLERANCE`.
    """
    if isinstance(answer, Eq) and not answer.free_symbols:  # 3=4 is no 4
        return _differ(answer.lhs, answer.rhs)
    if not all(isinstance(value, Expr) and value.is_number for value in (gold, answer)):
        return False
    has_decimals = any(value.has(Float) for value in (gold, answer))
    a, b, gap = (value.evalf(15, maxn=200) for value in (gold, answer, gold - answer))
    if not (a.is_finite and b.is_finite):
        return False
    return bool(abs(gap) > (float(TOLERANCE) if has_decimals else 1e-60) * abs(a))


def _are_same_set(gold: Any, answer: Any) -> bool:
    """Whether inequalities and sets of numbers hold for the same ones, `1 \\le x < 3` and `[1, 3)`."""
    try:
        a, b = _solutions(gold), _solutions(answer)
    except (NotImplementedError, TypeError, ValueError, AttributeError):  # of sympy, on what it cannot solve
        return False
    if a is None or b is None or len(a[1] | b[1]) > 1:
        return False
    return not a[0].symmetric_difference(b[0]) - S.EmptySet if a[0] != b[0] else True


def _solutions(value: Any) -> tuple[Any, frozenset[Any]] | None:
    """The set for which an inequality holds, and its unknown; sets as they are."""
    if isinstance(value, Interval | Union):
        return value, frozenset()
    if isinstance(value, Eq) and isinstance(value.lhs, Symbol) and isinstance(value.rhs, Interval | Union):
        return value.rhs, frozenset({value.lhs})
    parts = [*getattr(value, "_unsorted_args", value.args)] if isinstance(value, FiniteSet | Boolean) else []
    if isinstance(value, Relational):
        parts = [value]
    if not parts or not all(isinstance(part, Relational) and not isinstance(part, Eq) for part in parts):
        return None
    if len(symbols := frozenset().union(*(part.free_symbols for part in parts))) != 1:
        return None
    (symbol,) = symbols
    x = Symbol("x", real=True)
    sets = [part.subs(symbol, x).as_set() for part in parts]
    return (Union(*sets) if isinstance(value, FiniteSet) else Intersection(*sets)), symbols


def _are_same_vector(gold: Any, answer: Any) -> bool:
    """Whether a column or row and a tuple have the same entries."""
    a, b = _entries(gold), _entries(answer)
    is_one_matrix = isinstance(gold, MatrixBase) != isinstance(answer, MatrixBase)
    if a is None or b is None or not is_one_matrix or len(a) != len(b):
        return False
    return all(math_verify.verify([x], [y], timeout_seconds=None) for x, y in zip(a, b, strict=True))


def _are_same_complex(gold: Any, answer: Any) -> bool:
    """Whether numbers are the same with i for the imaginary unit, as in `e^{i\\pi}`: to math-verify it is a letter."""
    i = Symbol("i", real=False)
    if not all(isinstance(value, Expr) and value.free_symbols <= {i} for value in (gold, answer)):
        return False
    return not gold.free_symbols == answer.free_symbols == set() and bool((gold - answer).subs(i, I).equals(0))


def _entries(value: Any) -> list | None:
    if isinstance(value, MatrixBase) and 1 in value.shape:
        return value.flat()
    if isinstance(value, Interval) and value.is_open and oo not in (value.start, value.end):
        return [value.start, value.end]  # math-verify takes a pair for an open interval
    return [*value.args] if isinstance(value, Tuple) else None
