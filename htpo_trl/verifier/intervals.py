"""Unions of intervals and finite sets as sets of real numbers, by the numbers of their ends."""

import math
from collections.abc import Iterator

from .measures import measure
from .reading import Answer, is_constant
from .values import UndecidedError, Value


def pieces_of(answer: Answer) -> list[list[tuple[float, bool]]]:
    """The ends of the pieces that do not touch, and whether they are open."""
    found: list[list[tuple[float, bool]]] = []
    for low, high in sorted(_intervals(answer)):
        last = found[-1][1] if found else None
        if last is None or not (low[0] < last[0] or (_is_near(low[0], last[0]) and not (low[1] and last[1]))):
            found.append([low, high])
        elif high[0] > last[0] or _is_near(high[0], last[0]):
            found[-1][1] = (high[0], high[1] and (last[1] or not _is_near(high[0], last[0])))
    return found


def _intervals(answer: Answer) -> Iterator[tuple[tuple[float, bool], tuple[float, bool]]]:
    if isinstance(answer, Value):
        yield (_place(answer), False), (_place(answer), False)
    elif answer.name == "tuple" and len(answer.parts) == 2:
        low, high = map(_place, answer.parts)
        yield (low, answer.marks[0] == "("), (high, answer.marks[1] == ")")
    elif answer.name in ("union", "set", "list"):
        for part in answer.parts:
            yield from _intervals(part)
    else:
        raise UndecidedError


def are_near(pieces: list[list[tuple[float, bool]]], others: list[list[tuple[float, bool]]]) -> bool:
    """Whether pieces have the same ends, but for errors of their numbers."""
    ends, other_ends = ([end for piece in both for end in piece] for both in (pieces, others))
    if len(ends) != len(other_ends):
        return False
    return all(_is_near(x, y) and a == b for (x, a), (y, b) in zip(ends, other_ends, strict=True))


def _place(answer: Answer) -> float:
    if not isinstance(answer, Value) or not is_constant(answer):
        raise UndecidedError
    if answer.letters:
        return math.inf * (-1 if any(c < 0 for c in answer.numerator.values()) else 1)
    return measure(answer)[0].real


def _is_near(x: float, y: float) -> bool:
    return x == y or math.isclose(x, y, rel_tol=1e-9, abs_tol=1e-12)
