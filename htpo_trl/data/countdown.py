"""The laptop task: countdown with a written search.

From three numbers (1-9) reach the target (10-99) with + - *, each number once, every intermediate value in 0-99. A
prompt is `2,5,9>43:`, a completion `5-2=3,3+9=12?5*9=45,45-2=43!`: attempts of two equations, `?` drops an attempt and
`!` submits it. Answers are checked by integer arithmetic on parsed digits; text is never evaluated.
"""

import hashlib
import operator
import random
import re
from collections import Counter
from functools import cache
from itertools import combinations_with_replacement
from typing import NamedTuple

from ..utils import UsageError


#: All characters of prompts and completions.
SYMBOLS = "0123456789+-*=,>:?!"
#: Attempts of the searches that the warm start learns from.
MAX_ATTEMPTS = 5
_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_EQUATION = r"(\d{1,2})([-+*])(\d{1,2})=(\d{1,2})"
_ATTEMPT = re.compile(f"{_EQUATION},{_EQUATION}", re.ASCII)
_PROMPT = re.compile(r"([1-9]),([1-9]),([1-9])>([1-9]\d):", re.ASCII)

#: Of the solvable problems: a tenth each for test and validation, by a hash of numbers and target.
SPLITS = ("test", "validation", "train")


class Problem(NamedTuple):
    """Three numbers in ascending order, and the target."""

    numbers: tuple[int, int, int]
    target: int

    def prompt(self, rng: random.Random) -> str:
        """The problem as text, its numbers in random order."""
        return f"{','.join(map(str, rng.sample(self.numbers, 3)))}>{self.target}:"


def problems(split: str) -> list[Problem]:
    """All solvable problems of a split, one of `SPLITS`."""
    if split not in SPLITS:
        raise UsageError(f"split={split!r} of countdown is none of {', '.join(SPLITS)}.")
    digests = {p: hashlib.sha256(f"{p.numbers}>{p.target}".encode()).digest() for p in _derivations()}
    return [problem for problem, digest in digests.items() if SPLITS[min(digest[0] % 10, 2)] == split]


def rows(split: str, seed: int = 0) -> list[dict[str, str]]:
    """
    The problems of a split as rows of a data set, each with its numbers in an order by the seed. A problem has many
    solutions: the column `solution` holds the first of them, to look at and not to compare with.
    """
    rng = random.Random(seed)
    return [
        {
            "prompt": problem.prompt(rng),
            "solution": f"{_derivations()[problem][0]}!",
            "problem": f"{','.join(map(str, problem.numbers))}>{problem.target}",
        }
        for problem in problems(split)
    ]


def write_search(problem: Problem, rng: random.Random) -> str:
    """
    A sloppy searcher's completion, to learn the form of a search from: each attempt is a solution with probability 0.4
    and random play otherwise, a wrong attempt is submitted anyway with probability 0.35, the fifth in any case.
    """
    text = ""
    for attempt in range(1, MAX_ATTEMPTS + 1):
        solves = rng.random() < 0.4
        derivation = rng.choice(_derivations()[problem] if solves else _plays(problem.numbers))
        text += derivation
        if derivation.endswith(f"={problem.target}") or attempt == MAX_ATTEMPTS or rng.random() < 0.35:
            break
        text += "?"
    return text + "!"


def is_solution(prompt: str, completion: str) -> bool:
    """Whether the attempt that a completion submits is a correct derivation of the prompt's target."""
    if (problem := _PROMPT.fullmatch(prompt)) is None:
        raise UsageError(f"Not a countdown prompt: {prompt!r}; expected one like '2,5,9>43:'.")
    *numbers, target = map(int, problem.groups())
    submitted = completion[:-1].rpartition("?")[2] if completion.endswith("!") else ""
    if (attempt := _ATTEMPT.fullmatch(submitted)) is None:
        return False
    left = Counter(numbers)
    for a, sign, b, result in (attempt.groups()[:4], attempt.groups()[4:]):
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
def _plays(numbers: tuple[int, int, int]) -> list[str]:
    """
    Every way to use all three numbers, whatever it ends in, such as `5*9=45,45-2=43`: each sum and product written in
    one order, with the first result first, so that there is less form to learn. The verifier accepts any order.
    """
    plays = set()
    for i, c in enumerate(numbers):
        for first, middle in _equations(*numbers[:i], *numbers[i + 1 :]):
            plays |= {f"{first},{second}" for second, end in _equations(middle, c) if end <= 99}
    return sorted(plays)


def _equations(a: int, b: int) -> list[tuple[str, int]]:
    """Sum, product and difference of two numbers, written out, and their values."""
    low, high = sorted((a, b))
    values = {f"{a}+{b}": a + b, f"{a}*{b}": a * b, f"{high}-{low}": high - low}
    return [(f"{term}={value}", value) for term, value in values.items()]


@cache
def _derivations() -> dict[Problem, list[str]]:
    """Every solvable problem with all its solutions."""
    solutions: dict[Problem, list[str]] = {}
    for numbers in combinations_with_replacement(range(1, 10), 3):
        for play in _plays(numbers):
            target = int(play.rpartition("=")[2])
            if target >= 10:
                solutions.setdefault(Problem(numbers, target), []).append(play)
    return solutions
