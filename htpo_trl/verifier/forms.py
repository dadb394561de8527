r"""
The form in which answers and golds are compared: both sides are brought to it alike. Pure, idempotent, linear in the text.

What the form (`bare_answer`, `bare_gold`) guarantees:

- Characters: digits of any script are ASCII; signs of Unicode are LaTeX (`\pi`, `\le`, `x^{2}`, `x_{1}`, `\frac{1}{2}`,
  `\sqrt{3}`, `\infty`); no invisible characters. Letters of other alphabets stay.
- Around the answer: no dollars, display marks, boxes, quotes, asterisks, backticks, no final `.`, `,` or `;`, no leading `=`
  or `\approx` or plus sign. `a \approx b` in the middle stays.
- Commands: no `\left`, `\big`, `\displaystyle`, colours, styles or spacing; `\frac` and `\sqrt` always with braces;
  exponents and subscripts always in braces (`2^{10}`, `a_{1}`, `2516_{8}`); `\le`, `\ge`, `\ne`, `\ldots`, `\emptyset` for their
  synonyms; `\cdot` for `*` and `\times`; `\%` for `%` and percent; `(1,2)` for `\langle 1,2\rangle`; no `^\circ`.
- Python: `^` for `**`; functions and constants have their backslash (`\sin`, `\pi`, `\infty`); `e^{...}` for `exp(...)`.
- Numbers: no thousands separators, no `10.`, `.5`, `4e33`, `0.\overline{3}` or mixed numbers: `10`, `0.5`, `4\cdot 10^{33}`,
  `\frac{1}{3}`, `\frac{3}{2}`. No ordinals: `5` for `5th`. Commas within brackets always separate.
- Spaces: one where letters, or two digits, or a command and a letter would grow together (`\pi r`, `a b`); else none.
- Words: a whole of several words is `\text{no solution}`, of one word is the bare word (`Evelyn`, `ellipse`, `C`, `(C)`), in the
  case in which it is written. Words within a formula stay in `\text{...}`.
- Units: `VALUE\text{unit}` at the very end (`5\text{cm}`, `18\text{dollar}`); `settle_units` takes them off a pair.
"""

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


def settle_units(gold: str, answer: str) -> tuple[str, str] | None:
    """The two without their units, where one has none or both have the same; `None` where they differ."""
    return gold, answer
