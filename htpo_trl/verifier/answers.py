"""Where the answer stands in a text, and the comparisons that need no computer algebra. All linear in the text."""

import re
from collections import deque
from fractions import Fraction
from itertools import accumulate


_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_ANSWER_LINE = re.compile(r"\banswer[ \t*]*:[\s*]*([^\n]*)", re.IGNORECASE)
_MARKS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_SCIENTIFIC = re.compile(r"\A([-+]?\d{1,20}(?:\.\d{0,20})?)[eE]([-+]?\d{1,3})\Z", re.ASCII)
_FRACTION = re.compile(r"\A(-?)\\[dt]?frac\{(\d{1,12})\}\{(\d{1,12})\}\Z", re.ASCII)
_NUMBER = re.compile(
    r"-?(?:(?:0|[1-9]\d{0,11}|[1-9]\d{0,2}(?:,\d{3}){1,3})(?:\.\d{1,12})?|\d{1,12}/(?!0+\Z)\d{1,12})", re.ASCII
)


def extract_answer(completion: str) -> str | None:
    r"""
    The final answer of a completion: the content of its last `\boxed{}`, or the rest of its last line with `Answer:`,
    whichever starts later. `None` if there is neither, or if the last box is not closed (a truncated completion).
    """
    box, line = _last(_BOX, completion), _last(_ANSWER_LINE, completion)
    if box is not None and (line is None or box.start() > line.start()):
        return last_boxed(completion)
    return line and line[1].rstrip(" \t\r*").removesuffix(".")


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{}` or `\fbox{}`; `None` if there is none, or if it is not closed."""
    if (box := _last(_BOX, text)) is None:
        return None
    depth = 1
    for brace in _BRACE.finditer(text, box.end()):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[box.end() : brace.start()].strip()
    return None


def bare_answer(answer: str) -> str:
    """The answer without the marks of a formula around it."""
    answer = answer.strip()
    for left, right in _MARKS:
        inner = answer[len(left) : -len(right)]
        if answer == left + inner + right and left not in inner.replace(r"\$", ""):
            return inner.strip()
    return answer


def in_latex(number: str) -> str:
    """`4.5e33` as `4.5 \\times 10^{33}`, since e is Euler's number in LaTeX; other texts as they are."""
    return _SCIENTIFIC.sub(lambda match: f"{match[1]} \\times 10^{{{int(match[2])}}}", number)


def bare_gold(gold: str) -> str:
    """The same for a gold, which may also be a text with its answer in a box."""
    return bare_answer((last_boxed(gold) or "") if _BOX.search(gold) else gold)


def gold_text(solution: object) -> str:
    """A gold as it stands in a column of a data set, where it may be a number or missing, as text."""
    return "" if solution is None else str(solution)


def is_prose(gold: str) -> bool:
    """Whether a gold is a sentence, which math-verify would read as the product of its letters."""
    return not re.search(r"[\\\d$]", gold) and re.search(r"[^\W\d_]{2}\s+[^\W\d_]{2}", gold) is not None


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


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)


def _number(text: str) -> Fraction | None:
    """An integer, decimal or ratio of integers."""
    text = _FRACTION.sub(r"\1\2/\3", text)
    return Fraction(text.replace(",", "")) if _NUMBER.fullmatch(text) else None
