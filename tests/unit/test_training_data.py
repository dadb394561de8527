"""What is trained on and what is evaluated on: they have no problem in common."""

import json

import pytest

from htpo_trl.data.countdown import problems
from htpo_trl.data.names import evaluation_problems
from htpo_trl.data.prompts import PromptArguments
from htpo_trl.scripts import htpo

from ..tiny import CPU_ARGUMENTS


def test_countdown_is_evaluated_on_its_test_problems():
    name, found = evaluation_problems("countdown", PromptArguments())
    expected = [f"{a},{b},{c}>{target}" for (a, b, c), target in problems("test")]
    assert (name, found["problem"][:]) == ("countdown", expected)


@pytest.fixture
def files(tmp_path, model, tokenizer, monkeypatch):
    """A working directory with a model, 20 problems, and two benchmarks of five with two of these problems each."""
    monkeypatch.chdir(tmp_path)
    model.save_pretrained("model")
    tokenizer.save_pretrained("model")
    numbers = {"train": range(20), "first": (3, 7, 20, 21, 22), "second": (7, 11, 30, 31, 32)}
    for name, chosen in numbers.items():
        space = " " if name == "train" else "\n "  # the same problem, however its lines are broken
        rows = [{"problem": f"{n}{space}+ 0", "solution": str(n)} for n in chosen]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def trained_on(*benchmarks: str) -> list[str]:
    """The problems of the trainer that the script builds."""
    options = {
        **CPU_ARGUMENTS,
        **{"model_name_or_path": "model", "dtype": "float32", "output_dir": "out", "dataset_name": "train.jsonl"},
        **{"template": "none", "chat": False, "eval_steps": 4, "eval_benchmarks": [*benchmarks] or None},
    }
    trainer = htpo.build(*htpo.parse([], options))
    return trainer.train_dataset["problem"][:]


def test_problems_of_the_benchmarks_are_not_trained_on(files):
    assert trained_on("first.jsonl", "second.jsonl") == [f"{n} + 0" for n in range(20) if n not in (3, 7, 11)]


def test_without_benchmarks_every_problem_is_trained_on(files):
    assert trained_on() == [f"{n} + 0" for n in range(20)]
