"""
Numbers and expressions in an exact form: sums of products of atoms, with rational coefficients.

*Atoms* are letters, primes below a root, pi, e, i, and functions and powers of such sums. Two forms that are equal
have equal values, whatever the atoms are. The converse does not hold (see `measures.py`): roots are resolved down to
primes, but sums below a root or a fraction's line are atoms as they stand. Terms, digits and work are bounded.
"""

import math
import threading
from collections.abc import Hashable
from fractions import Fraction
from typing import NamedTuple
from weakref import WeakValueDictionary


_MAX_TERMS, _MAX_BITS, _MAX_WORK = 200, 8_000, 4_000


class UndecidedError(Exception):
    """It takes algebra, or more than the bounds allow."""


class _Work(threading.local):
    left = _MAX_WORK


_work = _Work()


def start_work() -> None:
    """Grants this thread the work for one comparison."""
    _work.left = _MAX_WORK


def spend(work: int) -> None:
    """Takes from what a comparison may cost; raises [`UndecidedError`] when nothing is left."""
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

    Attributes:
        letters (`frozenset` of `str`):
            The names of the letters in it, and of unknown functions.
    """

    __slots__ = ("__weakref__", "arguments", "kind", "letters", "name")
    _all: "WeakValueDictionary[Hashable, Atom]" = WeakValueDictionary()

    def __init__(self, kind: str, name: str, arguments: tuple["Value", ...]):
        self.kind, self.name, self.arguments = kind, name, arguments
        names = {name} if kind in ("letter", "unknown") else ()
        self.letters = frozenset(names).union(*(value.letters for value in arguments))

    @classmethod
    def of(cls, kind: str, name: str, *arguments: "Value") -> "Value":
        """The value that is just this atom."""
        parts = (frozenset(value.terms.items()) for value in arguments)
        atom = cls._all.setdefault((kind, name, *parts), cls(kind, name, arguments))
        return Value({frozenset([(atom, Fraction(1))]): Fraction(1)}, is_rounded=any(a.is_rounded for a in arguments))


Monomial = frozenset[tuple[Atom | int, Fraction]]
Polynomial = dict[Monomial, Fraction]


class Value(NamedTuple):
    """
    A number or expression.

    Args:
        terms (`dict`):
            Coefficient by monomial; a monomial has the exponents of its atoms.
        unit (`Fraction`, *optional*):
            Of the last place, where this is a plain decimal: 0.01 for 3.14.
        is_rounded (`bool`):
            There is a decimal in it.
        is_percentage (`bool`):
            It was given with a percent sign.
    """

    terms: Polynomial
    unit: Fraction | None = None
    is_rounded: bool = False
    is_percentage: bool = False

    @property
    def term(self) -> tuple[Monomial, Fraction] | None:
        """Monomial and coefficient, where there is just one term."""
        return next(iter(self.terms.items())) if len(self.terms) == 1 else None

    @property
    def rational(self) -> Fraction | None:
        if not self.terms:
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
        atoms = {atom for monomial in self.terms for atom, _ in monomial if isinstance(atom, Atom)}
        return frozenset().union(*(atom.letters for atom in atoms))

    def __add__(self, other: "Value") -> "Value":  # type: ignore[override]
        total = dict(self.terms)
        for monomial, coefficient in other.terms.items():
            _add_term(total, monomial, coefficient)
        return _value(total, self, other)

    def __mul__(self, other: "Value") -> "Value":  # type: ignore[override]
        product: Polynomial = {}
        for m, c in self.terms.items():
            for n, d in other.terms.items():
                monomial, factor = m or n, Fraction(1)
                if m and n:
                    powers = dict(m)
                    for atom, power in n:
                        powers[atom] = powers.get(atom, Fraction(0)) + power
                    monomial, factor = _normal(powers)
                _add_term(product, monomial, c * d * factor)
        # 1.3 times 10^-27 is a decimal too.
        scale = other.rational if other.unit is None else None
        unit = self.unit * abs(scale) if self.unit is not None and scale is not None else None
        return _value(product, self, other)._replace(unit=unit)

    def __neg__(self) -> "Value":
        return self._replace(terms={monomial: -c for monomial, c in self.terms.items()})

    def __sub__(self, other: "Value") -> "Value":
        return self + -other

    def __truediv__(self, other: "Value") -> "Value":
        if not other.terms:
            raise UndecidedError
        if other.term is None:
            return self * Atom.of("power", "", other, number(-1))
        monomial, coefficient = other.term
        powers, factor = _normal({atom: -power for atom, power in monomial})
        return self * _value({powers: factor / coefficient}, other)

    def __pow__(self, exponent: "Value") -> "Value":
        e = exponent.rational
        if not self.terms and e and e > 0:
            return self
        if e is None or (e.denominator > 1 and not self._has_roots):
            return Atom.of("power", "", self, exponent)
        if e < 0:
            return number(1) / self ** number(-e)
        if (base := self.rational) is not None and e.denominator == 1:
            bits = max(abs(base.numerator), base.denominator).bit_length()
            if abs(base) not in (0, 1) and bits * e > _MAX_BITS:
                raise UndecidedError
            return number(base ** int(e % 2 if abs(base) == 1 else e), self)
        if self.term:
            return self._term_power(e)
        result = number(1)
        for _ in range(int(e)):
            result = result * self
        return result

    @property
    def _has_roots(self) -> bool:
        """Whether this is a positive number times constants, or a letter: (x^2)^(1/2) is not x."""
        monomial, coefficient = self.term or ((), Fraction(0))
        return coefficient > 0 and all(
            isinstance(atom, int)
            or atom in (PI.atom, E.atom)
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
            for prime, power in _primes(coefficient).items():
                powers[prime] = powers.get(prime, Fraction(0)) + power * e
        normal, rest = _normal(powers)
        return Value({normal: rest}, is_rounded=self.is_rounded) * factor


def number(value: Fraction | int, *origins: Value) -> Value:
    """A rational number, with what is known of the values that it comes from."""
    return _value({frozenset(): Fraction(value)} if value else {}, *origins)


def letter(name: str) -> Value:
    """A letter, or a name."""
    return Atom.of("letter", name)


#: Constants that are no rational numbers.
PI, E, I = (Atom.of("constant", name) for name in ("pi", "e", "i"))  # noqa: E741


def _primes(value: Fraction) -> dict[int, Fraction]:
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
            found[n] = found.get(n, Fraction(0)) + sign
    return found


def _normal(powers: dict[Atom | int, Fraction]) -> tuple[Monomial, Fraction]:
    """The product of powers of atoms, and the rational number in it."""
    factor, left = Fraction(1), []
    spend(len(powers) // 4)
    for atom, power in powers.items():
        if isinstance(atom, int):
            whole = math.floor(power)
            if abs(whole) * atom.bit_length() > _MAX_BITS:
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
    if len(polynomial) > _MAX_TERMS or bits > _MAX_BITS:
        raise UndecidedError


def _value(terms: Polynomial, *origins: Value) -> Value:
    return Value(terms, is_rounded=any(value.is_rounded for value in origins))
