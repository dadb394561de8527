"""Runs that differ by their seed alone form a set: which runs are of one, what it is called, how sets differ."""

import json
import re
from collections import Counter
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

    def last_evaluations(self, benchmark: str) -> list[Evaluation]:
        """Those of the last of these steps, if there is one."""
        return next(reversed(self.evaluations(benchmark).values()), [])


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
    names = iter(_names([s for s in sets.values() if not s.name]))
    seen: Counter[str] = Counter()
    named = []
    for s in sets.values():
        name = s.name or next(names)
        seen[name] += 1
        named.append(RunSet(name if seen[name] == 1 else f"{name} ({seen[name]})", s.runs))
    return named


def differing_options(sets: Sequence[RunSet], versions: bool = True) -> dict[str, list[list[str]]]:
    """
    Option or version → for each set the values that its runs have. Only those that are not the same in all runs which
    recorded them: what one kind of run alone records is no difference.
    """
    columns = [
        [_options(run) | ({f"version of {k}": v for k, v in run.versions.items()} if versions else {}) for run in runs]
        for _, runs in sets
    ]
    rows = {}
    for name in sorted({name for column in columns for options in column for name in options}):
        row = [sorted({_text(options[name]) for options in column if name in options}) for column in columns]
        if len({value for values in row for value in values}) > 1:
            rows[name] = row
    return rows


def _options(run: Run) -> dict[str, Any]:
    return {name: value for name, value in (run.options or {}).items() if not _NO_DIFFERENCE.fullmatch(name)}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _identity(run: Run) -> tuple[str, ...]:
    if run.options is None:
        return run.source, run.stem
    options = _options(run)
    if run.source != "htpo eval":
        return run.source, _text(options)
    # Its model is a path, that of a seed or of a checkpoint: whose seeds belong together, only the directory tells.
    return run.source, run.stem, _text({name: value for name, value in options.items() if name != "model"})


def _names(sets: Sequence[RunSet]) -> list[str]:
    """What tells sets without a name apart: their options where that is short, else their directories' names."""
    told = all(s.runs[0].options is not None and s.runs[0].source != "htpo eval" for s in sets)
    differing = differing_options(sets, versions=False) if told else {}
    names = []
    for i in range(len(sets)):
        values = {option: ", ".join(row[i]) or "not recorded" for option, row in differing.items()}
        names.append(", ".join(text if o == "objective" else f"{o}={text}" for o, text in values.items()))
    if len(set(names)) < len(names) or not all(0 < len(name) <= _MAX_NAME for name in names):
        names = [s.runs[0].stem for s in sets]
    return names
