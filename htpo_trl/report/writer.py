"""The report as a whole: reads the runs, has every section of `panels.yaml` made, writes `page.html.jinja` of them."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..output.writing import write_atomically
from ..utils import MissingPackageError
from .runs import read_sets


if TYPE_CHECKING:
    from .estimates import Outline
    from .sections import Block  # with matplotlib


def require_matplotlib() -> None:
    """Raise with the mend where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingPackageError("Reports need matplotlib: pip install 'htpo_trl[report]'.")


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
    from . import sections

    report = sections.Report(read_sets(runs), Path(output_dir))
    makers = [getattr(sections, f"{outline.name}_section", sections.plot_section) for outline in report.outlines]
    contents = [(outline, make(report, outline)) for outline, make in zip(report.outlines, makers, strict=True)]
    page = report.directory / "index.html"
    write_page(page, f"Report: {', '.join(s.name for s in report.sets)}", contents)
    return page


def write_page(page: Path, title: str, contents: "Sequence[tuple[Outline, Sequence[Block]]]") -> None:
    """Write `page.html.jinja` of sections, those without content left out."""
    files = FileSystemLoader(Path(__file__).parent)
    template = Environment(loader=files, autoescape=True, undefined=StrictUndefined).get_template("page.html.jinja")
    write_atomically(page, template.render(title=title, sections=contents))
