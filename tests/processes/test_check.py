"""`htpo check` as a command: all of it on this machine, sabotaged, and with parts that fail in every way there is."""

import getpass
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from htpo_trl.check.parts import PARTS


ROOT = Path(__file__).parents[2]
CHECK = (sys.executable, "-m", "htpo_trl", "check")
# What Python runs as it starts: the three sabotages, each in the part that must see it.
SABOTAGE = """
import sys

part = sys.orig_argv[3] if sys.orig_argv[1:3] == ["-m", "htpo_trl.check"] else None
if part == "transform":  # the sign is flipped
    from htpo_trl.objective import transform

    control = transform.control

    def flipped(*args, **kwargs):
        result = control(*args, **kwargs)
        return result._replace(advantages=-result.advantages)

    transform.control = flipped
if part == "resume":  # the rollouts of the batch that was stopped in are not restored
    from htpo_trl.training.resume import ResumableGRPOTrainer

    ResumableGRPOTrainer._restore_counters = lambda self, counters: setattr(self, "_buffered_inputs", None)
if part == "policy":  # what generates keeps the first weights
    import copy
    from contextlib import contextmanager

    from trl.trainer import grpo_trainer

    unwrap, first = grpo_trainer.unwrap_model_for_generation, {}

    @contextmanager
    def first_weights(model, *args, **kwargs):
        weights = copy.deepcopy(model.state_dict())
        model.load_state_dict(first.setdefault(model, weights))
        with unwrap(model, *args, **kwargs) as unwrapped:
            yield unwrapped
        model.load_state_dict(weights)

    grpo_trainer.unwrap_model_for_generation = first_weights
"""
# Parts that need no torch.
PARTS_THAT_FAIL = """
import os, signal, subprocess, sys, time, types
from htpo_trl.check.parts import PARTS, CannotRunError, Finding, Part

room = sys.modules["htpo_trl.check.made"] = types.ModuleType("htpo_trl.check.made")

def well(machine):
    yield Finding("one thing", "1", "1", True, {"n": 1})

def wrong(machine):
    yield Finding("another", "1", "2", False)
    yield Finding("after it", "1", "1", True)

def raises(machine):
    yield Finding("before it", "1", "1", True)
    print("a line of a library")
    raise RuntimeError(f"in {os.path.expanduser('~')}/secret, hf_abcdefghij0123456789")

def crashes(machine):
    yield Finding("before it", "1", "1", True)
    os.kill(os.getpid(), signal.SIGSEGV)

def leaves(machine):
    yield Finding("before it", "1", "1", True)
    os._exit(0)

def hangs(machine):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield Finding("started", "a process", str(child.pid), True)
    time.sleep(600)

def cannot(machine):
    raise CannotRunError("frobnicate is not installed")
    yield

def empty(machine):
    yield Finding("a figure", "any", "3", None)

PARTS.clear()
for function in (well, wrong, raises, crashes, leaves, hangs, cannot, empty):
    setattr(room, function.__name__, function)
    PARTS[function.__name__] = Part(f"a part that {function.__name__}", f"made:{function.__name__}")
PARTS["absent"] = Part("a part whose module cannot be imported", "absent:find")
"""


@pytest.fixture
def environment(tmp_path):
    """That of a command which starts with the given code."""

    def make(code):
        tmp_path.joinpath("start").mkdir()
        tmp_path.joinpath("start", "sitecustomize.py").write_text(textwrap.dedent(code))
        return os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "start"), str(ROOT)])}

    return make


def check(place, *argv, env=None, code=0):
    """Run the command; its output and its JSON."""
    done = subprocess.run([*CHECK, *argv], cwd=place, env=env, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout, json.loads((place / "htpo_check.json").read_text())


def statuses(result):
    return {name: part["status"] for name, part in result["parts"].items()}


def test_this_machine(tmp_path):
    """All parts on the CPU but one, which takes as long as all others and is of `test_resume_processes.py` too."""
    output, result = check(tmp_path, "--device", "cpu", "--skip", "zero3")
    assert result["ok"]
    assert result["finished"]
    assert "\x1b" not in output
    assert list(result["parts"]) == [name for name in PARTS if name != "zero3"]
    for name, part in result["parts"].items():
        assert part["status"] == ("skipped" if part["skipped"] else "ok"), name
        assert f"\n{name}: {part['title']}\n" in output
        for finding in part["findings"]:
            assert f"{finding['what']}" in output
    ran = {name for name, part in result["parts"].items() if part["status"] == "ok"}
    assert {"versions", "transform", "parity", "resume", "sampling", "policy", "peft", "verifier", "step-time"} <= ran
    assert re.search(rf"\n{len(PARTS) - 1} parts in \d+ s: {len(ran)} ok[,.]", output)
    # What docs/command_line.md says is in the file is there, and nothing else.
    page = (
        (ROOT / "docs/command_line.md")
        .read_text()
        .split("## `htpo check`")[1]
        .split("\n## ")[0]
        .split("In the JSON")[1]
    )
    keys = {*result, *(key for part in result["parts"].values() for key in part)}
    keys |= {key for part in result["parts"].values() for each in part["findings"] for key in each}
    assert {*re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)} == keys
    text = json.dumps(result)
    private = {str(Path.home()), str(tmp_path), os.getcwd(), socket.gethostname(), getpass.getuser()} - {
        "root",
        "localhost",
    }
    assert {word for word in private if len(word) > 2 and re.search(rf"\b{re.escape(word)}\b", text)} == set()
    assert [path.name for path in tmp_path.iterdir()] == ["htpo_check.json"]


def test_three_sabotages(tmp_path, environment):
    """The sign of the advantages flipped, state not restored, weights not synchronised."""
    parts = ["transform", "resume", "policy"]
    output, result = check(tmp_path, "--device", "cpu", "--parts", *parts, env=environment(SABOTAGE), code=1)
    assert result["ok"] is False
    assert statuses(result) == dict.fromkeys(parts, "red")
    assert output.count("  RED  ") >= 3
    red = {name: [f["what"] for f in part["findings"] if not f["ok"]] for name, part in result["parts"].items()}
    assert red["transform"][0] == "gradients of htpo, against an independent loop"
    assert red["resume"][0] == "float32: weights, resumed at step 6 of 12"
    assert [what for what in red["policy"] if "sampled and trained" in what] == [
        "all weights: sampled and trained log-probs, 6 batches",
        "LoRA: sampled and trained log-probs, 3 batches",
    ]
    assert "3 parts" in output
    assert "3 red (transform, resume, policy)" in output


def test_a_part_that_fails_is_red_alone(tmp_path, environment):
    output, result = check(tmp_path, "--deadline", "4", env=environment(PARTS_THAT_FAIL), code=1)
    assert statuses(result) == {
        **{"well": "ok", "wrong": "red", "raises": "red", "crashes": "red", "leaves": "red", "hangs": "red"},
        **{"cannot": "skipped", "empty": "red", "absent": "red"},
    }
    parts = result["parts"]
    assert parts["well"]["findings"] == [
        {"what": "one thing", "expected": "1", "found": "1", "ok": True, "figures": {"n": 1}}
    ]
    assert [finding["ok"] for finding in parts["wrong"]["findings"]] == [False, True]
    errors = {name: (part["error"] or "").splitlines()[:1] for name, part in parts.items()}
    assert errors == {
        **{"well": [], "wrong": [], "raises": ["failed with exit code 1."], "crashes": ["was killed by SIGSEGV."]},
        **{"leaves": ["ended before it was done."], "hangs": ["did not end within 4 seconds (--deadline)."]},
        **{"cannot": [], "empty": ["has found nothing."], "absent": ["failed with exit code 1."]},
    }
    for name in ("raises", "crashes", "leaves"):  # what was found before stays
        assert parts[name]["findings"][0]["what"] == "before it"
    assert parts["cannot"]["skipped"] == "frobnicate is not installed"
    assert "skipped: frobnicate is not installed" in output
    assert "ModuleNotFoundError: No module named 'htpo_trl.check.absent'" in parts["absent"]["error"]
    # The last lines of a part tell what happened, but neither places nor secrets.
    assert "a line of a library" in parts["raises"]["error"]
    assert "RuntimeError: in ~/secret, <redacted>" in parts["raises"]["error"]
    assert str(Path.home()) + "/" not in json.dumps(result)
    with suppress(psutil.NoSuchProcess):
        started = psutil.Process(int(parts["hangs"]["findings"][0]["found"]))
        assert psutil.wait_procs([started], timeout=30)[1] == []
    assert "9 parts in" in output
    assert "1 ok, 7 red (wrong, raises, crashes, leaves, hangs, empty, absent), 1 skipped (cannot)" in output


def test_no_success_without_work(tmp_path, environment):
    env = environment(PARTS_THAT_FAIL)
    others = ["wrong", "raises", "crashes", "leaves", "hangs", "empty", "absent", "well"]
    output, result = check(tmp_path, "--skip", *others, env=env, code=1)
    assert result["ok"] is False
    assert output.endswith("Nothing was checked.\n")
    output, result = check(tmp_path, "--parts", "well", "cannot", env=env, code=1)
    assert "was asked for by --parts and cannot run here: frobnicate is not installed." in output
    assert statuses(result) == {"well": "ok", "cannot": "red"}


def test_a_gpu_that_is_not_there(tmp_path):
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    output, result = check(tmp_path, "--parts", "versions", "--device", "cuda", env=env, code=1)
    assert "--device cuda: torch" in result["parts"]["versions"]["error"]
    assert "RED  --device cuda: torch" in output
    assert result["devices"]["GPUs"] == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--parts", "transfrom"], "--parts transfrom: Did you mean 'transform'? The parts are versions, transform,"),
        (["--skip", "nothing"], "--skip nothing: The parts are"),
        (["--skip", *PARTS], "--parts and --skip leave nothing to check."),
        (["--output", "recipe.yaml"], "--output recipe.yaml must name a JSON file"),
        (["--output", "file/x.json"], "file is no directory"),
        (["--output", "folder.json"], "--output folder.json is a directory"),
        (["--deadline", "0"], "--deadline=0.0 must be finite and above 0."),
        (["--device", "tpu"], "invalid choice: 'tpu'"),
        (["versions"], "versions"),
    ],
)
def test_misuse(tmp_path, argv, message, monkeypatch, capsys):
    from htpo_trl.cli import main

    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder.json").mkdir()
    with pytest.raises(SystemExit) as stopped:
        main(["check", *argv])
    said = capsys.readouterr()
    assert stopped.value.code == 2
    assert said.err.startswith("htpo check: ")
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder.json"}


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped(tmp_path, environment, signum):
    """Its JSON has what was found, and nothing that it started goes on."""
    env = environment(PARTS_THAT_FAIL)
    argv = [*CHECK, "--parts", "well", "hangs"]
    process = subprocess.Popen(argv, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "started" not in process.stdout.readline():
        pass
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signum)
    _, error = process.communicate()
    assert len(started) == 2
    assert psutil.wait_procs(started, timeout=30)[1] == []
    result = json.loads((tmp_path / "htpo_check.json").read_text())
    assert result["finished"] is False
    assert result["ok"] is None
    assert statuses(result) == {"well": "ok", "hangs": "not run"}
    if signum != signal.SIGKILL:
        assert process.returncode == 128 + signum
        assert error == f"\nhtpo check: stopped by {signum.name}. Its JSON has what was found so far.\n"
        assert result["parts"]["hangs"]["findings"][0]["what"] == "started"
