"""
What a run left behind, read from its directory alone: that of `htpo train` and `htpo demo`, of `htpo eval`, or of a
plain TRL run, which holds a log and nothing else. No pickle is opened. Nothing here needs torch.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..evaluation.results import Results, ResultsError, check_ks, read, scores
from ..utils import UsageError


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
    log: dict[str, pd.Series]  # metric → value by step, in order; NaN where the log says that there is none
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


def read_run(directory: str | Path) -> Run:
    """Read a run directory; a [`RunError`] says what was looked for in one that is none, or which file is broken."""
    path = Path(directory).resolve()
    if not path.is_dir():
        raise RunError(f"{directory} is no directory.")
    source, options, versions = "TRL trainer", None, {}
    if (settings := path / "settings.json").exists():
        sections = _json(settings)
        if not isinstance(versions := sections.pop("versions", {}), dict):
            raise RunError(f"{settings}: expected versions in braces, found {versions!r:.60}.")
        source, options = "htpo train", _flatten(sections)
    log, notes = _newest_log(path)
    if options is None and any(name.startswith("htpo/") for name in log or ()):
        source = "HTPO trainer"
    evaluations: dict[str, dict[int | None, Evaluation]] = {}
    steps = {int(d.name[5:]): d for d in path.glob("evaluation/step-*") if d.name[5:].isdecimal()}
    for step in sorted(steps):
        for benchmark, evaluation in _result_files(steps[step], notes).items():
            evaluations.setdefault(benchmark, {})[step] = evaluation
    if log is None and not evaluations and options is None:
        source, notes = "htpo eval", []
        found = _result_files(path, notes)
        if not found:
            raise RunError(
                f"{directory} is no run directory. Looked for trainer_state.json (there, or in checkpoint-*), "
                "evaluation/step-*/*.jsonl, or *.jsonl of `htpo eval` with their .json."
            )
        evaluations = {benchmark: {None: each} for benchmark, each in found.items()}
        settings_of = {benchmark: each.results.settings for benchmark, each in found.items()}
        told = {name: {k: s.get(k) for k in ("model", "judge")} | s["sampling"] for name, s in settings_of.items()}
        options = _flatten(told)
    stem, seed = path.name, (options or {}).get("seed")
    if match := re.search(r"(?:^|[-_])(?:seed|s)[-_=]?(\d+)$", stem):  # dapo-seed3, dapo_s3, dapo/seed3
        stem, seed = stem[: match.start()] or path.parent.name, int(match[1])
    seed, versions = seed if isinstance(seed, int) else None, {name: str(each) for name, each in versions.items()}
    return Run(path, stem, source, seed, options, versions, log or {}, evaluations, notes)


def _newest_log(path: Path) -> tuple[dict[str, pd.Series] | None, list[str]]:
    """The log of the trainer's state that went furthest, the run's own rather than a checkpoint's; what it lacks."""
    files = [*path.glob("trainer_state.json"), *sorted(path.glob("checkpoint-*/trainer_state.json"))]
    if not files:
        return None, ["no trainer_state.json, hence no log: the run saved neither a checkpoint nor its last state"]
    file, state = max(((file, _state(file)) for file in files), key=lambda found: found[1]["global_step"])
    log = _log(file, state["log_history"])
    if file.parent == path or state["global_step"] == state.get("max_steps"):
        return log, []
    return log, [f"the log ends with {file.parent.name}, the run's newest checkpoint: the run did not finish"]


def _state(file: Path) -> dict[str, Any]:
    state = _json(file)
    if not isinstance(state.get("global_step"), int) or not isinstance(state.get("log_history"), list):
        raise RunError(f"{file} is no trainer's state: it has no global_step, or no log_history.")
    return state


def _log(file: Path, rows: list[Any]) -> dict[str, pd.Series]:
    """Of a step that was logged twice, by a run that was resumed, the later row counts."""
    values: dict[str, dict[int, float]] = {}
    for i, row in enumerate(rows, 1):
        if not isinstance(row, dict) or type(row.get("step")) is not int:
            raise RunError(f"{file}: row {i} of the log has no step: {row!r:.60}.")
        for key, value in row.items():
            is_number = type(value) in (int, float) and abs(value) < 1e300  # a line can be drawn through it
            values.setdefault(key, {})[row["step"]] = float(value) if is_number else math.nan
    log = {key: pd.Series(each).sort_index() for key, each in values.items()}
    if {"num_tokens", "step_time"} <= log.keys():
        step_time = log["step_time"].dropna()  # the mean of the steps since the last log
        seconds = (step_time * np.diff(step_time.index, prepend=0)).cumsum()
        passed = pd.DataFrame({"tokens": log["num_tokens"], "seconds": seconds}).dropna().diff()
        passed = passed[(passed.tokens >= 0) & (passed.seconds != 0)]
        log["tokens_per_second"] = passed.tokens / passed.seconds
    return log


def _result_files(directory: Path, notes: list[str]) -> dict[str, Evaluation]:
    found = {}
    for file in sorted(directory.glob("*.jsonl")):
        if not file.with_suffix(".json").exists():  # written last
            notes.append(f"{file.name} in {directory.name} is unfinished: there is no {file.stem}.json")
            continue
        try:
            found[file.stem] = Evaluation(read(file))
        except ResultsError as error:
            raise RunError(str(error)) from None
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{file}, or the .json beside it, is broken: {error!r}.") from None
    return found


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:  # of JSON or of UTF-8
        raise RunError(f"{file}: broken JSON, {error}.") from None
    if not isinstance(content, dict):
        raise RunError(f"{file}: expected an object in braces, found {content!r:.60}.")
    return content


def _flatten(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Options by their names alone; where two sections disagree on one, as `section.name`."""
    options: dict[str, Any] = {}
    for section, values in sections.items():
        for name, value in values.items() if isinstance(values, dict) else [(section, values)]:
            options[name if options.get(name, value) == value else f"{section}.{name}"] = value
    return options
