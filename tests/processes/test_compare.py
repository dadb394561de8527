"""A fight that is killed twice ends as one that is left alone; a run that fails is a result."""

import hashlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from shutil import copy, copytree, rmtree

import pytest
import yaml

from htpo_trl.cli import main
from htpo_trl.compare.plan import Run
from htpo_trl.compare.results import Common, keep
from htpo_trl.compare.runs import _Phase, _Process, _undisturbed
from htpo_trl.report.runs import read_run
from htpo_trl.utils import UsageError

from ..forks import Forks


# An arm's second confirmation seed has no luck: its run fails at the first batch.
REWARD = """
import sys

import torch

from judge_of_digits import even_digits as judge


def even_digits(completions, **kwargs):
    if torch.initial_seed() == 1001 and "--objective=htpo" in sys.argv:
        raise RuntimeError("no luck")
    return judge(completions)
"""
DIGITS = """
def even_digits(completions, **kwargs):
    return [float(sum(c in "02468" for c in text) * 2 > len(text)) for text in completions]
"""
OPTIONS = {
    "model_name_or_path": "model",
    "dtype": "float32",
    "dataset_name": "train.jsonl",
    "reward_funcs": "reward.even_digits",
    "eval_judge": "judge_of_digits.even_digits",
    "eval_top_p": 1.0,
    "num_generations": 4,
    "per_device_train_batch_size": 8,
    "steps_per_generation": 2,
    "max_completion_length": 4,
    "max_steps": 2,
    "save_steps": 1,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "logging_steps": 1,
}
COMMAND = (
    *("compare", "--config", "recipe.yaml", "--objectives", "dapo", "htpo", "--learning_rates", "1e-2", "3e-2"),
    *("--seeds", "2", "--confirm_seeds", "2", "--samples", "4", "--tuning_samples", "2"),
    *("--validation", "validation.jsonl", "--test", "test.jsonl", "more.jsonl"),
)
# The runs that evaluate the model before training.
BEFORE = ("tuning-dapo-lr0.01-seed0", "confirmation-dapo-seed1000")


def compare(directory, output, *more):
    """The command, as the leader of a group of processes."""
    os.chdir(directory)
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as at a terminal
    main([*COMMAND, "--output_dir", output, *more])


def start(directory, output, *more):
    return Forks(compare, directory, output, *more, output=directory / f"{output}.txt")


def stop_at(n, signum, directory, output):
    """Signal a fight's processes when it has `n` results; returns its exit code."""
    command = start(directory, output)
    (process,) = command.processes
    while not command.ended() and len(results(directory / output)) < n:
        time.sleep(0.02)
    os.killpg(process.pid, signum)
    (code,) = command.join()
    return code


def results(fight):
    return {path.stem: json.loads(path.read_text()) for path in sorted(fight.glob("results/*.json"))}


@pytest.fixture(scope="module")
def directory(directory):
    parts = {"train": range(40), "validation": range(40, 46), "test": range(50, 54), "more": range(60, 62)}
    for name, numbers in parts.items():
        rows = [json.dumps({"prompt": f"{i:02d}"}) for i in numbers]
        (directory / f"{name}.jsonl").write_text("\n".join(rows))
    (directory / "reward.py").write_text(REWARD)
    (directory / "judge_of_digits.py").write_text(DIGITS)
    (directory / "recipe.yaml").write_text(yaml.safe_dump(OPTIONS))
    start(directory, "whole").finish()
    return directory


def test_a_fight(directory):
    """Its runs, their results, and what it says in the end."""
    digest = hashlib.sha256((directory / "whole" / "plan.json").read_bytes()).hexdigest()
    found = results(directory / "whole")
    arms, seeds = ("dapo", "htpo"), (1000, 1001)
    assert found.keys() == {
        *("before-validation", "before-test"),
        *(f"tuning-{arm}-lr{rate}-seed{seed}" for arm in arms for rate in ("0.01", "0.03") for seed in (0, 1)),
        *(f"confirmation-{arm}-seed{seed}" for arm in arms for seed in seeds),
    }
    written = (directory / "whole" / "plan.json").stat().st_mtime
    for name, result in found.items():
        assert (result["plan"], result["name"], result["schema"]) == (digest, name, 1)
        assert (directory / "whole" / "results" / f"{name}.json").stat().st_mtime > written
        failed = name == "confirmation-htpo-seed1001"
        assert result["status"] == ("failed" if failed else "finished")
        samples = 4 if result["phase"] == "confirmation" or name == "before-test" else 2
        assert result["judged"] == ([] if failed else [samples] * 6)
        assert all(0 <= correct <= samples for correct in result["correct"])
        if result["phase"] != "before" and not failed:
            rate, arm = result["learning_rate"], result["arm"]
            own = {"learning_rate": rate, "seed": result["seed"], "eval_num_samples": samples}
            assert result["options"] == own | ({"objective": "htpo"} if arm == "htpo" else {})
            assert [*result["log"]["reward"]] == ["1"], "one generation batch, at the first step"
            assert result["steps"] == 2
            read = read_run(directory / "whole" / "runs" / name)
            assert result["train_tokens"] == read.log["num_tokens"].iloc[-1]
            rows = {}
            for evaluations in read.evaluations.values():
                rows |= evaluations[2].results.problems
                assert (0 in evaluations) == (name in BEFORE), "one run does it for all"
            assert dict(zip(result["problems"], result["correct"], strict=True)) == {
                problem: [row["verdict"] for row in each].count("correct") for problem, each in rows.items()
            }
            model = directory / "whole" / "runs" / name / "model.safetensors"
            assert model.exists() == (result["phase"] == "confirmation")
    assert found["confirmation-htpo-seed1001"]["error"] == "RuntimeError: no luck"
    told = (directory / "whole.txt").read_text()
    assert "mean@4" not in told.split("Learning rates:")[1].split("### Verdicts")[0], "of the test, before the end"
    assert "8 runs: 2 arms x 2 learning rates (0.01, 0.03) x 2 seeds, 2 samples a problem" in told
    assert "12 runs, 1 at a time, take about" in told
    assert told.count("once more, from its checkpoint") == 1
    assert "htpo: of 2 confirmation runs 1 failed and count as 0" in told
    assert (directory / "whole" / "report" / "index.html").is_file()


def test_killed_it_goes_on(directory):
    """By SIGKILL of all its processes, by Ctrl-C, by SIGTERM; its runs are lost, and the results alone suffice."""
    (directory / "killed").mkdir()
    copy(directory / "whole" / "plan.json", directory / "killed")
    assert stop_at(2, signal.SIGKILL, directory, "killed") == -signal.SIGKILL
    first = results(directory / "killed")
    assert len(first) < 5
    for signum in (signal.SIGINT, signal.SIGTERM):
        n = len(results(directory / "killed"))
        assert stop_at(n + 1, signum, directory, "killed") == 128 + signum
        said = (directory / "killed.txt").read_text()
        assert f"stopped by {signum.name}. What is done stays: the same command goes on from there." in said
        assert "Traceback" not in said
    rmtree(directory / "killed" / "runs")
    start(directory, "killed").finish()
    assert "about" not in (directory / "killed.txt").read_text().split("Fight:")[0]
    there, here = (results(directory / name) for name in ("whole", "killed"))
    assert first.items() <= here.items(), "what was done stays"
    for name in there:
        assert without_times(there[name]) == without_times(here[name]), name
    said = [(directory / f"{name}.txt").read_text().split("Learning rates:")[1] for name in ("whole", "killed")]
    sentences = [[line for line in text.splitlines() if " in mean@4" in line or "p =" in line] for text in said]
    assert sentences[0] == sentences[1] != []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_a_run_is_started(signum):
    """It has what it needs, and is known; a terminal's Ctrl-C is not for it, as the command tells its runs."""
    show, known = [sys.executable, "-c", "print(open('/proc/self/status').read())"], []

    def start():
        with _undisturbed():
            signal.raise_signal(signum)
            known.append(subprocess.run(show, capture_output=True, text=True, check=True).stdout)

    before = signal.signal(signum, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            start()
        assert signal.getsignal(signum) is signal.default_int_handler
    finally:
        signal.signal(signum, before)
    (blocked,) = re.findall(r"SigBlk:\s*(\w+)", known[0])
    assert int(blocked, 16) >> signal.SIGINT - 1 & 1
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_what_fails_after_its_last_evaluation_counts(directory):
    """In writing a model card, say, or in a tracker."""
    fight = copytree(directory / "whole", directory / "late")
    plan, before = json.loads((fight / "plan.json").read_text()), results(fight)["confirmation-htpo-seed1000"]
    run = Run("confirmation", "htpo", before["learning_rate"], 1000)
    (fight / "results" / f"{run.name}.json").unlink()
    late = _Process.__new__(_Process)
    late.run, late.log, late.started = run, fight / "runs" / f"{run.name}.log", time.monotonic()
    late.process = multiprocessing.get_context("spawn").Process(target=sys.exit, args=(1,))
    late.process.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        _Phase(Common(plan, before["plan"], fight, [], False, 1, True), [run])._end(late)
    assert results(fight)[run.name] == before


def without_times(result):
    return {name: value for name, value in result.items() if name != "seconds"}


def test_another_plan_is_refused(directory, capsys):
    """And nothing is changed by it."""
    before = (directory / "whole" / "plan.json").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        with pytest.raises(SystemExit) as ended:
            main([*COMMAND, "--output_dir", "whole", "--max_steps", "3", "--samples", "8"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "samples 4 there, 8 here" in line
    assert "options.max_steps 2 there, 3 here" in line
    assert (directory / "whole" / "plan.json").read_bytes() == before


def test_one_command_at_a_time(directory, monkeypatch, capsys):
    """The second one is told who has the directory."""
    monkeypatch.chdir(directory)
    script = "from htpo_trl.output.lock import held\nwith held('whole', 'htpo compare'): print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as first:
        first.stdout.readline()
        with pytest.raises(SystemExit) as ended:
            main([*COMMAND, "--output_dir", "whole"])
        first.communicate(b"\n")
    assert ended.value.code == 2
    assert re.search(f"output_dir='whole' is in use by htpo compare, process {first.pid} ", capsys.readouterr().err)


def test_a_run_that_the_plan_does_not_describe_is_refused(directory, capsys):
    """Whatever it differs in: an option, the seed, the data, or the user's own reward."""
    fight = copytree(directory / "whole", directory / "planted")
    plan, digest = json.loads((fight / "plan.json").read_text()), results(fight)["before-test"]["plan"]
    assert plan["code"].keys() == {"htpo_trl", "reward.py", "judge_of_digits.py"}
    run = Run("confirmation", "htpo", results(fight)["confirmation-htpo-seed1000"]["learning_rate"], 1000)
    settings = fight / "runs" / run.name / "settings.json"
    common = Common(plan, digest, fight, [], False, 1, True)
    made = json.loads(settings.read_text())

    def refused():
        with pytest.raises(UsageError) as error:
            keep(common, run, "before-test")
        return str(error.value)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        before = results(fight)[run.name]
        (fight / "results" / f"{run.name}.json").unlink()
        assert keep(common, run, "before-test") == before, "as it was made"
        for section, name, value in (
            ("HTPOConfig", "epsilon_high", 0.5),
            ("HTPOConfig", "seed", 1001),
            ("HTPOConfig", "learning_rate", 0.5),
            ("HTPOConfig", "objective", "dapo"),
            ("ModelConfig", "model_name_or_path", "other"),
            ("HTPOScriptArguments", "eval_top_p", 0.5),
            ("run", "data", "41 rows"),
        ):
            settings.write_text(json.dumps(made | {section: made[section] | {name: value}}))
            assert f"{run.name} was not made as the plan says: {name} is {value!r}, and not" in refused()
        settings.write_text(json.dumps(made))
        common.plan["code"]["reward.py"] = "0" * 64
        assert f"reward.py was edited while {run.name} was under way" in refused()
