"""The form in which answers and golds are compared: both sides are brought to it alike. Linear in the text."""

import re

from .extraction import BOX, last_boxed


_MARKS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_SCIENTIFIC = re.compile(r"\A([-+]?\d{1,20}(?:\.\d{0,20})?)[eE]([-+]?\d{1,3})\Z", re.ASCII)


def bare_answer(answer: str) -> str:
    """The answer without the marks of a formula around it."""
    answer = answer.strip()
    for left, right in _MARKS:
        inner = answer[len(left) : -len(right)]
        if answer == left + inner + right and left not in inner.replace(r"\$", ""):
            return inner.strip()
    return answer


def bare_gold(gold: str) -> str:
    """The same for a gold, which may also be a text with its answer in a box."""
    return bare_answer((last_boxed(gold) or "") if BOX.search(gold) else gold)


def in_latex(number: str) -> str:
    """`4.5e33` as `4.5 \\times 10^{33}`, since e is Euler's number in LaTeX; other texts as they are."""
    return _SCIENTIFIC.sub(lambda match: f"{match[1]} \\times 10^{{{int(match[2])}}}", number)


def is_prose(gold: str) -> bool:
    """Whether a gold is a sentence, which math-verify would read as the product of its letters."""
    return not re.search(r"[\\\d$]", gold) and re.search(r"[^\W\d_]{2}\s+[^\W\d_]{2}", gold) is not None
