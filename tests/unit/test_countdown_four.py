"""Countdown with four numbers, against a search and a checker written another way."""

import hashlib
import json
import random
from functools import cache
from itertools import combinations_with_replacement

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from htpo_trl.check.tiny import build_tokenizer
from htpo_trl.data import check_disjoint, load
from htpo_trl.data.countdown import (
    SEARCHERS,
    SPLITS,
    SYMBOLS,
    Problem,
    Searcher,
    countdown_reward,
    is_solution,
    problems,
    rows,
    write_search,
)
from htpo_trl.data.names import evaluation_problems
from htpo_trl.data.prompts import PromptArguments


FOUR = {"numbers": 4}
PROMPT = "2,4,5,9>47:"
NEVER = Searcher(solves=0.0, submits=0.0, attempts=1000, tokens=320)


@cache
def reachable(numbers):
    """All values in 0-999 that numbers make, by every split in two at the outermost sign."""
    if len(numbers) == 1:
        return {numbers[0]}
    values = set()
    for chosen in range(1, 2 ** len(numbers) - 1):
        left = tuple(n for i, n in enumerate(numbers) if chosen >> i & 1)
        right = tuple(n for i, n in enumerate(numbers) if not chosen >> i & 1)
        for a in reachable(left):
            for b in reachable(right):
                values |= {value for value in (a + b, a - b, a * b) if 0 <= value <= 999}
    return values


@cache
def held_out():
    return problems("validation", 4)


def checked_slowly(prompt, completion):
    """Character by character: no regular expression, no counter."""
    task, target = prompt[:-1].split(">")
    pool, target = [int(n) for n in task.split(",")], int(target)
    if completion[-1:] != "!":
        return False
    equations = completion[:-1].split("?")[-1].split(",")
    if len(equations) != len(pool) - 1:
        return False
    for equation in equations:
        signs = [character for character in equation if character not in "0123456789"]
        if len(signs) != 2 or signs[0] not in "+-*" or signs[1] != "=":
            return False
        a, rest = equation.split(signs[0])
        b, c = rest.split("=")
        if not all(1 <= len(number) <= 3 for number in (a, b, c)):
            return False
        for number in (int(a), int(b)):
            if number not in pool:
                return False
            pool.remove(number)
        value = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[signs[0]]
        if value != int(c):
            return False
        pool.append(value)
    return pool == [target]


def test_three_numbers_are_what_they_were():
    """Rows of every split and written searches, as of the commit before there were four."""
    kept = json.dumps([rows(split, seed) for split in SPLITS for seed in (0, 7)])
    assert hashlib.sha256(kept.encode()).hexdigest().startswith("d77e5db2f4aebbb0472522cdc1eb8011")
    rng = random.Random(0)
    searches = "\n".join(write_search(problem, rng) for problem in problems("train"))
    assert hashlib.sha256(searches.encode()).hexdigest().startswith("e7daf94cf0aaa91f7b2d358e00013b32")


def test_splits_hold_every_solvable_problem_once():
    sets = [problems(split, 4) for split in SPLITS]
    found = [problem for part in sets for problem in part]
    assert len(found) == len(set(found)) == 17122
    expected = {
        (numbers, target)
        for numbers in combinations_with_replacement(range(1, 10), 4)
        for target in reachable(numbers)
        if 10 <= target <= 99
    }
    assert {tuple(problem) for problem in found} == expected
    # One in 128 by the hash: 134 expected, with a standard deviation of 11.5.
    assert all(100 < len(part) < 168 for part in sets[:2])
    texts = {split: load("countdown", split=split, dataset_options=FOUR) for split in SPLITS}
    check_disjoint(texts)
    assert [len(texts[split]) for split in SPLITS] == [len(part) for part in sets]


def test_solutions_are_solutions_of_their_prompts():
    for split in SPLITS[:2]:
        for row in rows(split, seed=3, numbers=4):
            assert checked_slowly(row["prompt"], row["solution"])
            assert countdown_reward([row["prompt"]], [row["solution"]]) == [1.0]
            numbers, target = row["prompt"][:-1].split(">")
            assert f"{','.join(sorted(numbers.split(',')))}>{target}" == row["problem"]


@pytest.mark.parametrize(
    ("completion", "verdict"),
    [
        ("5*9=45,45-2=43,43+4=47!", True),
        ("9*5=45,4-2=2,45+2=47!", True),  # two pairs
        ("4-2=2,5*9=45,2+45=47!", True),
        ("5-2=3,3+9=12,12*4=48?5*9=45,45-2=43,43+4=47!", True),
        ("5*9=45,45-2=43!", False),  # of another task: three numbers
        ("5*9=45,45-2=43,43+4=47", False),
        ("5*9=45,45-2=43,43+4=47?", False),
        ("5*9=45,45-2=43,43+4=47!!", False),
        ("5*9=45,45+2=47!", False),  # not every number
        ("5*9=45,45+2=47,47+0=47!", False),  # a number that is not there
        ("5*9=45,45-2=43,45+2=47!", False),  # a number used twice
        ("4-2=2,5*9=45,45+4=49!", False),
        ("9-4=5,5*9=45,45+2=47!", False),  # a result beside a number of the same value, one 9 twice
        ("5*9=45,2-45=43,43+4=47!", False),
        ("5*9=44,45-2=43,43+4=47!", False),
        ("4*5=20,20*9=180,180-2=178!", False),  # right, but another value
        ("5*9=45,45-2=43,43+4=0047!", False),
        ("", False),
        ("!", False),
        (",,!", False),
        ("5*9=45,45-2=43,43+٤=47!", False),
    ],
)
def test_verdicts(completion, verdict):
    assert is_solution(PROMPT, completion) is verdict
    assert checked_slowly(PROMPT, completion) is verdict


def test_intermediate_values_have_three_digits_where_there_are_four_numbers():
    assert is_solution("7,9,7,8>96:", "7+8=15,15*7=105,105-9=96!")
    assert not is_solution("3,9,9>99:", "9*9=81,81*3=243!")
    searches = [write_search(Problem((8, 9, 9, 9), 13), random.Random(seed), NEVER) for seed in range(100)]
    values = {int(part.split(",")[0].split("?")[0].rstrip("!")) for text in searches for part in text.split("=")[1:]}
    assert 99 < max(values) <= 999


damage = st.tuples(st.integers(0, 60), st.sampled_from(["", *SYMBOLS, "x", " ", "\n", "٤", "!?"]))


@settings(deadline=None, max_examples=300)
@given(seed=st.integers(0, 10**6), changes=st.lists(damage, max_size=2))
def test_reward_equals_the_slow_checker(seed, changes):
    """Of searches, hurt at no, one or two places."""
    rng = random.Random(seed)
    problem = rng.choice(held_out())
    prompt, text = problem.prompt(rng), write_search(problem, rng, Searcher(0.6, 0.3, 3))
    for place, symbol in changes:
        text = text[:place] + symbol + text[place + 1 :]
    assert is_solution(prompt, text) is checked_slowly(prompt, text)


@given(text=st.text(SYMBOLS + "x ", max_size=80))
def test_hostile_text_is_wrong_not_an_error(text):
    assert is_solution(PROMPT, text) is False


def test_long_hostile_text_takes_no_time():
    """Linear in its length: ten million characters would never end otherwise."""
    for part in ("1+1=2,", "9" * 50, "?", "5*9=45,45-2=43,43+4=47?", "!"):
        assert not is_solution(PROMPT, part * (10**7 // len(part)) + "x!")


def test_the_prompt_tells_how_many_numbers():
    """In one batch; what solves one kind does not solve the other, and other numbers of numbers are no countdown."""
    prompts = [PROMPT, "2,5,9>43:", PROMPT, "2,5,9>43:", "2,5>10:", "1,2,4,5,9>47:", "0,4,5,9>49:", "2,4,5,9>7:"]
    three, four = "5*9=45,45-2=43!", "5*9=45,45-2=43,43+4=47!"
    assert countdown_reward(prompts, [four, three, three, four] * 2) == [1.0, 1.0, 0.0, 0.0, *[None] * 4]
    with pytest.raises(ValueError, match="Not a countdown prompt"):
        is_solution("1,2,4,5,9>47:", four)


def test_searches_have_the_form_and_the_rate_they_promise():
    rng, tokenizer, sizes, verdicts, submitted = random.Random(0), build_tokenizer(), [], [], 0
    for problem in problems("validation", 4) * 8:
        prompt, text = problem.prompt(rng), write_search(problem, rng)
        *dropped, last = text[:-1].split("?")
        assert text.endswith("!")
        assert not any(checked_slowly(prompt, f"{attempt}!") for attempt in dropped)
        for attempt in (*dropped, last):  # right arithmetic, whatever it ends in
            assert checked_slowly(f"{prompt[:-3]}{attempt.split('=')[-1]}:", f"{attempt}!")
        verdicts.append(checked_slowly(prompt, text))
        submitted += not verdicts[-1] and len(dropped) < 8
        sizes.append(len(tokenizer(text + tokenizer.eos_token).input_ids))
        assert len(dropped) < SEARCHERS[4].attempts == 14
    assert max(sizes) <= 320
    # Solved with p = .25 + .75 q, q of random play some .016; given up wrongly with .04 (1 - p).
    assert 0.86 < sum(verdicts) / len(verdicts) < 0.93
    assert submitted > 0


def test_a_search_that_finds_nothing_ends_within_its_tokens():
    """At random play alone of the largest numbers, whose attempts are the longest."""
    rng, hopeless = random.Random(0), Problem((8, 9, 9, 9), 13)
    found = [write_search(hopeless, rng, NEVER) for _ in range(300)]
    sizes = [len(text) + 1 for text in found if not is_solution("8,9,9,9>13:", text)]
    assert 320 - 27 <= min(sizes) <= max(sizes) <= 320


def test_evaluation_and_loading_take_the_option():
    prompts = PromptArguments(dataset_options='{"numbers": 4, "seed": 2}')
    found = evaluation_problems(["countdown"], prompts)["countdown"]
    assert found["prompt"][:] == [row["prompt"] for row in rows("test", 2, 4)]
    for value in (5, 2, "4", [4]):
        with pytest.raises(ValueError, match=r"numbers=.*of countdown is none of 3, 4|not those of countdown"):
            load("countdown", dataset_options={"numbers": value})
