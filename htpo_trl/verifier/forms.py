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
- Numbers: no thousands separators, no `10.`, `.5`, `4e33`, `0.\overline{3}` or mixed numbers: `10`, `0.5`, `4\cdot10^{33}`,
  `\frac{1}{3}`, `\frac{3}{2}`. No ordinals: `5` for `5th`. Commas within brackets always separate.
- Lists: `,` for `;`, and, or.
- Spaces: one where letters, or two digits, or a command and a letter would grow together (`\pi r`, `a b`); else none.
- Words: a whole of several words is `\text{no solution}`, of one word is the bare word (`Evelyn`, `ellipse`, `C`, `(C)`), in the
  case in which it is written. Words within a formula stay in `\text{...}`.
- Units: `VALUE\text{unit}` at the very end (`5\text{cm}`, `18\text{dollar}`); `settle_units` takes them off a pair.
"""

import re
from functools import lru_cache

from .characters import in_ascii
from .extraction import BOX, last_boxed
from .quantities import plain_numbers, unit_last, without_groups


_PLAIN = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?", re.ASCII)
_SCIENTIFIC = re.compile(r"\A([-+]?\d{1,20}(?:\.\d{0,20})?)[eE]([-+]?\d{1,3})\Z", re.ASCII)
_PAIRS = (
    *(("**", "**"), ("__", "__"), ("*", "*"), ("`", "`"), ('"', '"'), ("''", "''"), ("'", "'"), ("``", "''")),
    *((r"\(", r"\)"), (r"\[", r"\]"), ("$$", "$$"), ("$", "$")),
)
_LEADING = re.compile(
    r"(?:=|\\approx(?![A-Za-z])|~|\\(?:Right|right|Longright)arrow(?![A-Za-z])|\\therefore(?![A-Za-z])|\+(?=[\d.\\A-Za-z(])|:)\s*"
)
_FORMULA = re.compile(r"(?<!\\)\$\$?([^$]+?)(?<!\\)\$\$?")
_CONNECTIVES = re.compile(r"[\s,.;]|\b(?:and|or|is|are)\b")

_FUNCTIONS = (
    "arcsin arccos arctan arccot sinh cosh tanh coth sin cos tan cot sec csc ln log lg det gcd max min"
).split()
_PYTHON = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "sgn": "operatorname{sgn}"}
_LETTERS = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi rho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
).split()
_INFINITIES = ("inf", "infty", "infinity", "Infinity", "oo", "Inf", "INF")
_WORDS = {name: name for name in (*_FUNCTIONS, *_LETTERS)} | _PYTHON | dict.fromkeys(_INFINITIES, "infty")
_WORDS |= {"sqrt": "sqrt", "exp": "exp", "cbrt": "sqrt[3]", "pm": "pm", "infty": "infty"}
_WORD = re.compile(r"(?<![\\A-Za-z_])([A-Za-z]{2,10})(10|2)?(?![A-Za-z])")
_JOINED = re.compile(r"(?<![\\A-Za-z\d])(\d*)(pi|sqrt|sin|cos|tan|ln|log)(?=[A-Za-z]?[\d(^/*]|[a-z]?\Z)")

_COMMAND = re.compile(r"\\([A-Za-z]+)\*?\s*|\\(.)|([{}])|([^\\{}]+)|(.)", re.DOTALL)
_SPACES = frozenset("quad qquad thinspace medspace thickspace enspace enskip space nobreakspace".split())
_GONE = frozenset(
    "left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr bigm middle displaystyle textstyle "
    "scriptstyle scriptscriptstyle limits nolimits rm bf it sf tt normalsize large Large small noindent negthinspace "
    "boldmath centering bfseries mleft mright strut hfill null".split()
)
_STYLES = frozenset(
    "mathbf mathit mathsf mathtt mathnormal boldsymbol bm pmb emph underline underbar uline boxed fbox framebox "
    "mathop mathrel mathbin ensuremath cancel bcancel mathclose mathopen".split()
)
_TEXTS = frozenset(
    "text textrm textbf textit textsf texttt textnormal textup textsc mbox hbox mathrm operatorname rm textmd".split()
)
_DROPPED = frozenset(
    "color textcolor hspace vspace phantom hphantom vphantom label tag mspace kern definecolor".split()
)
_SYNONYMS = {
    **{
        "dfrac": "frac",
        "tfrac": "frac",
        "cfrac": "frac",
        "leq": "le",
        "leqslant": "le",
        "geq": "ge",
        "geqslant": "ge",
    },
    **{
        "neq": "ne",
        "times": "cdot",
        "ast": "cdot",
        "cdotp": "cdot",
        "dots": "ldots",
        "cdots": "ldots",
        "dotsc": "ldots",
    },
    **{
        "varnothing": "emptyset",
        "dotsb": "ldots",
        "lor": "vee",
        "land": "wedge",
        "tbinom": "binom",
        "dbinom": "binom",
    },
    **{"infin": "infty", "thickapprox": "approx", "simeq": "approx", "backslash": "setminus", "lt": "<", "gt": ">"},
    **{"lbrace": "\\{", "rbrace": "\\}", "lbrack": "[", "rbrack": "]", "langle": "(", "rangle": ")", "vert": "|"},
    **{
        "lvert": "|",
        "rvert": "|",
        "mid": "mid",
        "degree": "^\\circ ",
        "degrees": "^\\circ ",
        "textdegree": "^\\circ ",
    },
    **{"textpi": "pi", "dollar": "\\$", "textdollar": "\\$", "percent": "\\%", "prime": "'", "colon": ":", "div": "/"},
    **{
        "lparen": "(",
        "rparen": ")",
        "euro": "€",
        "pounds": "£",
        "yen": "¥",
        "textasciitilde": " ",
        "arcsec": "arcsec",
    },
}
_ARGUMENTS = {"frac": 2, "sqrt": 1, "binom": 2}


def _tokens(text: str) -> str:
    """Commands by one name each, styling and spacing gone, arguments in braces, words in `\\text`."""
    out: list[str] = []
    frames: list[tuple[str, int, int]] = []  # kind, start in `out`, arguments that are still to come
    wanted, opening, texts = 0, "group", 0
    for token in _COMMAND.finditer(text):
        name, symbol, brace, plain, _ = token.groups()
        if brace == "{":
            kind = "style" if opening == "text" and texts else opening
            texts += kind == "text"
            frames.append((kind, len(out), wanted - (opening == "group" and wanted > 0)))
            if kind == "group":
                out.append("{")
            wanted, opening = 0, "group"
        elif brace:
            kind, start, wanted = frames.pop() if frames else ("group", 0, 0)
            if kind == "group":
                out.append("}")
            elif kind == "text":
                texts -= 1
                content = "".join(out[start:])
                del out[start:]
                out.append(_text(content, out[-1][-1:] if out else ""))
            elif kind == "dropped":
                del out[start:]
        elif plain is not None:
            if opening != "group" and plain.strip():
                opening = "group"
            if wanted:
                plain, wanted = _arguments(plain, wanted)
            out.append(plain if texts else plain.replace("~", " ").replace("%", "\\%"))
        elif symbol is not None:
            if symbol in ",:;> \n\t/":
                out.append(" " if symbol != "/" else "")
            elif symbol in "{}|%$#&\\_[]()":
                out.append("\\" + symbol if symbol in "{}|%$&\\" else symbol)
                wanted = 0
            # else: \! and other marks of no meaning
        elif name is None:
            continue
        elif name in _SPACES:
            out.append(" ")
        elif name in _GONE:
            if name == "left" or name == "right":
                pass
        elif name in _STYLES or name in _TEXTS or name in _DROPPED:
            opening = "style" if name in _STYLES else "text" if name in _TEXTS else "dropped"
        else:
            name = _SYNONYMS.get(name, name)
            if not name[0].isalpha():
                out.append(name)
                continue
            braced = wanted and name not in _ARGUMENTS
            out.append(f"{{\\{name}}}" if braced else f"\\{name} ")
            wanted = wanted - 1 if braced else _ARGUMENTS.get(name, 0)
    return "".join(out)


def _arguments(plain: str, wanted: int) -> tuple[str, int]:
    r"""`12` after \frac as `{1}{2}`; also how many arguments are still wanted."""
    done = []
    while wanted and (rest := plain.lstrip()):
        if rest[0] == "[" and "]" in rest:  # the degree of a root
            done.append(rest[: rest.index("]") + 1])
            plain = rest[rest.index("]") + 1 :]
            continue
        if not rest[0].isalnum():
            return "".join(done) + plain, 0
        end = 1
        if len(rest) < len(plain) and wanted == 1:
            end = max(1, len(re.match(r"\d*", rest)[0]))
        done.append(f"{{{rest[:end]}}}")
        plain, wanted = rest[end:], wanted - 1
    return "".join(done) + plain, wanted


def _text(content: str, before: str) -> str:
    r"""What a `\text{...}` holds, after the character `before`: a formula, a letter or words."""
    bare = content.strip()
    if not any(map(str.isalpha, bare)):
        return content
    if bare in _FUNCTIONS and not before.isdigit():
        return f"\\{bare} "
    if re.fullmatch(r"\(?[A-Za-z]\)?[.:)]?", bare) and not (before.isdigit() or before in ("}", ")", " ")):
        return bare
    if "=" in bare or bare[0] in "0123456789-$\\":
        return content
    return f"\\text{{{' '.join(bare.replace('{', '').replace('}', '').split())}}}"


# --- Arguments in round brackets, words of Python, exponents

_CALL = re.compile(r"(\\?sqrt(?:\[\d\])?\s*|\^\s*|(?<![A-Za-z])\\?exp\s*)?\(|(\))")
_SCRIPT = re.compile(
    r"\\text\{[^{}]*\}|(\\log ?_) ?(\d)|(\^)(\\frac ?\{[^{}]*\}\{[^{}]*\})|([\^_]) ?(-?(?:\d+(?:\.\d+)?|[A-Za-z])|\\(?!frac|sqrt|text|circ|binom|math|vec|hat|bar|over)[A-Za-z]+ ?)"
)
_DEGREES = re.compile(r"\^(?:\{ ?\\circ ?\}|\\circ(?![A-Za-z]) ?|\{ ?o ?\}(?![A-Za-z]))")
_TEMPERATURE = re.compile(r"(?<=\d)\s?\^\\circ (?:\\text\{ ?([CFK])\w* ?\}|([CFK])(?![A-Za-z]))")
_JOINING = re.compile(r"\s*,?\s*(?:\\text\{ ?(?:and|or) ?\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*|\s*;\s*")
_MODULE = re.compile(r"(?<![\\A-Za-z])(?:np|numpy|math|sp|sympy|cmath)\.(?=[a-z])")
_EXP = re.compile(r"\\exp ?\{")
_COMMAND_GAP = re.compile(r"(\\[A-Za-z]+) (?![A-Za-z])")
_PERCENT = re.compile(r"(?<=[\d}]) ?(?:\\text\{(?:percent|percentage|pct)\}|(?:percent|pct)(?![A-Za-z]))")
_BASES = dict(zip("two three four five six seven eight nine ten eleven twelve".split(), range(2, 13), strict=True))
_BASE = re.compile(r"(?<=\d)_ ?\{(?:\\text\{)?(" + "|".join(_BASES) + r")\}{1,2}")
_INFINITE = {"positive infinity": "\\infty", "plus infinity": "\\infty", "negative infinity": "-\\infty"}
_INFINITE |= {"minus infinity": "-\\infty"}
_GAP = re.compile(r"(?:(\\[A-Za-z]+)|([A-Za-z\d]))?\s+(?=(.)?)", re.DOTALL)
_PHRASE = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*(?:,? [^\W\d_]+(?:['-][^\W\d_]+)*){1,7}")
_VERB = re.compile(r"(?<![^\W\d_])(?:is|are|was|were|we|get|gives)(?![^\W\d_])", re.IGNORECASE)
_PRIME = re.compile(r"\^\{\s*(?:(?:\\prime|')\s*)+\}|\^\\prime(?![A-Za-z])|\^(?=')")


def _called(text: str) -> str:
    r"""`sqrt(x)` as `\sqrt{x}`, `2^(x)` as `2^{x}`, `exp(x)` as `e^{x}`; as it is where a bracket is missing."""
    closers: list[str] = []

    def swap(match: re.Match[str]) -> str:
        if match[2]:
            return closers.pop() if closers else ")"
        head = (match[1] or "").strip().removeprefix("\\")
        closers.append("}" if head else ")")
        return {"": "(", "^": "^{", "exp": "e^{"}.get(head, f"\\{head}{{")

    called = _CALL.sub(swap, text)
    return text if "}" in closers else called


def _is_phrase(text: str) -> bool:
    """Whether a text is words alone, two or more of them that no formula holds, and no sentence."""
    if not _PHRASE.fullmatch(text) or _VERB.search(text):
        return False
    words = [word for word in re.split(r",? ", text) if len(word) > 1 and word not in ("and", "or")]
    return len(words) > 1 and not any(word in _WORDS for word in words)


def _command(match: re.Match[str]) -> str:
    name = match[1]
    if name == "log" and match[2]:
        return rf"\log_{{{match[2]}}} "
    if name not in _WORDS or match[2]:
        return match[1] + (match[2] or "")
    after = match.string[match.end() : match.end() + 2].lstrip()
    if name in _FUNCTIONS or name in _PYTHON:  # `sec` and `max` at the end are words
        return rf"\{_WORDS[name]} " if after and (after[0].isalnum() or after[0] in "(\\{^_|") else name
    return rf"\{_WORDS[name]}" + ("" if after[:1] in ("(", "{", "[") else " ")


def _outside_text(text: str) -> str:
    r"""Words of Python and plain writing as commands, but for those within a `\text`."""
    parts = re.split(r"(\\text\{[^{}]*\})", text)
    parts[::2] = [_WORD.sub(_command, _JOINED.sub(r"\1\\\2 ", part)) for part in parts[::2]]
    return "".join(parts)


def _script(match: re.Match[str]) -> str:
    mark, script = match[1] or match[3] or match[5], match[2] or match[4] or match[6]
    return f"{mark}{{{script.strip()}}}" if mark else match[0]


def _gap(match: re.Match[str]) -> str:
    command, before, after = match[1], match[2] or "", match[3] or ""
    if command:
        return command + (" " if after.isalpha() else "")
    is_kept = before and (after.isalpha() and not before.isdigit() or after.isdigit())
    return before + (" " if is_kept else "")


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
    return text.replace("$", " ") if not _CONNECTIVES.sub("", rest) else formulas[-1]


# --- The form


def bare_answer(answer: str) -> str:
    """The form of an answer."""
    answer = answer.strip()
    return answer if _PLAIN.fullmatch(answer) else _form(answer)


def bare_gold(gold: str) -> str:
    """The form of a gold, which may also be a text with its answer in a box."""
    return bare_answer((last_boxed(gold) or "") if BOX.search(gold) else gold)


@lru_cache(maxsize=1024)  # the answers of a group have one gold
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
    if "$" in text:
        text = _peeled(_formula(text))
    text = re.sub(r"\s+", " ", text)
    text = _INFINITE.get(text.lower(), text)
    if _is_phrase(text):
        return rf"\text{{{text}}}"
    text = without_groups(text).replace("...", "\\ldots ").replace("**", "^")
    text = _tokens(text)
    text = _TEMPERATURE.sub(r"\\text{\1\2}", _DEGREES.sub(r"^\\circ ", _PRIME.sub("'", text)))
    text = text.replace("^\\circ ", " ").replace("*", "\\cdot ")
    text = _called(_EXP.sub("e^{", _outside_text(_MODULE.sub("", text))))
    text = _unwrapped(_peeled(_SCRIPT.sub(_script, text)))
    text = _COMMAND_GAP.sub(r"\1", re.sub(r"\s+", " ", _JOINING.sub(",", text)))
    text = _PERCENT.sub(r"\%", _BASE.sub(lambda base: f"_{{{_BASES[base[1]]}}}", text))
    text = _GAP.sub(_gap, plain_numbers(unit_last(plain_numbers(text)))).strip()
    text = text.replace(r"\{\}", r"\emptyset")
    whole = re.fullmatch(r"\\text\{([^{}\s]*)\}", text)
    return whole[1] if whole else text


def in_latex(number: str) -> str:
    """`4.5e33` as `4.5 \\times 10^{33}`, since e is Euler's number in LaTeX; other texts as they are."""
    return _SCIENTIFIC.sub(lambda match: f"{match[1]} \\times 10^{{{int(match[2])}}}", number)


def is_prose(gold: str) -> bool:
    """Whether a gold is a sentence, which math-verify would read as the product of its letters."""
    return not re.search(r"[\\\d$]", gold) and re.search(r"[^\W\d_]{2}\s+[^\W\d_]{2}", gold) is not None
