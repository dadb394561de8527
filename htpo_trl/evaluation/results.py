"""
Result files of an evaluation, the metrics in them, with intervals, and the paired comparison of two.

A directory holds two files per benchmark: `<benchmark>.jsonl`, one sample a line, and `<benchmark>.json`, the settings
and in the end the summary. Nothing here needs torch.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ..data.files import rows_of
from ..output.reading import MAX_BYTES, parse_json, read_json
from ..output.writing import write_json
from ..utils import UsageError, markdown_table
from ..verifier import Verdict
from ..verifier.forms import bare_answer
from .statistics import majority_at_k, means_with_intervals, pass_at_k, sign_flip_test


class ResultsError(UsageError):
    """Result files that do not fit: this evaluation, or each other."""


# What settings are called in an error, where their name alone does not tell.
_TOLD = {"weights": "digest of the model's weights", "judge_source": "digest of the judge's source"}
_MEND = (
    "The file was edited or damaged, or two evaluations wrote to it at once. Delete that line and all after it, and "
    "evaluate again: what is missing is drawn again."
)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


# Columns of a result file that are kept in memory, and what they may hold.
_COLUMNS: dict[str, Callable[[Any], bool]] = {
    "problem": lambda value: isinstance(value, str),
    "sample": _is_count,
    "verdict": lambda value: isinstance(value, str) and value in {*Verdict},
    "answer": lambda value: value is None or isinstance(value, str),
    "tokens": _is_count,
    "truncated": lambda value: isinstance(value, bool),
}
_NEEDED = ("problem", "verdict", "tokens", "truncated")


class Results(NamedTuple):
    """A finished result file, see [`read`]."""

    settings: dict[str, Any]
    problems: dict[str, list[dict[str, Any]]]  #: id of the problem -> its samples


def resume(path: Path, settings: dict[str, Any], keys: Sequence[tuple[str, int]], batch_size: int) -> int:
    """
    Ready `path` for the samples `keys`, (problem, sample) in their order. Returns how many of them it holds already, a
    multiple of `batch_size` unless all are there; a line that was torn by a kill, and its batch, are cut off. Of other
    settings or problems it is an error that names the difference.
    """
    record = path.with_suffix(".json")
    if not record.exists() and not (path.exists() and path.stat().st_size):
        write_json(record, {"settings": settings})
    old, new = (
        s | {f"sampling.{k}": v for k, v in s.get("sampling", {}).items()} for s in (_settings(path), settings)
    )
    if differences := [
        f"{_TOLD.get(name, name)}={old.get(name)!r} there, {new.get(name)!r} now"
        for name in dict.fromkeys([*old, *new])
        if name != "sampling" and old.get(name) != new.get(name)
    ]:
        raise ResultsError(
            f"{path} was written with other settings: {'; '.join(differences)}. Evaluate with the same ones, or into "
            "another output_dir."
        )
    sizes: list[int] = []  # of the lines to keep; the lines are gigabytes, in the end
    with path.open("ab+") as file:
        file.seek(0)
        lines = iter(partial(file.readline, MAX_BYTES), b"")
        for line, (problem, sample) in zip(lines, keys, strict=False):
            if not line.endswith(b"\n") and len(line) < MAX_BYTES:  # torn
                break
            if (why := _mismatch(line, problem, sample)) is not None:
                raise ResultsError(f"{path}, line {len(sizes) + 1}: {why}. {_MEND}")
            sizes.append(len(line))
        if len(sizes) < len(keys):
            del sizes[len(sizes) // batch_size * batch_size :]
        file.truncate(sum(sizes))
    return len(sizes)


def _mismatch(line: bytes, problem: str, sample: int) -> str | None:
    """What a line of a result file is instead of this sample."""
    try:
        row = parse_json(str(line, "utf-8"))
        found = row["problem"], row["sample"]
    except (KeyError, TypeError, ValueError) as error:
        return f"no sample can be read there ({error!r})"
    return (
        None
        if found == (problem, sample)
        else f"not sample {sample} of problem {problem}, but {found[1]} of {found[0]}"
    )


def _settings(path: Path) -> dict[str, Any]:
    record = path.with_suffix(".json")
    if not os.path.isfile(record):
        raise ResultsError(f"{path} has no {record.name} beside it that tells its settings. Remove or rename it.")
    try:
        settings = read_json(record)["settings"]
        for number in (settings["n_problems"], settings["sampling"]["num_samples"]):
            if type(number) is not int or not 0 < number < 2**53:
                raise ValueError(f"{number!r:.60} samples or problems")
    except (KeyError, TypeError, ValueError) as error:
        raise ResultsError(
            f"{record} is damaged ({error!r}): it tells the settings of {path.name}. Remove both, and evaluate again."
        ) from None
    return settings


def read(path: str | Path) -> Results:
    """A finished result file, `<benchmark>.jsonl`, without the completions; errors name the file, and the line."""
    path = Path(path)
    settings = _settings(path)
    problems: dict[str, list[dict[str, Any]]] = {}
    seen = set()
    try:
        for place, row in rows_of(path):
            if missing := [name for name in _NEEDED if name not in row]:
                raise ResultsError(f"{place}: no {missing[0]!r}, only {', '.join(row):.200}.")
            row = {name: row[name] for name in _COLUMNS if name in row}  # completions are gigabytes, in the end
            if wrong := [name for name, value in row.items() if not _COLUMNS[name](value)]:
                raise ResultsError(f"{place}: {wrong[0]}={row[wrong[0]]!r:.60} is none that an evaluation writes.")
            key = row["problem"], row.get("sample")
            if key in seen and key[1] is not None:
                raise ResultsError(f"{place}: sample {key[1]} of problem {key[0]} is there twice.")
            seen.add(key)
            problems.setdefault(row["problem"], []).append(row)
    except ValueError as error:  # names file and line
        raise ResultsError(f"{error} {_MEND}") from None
    n = settings["sampling"]["num_samples"]
    expected = settings["n_problems"] * n
    if (found := sum(map(len, problems.values()))) != expected:
        raise ResultsError(f"{path} holds {found} of {expected} samples: run its evaluation again to complete it.")
    if uneven := [problem for problem, rows in problems.items() if len(rows) != n]:
        raise ResultsError(f"{path} holds {len(problems[uneven[0]])} samples of problem {uneven[0]}, not {n}. {_MEND}")
    return Results(settings, problems)


def check_ks(n: int, ks: Iterable[int] | None = None) -> list[int]:
    """`ks` after a check, by default the powers of two below n, and n."""
    if isinstance(ks, int):
        raise UsageError(f"ks={ks} must be a list of numbers: ks=[{ks}].")
    ks = sorted({n, *(2**i for i in range(n.bit_length()))} if ks is None else set(ks))
    if not ks or not 1 <= ks[0] <= ks[-1] <= n:
        raise UsageError(f"ks={ks} must lie in 1..num_samples={n}: raise num_samples, or ask for smaller ks.")
    return ks


def scores(results: Results, ks: Iterable[int], majority: bool = True) -> pd.DataFrame:
    """
    A row per problem, but for those whose gold answer cannot be parsed, and a column per metric: `mean`, and for each
    k above 1 `pass@k` and, if the judge tells answers, `maj@k`, which takes a millisecond per problem or more.
    """
    n = results.settings["sampling"]["num_samples"]
    ks = [k for k in ks if k > 1]
    votes = {
        problem: _votes(rows)
        for problem, rows in results.problems.items()
        if all(row["verdict"] != "unparsable_gold" for row in rows)
    }
    correct = [c for c, _ in votes.values()]
    columns: dict[str, Any] = {f"pass@{k}" if k > 1 else "mean": pass_at_k(n, correct, k) for k in [1, *ks]}
    if majority and all("answer" in row for rows in results.problems.values() for row in rows):
        columns |= {f"maj@{k}": [majority_at_k(n, c, rivals, k) for c, rivals in votes.values()] for k in ks}
    return pd.DataFrame(columns, index=[*votes])


def _votes(rows: list[dict[str, Any]]) -> tuple[int, list[int]]:
    """Number of samples with the correct answer, and with each wrong one. All correct answers are one."""
    wrong = Counter(row.get("answer") for row in rows if row["verdict"] != "correct")
    rivals = Counter[str]()
    for answer, n in wrong.items():
        if answer is not None:
            rivals[_canonical(answer)] += n
    return len(rows) - wrong.total(), sorted(rivals.values())


def _canonical(answer: str) -> str:
    """
    In the verifier's form, without spaces. Values are not compared: 1/2 and 0.5 divide their votes.
    """
    text = bare_answer(re.sub(r"\\(?:left|right)\s*\.", "", answer))  # delimiters that are none
    return re.sub(r"[\s$]", "", text).rstrip(".")


def summarize(results: Results, ks: Iterable[int] | None = None) -> dict[str, Any]:
    """
    The summary of a benchmark: `mean@n`, `pass@k` and `maj@k`, each with its 95% bootstrap interval over problems; the
    shares of samples that are truncated and that are unparsable, the mean number of tokens, and how many samples had
    which verdict, all over every problem.
    """
    n = results.settings["sampling"]["num_samples"]
    table = scores(results, check_ks(n, ks))
    rows = [row for samples in results.problems.values() for row in samples]
    intervals = means_with_intervals(table).tolist() if len(table) else []
    return {
        "problems": len(results.problems),
        "problems_without_gold": len(results.problems) - len(table),
        "metrics": {
            f"mean@{n}" if name == "mean" else name: {"mean": mean, "low": low, "high": high}
            for name, (mean, low, high) in zip(table, intervals, strict=False)
        },
        "truncated": sum(row["truncated"] for row in rows) / len(rows),
        "mean_tokens": sum(row["tokens"] for row in rows) / len(rows),
        "unparsable": sum(row["verdict"].startswith("unparsable") for row in rows) / len(rows),
        "verdicts": dict(sorted(Counter(row["verdict"] for row in rows).items())),
    }


def summary_table(summaries: Mapping[str, dict[str, Any]]) -> str:
    """Markdown, aligned so that it reads well in a terminal too: one row per benchmark and metric."""
    cells = [
        [name, metric, *(f"{value[part]:.3f}" for part in ("mean", "low", "high"))]
        for name, summary in summaries.items()
        for metric, value in summary["metrics"].items()
    ]
    notes = [
        f"{name}: {s['problems']} problems"
        + (f" ({s['problems_without_gold']} left out, gold unparsable)" if s["problems_without_gold"] else "")
        + f", {s['mean_tokens']:.0f} tokens per sample, {s['truncated']:.1%} truncated; "
        + ", ".join(f"{count} {verdict}" for verdict, count in s["verdicts"].items())
        for name, s in summaries.items()
    ]
    return "\n".join([markdown_table(["benchmark", "metric", "mean", "low", "high"], cells), "", *notes])


def compare(first: str | Path, second: str | Path, ks: Iterable[int] | None = None) -> list[dict[str, Any]]:
    """
    Compare two evaluations problem by problem.

    Args:
        first, second (`str` or `Path`):
            Two result files (`.jsonl`), or two directories of them with the same benchmarks.
        ks (`Iterable[int]`, *optional*):
            As in [`~htpo_trl.evaluation.evaluate`], up to the smaller number of samples.

    Returns:
        `list[dict]`: per benchmark and metric the means `first` and `second`, their `difference` (second minus first)
        with its 95% interval `low`, `high` (bootstrap over problems, both values of a problem together), and `p`, that
        of [`sign_flip_test`]. It is not corrected for the number of metrics: decide beforehand which one matters.

    Raises:
        ResultsError: if the two are not of the same benchmarks and problems, or not finished.
    """
    records = []
    for benchmark, files in _pairs(Path(first), Path(second)).items():
        results = [read(file) for file in files]
        one, two = (result.problems.keys() for result in results)
        if one != two:
            raise ResultsError(
                f"{files[0]} and {files[1]} are not of the same problems: {len(one - two)} are in the first, "
                f"{len(two - one)} in the second, {len(one & two)} in both."
            )
        n = {result.settings["sampling"]["num_samples"] for result in results}
        tables = [scores(result, check_ks(min(n), ks)) for result in results]
        before, after = tables[0].align(tables[1], join="inner")  # what both have and could judge
        found = means_with_intervals(after - before)
        records += (
            pd.DataFrame(found, before.columns, ["difference", "low", "high"])
            .assign(p=sign_flip_test(after - before), first=before.mean(), second=after.mean(), problems=len(before))
            .rename({"mean": f"mean@{min(n)}"} if len(n) == 1 else {})
            .rename_axis("metric")
            .reset_index()
            .assign(benchmark=benchmark)
            .to_dict("records")
        )
    return records


def _pairs(first: Path, second: Path) -> dict[str, tuple[Path, Path]]:
    if first.is_dir() != second.is_dir():
        raise ResultsError(f"{first} and {second}: one is a directory, the other a file. Name two of a kind.")
    if not first.is_dir():
        return {first.stem: (first, second)}
    names = [sorted(path.stem for path in directory.glob("*.jsonl")) for directory in (first, second)]
    if names[0] != names[1] or not names[0]:
        raise ResultsError(
            f"{first} holds the benchmarks {names[0]}, {second} {names[1]}. Compare single files, or directories with "
            "the same ones."
        )
    return {name: (first / f"{name}.jsonl", second / f"{name}.jsonl") for name in names[0]}


def comparison_table(records: list[dict[str, Any]]) -> str:
    """Markdown, aligned so that it reads well in a terminal too."""
    header = ["benchmark", "metric", "problems", "first", "second", "difference", "95% interval", "p"]
    row = (
        "{benchmark}|{metric}|{problems}|{first:.3f}|{second:.3f}|{difference:+.3f}|{low:+.3f} to {high:+.3f}|{p:.4f}"
    )
    return markdown_table(header, [row.format(**record).split("|") for record in records])
