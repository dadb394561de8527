"""
Numbers and expressions by exact arithmetic: a quotient of polynomials in *atoms*, with rational coefficients.

Atoms are letters, primes below a root, pi, e, i, and powers and functions whose argument is again such a quotient. Equal
quotients are equal values, whatever the atoms are: that is how two forms are found the same. That two values differ is
shown by numbers instead: at one random point, by more than the error of floating-point arithmetic, which is carried
along. What is neither stays undecided. Terms, digits and exponents are bounded.
"""

import cmath
import math
import random
from collections.abc import Callable, Hashable, Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple


# Relative difference up to which a decimal stands for a number that it does not equal: six significant digits.
TOLERANCE = Fraction(5, 10**6)
MAX_TERMS, MAX_BITS, MAX_EXPONENT = 400, 20_000, 64
PI, E, I = ("pi",), ("e",), ("i",)  # noqa: E741
_EPSILON = 1e-15

Monomial = frozenset[tuple[Hashable, Fraction]]
Polynomial = dict[Monomial, Fraction]
ONE: Monomial = frozenset()
_UNIT: Polynomial = {ONE: Fraction(1)}


class Undecided(Exception):
    """It takes algebra, or more than the bounds allow."""


def numbers_agree(a: Fraction, b: Fraction, unit_a: Fraction | None = None, unit_b: Fraction | None = None) -> bool:
    """
    Whether two numbers are the same answer. The unit is that of a decimal's last place (0.01 for 3.14), `None` for what
    is no decimal. Numbers that are no decimals, and decimals with equally many places, must be equal. Else the one may
    be the other one rounded: to less than a unit, and to a relative `TOLERANCE`.
    """
    if a == b or unit_a == unit_b:
        return a == b
    # Beside a decimal, an integer is one without places.
    half = Fraction(1, 2)
    units = [unit or (half if x.denominator == 1 else 0) for x, unit in ((a, unit_a), (b, unit_b))]
    return abs(a - b) < max(units) and abs(a - b) <= TOLERANCE * max(abs(a), abs(b))


class Value(NamedTuple):
    """A number or expression."""

    numerator: Polynomial
    denominator: Polynomial = _UNIT
    unit: Fraction | None = None  # of the last place, where this is a plain decimal
    is_rounded: bool = False  # there is a decimal in it
    is_percentage: bool = False

    @property
    def rational(self) -> Fraction | None:
        if self.denominator is not _UNIT or not self.numerator.keys() <= {ONE}:
            return None
        return self.numerator.get(ONE, Fraction(0))

    @property
    def key(self) -> Hashable:
        return frozenset(self.numerator.items()), frozenset(self.denominator.items())

    @property
    def name(self) -> str | None:
        """That of the letter, where this is just one."""
        if len(self.numerator) != 1 or self.denominator is not _UNIT:
            return None
        (((monomial, coefficient)),) = self.numerator.items()
        ((atom, power),) = monomial if len(monomial) == 1 else ((None, 0),)
        return atom[1] if coefficient == power == 1 and _is_letter(atom) else None  # type: ignore[index]

    @property
    def letters(self) -> frozenset[str]:
        """The names of the letters, and of unknown functions."""
        terms = (self.numerator, self.denominator)
        return frozenset(
            name for part in terms for monomial in part for atom, _ in monomial for name in _letters(atom)
        )

    def __add__(self, other: "Value") -> "Value":  # type: ignore[override]
        if self.denominator == other.denominator:
            numerator, denominator = dict(self.numerator), self.denominator
            terms = other.numerator
        else:
            numerator = _product(self.numerator, other.denominator)
            terms = _product(other.numerator, self.denominator)
            denominator = _product(self.denominator, other.denominator)
        for monomial, coefficient in terms.items():
            _add_term(numerator, monomial, coefficient)
        return _quotient(numerator, denominator, self, other)

    def __mul__(self, other: "Value") -> "Value":  # type: ignore[override]
        numerator = _product(self.numerator, other.numerator)
        return _quotient(numerator, _product(self.denominator, other.denominator), self, other)

    def __neg__(self) -> "Value":
        return self._replace(numerator={monomial: -c for monomial, c in self.numerator.items()})

    def __sub__(self, other: "Value") -> "Value":
        return self + -other

    def __truediv__(self, other: "Value") -> "Value":
        return self * other.inverse()

    def inverse(self) -> "Value":
        if not self.numerator:
            raise Undecided
        return _quotient(self.denominator, self.numerator, self)

    def __pow__(self, exponent: "Value") -> "Value":
        if (e := exponent.rational) is None:
            return atom_value(("power", self.key, exponent.key), self, exponent)
        if e.denominator > 1:
            return self._root_power(e)
        if e < 0:
            return self.inverse() ** number(-e)
        n = int(e)
        if (base := self.rational) is not None:
            bits = max(abs(base.numerator), base.denominator, 2).bit_length()
            if bits * n > MAX_BITS and abs(base) != 1 and base != 0:
                raise Undecided
            return number(base ** (n if base != -1 else n % 2))._replace(is_rounded=self.is_rounded)
        if n > MAX_EXPONENT and len(self.numerator) > 1 or n.bit_length() > 32:
            raise Undecided
        if len(self.numerator) == 1 and self.denominator is _UNIT:
            ((monomial, coefficient),) = self.numerator.items()
            powers, factor = _normal({atom: power * n for atom, power in monomial})
            return Value({powers: (number(coefficient) ** exponent).rational * factor}, is_rounded=self.is_rounded)  # type: ignore[operator]
        result, square = number(1), self
        while n:
            result = result * square if n & 1 else result
            square = square * square if n > 1 else square
            n >>= 1
        return result

    def _root_power(self, e: Fraction) -> "Value":
        # Only of a positive number times constants and plain letters: (x^2)^(1/2) is not x.
        if len(self.numerator) == 1 and self.denominator is _UNIT and abs(e) <= MAX_BITS:
            ((monomial, coefficient),) = self.numerator.items()
            if coefficient > 0 and all(
                isinstance(atom, int) or atom in (PI, E) or (_is_letter(atom) and power == 1 and len(monomial) == 1)
                for atom, power in monomial
            ):
                powers: dict[Hashable, Fraction] = {atom: power * e for atom, power in monomial}
                for part, sign in ((coefficient.numerator, 1), (coefficient.denominator, -1)):
                    for prime, power in factors(part).items():
                        powers[prime] = powers.get(prime, Fraction(0)) + sign * power * e
                normal, factor = _normal(powers)
                return Value({normal: factor}, is_rounded=self.is_rounded)
        value, error = measure(self)
        if value.real <= 2 * error or value.imag:
            # The cube root of -8 is -2 for some and complex for others.
            if e.denominator > 2:
                raise Undecided
        return atom_value(("power", self.key, number(e).key), self)


def number(value: Fraction | int) -> Value:
    return Value({ONE: Fraction(value)} if value else {})


def atom_value(atom: Hashable, *arguments: Value) -> Value:
    return Value({frozenset([(atom, Fraction(1))]): Fraction(1)}, is_rounded=any(x.is_rounded for x in arguments))


def letter(name: str) -> Value:
    return atom_value(("letter", name))


def _letters(atom: Any) -> Iterator[str]:
    if isinstance(atom, int) or len(atom) == 1:
        return
    kind, *rest = atom
    if kind == "letter" or rest[0] not in FUNCTIONS:
        if isinstance(rest[0], str):
            yield rest[0]
    for key in rest:
        if not isinstance(key, str):
            yield from _of_key(key).letters


def _is_letter(atom: Hashable) -> bool:
    return isinstance(atom, tuple) and atom[0] == "letter"


def factors(n: int) -> dict[int, int]:
    """Exponents by prime; what has no small factor counts as a prime, which costs no correctness."""
    found: dict[int, int] = {}
    if n.bit_length() > 512:
        raise Undecided
    for p in (2, *range(3, 1000, 2)):
        if p * p > n:
            break
        while n % p == 0:
            n //= p
            found[p] = found.get(p, 0) + 1
    if n > 1:
        root = math.isqrt(n)
        found[root if root * root == n else n] = 2 if root * root == n else 1
    return found


def _normal(powers: dict[Hashable, Fraction]) -> tuple[Monomial, Fraction]:
    """The product of powers of atoms, and the rational number in it."""
    factor, left = Fraction(1), []
    for atom, power in powers.items():
        if isinstance(atom, int):
            whole = math.floor(power)
            if abs(whole) * atom.bit_length() > MAX_BITS:
                raise Undecided
            factor, power = factor * Fraction(atom) ** whole, power - whole
        elif atom == I:
            factor, power = factor * (-1 if power % 4 >= 2 else 1), power % 2
        if power:
            left.append((atom, power))
    return frozenset(left), factor


def _add_term(polynomial: Polynomial, monomial: Monomial, coefficient: Fraction) -> None:
    total = polynomial.get(monomial, 0) + coefficient
    if total:
        polynomial[monomial] = Fraction(total)
        if len(polynomial) > MAX_TERMS or max(total.numerator.bit_length(), total.denominator.bit_length()) > MAX_BITS:
            raise Undecided
    else:
        polynomial.pop(monomial, None)


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    if b is _UNIT or a is _UNIT:
        return a if b is _UNIT else b
    if len(a) * len(b) > 2 * MAX_TERMS:
        raise Undecided
    result: Polynomial = {}
    for m, c in a.items():
        for n, d in b.items():
            if m and n:
                powers = dict(m)
                for atom, power in n:
                    powers[atom] = powers.get(atom, Fraction(0)) + power
                monomial, factor = _normal(powers)
                _add_term(result, monomial, c * d * factor)
            else:
                _add_term(result, m or n, c * d)
    return result


def _quotient(numerator: Polynomial, denominator: Polynomial, *origins: Value) -> Value:
    is_rounded = any(value.is_rounded for value in origins)
    if denominator is not _UNIT and len(denominator) == 1:
        ((monomial, coefficient),) = denominator.items()
        powers, factor = _normal({atom: -power for atom, power in monomial})
        numerator, denominator = _product(numerator, {powers: factor / coefficient}), _UNIT
    return Value(numerator, denominator, None, is_rounded)


def call(name: str, argument: Value) -> Value:
    """A function, one of `FUNCTIONS` or an unknown one, of a value."""
    return atom_value(("call", name, argument.key), argument)


def ln(value: Value) -> Value:
    """Of a positive number as a sum over its primes, so that log_4(8) is 3/2."""
    if len(value.numerator) != 1 or value.denominator is not _UNIT:
        return call("ln", value)
    ((monomial, coefficient),) = value.numerator.items()
    if coefficient <= 0 or any(atom != E and not isinstance(atom, int) for atom, _ in monomial):
        return call("ln", value)
    powers = {atom: power for atom, power in monomial}
    for part, sign in ((coefficient.numerator, 1), (coefficient.denominator, -1)):
        for prime, power in factors(part).items():
            powers[prime] = powers.get(prime, Fraction(0)) + sign * power
    total = number(0)
    for atom, power in powers.items():
        total = total + (number(power) if atom == E else call("ln", number(atom)) * number(power))  # type: ignore[arg-type]
    return total._replace(is_rounded=value.is_rounded)


def factorial(value: Value) -> Value:
    n = value.rational
    if n is None:
        return call("factorial", value)
    if n.denominator > 1 or not 0 <= n <= 300:
        raise Undecided
    return number(math.factorial(int(n)))


def binomial(above: Value, below: Value) -> Value:
    n, k = above.rational, below.rational
    if n is None or k is None:
        return factorial(above) / (factorial(below) * factorial(above - below))
    if n.denominator > 1 or k.denominator > 1 or not 0 <= k <= n <= 1000:
        raise Undecided
    return number(math.comb(int(n), int(k)))


def round_whole(name: str, value: Value) -> Value:
    """The `floor` or `ceil` of a value."""
    if value.letters:
        return call(name, value)
    if (exact := value.rational) is None:
        x, error = measure(value)
        low, high = (ROUNDINGS[name](x.real + 2 * sign * error) for sign in (-1, 1))
        if x.imag or low != high:
            raise Undecided
        exact = Fraction(low)
    return number(ROUNDINGS[name](exact))


# --- As numbers


_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    **{name: getattr(cmath, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{f"arc{name}": getattr(cmath, f"a{name}") for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{"cot": lambda z: 1 / cmath.tan(z), "sec": lambda z: 1 / cmath.cos(z), "csc": lambda z: 1 / cmath.sin(z)},
    **{"ln": cmath.log, "abs": lambda z: complex(abs(z)), "factorial": lambda z: complex(math.gamma(z.real + 1))},
}
ROUNDINGS = {"floor": math.floor, "ceil": math.ceil}
FUNCTIONS = _FUNCTIONS.keys() | ROUNDINGS.keys()

# Where letters are, by name.
Point = Callable[[str], complex]


@lru_cache(maxsize=4096)
def _real(name: str) -> complex:
    return complex(random.Random(name).uniform(0.2, 0.8))


@lru_cache(maxsize=4096)
def _whole(name: str) -> complex:
    """For what is meant for integers: n - floor(n/2) is ceil(n/2). What differs here, differs in general."""
    return complex(random.Random(name).randint(7, 40))


def measure(value: Value, point: Point = _real) -> tuple[complex, float]:
    """The value as a number, and a bound of its error. Letters are at a random point by default."""
    try:
        top, error = _measure_polynomial(value.numerator, point)
        if value.denominator is not _UNIT:
            bottom, bottom_error = _measure_polynomial(value.denominator, point)
            if abs(bottom) <= 100 * bottom_error:
                raise Undecided
            top, error = top / bottom, 2 * (error + abs(top / bottom) * bottom_error) / abs(bottom)
    except (OverflowError, ZeroDivisionError, ValueError) as reason:
        raise Undecided from reason
    if not (math.isfinite(abs(top)) and math.isfinite(error)):
        raise Undecided
    # On the side of a branch cut where the real numbers are.
    return (complex(top.real) if abs(top.imag) <= 4 * error else top), error


def _measure_polynomial(polynomial: Polynomial, point: Point) -> tuple[complex, float]:
    total, error = 0j, 0.0
    for monomial, coefficient in polynomial.items():
        term, relative = complex(float(coefficient)), 2 * _EPSILON
        for atom, power in monomial:
            value, uncertainty = _measure_atom(atom, point)
            if abs(value) <= 100 * uncertainty:
                raise Undecided
            term *= value ** float(power)
            relative += (2 * abs(float(power)) + 2) * (uncertainty / abs(value) + _EPSILON)
        total += term
        error += abs(term) * relative + abs(total) * _EPSILON
    return total, error


def _measure_atom(atom: Any, point: Point) -> tuple[complex, float]:
    if isinstance(atom, int):
        return complex(atom), 0.0
    match atom:
        case ("letter", name):
            return point(name), 0.0
        case ("power", base, exponent):
            (b, b_error), (e, e_error) = (measure(_of_key(key), point) for key in (base, exponent))
            is_whole = abs(e - round(e.real)) <= e_error
            if (b.real <= 0 or b.imag) and not is_whole and _of_key(exponent).rational is None:
                raise Undecided  # (-1)^n is for integers
            power = b ** (round(e.real) if is_whole else e)
            # d(b^e) = b^e (e db/b + ln(b) de)
            slope = abs(e) * b_error / abs(b) + abs(cmath.log(b)) * e_error
            return power, abs(power) * (2 * slope + 8 * _EPSILON * (1 + abs(e)))
        case ("call", name, argument):
            return _measure_call(name, *measure(_of_key(argument), point), point)
    return {PI: complex(math.pi), E: complex(math.e), I: 1j}[atom], 0.0 if atom == I else _EPSILON


def _measure_call(name: str, z: complex, error: float, point: Point) -> tuple[complex, float]:
    if name in ROUNDINGS:
        if point is _real or z.imag or error > 1e-10:
            raise Undecided
        return complex(ROUNDINGS[name](z.real + (1e-9 if name == "floor" else -1e-9))), 0.0
    function = _FUNCTIONS.get(name) or _any_function(name)
    step = 1e-6 * (1 + abs(z))
    if error > step / 100:
        raise Undecided
    result = function(z)
    return result, 2 * error * abs(function(z + step) - result) / step + 8 * _EPSILON * (abs(result) + abs(z))


def _any_function(name: str) -> Callable[[complex], complex]:
    """For f(x), of which nothing is known: what holds for any function holds for this one."""
    a, b = (random.Random(f"{name} {i}").uniform(0.5, 1.5) for i in range(2))
    return lambda z: cmath.sin(a * z + b) + 2


def _of_key(key: Any) -> Value:
    numerator, denominator = map(dict, key)
    return Value(numerator, _UNIT if denominator == _UNIT else denominator)


# --- Comparison


def equal(a: Value, b: Value) -> bool | None:
    """Whether two values are the same answer; `None` where it takes algebra to tell."""
    p, q = a.rational, b.rational
    if p is not None and q is not None:
        if a.is_percentage != b.is_percentage and p != q and 100 in (p and q / p, q and p / q):
            return None  # 25% and 25
        return numbers_agree(p, q, a.unit, b.unit)
    differs = None
    for point in (_real, _whole):
        try:
            differs = _differ(a, b, point)
            break
        except Undecided:
            continue  # no number can be had there; the form may decide
    if differs is not None:
        # A letter may be a unit: 5m.
        is_unit = (q is not None and coefficient(a) == q) or (p is not None and coefficient(b) == p)
        return None if differs and is_unit else not differs
    try:
        return None if (a - b).numerator else True
    except Undecided:
        return None


def _differ(a: Value, b: Value, point: Point) -> bool | None:
    """Whether two values differ by more than the errors of their numbers, and, of decimals, than is forgiven."""
    (x, error_x), (y, error_y) = measure(a, point), measure(b, point)
    gap, size, error = abs(x - y), max(abs(x), abs(y)), 4 * (error_x + error_y)
    error += 1e-12 * size
    if not (a.is_rounded or b.is_rounded):
        return True if gap > error else None
    if a.rational is None and b.rational is None:
        return True if gap > error + 1e-4 * size else None
    if gap > error + 1.001 * float(TOLERANCE) * size:
        return True
    unit = a.unit or b.unit
    if unit is None or a.is_rounded and b.is_rounded:
        return None
    if gap > error + float(unit):
        return True
    return False if gap + error < min(float(unit), 0.999 * float(TOLERANCE) * size) else None


def coefficient(value: Value) -> Fraction | None:
    """That of a product of letters."""
    if len(value.numerator) != 1 or value.denominator is not _UNIT:
        return None
    ((monomial, coefficient),) = value.numerator.items()
    return coefficient if monomial and all(_is_letter(atom) for atom, _ in monomial) else None


def is_call(value: Value) -> bool:
    """Whether this is an unknown function, f(x)."""
    if len(value.numerator) != 1 or value.denominator is not _UNIT:
        return False
    ((monomial, _),) = value.numerator.items()
    atoms = [atom for atom, _ in monomial]
    return len(atoms) == 1 and isinstance(atoms[0], tuple) and atoms[0][0] == "call" and atoms[0][1] not in FUNCTIONS


def constant_ratio(a: Value, b: Value) -> Fraction | None:
    """The rational number by which `a` is multiplied to get `b`."""
    if a.numerator.keys() != b.numerator.keys() or a.denominator != b.denominator or not a.numerator:
        return None
    ratios = {b.numerator[monomial] / a.numerator[monomial] for monomial in a.numerator}
    return ratios.pop() if len(ratios) == 1 else None


def _with(name: str, place: complex) -> Point:
    return lambda other: complex(place) if other == name else _real(other)


def have_other_zeros(a: Value, b: Value) -> bool:
    """Whether b is certainly not zero at some zero of a. Looked for in letters in which a is linear, others at random."""
    places = (0.3, 0.55, 0.9)
    for name in a.letters:
        try:
            low, middle, high = (measure(a, _with(name, x))[0] for x in places)
            slope, size = (high - low) / (places[2] - places[0]), abs(low) + abs(high)
            if abs(slope) < 1e-6 * size or abs(low + slope * (places[1] - places[0]) - middle) > 1e-9 * size:
                continue
            zero = places[0] - low / slope
            value, error = measure(b, _with(name, zero))
            size = sum(abs(measure(b, _with(name, x))[0]) for x in places)
        except Undecided:
            continue
        if abs(value) > 1e-6 * size + 1e-9 * (1 + abs(zero)) + 10 * error:
            return True
    return False
