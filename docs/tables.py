"""
The tables of published objectives in docs/objectives.md and README.md.

    python -m docs.tables    # write them again, after a preset or a formula was changed

They stand between `<!-- objectives: NAME -->` and `<!-- end -->`; a test compares them with the code.
"""

import re
from pathlib import Path

from htpo_trl.objective import PRESETS, Named
from htpo_trl.objective.description import needs, rule_of
from htpo_trl.objective.rules import parts_of

from .figure_data import family_of


ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "docs" / "objectives.md", ROOT / "README.md")


def of_family(family: str) -> str:
    """The objectives of a family, with what they ask for; below, what is to be known of them."""
    tables = [table for table in PRESETS.values() if family_of(table) == family]
    rows = ["| objective | rule | options | asks for | source |", "| --- | --- | --- | --- | --- |"]
    for table in tables:
        named = [part for row in table.rows for part in parts_of(row) if isinstance(part, Named)]
        options = {
            key: value for part in named for key, value in {**part.function.options, **dict(part.options)}.items()
        }
        written = ", ".join(f"`{key}={value:g}`" for key, value in options.items())
        settings = ", ".join(f"`{key}={value!r}`" for key, value in table.settings).replace("'", '"')
        cells = (f"`{table.name}`", rule_of(table), "; ".join(filter(None, (written, settings))))
        rows.append(_row(*cells, ", ".join(needs(table)), _linked(table.source)))
    notes = [f"- `{table.name}`: {table.note}" for table in tables if table.note]
    return "\n".join([*rows, *([""] if notes else []), *notes])


def of_all() -> str:
    """A line for each objective."""
    rows = [_row(f"`{table.name}`", rule_of(table), _linked(table.source)) for table in PRESETS.values()]
    return "\n".join(["| objective | rule | source |", "| --- | --- | --- |", *rows])


def filled(page: str) -> str:
    """A page with its tables as they are now."""

    def block(match: re.Match) -> str:
        content = of_all() if match[1] == "all" else of_family(match[1])
        return f"<!-- objectives: {match[1]} -->\n\n{content}\n\n<!-- end -->"

    return re.sub(r"<!-- objectives: (\w+) -->\n.*?<!-- end -->", block, page, flags=re.DOTALL)


def _row(*cells: str) -> str:
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |".replace("|  |", "| |").replace("|  |", "| |")


def _linked(source: str) -> str:
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[\1](https://arxiv.org/abs/\1)", source)


def main() -> None:
    for path in PAGES:
        path.write_text(filled(path.read_text()))


if __name__ == "__main__":
    main()
