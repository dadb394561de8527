"""The pool with real processes that do what the answer says, as one does that a text has taken over."""

import gc
import json
import os
import pickle
import signal
import socket
import time
from contextlib import closing, suppress

import pytest

from htpo_trl.verifier import pool as pool_module
from htpo_trl.verifier.pool import Pool
from htpo_trl.verifier.worker import OUT_OF_MEMORY, OUTCOMES, SPENT


class Exploit:
    """Makes whoever unpickles it create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def obey(pipe):
    """In place of `worker.serve`."""
    while True:
        gold, answer = json.loads(pipe.recv_bytes())
        reply = bytes([OUTCOMES.index("correct" if gold == answer else "wrong")])
        if answer == "hang":
            time.sleep(60)
        elif answer == "exit":
            os._exit(1)
        elif answer == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif answer == "memory":
            os._exit(OUT_OF_MEMORY)
        elif answer == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif answer == "close":
            pipe.close()
            time.sleep(60)
        elif answer == "no such outcome":
            reply = b"\xff"
        elif answer == "flood":
            reply = b"\x00" * 100_000
        elif answer == "spent":
            reply = bytes([OUTCOMES.index("correct") + SPENT])
        elif answer == "pickle":
            reply = pickle.dumps(Exploit(gold))
        with suppress(OSError):
            os.write(pipe.fileno(), reply)


@pytest.fixture
def pool():
    here, there = socket.socketpair()

    def serve(pipe, memory_limit, deadline):
        here.detach()
        os.close(number)  # in use, a client's end is in another process
        obey(pipe)

    number = here.fileno()
    with pytest.MonkeyPatch.context() as patch, here, there:
        patch.setattr(pool_module, "serve", serve)
        with closing(Pool(there, size=3, memory_limit=64, deadline=5.0)) as pool:
            pool.far_end = here
            yield pool
    gc.unfreeze()


def test_outcomes_come_in_order_whoever_is_quick(pool):
    pairs = [("1", "1"), ("1", "2")] * 50
    assert pool.run(pairs, 5.0) == ["correct", "wrong"] * 50


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        *(("exit", "died"), ("kill", "died"), ("memory", "crashed"), ("close", "died"), ("stop", "timed_out")),
        *(("hang", "timed_out"), ("no such outcome", "died"), ("flood", "died"), ("pickle", "died")),
    ],
)
def test_a_worker_harms_its_own_answer_alone(pool, tmp_path, answer, outcome):
    pairs = [("1", "1"), (str(tmp_path / "file"), answer), *[("1", "2"), ("3", "3")] * 5]
    assert pool.run(pairs, 2.0) == ["correct", outcome, *["wrong", "correct"] * 5]
    assert pool.run([("1", "1")] * 6, 5.0) == ["correct"] * 6
    assert len(pool.workers) == 3
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_tried_after_the_end(pool):
    start = time.monotonic()
    assert pool.run([("1", "hang")] * 9, 60.0, until=start + 0.3) == ["untried"] * 9
    assert pool.run([("1", "1")], 60.0, until=start) == ["untried"]
    assert time.monotonic() - start < 30


def test_one_at_a_time_where_that_is_asked_for(pool):
    pairs = [("1", "exit"), ("1", "1"), ("1", "kill"), ("2", "2")]
    assert pool.run(pairs, 5.0, width=1) == ["died", "correct", "died", "correct"]


def test_idle_workers_that_die_are_replaced_before_they_are_asked(pool):
    for worker in pool.workers:
        os.kill(worker.pid, signal.SIGKILL)
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    assert pool.run([("1", "1")] * 6, 5.0) == ["correct"] * 6


def test_a_worker_is_replaced_after_many_answers(pool, monkeypatch):
    monkeypatch.setattr(pool_module, "_MOST_ANSWERS", 10)
    before = {worker.pid for worker in pool.workers}
    assert pool.run([("1", "1")] * 90, 5.0) == ["correct"] * 90
    assert not before & {worker.pid for worker in pool.workers}


def test_a_worker_that_keeps_memory_is_replaced(pool):
    before = {worker.pid for worker in pool.workers}
    assert pool.run([("1", "spent")] * 30, 5.0) == ["correct"] * 30
    assert not before & {worker.pid for worker in pool.workers}


def test_fewer_workers_do_where_no_more_can_be_had(pool, monkeypatch):
    """`ulimit -u`: the process goes on with what it has, and gives up where it has none."""

    def refuse():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", refuse)
        assert pool.run([("1", "exit"), ("1", "kill"), *[("1", "1")] * 5], 5.0) == ["died", "died", *["correct"] * 5]
        assert len(pool.workers) == 1
        with pytest.raises(BlockingIOError):
            pool.run([("1", "exit")], 5.0)


def test_the_end_of_the_client_is_noticed_while_an_answer_hangs(pool):
    pool.far_end.close()
    with pytest.raises(EOFError):
        pool.run([("1", "hang")], 60.0)
