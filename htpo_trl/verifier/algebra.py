"""Comparison by computer algebra: math-verify, and what we correct of it. Without limits: it runs in a worker."""

import logging
import re
from functools import lru_cache
from typing import Any

import math_verify
from sympy import Expr

from .forms import in_latex


# The whole boxed content is the answer: without this, math-verify picks numbers out of text that it cannot parse.
_EXTRACTION = (math_verify.LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False),)

# The deadline is kept from outside: a signal of math-verify's own could not interrupt a long step in C.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def compare(gold: str, answer: str) -> str:
    """The verdict of math-verify on bare answers, the value of a `Verdict`. Without limits."""
    if not (golds := _parse_gold(gold)):
        return "unparsable_gold"
    if not (answers := _parse(answer)):
        return "unparsable_answer"
    is_equal = math_verify.verify(golds, answers, timeout_seconds=None)
    return "correct" if is_equal and not _differ_relatively(golds[0], answers[0]) else "wrong"


def _parse(text: str) -> list:
    # Punctuation is no part of a formula. After a digit it may be: math-verify takes `10.` for text.
    text = in_latex(re.sub(r"(?<=[^\d\s])\.\Z", "", text))
    return math_verify.parse(f"\\boxed{{{text}}}", _EXTRACTION, parsing_timeout=None)


def _differ_relatively(gold: Any, answer: Any) -> bool:
    """
    Whether two numbers below a millionth differ by more than a ten-thousandth of themselves: math-verify rounds to six
    decimals, so that any of them would be the answer where 1.3e-27 is the gold.
    """
    if not all(isinstance(value, Expr) and value.is_number for value in (gold, answer)):
        return False
    a, b = gold.evalf(15), answer.evalf(15)
    return bool(a.is_comparable and b.is_comparable and 0 < abs(a) < 1e-6 and abs(a - b) > 1e-4 * abs(a))


@lru_cache(maxsize=256)  # the answers of a group have one gold
def _parse_gold(text: str) -> list:
    if re.search(r"(?<!\\)\$", text):  # a formula within a text
        return math_verify.parse(text, parsing_timeout=None)
    return _parse(text)
