"""The launchers of several machines, here as threads: how they meet, what they refuse, how they learn of an end."""

import socket
import threading
import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor

import pytest

from htpo_trl.cli import machines
from htpo_trl.cli.machines import Machines
from htpo_trl.utils import UsageError


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    seconds = {"BEAT": 0.05, "_SOON": 3, "GRACE": 0.1, "GONE_AFTER": 60, "_FREE_AFTER": 0.1, "_PAUSE": 0.05}
    for name, value in seconds.items():
        monkeypatch.setattr(machines, name, value)
    killed = threading.Event()
    child = Namespace(kill=killed.set)
    monkeypatch.setattr(machines.psutil, "Process", lambda: Namespace(children=lambda recursive: [child]))
    return killed


def make(rank, port, count=2, **options):
    arguments = {
        **{"machine_rank": rank, "num_machines": count, "num_processes": 2 * count, "main_process_ip": "localhost"},
        **{"main_process_port": port, "rdzv_conf": "timeout=30", "use_deepspeed": False, "use_fsdp": False},
    }
    return Machines(Namespace(**arguments | options), "htpo train")


def meet(*those):
    """What came of the meeting of all, at once: `None`, or the error of each."""

    def outcome(machine):
        try:
            return machine.meet()
        except UsageError as error:
            machine.leave(2)
            return str(error)

    with ThreadPoolExecutor() as pool:
        return [*pool.map(outcome, those)]


@pytest.fixture
def two(port):
    pair = make(0, port), make(1, port)
    assert meet(*pair) == [None, None]
    yield pair
    for machine in reversed(pair):
        machine.leave(1)


def leave_together(*those):
    with ThreadPoolExecutor() as pool:
        [*pool.map(lambda machine: machine.leave(0), those)]


def test_a_late_machine_is_waited_for(port, capsys):
    first, second = make(0, port, 3), make(1, port, 3)
    first._tell_at = second._tell_at = 0
    third = threading.Timer(0.5, (late := make(2, port, 3)).meet)
    third.start()
    assert meet(first, second) == [None, None]
    third.join()
    leave_together(first, second, late)
    lines = capsys.readouterr().err
    assert f"htpo train, machine 0 ({first.host}): waiting at localhost:{port} for " in lines
    assert f"machine 1 ({first.host}): waiting at localhost:{port} for machine 2, of 3, 0 of 30 seconds." in lines


def test_a_machine_that_does_not_come(port):
    (error,) = meet(make(0, port, 4, rdzv_conf="timeout=0"))
    assert error.startswith(
        f"machines 1, 2, 3, of 4, did not come to localhost:{port}. Start the same command on each"
    )


def test_no_first_machine(port):
    (error,) = meet(make(1, port, rdzv_conf="timeout=0"))
    assert error.startswith(f"main_process_ip=localhost with main_process_port={port} cannot be reached from ")
    assert "(Connection refused)" in error


def test_the_port_is_another_programs(port, monkeypatch):
    join = threading.Thread.join
    monkeypatch.setattr(threading.Thread, "join", lambda thread, timeout=None: join(thread, timeout and 0.5))
    with socket.create_server(("localhost", port)):
        first, second = meet(make(0, port), make(1, port))
    assert first.startswith(f"main_process_port={port} is in use on {socket.gethostname()}")
    assert second.startswith(f"main_process_port={port}: what answers at localhost:{port} is no launcher of a run.")


def test_a_rank_that_is_taken(port):
    first, second, third = make(0, port, 3), make(1, port, 3), make(2, port, 3)
    with ThreadPoolExecutor() as pool:
        going = [pool.submit(each.meet) for each in (first, second)]
        while second._store is None:
            time.sleep(0.01)
        (error,) = meet(make(1, port, 3))
        third.meet()
        assert [each.result() for each in going] == [None, None]
    leave_together(first, second, third)
    assert error.startswith("machine_rank=1 is taken, by process ")
    assert "Give each machine its own, from 0 to 2" in error


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"num_processes": 6}, "num_processes is 4 on machine 0"),
        ({"use_deepspeed": True, "zero_stage": 3}, "DeepSpeed is not used on machine 0"),
    ],
)
def test_machines_that_mean_other_runs(port, options, what):
    first, second = meet(make(0, port), make(1, port, **options))
    assert first.startswith(what)
    assert second
    assert "on machine 1" in second


def test_other_versions(port, monkeypatch):
    first, second = make(0, port), make(1, port)
    second.agreed["the version of trl"] = "0.1"
    errors = meet(first, second)
    assert "the version of trl is 0.1 on machine 1" in errors[1]


def test_who_failed_first(two):
    first, second = two
    assert second.failed(9, "rank 3 failed first, with exit code 9") is None
    line, code = first.failed(1, "rank 0 failed first, with exit code 1")
    assert line == f"machine 1 of 2 ({first.host}) ended first: rank 3 failed first, with exit code 9"
    assert code == 9


def test_a_machine_falls_silent(two, quick, monkeypatch, capsys):
    """Its launcher was killed, say, without a word: the processes here are ended."""
    monkeypatch.setattr(machines, "GONE_AFTER", 1)
    first, second = two
    second._leaving.set()
    assert quick.wait(20)
    line, code = first.failed(137, "rank 0 failed first, with exit code 137")
    assert line.startswith(f"machine 1 of 2 ({first.host}) ended first: nothing has been heard of it for ")
    assert code == 1
    assert "ending the processes here" in capsys.readouterr().err


def test_processes_end_by_themselves_within_the_grace(two, monkeypatch):
    first, second = two
    monkeypatch.setattr(machines, "GRACE", 60)
    second.failed(143, "stopped")
    line, code = first.failed(1, "")
    assert (line.partition("first: ")[2], code) == ("stopped", 143)
    first._watch.join(timeout=0)
    assert not first._watch.is_alive()


def test_the_first_machine_is_gone(two):
    first, second = two
    first._leaving.set()
    first._watch.join()
    first._store = first._server = None  # its process has ended, and the store with it
    line, _ = second.failed(1, "rank 2 failed first, with exit code 1")
    assert line.startswith("machine 0 of 2")


def test_machines_that_succeed_leave_together(two):
    first, second = two
    leaving = threading.Thread(target=first.leave, args=(0,))
    leaving.start()
    leaving.join(timeout=0.3)
    assert leaving.is_alive(), "the first machine took the store away"
    second.leave(0)
    leaving.join(timeout=10)
    assert not leaving.is_alive()
