"""The page of a fight: its tables with their pictures, then training, by the sections and styles of `htpo report`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..report.estimates import estimate
from ..report.runs import Run, RunSet
from ..report.writer import require_matplotlib, write_page
from ..utils import UsageError
from .tables import Outcome, markdown, read_outcome, sections


def write_compare_report(fight: str | Path, output_dir: str | Path | None = None) -> Path:
    """
    Write the report of a fight: `index.html`, self-contained, and its pictures as `*.png`.

    Args:
        fight (`str` or `Path`):
            Directory with `plan.json` and `results/*.json`; nothing else is read.
        output_dir (`str` or `Path`, *optional*):
            Where it is written, by default `report` in the fight's directory; an earlier report there is replaced.

    Returns:
        `Path`: of the page.

    Raises:
        UsageError: where a file is broken, or results are not of the plan.
        ModuleNotFoundError: if matplotlib is missing.
    """
    return _write(fight, output_dir)[1]


def tables_and_page(fight: str | Path, output_dir: str | Path | None = None) -> str:
    """Write the report as `write_compare_report` does; returns what a terminal shows: tables, and the page's path."""
    outcome, page = _write(fight, output_dir)
    return f"{markdown(outcome)}\n\nReport: {page}"


def _write(fight: str | Path, output_dir: str | Path | None) -> tuple[Outcome, Path]:
    """What a fight came to, as it was read, and the page that was written of it."""
    require_matplotlib()
    from ..report.sections import Report, missing_section, plot_section

    outcome = read_outcome(fight)
    arms = outcome.plan["arms"]
    report = Report(
        [RunSet(arm, [_run(each) for each in outcome.of("confirmation", arm)]) for arm in arms],
        Path(fight, "report") if output_dir is None else Path(output_dir),
    )
    for name in ("tuning", "differences", *(outline.name for outline in report.outlines)):  # of an earlier report
        (report.directory / f"{name}.png").unlink(missing_ok=True)
    pictures = {"tuning": _draw_tuning(outcome, report), "differences": _draw_differences(outcome, report)}
    content: list[Any] = [
        (outline, [*pictures.get(outline.name, []), *blocks]) for outline, blocks in sections(outcome)
    ]
    logged = {name for s in report.sets for run in s.runs for name in run.log}
    for outline in report.outlines:
        if metrics := [metric for metric in outline.metrics if metric.key in logged]:
            of_logged = outline._replace(metrics=metrics)
            content.append((of_logged, plot_section(report, of_logged)))
    (missing,) = (outline for outline in report.outlines if outline.name == "missing")
    content.append((missing, missing_section(report, missing)))
    page = report.directory / "index.html"
    write_page(page, f"Comparison: {', '.join(arms)}", content)
    return outcome, page


def _run(result: Mapping[str, Any]) -> Run:
    """A result as a run of which the log alone is known."""
    try:
        log = {
            name: pd.Series({int(step): value for step, value in each.items()})
            for name, each in (result.get("log") or {}).items()
        }
        log = {name: pd.to_numeric(each, errors="coerce").astype(float).sort_index() for name, each in log.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"{result['name']}: its log cannot be read ({error!r:.100}). Remove this result.") from None
    notes = [f"the run failed, and has no log: {result.get('error')}"] if result["status"] == "failed" else []
    log = {name: each.where(each.abs() < 1e300) for name, each in log.items()}
    return Run(Path(result["name"]), result["arm"], "htpo train", result["seed"], None, {}, log, {}, notes)


def _draw_tuning(outcome: Outcome, report: Any) -> list[Any]:
    """Scores on the validation problems over learning rates."""
    from ..report.pictures import Curve, Panel, draw_curves

    runs, metrics, *_ = outcome.judgement.tuning
    if runs.empty:
        return []
    panels = []
    for metric in metrics:
        curves = []
        for i, arm in enumerate(outcome.plan["arms"]):
            table = runs[runs.arm == arm].pivot(index="seed", columns="learning_rate", values=metric)
            if table.size:
                curves.append(Curve(i, estimate(table, "seeds", (0, 1))))
        panels.append(Panel(f"{metric} on the validation problems", metric, curves, bounds=(0, 1), over="rates"))
    figure = draw_curves(panels, [*outcome.plan["arms"]])
    return [report.picture("tuning", figure, "Scores on the validation problems over learning rates.")]


def _draw_differences(outcome: Outcome, report: Any) -> list[Any]:
    """Of each metric the difference of every arm to the first, with its interval."""
    from ..report.pictures import draw_differences

    table = pd.DataFrame(outcome.judgement.comparisons)
    if table.empty:
        return []
    table = table.rename(columns={"difference": "mean"}).set_index("arm")
    panels = dict(iter(table.groupby("metric", sort=False)))
    baseline = next(iter(outcome.plan["arms"]))
    figure = draw_differences(panels, f"difference to {baseline}")
    return [report.picture("differences", figure, f"Differences to {baseline} with their 95% intervals.")]
