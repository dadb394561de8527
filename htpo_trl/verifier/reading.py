"""
What kind of answer a text is: a number or expression, a set, a tuple, an equation, a word, a choice, ... Within bounds
and linear, since it happens in the trainer's process: nothing of a text is evaluated but arithmetic.
"""

import re
from collections.abc import Container, Iterator
from functools import lru_cache
from typing import NamedTuple

from .expressions import Expression
from .functions import is_product
from .values import E, UndecidedError, Value, letter, number, start_work


MAX_LENGTH, MAX_DEPTH = 1000, 20
_TOKEN = re.compile(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+|\\[A-Za-z]+|[^\W\d_]+|\\.|\S", re.DOTALL)
_SAME = {
    **{
        r"\cdot": "*",
        r"\%": "%",
        r"\vert": "|",
        r"\lvert": "|",
        r"\rvert": "|",
        r"\prime": "'",
        r"\lt": "<",
        r"\gt": ">",
    },
}
_OPENING = frozenset(("(", "[", "{", r"\{", r"\lfloor", r"\lceil", r"\begin"))
_CLOSING = frozenset((")", "]", "}", r"\}", r"\rfloor", r"\rceil", r"\end"))
RELATIONS = ("=", "<", ">", r"\le", r"\ge", r"\in", r"\approx")
_TEXT = re.compile(r"\\(?:text|mbox|mathrm|textrm|textbf|textit|mathbf|mathit|operatorname|boldsymbol)\s*\{([^{}]*)\}")
_CLOCK = re.compile(r"(\d{1,2})(?::(\d\d))?(?::(\d\d))?\s*(?:\\?([ap])\.?\s?m\b\.?)?", re.ASCII | re.IGNORECASE)
_BASE = re.compile(r"\(?([0-9A-Fa-f]+)\)?_(?:\{\(?(\w+)\)?\}|(\d+))", re.ASCII)
_NUMBER_OF = {
    **{"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9},
    **{"ten": 10, "eleven": 11, "twelve": 12, "sixteen": 16},
}
INFINITY = r"\infty"
_SIGNS = (r"\pm", r"\mp")
_WITHIN_WORDS = ("-", "'", ".")
# What follows a letter in brackets that is no choice: (A)+1.
_NO_VALUE = frozenset(("+", "-", "*", "/", "^", "_", "!", "'", ",", ")", "(", "and", "or", r"\cup", *RELATIONS))


class Kind(NamedTuple):
    """An answer that is not one value: its kind, its parts, and what else tells two of the kind apart."""

    name: str
    parts: tuple = ()
    marks: tuple = ()


Answer = Value | Kind


def read(text: str) -> tuple[Answer, ...]:
    """The readings of a text: one, two where `f(x)` may be a product or the value of a function, none if undecided."""
    try:
        return _read(text)
    except UndecidedError:
        return ()


read_gold = lru_cache(maxsize=4096)(read)


def _read(text: str) -> tuple[Answer, ...]:
    if len(text) > MAX_LENGTH:
        raise UndecidedError
    if (clock := _CLOCK.fullmatch(bare := _TEXT.sub(r" \1 ", text).replace("{:}", ":").strip())) and (
        clock[2] or clock[4]
    ):
        return (_time(clock),)
    start_work()
    tokens = _tokens(bare)
    readings = []
    for is_call in (False, True):
        reader = _Reader(is_call)
        readings.append(reader.answer(tokens))
        if not reader.is_ambiguous:
            break
    return tuple(readings)


def _time(clock: re.Match[str]) -> Kind:
    hour, minute, second = (int(part or 0) for part in clock.groups()[:3])
    if clock[4]:
        hour = hour % 12 + (12 if clock[4].lower() == "p" else 0)
    return Kind("time", (hour, minute, second), (clock[4] is not None,))


def _tokens(text: str) -> list[str]:
    tokens = [_SAME.get(token, token) for token in _TOKEN.findall(text.replace("{}", "").rstrip(". "))]
    if not all(map(str.isascii, tokens)) and not all(map(str.isalpha, tokens)):
        raise UndecidedError
    return _with_round_brackets(tokens) if tokens[:1] == ["]"] or tokens[-1:] == ["["] else tokens


def _with_round_brackets(tokens: list[str]) -> list[str]:
    """`(1,2)` for `]1,2[`, as open intervals are written in French."""
    ends = [i for i, token in enumerate(tokens) if token == r"\cup"]
    first, last = {0, *(i + 1 for i in ends)}, {len(tokens) - 1, *(i - 1 for i in ends)}
    return [
        "(" if i in first and token == "]" else ")" if i in last and token == "[" else token
        for i, token in enumerate(tokens)
    ]


def _split(tokens: list[str], separators: Container[str]) -> tuple[list[list[str]], list[str]]:
    """The parts between separators outside of brackets, and the separators."""
    parts, found, depth = [[]], [], 0  # type: ignore[var-annotated]
    for token in tokens:
        depth += (token in _OPENING) - (token in _CLOSING)
        if depth < 0:
            raise UndecidedError
        if depth == 0 and token in separators:
            parts.append([])
            found.append(token)
        else:
            parts[-1].append(token)
    return parts, found


def _is_enclosed(tokens: list[str]) -> bool:
    """Whether the first token's bracket ends with the last token."""
    depth = 0
    for i, token in enumerate(tokens):
        depth += (token in _OPENING) - (token in _CLOSING)
        if depth <= 0:
            return 0 < i == len(tokens) - 1
    return False


class _Reader:
    """The kinds of answers, down to expressions, which [`Expression`] reads."""

    def __init__(self, is_call: bool):
        self.is_call, self.is_ambiguous, self.depth = is_call, False, 0

    def answer(self, tokens: list[str]) -> Answer:
        """What may be a list, or a choice with its value."""
        if not tokens or self.depth > MAX_DEPTH:
            raise UndecidedError
        self.depth += 1
        answer = self._choice(tokens) or self._list(tokens)
        self.depth -= 1
        return answer

    def _choice(self, tokens: list[str]) -> Kind | None:
        start = tokens[0].lower() in ("option", "choice")
        name, *rest = tokens[start:] or [""]
        if name == "(" and len(rest) > 1 and rest[1] == ")":
            name, rest = rest[0], rest[2:]
        elif rest and rest[0] in (")", ".", ":"):
            rest = rest[1:]
        elif not start or rest:
            return None
        if not (len(name) == 1 and "A" <= name <= "J") or (rest and rest[0] in _NO_VALUE):
            return None
        return Kind("choice", (self.answer(rest),) if rest else (), (name,))

    def _list(self, tokens: list[str]) -> Answer:
        parts = [part for part in _split(tokens, (",", "and", "or"))[0] if part]
        if len(parts) == 1:
            return self._element(parts[0])
        return Kind("list", tuple(self._flat([self._choice(part) or self._element(part) for part in parts])))

    def _flat(self, answers: list[Answer]) -> Iterator[Answer]:
        for answer in answers:
            yield from answer.parts if isinstance(answer, Kind) and answer.name == "list" else (answer,)

    def _element(self, tokens: list[str]) -> Answer:
        first, last = tokens[0], tokens[-1]
        if tokens == [r"\emptyset"]:
            return Kind("set")
        if first in ("{", r"\{", "(", "[") and _is_enclosed(tokens):
            inner = tokens[1:-1]
            if first == r"\{":
                answer = self.answer(inner) if inner else Kind("list")
                is_list = isinstance(answer, Kind) and answer.name == "list"
                return Kind("set", answer.parts if is_list else (answer,))  # type: ignore[union-attr]
            parts = _split(inner, ",")[0]
            if len(parts) == 1 or first == "{":
                return self.answer(inner)
            if sum(token in _SIGNS for token in inner) < 2:
                return self._both_signs(tokens) or Kind("tuple", tuple(map(self.answer, parts)), (first, last))
            raise UndecidedError  # (±1, ±2): two pairs, or four?
        return (
            self._relation(tokens)
            or self._union(tokens)
            or self._both_signs(tokens)
            or self._matrix(tokens)
            or self._based(tokens)
            or self._word(tokens)
            or self._expression(tokens)
        )

    def _both_signs(self, tokens: list[str]) -> Kind | None:
        if not any(token in _SIGNS for token in tokens):
            return None
        signs = ({r"\pm": "+", r"\mp": "-"}, {r"\pm": "-", r"\mp": "+"})
        return Kind("list", tuple(self._element([sign.get(token, token) for token in tokens]) for sign in signs))

    def _relation(self, tokens: list[str]) -> Answer | None:
        parts, signs = _split(tokens, RELATIONS)
        if not signs:
            return None
        if any(token in _SIGNS for token in tokens):
            return self._both_signs(tokens)
        if not all(parts):
            if signs == [r"\approx"]:
                return self._element(parts[1])
            raise UndecidedError
        members = tuple(map(self.answer, parts))
        if {*signs} <= {"=", r"\approx"}:
            return Kind("equation", members, tuple(signs))
        if signs == [r"\in"] and not is_constant(members[0]):
            return Kind("equation", members, ("=",))
        if {*signs} <= {">", r"\ge"}:
            members, signs = members[::-1], [{">": "<", r"\ge": r"\le"}[sign] for sign in signs[::-1]]
        if not {*signs} <= {"<", r"\le"}:
            raise UndecidedError
        return _interval(members, signs) or Kind("inequality", members, tuple(signs))

    def _union(self, tokens: list[str]) -> Kind | None:
        parts, found = _split(tokens, (r"\cup",))
        return Kind("union", tuple(map(self.answer, parts))) if found else None

    def _matrix(self, tokens: list[str]) -> Kind | None:
        if tokens[0] != r"\begin":
            return None
        names = ("matrix", "pmatrix", "bmatrix")
        if not (_is_enclosed(tokens[:-3]) and tokens[2] in names):
            raise UndecidedError
        rows = [row for row in _split(tokens[4:-4], ("\\\\",))[0] if row]
        return Kind("matrix", tuple(Kind("row", tuple(map(self.answer, _split(row, "&")[0]))) for row in rows))

    def _based(self, tokens: list[str]) -> Kind | None:
        if "_" not in tokens or not (match := _BASE.fullmatch("".join(tokens))):
            return None
        digits, name = match[1].lower().lstrip("0"), match[2] or match[3]
        base = int(name[:3]) if name.isdigit() else _NUMBER_OF.get(name.lower(), 0)
        if not 2 <= base <= 16 or not (match[1][0].isdigit() or base == 16):
            return None  # a_1
        return Kind("base", (), (digits, base))

    def _word(self, tokens: list[str]) -> Answer | None:
        if not all(token.isalpha() or token in _WITHIN_WORDS for token in tokens) or not tokens[0].isalpha():
            return None
        if "-" in tokens and min(map(len, tokens[::2])) < 2:
            return None
        is_run = all(len(token) == 1 for token in tokens) or len(tokens) == 1
        text = ("" if is_run else " ").join(tokens)
        if len(text) == 1 or text == "pi" or (is_run and is_product(text)) or "'" in tokens[:2]:
            return None
        text = text.casefold().replace(" - ", "-").replace(" .", "").replace(" ' ", "'")
        if text in _NUMBER_OF:
            return number(_NUMBER_OF[text])
        if text in ("infinity", "inf", "oo"):
            return letter(INFINITY)
        return Kind("word", (), (text,))

    def _expression(self, tokens: list[str]) -> Value:
        if tokens[-1] == r"\infty" and tokens[:-1] in ([], ["+"], ["-"]):
            return -letter(INFINITY) if tokens[0] == "-" else letter(INFINITY)
        expression = Expression(tokens, self.is_call, MAX_DEPTH - self.depth)
        value = expression.read()
        self.is_ambiguous |= expression.is_ambiguous
        return value


def _interval(members: tuple[Answer, ...], signs: list[str]) -> Kind | None:
    """`1 < x \\le 2` as the interval of x."""
    infinity = letter(INFINITY)
    if len(members) == 2 and letter_of(members[0]) and is_constant(members[1]):
        members, signs = (-infinity, *members), ["<", *signs]
    elif len(members) == 2 and letter_of(members[1]) and is_constant(members[0]):
        members, signs = (*members, infinity), [*signs, "<"]
    if not (len(members) == 3 and letter_of(members[1]) and is_constant(members[0]) and is_constant(members[2])):
        return None
    brackets = ("(" if signs[0] == "<" else "[", ")" if signs[1] == "<" else "]")
    return Kind("tuple", (members[0], members[2]), (*brackets, letter_of(members[1])))


def letter_of(answer: Answer) -> str | None:
    """The name, where the answer is just a letter."""
    atom = answer.atom if isinstance(answer, Value) else None
    return atom.name if atom and (atom.kind == "letter" or atom is E.atom) else None


def is_constant(answer: Answer) -> bool:
    return isinstance(answer, Value) and answer.letters <= {INFINITY}
