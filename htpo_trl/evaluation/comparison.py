"""Paired comparison of two evaluations, from their result files."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..utils import markdown_table
from .results import ResultsError, budgets, read, scores
from .statistics import means_with_intervals, sign_flip_test


Scores = dict[str, dict[str, float]]  # metric -> problem -> value


def compare(first: str | Path, second: str | Path, ks: Iterable[int] | None = None) -> list[dict[str, Any]]:
    """
    Compare two evaluations problem by problem.

    Args:
        first, second (`str` or `Path`):
            Two result files (`.jsonl`), or two directories of them with the same benchmarks. The differences are
            second minus first.
        ks (`Iterable[int]`, *optional*):
            Sampling budgets, by default the powers of two up to the smaller number of samples, and that.

    Returns:
        `list[dict]`: per benchmark and metric the means `first` and `second`, their `difference` with its 95%
        interval `low`, `high` (bootstrap over problems, both values of a problem together), and `p`, that of
        [`sign_flip_test`]. It is not corrected for the number of metrics: decide beforehand which
        one matters.

    Raises:
        ResultsError: if the two are not of the same benchmarks and problems, or not finished.
    """
    records = []
    for benchmark, files in _pairs(Path(first), Path(second)).items():
        results = [read(file) for file in files]
        problems = [result.problems.keys() for result in results]
        if problems[0] != problems[1]:
            raise ResultsError(
                f"{files[0]} and {files[1]} are not of the same problems: {len(problems[0] - problems[1])} are in the "
                f"first, {len(problems[1] - problems[0])} in the second, {len(problems[0] & problems[1])} in both."
            )
        n = [result.settings["sampling"]["num_samples"] for result in results]
        one, two = (scores(result, budgets(min(n), ks)) for result in results)
        names, before, after = aligned(one, two)
        intervals = means_with_intervals(after - before)
        for i, (name, interval, p) in enumerate(zip(names, intervals, sign_flip_test(after - before), strict=True)):
            records.append(
                {
                    "benchmark": benchmark,
                    "metric": f"mean@{n[0]}" if name == "mean" and n[0] == n[1] else name,
                    "problems": len(before),
                    "first": float(before[:, i].mean()),
                    "second": float(after[:, i].mean()),
                    **dict(zip(("difference", "low", "high"), interval, strict=True)),
                    "p": float(p),
                }
            )
    return records


def aligned(one: Scores, two: Scores) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """
    Two [`~htpo_trl.evaluation.results.scores`] side by side: the metrics that both have, (M,), and their values,
    (P, M) each, for the problems that both could judge.
    """
    names = [name for name in one if name in two]
    judged = [problem for problem in one["mean"] if problem in two["mean"]]
    before, after = (np.array([[s[name][p] for name in names] for p in judged]) for s in (one, two))
    return names, before.reshape(-1, len(names)), after.reshape(-1, len(names))


def _pairs(first: Path, second: Path) -> dict[str, tuple[Path, Path]]:
    if first.is_dir() != second.is_dir():
        raise ResultsError(f"{first} and {second}: one is a directory, the other a file. Name two of a kind.")
    if not first.is_dir():
        return {first.stem: (first, second)}
    names = [{path.stem for path in directory.glob("*.jsonl")} for directory in (first, second)]
    if names[0] != names[1] or not names[0]:
        raise ResultsError(
            f"{first} holds the benchmarks {sorted(names[0])}, {second} {sorted(names[1])}. Compare single files, or "
            "directories with the same ones."
        )
    return {name: (first / f"{name}.jsonl", second / f"{name}.jsonl") for name in sorted(names[0])}


def comparison_table(records: list[dict[str, Any]]) -> str:
    """Markdown, aligned so that it reads well in a terminal too."""
    header = ["benchmark", "metric", "problems", "first", "second", "difference", "95% interval", "p"]
    rows = [
        [
            r["benchmark"],
            r["metric"],
            str(r["problems"]),
            f"{r['first']:.3f}",
            f"{r['second']:.3f}",
            f"{r['difference']:+.3f}",
            f"{r['low']:+.3f} to {r['high']:+.3f}",
            f"{r['p']:.4f}",
        ]
        for r in records
    ]
    return markdown_table(header, rows)
