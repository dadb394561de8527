import signal
from dataclasses import replace

import pytest

from htpo_trl.evaluation import evaluate
from htpo_trl.evaluation.generation import Generation

from ..evaluation_run import PROBLEMS, SAMPLING, last_digit, main, rows_of, summary_of
from ..forks import Forks


def test_killed_evaluation_ends_as_if_it_had_not_been(model, tokenizer, tmp_path):
    evaluate((model, tokenizer), {"digits": PROBLEMS}, tmp_path / "whole", SAMPLING, last_digit, disable_tqdm=True)
    expected = (tmp_path / "whole" / "digits.jsonl").read_bytes()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    output = tmp_path / "killed"
    assert Forks(main, tmp_path, output, 40, output=tmp_path / "killed.txt").join() == [-signal.SIGKILL]
    samples = (output / "digits.jsonl").read_bytes()
    assert 0 < len(rows_of(samples)) < 60
    assert expected.startswith(samples)

    Forks(main, tmp_path, output, output=tmp_path / "resumed.txt").finish()
    assert (output / "digits.jsonl").read_bytes() == expected
    assert summary_of(output) == summary_of(tmp_path / "whole")
    drawn = (output / "drawn.txt").read_text().split()
    assert len(drawn) == len(set(drawn)) == 60  # each sample once


class Scripted:
    """A generator that says what it is told, however it is asked."""

    name = "scripted"

    def __init__(self, tokenizer, texts):
        self.tokenizer, self.texts = tokenizer, iter(texts)

    def generate(self, prompts, seeds, sampling):
        return [Generation(next(self.texts), 1, False) for _ in prompts]


def test_math_verifier(tokenizer, tmp_path):
    """The judge by default; it knows equal numbers, and golds that are none."""
    problems = [{"prompt": "1", "solution": "0.5"}, {"prompt": "2", "solution": 7}, {"prompt": "3", "solution": None}]
    answers = [r"\frac12", "1/2", "3", r"\frac{1}{3}", r"\dfrac{1}{3}", None, *["8"] * 3, *["7"] * 3, *"777777"]
    texts = ["I do not know." if a is None else rf"It is \boxed{{{a}}}." for a in answers]
    evaluate(Scripted(tokenizer, texts), {"digits": problems}, tmp_path, replace(SAMPLING, num_samples=6))
    rows = rows_of((tmp_path / "digits.jsonl").read_bytes())
    assert [row["verdict"] for row in rows] == (
        ["correct"] * 2 + ["wrong"] * 3 + ["unparsable_answer"] + ["wrong"] * 3 + ["correct"] * 3
    ) + ["unparsable_gold"] * 6
    assert [row["answer"] for row in rows] == answers
    summary = summary_of(tmp_path)
    assert (summary["problems"], summary["problems_without_gold"]) == (3, 1)
    assert summary["metrics"]["mean@6"]["mean"] == pytest.approx((2 / 6 + 3 / 6) / 2)
    # Half of the two, and of the three: two ways to write a half are one answer, and so are two to write a third.
    assert summary["metrics"]["maj@6"]["mean"] == pytest.approx(1 / 2)
