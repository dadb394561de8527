"""Directories that commands write to: in use, of another run, overwritten, stopped in, and without a secret."""

import json
import os
import shutil
import signal

import pytest
from datasets import Dataset

from htpo_trl import HTPOConfig, HTPOTrainer
from htpo_trl.cli import main
from htpo_trl.demo.warm_start import build_tokenizer
from htpo_trl.output.directory import check_free
from htpo_trl.output.lock import OutputError, held
from htpo_trl.scripts import htpo
from htpo_trl.training.checkpoint import check
from htpo_trl.utils import UsageError

from ..forks import Forks
from ..other_process import holder
from ..tiny import CPU_ARGUMENTS, even_digits, tiny_model
from ..training_run import prompts


TRAIN = ("--config", "recipe.yaml", "--max_steps", "2", "--save_steps", "2", "--output_dir")
EVAL = ("--model", "model", "--benchmarks", "sums.jsonl", "--num_samples", "4", "--max_new_tokens", "4")
EVAL += (
    "--batch_size",
    "4",
    "--template",
    "none",
    "--no_chat",
    "--judge",
    "stopper.judge",
    "--backend",
    "transformers",
)
EVAL += ("--dtype", "float32", "--output_dir")
STOPPER = """
import signal

from judge import even_digits

calls, stop_at, by = 0, 0, None


def judge(completions, **kwargs):
    global calls
    calls += 1
    if calls == stop_at:
        signal.raise_signal(by)
    return even_digits(completions)
"""


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)  # a test imports what the command does, also when it is a worker's first
    (place / "stopper.py").write_text(STOPPER)
    rows = [{"problem": f"{i:02d}", "solution": str(i)} for i in range(4)]
    (place / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return place


def refusal(capsys, run, *argv):
    """The line by which a command ends."""
    with pytest.raises(SystemExit) as ended:
        run([*map(str, argv)])
    error = capsys.readouterr().err
    assert (ended.value.code, error.count("\n")) == (2, 1), error
    return error.partition(": ")[2]


def test_in_use(here, capsys):
    demo = (main, "demo", "--quick", "--threads", 1, "--output_dir", "laptop")
    for directory, commands in {
        here / "busy": [
            (htpo.main, *TRAIN, "busy"),
            (main, "train", *TRAIN, "busy", "--dry_run"),
            (htpo.main, *TRAIN, "busy", "--resume_from_checkpoint", "true"),
            (htpo.main, *TRAIN, "busy", "--overwrite_output_dir", "true"),
            (main, "eval", *EVAL, "busy"),
        ],
        here / "laptop" / "htpo-seed0": [demo],
        here / "laptop" / "warm_start-seed0": [(*demo, "--warm_start", "fresh")],
    }.items():
        other = holder(directory)
        for command in commands:
            line = refusal(capsys, *command)
            assert "is in use by htpo train, process " in line
            assert f"process {other.pid} on " in line
        other.end()
        assert not directory.exists()


def test_another_run_is_refused_or_removed_and_nothing_holds_a_secret(here, capsys):
    (here / "prior" / "checkpoint-9").mkdir(parents=True)
    (here / "prior" / "notes.txt").write_text("mine")
    lines = {refusal(capsys, *run, *TRAIN, "prior") for run in ((htpo.main,), (main, "train", "--dry_run"))}
    assert lines == {
        "output_dir='prior' holds another run (checkpoint-9). Choose another output_dir, go on with that run by "
        "--resume_from_checkpoint auto, or remove it by --overwrite_output_dir.\n"
    }
    secrets = ("--hub_token", "hush1", "--vllm_server_base_url", "http://me:hush2@host:8000")
    secrets += ("--model_init_kwargs", '{"token": "hush3"}', "--overwrite_output_dir", "true")
    main(["train", *TRAIN, "prior", *secrets, "--dry_run"])
    assert (here / "prior" / "checkpoint-9").exists()
    htpo.main([*TRAIN, "prior", *secrets, "--log_level", "info"])
    assert not (here / "prior" / "checkpoint-9").exists()
    check(here / "prior" / "checkpoint-2")
    assert (here / "prior" / "notes.txt").read_text() == "mine"
    settings = json.loads((here / "prior" / "settings.json").read_text())["HTPOConfig"]
    assert settings["vllm_server_base_url"] == "http://me:<redacted>@host:8000"
    assert settings["model_init_kwargs"]["token"] == "<redacted>"
    files = [path for path in (here / "prior").rglob("*") if path.is_file()]
    assert {"settings.json", "training_args.bin", "README.md", "trainer_state.json"} <= {path.name for path in files}
    assert [path for path in files if b"hush" in path.read_bytes()] == []
    out, err = capsys.readouterr()
    assert "hush" not in out + err
    # The run that is there now is refused as the one before was; a secret in an option that is wrong is not shown.
    assert "holds another run (checkpoint-2, trainer_state.json" in refusal(capsys, htpo.main, *TRAIN, "prior")
    wrong = ("--vllm_server_base_url", "http://me:hush2@host", "--hub_tokn", "hush1", "--hub_token=hush1")
    assert "hush" not in refusal(capsys, htpo.main, *TRAIN, "new", *wrong)


def test_what_the_run_reads_is_not_removed(here, capsys):
    (here / "mine").mkdir()
    (here / "mine" / "trainer_state.json").write_text("{}")
    for name in ("config.json", "model.safetensors"):
        (here / "mine" / name).write_bytes((here / "model" / name).read_bytes())
    options = ("--model_name_or_path", "mine", "--overwrite_output_dir", "true")
    for run in ((htpo.main,), (main, "train", "--dry_run")):
        assert "which this run reads" in refusal(capsys, *run, *TRAIN, "mine", *options)
    assert (here / "mine" / "model.safetensors").exists()


def test_a_run_that_did_nothing_leaves_a_free_directory(here, monkeypatch):
    def fail(*args, **kwargs):
        raise KeyError("no such unit")

    monkeypatch.setitem(vars(__import__("judge")), "even_digits", fail)
    with pytest.raises(KeyError, match="no such unit"):
        htpo.main([*TRAIN, "nothing", "--overwrite_output_dir", "true"])
    check_free(here / "nothing")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_an_evaluation_that_is_stopped_goes_on(here, capsys, signum):
    import stopper

    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    out = f"stopped-{signum}"
    stopper.calls, stopper.stop_at, stopper.by = 0, 3, signum
    with pytest.raises(SystemExit) as ended:
        main(["eval", *EVAL, out])
    assert ended.value.code == 128 + signum
    assert capsys.readouterr().err.endswith(
        f"\nhtpo eval: stopped by {signum.name}. What was written stays: the same command goes on from there.\n"
    )
    assert len((here / out / "sums.jsonl").read_text().splitlines()) == 8
    check_free(here / out)  # not held any more
    main(["eval", *EVAL, out])
    assert stopper.calls == 3 + 2  # the batch that was stopped, and the last
    assert len((here / out / "sums.jsonl").read_text().splitlines()) == 16


def refused(directory, output_dir):
    trainer = HTPOTrainer(
        tiny_model(),
        even_digits,
        HTPOConfig(str(directory / "run"), **CPU_ARGUMENTS),
        Dataset.from_list(prompts(32)),
        processing_class=build_tokenizer("0123456789"),
    )
    trainer.args.output_dir = str(output_dir)
    with pytest.raises(UsageError) as raised:
        trainer.train()
    (directory / f"refused-{trainer.accelerator.process_index}").write_text(str(raised.value))


def test_both_processes_of_a_trainer_are_refused(tmp_path):
    """The first alone looks; the other would wait for it."""
    with held(tmp_path / "run", "this test"):
        Forks(refused, tmp_path, tmp_path / "run", output=tmp_path / "output.txt", n_processes=2).finish()
    lines = [(tmp_path / f"refused-{rank}").read_text() for rank in (0, 1)]
    assert f"is in use by this test, process {os.getpid()} on " in lines[0]
    assert lines[0] == lines[1]


def test_both_processes_of_a_trainer_are_told_what_cannot_be_written(tmp_path):
    """That is no other run's fault: another class of error, which ends both just so."""
    (tmp_path / "file").touch()
    Forks(refused, tmp_path, tmp_path / "file", output=tmp_path / "output.txt", n_processes=2).finish()
    lines = [(tmp_path / f"refused-{rank}").read_text() for rank in (0, 1)]
    assert lines[0].startswith("output_dir=")
    assert lines[0] == lines[1]


def test_a_trainer_is_refused_and_warned(make_trainer, tmp_path):
    trainer = make_trainer(save_strategy="steps", save_steps=1, max_steps=1)
    other = holder(tmp_path / "run", "HTPOTrainer.train()")
    with pytest.raises(OutputError, match=rf"is in use by HTPOTrainer.train\(\), process {other.pid} "):
        trainer.train()
    other.end()
    with held(tmp_path / "run", "this test"):  # the same thread
        trainer.train()
    trainer.save_model()
    with pytest.warns(UserWarning, match=r"holds checkpoints of another run \(checkpoint-1\)"):
        make_trainer(max_steps=1).train()
    shutil.copytree(tmp_path / "run" / "checkpoint-1", tmp_path / "run" / "checkpoint-2")
    with (
        pytest.warns(UserWarning, match=r"holds later checkpoints than .*/run/checkpoint-1 \(checkpoint-2\)"),
        pytest.warns(UserWarning, match="max_steps 1 -> 2"),
    ):
        make_trainer(max_steps=2).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
