"""Expressions in LaTeX, or as they are typed, read as values. By recursive descent, to a bounded depth."""

import re
from collections.abc import Sequence
from fractions import Fraction

from .functions import FUNCTIONS, binomial, call, is_product, label, ln, round_whole, times
from .values import PI, E, I, UndecidedError, Value, letter, number


_CONSTANTS = {r"\pi": PI, "pi": PI, "e": E, "i": I}
_GREEK = re.compile(
    r"\\(?:(?:var)?(?:epsilon|theta|rho|phi)|alpha|beta|[Gg]amma|[Dd]elta|zeta|eta|Theta|iota|kappa|[Ll]ambda|mu|nu|[Xx]i|"
    r"Pi|[Ss]igma|tau|[Uu]psilon|Phi|chi|[Pp]si|[Oo]mega|hbar|ell)"
)
_NAMES = {
    **{name: name for name in (*FUNCTIONS, "exp", "log", "sqrt", "lg")},
    **{f"a{name}": f"arc{name}" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
}
del _NAMES["factorial"]
_SHAPES = {
    **{r"\angle": "angle", r"\measuredangle": "angle", r"\triangle": "triangle", r"\square": "polygon"},
    **{r"\overline": "line", r"\widehat": "line", r"\overarc": "line", r"\overrightarrow": "ray", r"\vec": "ray"},
}
_ACCENTS = frozenset((r"\dot", r"\ddot", r"\hat", r"\bar", r"\tilde"))
_NO_FACTOR = frozenset(
    (*"+-*/)],}^_!%'=&", r"\}", r"\circ", r"\rfloor", r"\rceil", r"\choose")  # and so the end of a product
)
_CLOSER = {"(": ")", "[": "]", "{": "}"}
MAX_LETTERS = 3  # in a run within an expression, longer ones may be words
MAX_CALLS = 20  # of functions in each other, without brackets


class Expression:
    """
    What is left of an expression's tokens to read.

    Args:
        tokens (sequence of `str`):
            In the spelling of `reading.py`.
        is_call (`bool`):
            Whether `f(x)` is the value of a function, and `\\log` to the base of ten; else a product, and natural.
        depth (`int`):
            Brackets that may be nested.
    """

    def __init__(self, tokens: Sequence[str], is_call: bool, depth: int):
        self.rest = [*reversed(tokens)]
        self.is_call, self.depth, self.calls = is_call, depth, MAX_CALLS
        self.is_ambiguous = self.has_degrees = self.is_within_bars = False

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
        if self._next() == r"\choose":
            self._take()
            total = binomial(total, self._sum())
        self.depth += 1
        return total

    def _signed(self, read) -> Value:
        is_negative = False
        while self._next() in ("+", "-"):
            is_negative ^= self._take() == "-"
        value = read()
        return -value if is_negative else value

    def _product(self) -> Value:
        is_number, is_divided = self._next()[-1:].isdigit(), False
        result = self._factor()
        while token := self._next():
            if token in ("*", "/"):
                self._take()
                is_divided, token = token == "/", self._next()
                factor = self._signed(self._factor)
                result = result / factor if is_divided else times(result, factor)
            elif token in _NO_FACTOR or (token == "|" and self.is_within_bars):
                break
            elif is_divided or (is_number and (token[-1].isdigit() or token == r"\frac")):
                raise UndecidedError  # 1/2x, 12 345, 1\frac{1}{2}
            else:
                result = times(result, self._factor())
            is_number = token[-1:].isdigit()
        return result

    def _factor(self) -> Value:
        value, has_power = self._atom(), False
        while True:
            if self._next() == "^":
                self._take()
                if self._next() == r"\circ" or [self._next(i) for i in (1, 2, 3)] == ["{", r"\circ", "}"]:
                    del self.rest[-1 if self._next() == r"\circ" else -3 :]
                    self.has_degrees = True
                elif has_power or self._next(2) in ("st", "nd", "rd", "th"):
                    raise UndecidedError
                else:
                    value, has_power = value ** self._argument(is_power=True), True
            elif self._next() == r"\circ":
                self._take()
                self.has_degrees = True
            elif self._next() == "!":
                self._take()
                if self._next() == "!":
                    raise UndecidedError  # 5!! is 5*3*1
                value = call("factorial", value)
            elif self._next() == "%":
                self._take()
                unit = value.unit and value.unit / 100
                value = (value * number(Fraction(1, 100)))._replace(unit=unit, is_percentage=True)
            else:
                return value

    def _argument(self, is_power: bool = False) -> Value:
        """What stands in braces, or one token."""
        token = self._next()
        if token in ("{", "("):
            return self._group()
        if is_power and token in ("+", "-"):
            return self._signed(lambda: self._argument(is_power=True))
        if token.isdigit() and len(token) > 1:
            raise UndecidedError  # 10^12 is 10^1 2 in LaTeX
        return self._atom(is_single=True)

    def _group(self) -> Value:
        closer, bars = _CLOSER[self._take(*_CLOSER)], self.is_within_bars
        self.is_within_bars = False
        value = self._sum()
        self._take(closer)
        self.is_within_bars = bars
        return value

    def _atom(self, is_single: bool = False) -> Value:
        if self._next() in _CLOSER:
            return self._group()
        self.calls -= 1
        if self.calls < 0:
            raise UndecidedError
        value = self._named(self._take(), is_single)
        self.calls += 1
        return value

    def _named(self, token: str, is_single: bool) -> Value:
        """A number, a letter, or what begins with a command."""
        if token[-1].isdigit():
            return _decimal(token)
        if token == r"\frac":
            return self._fraction()
        if token == r"\binom":
            return binomial(self._argument(), self._argument())
        if token == "|":
            return self._within_bars()
        if token in (r"\lfloor", r"\lceil"):
            value = self._sum()
            self._take({r"\lfloor": r"\rfloor", r"\lceil": r"\rceil"}[token])
            return round_whole({r"\lfloor": "floor", r"\lceil": "ceil"}[token], value)
        if token in _ACCENTS:
            return self._letter(f"{token} {self._raw()}", is_last=not is_single)
        if token in _SHAPES:
            return self._shape(_SHAPES[token])
        name = token.removeprefix("\\")
        if token in _CONSTANTS and self._next() != "_":
            return _CONSTANTS[token]
        if name in _NAMES:
            return self._function(_NAMES[name])
        if token.isalpha():
            if len(token) > MAX_LETTERS and not is_product(token):
                raise UndecidedError
            if len(token) > 1:
                self.rest.append(token[1:])
                if len(token) > 1 and token[0] in _CONSTANTS:
                    return _CONSTANTS[token[0]]
            return self._letter(token[0], is_last=len(token) == 1 and not is_single)
        if _GREEK.fullmatch(token):
            return self._letter(token, is_last=not is_single)
        raise UndecidedError

    def _within_bars(self) -> Value:
        bars, self.is_within_bars = self.is_within_bars, True
        if bars:
            raise UndecidedError
        value = self._sum()
        self._take("|")
        self.is_within_bars = False
        return call("abs", value)

    def _fraction(self) -> Value:
        def is_differential() -> bool:
            return self._next() == "{" and (self._next(2)[:1] == "d" or self._next(2) == r"\partial")

        if is_differential():
            rest, name = [*self.rest], self._raw()
            if is_differential():  # a derivative is no quotient
                return letter(f"{name}/{self._raw()}")
            self.rest = rest
        above = self._argument()
        return above / self._argument()

    def _letter(self, name: str, is_last: bool) -> Value:
        if not is_last:
            return letter(name)
        if self._next() == "_":
            self._take()
            name += f"_{self._raw()}"
        while self._next() == "'" or (self._next() == "^" and "'" in (self._next(2), self._next(3))):
            if self._take() == "^":
                name += self._raw()
            else:
                name += "'"
        if self._next() == "(" and (name[0] in "fghuvpqFGHPQ" or self._next(3) == ")"):
            self.is_ambiguous = True
            if self.is_call:
                return call(name, self._group())
        return letter(name)

    def _raw(self) -> str:
        """The text of a group or of one token, for a name."""
        token = self._take()
        if token != "{":
            if len(token) > 1 and not token.startswith("\\"):
                self.rest.append(token[1:])
                token = token[0]
            return token
        text, depth = "", 1
        while True:
            token = self._take()
            depth += (token == "{") - (token == "}")
            if not depth:
                return text
            text += token if token not in "{}" else ""

    def _shape(self, name: str) -> Value:
        """`\\angle ABC` as one letter, by a name that does not depend on where one begins to go round."""
        points: list[str] = []
        is_group = self._next() == "{"
        tokens = re.findall(r"\\?[A-Za-z]+|.", self._raw()) if is_group else []
        while not is_group and (self._next().isalpha() or (tokens and self._next() in ("_", "'"))):
            tokens.append(self._take())
            if tokens[-1] == "_":
                tokens.append(self._raw())
        for token in tokens:
            if token in ("_", "'") or (points and points[-1].endswith("_")):
                points[-1:] = [(points or [""])[-1] + token]
            else:
                points += token if token.isalpha() else [token]
        if not points or len(points) > 12 or not all(point[0].isalpha() for point in points):
            raise UndecidedError
        if name == "line" and len(points) == 2:
            return letter(points[0]) * letter(points[1])  # AB
        return letter(points[0] if name == "ray" and len(points) == 1 else f"{name} {label(name, points)}")

    def _function(self, name: str) -> Value:
        power, base = None, None
        had_degrees, self.has_degrees = self.has_degrees, False
        if name == "sqrt":
            index = self._group() if self._next() == "[" else number(2)
            return self._argument() ** (number(1) / index)
        if self._next() == "_" and name == "log":
            self._take()
            base = self._argument()
        if self._next() == "^":
            self._take()
            power = self._argument(is_power=True)
        if self._next() in _CLOSER:
            value = self._group()
        else:
            value = self._factor()
            while (token := self._next()) and token not in _NO_FACTOR and token not in _CLOSER and token != "|":
                if token.removeprefix("\\") in _NAMES:
                    break
                value = value * self._factor()
            if self._next() == "/":
                raise UndecidedError
        if self.has_degrees:
            value = value * PI * number(Fraction(1, 180))
        self.has_degrees = had_degrees
        if power is not None and power.rational == -1:
            name, power = f"arc{name}", None
        if name == "exp":
            result = E**value
        elif name in ("log", "lg", "ln"):
            if name == "log" and base is None:
                self.is_ambiguous = True
            has_base = base is not None or name == "lg" or (name == "log" and self.is_call)
            result = ln(value) / ln(base or number(10)) if has_base else ln(value)
        elif name in FUNCTIONS:
            result = call(name, value)
        else:
            raise UndecidedError
        return result if power is None else result**power


def _decimal(token: str) -> Value:
    if len(token) > 1000:
        raise UndecidedError
    places = len(token.partition(".")[2])
    if not places:
        return number(int(token))
    return number(Fraction(token))._replace(unit=Fraction(1, 10**places), is_rounded=True)
