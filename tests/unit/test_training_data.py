"""What is trained on and what is evaluated on: they have no problem in common."""

import json
import re

import pytest
from datasets import Dataset

from htpo_trl.data import check_disjoint, exclude, load, split
from htpo_trl.data.countdown import problems
from htpo_trl.data.names import evaluation_problems, result_names
from htpo_trl.data.prompts import PromptArguments
from htpo_trl.scripts import htpo
from htpo_trl.utils import UsageError

from ..tiny import CPU_ARGUMENTS


def test_countdown_is_evaluated_on_its_test_problems():
    found = evaluation_problems(["countdown"], PromptArguments())
    expected = [f"{a},{b},{c}>{target}" for (a, b, c), target in problems("test")]
    assert found["countdown"]["problem"][:] == expected


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


def loaded(*benchmarks, **options):
    """What the script loads: to train on, for TRL's evaluation, benchmarks."""
    options = {"dataset_name": "train.jsonl", "template": "none", "chat": False, "output_dir": "out"} | options
    script, args, _ = htpo.parse([], CPU_ARGUMENTS | options | {"eval_benchmarks": [*benchmarks] or None})
    return htpo.load_data(script, args)


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


def test_the_held_out_part_is_kept_whatever_a_file_is_called(files):
    (files / "d").mkdir()
    (files / "d" / "test.jsonl").write_text((files / "first.jsonl").read_text())
    train, _, benchmarks = loaded("d/test.jsonl", "test", test_split_size=0.4)
    alone = loaded("test", test_split_size=0.4)[2]["test"]["problem"][:]
    assert len(alone) > 3
    assert benchmarks["test"]["problem"][:] == alone
    assert benchmarks["d-test"]["solution"][:] == ["3", "7", "20", "21", "22"]
    assert sorted(map(int, train["solution"])) == sorted(
        {*range(20)} - {3, 7} - {int(text.split()[0]) for text in alone}
    )


def test_a_part_that_trl_evaluates_on_is_not_trained_on(files):
    options = {"eval_strategy": "steps", "eval_steps": 2}
    train, held_out, _ = loaded(test_split_size=0.4, **options)
    assert not {*train["problem"]} & {*held_out["problem"]}
    train, held_out, benchmarks = loaded("first.jsonl", **options)
    assert held_out == {}  # the benchmarks are the evaluation
    assert not {*train["solution"]} & {*benchmarks["first"]["solution"]}


def test_prompts_of_trls_format_are_held_out_too(files):
    rows = [{"prompt": f"{n} + 1"} for n in range(20)]
    (files / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (files / "some.jsonl").write_text("\n".join(map(json.dumps, rows[5:8])))
    train, _, benchmarks = loaded("some.jsonl", dataset_name="prompts.jsonl")
    assert train["prompt"][:] == [row["prompt"] for row in rows[:5] + rows[8:]]
    assert benchmarks["some"]["prompt"][:] == [row["prompt"] for row in rows[5:8]]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["aime24", "own.jsonl", "org/set"], ["aime24", "own", "set"]),
        (["d/ok.jsonl", "d/x/ok.jsonl"], ["d-ok", "x-ok"]),
        (["a/x/ok.jsonl", "b/x/ok.csv", "b/y/ok.jsonl"], ["a-x-ok", "b-x-ok", "y-ok"]),
        (["d/ok.csv", "d/ok.jsonl"], ["ok.csv", "ok.jsonl"]),
        (["one/set", "two/set"], ["one-set", "two-set"]),
        (["aime24", "d/aime24.jsonl"], ["aime24", "d-aime24"]),
        (["d/my set (2).jsonl"], ["my-set-2"]),
    ],
)
def test_results_of_different_sets_are_called_differently(names, labels):
    assert [*result_names(names).values()] == labels
    assert result_names(names[::-1]) == result_names(names)  # whatever the order


@pytest.mark.parametrize("names", [["aime24", "aime24"], ["d/ok.jsonl", "d/../d/ok.jsonl"]])
def test_a_set_is_named_once(names):
    with pytest.raises(UsageError, match=r"^eval_benchmarks: .* name one set twice\. Name each once\.$"):
        result_names(names, "eval_benchmarks")


def asked(*numbers, system=None):
    """Without the column `problem`, as TRL's own sets."""
    before = [{"role": "system", "content": system}] if system else []
    prompts = [[*before, {"role": "user", "content": f"What\n is {n}?"}] for n in numbers]
    return Dataset.from_dict({"prompt": prompts, "number": numbers})


def test_data_in_trls_format_is_compared_by_its_prompts():
    train, test = asked(*range(100)), asked(3, 8, 200, system="Be brief.")
    assert exclude(train, test)["number"][:] == [n for n in range(100) if n not in (3, 8)]
    assert [row["number"] for row in exclude(train.to_iterable_dataset(), test)] == exclude(train, test)["number"][:]
    parts = split(train, {"train": 0.5, "test": 0.5})
    check_disjoint(parts)
    assert sorted([*parts["train"]["number"], *parts["test"]["number"]]) == list(range(100))
    plain = Dataset.from_dict({"prompt": ["What is 3?", "What is 500?"]})
    with pytest.raises(ValueError, match=r"share 1, such as 'What is 3\?'"):
        check_disjoint({"a": plain, "b": train})
    with pytest.raises(ValueError, match=r"No column 'problem' or 'prompt' is in all of"):
        split(train.add_column("image", [None] * 100), {"train": 0.5, "test": 0.5})  # the text may be the same for all


def test_what_is_not_used_of_prompts_that_are_taken_as_they_are(tmp_path, caplog):
    (tmp_path / "own.jsonl").write_text('{"prompt": "1", "question": "2", "answer": "3"}')
    path = str(tmp_path / "own.jsonl")
    load(path, chat=False)
    load(path, template="answer", problem_column="question", solution_column="answer")
    assert caplog.messages == []
    assert load(path, template="answer", system_prompt="Be brief.")["prompt"][:] == ["1"]
    assert caplog.messages == [
        f"{path} has the column 'prompt' and is taken as it is, without template and system_prompt. To make "
        "prompts of another column, name it by problem_column."
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("own.csv", b"problem;solution\nP;1\n", ", line 1: fields are separated by ';'. Save it with commas."),
        ("own.csv", b"problem,problem,solution\n", ", line 1: two columns have one name: problem, problem, solution."),
        ("own.csv", "problem,solution".encode("utf-16"), ", line 1: broken CSV, 'utf-8' codec can't decode"),
        (
            "own.jsonl",
            b'{"prompt": "1", "prompt": "2"}',
            ", line 1: broken JSON, of prompt, prompt one is given twice.",
        ),
    ],
)
def test_files_as_other_programs_write_them(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=re.escape(f"{tmp_path / name}{message}")) as raised:
        load(tmp_path / name)
    assert ("Save it in UTF-8." in str(raised.value)) == ("codec" in message)
