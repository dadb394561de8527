"""The comparisons that need no computer algebra, by exact arithmetic. Linear in the text."""

import re
from fractions import Fraction
from itertools import accumulate


_FRACTION = re.compile(r"\A(-?)\\[dt]?frac\{(\d{1,12})\}\{(\d{1,12})\}\Z", re.ASCII)
_NUMBER = re.compile(
    r"-?(?:(?:0|[1-9]\d{0,11}|[1-9]\d{0,2}(?:,\d{3}){1,3})(?:\.\d{1,12})?|\d{1,12}/(?!0+\Z)\d{1,12})", re.ASCII
)


def compare_plainly(gold: str, answer: str) -> bool | None:
    """
    Whether a bare answer is the gold, where both are integers, decimals (with thousands commas) or ratios of integers,
    or are the same text; else `None`. Where it decides, math-verify decides the same.
    """
    if gold == answer and _is_regular(gold):
        return True
    a, b = _number(gold), _number(answer)
    if a is None or b is None or 0 < abs(a - b) < 1e-5:  # math-verify rounds decimals to six places
        return None
    return a == b


def _is_regular(text: str) -> bool:
    """Whether math-verify takes a text for equal to itself: there is something to read, and nothing ends its box."""
    depths = accumulate({"{": 1, "}": -1}.get(character, 0) for character in text)
    has_digit = any(map(str.isdigit, text))
    return text.isascii() and has_digit and "$" not in text and "box" not in text and min(depths) >= 0


def _number(text: str) -> Fraction | None:
    """An integer, decimal or ratio of integers."""
    text = _FRACTION.sub(r"\1\2/\3", text)
    return Fraction(text.replace(",", "")) if _NUMBER.fullmatch(text) else None
