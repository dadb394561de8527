"""Paired comparison of two evaluations, from their result files."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ..utils import markdown_table
from .results import ResultsError, check_ks, read, scores
from .statistics import means_with_intervals, sign_flip_test


_CELLS = {
    **{name: f"{{{name}}}" for name in ("benchmark", "metric", "problems")},
    **{name: f"{{{name}:.3f}}" for name in ("first", "second")},
    "difference": "{difference:+.3f}",
    "95% interval": "{low:+.3f} to {high:+.3f}",
    "p": "{p:.4f}",
}


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
    return markdown_table([*_CELLS], [[cell.format(**record) for cell in _CELLS.values()] for record in records])
