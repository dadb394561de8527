"""The verifier's process: a pool of workers that are replaced when they overrun the deadline, bloat or die.

It is a small process of its own, so that no worker inherits the trainer's threads, CUDA context, open files or
`__main__`. It ends when the socket at its standard input is closed, however the trainer ended.
"""

import json
import multiprocessing
import os
import select
import signal
import sys
from concurrent.futures import TimeoutError
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing.connection import Connection
from threading import Thread

from pebble import ProcessFuture, ProcessPool

from .worker import compare_within_limits, limit


class Server:
    """Judges batches on a pool of workers; the arguments are those of `VerifierConfig`."""

    def __init__(self, workers: int, deadline: float, memory_limit: int, **_: int):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([f"{__package__}.preload"])
        self._deadline = deadline
        # `max_tasks`: caches grow, and a new worker takes milliseconds.
        self._pool = ProcessPool(workers, max_tasks=2000, initializer=limit, initargs=(memory_limit,), context=context)
        # A gold that hangs with a plain answer too is to blame itself. Not with itself: equal forms are not evaluated.
        self._is_sound = lru_cache(maxsize=4096)(lambda gold: self._run([(gold, "0")])[0] in ("correct", "wrong"))

    def judge(self, pairs: list[tuple[str, str]]) -> list[str]:
        """The verdict on each pair (gold, answer)."""
        return [
            "unparsable_gold" if verdict in ("timed_out", "crashed") and not self._is_sound(gold) else verdict
            for (gold, _), verdict in zip(pairs, self._run(pairs), strict=True)
        ]

    def _run(self, pairs: list[tuple[str, str]]) -> list[str]:
        futures = [
            self._pool.schedule(compare_within_limits, args=(*pair, self._deadline), timeout=self._deadline)
            for pair in pairs
        ]
        return [_outcome(future) for future in futures]


def _outcome(future: ProcessFuture[str]) -> str:
    try:
        return future.result()
    except TimeoutError:
        return "timed_out"
    except BrokenProcessPool:
        raise  # ends this process; the client starts another
    except Exception:  # the worker's end (ProcessExpired), or what math-verify raised and did not catch
        return "crashed"


def main() -> None:
    """Serves batches by the socket at standard input. Argument: the settings of `Server`, as JSON."""
    # Schedulers signal all processes of a job. That is for the trainer, which needs verdicts until it ends.
    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_IGN)
    pipe = Connection(os.dup(0))
    # Workers, which read hostile text, have no file but their pipes: nothing to write to but /dev/null.
    sys.stderr = open(os.dup(2), "w", buffering=1)  # noqa: SIM115 (this process's own, until it ends)
    for stream in (0, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    watch = Thread(target=_end_with, args=(pipe,), daemon=True)
    watch.start()
    server = Server(**json.loads(sys.argv[1]))
    try:
        while True:
            pipe.send_bytes(json.dumps(server.judge(json.loads(pipe.recv_bytes()))).encode())
    except (EOFError, BrokenPipeError, ConnectionResetError):
        watch.join()


def _end_with(pipe: Connection) -> None:
    """Ends this process, whatever it is at, when the trainer closes its end of the pipe, or dies."""
    hang_up = select.poll()
    hang_up.register(pipe.fileno(), 0)
    hang_up.poll()
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (nobody is to be told that the pool breaks now)
    for worker in (workers := multiprocessing.active_children()):
        worker.kill()
    for worker in workers:
        worker.join()
    os._exit(0)
