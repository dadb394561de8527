"""Directories of runs: one process at a time, no run over another, and what `overwrite` removes."""

import errno
import json
import os
import socket
import threading

import pytest

from htpo_trl.output.directory import SEAL, check_free, overwrite
from htpo_trl.output.lock import LOCK, OutputError, held
from htpo_trl.utils import UsageError

from ..other_process import Child, holder


def take(directory, what="htpo eval"):
    with held(directory, what):
        pass


def test_a_second_process_is_refused_and_told_by_whom(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/bin/htpo", "train", "--hub_token", "hush", "--seed", "3"])
    first = holder(tmp_path / "run")
    with pytest.raises(OutputError) as refused, held(tmp_path / "run", "htpo eval"):
        pass
    message = str(refused.value)
    assert message.startswith(f"output_dir='{tmp_path / 'run'}' is in use by htpo train, process {first.pid} on ")
    assert f" on {socket.gethostname()} since " in message
    assert "(htpo train --hub_token '<redacted>' --seed 3)" in message
    assert "\n" not in message
    assert "hush" not in (tmp_path / "run" / LOCK).read_text()
    with pytest.raises(OutputError, match="is in use by htpo train"):
        check_free(tmp_path / "run", "auto")
    with held(tmp_path, "htpo train"), held(tmp_path / "run" / "evaluation", "htpo eval"):  # others are free
        pass
    first.end()
    take(tmp_path / "run")
    take(tmp_path / "runs" / "mine" / "a")
    assert not (tmp_path / "run").exists()  # nothing was written
    assert not (tmp_path / "runs").exists()
    (tmp_path / "run").mkdir()
    take(tmp_path / "run")
    assert (tmp_path / "run").exists()


def test_the_lock_ends_with_a_killed_process(tmp_path):
    killed = holder(tmp_path)
    killed.kill()
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == killed.pid
    check_free(tmp_path)
    assert not (tmp_path / LOCK).exists()
    holder(tmp_path).kill()
    with held(tmp_path, "htpo train"):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_child_that_survives_its_parent_does_not_keep_the_lock(tmp_path):
    """Such as a loader's worker, forked within."""
    pipe, forked = os.pipe(), os.pipe()

    def hold(wait):
        with held(tmp_path, "htpo train"):
            if os.fork() == 0:
                os.close(pipe[1])
                os.write(forked[1], b".")
                os.read(pipe[0], 1)
                os._exit(0)
            os.read(forked[0], 1)  # until it runs it has what its parent has
            wait()

    parent = Child(hold)
    parent.kill()
    with held(tmp_path, "htpo train"):
        pass
    for end in (*pipe, *forked):
        os.close(end)


def test_a_thread_may_hold_what_it_holds_and_no_other_may(tmp_path):
    errors = []

    def other():
        try:
            with held(tmp_path, "evaluate"):
                pass
        except OutputError as error:
            errors.append(str(error))

    with held(tmp_path, "htpo train"):
        with held(str(tmp_path), "HTPOTrainer.train"):
            check_free(tmp_path)
        assert (tmp_path / LOCK).exists()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert f"process {os.getpid()} on" in errors[0]


def test_another_host(tmp_path):
    """Where locks of a file system stay within each host, what is left of one is all there is to see."""
    (tmp_path / LOCK).write_text(json.dumps({"what": "htpo train", "pid": 12, "host": "far\x1b[31m", "since": "then"}))
    with pytest.warns(UserWarning, match=r"left without a word by htpo train, process 12 on far\?\[31m since then"):
        take(tmp_path)


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def flock(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.warns(UserWarning, match="cannot be locked"):
        take(tmp_path)
    first = holder(tmp_path)
    with pytest.raises(OutputError, match=rf"process {first.pid} on .* If it has ended, remove .*{LOCK}"):
        take(tmp_path)
    first.kill()
    with pytest.warns(UserWarning, match="cannot be locked"):
        take(tmp_path)
    (tmp_path / LOCK).write_text(json.dumps({"what": "htpo train", "pid": first.pid, "host": "elsewhere"}))
    with pytest.raises(OutputError, match="on elsewhere"):
        take(tmp_path)


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "to").symlink_to(tmp_path / "file")
    for place in ("file", "file/below"):
        with pytest.raises(UsageError, match=f"output_dir='.*{place}': .*file is no directory"):
            check_free(tmp_path / place)
        with pytest.raises(UsageError, match=f"output_dir='.*{place}': .*file is no directory"):
            take(tmp_path / place)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "file")
    with pytest.raises(OutputError, match="cannot be written to"), held(tmp_path / "run", "htpo train"):
        pass
    assert (tmp_path / "file").read_text() == ""


SETTINGS = json.dumps({"versions": {}, "HTPOConfig": {}})


@pytest.fixture
def run(tmp_path):
    """A directory with all that a run leaves, and things of the user's beside."""
    directory = tmp_path / "run"
    for path, content in {
        "checkpoint-2/model.safetensors": "x",
        "checkpoint-10/trainer_state.json": "{}",
        "settings.json": SETTINGS,
        "trainer_state.json": "{}",
        "training_args.bin": "x",
        "model.safetensors": "x",
        "evaluation/step-0/sums.jsonl": "x",
        "tokens/step-000002.parquet": "x",
        "tokens/step-2.html": "x",
        "completions/completions_00001.parquet": "x",
        "runs/Nov28_host/events.out.tfevents.1.2": "x",
    }.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(content)
    return directory


KEPT = ("notes.md", "data.jsonl", "checkpoint-best/w", "checkpoint-3.txt", "evaluation/mine/a", "runs/o/settings.json")


@pytest.mark.parametrize(
    "left",
    ["checkpoint-7/x", "checkpoint-0/trainer_state.json", "settings.json", "trainer_state.json"],
)
def test_another_run_is_refused(tmp_path, left):
    check_free(tmp_path)
    check_free(tmp_path / "new" / "run")
    (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / left).write_text(SETTINGS)
    named = left.split("/")[0]
    for fresh in (None, False, "false", "", str(tmp_path / "elsewhere" / "checkpoint-1")):
        with pytest.raises(OutputError) as refused:
            check_free(tmp_path, fresh)
        assert str(refused.value) == (
            f"output_dir={str(tmp_path)!r} holds another run ({named}). Choose another output_dir, go on with that "
            "run by --resume_from_checkpoint auto, or remove it by --overwrite_output_dir."
        )
    for resume in (True, "true", "auto", str(tmp_path / "checkpoint-7")):
        if "checkpoint" in left:
            # Of a trainer that leaves no settings: they would be passed over as half-written, and written over.
            with pytest.raises(OutputError, match=rf"\({named}\), such as GRPOTrainer's"):
                check_free(tmp_path, resume)
            (tmp_path / "settings.json").write_text(SETTINGS)
        check_free(tmp_path, resume)
        if "checkpoint" in left:
            (tmp_path / "settings.json").unlink()
            (tmp_path / named / SEAL).write_text("{}")
            check_free(tmp_path, resume)
            (tmp_path / named / SEAL).unlink()
        with pytest.raises(OutputError, match=r"would remove the run that .* goes on with\. Leave one of the two out"):
            check_free(tmp_path, resume, overwrite=True)
    check_free(tmp_path, overwrite=True)


def test_links_to_checkpoints(tmp_path):
    """As after a checkpoint was moved to a larger disk, or as `latest`."""
    for directory in ("run/checkpoint-3", "disk/checkpoint-5"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "run" / "settings.json").write_text(SETTINGS)
    (tmp_path / "run" / "checkpoint-5").symlink_to(tmp_path / "disk" / "checkpoint-5")
    (tmp_path / "latest").symlink_to(tmp_path / "run" / "checkpoint-3")
    for checkpoint in ("run/checkpoint-5", "latest"):
        check_free(tmp_path / "run", str(tmp_path / checkpoint))
    with pytest.raises(OutputError, match="holds another run"):
        check_free(tmp_path / "run", str(tmp_path / "disk" / "checkpoint-5"))


def test_later_checkpoints_are_of_another_line(tmp_path):
    """A run that went on from an earlier one and was killed would go on from these; half-written ones are passed."""
    for step in (2, 4, 10, 12):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if step < 12:
            (tmp_path / f"checkpoint-{step}" / SEAL).write_text("{}")
    for checkpoint, later in {"checkpoint-2": "checkpoint-10, checkpoint-4", "checkpoint-4/": "checkpoint-10"}.items():
        with pytest.raises(OutputError, match=rf"\({later}\).* Move them away, or use another output_dir\."):
            check_free(tmp_path, f"{tmp_path}/{checkpoint}")
    for resume in ("auto", True, str(tmp_path / "checkpoint-10")):
        check_free(tmp_path, resume)


def test_a_run_from_elsewhere_that_saved_nothing_does_not_start_again(tmp_path):
    """Killed before its first checkpoint, it would start from the beginning by `auto`, and say nothing."""
    told = json.loads(SETTINGS) | {"resumes": [{"from": "checkpoint-40", "step": 40}]}
    (tmp_path / "settings.json").write_text(json.dumps(told))
    for _ in range(2):
        with pytest.raises(OutputError, match=r"went on from checkpoint-40, which is not there.* by its path again"):
            check_free(tmp_path, "auto")
        (tmp_path / "checkpoint-45").mkdir(exist_ok=True)
    (tmp_path / "checkpoint-45" / SEAL).write_text("{}")
    check_free(tmp_path, "auto")


def test_what_is_removed(run, tmp_path):
    for path in KEPT:
        (run / path).parent.mkdir(parents=True, exist_ok=True)
        (run / path).write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "w").write_text("mine")
    (run / "checkpoint-4").symlink_to(tmp_path / "elsewhere")
    check_free(run, overwrite=True)
    overwrite(run)
    left = {str(path.relative_to(run)) for path in run.rglob("*") if not path.is_dir()}
    assert left == {*KEPT}
    assert (tmp_path / "elsewhere" / "w").read_text() == "mine"
    check_free(run)
    overwrite(run)


def test_what_is_no_run_is_left_alone(tmp_path):
    """A model that was downloaded, an editor's settings: refused either way, and nothing is removed."""
    for name, content in (("model.safetensors", "x"), ("settings.json", '{"editor.tabSize": 4}')):
        (tmp_path / name).write_text(content)
        for over in (False, True):
            with pytest.raises(OutputError, match=rf"holds files that are not a run's \({name}"):
                check_free(tmp_path, overwrite=over)
        overwrite(tmp_path)
        assert (tmp_path / name).read_text() == content
        (tmp_path / name).unlink()


@pytest.mark.parametrize("reads", ["checkpoint-2", "", "model.safetensors", "evaluation/step-0/sums.jsonl"])
def test_what_a_run_reads_is_not_removed(run, reads):
    with pytest.raises(OutputError, match="which this run reads and --overwrite_output_dir would remove"):
        check_free(run, overwrite=True, inputs=["Qwen/Qwen3-0.6B", None, str(run / reads)])
    (run / "data.jsonl").write_text("x")
    check_free(run, overwrite=True, inputs=["Qwen/Qwen3-0.6B", run / "data.jsonl"])
