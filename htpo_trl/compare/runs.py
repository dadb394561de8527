"""
The runs of a fight: each is `htpo train` in a process of its own, which goes on from its last checkpoint. What it came
to is a file in `results/`, written when it ends; the results alone tell which runs are still to come.
"""

import ctypes
import multiprocessing
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..output.terminal import WARNINGS, Stopped
from ..report.runs import read_run
from ..utils import UsageError
from .judgement import choose_rates
from .plan import Run, runs_of
from .results import Common, check_options, has_finished, keep, keep_failed, score


_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_STOPPING = (signal.SIGINT, signal.SIGTERM, *WARNINGS)
# Of several processes the launcher tells last, and only which of them it was.
_ERROR = re.compile(r"(\[rank\d+\]: )?(htpo train: (?!rank \d)|[\w.]*(Error|Exception|Interrupt)\b)")
# What the server of the forks imports once, for all runs: it takes longer than a small run.
_PRELOADED = [
    *("htpo_trl.scripts.htpo", "htpo_trl.trainer", "htpo_trl.evaluation.callback", "htpo_trl.training.saving"),
    *("htpo_trl.training.interruption", "htpo_trl.training.console", "accelerate.commands.launch", "datasets"),
    *("transformers.models.auto.modeling_auto", "transformers.models.qwen3.modeling_qwen3"),
]


def fight(common: Common) -> None:
    """
    Make all runs of a fight that have no result yet. A run that fails is tried once more, and is then a result; two of
    different arms that fail alike stop the fight. Where one ends by a line for its user, or this process is stopped,
    those under way save a checkpoint and end.
    """
    plan = common.plan
    if plan["tuning_seeds"]:
        _Phase(common, runs_of(plan, "tuning")).run()
    rates = choose_rates(plan, list(common.results().values()))
    print("Learning rates: " + ", ".join(f"{arm} {rate:g}" for arm, rate in rates.items()), flush=True)
    _Phase(common, runs_of(plan, "confirmation", rates)).run()


def estimate(common: Common) -> str:
    """How long the fight takes, from a short run that is thrown away: a generation batch, a sample of each problem."""
    plan, options = common.plan, common.plan["options"]
    steps = max(
        1, options["steps_per_generation"] * options["num_iterations"] // options["gradient_accumulation_steps"]
    )
    total, rate = options["max_steps"], plan["learning_rates"][0]
    with TemporaryDirectory() as directory:
        run = Run("confirmation", next(iter(plan["arms"])), rate, plan["confirmation_seeds"][0])
        short = common._replace(directory=Path(directory))
        own = {"max_steps": steps, "eval_num_samples": 1, "save_strategy": "no", "report_to": "none"}
        more = [f"--{name}={value}" for name, value in own.items()]
        running: list[_Process] = []
        with _stopping(running):
            with _undisturbed():
                running.append(_Process(short, run, [*short.command(run, False), *more], 0, _devices(common)[0]))
            code = (process := running[0]).join()
        if code:
            raise UsageError(f"A short run, to see how long one takes, failed: {process.last_line()}")
        seconds, log = time.monotonic() - process.started, read_run(short.directory / "runs" / run.name).log
        check_options(short, run, short.directory / "runs" / run.name, [*own])
    step_time, training = log["step_time"].mean(), log["train_runtime"].iloc[-1]
    a_sample = max(training - step_time * steps, 0)  # of each problem
    told = f"{step_time:.2f} s an optimizer step, {a_sample:.1f} s a sample of all problems"
    if total <= 0:
        return f"{told}; how many steps there are max_steps would tell"
    each = seconds - training + step_time * total
    n_tuning = len(plan["arms"]) * len(plan["learning_rates"]) * len(plan["tuning_seeds"])
    n = len(plan["arms"]) * len(plan["confirmation_seeds"])
    whole = n_tuning * (each + a_sample * plan["tuning_samples"]) + n * (each + a_sample * plan["samples"])
    return f"{told}: {n_tuning + n} runs, {common.jobs} at a time, take about {whole / common.jobs / 60:.0f} minutes"


class _Phase:
    """The runs of a phase, of which `jobs` are under way at a time."""

    def __init__(self, common: Common, runs: Sequence[Run]) -> None:
        self.common, self.total = common, len(runs)
        results = common.results()
        self.waiting = deque(run for run in runs if run.name not in results)
        self.running: list[_Process] = []
        self.before = f"before-{runs[0].problems}"
        self.devices = _devices(common)
        self.failed: set[Run] = set()
        self.lost: dict[str, list[Run]] = {}  # by their errors, since one has finished
        self.seconds: list[float] = []

    def run(self) -> None:
        """Make all that are waiting."""
        with _stopping(self.running):
            while self.waiting or self.running:
                while self.waiting and len(self.running) < self.common.jobs:
                    self._start(self.waiting.popleft())
                ended = wait([process.sentinel for process in self.running]) if self.running else []
                for process in [each for each in self.running if each.sentinel in ended]:
                    self.running.remove(process)
                    self._end(process)

    def _start(self, run: Run) -> None:
        if has_finished(self.common.directory / "runs" / run.name):  # the command was killed before there was a result
            keep(self.common, run, self.before)
            return
        # One run evaluates the model before training, for all.
        is_known = (self.common.directory / "results" / f"{self.before}.json").exists()
        is_first = not is_known and not any(process.is_first for process in self.running)
        slot = next(i for i in range(self.common.jobs) if i not in {process.slot for process in self.running})
        tokens, device = self.common.command(run, is_first), self.devices[slot % len(self.devices)]
        with _undisturbed():
            self.running.append(_Process(self.common, run, tokens, slot, device, is_first))

    def _end(self, process: "_Process") -> None:
        run, code = process.run, process.join()
        if code == 2:
            raise UsageError(f"{run.name}: {process.last_line()}")
        if (signum := -code if code < 0 else code - 128) in _STOPPING:  # whoever it was, this is no failure
            raise Stopped(signum)
        error = process.last_line() if code else ""
        has_failed = code and not has_finished(self.common.directory / "runs" / run.name)
        if has_failed and run not in self.failed:
            self.failed.add(run)
            self.waiting.appendleft(run)
            print(f"{run.name} failed ({error}): once more, from its checkpoint.", flush=True)
            return
        if has_failed:
            self._check_outage(run, error)
            result = keep_failed(self.common, run, error)
        else:
            self.lost.clear()
            result = keep(self.common, run, self.before)
        self.seconds.append(time.monotonic() - process.started)
        left = len(self.waiting) + len(self.running)
        minutes = np.mean(self.seconds) * left / self.common.jobs / 60
        then = f"; about {minutes:.0f} minutes left of the {run.phase}" if left else ""
        print(
            f"[{self.total - left}/{self.total}] {run.name}: {score(result)}, {self.seconds[-1]:.0f} s{then}",
            flush=True,
        )

    def _check_outage(self, run: Run, error: str) -> None:
        """What fails runs of different arms alike is no result of theirs: a full disk, a device, a tracker."""
        alike = self.lost.setdefault(re.sub(r"0x\w+|\d+", "0", error), [])
        alike.append(run)
        if alike[0].arm != run.arm:
            for each in alike[:-1]:
                (self.common.directory / "results" / f"{each.name}.json").unlink()
            raise UsageError(
                f"{alike[0].name} and {run.name} failed alike, twice each: {error}. That is no result of their "
                "objectives: mend it, and call the same command again."
            )


class _Process:
    """A run under way."""

    def __init__(
        self,
        common: Common,
        run: Run,
        tokens: Sequence[str],
        slot: int,
        device: str | None,
        is_first: bool = False,
    ) -> None:
        self.run, self.slot, self.is_first = run, slot, is_first
        self.started = time.monotonic()
        self.log = common.directory / "runs" / f"{run.name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        # CUDA can be used neither in a fork of a process that has looked for devices nor, safely, in one that has not;
        # nor can the system's own libraries on macOS.
        may_fork = common.use_cpu and not common.is_launched and sys.platform == "linux"
        context: Any = multiprocessing.get_context("forkserver" if may_fork else "spawn")
        if may_fork:
            context.set_forkserver_preload(_PRELOADED)
        self.process = context.Process(target=_train, args=(tokens, self.log, device, common.is_launched))
        self.process.start()
        self.sentinel = self.process.sentinel

    def join(self) -> int:
        """Wait for its end; returns the exit code, minus the number of a signal."""
        self.process.join()
        return self.process.exitcode

    def last_line(self) -> str:
        """Its error, or the last of what it said; of one that a signal ended, which."""
        if (code := self.process.exitcode or 0) < 0:
            return f"ended by {signal.Signals(-code).name}{', as when memory runs out' * (-code == signal.SIGKILL)}"
        return _error_of(self.log.read_text(errors="replace") if self.log.exists() else "")


def _error_of(log: str) -> str:
    """The error in the log of a run, of its last start, or the last line of it."""
    lines = [line.strip() for line in log.rpartition("\n$ htpo train")[2].splitlines() if line.strip()]
    said = [line for line in lines if _ERROR.match(line)] or lines or ["it said nothing"]
    return said[-1]


def _train(tokens: Sequence[str], log: Path, device: str | None, is_launched: bool) -> None:
    """`htpo train`, in a process of its own."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    null = os.open(os.devnull, os.O_RDONLY)
    for standard, descriptor in enumerate((null, file, file)):
        os.dup2(descriptor, standard)
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    sys.argv = ["htpo", "train", *tokens]
    os.write(1, f"$ {shlex.join(sys.argv)}\n".encode())
    if is_launched:
        if sys.platform == "linux":  # it saves a checkpoint and ends when this command is killed
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        os.execv(sys.executable, [sys.executable, "-m", "htpo_trl", *sys.argv[1:]])
    import torch

    from ..scripts.htpo import main

    n, *_ = os.environ["OMP_NUM_THREADS"].split(",")  # others are of nested regions
    torch.set_num_threads(int(n))  # the parent of a fork read it
    main(tokens)


def _end_with_parent() -> None:
    """Nobody would tell a run of a command that was killed to stop; it goes on from its checkpoint."""
    parent: Any = multiprocessing.parent_process()
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """
    Within, a process is started. What stops this one waits until that one has all that it needs; and it has SIGINT
    blocked, as a terminal's Ctrl-C goes to all: the command tells its runs.
    """
    came: list[int] = []
    handlers = {each: signal.signal(each, lambda signum, frame: came.append(signum)) for each in _STOPPING}
    resource_tracker.ensure_running()  # which would unblock SIGINT
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for each, handler in handlers.items():
            signal.signal(each, handler)
        for signum in came:
            signal.raise_signal(signum)


@contextmanager
def _stopping(running: Sequence[_Process]) -> Iterator[None]:
    """Runs that are under way when the block is left by an error are stopped: they save a checkpoint."""
    try:
        yield
    except BaseException:
        try:
            for each in running:
                each.process.terminate()
            print("Runs that are under way stop after their optimizer step, with a checkpoint.", flush=True)
            for each in running:
                each.join()
        except KeyboardInterrupt:  # again
            for each in running:
                each.process.kill()
        raise


def check_jobs(common: Common) -> None:
    """Refuse more runs at a time than there are GPUs for: they would take each other's memory, and count as failed."""
    import torch

    n = 0 if common.use_cpu else torch.cuda.device_count()
    engine = [common.plan["options"][name] for name in ("use_vllm", "vllm_mode")]
    if common.jobs > 1 and engine == [True, "server"]:
        raise UsageError(f"--jobs {common.jobs}: a vLLM server has the weights of one run. Set --jobs 1.")
    if n and common.jobs > (most := 1 if common.is_launched else n):
        why = f"a GPU for each run, and {n} here"
        if common.is_launched:
            why = "the launcher spreads each run over the GPUs"
        raise UsageError(f"--jobs {common.jobs}: {why}. Set --jobs {most}.")


def _devices(common: Common) -> list[str | None]:
    """What `CUDA_VISIBLE_DEVICES` is for the runs that are under way at once."""
    if common.use_cpu or common.is_launched:
        return [None]
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [*map(str, range(torch.cuda.device_count()))]
    return [*names] or [None]


def share_cores(jobs: int) -> None:
    """Threads of each run: the cores are shared among those that are under way at once."""
    has_affinity = hasattr(os, "sched_getaffinity")  # not on macOS
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // jobs))
