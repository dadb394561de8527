"""Files that no loader likes: one line that names file and line, whatever is in them."""

import json
import re
import resource

import pytest

from htpo_trl.data import load
from htpo_trl.data.files import MAX_LINE
from htpo_trl.evaluation.judges import check_columns as check_benchmark
from htpo_trl.training.checks import check_columns
from htpo_trl.utils import UsageError


DEEP = "[" * 100_000 + "]" * 100_000
GOOD = '{"problem": "P", "solution": "1"}\n'
AS_IT_IS = '{"prompt": "p", "x": %s}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD + AS_IT_IS % DEEP, "line 2: nested too deep to be read."),
        (GOOD + f'{{"problem": {DEEP}, "solution": "1"}}', "line 2: nested too deep to be read."),
        (AS_IT_IS % "1" + AS_IT_IS % DEEP, "line 2: nested too deep to be read."),
        (AS_IT_IS % DEEP, "line 1: nested too deep to be read."),
        (AS_IT_IS % ("[" * 20 + "]" * 20), None),
        (AS_IT_IS % "[]" + AS_IT_IS % ("[" * 100 + "]" * 100), "line 2, column 'x': the value is nested too deep"),
        (GOOD + '{"problem": "Q", "solution": %s}' % ('{"a":' * 900 + "1" + "}" * 900), "line 2, column 'solution': "),
        (GOOD + '{"problem": 1%s, "solution": "1"}' % ("0" * 400), "line 2, column 'problem': the value is 1000"),
        (GOOD + '{"problem": "Q", "solution": 1%s}' % ("0" * 5000), "line 2: broken JSON, Exceeds the limit"),
        (GOOD + '{"problem": "Q", "solution": 1e999}', "line 2, column 'solution': the value is inf"),
        (GOOD + '{"problem": "Q", "solution": -1e400}', "line 2, column 'solution': the value is -inf"),
        (AS_IT_IS % "1" + AS_IT_IS % ("1" + "0" * 400), "line 2, column 'x': the values are not of one type, or"),
        (AS_IT_IS % ("1" + "0" * 400), "line 1, column 'x': the values are not of one type, or"),
        (AS_IT_IS % "1" * 3 + AS_IT_IS % '"a"' + AS_IT_IS % "1", "line 4, column 'x': the values are not of one type"),
        (AS_IT_IS % "1" * 200 + AS_IT_IS % '{"a": 1}', "line 201, column 'x': the values are not of one type"),
        (AS_IT_IS % '"a"' + AS_IT_IS % '"\\ud800"', "line 2, column 'x': the values are not of one type, or"),
        (GOOD + '{"problem": "\\udfff Q"}', "line 2, column 'problem': the value has half a character, '\\udfff'"),
        (GOOD + '{"problem": "Q", "solution": "\\ud800"}', "line 2, column 'solution': the value has half"),
        (GOOD + '{"problem": "Q", "solution": "1", "solution": "2"}', "line 2: broken JSON, of problem, "),
        (AS_IT_IS % '{"y": 1, "y": 2}', "line 1: broken JSON, of y, y one is given twice"),
        (GOOD + '{"problem": "' + "Q" * MAX_LINE + '", "solution": "1"}', "line 2: longer than 32 MiB. Give each row"),
        (f"[{GOOD.strip()}]", "line 1: expected an object in braces, found [{'problem': 'P', 'solution': '1'}]. "),
        ("{" + GOOD[1:-2] + ",\n}\n", "line 1: broken JSON, "),
        (GOOD + '{"problem": "Q"}', "line 2: no column 'solution', only 'problem'. Add it, or name the"),
        (GOOD + "[" * MAX_LINE + "]", "line 2: longer than 32 MiB. Give each row"),
    ],
)  # fmt: skip
def test_lines_of_json(tmp_path, content, message):
    path = tmp_path / "odd.jsonl"
    path.write_text(content)
    if message is None:
        load(path)
        return
    with pytest.raises(UsageError, match="^" + re.escape(f"{path}, {message}")) as error:
        load(path)
    assert len(str(error.value)) < 500
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("problem,solution,problem\nP,1,Q\n", "line 1: two columns have one name: problem, solution, problem"),
        (f"problem,solution\nP,1\n{'Q' * MAX_LINE},1\n", "line 3: longer than 32 MiB"),
        (f"problem,solution\nP,1\n{'Q' * 200_000},1\n", "line 3: broken CSV, field larger than field limit"),
        (f"problem,solution\nP,1\nQ,{'1' * 200_000}\n", "line 3: broken CSV, field larger than field limit"),
        ("problem,solution\nP,1\n\0,1\n", None),
    ],
)
def test_csv(tmp_path, content, message):
    path = tmp_path / "odd.csv"
    path.write_text(content)
    if message is None:
        assert load(path)["problem"][:] == ["P", "\0"]
        return
    with pytest.raises(UsageError, match="^" + re.escape(f"{path}, {message}")):
        load(path)


def test_an_endless_line_takes_no_more_memory_than_the_bound(tmp_path):
    path = tmp_path / "odd.jsonl"
    with path.open("wb") as file:
        file.write(b'{"problem": "')
        file.truncate(2 << 30)  # a sparse file
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UsageError, match=r"odd\.jsonl, line 1: longer than 32 MiB"):
        load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB


@pytest.mark.parametrize("column", ["prompts", "completions"])
def test_columns_that_are_called_like_what_a_reward_is_given(tmp_path, column):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"prompt": "p", column: "x"}))
    data = load(path)
    with pytest.raises(UsageError, match=f"The data's column '{column}' has the name of what each reward"):
        check_columns([lambda completions, **_: [1.0]], data)
    with pytest.raises(UsageError, match=f"'own': the column '{column}' has the name of what a judge is"):
        check_benchmark(lambda completions, **_: [1.0], data.column_names, "own")
