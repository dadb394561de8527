"""Which answers are one when samples vote: maj@k of samples that are given."""

import pytest

from htpo_trl.evaluation.results import Results, summarize


def maj(*wrong: str, correct: int = 2) -> float:
    """maj@n of one problem with these wrong answers and some correct ones."""
    rows = [{"verdict": "wrong", "answer": answer} for answer in wrong]
    rows += [{"verdict": "correct", "answer": "7"}] * correct
    n = len(rows)
    results = Results(
        {"sampling": {"num_samples": n}}, {"problem": [row | {"truncated": False, "tokens": 1} for row in rows]}
    )
    return summarize(results)["metrics"][f"maj@{n}"]["mean"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("(1,2)", "(1, 2)"),
        ("(1,2)", r"(1,\ 2)"),
        ("(1,2)", r"(1,\,2)"),
        ("3x", r"3\;x"),
        ("3x", "3\n x "),
        ("(1,2)", r"\left(1,2\right)"),
        (r"\{1,2\}", r"\left\{1,2\right\}"),
        ("3x", "$3x$"),
        ("3x", "$$ 3x $$"),
        ("3x", "3x."),
        (r"\frac{1}{3}", r"\dfrac{1}{3}"),
        (r"\frac{1}{3}", r"\tfrac{1}{3}"),
        ("3x", "$3x.$"),
        ("3x", "$3x$."),
        ("3x", r"\(3x\)"),
        (r"3x|_{x=1}", r"\left. 3x \right|_{x=1}"),
        (r"3x|_{x=1}", r"\left .3x\right|_{x = 1}."),
        (r"\left(\frac{1}{3},2\right]", r"$(\dfrac{1} {3},\!2]$"),
    ],
)
def test_two_ways_to_write_an_answer_are_one_vote(one, other):
    """Three for the wrong answer against two, as if all three were written alike; apart, two of them would tie."""
    assert maj(one, other, one) == maj(other, one, other) == maj(one, one, one) == 0.0


@pytest.mark.parametrize(
    ("one", "other"),
    [("1/2", "0.5"), (r"x\leftarrow 2", "xarrow 2"), ("(1,2)", "(2,1)"), ("(1,2)", "[1,2]"), ("3x", "3X")],
)
def test_other_answers_divide_the_vote(one, other):
    assert maj(one, other, one) == 0.5
    assert maj(one, other, "8") == 1.0
