"""Where the answer stands in a text. Linear in the text."""

import re
from collections import deque


BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_ANSWER_LINE = re.compile(r"\banswer[ \t*]*:[\s*]*([^\n]*)", re.IGNORECASE)


def extract_answer(completion: str) -> str | None:
    r"""
    The final answer of a completion: the content of its last `\boxed{}`, or the rest of its last line with `Answer:`,
    whichever starts later. `None` if there is neither, or if the last box is not closed (a truncated completion).
    """
    box, line = _last(BOX, completion), _last(_ANSWER_LINE, completion)
    if box is not None and (line is None or box.start() > line.start()):
        return last_boxed(completion)
    return line and line[1].rstrip(" \t\r*").removesuffix(".")


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{}` or `\fbox{}`; `None` if there is none, or if it is not closed."""
    if (box := _last(BOX, text)) is None:
        return None
    depth = 1
    for brace in _BRACE.finditer(text, box.end()):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[box.end() : brace.start()].strip()
    return None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)
