"""
What a run left behind, read from its directory alone: that of `htpo train` and `htpo demo`, of `htpo eval`, or of a
plain TRL run, which holds a log and nothing else; and which runs form a set: those that differ by their seed alone. No
pickle is opened. Nothing here needs torch.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd

from ..evaluation.results import Results, check_ks, read, scores
from ..output.reading import MAX_BYTES, MAX_LOG_BYTES, read_json
from ..output.redaction import redacted
from ..utils import UsageError


# Seeds, where output goes, and what has no part in training: runs that differ in these alone are of one set.
_NO_DIFFERENCE = re.compile(
    r"(.*\.)?(seed|data_seed|output_dir|run_name|logging_dir|project|report_to|resume_from_checkpoint|threads|local_rank"
    r"|overwrite_output_dir|disable_tqdm|push_to_hub|log_completions_hub_repo|(hub|trackio)_.*)"
)
_MAX_METRICS = 10_000  # of a log: hundreds are usual
_MAX_NAME = 24  # of a set that nobody named: legends and titles hold several


class RunError(UsageError):
    """A directory that is no run, or a file of a run that cannot be read; the message names it."""


class Evaluation:
    """The samples of one benchmark at one step: `results`, and what can be said of them."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.samples: int = results.settings["sampling"]["num_samples"]  # per problem
        self.verdicts = Counter(row["verdict"] for rows in results.problems.values() for row in rows)
        # With majority votes or without: a row per problem, a column per metric.
        self.scores = cache(lambda majority: scores(results, check_ks(self.samples), majority))


class Run(NamedTuple):
    """A run, as far as its directory tells; what it does not tell is `None`, or absent."""

    path: Path
    stem: str  # the directory's name less its seed
    source: str  # what kind of directory it is, for the reader
    seed: int | None
    options: dict[str, Any] | None
    versions: dict[str, str]
    log: dict[str, pd.Series]  # metric → value by step, in order; NaN where a row of its kind lacks it
    evaluations: dict[str, dict[int | None, Evaluation]]  # benchmark → step, `None` for `htpo eval` → evaluation
    notes: list[str]  # what is missing, in sentences

    @property
    def told_by_options(self) -> bool:
        """Whether its options are what makes it; the model of `htpo eval` is a path, of a seed or of a checkpoint."""
        return self.options is not None and self.source != "htpo eval"

    @property
    def steps(self) -> int | None:
        """The last step that was logged."""
        return int(self.log["step"].index[-1]) if self.log else None

    def series(self, key: str) -> pd.Series:
        """Values of a metric by step, of the steps that logged it: none, where it was not logged."""
        return self.log.get(key, pd.Series(dtype=float))


class RunSet(NamedTuple):
    """Runs that differ by their seed alone."""

    name: str
    runs: list[Run]

    @property
    def has_seeds(self) -> bool:
        """Whether there are several runs, and all their seeds are known to differ."""
        return len(self.runs) > 1 and len({run.seed for run in self.runs} - {None}) == len(self.runs)

    @property
    def label(self) -> str:
        """The name, and how many runs there are."""
        what = "seeds" if self.has_seeds else "runs" if len(self.runs) > 1 else "run"
        return f"{self.name} ({len(self.runs)} {what})"

    def series(self, key: str) -> list[pd.Series]:
        """Values of a metric by step, of each run."""
        return [run.series(key) for run in self.runs]

    def evaluations(self, benchmark: str) -> dict[int | None, list[Evaluation]]:
        """Step → evaluations, one per run that has the benchmark; of the steps at which they all evaluated it."""
        found = [run.evaluations[benchmark] for run in self.runs if benchmark in run.evaluations]
        steps = set.intersection(*map(set, found)) if found else set()
        return {step: [each[step] for each in found] for step in sorted(steps, key=lambda s: (s is not None, s))}


def read_run(directory: str | Path) -> Run:
    """Read a run directory; a [`RunError`] says what was looked for in one that is none, or which file is broken."""
    if not os.path.isdir(directory):  # unlike the path's own, of a loop of links or a name that is too long too
        raise RunError(f"{directory} is no directory.")
    path = Path(directory).resolve()
    source, options, versions, resumes = "TRL trainer", None, {}, []
    if (settings := path / "settings.json").exists():
        sections = _json(settings)
        if not isinstance(versions := sections.pop("versions", {}), dict):
            raise RunError(f"{settings}: expected versions in braces, found {versions!r:.60}.")
        resumes = sections.pop("resumes", [])
        source = "htpo train" if "HTPOScriptArguments" in sections else "HTPO trainer"
        options = _flatten(redacted(sections))
    log, notes = _newest_log(path)
    notes += _resumes(settings, resumes)
    if options is None and any(name.startswith("htpo/") for name in log or ()):
        source = "HTPO trainer"
    steps = {int(d.name[5:]): d for d in path.glob("evaluation/step-*") if re.fullmatch(r"step-\d{1,15}", d.name)}
    evaluations = _evaluations(sorted(steps.items()), notes)
    if log is None and not evaluations and options is None:
        source, notes = "htpo eval", []
        if not (evaluations := _evaluations([(None, path)], notes)):
            raise RunError(
                f"{directory} is no run directory. Looked for trainer_state.json (there, or in checkpoint-*), "
                "evaluation/step-*/*.jsonl, or *.jsonl of `htpo eval` with their .json."
            )
        settings_of = {benchmark: found[None].results.settings for benchmark, found in evaluations.items()}
        told = {name: {k: s.get(k) for k in ("model", "judge")} | s["sampling"] for name, s in settings_of.items()}
        options = _flatten(told)
    stem, seed = path.name, (options or {}).get("seed")
    if match := re.search(r"(?:^|[-_])(?:seed|s)[-_=]?(\d+)$", stem):  # dapo-seed3, dapo_s3, dapo/seed3
        stem, seed = stem[: match.start()] or path.parent.name, int(match[1])
    seed, versions = seed if isinstance(seed, int) else None, {name: str(each) for name, each in versions.items()}
    return Run(path, stem, source, seed, options, versions, log or {}, evaluations, notes)


def read_sets(runs: Sequence[str | Path]) -> list[RunSet]:
    """
    The runs of `DIR` and `NAME=DIR`, in sets, in the order in which they are given. A name makes the set of all runs
    of that name; the others are of one set where their options agree, or, without options, where their directories'
    names do but for the seed.
    """
    if not runs:
        raise RunError("There is no run to report on: name at least one directory.")
    sets: dict[Any, RunSet] = {}
    for text in map(str, runs):
        name, separator, directory = text.partition("=")
        if not separator or os.path.isdir(text):
            name, directory = "", text
        run = read_run(directory)
        told = run.told_by_options
        options = frozenset((key, value) for key, value in _options(run).items() if told or key != "model")
        identity = name or (run.source, None if told else run.stem, options)
        members = sets.setdefault(identity, RunSet(name, [])).runs
        if any(run.path == member.path for member in members):
            raise RunError(f"{directory} is named twice.")
        members.append(run)
    found = iter(_names([s for s in sets.values() if not s.name]))
    names = pd.Series([s.name or next(found) for s in sets.values()])
    names += names.groupby(names).cumcount().map(lambda earlier: f" ({earlier + 1})" if earlier else "")
    return [RunSet(name, s.runs) for name, s in zip(names, sets.values(), strict=True)]


def differing_options(sets: Sequence[RunSet], versions: bool = True) -> dict[str, list[list[str]]]:
    """
    Option, version or device → for each set the values that its runs have. Only those that are not the same in all
    runs which recorded them: what one kind of run alone records is no difference.
    """
    rows = [
        _options(run)
        | {"version of " * (name != "device") + name: each for name, each in run.versions.items() if versions}
        for _, runs in sets
        for run in runs
    ]
    table = pd.DataFrame(rows, [i for i, s in enumerate(sets) for _ in s.runs])
    differing = sorted(name for name, values in table.items() if values.nunique() > 1)
    return {name: [sorted(set(table.loc[[i], name].dropna())) for i in range(len(sets))] for name in differing}


def _newest_log(path: Path) -> tuple[dict[str, pd.Series] | None, list[str]]:
    """The log of the trainer's state that went furthest, the run's own rather than a checkpoint's; what it lacks."""
    files = [*path.glob("trainer_state.json"), *sorted(path.glob("checkpoint-*/trainer_state.json"))]
    if not files:
        return None, ["no trainer_state.json, hence no log: the run has neither saved a checkpoint nor ended"]
    found: tuple[Path, dict[str, Any]] | None = None
    for each in files:  # one at a time: each is the log of all steps before
        read = _json(each, MAX_LOG_BYTES)
        if not _is_step(read.get("global_step")) or not isinstance(read.get("log_history"), list):
            raise RunError(f"{each} is no trainer's state: it has no global_step, or no log_history.")
        if found is None or read["global_step"] > found[1]["global_step"]:
            found = each, read
    file, state = cast(tuple[Path, dict[str, Any]], found)
    log = _log(file, state["log_history"])
    if file.parent == path or state["global_step"] == state.get("max_steps") or _was_stopped(state):
        return log, []
    return log, [f"the log ends with {file.parent.name}, the run's newest checkpoint: the run did not finish"]


def _was_stopped(state: dict[str, Any]) -> bool:
    """Whether a callback, such as early stopping, had ended the run when this was saved."""
    try:
        return state["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"] is True
    except (KeyError, TypeError):
        return False


def _resumes(file: Path, resumes: Any) -> list[str]:
    """Where a run went on with other settings than before."""
    try:
        return [
            f"resumed at step {each['step']} with other settings: "
            + "; ".join(f"{name} {before} → {after}" for name, (before, after) in each["changed"].items())
            for each in resumes
            if each["changed"]
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise RunError(f"{file}: expected what was resumed, found {resumes!r:.60}.") from None


def _log(file: Path, rows: list[Any]) -> dict[str, pd.Series]:
    """Of a step that was logged twice, by a run that was resumed, the later row counts."""
    values: dict[str, dict[int, float]] = {}
    for i, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not _is_step(row.get("step")):
            raise RunError(f"{file}: row {i} of the log has no step: {row!r:.60}.")
        for key, value in row.items():
            is_number = type(value) in (int, float) and abs(value) < 1e300  # a line can be drawn through it
            values.setdefault(key, {})[row["step"]] = float(value) if is_number else np.nan
        if len(values) > _MAX_METRICS:
            raise RunError(f"{file}: row {i} of the log is of more than {_MAX_METRICS:,} metrics, all rows together.")
    log = {key: pd.Series(each).sort_index() for key, each in values.items()}
    # What is logged once per generation batch is in the rows that have a reward, what is logged at every step in those
    # that have a loss: such a row without it is a gap.
    kinds = [log[name].index for name in ("reward", "loss") if name in log]
    for key, each in log.items():
        kind: Any = next((kind for kind in kinds if each.index.isin(kind).all()), None)
        if kind is not None and not key.startswith("eval_"):
            log[key] = each.reindex(kind[(kind >= each.index[0]) & (kind <= each.index[-1])])
    if {"num_tokens", "step_time"} <= log.keys():
        step_time = log["step_time"].dropna()  # the mean of the steps since the last log
        seconds = (step_time * np.diff(step_time.index, prepend=0)).cumsum()
        passed = pd.DataFrame({"tokens": log["num_tokens"], "seconds": seconds}).dropna().diff()
        passed = passed[(passed.tokens >= 0) & (passed.seconds != 0)]
        log["tokens_per_second"] = passed.tokens / passed.seconds
    return log


def _evaluations(steps: Sequence[tuple[Any, Path]], notes: list[str]) -> dict[str, dict[int | None, Evaluation]]:
    """Of directories by step: benchmark → step → evaluation."""
    found: dict[str, dict[int | None, Evaluation]] = {}
    for step, file in ((step, file) for step, directory in steps for file in sorted(directory.glob("*.jsonl"))):
        if not file.with_suffix(".json").exists():  # written last
            notes.append(f"{file.name} in {file.parent.name} is unfinished: there is no {file.stem}.json")
            continue
        try:
            found.setdefault(file.stem, {})[step] = Evaluation(read(file))
        except UsageError as error:
            raise RunError(str(error)) from None
    return found


def _json(file: Path, limit: int = MAX_BYTES) -> dict[str, Any]:
    try:
        return read_json(file, limit)
    except UsageError as error:
        raise RunError(str(error)) from None


def _is_step(value: Any) -> bool:
    return type(value) is int and 0 <= value < 10**15


def _flatten(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Options by their names alone; where two sections disagree on one, as `section.name`."""
    options: dict[str, Any] = {}
    for section, values in sections.items():
        for name, value in values.items() if isinstance(values, dict) else [(section, values)]:
            options[name if options.get(name, value) == value else f"{section}.{name}"] = value
    return options


def _options(run: Run) -> dict[str, str]:
    """What tells its set from others, as text."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
        for name, value in (run.options or {}).items()
        if not _NO_DIFFERENCE.fullmatch(name)
    }


def _names(sets: Sequence[RunSet]) -> list[str]:
    """
    What tells sets without a name apart: their options where that is short, else their directories' names, with as
    many folders before them as it takes.
    """
    told = all(s.runs[0].told_by_options for s in sets)
    differing = differing_options(sets, versions=False) if told else {}
    table = pd.DataFrame(differing, range(len(sets))).map(lambda values: ", ".join(values) or "not recorded")
    texts = [text if option == "objective" else f"{option}=" + text for option, text in table.items()]
    names = [", ".join(row) for row in zip(*texts, strict=True)]
    if len(set(names)) == len(sets) and all(len(name) <= _MAX_NAME for name in names):
        return names
    stems = [(*s.runs[0].path.parts[:-1], s.runs[0].stem) for s in sets]
    by_depth = [["/".join(parts[-depth:]) for parts in stems] for depth in (1, 2, 3)]
    whole = next((names for names in by_depth if len({*names}) == len(sets)), by_depth[0])
    half = _MAX_NAME // 2  # runs differ at their ends
    short = [name if len(name) <= _MAX_NAME else f"{name[: half - 1]}…{name[-half:]}" for name in whole]
    return short if len({*short}) == len({*whole}) else whole
