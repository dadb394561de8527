"""How completions are sampled: what is accepted, and what is refused in one line."""

from dataclasses import asdict

import pytest

from htpo_trl.evaluation import EvaluationCallback, Sampling, evaluate
from htpo_trl.utils import UsageError

from ..evaluation_run import PROBLEMS, SAMPLING, last_digit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples=0"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"temperature": 0.0, "num_samples": 2}, "num_samples=2"),
        ({"chat_template_kwargs": "thinking"}, "chat_template_kwargs='thinking' must be a dictionary"),
        ({"chat_template_kwargs": {1: 2}}, "chat_template_kwargs={1: 2} must be a dictionary"),
    ],
)
def test_impossible_sampling_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Sampling(**options)


def test_sampling_may_be_a_dictionary(model, tokenizer, make_trainer, tmp_path):
    """As YAML has it; from both that take it."""

    def run(name, sampling):
        arguments = ((model, tokenizer), {"digits": PROBLEMS}, tmp_path / name, sampling, last_digit)
        evaluate(*arguments, disable_tqdm=True)
        return (tmp_path / name / "digits.jsonl").read_bytes()

    assert run("by name", asdict(SAMPLING)) == run("whole", SAMPLING)
    trainer = make_trainer(eval_steps=1)
    given = EvaluationCallback(trainer, {"digits": PROBLEMS}, {"num_samples": 3, "temperature": 0.5}).sampling
    assert given == Sampling(3, temperature=0.5)
    for sampling, message in (
        ({"num_sample": 3}, r"Did you mean 'num_samples'\? 'num_sample' is none of its options: num_samples, temp"),
        ({1: 3}, "sampling: 1 is none of its options"),
        ({"num_samples": "3"}, "num_samples='3' must be a number"),
        (3, "sampling=3 is a `int`: pass a Sampling, or a dictionary of its options: num_samples"),
    ):
        with pytest.raises(UsageError, match=message):
            run("refused", sampling)
        with pytest.raises(UsageError, match=message):
            EvaluationCallback(trainer, {"digits": PROBLEMS}, sampling)
