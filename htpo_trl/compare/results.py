"""What runs came to: a file each in `results/`, which are all that it takes to go on with a fight and to judge it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple

import numpy as np

from ..objective import EFFECTS
from ..output.directory import SEAL
from ..output.reading import MAX_LOG_BYTES, read_json
from ..output.writing import write_atomically
from ..report.runs import Evaluation, RunError, read_run
from ..utils import UsageError
from .plan import SCHEMA, Run, compared, tokens_of


#: Of the log, what a result keeps.
LOGGED = (
    *("reward", "htpo/accuracy", "htpo/frac_hard", "entropy", "grad_norm", "loss", "completions/mean_length"),
    *("completions/clipped_ratio", "htpo/clip_ratio/low", "htpo/clip_ratio/high", "clip_ratio/low_mean"),
    "clip_ratio/high_mean",
)
#: Points of a metric that a result keeps, each the mean of several steps where there are more.
MAX_POINTS = 50


class Common(NamedTuple):
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


def has_finished(directory: Path) -> bool:
    """Whether a run has made its last step and the evaluation after it, which comes before its last checkpoint."""
    for path in (directory / "trainer_state.json", *directory.glob("checkpoint-*/trainer_state.json")):
        if path.parent == directory or (path.parent / SEAL).exists():
            state = read_json(path, MAX_LOG_BYTES) if path.exists() else {"global_step": 0, "max_steps": 1}
            if state["global_step"] >= state["max_steps"]:
                return True
    return False


def keep(common: Common, run: Run, before: str) -> dict[str, Any]:
    """Write the result of a run that has finished, and where it evaluated the model before training, that too."""
    directory = common.directory / "runs" / run.name
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
    options = _check_options(common, run, read_json(directory / "settings.json"))
    steps = log["step_time"].dropna() if "step_time" in log else None
    touched = {effect: float(log[key].mean()) for effect in EFFECTS if (key := f"htpo/special/{effect}") in log}
    result = _result(
        common,
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
        _write(common, _result(common, run, **_counts(evaluations[0]), steps=0, **whose))
    _write(common, result)
    for path in directory.glob("checkpoint-*"):  # the model stays
        rmtree(path)
    return result


def keep_failed(common: Common, run: Run, error: str) -> dict[str, Any]:
    """Write the result of a run that has failed for good."""
    result = _result(common, run, status="failed", error=error)
    _write(common, result)
    return result


def _result(common: Common, run: Run, **known: Any) -> dict[str, Any]:
    """All that a result has, with what is known of it."""
    head = {"schema": SCHEMA, "plan": common.digest, "name": run.name, **run._asdict()}
    head |= {"status": "finished", "error": None, "problems": [], "judged": [], "correct": []}
    numbers = dict.fromkeys(("mean_tokens", "truncated", "steps", "seconds", "train_tokens"))
    return {**head, **numbers, "touched": {}, "log": {}, "options": {}, "versions": {}, **known}


def _write(common: Common, result: dict[str, Any]) -> None:
    lines = [f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in result.items()]
    write_atomically(common.directory / "results" / f"{result['name']}.json", "{\n" + ",\n".join(lines) + "\n}\n")


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


def _check_options(common: Common, run: Run, sections: dict[str, Any]) -> dict[str, Any]:
    """What the options of a run are beside those of the plan: its arm's, its rate and its seed, and nothing else."""
    options: dict[str, Any] = {}
    for name in ("HTPOScriptArguments", "HTPOConfig", "ModelConfig"):
        options |= sections[name]
    expected = common.plan["options"] | common.plan["arms"][run.arm]["resolved"]
    found = compared(options)
    wrong = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    wrong += [name for name in ("seed", "learning_rate") if options[name] != getattr(run, name)]
    data = sections["run"]["data"]
    if wrong or data != common.plan["problems"]["training"]["digest"]:
        name = sorted(wrong)[0] if wrong else "data"
        there = {"data": common.plan["problems"]["training"]["digest"], "seed": run.seed} | expected
        raise UsageError(
            f"{run.name} was not made as the plan says: {name} is {options.get(name, data)!r:.80}, and not "
            f"{there.get(name, run.learning_rate)!r:.80}. Remove its directory, and call the same command again."
        )
    resolved = common.plan["arms"][run.arm]["resolved"]
    return {name: options[name] for name in (*resolved, "learning_rate", "seed", "eval_num_samples")}


def score(result: Mapping[str, Any]) -> str:
    """A result in a few words."""
    if result["status"] == "failed":
        return f"failed twice: {result['error']}"
    n = max(result["judged"], default=0)
    return f"mean@{n} {sum(result['correct']) / max(sum(result['judged']), 1):.3f}"
