"""The data loaders, run for real: `load_dataset` finds the sets in folders laid out like those of the Hub."""

import csv
import json
import math
import random
import re
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from datasets import Dataset

from htpo_trl.data import (
    BENCHMARKS,
    PROCEDURAL_TASKS,
    TEMPLATES,
    Benchmark,
    check_disjoint,
    exclude,
    load,
    split,
)
from htpo_trl.data.countdown import countdown_reward, problems
from htpo_trl.data.names import check_options, evaluation_problems, generate, hub_id, is_ours
from htpo_trl.data.prompts import PromptArguments

from ..golds import DATA, FILES
from ..hub_files import DAPO_FRAME, EXPECTED, GSM8K_ROW, ROWS, dapo_row, write_jsonl


@pytest.fixture
def problems_file(tmp_path):
    def write(*pairs):
        return write_jsonl(tmp_path / "own.jsonl", *({"problem": p, "solution": s} for p, s in pairs))

    return write


def test_every_set_is_where_the_table_says():
    assert {name: tuple(benchmark[:5]) for name, benchmark in BENCHMARKS.items()} == EXPECTED


@pytest.mark.parametrize("name", BENCHMARKS)
def test_sets_of_the_hub(hub, name):
    row, problem, solution = ROWS[name]
    hub(name, row)
    dataset = load(name)
    assert dataset.column_names == ["prompt", "solution", "problem"]
    assert dataset["solution"][:] == [solution]
    assert dataset["problem"][:] == [problem]
    assert dataset["prompt"][0] == [{"role": "user", "content": TEMPLATES["boxed"].replace("{problem}", problem)}]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_downloaded_copies(tmp_path, name):
    row, problem, solution = ROWS[name]
    Dataset.from_list([row]).to_parquet(tmp_path / "copy.parquet")
    for path in (write_jsonl(tmp_path / "copy.jsonl", row), tmp_path / "copy.parquet"):
        dataset = load(name, path=path)
        assert (dataset["problem"][0], dataset["solution"][0]) == (problem, solution)


def test_an_unreachable_hub_is_said_with_the_way_out(hub):
    with pytest.raises(ConnectionError, match=r"Download math-ai/aime25 elsewhere and pass its file as path="):
        load("aime25")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GSM8K_ROW, {**GSM8K_ROW, "answer": "42"}], "openai/gsm8k, row 2, column 'answer': the value has no '####'"),
        ([{"question": "Q", "gold": "1"}], "openai/gsm8k, row 1: no column 'answer', only 'question', 'gold'"),
    ],
)
def test_bad_rows_of_the_hub(hub, rows, message):
    hub("gsm8k", *rows)
    with pytest.raises(ValueError, match=re.escape(message)):
        load("gsm8k")


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("dapo-math-17k", dapo_row("Q", "1", "{}"), "column 'prompt': the value is [{'content': 'Q'"),
        ("dapo-math-17k", dapo_row("Q", "1", DAPO_FRAME + " Really."), "with DAPO's instruction around the problem"),
        ("dapo-math-17k", dapo_row("", "1"), "column 'prompt': the value is empty"),
        ("dapo-math-17k", dapo_row("Q", None), "column 'reward_model': the value is None where text is expected"),
        ("aime24", {"problem": "P", "answer": "1000"}, "is '1000' where an integer from 0 to 999 is expected"),
        ("minerva", {"problem": "P", "solution": "42"}, "has no \\boxed{...}"),
        ("minerva", {"problem": "P", "solution": "\\boxed{\\}"}, "has no \\boxed{...}, or one that is never closed"),
        ("olympiadbench", {"question": "Q", "final_answer": []}, "column 'final_answer': the value is empty"),
        ("math500", {"problem": "P", "answer": math.nan}, "is nan where text is expected"),
        ("math500", {"problem": "P", "answer": "$$"}, "column 'answer': the value is empty"),
        ("math500", {"problem": 7, "answer": "7"}, "column 'problem': the value is 7 where text is expected"),
    ],
)
def test_bad_values(tmp_path, name, row, message):
    path = write_jsonl(tmp_path / "bad.jsonl", row)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load(name, path=path)
    assert str(error.value).startswith(f"{path}, line 1, column ")


@pytest.mark.parametrize(
    ("value", "solution"),
    [
        ("$\\frac{1}{2}$", "\\frac{1}{2}"),
        ("$221,$8$", "221,8"),  # as it stands in OlympiadBench
        ("\\$18.90", "\\$18.90"),
        ("$(-\\infty, 0) \\cup\\{1\\}$.", "(-\\infty, 0) \\cup\\{1\\}"),
        (["$1$", "2", 3], "1, 2, 3"),
        (27.0, "27"),
        (0.5, "0.5"),
        (-3, "-3"),
        (4.5e33, "4.5 \\times 10^{33}"),
        (10**40, "1" + "0" * 40),
        ("-1.60e-05", "-1.60 \\times 10^{-5}"),
        ("2e", "2e"),
    ],
)
def test_answers_are_bare(tmp_path, value, solution):
    path = write_jsonl(tmp_path / "own.jsonl", {"problem": "P", "solution": value})
    assert load(path)["solution"][0] == solution


@pytest.mark.parametrize(
    ("boxed", "solution"),
    [
        ("4.5e33", "4.5 \\times 10^{33}"),
        ("np.arcsin(10/13)", "\\arcsin(10/13)"),
        ("-1./3", "-1/3"),
        ("\\{1, 2\\}", "\\{1, 2\\}"),
        ("x+$ $y", "x+ y"),
    ],
)
def test_answers_of_minerva_are_latex(tmp_path, boxed, solution):
    path = write_jsonl(tmp_path / "minerva.jsonl", {"problem": "P", "solution": f"so \\boxed{{{boxed}}}$ cm."})
    assert load("minerva", path=path)["solution"][0] == solution


def test_files_of_ones_own(tmp_path):
    rows = [{"frage": "Was ist 6·7, „genau“?\nRechne!", "zahl": "42"}, {"frage": "5 - 3?", "zahl": "2"}]
    jsonl = tmp_path / "own.jsonl"
    jsonl.write_text("\ufeff" + "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    with (tmp_path / "own.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ["frage", "zahl"])
        writer.writeheader()
        writer.writerows(rows)
    Dataset.from_list(rows).to_parquet(tmp_path / "own.parquet")
    for suffix in (".jsonl", ".csv", ".parquet"):
        dataset = load(str(jsonl.with_suffix(suffix)), problem_column="frage", solution_column="zahl")
        assert dataset["problem"][:] == [row["frage"] for row in rows], suffix
        assert dataset["solution"][:] == ["42", "2"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("own.jsonl", b'{"problem": "P", "solution": "1"}\n\n{"problem": "P"\n', ", line 3: broken JSON, Expecting"),
        ("own.jsonl", b'\n{"problem": "\xff", "solution": "1"}\n', ", line 2: broken JSON, 'utf-8' codec"),
        ("own.jsonl", b'["P", "1"]\n', ", line 1: expected an object in braces, found ['P', '1']"),
        ("own.jsonl", b'{"problem": "P"}\n', ", line 1: no column 'solution', only 'problem'."),
        ("own.jsonl", b'{"problem": " ", "solution": "1"}\n', ", line 1, column 'problem': the value is empty."),
        ("own.jsonl", b"\n", ": no problem in 0 rows"),
        ("own.csv", b'problem,solution\n"P\nQ",1\n\nR,\n', ", line 5, column 'solution': the value is empty."),
        ("own.csv", b"problem,solution\nP,1\nQ,1,000\n", ", line 3: 3 fields where the header has 2. Quote"),
        ("own.csv", b"problem,solution\nQ\n", ", line 2: 1 fields where the header has 2."),
        ("own.csv", b'problem,solution\nP,1\n"Q"x,1\n', ", line 3: broken CSV, "),
        ("own.csv", b"problem,solution\nP,1\n\xff,1\n", ", line 3: broken CSV, 'utf-8' codec"),
        ("own.csv", b"problem,answer\nP,1\n", ", line 2: no column 'solution', only 'problem', 'answer'."),
        ("own.parquet", b"PAR1 and no more", ": broken parquet, "),
        ("own.json", b"{}", ": expected a file of .jsonl, .csv, .parquet; convert it."),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match="^" + re.escape(f"{path}{message}")):
        load(path)


def test_bad_rows_of_parquet(tmp_path):
    path = tmp_path / "own.parquet"
    Dataset.from_dict({"problem": ["P", "Q"], "solution": ["1", None]}).to_parquet(path)
    with pytest.raises(ValueError, match=re.escape(f"{path}, row 2, column 'solution': the value is None")):
        load(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl"):
        load(tmp_path / "nowhere.jsonl")


def test_unknown_names(hub):
    with pytest.raises(
        ValueError, match=r"dataset 'aime': .*Did you mean 'aime2[45]'\? .* known: dapo-math-17k, .*gcd"
    ):
        load("aime")


def test_unknown_options(problems_file):
    with pytest.raises(
        TypeError, match=r"no option 'tempalte'\. Did you mean 'template'\? There are template, system_"
    ):
        load(problems_file(("A", "1")), tempalte="none")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("own.jsonl", {"path": "copy.jsonl"}, "dataset_path='copy.jsonl' is a copy of one of dapo-math-17k, "),
        ("own.jsonl", {"config": "main"}, "dataset_config='main' is for data sets of the Hub by their id, which 'own"),
        ("aime24", {"split": "test"}, "split='test' is for data sets of the Hub by their id, which 'aime24' is not"),
        ("gcd", {"streaming": True}, "dataset_streaming=True is for data sets of the Hub by their id"),
        ("countdown", {"split": "tset"}, "split='tset' of countdown is none of test, validation, train"),
        ("countdown", {"config": "main"}, "dataset_config='main' is for data sets of the Hub"),
    ],
)
def test_options_that_do_not_fit_the_name(tmp_path, monkeypatch, name, options, message):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "own.jsonl", {"problem": "P", "solution": "1"})
    with pytest.raises(ValueError, match=re.escape(message)):
        load(name, **options)


def test_options_of_tasks_without_a_task():
    options = PromptArguments(dataset_options='{"size": 3}')
    check_options(["aime24", "gcd"], options)
    with pytest.raises(ValueError, match=r"dataset_options={'size': 3} are for procedural tasks, which aime24 is not"):
        check_options(["aime24"], options)
    with pytest.raises(ValueError, match=r"are for procedural tasks, which aime24 is not"):
        load("aime24", dataset_options={"size": 3})
    with pytest.raises(ValueError, match=r"dataset_options='{' is not JSON"):
        PromptArguments(dataset_options="{")


def test_data_in_trls_format_is_taken_as_it_is(hub, tmp_path):
    row = {"prompt": "p", "extra": 1}
    write_jsonl(tmp_path / "org" / "set" / "train.jsonl", row)
    write_jsonl(tmp_path / "own.jsonl", row)
    for name, place in (("org/set", "org/set, row 1"), ("own.jsonl", "own.jsonl, line 1")):
        assert load(name)[:] == {"prompt": ["p"], "extra": [1]}
        with pytest.raises(ValueError, match=f"{place}: no column 'question', only 'prompt', 'extra'"):
            load(name, problem_column="question")
    assert list(load("org/set", streaming=True)) == [row]


def test_a_set_of_the_hub_by_its_id(hub, tmp_path):
    write_jsonl(tmp_path / "org" / "set" / "train.jsonl", {"question": "P", "answer": "$1$"})
    columns = {"problem_column": "question", "solution_column": "answer"}
    assert load("org/set", template="none", chat=False, **columns)[:] == {
        "prompt": ["P"],
        "solution": ["1"],
        "problem": ["P"],
    }
    elsewhere = Benchmark("org/set", None, "train", "question", "answer")
    assert load(elsewhere, PromptArguments(chat=False))["solution"][:] == ["1"]


def test_problems_of_an_evaluation(hub, problems_file, tmp_path):
    own = str(problems_file(("A", "1")))
    found = evaluation_problems([own, "countdown"], PromptArguments(template="none", chat=False))
    assert [*found] == ["own", "countdown"]
    assert found["own"]["prompt"][:] == ["A"]
    assert found["countdown"][:] == load("countdown", split="test")[:]
    write_jsonl(tmp_path / "org" / "set" / "train.jsonl", {"prompt": "to train on"})
    write_jsonl(tmp_path / "org" / "set" / "test.jsonl", {"prompt": "to test on"})
    assert evaluation_problems(["org/set"], PromptArguments())["set"]["prompt"][:] == ["to test on"]


@pytest.mark.parametrize(
    ("name", "ours", "on_the_hub"),
    [
        ("aime24", True, "HuggingFaceH4/aime_2024"),
        ("gcd", True, None),
        ("own.csv", True, None),
        ("org/set", False, "org/set"),
        ("tests", False, None),  # a folder
    ],
)
def test_where_a_name_is_from(name, ours, on_the_hub, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    assert (is_ours(name), hub_id(name)) == (ours, on_the_hub)


def test_templates(problems_file):
    path = problems_file(("Find $\\frac{1}{x}$ of {problem} {0}.", "1"))
    problem = "Find $\\frac{1}{x}$ of {problem} {0}."
    assert load(path, template="answer", chat=False)["prompt"][0] == (
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
        f"$Answer (without quotes) where $Answer is the answer to the problem.\n\n{problem}\n\n"
        'Remember to put your answer on its own line after "Answer:".'
    )
    assert load(path, template="none", chat=False)["prompt"][0] == problem
    assert load(path, template="Q: {problem}\nA:", chat=False)["prompt"][0] == f"Q: {problem}\nA:"
    assert load(path, template="none", chat=False, system_prompt="Be brief.")["prompt"][0] == (
        f"Be brief.\n\n{problem}"
    )
    assert load(path, template="none", system_prompt="Be brief.")["prompt"][0] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": problem},
    ]
    assert load(path)["prompt"][0][0]["content"].endswith("within \\boxed{}.")
    with pytest.raises(ValueError, match=r"template='box' is none of boxed, answer, none and has no \{problem\}"):
        load(path, template="box")


def test_repeats_and_conflicts(problems_file, caplog):
    path = problems_file(
        ("A", "1"), (" A\n", "$1$"), ("B  b", "2"), ("B b", "3"), ("B b", "2"), ("C", "4"), ("a", "1")
    )
    dataset = load(path)
    assert dataset["problem"][:] == ["A", "C", "a"]
    assert caplog.messages == [
        f"{path}: 7 rows, 3 problems. Dropped: 3 rows that repeat a problem, 1 problems with conflicting answers."
    ]
    with pytest.raises(ValueError, match="no problem in 2 rows, of which 1 have conflicting answers"):
        load(problems_file(("A", "1"), ("A", "2")))


def test_the_hundred_copies_of_dapo(hub, caplog):
    hub("dapo-math-17k", *[dapo_row(f"What is {i} + 1?", str(i + 1)) for i in range(12)] * 100)
    dataset = load("dapo-math-17k", template="answer")
    assert dataset["solution"][:] == [str(i + 1) for i in range(12)]
    assert dataset["prompt"][0] == [{"role": "user", "content": DAPO_FRAME.format("What is 0 + 1?")}]
    assert "1200 rows, 12 problems" in caplog.text


def numbered(*numbers):
    return Dataset.from_dict({"problem": [f"What is {n}?" for n in numbers], "number": numbers})


def test_split_is_by_content():
    order = list(range(400))
    random.Random(0).shuffle(order)
    shares = {"train": 0.7, "validation": 0.1, "test": 0.2}
    first, second = split(numbered(*range(400)), shares), split(numbered(*order, *range(400, 600)), shares)
    assert sorted(n for part in first.values() for n in part["number"]) == list(range(400))
    for name, share in shares.items():
        numbers = set(first[name]["number"])
        assert numbers <= set(second[name]["number"])
        assert abs(len(numbers) / 400 - share) < 4 * math.sqrt(share * (1 - share) / 400)
    assert set(split(numbered(*range(400)), shares, seed=1)["test"]["number"]) != set(first["test"]["number"])
    spaced = Dataset.from_dict({"problem": [" What  is\n7? ", "What is 7?", *(f"What is {n}?" for n in range(50))]})
    parts = split(spaced, {"a": 0.5, "b": 0.5})
    assert sum(len(part) for part in parts.values()) == 52
    check_disjoint(parts)


@pytest.mark.parametrize("shares", [{"train": 0.9}, {"train": 1.2, "test": -0.2}, {"train": 1.0, "test": 0.0}, {}])
def test_shares_that_are_none(shares):
    with pytest.raises(ValueError, match=r"shares=\{.*\} must be positive and add up to 1"):
        split(numbered(1, 2), shares)


def test_a_split_without_rows():
    with pytest.raises(ValueError, match=r"leave no row of 2 for 'test': raise its share"):
        split(numbered(1, 2), {"train": 0.999, "test": 0.001})


def test_overlaps_are_found_and_removed():
    train, test = numbered(*range(10)), Dataset.from_dict({"problem": ["What is\n 3?", "What is 8?", "What is 30?"]})
    with pytest.raises(ValueError, match=r"'dapo' \(10 problems\) and 'aime' \(3\) share 2, such as 'What is 3\?'"):
        check_disjoint({"other": numbered(99), "dapo": train, "aime": test})
    clean = exclude(train, test)
    assert clean["number"][:] == [0, 1, 2, 4, 5, 6, 7, 9]
    check_disjoint({"dapo": clean, "aime": test})
    with pytest.raises(
        ValueError, match=r"No column 'problem' or 'prompt' is in all of \[\['prompt'\], \['problem'\]\]"
    ):
        check_disjoint({"a": Dataset.from_dict({"prompt": ["P"]}), "b": test})


def test_countdown():
    train, test = load("countdown"), load("countdown", split="test")
    assert countdown_reward(train["prompt"][:], train["solution"][:]) == [1.0] * len(train)
    rng = random.Random(0)
    assert train["prompt"][:] == [problem.prompt(rng) for problem in problems("train")]  # as in the laptop job
    assert load("countdown", dataset_options={"seed": 1})["prompt"][:] != train["prompt"][:]
    check_disjoint({"train": train, "validation": load("countdown", split="validation"), "test": test})


RECOMPUTE = {
    "chain_sum": lambda text: sum(map(int, re.findall(r"[-+]?\d+", text.replace(" ", "")))),
    "decimal_chain_sum": lambda text: sum(map(Decimal, re.findall(r"[-+]?\d+\.?\d*", text.replace(" ", "")))),
    "products": lambda text: math.prod(map(int, re.findall(r"\d+", text))),
    "gcd": lambda text: math.gcd(*map(int, re.findall(r"\d+", text))),
    "lcm": lambda text: math.lcm(*map(int, re.findall(r"\d+", text))),
    "count_bits": lambda text: int(re.findall(r"\d+", text)[-1]).bit_count(),
}


class TestProcedural:
    @pytest.fixture(autouse=True)
    def extra(self):
        pytest.importorskip("reasoning_gym")

    @pytest.mark.parametrize("task", PROCEDURAL_TASKS)
    def test_answers_are_numbers_and_repeatable(self, task):
        dataset = load(task, dataset_options={"size": 20})
        assert all(re.fullmatch(r"-?\d+(\.\d+)?(/\d+)?", answer) for answer in dataset["solution"])
        assert dataset[:] == load(task, dataset_options={"size": 20})[:]

    @pytest.mark.parametrize("task", RECOMPUTE)
    def test_answers_are_right(self, task):
        for row in load(task, dataset_options={"size": 50, "seed": 3}):
            assert RECOMPUTE[task](row["problem"]) == Decimal(row["solution"]), row["problem"]

    def test_neighbouring_seeds_share_nothing(self):
        first, second = (load("count_bits", dataset_options={"size": 200, "seed": seed}) for seed in (0, 1))
        check_disjoint({"first": first, "second": second})

    def test_there_are_a_thousand_problems_where_nothing_is_said(self):
        assert len([*generate("gcd")]) == 1000

    def test_options_of_the_task(self):
        options = {"size": 20, "min_terms": 2, "max_terms": 2}
        short = load("chain_sum", template="none", chat=False, dataset_options=options)
        assert all(len(re.findall(r"\d+", prompt)) == 2 for prompt in short["prompt"])

    @pytest.mark.parametrize("task", ["spiral_matrix", "puzzle24", "basic_arithmetic"])
    def test_other_tasks_are_refused(self, task, hub):
        with pytest.raises(ValueError, match=f"dataset '{task}': .*Names that are known: .*binary_alternation"):
            load(task)


def test_missing_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)  # what Python itself puts there for "not to be imported"
    with pytest.raises(ImportError, match=r"pip install 'htpo_trl\[procedural\]'"):
        load("gcd")


SIZES = {"aime24": 30, "aime25": 30, "math500": 500, "minerva": 272, "olympiadbench": 675, "gsm8k": 1319}


@pytest.mark.skipif(not DATA.is_dir(), reason="the published files are not here")
def test_published_files():
    sets = {name: load(name, path=DATA / f"{file}.jsonl") for name, file in FILES.items()}
    assert {name: len(dataset) for name, dataset in sets.items()} == SIZES
    for dataset in sets.values():
        for solution in dataset["solution"]:
            assert "boxed" not in solution
            assert "$" not in solution.replace("\\$", "")
            assert not re.search(r"\d[eE][-+]?\d|np\.|\d\./", solution)  # Python's notation, which is not LaTeX
    assert all(re.fullmatch(r"\d+", solution) for name in ("aime24", "aime25") for solution in sets[name]["solution"])
    assert all(re.fullmatch(r"-?\d+", solution) for solution in sets["gsm8k"]["solution"])
    check_disjoint(sets)
