"""Names of reward functions and data sets, resolved."""

import sys

import pytest

from htpo_trl.data import load
from htpo_trl.data.prompts import PromptArguments
from htpo_trl.scripts.reward_names import reward_functions
from htpo_trl.utils import UsageError


def test_own_columns_and_procedural_tasks(tmp_path):
    (tmp_path / "own.csv").write_text("question,answer\n1 + 1,2\n")
    rows = load(str(tmp_path / "own.csv"), PromptArguments(problem_column="question", solution_column="answer"))
    assert rows[0]["solution"] == "2"
    task = load("chain_sum", PromptArguments(dataset_options='{"size": 5, "max_terms": 2}'))
    assert 1 <= len(task) <= 5


def test_hub_data_set_in_trls_format_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "org" / "set"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text('{"prompt": "p", "extra": 1}\n')
    assert load("org/set", PromptArguments(), split="train")[0] == {"prompt": "p", "extra": 1}
    with pytest.raises(ValueError, match=r"no column .question., only .prompt., .extra."):
        load("org/set", PromptArguments(problem_column="question"), split="train")


def test_last_number():
    (reward,) = reward_functions(["last_number_reward"])
    texts = ["3 + 4 = 7.", "7", "17", "-7", "7.5", "7 or 8", "", [{"role": "assistant", "content": "so 7"}]]
    assert reward(texts, ["7"] * len(texts)) == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]


def test_overlong_punishment_is_made_for_its_length():
    """0 up to max_completion_length - cache, then down to -1 at max_completion_length (arXiv 2503.14476, eq. 13)."""
    first, overlong = reward_functions(["math_reward", "get_soft_overlong_punishment"], 20, 8)
    assert first.__name__ == "math_reward"
    assert overlong(completion_ids=[[1] * n for n in (12, 16, 20)]) == [0, -0.5, -1.0]
    with pytest.raises(ValueError, match="soft_punish_cache=20 must lie between 0 and max_completion_length=20"):
        reward_functions(["get_soft_overlong_punishment"], 20, 20)


def test_what_is_no_function(tmp_path, monkeypatch):
    text = "class Judge:\n    def __call__(self, completions):\n        return [1.0]\n\njudge, word = Judge(), ''\n"
    (tmp_path / "classes.py").write_text(text)
    monkeypatch.setattr("sys.path", [*sys.path])
    for name, kind in {"Judge": "a class", "word": "a `str`"}.items():
        with pytest.raises(
            UsageError, match=f"reward_funcs: .*:{name}' is {kind}, not a function. Name one, by `def`"
        ):
            reward_functions([f"{tmp_path}/classes.py:{name}"])
    (judge,) = reward_functions([f"{tmp_path}/classes.py:judge"])  # TRL calls objects by their class
    assert judge([]) == [1.0]
