"""Functions of values, exact where the argument is; and what letters that stand together are."""

import math
from collections.abc import Callable
from fractions import Fraction

from .measures import measure
from .values import Atom, E, UndecidedError, Value, number, primes


def call(name: str, argument: Value) -> Value:
    """A function, of `FUNCTIONS` or unknown, of a value."""
    exact = argument.rational
    if exact is not None and name in _EXACT:
        return number(_EXACT[name](exact), argument)._replace(is_rounded=False)
    return Atom.of("call" if name in FUNCTIONS else "unknown", name, argument)


def _factorial(n: Fraction) -> int:
    if n.denominator > 1 or not 0 <= n <= 300:
        raise UndecidedError
    return math.factorial(int(n))


_EXACT: dict[str, Callable[[Fraction], Fraction | int]] = {
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "factorial": _factorial,
}
FUNCTIONS = frozenset(
    (
        *(*_EXACT, "ln", "cot", "sec", "csc"),
        *(arc + name for arc in ("", "arc") for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")),
    )
)


def binomial(above: Value, below: Value) -> Value:
    n, k = above.rational, below.rational
    if n is None or k is None:
        return call("factorial", above) / (call("factorial", below) * call("factorial", above - below))
    if n.denominator > 1 or k.denominator > 1 or not 0 <= k <= n <= 1000:
        raise UndecidedError
    return number(math.comb(int(n), int(k)))


def ln(value: Value) -> Value:
    """Of a positive number as the sum over its primes, so that log_4(8) is 3/2."""
    monomial, coefficient = value.term or ((), Fraction(0))
    if coefficient <= 0 or not all(isinstance(atom, int) or atom is E.atom for atom, _ in monomial):
        return Atom.of("call", "ln", value)
    total = number(0, value)
    for atom, power in (*monomial, *primes(coefficient).items()):
        part = call("ln", number(atom)) if isinstance(atom, int) else number(1)
        total = total + part * number(power)
    return total


def times(a: Value, b: Value) -> Value:
    """The product, as a decimal where a decimal is multiplied by a power of ten."""
    product = a * b
    if a.unit is not None and b.unit is None and (power := b.rational) is not None:
        for part in (power, power and 1 / power):
            digits = part.numerator.bit_length() * 30103 // 100000
            if part.denominator == 1 and digits < 1000 and part == 10**digits:
                return product._replace(unit=a.unit * power)
    return product


def round_whole(name: str, value: Value) -> Value:
    """The `floor` or `ceil` of a value."""
    if value.rational is None and not value.letters:
        x, error = measure(value)
        whole = call(name, number(Fraction(x.real)))
        if x.imag or abs(x.real - round(x.real)) <= 2 * error:
            raise UndecidedError
        return whole
    return call(name, value)


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


def label(name: str, points: list[str]) -> str:
    """Points of an angle, line or polygon in one order of those that mean the same."""
    if name == "ray":
        return " ".join(points)
    if name == "triangle":
        return " ".join(sorted(points))
    turns = range(len(points) if name == "polygon" else 1)
    return min(" ".join(way[i:] + way[:i]) for i in turns for way in (points, points[::-1]))
