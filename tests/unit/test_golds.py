"""A gold is one text, whatever way it comes in."""

import json
import math
import time
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from htpo_trl.data import load
from htpo_trl.data.columns import gold_texts
from htpo_trl.rewards import dapo_math_reward, math_reward
from htpo_trl.verifier.forms import bare_gold
from htpo_trl.verifier.golds import gold_text, is_sentence


GSM8K = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nShe sold 48+24 = <<48+24=72>>72 clips altogether.\n#### 72"
IN_FILES = [
    (GSM8K, "72"),
    ("#### 1,200", "1200"),
    ("a\n#### $5$.", "5"),
    ("She has 5 left. #### 5", "5"),
    ("#### Step 1\nWe add.", "#### Step 1\nWe add"),
    ("first \\boxed{3}, then \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
    ("Add.\nAnswer: 18", "18"),
    ("The answer is $18$.", "18"),
    ("x is not $0$", "x is not 0"),
    ([4, 5], "4, 5"),
    (["$4$", 5, 0.5], "4, 5, 0.5"),
    ([[1, 2], [3, 4]], "(1, 2), (3, 4)"),
    ([["a", "b"]], "(a, b)"),
    ("['5']", "5"),
    ('["1", "2"]', "1, 2"),
    ("['1' '2']", "1, 2"),
    ("('1',)", "1"),
    ("['\\\\frac{1}{2}', '\\frac{1}{3}']", "\\frac{1}{2}, \\frac{1}{3}"),
    ("[1, 2]", "[1, 2]"),
    ("[1, 2)", "[1, 2)"),
    ("[5]", "5"),
    (True, "True"),
    (27.0, "27"),
    (0.1, "0.1"),
    (10**20, "1" + "0" * 20),
    ("4.5e33", "4.5 \\times 10^{33}"),
]
ELSEWHERE = [
    (np.int64(3), "3"),
    (np.float32(0.1), "0.1"),
    (np.float64(2.0), "2"),
    (np.bool_(False), "False"),
    (np.array([1, 2]), "1, 2"),
    (np.array([[1, 2], [3, 4]]), "(1, 2), (3, 4)"),
    (torch.tensor(3), "3"),
    (torch.tensor([1.5, 2]), "1.5, 2"),
    (Decimal("0.50"), "0.50"),
    (Decimal("1E+3"), "1000"),
    (Decimal("1E+99"), "1 \\times 10^{99}"),
    (Fraction(1, 2), "1/2"),
    ((4, 5), "4, 5"),
]
NONE = [
    None,
    "",
    " \n",
    "$$",
    [],
    [None],
    [[]],
    {},
    {"a": 1},
    b"5",
    math.nan,
    math.inf,
    np.nan,
    Decimal("NaN"),
    10**4000,
]
NONE += ["\\boxed{5", object(), [[[[[[1]]]]]]]


@pytest.mark.parametrize(("value", "text"), IN_FILES, ids=repr)
def test_the_same_in_a_file_a_file_as_it_is_and_a_reward(tmp_path, value, text):
    own, as_it_is = tmp_path / "own.jsonl", tmp_path / "as_it_is.jsonl"
    own.write_text(json.dumps({"problem": "P", "solution": value}))
    as_it_is.write_text(json.dumps({"prompt": "P", "solution": value}))
    parquet = tmp_path / "own.parquet"
    assert load(own)["solution"][:] == [text]
    if not (isinstance(value, list) and len({*map(type, value)}) > 1) and value != 10**20:
        Dataset.from_dict({"problem": ["P"], "solution": [value]}).to_parquet(parquet)
        assert load(parquet)["solution"][:] == [text]
        raw = load(as_it_is)
        assert [*map(gold_text, raw["solution"])] == [text]
        assert gold_texts(raw.data["solution"]).to_pylist() == [text]
    if isinstance(value, str):
        csv = tmp_path / "own.csv"
        Dataset.from_dict({"problem": ["P"], "solution": [value]}).to_csv(csv)
        assert load(csv)["solution"][:] == [text]


@pytest.mark.parametrize(("value", "text"), ELSEWHERE, ids=repr)
def test_numbers_of_other_libraries(value, text):
    assert gold_text(value) == text
    assert gold_text(text) == text


@pytest.mark.parametrize("value", NONE, ids=lambda value: type(value).__name__)
def test_no_gold(value):
    assert gold_text(value) == ""
    assert math_reward(["\\boxed{5}"], [value]) == [None]


PIECES = (
    *("[", "]", "'", '"', "(", ")", "$", " ", ".", "5", "1,234", "####", "\n", "\\boxed{", "}", "\\$", "\\", "e", "-"),
    *("1e5", "\\text{", "a", "and", "word", ",", "$x$", "#", "²", "\\frac{1}{2}", "is ", "\u00a0"),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_a_text_that_was_read_is_read_again_as_it_is(text):
    once = gold_text(text)
    assert gold_text(once) == once


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=5).map("".join), min_size=1, max_size=20))
def test_a_column_is_read_as_its_values_are(values):
    column = Dataset.from_dict({"a": values}).data["a"]
    assert gold_texts(column).to_pylist() == [*map(gold_text, values)]


@pytest.mark.parametrize(
    "piece",
    [
        "#",
        "#### ",
        "[",
        "['",
        "'a' ",
        "\\",
        "$",
        "is $",
        "a ",
        "\\boxed{",
        "{",
        " ",
        ".",
        "\n",
        "1,",
        "-1 is ",
        "\\text{a}",
    ],
)
def test_the_time_grows_with_the_length(piece):
    def seconds(count):
        start = time.process_time()
        for text in (piece * count, f"['{piece * count}", f"{piece * count}5"):
            is_sentence(gold_text(text))
        return time.process_time() - start

    n = 5_000 // len(piece)
    # 16 times the length: a quadratic step would take 256 times as long.
    assert min(seconds(16 * n) for _ in range(3)) < 100 * max(min(seconds(n) for _ in range(3)), 3e-4)


@pytest.mark.parametrize(
    "gold",
    ["We add and get 18", "Natalia sold 48", "\\text{He then has 3}", "all reals except 3", "there is none"],
)
def test_sentences(gold):
    assert is_sentence(bare_gold(gold))


@pytest.mark.parametrize(
    "gold",
    [
        "18",
        "18 km/h",
        "about 18",
        "x=1 or x=2",
        "1 and 2 and 3",
        "\\text{no solution}",
        "no solution",
        "18 miles per hour",
        "x y",
    ],
)
def test_no_sentences(gold):
    assert not is_sentence(bare_gold(gold))


@pytest.mark.parametrize("reward", [math_reward, dapo_math_reward])
@pytest.mark.parametrize("missing", [None, math.nan])
def test_rows_of_other_tasks_are_not_counted(reward, missing):
    logged = {}
    rewards = reward(["Answer: 5", "Answer: 5"], ["5", missing], log_metric=logged.__setitem__)
    assert rewards == [1.0, None]
    assert {name.split("/")[1]: share for name, share in logged.items() if share} == {"correct": 1.0}
    reward(["Answer: 5"], [missing], log_metric=lambda *_: pytest.fail("there is nothing to count"))
