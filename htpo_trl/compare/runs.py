"""
The runs of a fight: each is `htpo train` in a process of its own, which goes on from its last checkpoint. What it came
to is a file in `results/`, written when it ends; the results alone tell which runs are still to come.
"""

import json
import multiprocessing
import os
import shlex
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple

import numpy as np

from ..objective import EFFECTS
from ..output.reading import MAX_LOG_BYTES, read_json
from ..output.terminal import Stopped
from ..output.writing import write_atomically
from ..report.runs import Evaluation, RunError, read_run
from ..utils import UsageError
from .plan import SCHEMA, Run, compared, runs_of, tokens_of


#: Of the log, what a result keeps.
LOGGED = (
    *("reward", "htpo/accuracy", "htpo/frac_hard", "entropy", "grad_norm", "loss", "completions/mean_length"),
    *("completions/clipped_ratio", "htpo/clip_ratio/low", "htpo/clip_ratio/high", "clip_ratio/low_mean"),
    "clip_ratio/high_mean",
)
#: Points of a metric that a result keeps, each the mean of several steps where there are more.
MAX_POINTS = 50
_STOPPED = {128 + signum for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)}
# What the server of the forks imports once, for all runs: it takes longer than a small run.
_PRELOADED = [
    *("htpo_trl.scripts.htpo", "htpo_trl.trainer", "htpo_trl.evaluation.callback", "htpo_trl.training.saving"),
    *("htpo_trl.training.interruption", "htpo_trl.training.console", "accelerate.commands.launch", "datasets"),
    *("transformers.models.auto.modeling_auto", "transformers.models.qwen3.modeling_qwen3"),
]


class Fight(NamedTuple):
    """What all runs of a fight share."""

    plan: Mapping[str, Any]
    digest: str  #: of the plan
    directory: Path
    tokens: Sequence[str]  #: options of `htpo train`, for all runs
    is_launched: bool  #: by accelerate's launcher, in several processes
    jobs: int
    use_cpu: bool

    def results(self) -> dict[str, dict[str, Any]]:
        """Name → result, of those that are there."""
        found = {path.stem: read_json(path) for path in sorted(self.directory.glob("results/*.json"))}
        for name, result in found.items():
            if result.get("plan") != self.digest:
                raise UsageError(
                    f"{self.directory}/results/{name}.json is of another plan, {result.get('plan')!s:.12} and not "
                    f"{self.digest:.12}. Remove it, or name another --output_dir."
                )
        return found

    def command(self, run: Run, before: bool) -> list[str]:
        """The tokens of `htpo train` for a run."""
        return [*self.tokens, *tokens_of(self.plan, run, self.directory / "runs" / run.name, before)]


def fight(given: Fight, choose_rates: Callable[..., dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Make all runs of a fight that have no result yet; returns all results."""
    plan = given.plan
    if plan["tuning_seeds"]:
        _run_all(given, runs_of(plan, "tuning"))
    rates = choose_rates(plan, list(given.results().values()))
    print("Learning rates: " + ", ".join(f"{arm} {rate:g}" for arm, rate in rates.items()), flush=True)
    _run_all(given, runs_of(plan, "confirmation", rates))
    return given.results()


def _run_all(given: Fight, runs: Sequence[Run]) -> None:
    """Make the runs of a phase, `jobs` at a time."""
    results = given.results()
    waiting = deque(run for run in runs if run.name not in results)
    total, n_done = len(runs), len(runs) - len(waiting)
    running: dict[Any, _Process] = {}
    failures: Counter[str] = Counter()
    seconds: list[float] = []
    before = f"before-{runs[0].problems}"
    devices = _devices(given)
    with _stopping(running):
        while waiting or running:
            while waiting and len(running) < given.jobs:
                run = waiting.popleft()
                if _has_finished(given.directory / "runs" / run.name):  # and was killed before it had a result
                    _keep(given, run, before)
                    n_done += 1
                    continue
                is_first = not (given.directory / "results" / f"{before}.json").exists() and not any(
                    process.evaluates_before for process in running.values()
                )
                taken = {process.slot for process in running.values()}
                slot = next(i for i in range(given.jobs) if i not in taken)
                process = _Process(given, run, is_first, slot, devices[slot % len(devices)])
                running[process.sentinel] = process
            for sentinel in wait([*running]) if running else ():
                process = running.pop(sentinel)
                run, code = process.run, process.join()
                if code == 2:
                    raise UsageError(f"{run.name}: {process.last_line()}")
                if code in _STOPPED or -code + 128 in _STOPPED - {128 + signal.SIGHUP}:
                    raise Stopped(code - 128 if code > 0 else -code)
                if code and not failures[run.name]:
                    failures[run.name] += 1
                    print(f"{run.name} failed ({process.last_line()}): once more, from its checkpoint.", flush=True)
                    waiting.appendleft(run)
                    continue
                result = _keep_failed(given, process) if code else _keep(given, run, before)
                n_done += 1
                seconds.append(time.monotonic() - process.started)
                left = np.mean(seconds) * (total - n_done) / given.jobs / 60
                print(
                    f"[{n_done}/{total}] {run.name}: {_score(result)}, {seconds[-1]:.0f} s"
                    + f"; about {left:.0f} minutes left of the {run.phase}" * (n_done < total),
                    flush=True,
                )


class _Process:
    """A run under way."""

    def __init__(self, given: Fight, run: Run, evaluates_before: bool, slot: int, device: str | None) -> None:
        self.run, self.evaluates_before, self.slot = run, evaluates_before, slot
        self.started = time.monotonic()
        self.log = given.directory / "runs" / f"{run.name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        # A process that is forked cannot use CUDA where its parent has looked for devices.
        may_fork = given.use_cpu and not given.is_launched
        context: Any = multiprocessing.get_context("forkserver" if may_fork else "spawn")
        if may_fork:
            context.set_forkserver_preload(_PRELOADED)
        threads = os.environ["OMP_NUM_THREADS"]
        arguments = given.command(run, evaluates_before), self.log, int(threads), device, given.is_launched
        self.process = context.Process(target=_train, args=arguments)
        self.process.start()
        self.sentinel = self.process.sentinel

    def join(self) -> int:
        """Wait for its end; returns the exit code, minus the number of a signal."""
        self.process.join()
        return self.process.exitcode

    def last_line(self) -> str:
        """Of what it said."""
        return next(iter(reversed(self.log.read_text(errors="replace").split("\n")[-200:-1])), "").strip()


def _train(tokens: Sequence[str], log: Path, threads: int, device: str | None, is_launched: bool) -> None:
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
        os.execv(sys.executable, [sys.executable, "-m", "htpo_trl", *sys.argv[1:]])
    import torch

    from ..scripts.htpo import main

    torch.set_num_threads(threads)
    main(tokens)


def _end_with_parent() -> None:
    """Nobody would tell a run of a command that was killed to stop; it goes on from its checkpoint."""
    parent: Any = multiprocessing.parent_process()
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


class _stopping:  # noqa: N801 (a context manager)
    """Runs that are under way when the block is left are stopped: they save a checkpoint."""

    def __init__(self, running: dict[Any, _Process]) -> None:
        self.running = running

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: Any) -> None:
        processes = [each.process for each in self.running.values()]
        try:
            for process in processes:
                process.terminate()  # at once: within a second of a terminal's Ctrl-C it is the same signal
            if processes:
                print(f"Stopping {len(processes)} run(s) after their optimizer step, with a checkpoint.", flush=True)
            for process in processes:
                process.join()
        except BaseException:
            for process in processes:
                process.kill()
            raise


def _devices(given: Fight) -> list[str | None]:
    """What `CUDA_VISIBLE_DEVICES` is for the runs that are under way at once."""
    if given.use_cpu or given.is_launched:
        return [None]
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [*map(str, range(torch.cuda.device_count()))]
    return [*names] or [None]


def share_cores(jobs: int) -> None:
    """Threads of each run: the cores are shared among those that are under way at once."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // jobs)))


def _has_finished(directory: Path) -> bool:
    """Whether a run has made its last step and the evaluation after it, which comes before its last checkpoint."""
    for path in (directory / "trainer_state.json", *directory.glob("checkpoint-*/trainer_state.json")):
        if path.parent == directory or (path.parent / "htpo_checkpoint.json").exists():
            state = read_json(path, MAX_LOG_BYTES) if path.exists() else {"global_step": 0, "max_steps": 1}
            if state["global_step"] >= state["max_steps"]:
                return True
    return False


def _keep(given: Fight, run: Run, before: str) -> dict[str, Any]:
    """Write the result of a run that has finished, and where it evaluated the model before training, that too."""
    directory = given.directory / "runs" / run.name
    try:
        read = read_run(directory)
        evaluations = next(iter(read.evaluations.values()))
        last = max(step for step in evaluations if step)
    except (RunError, StopIteration, ValueError) as error:
        raise UsageError(
            f"{directory} has no evaluation after its last step ({error}): {directory}.log may tell why. Remove the "
            "directory, and call the same command again."
        ) from None
    log = read.log
    options = _check_options(given, run, read_json(directory / "settings.json"))
    steps = log["step_time"].dropna() if "step_time" in log else None
    touched = {effect: float(log[key].mean()) for effect in EFFECTS if (key := f"htpo/special/{effect}") in log}
    result = _result(
        given,
        run,
        **_counts(evaluations[last]),
        steps=last,
        seconds=None if steps is None else round(float((steps * np.diff(steps.index, prepend=0)).sum()), 1),
        train_tokens=int(log["num_tokens"].dropna().iloc[-1]) if "num_tokens" in log else None,
        touched=touched,
        log={name: _thinned(log[name].dropna()) for name in LOGGED if name in log},
        options=options,
        versions=read.versions,
    )
    if 0 in evaluations:
        whose = {"name": before, "phase": "before", "arm": None, "learning_rate": None, "versions": read.versions}
        _write(given, _result(given, run, **_counts(evaluations[0]), steps=0, **whose))
    _write(given, result)
    for path in directory.glob("checkpoint-*"):  # the model stays
        rmtree(path)
    return result


def _keep_failed(given: Fight, process: _Process) -> dict[str, Any]:
    result = _result(given, process.run, status="failed", error=process.last_line())
    _write(given, result)
    return result


def _result(given: Fight, run: Run, **known: Any) -> dict[str, Any]:
    """All that a result has, with what is known of it."""
    head = {"schema": SCHEMA, "plan": given.digest, "name": run.name, **run._asdict()}
    head |= {"status": "finished", "error": None, "problems": [], "judged": [], "correct": []}
    numbers = dict.fromkeys(("mean_tokens", "truncated", "steps", "seconds", "train_tokens"))
    return {**head, **numbers, "touched": {}, "log": {}, "options": {}, "versions": {}, **known}


def _write(given: Fight, result: dict[str, Any]) -> None:
    lines = [f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in result.items()]
    write_atomically(given.directory / "results" / f"{result['name']}.json", "{\n" + ",\n".join(lines) + "\n}\n")


def _counts(evaluation: Evaluation) -> dict[str, Any]:
    problems = evaluation.results.problems
    rows = [row for each in problems.values() for row in each]
    verdicts = [[row["verdict"] for row in each] for each in problems.values()]
    return {
        "problems": [*problems],
        "judged": [sum(verdict != "unparsable_gold" for verdict in each) for each in verdicts],
        "correct": [each.count("correct") for each in verdicts],
        "mean_tokens": float(np.mean([row["tokens"] for row in rows])),
        "truncated": float(np.mean([row["truncated"] for row in rows])),
    }


def _thinned(series: Any) -> dict[str, float]:
    """Step → value; of a long log the means of neighbouring steps, each at its last."""
    parts = np.array_split(np.arange(len(series)), min(len(series), MAX_POINTS)) if len(series) else []
    return {str(series.index[part[-1]]): float(f"{series.iloc[part].mean():.6g}") for part in parts}


def _check_options(given: Fight, run: Run, sections: dict[str, Any]) -> dict[str, Any]:
    """What the options of a run are beside those of the plan: its arm's, its rate and its seed, and nothing else."""
    options: dict[str, Any] = {}
    for name in ("HTPOScriptArguments", "HTPOConfig", "ModelConfig"):
        options |= sections[name]
    expected = given.plan["options"] | given.plan["arms"][run.arm]["resolved"]
    found = compared(options)
    wrong = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    wrong += [name for name in ("seed", "learning_rate") if options[name] != getattr(run, name)]
    data = sections["run"]["data"]
    if wrong or data != given.plan["problems"]["training"]["digest"]:
        name = sorted(wrong)[0] if wrong else "data"
        there = {"data": given.plan["problems"]["training"]["digest"], "seed": run.seed} | expected
        raise UsageError(
            f"{run.name} was not made as the plan says: {name} is {options.get(name, data)!r:.80}, and not "
            f"{there.get(name, run.learning_rate)!r:.80}. Remove its directory, and call the same command again."
        )
    resolved = given.plan["arms"][run.arm]["resolved"]
    return {name: options[name] for name in (*resolved, "learning_rate", "seed", "eval_num_samples")}


def _score(result: Mapping[str, Any]) -> str:
    if result["status"] == "failed":
        return f"failed twice: {result['error']}"
    n = max(result["judged"], default=0)
    return f"mean@{n} {sum(result['correct']) / max(sum(result['judged']), 1):.3f}"
