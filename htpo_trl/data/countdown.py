"""The laptop task: countdown with a written search.

From three numbers (1-9) reach the target (10-99) with + - *, each number once, every intermediate value in 0-99. A
prompt is `2,5,9>43:`, a completion `5-2=3,3+9=12?5*9=45,45-2=43!`: attempts of two equations, `?` drops an attempt and
`!` submits it. With four numbers, `2,4,5,9>47:`, an attempt has three equations, `5*9=45,45-2=43,43+4=47`, and
intermediate values go up to 999: searches of some 170 characters, long enough for the rules that detach tokens. The
prompt tells which it is. Answers are checked by integer arithmetic on parsed digits; text is never evaluated.
"""

import hashlib
import math
import operator
import random
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import combinations, combinations_with_replacement
from typing import NamedTuple

from ..utils import UsageError


#: All characters of prompts and completions.
SYMBOLS = "0123456789+-*=,>:?!"


class Searcher(NamedTuple):
    """
    How sloppy the searches are that a warm start learns from: each attempt is a solution with the probability `solves`
    and random play otherwise, a wrong attempt is submitted anyway with the probability `submits`. So is the last, in
    any case: of `attempts` or, before that, the one after which another might not fit into `tokens`, the end included.
    """

    solves: float
    submits: float
    attempts: int
    tokens: int | None = None


#: By how many numbers the problems have.
SEARCHERS = {3: Searcher(0.4, 0.35, 5), 4: Searcher(0.25, 0.04, 14, tokens=320)}
#: The splits. Test and validation hold a tenth of the solvable problems each, of the many with four numbers one in
#: 128, by a hash of numbers and target.
SPLITS = ("test", "validation", "train")
_HELD_OUT = {3: 10, 4: 128}
_DIGITS = {3: 2, 4: 3}  # of the largest intermediate value
_LONGEST = len("9*9=81,81*9=729,729-9=720?")  # attempt at four numbers, with its mark
_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_PROMPT = re.compile(r"([1-9](?:,[1-9]){2,3})>([1-9]\d):", re.ASCII)
_EQUATIONS = {
    count: rf"(\d{{1,{digits}}})([-+*])(\d{{1,{digits}}})=(\d{{1,{digits}}})" for count, digits in _DIGITS.items()
}
_ATTEMPTS = {count: re.compile(",".join([text] * (count - 1)), re.ASCII) for count, text in _EQUATIONS.items()}


class Problem(NamedTuple):
    """Three or four numbers in ascending order, and the target."""

    numbers: tuple[int, ...]
    target: int

    def prompt(self, rng: random.Random) -> str:
        """The problem as text, its numbers in random order."""
        return f"{','.join(map(str, rng.sample(self.numbers, len(self.numbers))))}>{self.target}:"


def problems(split: str, numbers: int = 3) -> list[Problem]:
    """All solvable problems of a split, one of `SPLITS`, with three numbers or four."""
    if split not in SPLITS:
        raise UsageError(f"split={split!r} of countdown is none of {', '.join(SPLITS)}.")
    if numbers not in SEARCHERS:
        raise UsageError(f"numbers={numbers!r} of countdown is none of {', '.join(map(str, SEARCHERS))}.")
    digests = {p: hashlib.sha256(f"{p.numbers}>{p.target}".encode()).digest() for p in _derivations(numbers)}
    return [p for p, digest in digests.items() if SPLITS[min(digest[0] % _HELD_OUT[numbers], 2)] == split]


def rows(split: str, seed: int = 0, numbers: int = 3) -> list[dict[str, str]]:
    """
    The problems of a split as rows of a data set, each with its numbers in an order by the seed. A problem has many
    solutions: the column `solution` holds the first of them, to look at and not to compare with.
    """
    rng = random.Random(seed)
    return [
        {
            "prompt": problem.prompt(rng),
            "solution": f"{_derivations(numbers)[problem][0]}!",
            "problem": f"{','.join(map(str, problem.numbers))}>{problem.target}",
        }
        for problem in problems(split, numbers)
    ]


def write_search(problem: Problem, rng: random.Random, searcher: Searcher | None = None) -> str:
    """A sloppy searcher's completion, to learn the form of a search from; by default of that of `SEARCHERS`."""
    count = len(problem.numbers)
    searcher = searcher or SEARCHERS[count]
    text = ""
    for attempt in range(1, searcher.attempts + 1):
        solves = rng.random() < searcher.solves
        derivation = rng.choice(_derivations(count)[problem] if solves else _plays(problem.numbers))
        text += derivation
        is_last = attempt == searcher.attempts or len(text) + 2 + _LONGEST > (searcher.tokens or math.inf)
        if derivation.endswith(f"={problem.target}") or is_last or rng.random() < searcher.submits:
            break
        text += "?"
    return text + "!"


def is_solution(prompt: str, completion: str) -> bool:
    """Whether the attempt that a completion submits is a correct derivation of the prompt's target."""
    if (problem := _PROMPT.fullmatch(prompt)) is None:
        raise UsageError(f"Not a countdown prompt: {prompt!r}; expected one like '2,5,9>43:' or '2,4,5,9>47:'.")
    numbers, target = [int(number) for number in problem[1].split(",")], int(problem[2])
    submitted = completion[:-1].rpartition("?")[2] if completion.endswith("!") else ""
    if _ATTEMPTS[len(numbers)].fullmatch(submitted) is None:
        return False
    left = Counter(numbers)
    for a, sign, b, result in re.findall(_EQUATIONS[len(numbers)], submitted):
        used = Counter((int(a), int(b)))
        if used - left or _OPERATORS[sign](int(a), int(b)) != int(result):
            return False
        left = left - used + Counter((int(result),))
    return left == Counter((target,))


def countdown_reward(prompts: list, completions: list, **kwargs) -> list[float | None]:
    """
    TRL reward function: 1.0 where the last line of a completion submits a solution, else 0.0; `None` where the last
    line of the prompt is no problem of countdown but of another task. Both may be conversations.
    """
    pairs = zip(map(_last_line, prompts), map(_last_line, completions), strict=True)
    return [float(is_solution(*pair)) if _PROMPT.fullmatch(pair[0]) else None for pair in pairs]


def _last_line(text_or_messages: str | list[dict]) -> str:
    text = text_or_messages if isinstance(text_or_messages, str) else text_or_messages[-1].get("content") or ""
    if isinstance(text, list):  # a message in parts
        text = "".join(part.get("text") or "" for part in text)
    return (text.strip().splitlines() or [""])[-1]


@cache
def _plays(numbers: tuple[int, ...]) -> list[str]:
    """
    Every way to use all the numbers, whatever it ends in, such as `5*9=45,45-2=43`: each sum and product written in
    one order, with the last result first, so that there is less form to learn. The verifier accepts any order.
    """
    return sorted({",".join(play) for play in _ways(numbers, 10 ** _DIGITS[len(numbers)] - 1)})


def _ways(numbers: tuple[int, ...], limit: int) -> Iterator[tuple[str, ...]]:
    for i, j in combinations(range(len(numbers)), 2):
        rest = tuple(number for place, number in enumerate(numbers) if place not in (i, j))
        for first, middle in _equations(numbers[i], numbers[j]):
            for more in _going_on(middle, rest, limit):
                yield first, *more
            if i == 0 and len(rest) == 2:  # two pairs, and their results
                for second, other in _equations(*rest):
                    yield from ((first, second, third) for third, end in _equations(middle, other) if end <= limit)


def _going_on(value: int, rest: tuple[int, ...], limit: int) -> Iterator[tuple[str, ...]]:
    """The equations that take the other numbers one by one."""
    if not rest:
        yield ()
    for i, number in enumerate(rest):
        for equation, result in _equations(value, number):
            if result <= limit:
                yield from ((equation, *more) for more in _going_on(result, rest[:i] + rest[i + 1 :], limit))


def _equations(a: int, b: int) -> list[tuple[str, int]]:
    """Sum, product and difference of two numbers, written out, and their values."""
    low, high = sorted((a, b))
    values = {f"{a}+{b}": a + b, f"{a}*{b}": a * b, f"{high}-{low}": high - low}
    return [(f"{term}={value}", value) for term, value in values.items()]


@cache
def _derivations(count: int) -> dict[Problem, list[str]]:
    """Every solvable problem of so many numbers with all its solutions."""
    solutions: dict[Problem, list[str]] = {}
    for numbers in combinations_with_replacement(range(1, 10), count):
        for play in _plays(numbers):
            target = int(play.rpartition("=")[2])
            if 10 <= target <= 99:
                solutions.setdefault(Problem(numbers, target), []).append(play)
    return solutions
