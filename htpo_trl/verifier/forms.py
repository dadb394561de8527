r"""
The form in which answers and golds are compared: both sides are brought to it alike. Pure, idempotent, linear in the
text. What it guarantees:

- Characters: digits of any script are ASCII; signs of Unicode are LaTeX (`\pi`, `\le`, `x^{2}`, `x_{1}`, `\infty`,
  `\frac{1}{2}`, `\sqrt{3}`); nothing invisible. Letters of other alphabets stay.
- Around the answer: no dollars, display marks, boxes, quotes, asterisks, backticks, no final `.`, `,` or `;`, no
  leading `=`, `\approx` or plus sign. `a\approx b` in the middle stays.
- Commands: no `\left`, `\big`, `\displaystyle`, colours, styles or spacing; the arguments of `\frac` and `\sqrt`,
  exponents and subscripts always in braces (`2^{10}`, `a_{1}`, `2516_{8}`); `\le`, `\ge`, `\ne`, `\ldots`, `\emptyset`
  for their synonyms; `\cdot` for `*` and `\times`; `\%` for `%` and percent; `(1,2)` for `\langle 1,2\rangle`; no
  `^\circ`; `'` for `\prime`.
- Python: `^` for `**`; functions and constants have their backslash (`\sin`, `\pi`, `\infty`); `e^{x}` for `exp(x)`.
- Numbers: no thousands separators, no `10.`, `.5`, `4e33`, `0.\overline{3}` or mixed numbers: `10`, `0.5`,
  `4\cdot10^{33}`, `\frac{1}{3}`, `\frac{3}{2}`. No ordinals: `5` for `5th`. Commas within brackets always separate.
- Lists: `,` for `;`, and, or.
- Spaces: one where letters, or two digits, or a command and a letter would grow together (`\pi r`, `a b`); else none.
- Words: a whole of several words is `\text{no solution}`, of one word is the bare word (`Evelyn`, `ellipse`, `C`,
  `(C)`), in the case in which it is written. Words within a formula stay in `\text{...}`. Sentences (with is, are)
  stay as they are.
- Units: `VALUE\text{unit}` at the very end (`5\text{cm}`, `18\text{dollar}`); `quantities.settle_units` takes them off
  a pair.
"""

import re
from functools import lru_cache

from .characters import in_ascii
from .commands import WORDS, compact, plain_latex, plain_words
from .extraction import BOX, last_boxed
from .quantities import plain_numbers, unit_last, without_groups


_LONG = 16_000  # characters of a text whose form is not kept
# What is in its form: numbers and fractions are most answers, and need not be looked at twice.
_PLAIN = re.compile(r"-?(?:(?:0|[1-9]\d*)(?:\.\d+)?|\\frac\{\d+\}\{\d+\}|\d+/\d+)", re.ASCII)
_PAIRS = (
    *(("**", "**"), ("__", "__"), ("*", "*"), ("`", "`"), ('"', '"'), ("''", "''"), ("'", "'"), ("``", "''")),
    *((r"\(", r"\)"), (r"\[", r"\]"), ("$$", "$$"), ("$", "$")),
)
_LEADING = re.compile(
    r"(?:=|\\approx(?![A-Za-z])|~|\\(?:Right|right|Longright)arrow(?![A-Za-z])|\\therefore(?![A-Za-z])|\+(?=[\d.\\A-Za-z(])|:)\s*"
)
_BUILDER = re.compile(r"\A\\\{([A-Za-z])(?:\\in ?\\mathbb\{R\})?(?:\\mid ?|\||:)((?=.*\1)[^|:{}]+)\\\}\Z")
_INLINE = re.compile(r"(?<!\\)\\[()]")
_FORMULA = re.compile(r"(?<!\\)\$\$?([^$]+?)(?<!\\)\$\$?")
_CONNECTIVES = re.compile(r"[\s,.;]|\b(?:and|or|is|are)\b")
_NEGATION = re.compile(
    r"\b(?:not|never|nor|neither|\w+n[’']t|wrong|incorrect|or|either|instead|rather|than)\b", re.IGNORECASE
)
_PHRASE = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*(?:,? [^\W\d_]+(?:['-][^\W\d_]+)*){1,7}")
_ANNOUNCED = re.compile(r"\A\\text\{(?:the )?(?:final )?answer(?: is)?:?\}(?=.)", re.IGNORECASE)
_DATE = re.compile(
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December) "
    r"\d{1,2}(?:st|nd|rd|th)?"
)
_VERB = re.compile(r"(?<![^\W\d_])(?:is|are|was|were|we|get|gives)(?![^\W\d_])", re.IGNORECASE)
_INFINITE = {"positive infinity": "\\infty", "plus infinity": "\\infty", "negative infinity": "-\\infty"}
_INFINITE |= {"minus infinity": "-\\infty", "empty set": "\\emptyset", "the empty set": "\\emptyset"}


# --- What stands around an answer


def _peeled(text: str) -> str:
    """Without marks, quotes, final punctuation and leading signs around it, however they are nested."""
    start, end = 0, len(text)
    dollars = text.count("$") - text.count("\\$")
    while True:
        before = start, end
        while start < end and text[start].isspace():
            start += 1
        while end > start and (text[end - 1].isspace() or text[end - 1] in ".,;"):
            if text[end - 2 : end - 1] == "\\" or text[max(start, end - 3) : end] == "...":
                break
            end -= 1
        if leading := _LEADING.match(text, start, end):
            start = leading.end()
        for left, right in _PAIRS:
            if end - start < len(left) + len(right):
                continue
            if text.startswith(left, start) and text.endswith(right, start, end):
                if left[0] == "$":
                    if dollars != 2 * len(left) or text[end - len(right) - 1] == "\\":
                        continue
                    dollars = 0
                elif left[0] == "\\" and (left in text[start + 2 : end] or text[end - 3] == "\\"):
                    continue
                start, end = start + len(left), end - len(right)
                break
        if (start, end) == before:
            return text[start:end]


def _unwrapped(text: str) -> str:
    """Without braces around the whole."""
    layers, depth, least = 0, 0, len(text)
    while text[layers : layers + 1] == "{":
        layers += 1
    if not layers:
        return text
    for brace in re.finditer(r"\\.|([{}])", text):
        depth += {"{": 1, "}": -1}.get(brace[1] or "", 0)
        if brace.start() >= layers and brace.end() < len(text.rstrip("}")) + 1:
            least = min(least, depth)
    tail = len(text) - len(text.rstrip("}"))
    layers = min(layers, tail, max(least, 0)) if depth == 0 and not text.endswith("\\}") else 0
    return text[layers : len(text) - layers].strip()


def _formula(text: str) -> str:
    """The formula of a text with dollars: all of it, where the rest joins formulas; else the last one."""
    formulas = _FORMULA.findall(text)
    if not formulas:
        return text
    rest = _FORMULA.sub("", text)
    return text.replace("$", " ") if not _CONNECTIVES.sub("", rest) or _NEGATION.search(rest) else formulas[-1]


def _is_phrase(text: str) -> bool:
    """Whether a text is words alone, two or more of them that no formula holds, and no sentence."""
    if not _PHRASE.fullmatch(text) or _VERB.search(text):
        return False
    words = [word for word in re.split(r",? ", text) if len(word) > 1 and word not in ("and", "or")]
    return len(words) > 1 and not any(word in WORDS for word in words)


# --- The form


def bare_answer(answer: str) -> str:
    """The form of an answer."""
    answer = answer.strip()
    form = _form if len(answer) > _LONG else _known_form
    return answer if _PLAIN.fullmatch(answer) else form(answer)


def bare_gold(gold: str) -> str:
    """The form of a gold, which may also be a text with its answer in a box."""
    return bare_answer(unboxed(gold))


def unboxed(gold: str) -> str:
    """The answer within a gold: what its box holds, if it has one."""
    return (last_boxed(gold) or "") if BOX.search(gold) else gold


def _form(text: str) -> str:
    for _ in range(3):
        text, before = _formed_once(text), text
        if text == before:
            break
    return text


def _formed_once(text: str) -> str:
    text = _peeled(in_ascii(text))
    if _PLAIN.fullmatch(text):
        return text
    if "\\(" in text:
        text = _INLINE.sub("$", text)
    if "$" in text:
        text = _peeled(_formula(text))
    text = re.sub(r"\s+", " ", text)
    text = _INFINITE.get(text.lower(), text)
    if _is_phrase(text) or _DATE.fullmatch(text):
        return rf"\text{{{text}}}"
    text = _unwrapped(_peeled(_ANNOUNCED.sub("", plain_latex(without_groups(text)))))
    text = compact(plain_numbers(unit_last(plain_numbers(plain_words(text)))))
    text = _BUILDER.sub(r"\2", text.replace(r"\{\}", r"\emptyset"))
    if text in (r"\mathbb{R}", r"\text{all real numbers}", r"\text{all reals}"):
        return r"(-\infty,\infty)"
    whole = re.fullmatch(r"\\text\{([^{}\s]*)\}", text)
    return whole[1] if whole else text


_known_form = lru_cache(maxsize=1024)(_form)  # the answers of a group have one gold
