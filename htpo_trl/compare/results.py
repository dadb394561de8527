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
from .digests import digest_of_code, digest_of_file
from .plan import SCHEMA, Run, compared, tokens_of


#: Of the log, what a result keeps.
LOGGED = (
    *("reward", "htpo/accuracy", "htpo/frac_hard", "entropy", "grad_norm", "loss", "completions/mean_length"),
    *("completions/clipped_ratio", "htpo/clip_ratio/low", "htpo/clip_ratio/high", "clip_ratio/low_mean"),
    "clip_ratio/high_mean",
)
#: Points of a metric that a result keeps, each the mean of several steps where there are more.
MAX_POINTS = 50


_PUT_BACK = "Put back what was there, or remove the file."
_OPTIONAL = (str, int, float, type(None))
# What stands in the files of a fight, as far as their readers rely on it.
_PLAN_KINDS: dict[str, Any] = {
    **dict.fromkeys(("arms", "problems", "model"), dict),
    **dict.fromkeys(("learning_rates", "tuning_seeds", "confirmation_seeds", "metrics", "rule"), list),
    **{"tuning_samples": int, "samples": int, "alpha": float},
}
_ELEMENT_KINDS: dict[str, Any] = {
    **dict.fromkeys(("learning_rates", "tuning_seeds", "confirmation_seeds", "touched"), (int, float)),
    **{"metrics": str, "rule": str, "arms": dict, "problems": (dict, str)},  # of a result, a list of their keys
}
_RESULT_KINDS: dict[str, Any] = {
    **dict.fromkeys(("name", "plan", "phase", "status"), str),
    **dict.fromkeys(("arm", "learning_rate", "seed"), _OPTIONAL),
}
_FURTHER_KINDS: dict[str, Any] = {
    **dict.fromkeys(("mean_tokens", "truncated", "seconds", "train_tokens"), (int, float, type(None))),
    **dict.fromkeys(("touched", "versions"), (dict, type(None))),
}


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
        return read_results(self.directory, self.digest)

    def command(self, run: Run, before: bool) -> list[str]:
        """The tokens of `htpo train` for a run."""
        return [*self.tokens, *tokens_of(self.plan, run, self.directory / "runs" / run.name, before)]


def read_plan(path: Path) -> tuple[dict[str, Any], str]:
    """A fight's plan and its digest; a [`UsageError`] names a file that is none."""
    plan = read_json(path)
    _check_kinds(path, plan, _PLAN_KINDS)
    return plan, digest_of_file(path)


def read_results(directory: Path, digest: str) -> dict[str, dict[str, Any]]:
    """Name → result, of those that are there; a [`UsageError`] names one that is broken, or of another plan."""
    found = {path: read_json(path) for path in sorted(directory.glob("results/*.json"))}
    for path, result in found.items():
        _check_kinds(path, result, _RESULT_KINDS)
        if result["plan"] != digest:
            raise UsageError(
                f"{path} is of another plan, {result['plan']:.12} and not {digest:.12}. Remove it, or name another "
                "--output_dir."
            )
        if path.stem != result["name"]:
            raise UsageError(f"{path} is the result of {result['name']:.80}, by its content. Remove it.")
    return {path.stem: result for path, result in found.items()}


def _check_kinds(path: Path, content: Mapping[str, Any], needed: dict[str, Any]) -> None:
    missing = [name for name in needed if name not in content]
    if missing or content.get("schema") != SCHEMA:
        what = f"no {missing[0]!r}" if missing else f"schema {content.get('schema')!r:.20}, and not {SCHEMA}"
        raise UsageError(f"{path} is none that `htpo compare` of this version wrote: {what}. Remove it.")
    for name, kind in (needed | _FURTHER_KINDS).items():
        if name in content and not isinstance(content[name], kind):
            raise UsageError(f"{path}: {name} is {content[name]!r:.40}, of the wrong kind. {_PUT_BACK}")
    for name, kind in _ELEMENT_KINDS.items():
        elements = content.get(name) or ()
        for each in elements.values() if isinstance(elements, dict) else elements:
            if not isinstance(each, kind):
                raise UsageError(f"{path}: {name} has {each!r:.40}, of the wrong kind. {_PUT_BACK}")


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
        by_step: dict[Any, list[Evaluation]] = {}
        for of_benchmark in read.evaluations.values():
            for step, evaluation in of_benchmark.items():
                by_step.setdefault(step, []).append(evaluation)
        n = len(common.plan["problems"][run.problems]["names"])
        last = max(step for step, evaluations in by_step.items() if step and len(evaluations) == n)
    except (RunError, ValueError) as error:
        raise UsageError(
            f"{directory} has no evaluation after its last step ({error}): {directory}.log may tell why. Remove the "
            "directory, and call the same command again."
        ) from None
    log = read.log
    options = check_options(common, run, directory)
    steps = log["step_time"].dropna() if "step_time" in log else None
    touched = {effect: float(log[key].mean()) for effect in EFFECTS if (key := f"htpo/special/{effect}") in log}
    result = _result(
        common,
        run,
        **_counts(by_step[last]),
        steps=last,
        seconds=None if steps is None else round(float((steps * np.diff(steps.index, prepend=0)).sum()), 1),
        train_tokens=int(log["num_tokens"].dropna().iloc[-1]) if "num_tokens" in log else None,
        touched=touched,
        log={name: _thinned(log[name].dropna()) for name in LOGGED if name in log},
        options=options,
        versions=read.versions,
    )
    if 0 in by_step:
        whose = {"name": before, "phase": "before", "arm": None, "learning_rate": None, "versions": read.versions}
        _write(common, _result(common, run, **_counts(by_step[0]), steps=0, **whose))
    _write(common, result)
    weights = [*directory.glob("*.safetensors")]
    if weights:  # a run that was killed before it had saved its model has it in its last checkpoint
        for path in directory.glob("checkpoint-*"):
            rmtree(path)
    for path in weights if run.phase == "tuning" else ():  # of the others the model stays
        path.unlink()
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


def _counts(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Of all problems, whichever benchmark they are of."""
    problems = {name: rows for each in evaluations for name, rows in each.results.problems.items()}
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


def check_options(common: Common, run: Run, directory: Path, but: Sequence[str] = ()) -> dict[str, Any]:
    """What the options of a run are beside those of the plan: its arm's, its rate and its seed, and nothing else."""
    sections = read_json(directory / "settings.json")
    for path, digest in common.plan.get("code", {}).items():
        if digest_of_code(path) != digest:
            raise UsageError(
                f"{path} was edited while {run.name} was under way: it is not what the plan has. Put it back, "
                f"remove {directory}, and call the same command again."
            )
    options: dict[str, Any] = {}
    for name in ("HTPOScriptArguments", "HTPOConfig", "ModelConfig"):
        options |= sections[name]
    plan, resolved = common.plan, common.plan["arms"][run.arm]["resolved"]
    own = {"seed": run.seed, "learning_rate": run.learning_rate, "data": plan["problems"]["training"]["digests"][0]}
    expected = plan["options"] | resolved | own
    found = compared(options) | {name: options.get(name, sections["run"]["data"]) for name in own}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name) and name not in but:
            raise UsageError(
                f"{run.name} was not made as the plan says: {name} is {found.get(name)!r:.80}, and not "
                f"{expected.get(name)!r:.80}. Remove its directory, and call the same command again."
            )
    return {name: options[name] for name in (*resolved, "learning_rate", "seed", "eval_num_samples")}


def score(result: Mapping[str, Any]) -> str:
    """A result in a few words: of a run on the test problems not what it scored."""
    if result["status"] == "failed":
        return f"failed twice: {result['error']}"
    if result["phase"] == "confirmation":  # there is nothing to look at before the end
        return "finished"
    n = max(result["judged"], default=0)
    return f"mean@{n} {sum(result['correct']) / max(sum(result['judged']), 1):.3f}"
