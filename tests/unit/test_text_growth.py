"""What runs on strangers' text in the trainer's own process takes time that is linear in the text."""

import time
from collections.abc import Callable

import pytest

from htpo_trl.data.countdown import countdown_reward
from htpo_trl.rewards import dapo_math_reward, last_number_reward, math_reward
from htpo_trl.verifier.exact import compare_plainly
from htpo_trl.verifier.extraction import extract_answer
from htpo_trl.verifier.forms import bare_answer, bare_gold
from htpo_trl.verifier.golds import gold_text, is_sentence


SHORT = 1_500

#: What expressions stumble over: openings without an end, marks, blanks, digits, words.
PIECES = (
    *("b", "$", "{", "}", "\\text{", "\\boxed{", "\\boxed{5}", "}\\text{", "\\frac", "sqrt", "\\", "\\{", "\\(", "$$"),
    *(
        "Answer:",
        "answer ",
        "**",
        " ",
        "\n",
        "\t",
        "Answer:\n",
        "7",
        "1,",
        "1,000",
        ".",
        "-",
        "/",
        "=",
        "5-2=3,",
        "?",
        "e5",
    ),
    *(
        "\u0663",
        "\u00bd",
        "\u200b",
        "<think>",
        "</think>",
        "\\text{a}",
        "and ",
        "^",
        "_",
        "\\left(",
        "\r\n",
        "```\n",
        "> ",
    ),
)


def gold_side(text: str) -> None:
    gold = bare_gold(gold_text(text))
    is_sentence(gold)
    compare_plainly(gold, gold)


def answer_side(text: str) -> None:
    answer = bare_answer(extract_answer(text) or text)
    compare_plainly("5", answer)
    compare_plainly(answer, "5")


WORK: dict[str, Callable[[str], object]] = {
    "a completion": answer_side,
    "a gold": gold_side,
    "dapo_math_reward, completion": lambda text: dapo_math_reward(["Answer: " + text], ["5"]),
    "dapo_math_reward, gold": lambda text: dapo_math_reward(["Answer: 5"], [text]),
    "last_number_reward": lambda text: last_number_reward([text], [text]),
    "countdown_reward": lambda text: countdown_reward([text, "2,5,9>43:"], [text, text]),
}


def seconds(work: Callable[[str], object], text: str) -> float:
    start = time.process_time()
    work(text)
    return time.process_time() - start


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_work_grows_with_the_text_not_with_its_square(work):
    """Eight times the text: 8 times the time, where a square would take 64."""
    for piece in PIECES:
        text = piece * (SHORT // len(piece))
        # Once is enough where it is quick: a square takes hundredths of a second at this length.
        if (long := seconds(work, text * 8)) > 0.003:
            short = min(seconds(work, text) for _ in range(4))
            long = min(long, *(seconds(work, text * 8) for _ in range(3)))
            assert long < 24 * short, piece


@pytest.mark.parametrize("reward", [dapo_math_reward, math_reward, last_number_reward])
def test_a_gold_is_read_once_for_its_group(reward):
    """Of a column of worked solutions: a batch costs as much as its different golds, not as its rows."""
    gold = "a b " * SHORT * 8
    one = min(seconds(lambda text: reward(["Answer: 5"], [text]), gold) for _ in range(3))
    many = min(seconds(lambda text: reward(["Answer: 5"] * 64, [text] * 64), gold) for _ in range(3))
    assert many < 8 * one + 0.01


def test_an_answer_that_is_far_too_long_costs_no_more_than_its_search():
    """A model may fill its whole length with a box, in every row."""
    seconds_per_row = seconds(lambda text: math_reward([text], ["5"]), "\\boxed{" + "x+5 " * 25_000 + "}")
    assert seconds_per_row < 0.1


@pytest.mark.parametrize(
    ("work", "text"),
    [
        (extract_answer, "#### " + "1" * 8_000 + "\nx"),
        (extract_answer, "#### " + " " * 8_000 + "\nx"),
        (gold_text, "####" + " " * 16_000 + "#"),
        (bare_answer, "5" + "\\ " * 900 + "x"),
    ],
    ids=["digits after hashes", "blanks after hashes", "hashes in a gold", "spaces of LaTeX"],
)
def test_what_almost_fits_an_expression_is_given_up_at_once(work, text):
    assert seconds(work, text) < 0.1


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("\\ln" * 330, "7"),
        ("\\log_" * 190 + "2", "7"),
        ("x" + "!" * 990, "y"),
        ("1.4\\cdot10^{308}i", "1.2\\cdot10^{308}"),
    ],
)
def test_no_nesting_and_no_size_ends_a_run(answer, gold):
    assert compare_plainly(gold, answer) in (None, False)
