"""What `htpo train` hands on: the exit code of a process that failed, and the environment of a recipe."""

import multiprocessing
import os
import signal

import pytest

from htpo_trl.cli import main
from htpo_trl.scripts.arguments import read, set_environment


# Python imports it before anything else; accelerate and torchrun set RANK, in the processes that they start.
KILLED = f"""
import os

if os.environ.get("RANK") == "1":
    os.kill(os.getpid(), {signal.SIGKILL:d})
"""


def test_a_killed_process_gives_the_exit_code_of_its_signal(tmp_path, monkeypatch):
    """128 + 9, as shells and cluster managers know it, of the first that failed; the other one is only ended."""
    (tmp_path / "sitecustomize.py").write_text(KILLED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    argv = ["train", "--config", "smollm2-135m-cpu", "--accelerate_config", "ddp-cpu"]
    launcher = multiprocessing.get_context("fork").Process(target=main, args=(argv,))
    launcher.start()
    launcher.join()
    assert launcher.exitcode == 128 + signal.SIGKILL


def test_the_users_environment_wins_over_the_recipes(tmp_path, monkeypatch):
    (tmp_path / "recipe.yaml").write_text("env: {HTPO_TEST_SET: 1, HTPO_TEST_EMPTY: 1, HTPO_TEST_UNSET: 1}")
    monkeypatch.setenv("HTPO_TEST_SET", "2")
    monkeypatch.setenv("HTPO_TEST_EMPTY", "")
    monkeypatch.setenv("HTPO_TEST_UNSET", "")  # so that it is taken away again
    monkeypatch.delenv("HTPO_TEST_UNSET")
    set_environment(read(["--config", str(tmp_path / "recipe.yaml")], {}).env)
    found = {name: value for name, value in os.environ.items() if name.startswith("HTPO_TEST_")}
    assert found == {"HTPO_TEST_SET": "2", "HTPO_TEST_EMPTY": "", "HTPO_TEST_UNSET": "1"}


MACHINES = ["train", "--config", "smollm2-135m-cpu", "--accelerate_config", "ddp-cpu", "--num_machines", "2"]


@pytest.mark.parametrize("is_plan", [False, True])
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            [*MACHINES, "--num_processes", "5"],
            "num_processes=5 is that of all machines together, and must be a multiple",
        ),
        ([*MACHINES, "--machine_rank", "2"], "machine_rank=2 must lie in 0..1."),
        ([*MACHINES, "--machine_rank", "-1"], "machine_rank=-1 must lie in 0..1."),
        ([*MACHINES, "--main_process_port", "70000"], "main_process_port=70000 must lie in 1..65535."),
        ([*MACHINES, "--main_process_port", "-5"], "main_process_port=-5 must lie in 1..65535."),
        ([*MACHINES, "--main_process_port", "0"], "main_process_port=0 must lie in 1..65535."),
        ([*MACHINES[:-2], "--main_process_port", "70000"], "main_process_port=70000 must lie in 0..65535."),
        *(
            ([*MACHINES, "--rdzv_conf", conf], f"rdzv_conf={conf!r}: its timeout must be a number of seconds")
            for conf in ("timeout=abc", "timeout=nan", "timeout=inf", "timeout=-1", "timeout")
        ),
    ],
)
def test_machines_that_cannot_be(argv, message, is_plan, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*argv, *["--dry_run"] * is_plan])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"htpo train: {message}")


def test_fsdp_without_gpus(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "--config", "smollm2-135m-cpu", "--accelerate_config", "fsdp2"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "htpo train: FSDP needs GPUs, and there is none here: on a CPU accelerate would train by plain copies of the "
        "model. Set --accelerate_config to zero3-cpu, or to ddp-cpu.\n"
    )


@pytest.mark.parametrize("option", [(), ("--cpu",)])
def test_several_processes_that_nothing_starts(option, capsys):
    """Accelerate would run one of them, and say nothing."""
    with pytest.raises(SystemExit) as ended:
        main(["train", "--config", "smollm2-135m-cpu", "--num_processes", "2", *option])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(
        "htpo train: num_processes=2, but accelerate would start a single process"
    )
