import random
from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from htpo_trl.data.countdown import SEARCHERS, SYMBOLS, countdown_reward, is_solution, problems, write_search


SPLITS = ("train", "validation", "test")
OPERATIONS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def solvable_by_brute_force(numbers, target):
    """Every order, both bracketings."""
    for (a, b, c), f, g in product(permutations(numbers), OPERATIONS.values(), OPERATIONS.values()):
        inner = f(a, b)
        if 0 <= inner <= 99 and target in (g(inner, c), g(c, inner)):
            return True
    return False


def test_splits_are_disjoint_and_hold_every_solvable_problem():
    sets = [set(problems(split)) for split in SPLITS]
    assert sum(map(len, sets)) == len(set.union(*sets))
    expected = {
        ((a, b, c), target)
        for a, b, c in product(range(1, 10), repeat=3)
        if a <= b <= c
        for target in range(10, 100)
        if solvable_by_brute_force((a, b, c), target)
    }
    assert {tuple(problem) for problem in set.union(*sets)} == expected
    assert all(len(s) > 100 for s in sets)


@pytest.mark.parametrize(
    ("completion", "verdict"),
    [
        ("5*9=45,45-2=43!", True),
        ("5-2=3,3+9=12?5*9=45,45-2=43!", True),
        ("9*5=45,45-2=43!", True),
        ("nonsense?5*9=45,45-2=43!", True),  # only the attempt that is submitted counts
        ("5*9=45,45-2=43", False),  # not submitted
        ("5*9=45,45-2=43?", False),
        ("5-2=3,3+9=12!", False),  # submitted, but another value
        ("5*9=45,45-1=44!", False),  # a number that is not there
        ("5*9=45,2-45=43!", False),  # wrong arithmetic
        ("5*9=44,45-2=43!", False),  # a wrong step under a right end
        ("9*5=45,45-2=43!!", False),
        ("5*9=45,45-2=43! ", False),
        ("5*9=45!", False),  # not every number
        ("41+2=43,43+0=43!", False),
        ("5*9=45,45-2=43,43+0=43!", False),
        ("", False),
        ("!", False),
        ("٥*9=45,45-2=43!", False),  # digits of other scripts are no digits here
    ],
)
def test_verdicts(completion, verdict):
    assert is_solution("2,5,9>43:", completion) is verdict


def test_intermediate_values_stay_within_bounds():
    assert not is_solution("2,5,9>43:", "2-5=-3,9-3=43!")
    assert not is_solution("9,9,9>90:", "9*9=81,81+9=90!x")
    assert is_solution("9,9,9>90:", "9*9=81,81+9=90!")


@given(text=st.text(SYMBOLS + "x ", max_size=80))
def test_hostile_text_is_wrong_not_an_error(text):
    assert isinstance(is_solution("2,5,9>43:", text), bool)


def test_malformed_prompt_is_an_error():
    with pytest.raises(ValueError, match="Not a countdown prompt"):
        is_solution("2,5>7:", "2+5=7!")


def test_sloppy_searches_have_the_form_and_the_rate_they_promise():
    rng = random.Random(0)
    verdicts = []
    for problem in problems("train") * 4:
        prompt, text = problem.prompt(rng), write_search(problem, rng)
        assert set(text) <= set(SYMBOLS)
        assert text.endswith("!")
        assert 1 <= text.count(",") <= SEARCHERS[3].attempts == 5
        verdicts.append(is_solution(prompt, text))
        # A search ends at its first hit.
        for attempt in text[:-1].split("?")[:-1]:
            assert not is_solution(prompt, attempt + "!")
    # Solved at an attempt with probability p >= 0.4, given up wrongly with 0.35 (1 - p), at most five attempts:
    # p / (1 - 0.65 (1 - p)) >= .64 but for the last attempts, and random play adds to p.
    assert 0.6 < sum(verdicts) / len(verdicts) < 0.8


def test_reward_has_trls_form():
    assert countdown_reward(prompts=["2,5,9>43:"] * 2, completions=["5*9=45,45-2=43!", "?"], extra=[1, 2]) == [
        1.0,
        0.0,
    ]


def test_the_reward_reads_its_own_task_alone():
    """Last lines count, of messages too; a prompt of another task gets no reward, not even a wrong one."""
    asked = [{"role": "user", "content": "End with two equations.\n\n2,5,9>43:"}]
    answered = [{"role": "assistant", "content": "5*9 is 45.\n5*9=45,45-2=43!\n"}]
    parts = [{"role": "assistant", "content": [{"type": "text", "text": "5*9=45,45-2=43!"}]}]
    called = [{"role": "assistant", "content": None}]
    other = [{"role": "user", "content": "What is 2,5,9>43: about?"}]
    prompts = ["2,5,9>43:", "1 + 1", asked, asked, asked, other, "2,5,9>43:"]
    completions = ["5*9=45,45-2=43!", "2", answered, parts, called, answered, ""]
    assert countdown_reward(prompts, completions) == [1.0, None, 1.0, 1.0, 0.0, None, 0.0]
