"""The rows of local files, each with its place in the file, so that an error can say where it is."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


#: Place of a row, for errors, and its columns.
Row = tuple[str, dict[str, Any]]


def rows_of(path: Path) -> Iterator[Row]:
    """Place (`train.jsonl, line 3`; counted from 1, rows in parquet) and columns of every row of a file in UTF-8."""
    if path.suffix not in _READERS:
        raise ValueError(f"{path}: expected a file of {', '.join(_READERS)}; convert it.")
    return _READERS[path.suffix](path)


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                place = f"{path}, line {number}"
                try:
                    row = json.loads(line)
                except ValueError as error:  # of JSON or of UTF-8
                    raise ValueError(f"{place}: broken JSON, {error}.") from None
                if not isinstance(row, dict):
                    raise ValueError(f"{place}: expected an object in braces, found {row!r:.60}.")
                yield place, row


def _csv(path: Path) -> Iterator[Row]:
    header: list[str] = []
    with path.open("rb") as file:
        reader = csv.reader((line.decode("utf-8-sig") for line in file), strict=True)
        while True:
            place = f"{path}, line {reader.line_num + 1}"  # where the row begins: quoted fields may hold line breaks
            try:
                fields = next(reader, None)
            except (csv.Error, UnicodeDecodeError) as error:
                raise ValueError(f"{place}: broken CSV, {error}.") from None
            if fields is None:
                return
            if not header:
                header = fields
            elif fields and len(fields) != len(header):
                raise ValueError(
                    f"{place}: {len(fields)} fields where the header has {len(header)}. Quote fields with commas."
                )
            elif fields:
                yield place, dict(zip(header, fields, strict=True))


def _parquet(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowInvalid, parquet

    try:
        rows = (row for batch in parquet.ParquetFile(path).iter_batches() for row in batch.to_pylist())
        yield from ((f"{path}, row {number}", row) for number, row in enumerate(rows, 1))
    except (ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: broken parquet, {error}.") from None


_READERS = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
#: Of the files that can be read.
SUFFIXES = tuple(_READERS)
