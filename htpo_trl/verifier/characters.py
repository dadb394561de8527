"""Characters beyond ASCII, in LaTeX. Linear in the text."""

import re
import unicodedata

from .commands import LETTERS


_SIGNS = {
    r"\cdot ": "⋅·∙•∗",
    r"\times ": "×⨯",
    "/": "÷⁄∕",
    "-": "−–—‒‐‑﹣",
    r"\pm ": "±",
    r"\mp ": "∓",
    r"\le ": "≤⩽≦",
    r"\ge ": "≥⩾≧",
    r"\ne ": "≠",
    r"\approx ": "≈≅≃",
    r"\infty ": "∞",
    r"\in ": "∈",
    r"\notin ": "∉",
    r"\cup ": "∪",
    r"\cap ": "∩",
    r"\setminus ": "∖",
    r"\subset ": "⊂",
    r"\subseteq ": "⊆",
    r"\emptyset ": "∅⌀",
    r"^\circ ": "°º˚",
    "'": "′’‘‛´",
    "''": "″",
    '"': "“”„«»",
    r"\to ": "→",
    r"\Rightarrow ": "⇒",
    r"\therefore ": "∴",
    r"\angle ": "∠",
    r"\triangle ": "△",
    r"\perp ": "⊥",
    r"\parallel ": "∥",
    "(": "⟨〈",
    ")": "⟩〉",
    r"\lfloor ": "⌊",
    r"\rfloor ": "⌋",
    r"\lceil ": "⌈",
    r"\rceil ": "⌉",
    r"\mathbb{R}": "ℝ",
    r"\mathbb{Z}": "ℤ",
    r"\mathbb{Q}": "ℚ",
    r"\mathbb{N}": "ℕ",
    r"\mathbb{C}": "ℂ",
    r"\ldots ": "…⋯",
    r"\int ": "∫",
    r"\sum ": "∑",
    r"\prod ": "∏",
    r"\neg ": "¬",
    "|": "∣",
    ".": "。٫",
    ",": "、٬",
    r"\Delta ": "∆",
    r"\ell ": "ℓ",
    r"\hbar ": "ℏ",
    r"\partial ": "∂",
    r"\nabla ": "∇",
    r"\forall ": "∀",
    r"\phi ": "ϕ",
    r"\epsilon ": "ϵ",
    "€": "€",
}
_SUPERSCRIPT, _SUBSCRIPT, _OVERLINE = "\ue000", "\ue001", "\ue002"  # of private use: nobody's text keeps them
_SCRIPTS = re.compile(f"(?:{_SUPERSCRIPT}[^{_SUPERSCRIPT}])+|(?:{_SUBSCRIPT}[^{_SUBSCRIPT}])+")
_ROOT = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?|[A-Za-z](?![A-Za-z]))?")
_DEGREES = {"√": "", "∛": "[3]", "∜": "[4]"}
_OVERLINED = re.compile(f"(?:[0-9]{_OVERLINE})+")
_ENTITY = re.compile(r"&(lt|gt|le|ge|ne|nbsp|times|minus|pi|infin|deg|middot|plusmn|radic|sup2|sup3|frac12|amp);")
_ENTITIES = {
    **{"lt": "<", "gt": ">", "le": "≤", "ge": "≥", "ne": "≠", "nbsp": " ", "times": "×", "minus": "-", "pi": "π"},
    **{"infin": "∞", "deg": "°", "middot": "·", "plusmn": "±", "radic": "√", "sup2": "²", "sup3": "³", "frac12": "½"},
    "amp": "&",
}
_TAG = re.compile(r"<(su[pb])>([^<>]{1,40})</su[pb]>")


class _Table(dict[int, str]):
    """What stands for a character, for `str.translate`: found when it is first met."""

    def __missing__(self, code: int) -> str:
        replacement = _in_latex(chr(code))
        if len(self) < 10_000:  # not all of Unicode, should somebody send it
            self[code] = replacement
        return replacement


def _in_latex(character: str) -> str:
    category = unicodedata.category(character)
    if character.isascii():
        return character if category != "Cc" or character in "\t\n\r" else ""
    if character in "\u0304\u0305":
        return _OVERLINE
    if category[0] == "C" or (category == "Mn" and 0xFE00 <= ord(character) <= 0xFE0F) or character == "\u3164":
        return ""
    if category[0] == "Z":
        return " "
    if category == "Nd":
        return str(unicodedata.decimal(character))
    kind, _, points = unicodedata.decomposition(character).partition("> ")
    if kind in ("<super", "<sub"):
        mark = _SUPERSCRIPT if kind == "<super" else _SUBSCRIPT
        plain = "".join(chr(int(point, 16)) for point in points.split()).translate(_TABLE)
        return "".join(mark + c for c in plain)
    if kind == "<fraction":
        top, _, bottom = unicodedata.normalize("NFKC", character).partition("\u2044")
        return rf"\frac{{{top}}}{{{bottom}}}" if bottom else character
    name = unicodedata.name(character, "")
    if greek := re.fullmatch(r"(?:MATHEMATICAL [A-Z -]*?|GREEK )(SMALL|CAPITAL)(?: LETTER)? ([A-Z]+)", name):
        letter = greek[2].lower().replace("lamda", "lambda")
        letter = {"final sigma": "sigma", "omicron": "o"}.get(letter, letter)
        if greek[1] == "SMALL" and letter in LETTERS:
            return rf"\{letter} "
        if greek[1] == "CAPITAL" and letter.capitalize() in LETTERS:
            return rf"\{letter.capitalize()} "
    plain = unicodedata.normalize("NFKC", character)
    return plain if plain == character else plain.translate(_TABLE)


_TABLE = _Table({ord(c): latex for latex, characters in _SIGNS.items() for c in characters})
_TABLE.update({ord(c): c for c in "√∛∜"})


def in_ascii(text: str) -> str:
    """The text with LaTeX for signs, digits, spaces and scripts of Unicode; letters of other alphabets stay."""
    if "&" in text:
        text = _ENTITY.sub(lambda entity: _ENTITIES[entity[1]], text)
    if "<su" in text:
        text = _TAG.sub(lambda tag: ("^{" if tag[1] == "sup" else "_{") + tag[2] + "}", text)
    if text.isascii():
        return text if text.isprintable() else text.translate(_TABLE)
    text = text.translate(_TABLE)
    text = _OVERLINED.sub(lambda run: rf"\overline{{{run[0].replace(_OVERLINE, '')}}}", text).replace(_OVERLINE, "")
    text = _SCRIPTS.sub(lambda run: ("^" if run[0][0] == _SUPERSCRIPT else "_") + f"{{{run[0][1::2]}}}", text)
    return _ROOT.sub(lambda root: rf"\sqrt{_DEGREES[root[1]]}" + (f"{{{root[2]}}}" if root[2] else ""), text)
