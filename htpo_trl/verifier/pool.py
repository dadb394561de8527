"""Worker processes that are forked from this one, and replaced when they overrun a deadline, bloat or die.

Each has a socket of its own: one that is killed at any moment holds no lock that others wait for, and one that is
taken over can speak for itself alone. Nothing in the file system is needed: no named socket, no semaphore.
"""

import gc
import json
import math
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import wait

from .worker import OUT_OF_MEMORY, OUTCOMES, SPENT, serve


#: A worker is replaced after so many answers: caches grow, and a new one takes milliseconds.
_MOST_ANSWERS = 2000


class Worker:
    """A worker process and what it is at; the arguments are those of `Pool`."""

    def __init__(self, pool: "Pool"):
        self.pipe, far_end = Pipe()
        self.answers = 0
        self.is_spent = False
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(pool.client.fileno())  # `close` would leave it to the files that read from it
                for pipe in (self.pipe, *(worker.pipe for worker in pool.workers)):
                    pipe.close()
                serve(far_end, pool.memory_limit, pool.deadline)
                status = 0
            finally:
                os._exit(status)
        far_end.close()

    def ask(self, pair: Sequence[str]) -> None:
        """Gives it a pair of gold and answer, for which `reply` has the outcome when the pipe is ready."""
        self.answers += 1
        self.pipe.send_bytes(json.dumps(pair).encode())

    def reply(self) -> str:
        """An outcome; `died` where the process ended of itself or was killed from outside, and is to be replaced."""
        try:
            (index,) = os.read(self.pipe.fileno(), 2)
            self.is_spent = index >= SPENT or self.answers >= _MOST_ANSWERS
            return OUTCOMES[index % SPENT]
        except (ValueError, IndexError, ConnectionResetError):
            return "crashed" if self.end() == OUT_OF_MEMORY else "died"

    def end(self) -> int:
        """Kills the process if need be, and returns its exit status, negative for a signal."""
        self.pipe.close()
        os.kill(self.pid, signal.SIGKILL)  # not waited for yet: the id is still its own
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class Pool:
    """
    Workers that compare answers. The client's pipe is watched all the time: `EOFError` when it is closed.

    Args:
        client (`socket.socket`):
            Not to be inherited by the workers, and watched.
        size, memory_limit (`int`), deadline (`float`):
            `workers`, `memory_limit` and `deadline` of `VerifierConfig`.
    """

    def __init__(self, client: socket.socket, size: int, memory_limit: int, deadline: float):
        self.client, self.size, self.memory_limit, self.deadline = client, size, memory_limit, deadline
        self.workers: list[Worker] = []
        gc.collect()
        gc.freeze()  # pages that workers need not copy
        self._fill()

    def wait(self) -> None:
        """Returns when the client has something to say, or is gone. Idle workers that die are replaced."""
        while self.client not in (ready := wait([self.client, *(worker.pipe for worker in self.workers)])):
            for worker in [worker for worker in self.workers if worker.pipe in ready]:
                self._replace(worker)

    def run(self, pairs: Sequence[Sequence[str]], seconds: float, width: int | None = None, until: float = math.inf):
        """
        The outcomes of pairs of gold and answer: of `OUTCOMES`, or `died`, `timed_out` or `untried`.

        Args:
            pairs (sequence of pairs of `str`):
                Gold and answer.
            seconds (`float`):
                For each of them.
            width (`int`, *optional*, defaults to all workers):
                How many are compared at once.
            until (`float`, *optional*):
                Of the monotonic clock. What is undecided then is untried.
        """
        outcomes = ["untried"] * len(pairs)
        waiting = deque(range(len(pairs)))
        busy: dict[Worker, tuple[int, float]] = {}
        while busy or (waiting and time.monotonic() < until):
            for worker in [worker for worker in self.workers if worker not in busy][
                : (width or self.size) - len(busy)
            ]:
                if waiting and time.monotonic() < until:
                    try:
                        worker.ask(pairs[waiting[0]])
                    except OSError:  # it died while it was idle
                        self._replace(worker)
                        continue
                    busy[worker] = (waiting.popleft(), min(time.monotonic() + seconds, until))
            rest = min((end for _, end in busy.values()), default=0.0) - time.monotonic()
            ready = wait([self.client, *(worker.pipe for worker in busy)], max(rest, 0.0))
            if self.client in ready:  # one that awaits a reply says nothing: it is gone
                raise EOFError
            for worker, (index, end) in [*busy.items()]:
                if worker.pipe in ready:
                    outcomes[index] = worker.reply()
                elif time.monotonic() >= end:
                    worker.end()
                    outcomes[index] = "timed_out" if end < until else "untried"
                else:
                    continue
                del busy[worker]
                if worker.pipe.closed or worker.is_spent:
                    self._replace(worker)
        return outcomes

    def close(self) -> None:
        """Ends the workers."""
        for worker in self.workers:
            worker.end()
        self.workers = []

    def _replace(self, worker: Worker) -> None:
        if not worker.pipe.closed:
            worker.end()
        self.workers.remove(worker)
        self._fill()

    def _fill(self) -> None:
        while len(self.workers) < self.size:
            try:
                self.workers.append(Worker(self))
            except OSError:  # no process or descriptor is to be had; with the next one that ends it is tried again
                if not self.workers:
                    raise
                return
