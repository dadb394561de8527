"""Rewards of the user's own on the command line: how they are named, and that they judge the benchmarks too."""

import json
import logging

import pytest

from htpo_trl.cli.launch import Parallelism
from htpo_trl.cli.plan import plan_run
from htpo_trl.evaluation.judges import name_of
from htpo_trl.scripts import evaluate, htpo
from htpo_trl.scripts.evaluate import default_output_dir
from htpo_trl.scripts.reward_names import reward_functions
from htpo_trl.utils import UsageError

from ..tiny import CPU_ARGUMENTS


JUDGE = """
from words import wanted

def spoken(completions, **kwargs):
    return [0.4 if text == wanted else 0.2 for text in completions]

def short(completions, **kwargs):
    return [float(len(text) < 2) for text in completions]

def golden(completions, gold, **kwargs):
    return [float(text == each) for text, each in zip(completions, gold)]
"""


@pytest.fixture
def files(tmp_path, monkeypatch, model, tokenizer):
    """A working directory with a model, prompts, and a reward in a folder, which imports what lies beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    model.save_pretrained("model")
    tokenizer.save_pretrained("model")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "judge.py").write_text(JUDGE)
    (tmp_path / "own" / "words.py").write_text("wanted = '7'\n")
    for name, numbers in {"train": range(30), "d/test": range(30, 33), "d/other": range(2)}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"prompt": f"{n:02d}"}) for n in numbers))
    return tmp_path


def options(**changed):
    given = {"model_name_or_path": "model", "dtype": "float32", "output_dir": "out", "dataset_name": "train.jsonl"}
    given |= {"reward_funcs": ["own/judge.py:spoken"], "eval_benchmarks": ["d/test.jsonl"], "eval_steps": 4}
    return CPU_ARGUMENTS | given | changed


def prepared(**changed):
    return htpo.prepare(*htpo.parse([], options(**changed)))


@pytest.mark.parametrize("name", ["own/judge.py:spoken", "own.judge.spoken", "own.judge:spoken"])
def test_by_file_and_by_module(files, name, monkeypatch):
    monkeypatch.syspath_prepend(files / "own")
    (function,) = reward_functions([name])
    assert function(completions=["7", "8"]) == [0.4, 0.2]
    assert reward_functions([name])[0] is function


def test_a_name_that_is_none_says_how_to_name_ones_own(files):
    with pytest.raises(
        UsageError, match=r"reward_funcs: Did you mean 'math_reward'\? 'math_rewad' is none of .*file\.py:name"
    ):
        reward_functions(["math_rewad"])
    with pytest.raises(UsageError, match=r"eval_judge: 'own/judge\.py:JUDGES' cannot be imported"):
        prepared(eval_judge="own/judge.py:JUDGES")


def test_benchmarks_are_judged_by_what_judges_training(files):
    judge = prepared(correctness_threshold=0.3).judge
    assert name_of(judge) == "spoken"
    assert list(judge(prompts=["", ""], completions=["7", "8"])) == [1.0, 0.0]
    both = ["own/judge.py:spoken", "own/judge.py:short"]
    assert name_of(prepared(reward_funcs=both, correctness_reward="short").judge) == "short"
    assert name_of(prepared(reward_funcs=both, correctness_reward="own/judge.py:short").judge) == "short"
    assert name_of(prepared(eval_judge="own/judge.py:short").judge) == "short"


def test_an_unfit_judge_is_refused_before_the_model_is_loaded(files):
    with pytest.raises(UsageError, match=r"^'test' has no column 'gold', only prompt; its judge, golden, needs it"):
        prepared(eval_judge="own/judge.py:golden")
    with pytest.raises(UsageError, match=r"^'test' has no column 'solution', only prompt; its judge, verifier"):
        prepared(eval_judge="verifier")
    with pytest.raises(UsageError, match=r"^'test' has no column 'solution'"):
        prepared(reward_funcs=["math_reward"], eval_judge="verifier")


def test_the_best_metric_is_known_before_the_model_is_loaded(files):
    best = {"eval_strategy": "steps", "save_strategy": "steps", "save_steps": 4, "load_best_model_at_end": True}
    best |= {"eval_num_samples": 4}
    message = (
        r"^metric_for_best_model='test/pass@8' is no metric of the benchmarks: test/mean@4, test/pass@2, test/pass@4, "
    )
    with pytest.raises(UsageError, match=message + r"test/truncated, test/mean_tokens, test/unparsable\.$"):
        prepared(metric_for_best_model="test/pass@8", **best)
    with pytest.raises(UsageError, match="metric_for_best_model='loss' is no metric"):  # what transformers sets
        prepared(**best)
    for name in ("test/pass@2", "eval_test/mean@4", "test/truncated"):
        assert prepared(metric_for_best_model=name, **best).evaluation == {}


def test_the_plan_says_who_judges(files):
    def plan(**changed):
        arguments = htpo.read_options([])
        return plan_run(arguments._replace(defaults=options(**changed)), Parallelism())

    assert "benchmarks are judged by spoken" in plan()
    assert "judged" not in plan(eval_benchmarks=None)
    assert "from the Hub, not looked at: gsm8k\n  benchmarks are judged by verifier" in plan(
        eval_benchmarks=["gsm8k"], reward_funcs=["math_reward"]
    )


def test_a_run_is_judged_and_told_as_planned(files, capsys, caplog):
    """Trained for real: mean@n is of the run's own judge, the terminal has a line a step, the log has everything."""
    changed = {
        "correctness_threshold": 0.3,
        "eval_num_samples": 2,
        "eval_max_new_tokens": 1,
        "steps_per_generation": 2,
    }
    trainer = htpo.build(
        *htpo.parse([], options(max_steps=2, eval_benchmarks=["d/test.jsonl", "d/other.jsonl"], **changed))
    )
    with caplog.at_level(logging.WARNING):
        htpo.train(trainer, None)
    rows = [json.loads(line) for line in (files / "out" / "evaluation" / "step-2" / "test.jsonl").open()]
    assert len(rows) == 6
    assert all((row["verdict"] == "correct") == (row["completion"] == "7") for row in rows)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [line.split("  ")[0] for line in lines] == ["step 0/2", "step 1/2", "step 2/2", "step 2/2", "step 2/2"]
    assert not any("{" in line for line in lines)
    assert "test: mean@2" in lines[0]
    assert "other: mean@2" in lines[0]
    settings = json.loads((files / "out" / "evaluation" / "step-2" / "test.json").read_text())["settings"]
    assert settings["judge"] == "spoken"
    assert "judge_source" in settings


@pytest.mark.parametrize(
    ("model", "directory"),
    [
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("runs/one/checkpoint-20", "one/checkpoint-20"),
        ("./runs/two/checkpoint-20/", "two/checkpoint-20"),
        ("runs", "runs"),
        ("models/one", "models/one"),
    ],
)
def test_results_of_checkpoints_of_one_name_keep_apart(tmp_path, monkeypatch, model, directory):
    monkeypatch.chdir(tmp_path)
    if "/" not in model or not model.startswith("Qwen"):
        (tmp_path / model).mkdir(parents=True)
    assert default_output_dir(model) == f"runs/evaluation/{directory}"


def test_results_of_a_model_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "a" / "checkpoint-20").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    expected = f"runs/evaluation{tmp_path}/a/checkpoint-20"
    assert default_output_dir("../a/checkpoint-20") == default_output_dir(f"{tmp_path}/a/checkpoint-20") == expected


def test_evaluation_by_the_command_refuses_replaced_weights(files, make_model, capsys):
    argv = ["--model", "model", "--benchmarks", "d/test.jsonl", "d/other.jsonl", "--judge", "own/judge.py:spoken"]
    argv += ["--num_samples", "1", "--max_new_tokens", "1", "--backend", "transformers"]
    evaluate.main(argv)
    samples = files / "runs" / "evaluation" / "model" / "test.jsonl"
    before = samples.read_bytes()
    evaluate.main(argv)
    make_model(seed=1).save_pretrained("model")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(argv)
    assert stopped.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("htpo eval: ")
    assert "digest of the model's weights=" in said
    assert said.endswith("into another output_dir.")
    assert samples.read_bytes() == before
