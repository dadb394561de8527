"""
What kind of answer a form is: a number or expression, a set, a tuple, an equation, a word, a choice, ... Within bounds
and linear, since it happens in the trainer's process: nothing of a text is evaluated but arithmetic.
"""

import re
from collections.abc import Container
from functools import lru_cache
from typing import NamedTuple

from .expressions import Expression, is_product
from .values import E, UndecidedError, Value, letter, number, start_work


_MAX_LENGTH, _MAX_DEPTH = 1000, 20
_TOKEN = re.compile(r"[0-9]+(?:\.[0-9]+)?|\\[A-Za-z]+|[^\W\d_]+|\\.|\S", re.DOTALL)
_OPENING = frozenset(("(", "[", "{", r"\{", r"\begin"))
_CLOSING = frozenset((")", "]", "}", r"\}", r"\end"))
_RELATIONS = ("=", "<", ">", r"\le", r"\ge", r"\in", r"\approx")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_CLOCK = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?\s*(?:([ap])\.?\s?m\b\.?)?", re.ASCII | re.IGNORECASE)
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_BASE = re.compile(r"\(?([0-9A-Fa-f]+)\)?_\{(\d{1,2})\}", re.ASCII)
_INFINITY = r"\infty"
_SIGNS = {"+": {r"\pm": "+", r"\mp": "-"}, "-": {r"\pm": "-", r"\mp": "+"}}
_WITHIN_WORDS = ("-", "'", ".")
# What follows a letter in brackets that is no choice: (A)+1.
_NO_VALUE = frozenset(("+", "-", r"\cdot", "/", "^", "_", "!", "'", ",", ")", "(", r"\cup", *_RELATIONS))


class Kind(NamedTuple):
    """An answer that is not one value: its kind, its parts, and what else tells two of the kind apart."""

    name: str
    parts: tuple = ()
    marks: tuple = ()


Answer = Value | Kind


def read(text: str) -> tuple[Answer, ...]:
    """The readings of a form: one, two where `f(x)` may be a product or the value of a function, none if undecided."""
    try:
        return _read(text)
    except (UndecidedError, ArithmeticError, RecursionError):
        return ()


read_gold = lru_cache(maxsize=4096)(read)


def _read(text: str) -> tuple[Answer, ...]:
    if len(text) > _MAX_LENGTH:
        raise UndecidedError
    text = _TEXT.sub(r" \1 ", text).strip()
    if clock := _CLOCK.fullmatch(text):
        return (_time(clock),)
    tokens = _TOKEN.findall(text.rstrip(". "))
    if not all(map(str.isascii, tokens)) and not all(map(str.isalpha, tokens)):
        raise UndecidedError
    start_work()
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
        if not tokens or self.depth > _MAX_DEPTH:
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
        parts = [part for part in _split(tokens, ",")[0] if part]
        if len(parts) == 1:
            return self._element(parts[0])
        answers = [self._choice(part) or self._element(part) for part in parts]
        return Kind("list", tuple(each for answer in answers for each in members_of(answer, "list")))

    def _element(self, tokens: list[str]) -> Answer:
        if tokens == [r"\emptyset"]:
            return Kind("set")
        if tokens[0] in (r"\{", "(", "[") and _is_enclosed(tokens):
            return self._enclosed(tokens)
        return (
            self._both_signs(tokens)
            or self._relation(tokens)
            or self._union(tokens)
            or self._matrix(tokens)
            or self._based(tokens)
            or self._word(tokens)
            or self._expression(tokens)
        )

    def _enclosed(self, tokens: list[str]) -> Answer:
        first, *inner, last = tokens
        if first == r"\{":
            return Kind("set", members_of(self.answer(inner), "list"))
        parts = _split(inner, ",")[0]
        if len(parts) == 1:
            return self.answer(inner)
        if any(token in _SIGNS["+"] for token in inner):
            raise UndecidedError  # (±1, ±2): two pairs, or four?
        return Kind("tuple", tuple(map(self.answer, parts)), (first, last))

    def _both_signs(self, tokens: list[str]) -> Kind | None:
        if not any(token in _SIGNS["+"] for token in tokens):
            return None
        both = ([sign.get(token, token) for token in tokens] for sign in _SIGNS.values())
        return Kind("list", tuple(map(self._element, both)))

    def _relation(self, tokens: list[str]) -> Answer | None:
        parts, signs = _split(tokens, _RELATIONS)
        if not signs:
            return None
        members = tuple(map(self.answer, parts))
        if {*signs} <= {"=", r"\approx"}:
            return Kind("equation", members, tuple(signs))
        if signs == [r"\in"] and not is_constant(members[0]):
            return Kind("equation", members, ("=",))
        if {*signs} <= {">", r"\ge"}:
            members, signs = members[::-1], [{">": "<", r"\ge": r"\le"}[sign] for sign in signs[::-1]]
        if not {*signs} <= {"<", r"\le"}:
            raise UndecidedError
        return _interval(members, signs)

    def _union(self, tokens: list[str]) -> Kind | None:
        parts, found = _split(tokens, (r"\cup",))
        return Kind("union", tuple(map(self.answer, parts))) if found else None

    def _matrix(self, tokens: list[str]) -> Kind | None:
        """As a tuple of rows, a column or row as one of its entries."""
        if tokens[0] != r"\begin":
            return None
        if not (_is_enclosed(tokens[:-3]) and tokens[2] in ("matrix", "pmatrix", "bmatrix")):
            raise UndecidedError
        rows = [_split(row, "&")[0] for row in _split(tokens[4:-4], ("\\\\",))[0] if row]
        tuples = [Kind("tuple", tuple(map(self.answer, row)), ("row",)) for row in rows]
        if len(tuples) == 1:
            return tuples[0]
        if all(len(row.parts) == 1 for row in tuples):
            return Kind("tuple", tuple(row.parts[0] for row in tuples), ("column",))
        return Kind("tuple", tuple(tuples), ("matrix",))

    def _based(self, tokens: list[str]) -> Kind | None:
        if "_" not in tokens or not (match := _BASE.fullmatch("".join(tokens))):
            return None
        base = int(match[2])
        if not 2 <= base <= 16 or not (match[1][0].isdigit() or base == 16):
            return None  # a_1
        return Kind("base", (), (match[1].lower().lstrip("0"), base))

    def _word(self, tokens: list[str]) -> Answer | None:
        if not all(token.isalpha() or token in _WITHIN_WORDS for token in tokens) or not tokens[0].isalpha():
            return None
        if "-" in tokens and min(map(len, tokens[::2])) < 2:
            return None
        is_run = all(len(token) == 1 for token in tokens) or len(tokens) == 1
        text = ("" if is_run else " ").join(tokens)
        if len(text) == 1 or (is_run and is_product(text)) or "'" in tokens[:2]:
            return None
        text = text.casefold().replace(" - ", "-").replace(" .", "").replace(" ' ", "'")
        return number(_NUMBERS.index(text)) if text in _NUMBERS else Kind("word", (), (text,))

    def _expression(self, tokens: list[str]) -> Value:
        if tokens[-1] == _INFINITY and tokens[:-1] in ([], ["+"], ["-"]):
            return -letter(_INFINITY) if tokens[0] == "-" else letter(_INFINITY)
        expression = Expression(tokens, self.is_call, _MAX_DEPTH - self.depth)
        value = expression.read()
        self.is_ambiguous |= expression.is_ambiguous
        return value


def members_of(answer: Answer, *names: str) -> tuple[Answer, ...]:
    """The parts of what has one of these names; else the answer alone."""
    return answer.parts if isinstance(answer, Kind) and answer.name in names else (answer,)


def _interval(members: tuple[Answer, ...], signs: list[str]) -> Kind:
    """`1 < x \\le 2` as the interval of x, if it is one."""
    infinity = letter(_INFINITY)
    ends, inner = (members[0], members[-1]), members[1:-1]
    if len(members) == 2 and letter_of(members[0]):
        ends, inner, signs = (-infinity, members[1]), members[:1], ["<", *signs]
    elif len(members) == 2 and letter_of(members[1]):
        ends, inner, signs = (members[0], infinity), members[1:], [*signs, "<"]
    if not (len(inner) == 1 and letter_of(inner[0]) and all(map(is_constant, ends))):
        raise UndecidedError
    brackets = ("(" if signs[0] == "<" else "[", ")" if signs[1] == "<" else "]")
    return Kind("tuple", ends, (*brackets, letter_of(inner[0])))


def letter_of(answer: Answer) -> str | None:
    """The name, where the answer is just a letter."""
    atom = answer.atom if isinstance(answer, Value) else None
    return atom.name if atom and (atom.kind == "letter" or atom is E.atom) else None


def is_constant(answer: Answer) -> bool:
    """Whether this is a value without letters; infinity is one."""
    return isinstance(answer, Value) and answer.letters <= {_INFINITY}
