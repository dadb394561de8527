"""The verifier's processes, seen from outside: found by their place in the tree and by their settings."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict

import psutil

from htpo_trl.verifier import Verdict, Verifier


def server_of(verifier: Verifier) -> psutil.Process | None:
    """The process that this one has started for a verifier; `None` where there is none, or it has ended."""
    settings = asdict(verifier.config)
    for process in psutil.Process().children():
        with suppress(psutil.Error):
            command = process.cmdline()
            if "verifier.server" in " ".join(command) and json.loads(command[-1]).items() <= settings.items():
                return process
    return None


def workers_of(verifier: Verifier) -> list[psutil.Process]:
    """Its workers."""
    server = server_of(verifier)
    assert server is not None
    return server.children()


def busy_worker(verifier: Verifier, is_over: Callable[[], bool] = lambda: False) -> psutil.Process:
    """The first worker that gets busy from now on, before `is_over`."""
    before = {worker: worker.cpu_times().user for worker in workers_of(verifier)}
    while not is_over():
        for worker in workers_of(verifier):
            with suppress(psutil.NoSuchProcess):
                if worker.cpu_times().user - before.get(worker, 0) > 0.1:
                    return worker
    raise AssertionError("no worker has been busy")


def workers_during(verifier: Verifier, *batches: tuple[list[str], list[str]]) -> tuple[list[Verdict], int]:
    """The verdicts on batches of answers and golds, and the number of workers there were: a hang costs one."""
    verdicts, workers = [], set(workers_of(verifier))
    with ThreadPoolExecutor(1) as thread:
        for batch in batches:
            future = thread.submit(verifier.judge_answers, *batch)
            while wait([future], timeout=0.1).not_done:  # a worker that hangs is there for longer
                workers.update(workers_of(verifier))
            verdicts += future.result()
    return verdicts, len(workers)


def cpu_seconds() -> float:
    """What the processes below this one, and those that they have replaced, have taken of the CPU."""
    seconds = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # just replaced
            times = process.cpu_times()
            seconds += times.user + times.children_user
    return seconds
