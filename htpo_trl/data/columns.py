"""
Problems and golds → a data set with the columns `prompt`, `solution` and `problem`: repeats and conflicts are dropped.
By whole columns, since a loop over rows takes seconds for a million; large sets lie in a file without a name, which is
gone with the process.
"""

import logging
import mmap
import os
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from datasets.fingerprint import Hasher
from datasets.table import InMemoryTable

from ..output.writing import writing
from ..utils import UsageError
from ..verifier.golds import gold_text
from .benchmarks import Benchmark, as_answer, as_text
from .blocks import ROWS, IrregularError, tables_of
from .files import Row, rows_of
from .prompts import PromptArguments
from .splits import key_of


_logger = logging.getLogger(__name__)

#: Bytes of a set that are kept in memory.
IN_MEMORY = 8 << 20
_MORE_SPACE = "Large data sets go there: set TMPDIR to where there is more."
# Texts that may not be as they should: other than ASCII, white space but for a single space between words.
_UNEVEN = r"[^ -~]|  |^ | $|^$"
# Golds that may mean something else, once the commands of LaTeX are taken out: words, marks, scientific notation.
_COMMAND = r"\\[a-zA-Z]+"
_UNPLAIN = r"[^ -~]|[a-zA-Z]{2}|[$#'\"`~@&]|\*\*|^[\[ ]|[ .]$|[0-9.][eE][-+0-9]|^$|box"


class _Batch(NamedTuple):
    problems: pa.Array
    solutions: pa.Array
    is_uneven: pa.Array  #: whether the white space of the problem may have to be evened out, to find repeats


def rows_to_dataset(source: Any, rows: Iterable[Row], spec: Benchmark, prompts: PromptArguments) -> Dataset:
    """Of rows with their places: an error says where the row stands."""

    def batch() -> _Batch:
        found = pa.array(problems, pa.string())
        return _Batch(found, pa.array(golds, pa.string()), pc.match_substring_regex(found, _UNEVEN))

    problems, golds = list[str](), list[str]()

    def batches() -> Iterator[_Batch]:
        for place, row in rows:
            problems.append(_read(place, row, spec.problem, spec.read_problem))
            golds.append(_read(place, row, spec.solution, spec.read_solution))
            if len(problems) == ROWS:
                yield batch()
                problems.clear()
                golds.clear()
        yield batch()

    return _dataset(source, batches(), prompts)


def batches_to_dataset(source: Any, batches: Iterable[Any], spec: Benchmark, prompts: PromptArguments) -> Dataset:
    """Of record batches or tables. [`IrregularError`], or the `ValueError` of a value, where one is not right."""

    def texts() -> Iterator[_Batch]:
        for batch in batches:
            if not {spec.problem, spec.solution} <= {*batch.schema.names}:
                raise IrregularError
            problems, golds = batch.column(spec.problem), batch.column(spec.solution)
            if problems.null_count or golds.null_count:
                raise IrregularError
            texts, is_uneven = _texts(problems, spec.read_problem)
            yield _Batch(texts, _texts(golds, spec.read_solution)[0], is_uneven)

    return _dataset(source, texts(), prompts)


def file_as_it_is(path: Path) -> Dataset:
    """A file in TRL's format."""
    try:
        sink: _Sink | None = None
        for batch in tables_of(path):
            sink = sink or _Sink(batch.schema.remove_metadata())
            sink.write(batch.columns)
        if sink is None:
            raise IrregularError
        return sink.dataset()
    except (IrregularError, pa.ArrowException):
        places, found = zip(*rows_of(path), strict=True)
        own = dict.fromkeys(column for row in found for column in row)  # of all rows: each task may have its own
        return Dataset.from_dict({column: _of_one_type(places, found, column) for column in own})


def gold_texts(golds: pa.Array) -> pa.Array:
    """[`~htpo_trl.verifier.golds.gold_text`] of a column."""
    return _texts(golds, gold_text)[0]


def _texts(values: Any, read: Callable[[Any], str]) -> tuple[pa.Array, pa.Array]:
    """A column as it is read, and which of its values may need more care; most are texts that need no change."""
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_dictionary(values.type) or pa.types.is_large_string(values.type):
        values = values.cast(pa.string())
    if not pa.types.is_string(values.type) or read not in (as_text, as_answer, gold_text):
        texts = pa.array(map(read, values.to_pylist()), pa.string())
        return texts, pc.match_substring_regex(texts, _UNEVEN)
    plain = values if read is as_text else pc.replace_substring_regex(values, _COMMAND, "\\\\")
    is_odd = _uneven(plain) if read is as_text else pc.match_substring_regex(plain, _UNPLAIN)
    if read is not as_text:
        is_odd = pc.or_(is_odd, pc.match_substring(values, "box"))
    is_odd = pc.fill_null(is_odd, True)
    if not pc.any(is_odd).as_py():
        return values, is_odd
    odd = values.filter(is_odd)
    read_odd = pa.array([read(value) for value in odd.to_pylist()], pa.string())
    return pc.replace_with_mask(values, is_odd, read_odd), is_odd


def _uneven(texts: pa.Array) -> pa.Array:
    """Whether each holds what `_UNEVEN` says; of whole blocks in a fraction of the time, where none does."""
    if len(texts) and not texts.null_count:
        ends = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
        is_space = (characters := np.frombuffer(texts.buffers()[2] or b"", np.uint8)[: ends[-1]]) == ord(" ")
        is_odd = np.any(characters - np.uint8(ord(" ")) > ord("~") - ord(" ")) or np.any(is_space[1:] & is_space[:-1])
        if np.all(ends[1:] > ends[:-1]) and not (is_odd or np.any(is_space[ends[:-1]] | is_space[ends[1:] - 1])):
            return pa.repeat(False, len(texts))
    return pc.match_substring_regex(texts, _UNEVEN)


def _dataset(source: Any, batches: Iterable[_Batch], prompts: PromptArguments) -> Dataset:
    keys, golds = array("q"), array("q")  # hashes of 64 bits
    schema = pa.schema([("prompt", _prompts(pa.array([], pa.string()), prompts).type), ("solution", pa.string())])
    sink = _Sink(schema.append(pa.field("problem", pa.string())))
    for problems, solutions, is_uneven in batches:
        keys.extend(map(hash, _keys(problems, is_uneven)))
        golds.extend(map(hash, solutions.to_pylist()))
        sink.write([_prompts(problems, prompts), solutions, problems])
    is_first, is_conflict = _first_and_conflicting(np.asarray(keys, np.int64), np.asarray(golds, np.int64))
    count, found, conflicts = len(keys), int(is_first.sum()), int(is_conflict.sum())
    if not count:
        raise UsageError(f"{source}: no problem in 0 rows. Add a row for each problem.")
    if found == conflicts:
        raise UsageError(
            f"{source}: no problem in {count} rows, of which {conflicts} have conflicting answers. Keep one answer a "
            "problem."
        )
    if found - conflicts < count:
        _logger.warning(
            "%s: %d rows, %d problems. Dropped: %d rows that repeat a problem, %d problems with conflicting answers.",
            *(source, count, found - conflicts, count - found, conflicts),
        )
        sink = sink.kept(is_first & ~is_conflict)
    return sink.dataset()


def _keys(problems: pa.Array, is_uneven: pa.Array) -> list[str]:
    texts = problems.to_pylist()
    for index in np.flatnonzero(is_uneven.to_numpy(zero_copy_only=False)):
        texts[index] = key_of(texts[index])
    return texts


def _first_and_conflicting(keys: Any, golds: Any) -> tuple[Any, Any]:
    """Of rows: whether they are the first of a problem, and whether they are that of one with several answers."""
    order = np.argsort(keys, kind="stable")
    is_new = np.append(True, np.diff(keys[order]) != 0)[: len(keys)]
    starts = np.flatnonzero(is_new)
    first = order[starts]
    is_first, is_conflict = np.zeros(len(keys), bool), np.zeros(len(keys), bool)
    is_first[first] = True
    if len(first) < len(keys):
        differs = golds[order] != golds[first][np.cumsum(is_new) - 1]
        is_conflict[first[np.logical_or.reduceat(differs, starts)]] = True
    return is_first, is_conflict


def _prompts(problems: pa.Array, prompts: PromptArguments) -> pa.Array:
    """[`PromptArguments.prompt`] of a column."""
    mark = "\0problem\0"  # stands in no template
    made = prompts.prompt(mark)
    messages = [made] if isinstance(made, str) else [message["content"] for message in made]
    columns = []
    for message in messages:
        first, *others = message.split(mark)
        parts = [each for other in others for each in (problems, other)]
        columns.append(pc.binary_join_element_wise(first, *parts, "") if parts else pa.repeat(first, len(problems)))
    if isinstance(made, str):
        return columns[0]
    count, width = len(problems), len(columns)
    contents = pa.concat_arrays(columns)
    if width > 1:  # the messages of a row beside each other
        contents = contents.take(pa.array(np.arange(count * width).reshape(width, count).T.ravel()))
    roles = pa.array([message["role"] for message in made] * count, pa.string())
    offsets = pa.array(np.arange(0, count * width + 1, width, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays([roles, contents], ["role", "content"]))


class _Sink:
    """Record batches on their way into a data set: in memory, or in a nameless file once there are many."""

    def __init__(self, schema: pa.Schema):
        self._schema, self._batches, self._size = schema, list[Any](), 0
        self._file: Any = None
        self._folder = os.environ.get("TMPDIR", "/tmp")
        self._writer: Any = None
        self._digest = ""

    def write(self, columns: Sequence[Any]) -> None:
        batch = pa.record_batch(columns, schema=self._schema)
        buffers = [buffer for column in columns for buffer in column.buffers() if buffer]
        self._digest = Hasher.hash_bytes([self._digest.encode(), *buffers])
        self._size += batch.nbytes
        if self._writer is None and self._size > IN_MEMORY:
            self._open()
        if self._writer is None:
            self._batches.append(batch)
        else:
            with writing(self._folder, _MORE_SPACE):
                self._writer.write_batch(batch)

    def kept(self, is_kept: Any) -> "_Sink":
        """A new one, of these rows alone."""
        kept, start = _Sink(self._schema), 0
        for batch in self._read():
            chosen = batch.filter(pa.array(is_kept[start : start + len(batch)]))
            kept.write(chosen.columns)
            start += len(batch)
        return kept

    def dataset(self) -> Dataset:
        if self._writer is None:
            table = pa.Table.from_batches(self._batches, self._schema)
        else:
            with writing(self._folder, _MORE_SPACE):
                self._writer.close()
                self._file.flush()
            mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            table = pa.ipc.open_stream(pa.BufferReader(pa.py_buffer(mapped))).read_all()
        # Its own fingerprint would be made of a copy of all its bytes.
        return Dataset(InMemoryTable(table), fingerprint=self._digest)

    def _open(self) -> None:
        with writing(self._folder, _MORE_SPACE):
            self._folder = tempfile.gettempdir()
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
            self._writer = pa.ipc.new_stream(self._file, self._schema)
            for batch in self._batches:
                self._writer.write_batch(batch)
        self._batches = []

    def _read(self) -> Iterator[pa.RecordBatch]:
        if self._writer is None:
            yield from self._batches
            return
        self._writer.close()
        self._file.seek(0)
        yield from pa.ipc.open_stream(self._file)


def _is_deep(value: Any, depth: int = 32) -> bool:
    """Whether lists and mappings are nested deeper, which Arrow cannot keep."""
    if not isinstance(value, list | dict):
        return False
    return not depth or any(
        _is_deep(each, depth - 1) for each in (value.values() if isinstance(value, dict) else value)
    )


def _of_one_type(places: Sequence[str], rows: Sequence[dict[str, Any]], column: str) -> list[Any]:
    """A column of rows that are taken as they are: Arrow tells of two types neither file nor column."""

    def is_refused(count: int) -> str:
        try:
            pa.array(values[:count])
        except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
            return str(error)
        return ""

    values = [row.get(column) for row in rows]
    if deep := next((place for place, value in zip(places, values, strict=True) if _is_deep(value)), None):
        raise UsageError(f"{deep}, column {column!r}: the value is nested too deep. Write it as a text.")
    if is_refused(len(values)):
        first = bisect_left(range(len(values)), True, lo=1, key=lambda count: bool(is_refused(count)))
        raise UsageError(
            f"{places[first - 1]}, column {column!r}: the values are not of one type, or one is too "
            f"large: {is_refused(first)}. Mend the file."
        )
    return values


def _read(place: str, row: dict[str, Any], column: str, read: Callable[[Any], str]) -> str:
    """A column of a row; an error says where the row stands."""
    if column not in row:
        raise UsageError(
            f"{place}: no column {column!r}, only {', '.join(map(repr, row))}. Add it, or name the file's own columns "
            "by problem_column and solution_column."
        )
    try:
        text = read(row[column])
        text.encode()
        return text
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise UsageError(f"{place}, column {column!r}: the value has half a character, {half}. Correct it.") from None
    except ValueError as error:
        raise UsageError(f"{place}, column {column!r}: the value {error}. Correct or remove it.") from None
