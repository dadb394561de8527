"""
Reports: one self-contained page and its pictures, from run directories alone (`htpo report RUN ...`).

Reading is in `runs.py` and `sets.py`, statistics in `estimates.py`, drawing in `figures.py`, HTML in `page.py`; the
sections of the page are in `training.py` and `evaluation.py`, and are put together here.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from .context import MISSING, Context, interval
from .estimates import FINAL_SHARE, MAX_POINTS, final_values, over_seeds
from .evaluation import budgets, differences, evaluations, gains, verdicts
from .figures import require_matplotlib
from .page import Block, Section, Table, render
from .panels import CLIPPING, ENTROPY, FINAL, LEARNING, LENGTHS, RULES, SAMPLING, THROUGHPUT, training_verdicts
from .runs import RunError
from .sets import differing_options, read_sets
from .training import curves, shares


__all__ = ["RunError", "require_matplotlib", "write_report"]

READING = (
    "Lines are means over the runs of a set; bands and error bars are 95% intervals: over seeds (Student's t) where a "
    "set has several, in evaluations too. A single run has no interval in training, and in an evaluation the "
    f"bootstrap's over problems. Where a run has more than {MAX_POINTS} steps, a point is the mean of several, as "
    f"the axis says. A final value is the mean of the last {FINAL_SHARE:.0%} of a run's logged values. Gaps are steps "
    "without a value; a step that only one of several seeds logged is a gap too."
)


def write_report(runs: Sequence[str | Path], output_dir: str | Path = "report") -> Path:
    """
    Write the report of runs: `index.html`, self-contained, and its pictures as `*.png`.

    Args:
        runs (`Sequence[str | Path]`):
            Run directories of `htpo train`, of `htpo demo`, of `htpo eval` or of plain TRL, or `"NAME=DIR"` to name
            the set of a run. Runs whose options agree but for the seed and where output goes form a set. Differences
            are to the first set.
        output_dir (`str` or `Path`, *optional*, defaults to `"report"`):
            Where it is written; an earlier report there is replaced.

    Returns:
        `Path`: of the page.

    Raises:
        RunError: if a directory is no run, or one of its files is broken.
        ModuleNotFoundError: if matplotlib is missing.

    Example:

    ```python
    from htpo_trl.report import write_report

    write_report(["runs/dapo-seed0", "runs/htpo-seed0", "mine=runs/other"])
    ```
    """
    require_matplotlib()
    context = Context(read_sets(runs), Path(output_dir))
    sections = [
        _runs(context),
        _summary(context),
        curves(context, LEARNING),
        evaluations(context),
        budgets(context),
        *([differences(context)] if len(context.sets) > 1 else []),
        curves(context, ENTROPY),
        shares(context),
        curves(context, RULES),
        curves(context, CLIPPING),
        curves(context, LENGTHS),
        curves(context, SAMPLING),
        curves(context, training_verdicts(context.sets)),
        verdicts(context),
        curves(context, THROUGHPUT),
        _options(context),
    ]
    sections.append(_missing(context))
    page = context.directory / "index.html"
    page.write_text(render(f"Report: {', '.join(s.name for s in context.sets)}", sections), encoding="utf-8")
    return page


def _runs(context: Context) -> Section:
    header = ("set", "run", "seed", "kind", "last step", "directory")
    rows = []
    for s in context.sets:
        for run in s.runs:
            cells = (s.name, run.name, run.seed, run.source, run.steps, os.path.relpath(run.path))
            rows.append([MISSING if cell is None else str(cell) for cell in cells])
    return Section("runs", "Runs", [Table(header, rows, len(header)), READING, f"Report of htpo_trl {__version__}."])


def _summary(context: Context) -> Section:
    rows = []
    for metric in FINAL:
        finals = [list(final_values(runs, metric.key).values()) for _, runs in context.sets]
        estimates = [over_seeds([metric.scale * value for value in values]) if values else None for values in finals]
        rows.append((metric.label, *(interval(e, metric.decimals) if e else MISSING for e in estimates)))
    content: list[Block] = ["Final values of training:", Table(("metric", *context.labels), rows)]
    if all(set(cells) == {MISSING} for _, *cells in rows):
        content = ["Final values of training: not logged."]
    evaluated = gains(context)
    if evaluated.rows:
        content += ["First and last evaluation, and the gain, paired by problem:", evaluated]
    return Section("summary", "Summary", content)


def _options(context: Context) -> Section:
    rows = [
        (name, *(" | ".join(values) or "not recorded" for values in row))
        for name, row in differing_options(context.sets).items()
    ]
    text = "Options and versions that differ between runs which recorded them, but for seeds and where output goes."
    table = Table(("option", *(s.name for s in context.sets)), rows, 1 + len(context.sets))
    versions = set.intersection(*(set(run.versions.items()) for s in context.sets for run in s.runs))
    notes = [f"Versions in all runs: {', '.join(f'{k} {v}' for k, v in sorted(versions))}."] if versions else []
    unknown = [s.name for s in context.sets if any(run.options is None for run in s.runs)]
    notes += [f"Runs without recorded options: {', '.join(unknown)}."] if unknown else []
    return Section("options", "Configuration differences", [text, table if rows else "None.", *notes])


def _missing(context: Context) -> Section:
    """The last one: the others have said what they lack."""
    rows = [(run.name, s.name, note) for s in context.sets for run in s.runs for note in run.notes] + context.missing
    same = "seeds that are not known to differ: the intervals take the runs for independent all the same"
    rows += [("seeds", s.name, same) for s in context.sets if len(s.runs) > 1 and not s.has_seeds]
    text = "What the pictures and tables lack, and why, as far as the runs tell. Nothing is filled in."
    return Section("missing", "Missing data", [text, Table(("where", "set", "what"), rows, 3) if rows else "None."])
