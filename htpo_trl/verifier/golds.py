r"""
Golds as they stand in a column of a data set, as text: one meaning for files, the Hub, rewards and evaluation.

| value | text |
| --- | --- |
| `18`, `18.0`, `np.int64(18)`, `"$18$."` | `18` |
| `"... <<9*2=18>>18\n#### 18"`, `"..., so \boxed{18}."`, `"...\nAnswer: 18"` | `18` |
| `[4, 5]`, `"['4', '5']"` | `4, 5` |
| `[[1, 2], [3, 4]]` | `(1, 2), (3, 4)` |
| `None`, NaN, infinity, `""`, `[]`, a mapping, a box that is never closed | none |
"""

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

from .extraction import BOX, extract_answer


#: What lists may be nested: a list of tuples of tuples.
MAX_DEPTH = 4
_AFTER_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*+([^\n#]*+)\Z")
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?", re.ASCII)
_SAID = re.compile(r"[^$\d]*\b(?:is|are|be|equals?|gets?|gives?|obtain|have)\s*+:?\s*+\$([^$]+)\$[\s.]*")
# A list of texts as Python, JSON or numpy write it. Without the quotes `[1, 2]` is an interval.
_QUOTED = r"""(?:'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+")"""
_LIST = re.compile(rf"[\[(]\s*+{_QUOTED}(?:\s*+,?\s*+{_QUOTED})*+\s*+,?\s*+[\])]", re.DOTALL)
_LIST_OF_ONE = re.compile(r"\[\s*(-?\d+(?:\.\d+)?)\s*\]", re.ASCII)
_SCIENTIFIC = re.compile(r"\A([-+]?\d{1,20}(?:\.\d{0,20})?)[eE]([-+]?\d{1,3})\Z", re.ASCII)
_BEYOND_WORDS = re.compile(r"[\\\d$]")
_TWO_WORDS = re.compile(r"[^\W\d_]{2}\s+[^\W\d_]{2}")
# Words outside of commands; these may stand between formulas.
_WORD = re.compile(r"(?<![\\\w])[^\W\d_]{2,}")
_COMMAND = re.compile(r"\\[a-zA-Z]+\*?(?:\{[^{}$]*\})?")
_WHOLE_TEXT = re.compile(r"\A\\(?:text|mathrm|mbox)\{([^{}]*)\}\Z")
_CONNECTIVES = {"and", "or"}


def gold_text(value: Any) -> str:
    """The text of a gold, a bare answer; empty where there is none."""
    return _text(value, MAX_DEPTH)


def is_missing(value: Any) -> bool:
    """Whether a row has no gold because it is of another task: `None`, or NaN, which some readers make of it."""
    return value is None or (isinstance(value, float) and value != value)


def gold_texts(values: Sequence[Any]) -> list[str]:
    """[`gold_text`] of each; of equal texts, such as those of a group's rows, once."""
    texts = {text: gold_text(text) for text in {value for value in values if isinstance(value, str)}}
    return [texts[value] if isinstance(value, str) else gold_text(value) for value in values]


def is_prose(form: str) -> bool:
    """Whether the form of a gold is but words, which math-verify would read as the product of their letters."""
    return not _BEYOND_WORDS.search(form) and _TWO_WORDS.search(form) is not None


def is_sentence(form: str) -> bool:
    """Whether the form of a gold is words, or has words before its number or formula, as `We get 18`."""
    if not _BEYOND_WORDS.search(form):
        return is_prose(form)
    text = _WHOLE_TEXT.sub(r"\1", form)
    if (number := _BEYOND_WORDS.search(text)) is None:
        return False
    before, words = _WORD.findall(text[: number.start()]), _WORD.findall(_COMMAND.sub(" ", text))
    return len(before) > 1 or len({*map(str.lower, words)} - _CONNECTIVES) > 4


def _text(value: Any, depth: int) -> str:
    if isinstance(value, str):
        return _of_text(value, depth)
    if hasattr(value, "tolist"):  # numpy's and torch's
        is_float32 = getattr(value, "ndim", 1) == 0 and str(getattr(value, "dtype", "")) in ("float32", "float16")
        value = float(str(value)) if is_float32 else value.tolist()  # .1, not .10000000149
    if isinstance(value, list | tuple):
        return _of_list(value, depth)
    if isinstance(value, bool | Fraction):
        return str(value)
    if isinstance(value, int):
        return str(value) if value.bit_length() < 10_000 else ""
    if isinstance(value, Decimal) and value.is_finite():
        return f"{value:f}" if abs(value.adjusted()) < 30 else _in_latex(str(value))
    if isinstance(value, float) and math.isfinite(value):
        return _in_latex(str(int(value) if abs(value) < 1e15 and value == int(value) else value))
    return ""


def _in_latex(number: str) -> str:
    """`4.5e33` as `4.5 \\times 10^{33}`, since e is Euler's number in LaTeX; other texts as they are."""
    return _SCIENTIFIC.sub(lambda match: f"{match[1]} \\times 10^{{{int(match[2])}}}", number)


def _of_list(values: Sequence[Any], depth: int) -> str:
    if not depth:
        return ""
    texts = [_text(value, depth - 1) for value in values]
    if not all(texts):
        return ""
    is_tuple = [isinstance(value, list | tuple) or (hasattr(value, "tolist") and value.ndim) for value in values]
    return ", ".join(f"({text})" if tuple_ else text for text, tuple_ in zip(texts, is_tuple, strict=True))


def _of_text(text: str, depth: int) -> str:
    for _ in range(MAX_DEPTH):  # a list in a box, a box after hashes: what load() has read is read by rewards again
        text, before = _once(text, depth), text
        if text == before:
            break
    return text


def _once(text: str, depth: int) -> str:
    text = _final(text.strip()).strip()
    if said := _SAID.fullmatch(text):
        text = said[1]
    text = re.sub(r"(?<!\\)\$", "", text)
    text = text.strip().rstrip(" .")
    if _LIST.fullmatch(text):
        return _of_list([_unquoted(quoted) for quoted in re.findall(_QUOTED, text, re.DOTALL)], depth)
    one = _LIST_OF_ONE.fullmatch(text)
    return _in_latex(one[1] if one else text)


def _final(text: str) -> str:
    """What a worked solution ends in: after `####`, in its last box, after `Answer:`. Other texts as they are."""
    if hashes := _AFTER_HASHES.search(text):
        answer = hashes[1].strip()
        return answer.replace(",", "") if _THOUSANDS.fullmatch(answer) else answer
    if (answer := extract_answer(text)) is not None:
        return answer.strip()
    return "" if BOX.search(text) else text


def _unquoted(text: str) -> str:
    """The content of quotes. Backslashes are those of LaTeX, but for one before another and before a quote."""
    return re.sub(r"\\([\\'\"])", r"\1", text[1:-1])
