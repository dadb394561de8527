"""The rows of local files, each with its place in the file, so that an error can say where it is."""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..utils import MissingFileError, UsageError


#: Place of a row, for errors, and its columns.
Row = tuple[str, dict[str, Any]]


def rows_of(path: str | Path) -> Iterator[Row]:
    """Place (`train.jsonl, line 3`; counted from 1, rows in parquet) and columns of every row of a file in UTF-8."""
    path = Path(path)
    if path.suffix not in READERS:
        raise UsageError(f"{path}: expected a file of {', '.join(READERS)}; convert it.")
    if not path.is_file():
        raise MissingFileError(f"There is no file {str(path)!r} in {Path.cwd()}.")
    return READERS[path.suffix](path)


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                place = f"{path}, line {number}"
                try:
                    row = json.loads(str(line, "utf-8-sig"), object_pairs_hook=_of_pairs)
                except ValueError as error:  # of JSON or of UTF-8
                    raise UsageError(f"{place}: broken JSON, {error}.{_mend(error)}") from None
                if not isinstance(row, dict):
                    raise UsageError(f"{place}: expected an object in braces, found {row!r:.60}.")
                yield place, row


def _csv(path: Path) -> Iterator[Row]:
    header: list[str] = []
    place = f"{path}, line 1"  # where a row begins: quoted fields may hold line breaks
    with path.open("rb") as file:
        reader = csv.reader((str(line, "utf-8-sig") for line in file), strict=True)
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
    return " Save it in UTF-8." if isinstance(error, UnicodeDecodeError) else ""


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
