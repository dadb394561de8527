"""Objectives of the fights that are none of the published ones."""

import dataclasses

from htpo_trl.objective import PRESETS, Detach, Table


def _tenfold(table: Table) -> Table:
    """The table with ten times the detach shares, which then act in responses a tenth as long."""
    rows = (dataclasses.replace(row, share=10 * row.share) if isinstance(row, Detach) else row for row in table.rows)
    return dataclasses.replace(table, name="htpo-tenfold", rows=tuple(rows))


#: HTPO that detaches 6% and 20% of the tokens of its two groups, instead of 0.6% and 2%.
HTPO_TENFOLD = _tenfold(PRESETS["htpo"])
