"""
Numbers and expressions in an exact form: quotients of polynomials with rational coefficients.

Their variables are *atoms*: letters, primes below a root, pi, e, i, and functions and powers of such quotients. Two
forms that are equal have equal values, whatever the atoms are. The converse does not hold (see `measures.py`): roots
are resolved down to primes, but sums below a root, say, are atoms as they stand. Terms, digits and work are bounded.
"""

import math
import threading
from collections.abc import Hashable
from fractions import Fraction
from typing import NamedTuple
from weakref import WeakValueDictionary


MAX_TERMS, MAX_BITS, MAX_WORK = 200, 8_000, 4_000


class UndecidedError(Exception):
    """It takes algebra, or more than the bounds allow."""


class _Work(threading.local):
    left = MAX_WORK


_work = _Work()


def start_work() -> None:
    """Grants this thread the work for one comparison."""
    _work.left = MAX_WORK


def spend(work: int) -> None:
    _work.left -= work
    if _work.left < 0:
        raise UndecidedError


class Atom:
    """
    A variable of polynomials. Equal ones are one object: compared by what they are made of, nested powers would take
    exponential time.

    Args:
        kind (`str`):
            `letter`, `constant`, `power`, `call` (of a function) or `unknown` (of one by its name).
        name (`str`):
            Of the letter, constant or function.
        arguments (`tuple` of [`Value`]):
            Of the function, or base and exponent.
    """

    __slots__ = ("__weakref__", "arguments", "kind", "name")
    _all: "WeakValueDictionary[Hashable, Atom]" = WeakValueDictionary()

    def __init__(self, kind: str, name: str, arguments: tuple["Value", ...]):
        self.kind, self.name, self.arguments = kind, name, arguments

    @classmethod
    def of(cls, kind: str, name: str, *arguments: "Value") -> "Value":
        """The value that is just this atom."""
        parts = (frozenset(terms.items()) for value in arguments for terms in value[:2])
        atom = cls._all.setdefault((kind, name, *parts), cls(kind, name, arguments))
        return Value({frozenset([(atom, Fraction(1))]): Fraction(1)}, is_rounded=any(a.is_rounded for a in arguments))


Monomial = frozenset[tuple[Atom | int, Fraction]]
Polynomial = dict[Monomial, Fraction]
ONE: Polynomial = {frozenset(): Fraction(1)}


class Value(NamedTuple):
    """
    A number or expression.

    Args:
        numerator (`dict`):
            Coefficient by monomial; a monomial has the exponents of its atoms.
        denominator (`dict`):
            `ONE`, or of several terms.
        unit (`Fraction`, *optional*):
            Of the last place, where this is a plain decimal: 0.01 for 3.14.
        is_rounded (`bool`):
            There is a decimal in it.
        is_percentage (`bool`):
            It was given with a percent sign.
    """

    numerator: Polynomial
    denominator: Polynomial = ONE
    unit: Fraction | None = None
    is_rounded: bool = False
    is_percentage: bool = False

    @property
    def term(self) -> tuple[Monomial, Fraction] | None:
        """Monomial and coefficient, where there is just one term."""
        return next(iter(self.numerator.items())) if self.denominator is ONE and len(self.numerator) == 1 else None

    @property
    def rational(self) -> Fraction | None:
        if not self.numerator:
            return Fraction(0)
        monomial, coefficient = self.term or (True, None)
        return None if monomial else coefficient

    @property
    def atom(self) -> Atom | None:
        """Where this is just an atom."""
        monomial, coefficient = self.term or ((), None)
        for atom, power in monomial if coefficient == 1 and len(monomial) == 1 else ():
            return atom if power == 1 and isinstance(atom, Atom) else None
        return None

    @property
    def letters(self) -> frozenset[str]:
        """The names of the letters, and of unknown functions."""
        found: set[str] = set()
        seen: set[Atom] = set()
        values = [self]
        while values:
            value = values.pop()
            for atom in {atom for terms in value[:2] for monomial in terms for atom, _ in monomial}:
                if isinstance(atom, Atom) and atom not in seen:
                    seen.add(atom)
                    values += atom.arguments
                    if atom.kind in ("letter", "unknown"):
                        found.add(atom.name)
        return frozenset(found)

    def __add__(self, other: "Value") -> "Value":  # type: ignore[override]
        numerator, terms, denominator = self.numerator, other.numerator, self.denominator
        if self.denominator != other.denominator:
            numerator = _product(numerator, other.denominator)
            terms = _product(terms, self.denominator)
            denominator = _product(denominator, other.denominator)
        total = dict(numerator)
        for monomial, coefficient in terms.items():
            _add_term(total, monomial, coefficient)
        return _quotient(total, denominator, self, other)

    def __mul__(self, other: "Value") -> "Value":  # type: ignore[override]
        numerator = _product(self.numerator, other.numerator)
        return _quotient(numerator, _product(self.denominator, other.denominator), self, other)

    def __neg__(self) -> "Value":
        return self._replace(numerator={monomial: -c for monomial, c in self.numerator.items()})

    def __sub__(self, other: "Value") -> "Value":
        return self + -other

    def __truediv__(self, other: "Value") -> "Value":
        if not other.numerator:
            raise UndecidedError
        inverse = _quotient(other.denominator, other.numerator, other)
        return self * inverse

    def __pow__(self, exponent: "Value") -> "Value":
        e = exponent.rational
        if not self.numerator and e and e > 0:
            return self
        if e is None or (e.denominator > 1 and not self._has_roots):
            return Atom.of("power", "", self, exponent)
        if e < 0:
            return number(1) / self ** number(-e)
        if (base := self.rational) is not None and e.denominator == 1:
            bits = max(abs(base.numerator), base.denominator).bit_length()
            if abs(base) not in (0, 1) and bits * e > MAX_BITS:
                raise UndecidedError
            return number(base ** int(e % 2 + 2 * (e > 1) if abs(base) == 1 else e), self)
        if self.term:
            return self._term_power(e)
        result, square, n = number(1), self, int(e)
        while n:
            result = result * square if n & 1 else result
            square = square * square if n > 1 else square
            n >>= 1
        return result

    @property
    def _has_roots(self) -> bool:
        """Whether this is a positive number times constants, or a letter: (x^2)^(1/2) is not x."""
        monomial, coefficient = self.term or ((), Fraction(0))
        return coefficient > 0 and all(
            isinstance(atom, int)
            or (atom.kind == "constant" and atom.name != "i")
            or (atom.kind == "letter" and power == len(monomial) == 1)
            for atom, power in monomial
        )

    def _term_power(self, e: Fraction) -> "Value":
        monomial, coefficient = self.term  # type: ignore[misc]
        powers: dict[Atom | int, Fraction] = {atom: power * e for atom, power in monomial}
        if e.denominator == 1:
            factor = number(coefficient) ** number(e)
        else:
            factor = number(1)
            for prime, power in primes(coefficient).items():
                powers[prime] = powers.get(prime, Fraction(0)) + power * e
        normal, rest = _normal(powers)
        return Value({normal: rest}, is_rounded=self.is_rounded) * factor


def number(value: Fraction | int, *origins: Value) -> Value:
    return _quotient({frozenset(): Fraction(value)} if value else {}, ONE, *origins)


def letter(name: str) -> Value:
    return Atom.of("letter", name)


PI, E, I = (Atom.of("constant", name) for name in ("pi", "e", "i"))  # noqa: E741


def primes(value: Fraction) -> dict[int, Fraction]:
    """Exponents by prime. What has no small factor counts as one: equality may be missed then, none is wrong."""
    found: dict[int, Fraction] = {}
    for n, sign in ((value.numerator, 1), (value.denominator, -1)):
        if n.bit_length() > 512:
            raise UndecidedError
        for p in (2, *range(3, 1000, 2)):
            if p * p > n:
                break
            while n % p == 0:
                n //= p
                found[p] = found.get(p, Fraction(0)) + sign
        if n > 1:
            root = math.isqrt(n)
            base, power = (root, 2) if root * root == n else (n, 1)
            found[base] = found.get(base, Fraction(0)) + sign * power
    return found


def _normal(powers: dict[Atom | int, Fraction]) -> tuple[Monomial, Fraction]:
    """The product of powers of atoms, and the rational number in it."""
    factor, left = Fraction(1), []
    spend(len(powers) // 4)
    for atom, power in powers.items():
        if isinstance(atom, int):
            whole = math.floor(power)
            if abs(whole) * atom.bit_length() > MAX_BITS:
                raise UndecidedError
            factor, power = factor * Fraction(atom) ** whole, power - whole
        elif atom is I.atom and power.denominator == 1:
            factor, power = factor * (-1 if power % 4 >= 2 else 1), power % 2
        if power:
            left.append((atom, power))
    return frozenset(left), factor


def _add_term(polynomial: Polynomial, monomial: Monomial, coefficient: Fraction) -> None:
    total = polynomial.pop(monomial, Fraction(0)) + coefficient
    bits = max(total.numerator.bit_length(), total.denominator.bit_length())
    spend(1 + bits // 64)
    if total:
        polynomial[monomial] = total
    if len(polynomial) > MAX_TERMS or bits > MAX_BITS:
        raise UndecidedError


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    if a is ONE or b is ONE:
        return a if b is ONE else b
    result: Polynomial = {}
    for m, c in a.items():
        for n, d in b.items():
            monomial, factor = m or n, Fraction(1)
            if m and n:
                powers = dict(m)
                for atom, power in n:
                    powers[atom] = powers.get(atom, Fraction(0)) + power
                monomial, factor = _normal(powers)
            _add_term(result, monomial, c * d * factor)
    return result


def _quotient(numerator: Polynomial, denominator: Polynomial, *origins: Value) -> Value:
    if denominator is not ONE and len(denominator) == 1:
        ((monomial, coefficient),) = denominator.items()
        powers, factor = _normal({atom: -power for atom, power in monomial})
        numerator, denominator = _product(numerator, {powers: factor / coefficient}), ONE
    return Value(numerator, denominator, None, any(value.is_rounded for value in origins))
