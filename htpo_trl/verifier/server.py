"""The verifier's process: judges batches on a pool of workers.

It is a small process of its own, so that no worker inherits the trainer's threads, CUDA context, open files or
`__main__`. It ends when the socket at its standard input is closed, however the trainer ended.
"""

import json
import os
import signal
import socket
import sys
import time
import traceback
from contextlib import closing

from .pool import Pool
from .worker import leave_network


Pair = tuple[str, str]  # gold and answer

_COMPARED = ("correct", "wrong", "unparsable_answer")
_MOST_GOLDS = 4096  # remembered


class Server:
    """Judges batches on a pool of workers; deadline and budget are those of `VerifierConfig`."""

    def __init__(self, pool: Pool, deadline: float, budget: float):
        self._pool, self._deadline, self._budget = pool, deadline, budget
        # Of golds that somebody's time or memory ended with: whether a plain answer can be compared with them.
        self._is_sound: dict[str, bool] = {}

    def judge(self, pairs: list[Pair], first: float, seconds: float) -> list[str]:
        """
        The verdict on each of different pairs, within `seconds`.

        All are tried with the time `first`, so that what is quick is judged whatever else is in the batch. What takes
        longer has the deadline then, while the budget lasts. Where an answer meets a limit, its gold is tried with a
        plain answer, not with itself: equal forms are not evaluated. If it meets that limit too, it is to blame.
        """
        start = time.monotonic()
        until = start + seconds
        outcomes: dict[Pair, str] = {}
        if len(self._is_sound) > _MOST_GOLDS:
            self._is_sound.clear()

        def run(some: list[Pair], seconds: float, width: int | None = None) -> None:
            outcomes.update(zip(some, self._pool.run(some, seconds, width, until), strict=True))

        def unsettled(*kinds: str) -> list[Pair]:
            return [pair for pair in pairs if outcomes[pair] in kinds]

        def slow() -> list[Pair]:
            return [pair for pair in unsettled("timed_out") if self._is_sound.get(pair[0])]

        def try_golds(seconds: float, beside: list[Pair]) -> None:
            golds = {gold for gold, _ in unsettled("timed_out", "died", "crashed")} - self._is_sound.keys()
            run([*beside, *((gold, "0") for gold in golds)], seconds)
            for gold in golds:
                if (outcome := outcomes[gold, "0"]) in _COMPARED:
                    self._is_sound[gold] = True
                elif outcome == "crashed" or (outcome == "timed_out" and seconds == self._deadline):
                    self._is_sound[gold] = False

        run(pairs, first)
        self._is_sound |= {gold: True for (gold, _), outcome in outcomes.items() if outcome in _COMPARED}
        try_golds(first, beside=[])
        now = time.monotonic()
        until = min(until, now + max(self._budget, self._deadline, now - start))
        # Killed from outside, where memory is short? Once more, with nothing else at work.
        run(unsettled("died"), self._deadline, width=1)
        if first < self._deadline:
            try_golds(self._deadline, beside=(tried := slow()))
            run([pair for pair in slow() if pair not in tried], self._deadline)
        return [self._verdict(pair, outcomes[pair]) for pair in pairs]

    def _verdict(self, pair: Pair, outcome: str) -> str:
        if outcome in (*_COMPARED, "unparsable_gold"):
            return outcome
        if not self._is_sound.get(pair[0]):
            return "unparsable_gold"
        return "crashed" if outcome in ("crashed", "died") else "timed_out"


def main() -> None:
    """Serves batches by the socket at standard input. Argument: the settings of `VerifierConfig`, as JSON."""
    # Schedulers signal all processes of a job. That is for the trainer, which needs verdicts until it ends.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_IGN)
    # A trainer that ignores these leaves them ignored: the ends of workers, and their limit of time.
    for signum in (signal.SIGCHLD, signal.SIGXCPU):
        signal.signal(signum, signal.SIG_DFL)
    pipe = socket.socket(fileno=os.dup(0))
    # Workers, which read hostile text, have no file but their pipes: nothing to write to but /dev/null.
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)
    requests = pipe.makefile("rb")
    config = json.loads(sys.argv[-1])
    from . import preload  # noqa: F401 (workers are forked with all of it done)

    leave_network()
    try:
        with closing(Pool(pipe, config["workers"], config["memory_limit"], config["deadline"])) as pool:
            server = Server(pool, config["deadline"], config["budget"])
            while True:
                pool.wait()
                if not (request := requests.readline()).endswith(b"\n"):
                    return
                pairs, first, seconds = json.loads(request)
                verdicts = server.judge([(gold, answer) for gold, answer in pairs], first, seconds)
                pipe.sendall(json.dumps(verdicts).encode() + b"\n")
    except (EOFError, ConnectionError):  # the client is gone
        return
    except Exception as error:
        pipe.sendall(json.dumps(traceback.format_exception_only(error)[-1].strip()).encode() + b"\n")
