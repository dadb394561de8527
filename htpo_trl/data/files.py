"""The rows of local files, each with its place in the file, so that an error can say where it is."""

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..utils import MissingFileError, UsageError


#: Place of a row, for errors, and its columns.
Row = tuple[str, dict[str, Any]]
#: Bytes of a line of JSON, or of CSV; a longer one is no row of text, and would take all memory once it is read.
MAX_LINE = 32 << 20
_A_LINE = ' Write each row as an object on a line of its own, {"problem": ..., "solution": ...}.'


def rows_of(path: str | Path) -> Iterator[Row]:
    """Place (`train.jsonl, line 3`; counted from 1, rows in parquet) and columns of every row of a file in UTF-8."""
    path = Path(path)
    if path.suffix not in READERS:
        raise UsageError(f"{path}: expected a file of {', '.join(READERS)}; convert it.")
    if not os.path.isfile(path):
        raise MissingFileError(f"There is no file {str(path)!r} in {Path.cwd()}.")
    return READERS[path.suffix](path)


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Place and content of every line."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise UsageError(
                    f"{path}, line {number}: longer than {MAX_LINE >> 20} MiB. Give each row a line of its own, and "
                    "keep pictures and other large values in .parquet."
                )
            yield f"{path}, line {number}", line


def _jsonl(path: Path) -> Iterator[Row]:
    for place, line in _lines(path):
        if line.strip():
            try:
                row = json.loads(str(line, "utf-8-sig"), object_pairs_hook=_of_pairs)
            except ValueError as error:  # of JSON or of UTF-8
                raise UsageError(f"{place}: broken JSON, {error}.{_mend(error)}") from None
            except RecursionError:
                raise UsageError(
                    f"{place}: nested too deep to be read. Write it without most of its brackets."
                ) from None
            if not isinstance(row, dict):
                raise UsageError(f"{place}: expected an object in braces, found {row!r:.60}.{_A_LINE}")
            yield place, row


def _csv(path: Path) -> Iterator[Row]:
    header: list[str] = []
    place = f"{path}, line 1"  # where a row begins: quoted fields may hold line breaks
    reader = csv.reader((str(line, "utf-8-sig") for _, line in _lines(path)), strict=True)
    try:
        for fields in reader:
            if header and fields and len(fields) != len(header):
                raise UsageError(
                    f"{place}: {len(fields)} fields where the header has {len(header)}. Quote fields with commas."
                )
            if not header and len({*fields}) < len(fields):
                raise UsageError(f"{place}: two columns have one name: {', '.join(fields)}. Rename one.")
            if not header and len(fields) == 1 and (mark := re.search(r"[;\t]", fields[0])):
                raise UsageError(f"{place}: fields are separated by {mark[0]!r}. Save it with commas.")
            if header and fields:
                yield place, dict(zip(header, fields, strict=True))
            header, place = header or fields, f"{path}, line {reader.line_num + 1}"
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{place}: broken CSV, {error}.{_mend(error)}") from None


def _of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"of {', '.join(key for key, _ in pairs)} one is given twice")
    return found


def _mend(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return " Save it in UTF-8."
    return _A_LINE if isinstance(error, json.JSONDecodeError) else ""


def _parquet(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowInvalid, parquet

    try:
        yield from arrow_rows(path, parquet.ParquetFile(path).iter_batches())
    except (ArrowInvalid, OSError) as error:
        raise UsageError(f"{path}: broken parquet, {error}.") from None


def arrow_rows(source: Any, tables: Iterable[Any]) -> Iterator[Row]:
    """Place and columns of every row of tables or record batches of pyarrow."""
    rows = (row for table in tables for row in table.to_pylist())
    return ((f"{source}, row {number}", row) for number, row in enumerate(rows, 1))


#: Suffix -> reader, of the files that can be read.
READERS = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
