"""Where the answer is looked for: the table of docs/verifier.md, and time that grows as the text does."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from htpo_trl.rewards import dapo_math_reward
from htpo_trl.scripts import htpo
from htpo_trl.verifier import Verifier, VerifierConfig, configuration, configure
from htpo_trl.verifier.extraction import extract_answer
from htpo_trl.verifier.labelled import clean, in_prose

from ..hostile import MARKS
from ..markdown import ROOT, tables
from ..wrappings import FORMULAS, LINES


DOCUMENTED = next(rows for rows in tables(ROOT / "docs" / "verifier.md") if rows[0][0] == "completion")[1:]


@pytest.fixture
def restored():
    yield
    configure(VerifierConfig())


@pytest.mark.parametrize(("completion", "answer"), [row[:2] for row in DOCUMENTED])
def test_the_table_of_the_documentation(completion, answer):
    expected = None if answer == "none" else answer.strip("`").replace("⏎", "\n")
    for text in re.findall("`([^`]+)`", completion):
        assert extract_answer(text.replace("⏎", "\n")) == expected


def test_the_table_has_an_example_for_every_rule():
    assert len(DOCUMENTED) > 20


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        # What follows a label is a block...
        (
            "Answer:\n\\[\n\\begin{pmatrix}\n1 \\\\\n2\n\\end{pmatrix}\n\\]",
            "\\[\n\\begin{pmatrix}\n1 \\\\\n2\n\\end{pmatrix}\n\\]",
        ),
        ("Answer: x =\\begin{cases}\n1\\\\\n2\n\\end{cases}\nso", "x =\\begin{cases}\n1\\\\\n2\n\\end{cases}"),
        ("Answer:\n\\begin{align*}\nx &= 6 \\\\\n&= 7 \\tag{1}\n\\end{align*}", "x = 6  = 7"),
        ("Answer:\n> $$\n> 42\n> $$\nmore", "$$\n42\n$$"),
        ("Answer:\n1. 5\n2. 7\n3. This is why it must be so.", "5, 7"),
        ("Answer:\n1. We have 6 of 7 here.", "1"),
        ("Answer:\n\n|a|b|\n|-|-|\n|1|**2**|\n\n42", "2"),
        ("Answer:\n```\n42", "42"),
        ("Answer:\n\\[\n42\n\nand", "42"),
        # ... without its marks, but for those of a formula.
        ("Answer: f'", "f'"),
        ("Answer: z^*", "z^*"),
        ("Answer: 0.333...", "0.333..."),
        (r"Answer: \left(0, 1\right.", r"\left(0, 1\right."),
        (r"Answer: 3\,.", r"3\,"),
        ("Answer: [1,2)", "[1,2)"),
        ("Answer: ]1,2[", "]1,2["),
        ("[Answer: (0, 1]]", "(0, 1]"),
        # Of a label that is not one.
        ("An answer: 5", "5"),
        ("Reanswer: 5", None),
        ("answers: 5", None),
        ("The answer (final) is 5", None),
        ("İ Answer: 5", "5"),
    ],
)
def test_blocks(completion, answer):
    assert extract_answer(completion) == answer


@given(st.text(alphabet="ab1 .,*_`\"'$\\{}()[]|<>=\n", max_size=20))
def test_what_is_clean_stays_so(text):
    once = clean(text)
    assert len(text) > 10 or clean(once) == once


@pytest.mark.parametrize("sentence", ["41 of 42 are", "not 42", "three of 42", "42 plus one and two"])
def test_a_sentence_that_is_not_clear_is_no_answer(sentence):
    assert in_prose(sentence) is None or in_prose(sentence) == sentence


@pytest.mark.parametrize("wrapping", [*FORMULAS, *LINES])
def test_every_wrapping_holds_its_answer_alone(wrapping):
    assert extract_answer(wrapping % "x+7").strip("$()\\[] \n") == "x+7"


# --- Reasoning


THOUGHT = "<think>So \\boxed{5}.</think>Answer: 6"


def test_reasoning_is_read_where_it_is_asked_for():
    assert extract_answer("<think>So \\boxed{5}.") is None
    assert extract_answer("<think>So \\boxed{5}.", skip_reasoning=False) == "5"
    for skip_reasoning, right in ((True, False), (False, True)):
        with Verifier(VerifierConfig(skip_reasoning=skip_reasoning)) as verifier:
            assert (verifier.judge(["<think>So \\boxed{5}."], ["5"])[0].verdict == "correct") == right


def test_dapos_rules_know_no_reasoning():
    assert dapo_math_reward(["<think>Answer: 5", "<think>Answer: 5</think>"], ["5", "5</think>"]) == [1.0, 1.0]


def test_the_option_of_a_recipe_reaches_the_verifier_and_the_settings(restored, place, monkeypatch):
    monkeypatch.chdir(place)
    options = ["--config", "recipe.yaml", "--skip_reasoning", "false"]
    arguments = htpo.read_options(options)
    trainer = htpo.build(*htpo.parse(arguments.script, arguments.defaults))
    assert configuration().skip_reasoning is False
    assert trainer.settings["HTPOScriptArguments"]["skip_reasoning"] is False


# --- Growth


def seconds(text: str, times: int = 3) -> float:
    """Of this thread on the CPU; the least of several."""
    found = []
    for _ in range(times):
        start = time.thread_time()
        extract_answer(text)
        found.append(time.thread_time() - start)
    return min(found)


@pytest.mark.parametrize("before", ["", "Answer:\n", "\\boxed{5}\n\nAnswer: The sum is "])
def test_time_grows_as_the_text_does(before):
    """At eight times the length a quadratic step takes 64 times as long, one that is linear 8 times."""
    for mark in MARKS:
        for end in ("", "\nAnswer: 5"):
            short, long = (before + mark * (n // len(mark)) + end for n in (8_000, 64_000))
            ratio = seconds(long, 1) / max(seconds(short), 1e-5)
            if ratio > 24:  # what a busy machine does to one measurement
                ratio = seconds(long, 5) / max(seconds(short, 5), 1e-5)
            assert ratio < 24, (before, mark, end)
