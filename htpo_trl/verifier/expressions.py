"""Expressions in the LaTeX of `forms.py`, read as values. By recursive descent, to a bounded depth."""

from collections.abc import Callable, Sequence
from fractions import Fraction

from .commands import LETTERS
from .values import PI, Atom, E, I, UndecidedError, Value, letter, number


_CONSTANTS = {r"\pi": PI, "e": E, "i": I}
_TRIGONOMETRIC = ("sin", "cos", "tan", "sinh", "cosh", "tanh")
_FUNCTIONS = frozenset((*(rf"\{arc}{name}" for arc in ("", "arc") for name in _TRIGONOMETRIC), r"\ln", r"\log"))
# The name of a shape does not depend on where one begins to go round; accents are part of a name.
_SHAPES: dict[str, Callable[[str], str]] = {
    **{name: lambda points, name=name: f"{name} {min(points, points[::-1])}" for name in (r"\angle", r"\overline")},  # type: ignore[misc]
    **{r"\triangle": lambda points: f"triangle {''.join(sorted(points))}", r"\vec": str},
    **{name: f"{name} {{}}".format for name in (r"\overrightarrow", r"\dot", r"\ddot", r"\hat", r"\bar", r"\tilde")},
}
_NO_FACTOR = frozenset((*"+-/)],}^_!'=&", r"\cdot", r"\%", r"\}"))  # and so the end of a product
_CLOSER = {"(": ")", "[": "]", "{": "}"}
_MAX_LETTERS = 3  # in a run within an expression, longer ones may be words
_MAX_CALLS = 20  # of functions in each other, without brackets


class Expression:
    """
    What is left of an expression's tokens to read.

    Args:
        tokens (sequence of `str`):
            Those of `reading.py`.
        is_call (`bool`):
            Whether `f(x)` is the value of a function, and `\\log` to the base of ten; else a product, and natural.
        depth (`int`):
            Brackets that may be nested.
    """

    def __init__(self, tokens: Sequence[str], is_call: bool, depth: int):
        self.rest = [*reversed(tokens)]
        self.is_call, self.depth, self.calls = is_call, depth, _MAX_CALLS
        self.is_ambiguous = False

    def read(self) -> Value:
        value = self._sum()
        if self.rest:
            raise UndecidedError
        return value

    def _next(self, ahead: int = 1) -> str:
        return self.rest[-ahead] if len(self.rest) >= ahead else ""

    def _take(self, *expected: str) -> str:
        if not self.rest or (expected and self.rest[-1] not in expected):
            raise UndecidedError
        return self.rest.pop()

    def _sum(self) -> Value:
        self.depth -= 1
        if self.depth < 0:
            raise UndecidedError
        total = self._signed(self._product)
        while self._next() in ("+", "-"):
            total = total + self._signed(self._product)
        self.depth += 1
        return total

    def _signed(self, read: Callable[[], Value]) -> Value:
        is_negative = False
        while self._next() in ("+", "-"):
            is_negative ^= self._take() == "-"
        value = read()
        return -value if is_negative else value

    def _product(self) -> Value:
        is_number, is_divided = self._next()[-1:].isdigit(), False
        result = self._factor()
        while token := self._next():
            if token in (r"\cdot", "/"):
                self._take()
                is_divided, token = token == "/", self._next()
                factor = self._signed(self._factor)
                result = result / factor if is_divided else result * factor
            elif token in _NO_FACTOR:
                break
            elif is_divided or (is_number and (token[-1].isdigit() or token == r"\frac")):
                raise UndecidedError  # 1/2x, 12 345, 1\frac{1}{2}
            else:
                result = result * self._factor()
            is_number = token[-1:].isdigit()
        return result

    def _factor(self) -> Value:
        value = self._atom()
        if self._next() == "^":
            self._take()
            value = value ** self._group()
        if self._next() == r"\%":
            self._take()
            value = (value * number(Fraction(1, 100)))._replace(is_percentage=True)
        return value

    def _group(self) -> Value:
        closer = _CLOSER[self._take(*_CLOSER)]
        value = self._sum()
        self._take(closer)
        return value

    def _atom(self) -> Value:
        token = self._next()
        if token in _CLOSER:
            return self._group()
        self._take()
        if token[-1].isdigit():
            return _decimal(token)
        if token == r"\frac":
            if self._next(2)[:1] == "d" or self._next(2) == r"\partial":
                above, below = self._raw(), self._raw()
                if below[:1] == "d" or below.startswith(r"\partial"):
                    return letter(f"{above}/{below}")  # a derivative is no quotient
                raise UndecidedError
            return self._group() / self._group()
        if token == r"\sqrt":
            index = self._group() if self._next() == "[" else number(2)
            return self._group() ** (number(1) / index)
        if token in _CONSTANTS and self._next() != "_":
            return _CONSTANTS[token]
        if token in _FUNCTIONS:
            return self._function(token)
        if token in _SHAPES:
            points = self._raw() if self._next() == "{" else self._take()
            if not points.removeprefix("\\").isalpha():
                raise UndecidedError
            if token == r"\overline" and len(points) == 2:
                return letter(points[0]) * letter(points[1])  # AB
            return letter(_SHAPES[token](points))
        if len(token) > 1 and token.isalpha():
            if len(token) > _MAX_LETTERS and not is_product(token):
                raise UndecidedError
            self.rest.append(token[1:])
            return _CONSTANTS.get(token[0]) or letter(token[0])
        if token.isalpha() or token[1:] in LETTERS:
            return self._letter(token)
        raise UndecidedError

    def _letter(self, name: str) -> Value:
        if self._next() == "_":
            self._take()
            name += f"_{self._raw()}"
        while self._next() == "'":
            name += self._take()
        if self._next() == "(" and (name[0] in "fghuvpqFGHPQ" or self._next(3) == ")"):
            self.is_ambiguous = True
            if self.is_call:
                return Atom.of("unknown", name, self._group())
        return letter(name)

    def _raw(self) -> str:
        """The text of a group, for a name."""
        self._take("{")
        text, depth = "", 1
        while True:
            token = self._take()
            depth += (token == "{") - (token == "}")
            if not depth:
                return text
            text += token if token not in "{}" else ""

    def _function(self, name: str) -> Value:
        power = number(1)
        if self._next() == "^":
            self._take()
            power = self._group()
            if power.rational is None or power.rational < 0:
                raise UndecidedError  # the inverse, or a power?
        if self._next() in _CLOSER:
            value = self._group()
        else:
            self.calls -= 1
            if self.calls < 0:
                raise UndecidedError
            value = self._factor()
            self.calls += 1
            while (token := self._next()) and token not in _NO_FACTOR and token not in _CLOSER:
                if token in _FUNCTIONS:
                    break
                value = value * self._factor()
            if self._next() == "/":
                raise UndecidedError
        self.is_ambiguous |= name == r"\log"
        return Atom.of("call", "ln" if name == r"\log" and not self.is_call else name[1:], value) ** power


def _decimal(token: str) -> Value:
    places = len(token.partition(".")[2])
    if not places:
        return number(int(token))
    return number(Fraction(token))._replace(unit=Fraction(1, 10**places), is_rounded=True)


def is_product(run: str) -> bool:
    """
    Whether letters that stand together are a product, so that `xy` is `yx`; else they are a word. A product are two
    letters unless one is e, i, o or u, lower-case ones without a vowel, and some of a, b, c, d or of w, x, y, z.
    """
    letters = {*run.lower()}
    if len(run) == 2:
        return not letters & {*"eiou"}
    if run != run.lower():
        return False
    return not letters & {*"aeiouy"} or (len(run) == len(letters) and (letters <= {*"abcd"} or letters <= {*"wxyz"}))
