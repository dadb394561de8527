"""Runs that differ by their seed alone form a set: which runs are of one, what it is called, how sets differ."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from .runs import Evaluation, Run, RunError, read_run


# Seeds, where output goes, and what has no part in training: runs that differ in these alone are of one set.
_NO_DIFFERENCE = re.compile(
    r"(.*\.)?(seed|data_seed|output_dir|run_name|logging_dir|project|report_to|resume_from_checkpoint|threads|local_rank"
    r"|disable_tqdm|push_to_hub|log_completions_hub_repo|(hub|trackio)_.*)"
)
_MAX_NAME = 40


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

    def series(self, key: str) -> pd.DataFrame:
        """Values of a metric, a row per step that any run logged it at, a column per run."""
        return pd.concat([run.series(key) for run in self.runs], axis=1, keys=range(len(self.runs))).sort_index()

    def evaluations(self, benchmark: str) -> dict[int | None, list[Evaluation]]:
        """Step → evaluations, one per run that has the benchmark; of the steps at which they all evaluated it."""
        found = [run.evaluations[benchmark] for run in self.runs if benchmark in run.evaluations]
        steps = set.intersection(*map(set, found)) if found else set()
        return {step: [each[step] for each in found] for step in sorted(steps, key=lambda s: (s is not None, s))}


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
        if not separator or Path(text).is_dir():
            name, directory = "", text
        run = read_run(directory)
        members = sets.setdefault(name or _identity(run), RunSet(name, [])).runs
        if any(run.path == member.path for member in members):
            raise RunError(f"{directory} is named twice.")
        members.append(run)
    found = iter(_names([s for s in sets.values() if not s.name]))
    names = pd.Series([s.name or next(found) for s in sets.values()])
    names += names.groupby(names).cumcount().map(lambda earlier: f" ({earlier + 1})" if earlier else "")
    return [RunSet(name, s.runs) for name, s in zip(names, sets.values(), strict=True)]


def differing_options(sets: Sequence[RunSet], versions: bool = True) -> dict[str, list[list[str]]]:
    """
    Option or version → for each set the values that its runs have. Only those that are not the same in all runs which
    recorded them: what one kind of run alone records is no difference.
    """
    rows = [
        _options(run) | {f"version of {name}": version for name, version in run.versions.items() if versions}
        for _, runs in sets
        for run in runs
    ]
    table = pd.DataFrame(rows, [i for i, s in enumerate(sets) for _ in s.runs])
    differing = sorted(name for name, values in table.items() if values.nunique() > 1)
    return {name: [sorted(set(table.loc[[i], name].dropna())) for i in range(len(sets))] for name in differing}


def _options(run: Run) -> dict[str, str]:
    """What tells its set from others, as text."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
        for name, value in (run.options or {}).items()
        if not _NO_DIFFERENCE.fullmatch(name)
    }


def _identity(run: Run) -> tuple[Any, ...]:
    told = run.told_by_options
    options = {name: value for name, value in _options(run).items() if told or name != "model"}
    return run.source, None if told else run.stem, frozenset(options.items())


def _names(sets: Sequence[RunSet]) -> list[str]:
    """What tells sets without a name apart: their options where that is short, else their directories' names."""
    told = all(s.runs[0].told_by_options for s in sets)
    differing = differing_options(sets, versions=False) if told else {}
    names = []
    for i in range(len(sets)):
        values = {option: ", ".join(row[i]) or "not recorded" for option, row in differing.items()}
        names.append(", ".join(text if o == "objective" else f"{o}={text}" for o, text in values.items()))
    if len(set(names)) < len(names) or not all(0 < len(name) <= _MAX_NAME for name in names):
        names = [s.runs[0].stem for s in sets]
    return names
