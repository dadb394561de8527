"""
What a run left behind: its log, its evaluations and its options, read from its directory alone.

[`read_run`] knows the directories of `htpo train`, of `htpo demo`, of `htpo eval`, and those of plain TRL runs, which
hold a log and nothing else. No pickle is opened. Nothing here needs torch.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from ..data.files import rows_of
from ..evaluation.results import Results, ResultsError, check_ks, read, scores


#: A metric that is not logged, but made of two that are.
TOKENS_PER_SECOND = "tokens_per_second"
_LOOKED_FOR = (
    "trainer_state.json (there, or in checkpoint-*), metrics.jsonl of `htpo demo`, evaluation/step-*/*.jsonl, or "
    "*.jsonl of `htpo eval` with their .json"
)


class RunError(ValueError):
    """A directory that is no run, or a file of a run that cannot be read; the message names it."""


class Evaluation:
    """The samples of one benchmark at one step: `results`, and what can be said of them."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.samples: int = results.settings["sampling"]["num_samples"]  # per problem
        self.rows = [row for rows in results.problems.values() for row in rows]
        self.verdicts = Counter(row["verdict"] for row in self.rows)
        self.scores = cache(self._scores)

    def _scores(self, majority: bool = False) -> dict[str, dict[str, float]]:
        """Metric → problem → value, see [`~htpo_trl.evaluation.results.scores`]."""
        return scores(self.results, check_ks(self.samples), majority)

    def mean(self, key: str) -> float:
        """Mean of a field of the samples, `tokens` or `truncated`; NaN where it was not recorded."""
        values = [row[key] for row in self.rows if key in row]
        return sum(values) / len(values) if values else math.nan


class Run(NamedTuple):
    """A run, as far as its directory tells; what it does not tell is `None`, or absent."""

    path: Path
    source: str  # what kind of directory it is, for the reader
    seed: int | None
    options: dict[str, Any] | None
    versions: dict[str, str]
    log: list[dict[str, Any]]  # rows with `step`, as the trainer logged them
    evaluations: dict[str, dict[int | None, Evaluation]]  # benchmark → step, `None` for `htpo eval` → evaluation
    notes: list[str]  # what is missing, in sentences

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name or str(self.path)

    @property
    def stem(self) -> str:
        """The directory's name less its seed."""
        return _split_seed(self.path)[0]

    @property
    def steps(self) -> int | None:
        """The last step that was logged."""
        return max((row["step"] for row in self.log), default=None)

    def series(self, key: str) -> dict[int, float]:
        """
        Step → value of a metric, in order, where the log has it; NaN where it says that there is none. Of a step that
        was logged twice, by a run that was resumed, the later row counts.
        """
        if key == TOKENS_PER_SECOND:
            return self._tokens_per_second()
        return dict(sorted((row["step"], _number(row[key])) for row in self.log if key in row))

    def _tokens_per_second(self) -> dict[int, float]:
        """
        Tokens between two logged `num_tokens`, over the `step_time` of the steps between them. A logged step time is
        the mean of the steps since the last log.
        """
        seconds, last, total = {}, 0, 0.0
        for step, step_time in self.series("step_time").items():
            total += (step - last) * step_time
            seconds[step], last = total, step
        counts = {step: n for step, n in self.series("num_tokens").items() if step in seconds}
        return {
            step: (counts[step] - counts[before]) / (seconds[step] - seconds[before])
            for before, step in pairwise(counts)
            if counts[step] >= counts[before] and seconds[step] != seconds[before]
        }


def read_run(directory: str | Path) -> Run:
    """
    Read a run directory.

    Raises:
        RunError: if it is none, saying what was looked for, or if one of its files is broken, naming the file.
    """
    path = Path(directory).resolve()
    if not path.is_dir():
        raise RunError(f"{directory} is no directory.")
    if (path / "metrics.jsonl").exists():
        return _demo(path)
    notes: list[str] = []
    source, options, versions = "TRL trainer", None, {}
    if (path / "settings.json").exists():
        sections = _json(path / "settings.json")
        versions = sections.pop("versions", {})
        source, options = "htpo train", _flatten(sections)
    state, log = _newest_state(path)
    if state is None:
        notes.append("no trainer_state.json: no log, the run stopped before its first checkpoint")
    elif state.parent != path:
        notes.append(f"the log ends with {state.parent.name}, the run's newest checkpoint: the run did not finish")
    if any(name.startswith("htpo/") for row in log for name in row) and options is None:
        source = "HTPO trainer"
    evaluations = _evaluations(path, notes)
    if state is None and not evaluations and options is None:
        evaluations = {benchmark: {None: each} for benchmark, each in _result_files(path, notes).items()}
        if not evaluations:
            raise RunError(f"{directory} is no run directory. Looked for {_LOOKED_FOR}.")
        source, notes = "htpo eval", [note for note in notes if "trainer_state" not in note]
        options = _flatten({name: _sampling(each[None]) for name, each in evaluations.items()})
    return _run(path, source, options, versions, log, evaluations, notes)


def _run(path: Path, source: str, options: dict[str, Any] | None, *rest: Any) -> Run:
    named = _split_seed(path)[1]
    return Run(path, source, (options or {}).get("seed") if named is None else named, options, *rest)


def _split_seed(path: Path) -> tuple[str, int | None]:
    """`dapo-seed3`, `dapo_seed3`, `dapo-s3` and `dapo/seed3` are seed 3 of `dapo`."""
    match = re.search(r"(?:^|[-_])(?:seed|s)[-_=]?(\d+)$", path.name)
    if match is None:
        return path.name, None
    return path.name[: match.start()] or path.parent.name, int(match[1])


def _demo(path: Path) -> Run:
    log = _rows(path / "metrics.jsonl", _lines(path / "metrics.jsonl"))
    result_file = path / "result.json"
    if not result_file.exists():
        return _run(path, "htpo demo", None, {}, log, {}, ["no result.json: the demo did not reach its end"])
    result = _json(result_file)
    try:
        config, n = result["config"], result["samples"]
        # Each sample's verdict, from the counts: the order of the samples is not recorded, and does not matter.
        steps = {0: "correct_before", log[-1]["step"] if log else config["steps"]: "correct_after"}
        evaluations: dict[int | None, Evaluation] = {}
        for step, name in steps.items():
            verdicts = {
                problem: [{"verdict": "correct"}] * correct + [{"verdict": "wrong"}] * (n - correct)
                for problem, correct in zip(result["problems"], result[name], strict=True)
            }
            evaluations[step] = Evaluation(Results({"sampling": {"num_samples": n}}, verdicts))
        return _run(path, "htpo demo", config, result["versions"], log, {"countdown": evaluations}, [])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{result_file} is not what `htpo demo` writes: {error!r}.") from None


def _lines(path: Path) -> list[Any]:
    try:
        return [row for _, row in rows_of(path)]
    except ValueError as error:  # names file and line
        raise RunError(str(error)) from None


def _newest_state(path: Path) -> tuple[Path | None, list[dict[str, Any]]]:
    """The trainer's state that went furthest, the run's own rather than a checkpoint's, and its log."""
    newest: tuple[int, Path | None, list[dict[str, Any]]] = (-1, None, [])
    for file in [path / "trainer_state.json", *sorted(path.glob("checkpoint-*/trainer_state.json"))]:
        if not file.exists():
            continue
        state = _json(file)
        step, history = state.get("global_step"), state.get("log_history")
        if not isinstance(step, int) or not isinstance(history, list):
            raise RunError(f"{file} is no trainer's state: it has no global_step, or no log_history.")
        if step > newest[0]:
            newest = step, file, _rows(file, history)
    return newest[1:]


def _rows(file: Path, rows: Iterable[Any]) -> list[dict[str, Any]]:
    rows = list(rows)
    for i, row in enumerate(rows, 1):
        if not isinstance(row, dict) or type(row.get("step")) is not int:
            raise RunError(f"{file}: row {i} of the log has no step: {row!r:.60}.")
    return rows


def _evaluations(path: Path, notes: list[str]) -> dict[str, dict[int | None, Evaluation]]:
    steps = {
        int(match[1]): d for d in path.glob("evaluation/step-*") if (match := re.fullmatch(r"step-(\d+)", d.name))
    }
    found: dict[str, dict[int | None, Evaluation]] = {}
    for step, directory in sorted(steps.items()):
        for benchmark, evaluation in _result_files(directory, notes).items():
            found.setdefault(benchmark, {})[step] = evaluation
    return found


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


def _sampling(evaluation: Evaluation) -> dict[str, Any]:
    settings = evaluation.results.settings
    return {"model": settings.get("model"), "judge": settings.get("judge"), **settings["sampling"]}


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


def _number(value: Any) -> float:
    """What a line can be drawn through; NaN for the rest."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else math.nan
