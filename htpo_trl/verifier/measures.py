"""
Whether two values are the same answer: the same in exact form, or not the same in numbers.

That two values differ is shown at one point, at which every letter is a random number, by more than the error of the
floating-point arithmetic, which is carried along. That they are equal is never concluded from numbers, except for
decimals, which may be rounded. What is neither stays undecided.
"""

import cmath
import math
import random
from collections.abc import Callable
from fractions import Fraction
from weakref import WeakKeyDictionary

from .values import ONE, Atom, Polynomial, UndecidedError, Value, spend


# Relative difference up to which a decimal stands for a number that it does not equal: six significant digits.
TOLERANCE = Fraction(5, 10**6)
NOISE = Fraction(1, 10**14)  # of floating-point numbers that are printed in full
_EPSILON = 1e-15


def numbers_agree(a: Fraction, b: Fraction, unit_a: Fraction | None = None, unit_b: Fraction | None = None) -> bool:
    """
    Whether two numbers are the same answer. The unit is that of a decimal's last place (0.01 for 3.14), `None` for
    what is no decimal. Numbers that are no decimals, and decimals with equally many places, must be equal. Else they
    may differ by less than the unit, the greater of two, and by a relative `TOLERANCE`: a decimal is cut or rounded.
    """
    if a == b or unit_a == unit_b:
        return a == b
    size = max(abs(a), abs(b))
    unit = max(unit_a or Fraction(0), unit_b or Fraction(0))
    gap = abs(a - b)
    return gap <= NOISE * size or (gap < unit and gap <= TOLERANCE * size)


class Point:
    """Where letters are."""

    def __init__(self, place: Callable[[str], complex]):
        self.place = place
        self.known: WeakKeyDictionary[Atom, tuple[complex, float]] = WeakKeyDictionary()


REAL = Point(lambda name: complex(random.Random(name).uniform(0.2, 0.8)))
# For what is meant for integers: n - floor(n/2) is ceil(n/2). What differs here, differs in general.
WHOLE = tuple(Point(lambda name, i=i: complex(random.Random(f"{name} {i}").randint(7, 40))) for i in range(2))  # type: ignore[misc]

_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    **{name: getattr(cmath, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{f"arc{name}": getattr(cmath, f"a{name}") for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{"cot": lambda z: 1 / cmath.tan(z), "sec": lambda z: 1 / cmath.cos(z), "csc": lambda z: 1 / cmath.sin(z)},
    **{"ln": cmath.log, "abs": lambda z: complex(abs(z)), "factorial": lambda z: complex(math.gamma(z.real + 1))},
}
_STEPS = {"floor": lambda x: math.floor(x + 1e-9), "ceil": lambda x: math.ceil(x - 1e-9)}


def measure(value: Value, point: Point = REAL) -> tuple[complex, float]:
    """The value as a number, and a bound of its error."""
    try:
        result, error = _measure_polynomial(value.numerator, point)
        if value.denominator is not ONE:
            bottom, bottom_error = _measure_polynomial(value.denominator, point)
            if abs(bottom) <= 100 * bottom_error:
                raise UndecidedError
            result /= bottom
            error = 2 * (error + abs(result) * bottom_error) / abs(bottom)
    except (OverflowError, ZeroDivisionError, ValueError) as reason:
        raise UndecidedError from reason
    if not (math.isfinite(abs(result)) and math.isfinite(error)):
        raise UndecidedError
    # On the side of a branch cut where the real numbers are.
    return (complex(result.real) if abs(result.imag) <= 4 * error else result), error


def _measure_polynomial(polynomial: Polynomial, point: Point) -> tuple[complex, float]:
    total, error = 0j, 0.0
    spend(len(polynomial) // 8)
    for monomial, coefficient in polynomial.items():
        term, relative = complex(float(coefficient)), 2 * _EPSILON
        for atom, power in monomial:
            value, uncertainty = (complex(atom), 0.0) if isinstance(atom, int) else _measure_atom(atom, point)
            if abs(value) <= 100 * uncertainty:
                raise UndecidedError
            term *= value ** float(power)
            relative += (2 * abs(float(power)) + 2) * (uncertainty / abs(value) + _EPSILON)
        total += term
        error += abs(term) * relative + abs(total) * _EPSILON
    return total, error


def _measure_atom(atom: Atom, point: Point) -> tuple[complex, float]:
    if (known := point.known.get(atom)) is None:
        spend(1)
        measures = [measure(argument, point) for argument in atom.arguments]
        if atom.kind == "letter":
            known = point.place(atom.name), 0.0
        elif atom.kind == "constant":
            known = {"pi": complex(math.pi), "e": complex(math.e), "i": 1j}[atom.name], _EPSILON
        elif atom.kind == "power":
            known = _power(*measures[0], *measures[1], atom.arguments[1].rational is not None)
        else:
            known = _call(atom.name, *measures[0], point)
        point.known[atom] = known
    return known


def _power(b: complex, b_error: float, e: complex, e_error: float, is_root: bool) -> tuple[complex, float]:
    is_positive = b.real > 2 * b_error and not b.imag
    is_whole = abs(e - round(e.real)) <= e_error
    # (-1)^n is for integers, and the cube root of -8 is -2 for some and complex for others.
    if not is_positive and not is_whole and not (is_root and e in (0.5, -0.5)):
        raise UndecidedError
    power = b ** (round(e.real) if is_whole else e)
    slope = abs(e) * b_error / abs(b) + abs(cmath.log(b)) * e_error  # d(b^e) = b^e (e db/b + ln(b) de)
    return power, abs(power) * (2 * slope + 8 * _EPSILON * (1 + abs(e)))


def _call(name: str, z: complex, error: float, point: Point) -> tuple[complex, float]:
    if name in _STEPS:
        if point is REAL or z.imag or error > 1e-10:
            raise UndecidedError
        return complex(_STEPS[name](z.real)), 0.0
    function = _FUNCTIONS[name] if name in _FUNCTIONS else _any_function(name)
    step = 1e-6 * (1 + abs(z))
    if error > step / 100 or (name == "factorial" and z.imag):
        raise UndecidedError
    result = function(z)
    return result, 2 * error * abs(function(z + step) - result) / step + 8 * _EPSILON * (abs(result) + abs(z))


def _any_function(name: str) -> Callable[[complex], complex]:
    """For f(x), of which nothing is known: what holds for any function holds for this one."""
    a, b = (random.Random(f"{name} {i}").uniform(0.5, 1.5) for i in range(2))
    return lambda z: cmath.sin(a * z + b) + 2


# --- Comparison


def equal(a: Value, b: Value) -> bool | None:
    """Whether two values are the same answer; `None` where it takes algebra to tell."""
    p, q = a.rational, b.rational
    if p is not None and q is not None:
        if a.is_percentage != b.is_percentage and p != q and 100 * min(p, q, key=abs) == max(p, q, key=abs):
            return a.is_percentage == (abs(p) < abs(q))  # 25% and 25
        return numbers_agree(p, q, a.unit, b.unit)
    differ = None
    for point in (REAL, *WHOLE):
        try:
            differ = _differ(a, b, point)
        except UndecidedError:
            continue  # there is no number; the form may decide
        if differ is not None or not (a.letters or b.letters):
            break
    if differ and ((q is not None and _coefficient(a) == q) or (p is not None and _coefficient(b) == p)):
        return None  # a letter may be a unit: 5m
    if differ is not None:
        return not differ
    return None if (a - b).numerator else True


def _differ(a: Value, b: Value, point: Point) -> bool | None:
    """Whether two values differ by more than the errors of their numbers, and, of decimals, than is forgiven."""
    (x, error_x), (y, error_y) = measure(a, point), measure(b, point)
    gap, size = abs(x - y), max(abs(x), abs(y))
    error = 4 * (error_x + error_y) + 1e-12 * size
    if not (a.is_rounded or b.is_rounded):
        return True if gap > error else None
    if a.rational is None and b.rational is None:
        return True if gap > error + 1e-4 * size else None
    if gap > error + 1.001 * float(TOLERANCE) * size:
        return True
    unit = a.unit or b.unit
    if unit is None or (a.is_rounded and b.is_rounded):
        return None
    if gap > error + float(unit):
        return True
    return False if gap + error < min(float(unit), 0.999 * float(TOLERANCE) * size) else None


def _coefficient(value: Value) -> Fraction | None:
    """That of a product of letters."""
    monomial, coefficient = value.term or ((), None)
    is_product = monomial and all(isinstance(atom, Atom) and atom.kind == "letter" for atom, _ in monomial)
    return coefficient if is_product else None


def is_name(value: Value) -> bool:
    """Whether this names something, as x, AB, f(x) do."""
    return _coefficient(value) == 1 or (value.atom is not None and value.atom.kind == "unknown")


def constant_ratio(a: Value, b: Value) -> Fraction | None:
    """The rational number by which `a` is multiplied to get `b`."""
    if a.numerator.keys() != b.numerator.keys() or a.denominator != b.denominator or not a.numerator:
        return None
    ratios = {b.numerator[monomial] / a.numerator[monomial] for monomial in a.numerator}
    return ratios.pop() if len(ratios) == 1 else None


def have_other_zeros(a: Value, b: Value) -> bool:
    """Whether b is certainly not zero at some zero of a, looked for in a letter in which a is linear."""

    def at(name: str, place: complex) -> Point:
        return Point(lambda other: complex(place) if other == name else REAL.place(other))

    places = (0.3, 0.55, 0.9)
    for name in a.letters:
        try:
            low, middle, high = (measure(a, at(name, x))[0] for x in places)
            slope, size = (high - low) / (places[2] - places[0]), abs(low) + abs(high)
            if abs(slope) < 1e-6 * size or abs(low + slope * (places[1] - places[0]) - middle) > 1e-9 * size:
                continue
            zero = places[0] - low / slope
            value, error = measure(b, at(name, zero))
            size = sum(abs(measure(b, at(name, x))[0]) for x in places)
        except UndecidedError:
            continue
        if abs(value) > 1e-6 * size + 1e-9 * (1 + abs(zero)) + 10 * error:
            return True
    return False
