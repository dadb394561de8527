"""Numbers, units and currencies as people write them. Linear in the text."""

# ruff: noqa: SIM905 - lists of words

import re
from fractions import Fraction


_GROUPS = re.compile(
    r"(?P<open>[(\[]|\\\{)|(?P<close>[)\]]|\\\})"
    r"|(?P<marked>\d{1,3}(?:(?:\{,\}|,?\\!|\\,|(?<=\d)'(?=\d{3}))\s?\d{3})+(?!\d))"
    r"|(?P<spaced>(?<![\d.,^_{]\s)(?<![\d.,^_])\d{1,3}(?: \d{3})+(?![\d/]|\.\d{3} | \d))"
    r"|(?P<commas>(?<![\d.])\d+(?:,\d+)+)|(?P<underscores>(?<![\d.}])\d{1,3}(?:_\d{3})+(?!\d))"
)
_COMMAS = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+")
_LIST = re.compile(r",(?!\d{3}(?!\d)| )|(?<!\d),")
_SCIENTIFIC = re.compile(r"(?<![^,(\[{])([-+]?\d{1,20}(?:\.\d{0,20})?)\s?[eE]\s?([-+]?\d{1,3})(?![^,)\]}])", re.ASCII)
_MIXED = re.compile(
    r"(?<![\w.}^)\\])(\d{1,12})(?: ?\\frac\{(\d{1,12})\}\{(\d{1,12})\}| (\d{1,12})/(\d{1,12}))(?![\w/.^])"
)
_OVERLINED = re.compile(r"(?<![\d.])(\d{0,20})\.(\d{0,20})\\(?:overline|bar|overbar)\{(\d{1,20})\}(?!\d)")
_DOTTED = re.compile(r"(?<![\d.])(\d{0,20})\.(\d{0,20})\\dot\{(\d)\}(?:(\d{0,20})\\dot\{(\d)\})?(?!\d)")
_BRACKETED = re.compile(r"\A(-?)(\d{0,20})\.(\d{0,20})\((\d{1,20})\)\Z")
_CONTINUED = re.compile(r"\A(-?)(\d{0,20})\.(\d{0,20}?)((\d)\5{2,20}|(\d{2,9}?)\6{1,9})\s*\\ldots\Z")
_ORDINAL = re.compile(
    r"(?<=\d)\s?(?:\^\{(?:\\text\{)?(?:st|nd|rd|th)\}{1,2}|\\text\{(?:st|nd|rd|th)\}|(?:st|nd|rd|th)(?![A-Za-z]))"
)
_POINTS = re.compile(r"(?<![\w.}])(\.\d)|(?<=\d)\.(?![\d.])")
_SHORT = re.compile(
    r"\A(-?)(\d{1,15})(?:\.(\d{1,15}))? ?(?:\\text\{)?(thousand|million|billion|trillion)\}?\Z", re.IGNORECASE
)
_ZEROS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}


def without_groups(text: str) -> str:
    """Without what groups digits by three. A comma within brackets, or beside other commas, separates."""
    is_list = _LIST.search(text) is not None
    depth = 0

    def join(match: re.Match[str]) -> str:
        nonlocal depth
        run: str = match[0]
        if match.lastgroup in ("open", "close"):
            depth += 1 if match.lastgroup == "open" else -1
            return run
        if match.lastgroup == "commas" and (is_list or depth > 0 or not _COMMAS.fullmatch(run)):
            return run
        return re.sub(r"\D", "", run)

    return _GROUPS.sub(join, text)


def plain_numbers(text: str) -> str:
    """Decimals with digits on both sides of their point; ordinals, mixed numbers and repeating decimals as ratios."""
    text = _ORDINAL.sub("", text)
    text = _SHORT.sub(_written_out, text)
    text = _SCIENTIFIC.sub(lambda match: f"{match[1].rstrip('.')}\\cdot10^{{{int(match[2])}}}", text)
    if "\\" in text or text.endswith(")"):
        text = _OVERLINED.sub(lambda match: _repeating(match[1], match[2], match[3]), text)
        text = _DOTTED.sub(
            lambda m: _repeating(m[1], m[2], m[3] + (m[4] or "") + (m[5] or "")) if m[5] or not m[4] else m[0], text
        )
        text = _BRACKETED.sub(lambda match: match[1] + _repeating(match[2], match[3], match[4]), text)
        text = _CONTINUED.sub(lambda m: m[1] + _repeating(m[2], m[3], m[5] or m[6]), text)
    text = _POINTS.sub(lambda match: "0" + match[1] if match[1] else "", text)
    return _MIXED.sub(_improper, text)


def _written_out(match: re.Match[str]) -> str:
    sign, whole, decimals, zeros = match[1], match[2], match[3] or "", _ZEROS[match[4].lower()]
    digits = whole + decimals.ljust(zeros, "0")[:zeros]
    return f"{sign}{digits.lstrip('0') or '0'}" + (f".{decimals[zeros:]}" if decimals[zeros:] else "")


def _repeating(whole: str, start: str, period: str) -> str:
    shift, cycle = 10 ** len(start), 10 ** len(period) - 1
    value = int(whole or "0") + Fraction(int(start or "0"), shift) + Fraction(int(period), shift * cycle)
    return str(value) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _improper(match: re.Match[str]) -> str:
    whole, top, bottom = int(match[1]), int(match[2] or match[4]), int(match[3] or match[5])
    return rf"\frac{{{whole * bottom + top}}}{{{bottom}}}" if top < bottom and match[1] != "0" else match[0]


# --- Units

# A unit, and its other names in the singular.
_NAMES = dict(
    each.partition(": ")[::2]
    for each in (
        "m: meter metre; cm: centimeter centimetre; mm: millimeter millimetre; km: kilometer kilometre; "
        "dm: decimeter; nm: nanometer; Angstrom: angstrom; pc: parsec; in: inch inche; ft: foot feet; yd: yard; "
        "mi: mile; g: gram gm gramme; kg: kilogram kilo kilogramme; mg: milligram; lb: pound; oz: ounce; "
        "t: ton tonne; ms: millisecond; s: second sec; min: minute; h: hour hr; day; week; month; year: yr; "
        "L: liter litre; mL: milliliter millilitre ml; gal: gallon; acre; ha: hectare; km/h: kmh kph kmph; mi/h: mph; "
        "J: joule; kJ: kilojoule; eV: electronvolt; erg; N: newton; W: watt; kW: kilowatt; V: volt; A: ampere amp; "
        "ohm; Hz: hertz; kHz: kilohertz; MHz: megahertz; Pa: pascal; kPa; K: kelvin; C: celsius; F: fahrenheit; "
        "mol: mole; rad: radian; sr: steradian; deg: degree; bit; byte; unit; "
        "dollar: usd buck; cent; euro: eur; yen: jpy; rupee: inr rs; gbp; yuan: rmb cny"
    ).split("; ")
)
_UNITS = {name: unit for unit, names in _NAMES.items() for name in (unit, *names.split())}
_UNITS |= {name + "s": unit for name, unit in _UNITS.items() if len(name) > 1 and name not in ("rs", "ms", "min")}
_SIGNS = {"\\$": "dollar", "$": "dollar", "€": "euro", "£": "gbp", "¥": "yen", "₹": "rupee"}
_CURRENCY = re.compile(
    r"\A([-+]?)(?:(?:US|USD|CAD|AUD|HK|C|A)? ?(\\?\$|[€£¥₹])|(USD|EUR|GBP|JPY|INR|RMB|CNY|Rs\.?)) ?(?=[-\d.(\\])(-?)",
    re.IGNORECASE,
)
_PIECE = re.compile(
    r"\\text\{([^{}]*)\}|\\mu ?(?=m)|\^\{(-?\d)\}|\^(\d)|([A-Za-z]+)|(/)"
    r"|\\cdot|\\frac|\s+|(€|£|¥|₹|\\?\$)|\.(?=\s|\Z)|-"
)
_PLAIN = re.compile(r"-?(?:\d[\d.,]*|\\frac\{\d+\}\{\d+\}|\d+/\d+)\s*")
#: Words after a number that are no unit of it.
_NO_UNITS = frozenset(
    "mod and or if for where to of base r remainder thousand million billion trillion hundred dozen percent am pm a p "
    "times plus minus is not with when then than only is was are otherwise as by from at most least more less sin cos "
    "tan cot sec csc log ln lg exp sqrt pi theta arcsin arccos arctan sinh cosh tanh det gcd lcm max binom over "
    "pmod bmod infty infinity inf i x y z n k e factorial squared cubed".split()
)
_AREAS = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3"}
_IN_LIST = re.compile(r"(?<=[\d}]) ?\\text\{([^{}]{1,40})\}(?:\^\{?\d\}?)?(?=,)")
_TAIL = 80  # characters in which a unit is looked for
_UNIT = re.compile(r"(?s)(.+)\\text\{([^{}]{1,80})\}\Z")
_ONE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?(?:\\text\{ ?([A-Za-z]{1,12})\.? ?\}|([A-Za-z]{1,12}))")
_SEVERAL = re.compile(rf"{_ONE.pattern}(?:[ ,]{{0,3}}{_ONE.pattern}){{1,3}}")
_SEVERAL_FORM = re.compile(r"\\text\{\d[\d.]*[A-Za-z]+(?: \d[\d.]*[A-Za-z]+)+\}")
_LETTER_UNIT = re.compile(r"(-?(?:\d+(?:\.\d+)?|\\frac\{\d+\}\{\d+\})) ?([msghLNJKWVACF])")


def unit_last(text: str) -> str:
    r"""The text with its unit or currency as `\text{unit}` at the very end; without a noun of what is counted."""
    if parts := _several(text):
        return parts
    if found := _CURRENCY.match(text):
        currency = _SIGNS.get(found[2], "") or _UNITS.get((found[3] or "").lower().rstrip("."), "")
        rest = found[1].strip("+") + found[4] + text[found.end() :]
        if "\\$" not in rest and "," not in rest:
            inner = unit_last(rest)
            return inner if inner != rest else rf"{rest}\text{{{currency}}}"
        text = rest.replace(r"\$", "")
    if not _ends_in_unit(text):
        return text
    if "," in text:
        text = _IN_LIST.sub(lambda unit: "" if unit[1].strip() in _UNITS else unit[0], text)
    start = max(0, len(text) - _TAIL)
    pieces: list[re.Match[str]] = []  # of an unbroken run of pieces that ends with the text
    for piece in _PIECE.finditer(text, start):
        if pieces and piece.start() != pieces[-1].end():
            pieces = []
        pieces.append(piece)
    if not pieces or pieces[-1].end() != len(text):
        return text
    while pieces:
        value = text[: pieces[0].start()].rstrip()
        if (unit := _unit_of(pieces, value, text)) is not None:
            return value + (rf"\text{{{unit}}}" if unit else "")
        del pieces[0]
    return text


def _several(text: str) -> str | None:
    r"""`2 hours 30 minutes` as `\text{2h 30min}`."""
    if len(text) > 120 or not _SEVERAL.fullmatch(text):
        return None
    found = _ONE.findall(text)
    units = [_UNITS.get(in_text or word) for _, in_text, word in found]
    is_words = any(in_text or len(word) > 1 for _, in_text, word in found)  # 3m2s may be a product
    if None in units or len({*units}) < len(units) or not is_words:
        return None
    parts = (f"{number}{unit}" for (number, *_), unit in zip(found, units, strict=True))
    return rf"\text{{{' '.join(parts)}}}"


def _ends_in_unit(text: str) -> bool:
    return (
        bool(text) and (text[-1].isalpha() or text[-1] in "}.$€£¥₹23") and any(c.isdigit() or c == "\\" for c in text)
    )


def _unit_of(pieces: list[re.Match[str]], value: str, text: str) -> str | None:
    """The canonical unit that the pieces are, empty for a noun; `None` if they are none of the value."""
    first = pieces[0]
    if (
        not value
        or first[0].isspace()
        or value[-1] in "+-*/^=_(,<>|{[:&"
        or value.endswith(("\\cdot", "\\", "\\le", "\\ge"))
    ):
        return None
    if (first[4] and text[first.start() - 1].isalpha()) or not (
        first[1] or first[4] or first[6] or first[0].startswith("\\mu")
    ):
        return None
    written = "".join(_written(piece) for piece in pieces).split()
    in_text = all(piece[4] is None for piece in pieces)
    names, power, is_known = [], "", True
    for word in written:
        if word.lower() in _AREAS and word != written[-1]:
            power = _AREAS[word.lower()]
        elif word.lower() == "per":
            names.append("/")
        elif word.startswith("^-") and len(names) > 1:
            names[-1:] = ["/", names[-1] + ("" if word == "^-1" else f"^{word[2:]}")]
        elif word[0] in "^/":
            names.append(word)
        else:
            unit = _UNITS.get(word) or _UNITS.get(word.lower() if len(word) > 1 else word)
            is_known = is_known and unit is not None
            names.append((unit or word) + power)
            power = ""
    is_plain = _PLAIN.fullmatch(value) is not None
    if (
        names
        and is_known
        and names[0][0] not in "/^"
        and (in_text or len(written[0]) > 1 or (is_plain and len(names) > 2))
    ):
        known = re.sub(r" ?([/^]) ?", r"\1", " ".join(names))
        return "" if known.rstrip("0123456789^") in ("unit", "deg") else known
    words = [word for word in written if word[0] not in "^/"]
    if not is_plain or len(words) > 4 or any(word.lower().strip(".,") in _NO_UNITS for word in words):
        return None
    return (
        ""
        if words and all(len(word) > 2 and word.replace("-", "").isalpha() for word in words if word != "of")
        else None
    )


def _written(piece: re.Match[str]) -> str:
    if piece[1] is not None:
        spaced = re.sub(r"(\^|/)", r" \1", piece[1]).replace("/", "/ ")
        return " " + spaced.replace(".", " ").replace("\\cdot", " ") + " "
    if piece[2] or piece[3]:
        return f" ^{piece[2] or piece[3]} "
    return {"/": " / "}.get(
        piece[0], " " + _SIGNS.get(piece[0], piece[4] or ("micro" if "mu" in piece[0] else "")) + " "
    )


def settle_units(gold: str, answer: str) -> tuple[str, str] | None:
    """Two forms without their units, where one has none or both have the same; `None` where they differ."""
    if gold != answer and (_SEVERAL_FORM.fullmatch(gold) or _SEVERAL_FORM.fullmatch(answer)):
        return None
    if not (gold[-1:].isalpha() or gold[-1:] == "}" or answer[-1:].isalpha() or answer[-1:] == "}"):
        return gold, answer
    (a, unit), (b, other) = _split(gold), _split(answer)
    if (unit is not None and b.endswith("%")) or (other is not None and a.endswith("%")):
        return None
    if (
        other is None
        and (letter := _LETTER_UNIT.fullmatch(answer))
        and _PLAIN.fullmatch(a)
        and unit in (None, letter[2])
    ):
        b = letter[1]  # 5m for 5, or for 5 meters; but a gold of 5m is five times m
    return None if unit is not None and other is not None and unit != other else (a, b)


def _split(form: str) -> tuple[str, str | None]:
    if (found := _UNIT.fullmatch(form)) and (re.split("[ ^/]", found[2])[0] in _NAMES):
        return found[1], found[2]
    return form, None
