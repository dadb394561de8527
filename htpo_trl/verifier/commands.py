r"""LaTeX by one name for each command, and Python's notation in it. Linear in the text."""

# ruff: noqa: SIM905 - lists of words

import re


_FUNCTIONS = (
    "arcsin arccos arctan arccot sinh cosh tanh coth sin cos tan cot sec csc ln log lg det gcd max min"
).split()
_PYTHON = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "sgn": "operatorname{sgn}"}
#: Greek letters, by the names of their commands.
LETTERS = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi rho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega"
).split()
_INFINITIES = ("inf", "infty", "infinity", "Infinity", "oo", "Inf", "INF")
#: What Python and people write without a backslash, and its command.
WORDS = {name: name for name in (*_FUNCTIONS, *LETTERS)} | _PYTHON | dict.fromkeys(_INFINITIES, "infty")
WORDS |= {"sqrt": "sqrt", "exp": "exp", "cbrt": "sqrt[3]", "infty": "infty"}
_WORD = re.compile(r"(?<![\\A-Za-z_])([A-Za-z]{2,10})(?![A-Za-z])")
_JOINED = re.compile(r"(?<![\\A-Za-z\d])(\d*)(pi|sqrt|sin|cos|tan|ln|log)(?=[A-Za-z]?[\d(^/*]|[a-z]?\Z)")

_COMMAND = re.compile(r"\\([A-Za-z]+)\*?\s*|\\(.)|([{}])|([^\\{}]+)|(.)", re.DOTALL)
_SPACES = frozenset("quad qquad thinspace medspace thickspace enspace enskip space nobreakspace".split())
_GONE = frozenset(
    "left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr bigm middle displaystyle textstyle "
    "scriptstyle scriptscriptstyle limits nolimits rm bf it sf tt normalsize large Large small noindent negthinspace "
    "boldmath centering bfseries mleft mright strut hfill null checkmark".split()
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
# A command, and what is written for it, by the names of other commands.
_NAMED = {
    "frac": "dfrac tfrac cfrac",
    "binom": "tbinom dbinom",
    "le": "leq leqslant",
    "ge": "geq geqslant",
    "ne": "neq",
    "cdot": "times ast cdotp",
    "ldots": "dots cdots dotsc dotsb",
    "approx": "thickapprox simeq",
    "setminus": "backslash",
    "emptyset": "varnothing",
    "infty": "infin",
    "pi": "textpi",
    "vee": "lor",
    "wedge": "land",
    "mathbb{R}": "reals R",
    "mathbb{Z}": "Z",
    "mathbb{N}": "N",
    "mathbb{Q}": "Q",
    "^\\circ ": "degree degrees textdegree",
}
_SYNONYMS = {name: command for command, names in _NAMED.items() for name in names.split()}
_SYNONYMS |= {"lt": "<", "gt": ">", "div": "/", "colon": ":", "prime": "'", "cr": "\\\\", "textasciitilde": " "}
_SYNONYMS |= {"langle": "(", "lparen": "(", "lbrack": "[", "lbrace": "\\{", "lvert": "|", "vert": "|"}
_SYNONYMS |= {"rangle": ")", "rparen": ")", "rbrack": "]", "rbrace": "\\}", "rvert": "|", "percent": "\\%"}
_SYNONYMS |= {"dollar": "\\$", "textdollar": "\\$", "euro": "€", "pounds": "£", "yen": "¥"}
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
            plain = plain.replace("~", " ")
            out.append(plain if texts else plain.replace("%", "\\%"))
        elif symbol is not None:
            if symbol in ",:;> \n\t":
                out.append(" ")
            elif symbol in "{}|%$#&\\_[]()":
                out.append("\\" + symbol if symbol in "{}|%$&\\" else symbol)
                wanted = 0
            # else: \! \/ and other marks of no meaning
        elif name in _SPACES:
            out.append(" ")
        elif name is None or name in _GONE:
            continue
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
            end = max(1, len(rest) - len(rest.lstrip("0123456789")))
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
    r"\\text\{[^{}]*\}|(\\log ?_) ?(\d)|(\^)(\\frac ?\{[^{}]*\}\{[^{}]*\})"
    r"|([\^_]) ?(-?(?:\d+(?:\.\d+)?|[A-Za-z])|\\(?!frac|sqrt|text|circ|binom|math|vec|hat|bar|over)[A-Za-z]+ ?)"
)
_DEGREES = re.compile(r"\^(?:\{ ?\\circ ?\}|\\circ(?![A-Za-z]) ?|\{ ?o ?\}(?![A-Za-z]))")
_DEGREES_OF = re.compile(r"\\(sin|cos|tan|cot|sec|csc) ?[({]? ?(\d{1,9}(?:\.\d{1,9})?) ?[)}]? ?\^\\circ ?[)}]?")
_CHOOSE = re.compile(r"\{ ?(\w+) ?\\choose ?(\w+) ?\}")
_BRACED = re.compile(r"\{([:.=]?)\}(?<![A-Za-z}]\{\})")
_TEMPERATURE = re.compile(r"(?<=\d)\s?\^\\circ (?:\\text\{ ?([CFK])\w* ?\}|([CFK])(?![A-Za-z]))")
_JOINING = re.compile(r"\s*,?\s*(?:\\text\{ ?(?:and|or) ?\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*|\s*;\s*")
_NOT_EQUAL = re.compile(r"\\not\s*=")
_ROW_GAP = re.compile(r"\\\\\s*\[\s*-?[\d.]{1,9}\s*(?:pt|em|ex|mm|cm|in)\s*\]")
_UNIT_VECTOR = re.compile(r"\\(?:wide)?hat ?\{? ?(?:\\([ij])math|([ijk])) ?\}?(?![A-Za-z])")
_MODULE = re.compile(r"(?<![\\A-Za-z])(?:np|numpy|math|sp|sympy|cmath)\.(?=[a-z])")
_LOG = re.compile(r"(?<![\\A-Za-z])(?:(?:np|numpy|math)\.)?log(10|2)(?=\()")
_EXP = re.compile(r"\\exp ?\{")
_COMMAND_GAP = re.compile(r"(\\[A-Za-z]+) (?![A-Za-z])")
_PERCENT = re.compile(r"(?<=[\d}]) ?(?:\\text\{(?:percent|percentage|pct)\}|(?:percent|pct)(?![A-Za-z]))")
_HOUR = re.compile(r"\A(\d{1,2})(?::(\d\d))? ?(?:\\text\{)?([ap])\.? ?(?:\\text\{)?m\.?\}{0,2}\Z", re.IGNORECASE)
_AND = re.compile(r"\s*(?:\\text\{ ?and ?\}|\\wedge(?![A-Za-z])|(?<![A-Za-z\\])and(?![A-Za-z]))\s*")
_BOUND = re.compile(r"([^<>=,]{1,60}?)\s*(<|>|\\le(?![A-Za-z])|\\ge(?![A-Za-z]))\s*([^<>=,]{1,60})")
_LETTER = re.compile(r"[A-Za-z]")
_OR_OF_INTERVALS = re.compile(r"(?<=[)\]])\s*(?:\\text\{ ?or ?\}|or(?![A-Za-z]))\s*(?=[(\[])")
_LETTERED = re.compile(r"\A([A-J])\.(?=\s*[-\d\\])")  # B. 47
_MODULO = re.compile(
    r"(?:[a-zA-Z] ?\\equiv ?)?(-?\d{1,30}) ?\(?(?:\\[pb]?mod(?![A-Za-z])|\\text\{ ?mod ?\}|mod(?![A-Za-z])) ?"
    r"\{? ?(\d{1,30}) ?\}?\)?"
)
_OPEN_LEFT, _OPEN_RIGHT = re.compile(r"(\A|\\in ?|\\cup ?)\](?=[^,\]]{0,80},)"), re.compile(r"(?<=[^,])\[ ?(\Z|\\cup)")
_BASES = dict(zip("two three four five six seven eight nine ten eleven twelve".split(), range(2, 13), strict=True))
_BASE = re.compile(r"(?<=\d)_ ?(?:\{(?:\\text\{)?|\\text\{)(" + "|".join(_BASES) + r")\}{1,2}")
_GAP = re.compile(r"(?:(\\[A-Za-z]+)|([A-Za-z\d]))?\s+(?=(.)?)", re.DOTALL)
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


def _command(match: re.Match[str]) -> str:
    name = match[1]
    if name not in WORDS:
        return match[1]
    after = match.string[match.end() : match.end() + 2].lstrip()
    if name in _FUNCTIONS or name in _PYTHON:  # `sec` and `max` at the end are words
        return rf"\{WORDS[name]} " if after and (after[0].isalnum() or after[0] in "(\\{^_|") else name
    return rf"\{WORDS[name]} "


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
    is_kept = before and ((after.isalpha() and not before.isdigit()) or after.isdigit())
    return before + (" " if is_kept else "")


def plain_latex(text: str) -> str:
    """Each command by one name, without styling; functions, roots and powers of Python and plain writing in LaTeX."""
    text = _ROW_GAP.sub(r"\\\\ ", _NOT_EQUAL.sub(r"\\ne ", text))
    text = _UNIT_VECTOR.sub(r" \1\2", _tokens(text.replace("...", "\\ldots ").replace("**", "^")))
    text = _TEMPERATURE.sub(r"\\text{\1\2}", _DEGREES.sub(r"^\\circ ", _PRIME.sub("'", text)))
    text = _BRACED.sub(r"\1", _CHOOSE.sub(r"\\binom{\1}{\2}", _DEGREES_OF.sub(r"\\\1(\\frac{\2\\pi}{180})", text)))
    text = _LOG.sub(r"\\log_{\1}", text.replace("^\\circ ", " ").replace("*", "\\cdot "))
    return _SCRIPT.sub(_script, _called(_EXP.sub("e^{", _outside_text(_MODULE.sub("", text)))))


def _between(text: str) -> str:
    """`a<x<b` for `x>a and x<b`; other texts as they are."""
    if len(text) > 200 or len(parts := _AND.split(text)) != 2 or not all(map(_BOUND.fullmatch, parts)):
        return text
    bounds = {}
    for part in parts:
        left, sign, right = _BOUND.fullmatch(part).groups()  # type: ignore[union-attr]
        is_lower = (sign in ("<", r"\le")) == (_LETTER.fullmatch(right) is not None)
        name, bound = (right, left) if _LETTER.fullmatch(right) else (left, right)
        bounds[is_lower] = bound, {">": "<", r"\ge": r"\le"}.get(sign, sign) + " ", name
    if len(bounds) < 2 or bounds[True][2] != bounds[False][2] or _LETTER.fullmatch(bounds[True][0]):
        return text
    (low, sign, name), (high, other, _) = bounds[True], bounds[False]
    return f"{low}{sign}{name}{other}{high}"


def plain_words(text: str) -> str:
    """Commas for words that join, signs and digits for words that stand for them."""
    if "mod" in text and (modulo := _MODULO.fullmatch(text)):
        text = rf"{modulo[1]}\pmod{{{modulo[2]}}}"
    text = _LETTERED.sub(r"\1)", _between(text))
    if r"\infty" in text:
        text = _OR_OF_INTERVALS.sub(r"\\cup ", text)
    if ":" in text or text[-1:] in "m.}":
        text = _HOUR.sub(lambda hour: rf"{hour[1]}:{hour[2] or '00'}\text{{{hour[3].lower()}m}}", text)
    text = re.sub(r"\s+", " ", text)  # first: of many spaces `_JOINING` would try all parts
    text = _COMMAND_GAP.sub(r"\1", _JOINING.sub(",", text))
    if "]" in text or text[-1:] == "[":  # ]0,1[ is (0,1)
        text = _OPEN_RIGHT.sub(r")\1", _OPEN_LEFT.sub(r"\1(", text))
    return _PERCENT.sub(r"\%", _BASE.sub(lambda base: f"_{{{_BASES[base[1]]}}}", text))


def compact(text: str) -> str:
    """Without the spaces that hold nothing apart."""
    return _GAP.sub(_gap, text).strip()
