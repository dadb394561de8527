"""
The same rows as `files.py` reads, by Arrow's readers: whole blocks at once, memory for one of them. Where they are not
plainly right this ends in [`IrregularError`]: `files.py`, slow and strict, says in which line, or reads all the same.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, json, parquet

from ..utils import UsageError
from .files import MAX_LINE, rows_of


#: Bytes of a file, and rows of a table, that are read at once.
BLOCK, ROWS = 2 << 20, 1 << 14
# What the csv module refuses beyond this many characters.
_MAX_FIELD = 131_072


class IrregularError(Exception):
    """Not for the fast way."""


def tables_of(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """
    The columns of a file, all of them by default, as record batches. Where a line is not as `rows_of` would read it,
    [`IrregularError`] is raised, by the last batch at the latest.
    """
    try:
        yield from _READERS[path.suffix](path, columns)
    except (pa.ArrowException, UnicodeError, OverflowError, OSError, UsageError) as error:
        raise IrregularError from error


def _jsonl(path: Path, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    schema, ignores = _schema(path, columns), columns is not None
    # Types are given: Arrow would take texts for dates, and dies of some lines whose types it must find.
    options = json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore" if ignores else "error")
    for block in _blocks(path):
        lines = _objects(block)
        block.isascii() or str(block, "utf-8")
        table = json.read_json(pa.py_buffer(block), parse_options=options)
        if table.num_rows != lines:
            raise IrregularError
        yield from table.select(schema.names).to_batches()


def _schema(path: Path, columns: Sequence[str] | None) -> pa.Schema:
    """The types of the columns in the first rows."""
    rows = [row for _, (_, row) in zip(range(100), rows_of(path), strict=False)]
    names = columns if columns is not None else [*dict.fromkeys(name for row in rows for name in row)]
    if not rows or not names or not all(name in rows[0] for name in names):
        raise IrregularError
    return pa.schema([(name, pa.array([row.get(name) for row in rows]).type) for name in names])


def _blocks(path: Path) -> Iterator[bytes]:
    """Whole lines of a file, without the mark of UTF-8 before the first."""
    with path.open("rb") as file:
        rest = file.read(3).removeprefix(b"\xef\xbb\xbf")
        while block := file.read(BLOCK):
            end = block.rfind(b"\n") + 1
            if not end and len(rest) + len(block) > MAX_LINE:
                raise IrregularError
            if end:
                yield rest + block[:end]
                rest = block[end:]
            else:
                rest += block
        if rest:
            yield rest + b"\n"


def _objects(block: bytes) -> int:
    """
    The number of lines, each of which begins and ends with a brace: then each holds whole objects, and one of them
    where there are as many objects as lines.
    """
    text = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    if np.all(text[ends - 1] == ord("}")) and np.all(text[np.append(0, ends[:-1] + 1)] == ord("{")):
        return len(ends)
    found = [line for line in map(bytes.strip, block.split(b"\n")) if line]
    if all(line.startswith(b"{") and line.endswith(b"}") for line in found):
        return len(found)
    raise IrregularError


def _csv(path: Path, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    first = next(rows_of(path), None)  # checks the header
    if first is None or not {*(columns or [])} <= first[1].keys():
        raise IrregularError
    names = [*(columns or first[1])]
    converted = csv.ConvertOptions(
        column_types={name: pa.string() for name in names}, include_columns=names, null_values=[]
    )
    is_inside, text, header = False, b"", None
    for block in _blocks(path):
        is_inside = _check_quotes(block, is_inside)
        text += block
        if not is_inside:
            table = csv.read_csv(
                pa.py_buffer(text),
                read_options=csv.ReadOptions(column_names=header),
                parse_options=csv.ParseOptions(newlines_in_values=b'"' in text),
                convert_options=converted,
            )
            if any(_longest(column) > _MAX_FIELD for column in table.columns):
                raise IrregularError
            yield from table.to_batches()
            text, header = b"", [*first[1]]
    if is_inside:
        raise IrregularError


def _longest(column: pa.ChunkedArray) -> int:
    return pc.max(pc.binary_length(column)).as_py() or 0


def _check_quotes(block: bytes, is_inside: bool) -> bool:
    """
    Whether a quoted field is open after these lines, where it `is_inside` one before them. Quotes must open at a
    field's begin, be doubled within, and close at its end: Arrow would take others for text.
    """
    text = np.frombuffer(block, np.uint8)
    returns = np.flatnonzero(text == ord("\r")) if b"\r" in block else np.array([], int)
    is_marked = not block.isascii() and b"\n\xef\xbb\xbf" in block
    if is_marked or b"\0" in block or not np.all(text[returns + 1] == ord("\n")):  # a block ends with a line's end
        raise IrregularError
    quotes = np.flatnonzero(text == ord('"'))
    if not len(quotes):
        return is_inside
    gaps = np.flatnonzero(np.diff(quotes) > 1)
    begins, ends = np.append(0, gaps + 1), np.append(gaps, len(quotes) - 1)  # of runs of quotes
    marks = np.zeros(256, bool)
    marks[[*b",\r\n"]] = True
    left = marks[text[quotes[begins] - 1]] | (quotes[begins] == 0)
    right = marks[text[quotes[ends] + 1]]
    is_open = (begins + is_inside) % 2 == 1  # as many quotes before it as opened a field, closed one, or are doubled
    is_open_after = (ends + 1 + is_inside) % 2 == 1
    if not np.all((is_open | left) & (is_open_after | right)):
        raise IrregularError
    return bool(is_open_after[-1])


def _parquet(path: Path, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    file = parquet.ParquetFile(path)
    if not {*(columns or [])} <= {*file.schema_arrow.names}:
        raise IrregularError
    yield from file.iter_batches(ROWS, columns=columns)


_READERS = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
