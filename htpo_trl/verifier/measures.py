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

from .values import Atom, Polynomial, UndecidedError, Value, spend


#: Relative difference up to which a decimal stands for a number that it does not equal: six significant digits.
TOLERANCE = Fraction(5, 10**6)
_NOISE = Fraction(1, 10**14)  # of floating-point numbers that are printed in full
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
    return gap <= _NOISE * size or (gap < unit and gap <= TOLERANCE * size)


# By atom: at the place where letters are.
_known: WeakKeyDictionary[Atom, tuple[complex, float]] = WeakKeyDictionary()
_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    **{name: getattr(cmath, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{f"arc{name}": getattr(cmath, f"a{name}") for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{"ln": cmath.log, "log": cmath.log10},
}


def measure(value: Value) -> tuple[complex, float]:
    """The value as a number, and a bound of its error."""
    total, error = 0j, 0.0
    spend(len(value.terms) // 8)
    try:
        for monomial, coefficient in value.terms.items():
            term, relative = complex(float(coefficient)), 2 * _EPSILON
            for atom, power in monomial:
                base, uncertainty = (complex(atom), 0.0) if isinstance(atom, int) else _measure_atom(atom)
                if abs(base) <= 100 * uncertainty:
                    raise UndecidedError
                term *= base ** float(power)
                relative += (2 * abs(float(power)) + 2) * (uncertainty / abs(base) + _EPSILON)
            total += term
            error += abs(term) * relative + abs(total) * _EPSILON
    except (OverflowError, ZeroDivisionError, ValueError) as reason:
        raise UndecidedError from reason
    if not (math.isfinite(abs(total)) and math.isfinite(error)):
        raise UndecidedError
    # On the side of a branch cut where the real numbers are.
    return (complex(total.real) if abs(total.imag) <= 4 * error else total), error


def _measure_atom(atom: Atom) -> tuple[complex, float]:
    if (known := _known.get(atom)) is None:
        spend(1)
        measures = [measure(argument) for argument in atom.arguments]
        if atom.kind == "letter":
            known = complex(random.Random(atom.name).uniform(0.2, 0.8)), 0.0
        elif atom.kind == "constant":
            known = {"pi": complex(math.pi), "e": complex(math.e), "i": 1j}[atom.name], _EPSILON
        elif atom.kind == "power":
            known = _power(*measures[0], *measures[1], atom.arguments[1].rational is not None)
        else:
            known = _call(atom.name, *measures[0])
        _known[atom] = known
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


def _call(name: str, z: complex, error: float) -> tuple[complex, float]:
    function = _FUNCTIONS[name] if name in _FUNCTIONS else _any_function(name)
    step = 1e-6 * (1 + abs(z))
    if error > step / 100:
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
    try:
        if (differ := _differ(a, b)) is not None:
            return not differ
    except UndecidedError:
        pass  # there is no number; the form may decide
    return None if (a - b).terms else True


def _differ(a: Value, b: Value) -> bool | None:
    """Whether two values differ by more than the errors of their numbers, and, of decimals, than is forgiven."""
    (x, error_x), (y, error_y) = measure(a), measure(b)
    gap, size, forgiven = abs(x - y), max(abs(x), abs(y)), 0.0
    error = 4 * (error_x + error_y) + 1e-12 * size
    if a.is_rounded or b.is_rounded:
        forgiven = (1e-4 if a.rational is None and b.rational is None else float(TOLERANCE)) * size
    if (unit := a.unit or b.unit) is not None:
        forgiven = min(forgiven, float(unit))
    if gap > error + 1.001 * forgiven:
        return True
    return False if unit and a.is_rounded != b.is_rounded and gap + error < 0.999 * forgiven else None


def is_name(answer: object) -> bool:
    r"""Whether this names something, as x, AB, f(x), `\angle ABC` do."""
    if not isinstance(answer, Value) or answer.term is None:
        return False
    monomial, coefficient = answer.term
    kinds = {atom.kind if isinstance(atom, Atom) else "" for atom, _ in monomial}
    return coefficient == 1 and (kinds == {"letter"} or (answer.atom is not None and kinds == {"unknown"}))


def is_multiple(a: Value, b: Value) -> bool:
    """Whether one is a rational multiple of the other, neither zero."""
    if a.terms.keys() != b.terms.keys():
        return False
    return len({b.terms[monomial] / a.terms[monomial] for monomial in a.terms}) == 1


def have_other_zeros(a: Value, b: Value) -> bool:
    """Whether two values that are linear in a letter are zero at different values of it."""
    for atom in {atom for monomial in a.terms for atom, _ in monomial if isinstance(atom, Atom)}:
        line, other = _line(a, atom), _line(b, atom)
        if atom.kind == "letter" and line and other and equal(line[0] * other[1], line[1] * other[0]) is False:
            return True
    return False


def _line(value: Value, atom: Atom) -> tuple[Value, Value] | None:
    """Slope and intercept of a value that is linear in a letter."""
    slope: Polynomial = {}
    rest: Polynomial = {}
    for monomial, coefficient in value.terms.items():
        others = monomial - {(atom, Fraction(1))}
        if any(isinstance(other, Atom) and atom.letters & other.letters for other, _ in others):
            return None
        (rest if others == monomial else slope)[others] = coefficient
    return (Value(slope, None, value.is_rounded), Value(rest, None, value.is_rounded)) if slope else None
