"""
What the trainer computed for sampled completions of one optimizer step: `RUN/tokens/step-000040.parquet`.

A row of the file is a completion, with the columns of `SCHEMA`. The schema's metadata hold [`RecordSettings`] as JSON
under the key `htpo`. Before compression (zstd) a token takes 34 bytes and its text, which bounds the file: completions
× max_completion_length × (34 + text).
"""

import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from huggingface_hub.dataclasses import type_validator
from pyarrow import compute, parquet
from torch.nn.utils.rnn import pad_sequence

from ..objective.rules import parse_rule, rule_spec
from ..objective.table import EFFECTS, GROUPS, Table
from ..objective.transform import Control, control, effective_weight
from ..output.reading import parse_json, read_bytes
from ..output.writing import write_atomically
from ..utils import MissingFileError, UsageError


#: Of the records that are written here. A file that names none is of version 1.
VERSION = 1
# Lists as long as the completion has tokens.
_OF_TOKENS = {
    "token_ids": pa.int32(),  # in the tokenizer's vocabulary
    "tokens": pa.string(),  # the text of each
    "mask": pa.bool_(),  # trained on? Results of tools, say, are not
    "entropies": pa.float32(),  # H of the current policy, nats
    "per_token_logps": pa.float32(),  # log π
    "old_per_token_logps": pa.float32(),  # log π_old
    "advantages": pa.float32(),  # Â
    "effective_advantages": pa.float32(),  # Â′, what the objective table made of it
    "effective_old_per_token_logps": pa.float32(),  # log π_old′
    "groups": pa.int8(),  # codes of `Control`
    "effects": pa.int8(),
}
#: Those of them that a [`Control`] holds, in its order.
OF_CONTROL = ("effective_advantages", "effective_old_per_token_logps", "groups", "effects")
#: Columns of the response.
LABELS = ("is_hard", "is_correct", "is_judged")
#: Columns of the file. Of all values only rewards may be missing, where a reward function gave none.
SCHEMA = pa.schema(
    {
        "prompt": pa.string(),  # special tokens included, of many in a row one with their number
        **{name: pa.list_(kind) for name, kind in _OF_TOKENS.items()},
        **dict.fromkeys(LABELS, pa.bool_()),
        "rewards": pa.list_(pa.float32()),  # of each reward function
    }
)


_MAX_BYTES = 256 * 2**20  # of a file, and of the text in it
_MAX_VALUES = 50_000_000  # in a file; the largest that are known have some 5,000,000
_CLIP = ("epsilon_low", "epsilon_high", "delta")
_RANGES = {
    **{"step": (1, 10**15), "completions_in_step": (1, 10**15), "top_entropy_share": (0, 1)},
    **dict.fromkeys(_CLIP, (0, 1e6)),
}


@dataclass(frozen=True)
class RecordSettings:
    """What the numbers of a step depend on."""

    step: int  #: the optimizer step, counted from 1
    completions_in_step: int  #: over all micro-batches and processes; the file holds a sample of them
    table: Table  #: the objective
    epsilon_low: int | float  #: PPO-clip's range is 1-ε_lo to 1+ε_hi
    epsilon_high: int | float  #: ε_hi
    delta: int | float | None  #: the dual clip, `None` without
    top_entropy_share: int | float  #: share of a response's tokens that count as high
    reward_funcs: list[str]  #: names, in the order of the column `rewards`
    versions: dict[str, str]  #: package → version

    def to_json(self) -> str:
        """The settings, and the version of the record, as text."""
        table = vars(self.table) | {"rows": [*map(rule_spec, self.table.rows)]}
        return json.dumps({"version": VERSION} | vars(self) | {"table": table})

    @classmethod
    def from_json(cls, text: str | bytes) -> "RecordSettings":
        """What [`RecordSettings.to_json`] wrote; a `KeyError`, `TypeError` or `ValueError` where another hand did."""
        values = {"version": 1} | parse_json(str(text, "utf-8") if isinstance(text, bytes) else text)
        if (version := values.pop("version")) != VERSION:
            raise ValueError(
                f"it is of version {version!r}, and this htpo_trl knows versions up to {VERSION}; "
                "pip install --upgrade htpo_trl"
            )
        table = values["table"]
        if not isinstance(table["rows"], list):
            raise TypeError(f"Field 'table.rows' expected a list, got {table['rows']!r:.60}")
        settings = cls(**values | {"table": Table(**table | {"rows": tuple(map(parse_rule, table["rows"]))})})
        type_validator("table.name", settings.table.name, str)
        for field in fields(cls):
            type_validator(field.name, getattr(settings, field.name), field.type)
        for name, (low, high) in _RANGES.items():
            if (value := getattr(settings, name)) is not None and not low <= value <= high:
                raise ValueError(f"{name}={value!r:.60} must lie in {low:g}..{high:g}")
        return settings


class Outcome(NamedTuple):
    """What an objective makes of the T tokens of a completion."""

    groups: np.ndarray  #: int8, place in GROUPS; -1 where masked or not judged
    effects: np.ndarray  #: int8, 1 + place in EFFECTS where a rule changed the objective, else 0
    weights: np.ndarray  #: float32, see [`~htpo_trl.objective.transform.effective_weight`]; NaN where masked

    @property
    def counts(self) -> np.ndarray:
        """Tokens of each group, and those of them that a rule changed; (2, 8)."""
        grouped = self.groups >= 0
        parts = self.groups[grouped], self.groups[grouped & (self.effects > 0)]
        return np.stack([np.bincount(part, minlength=len(GROUPS)) for part in parts])


class RecordedCompletion(NamedTuple):
    """A row of the file. `values` holds the columns of numbers by token, each (T,)."""

    prompt: str
    tokens: list[str]
    values: dict[str, np.ndarray]
    is_hard: bool
    is_correct: bool
    is_judged: bool
    rewards: list[float | None]

    @property
    def ratio(self) -> np.ndarray:
        """Importance ratio π/π_old of each token."""
        return np.exp(self.values["per_token_logps"] - self.values["old_per_token_logps"])

    @property
    def kind(self) -> tuple[str, str]:
        """Difficulty of the prompt, and whether the response is correct."""
        verdict = "correct" if self.is_correct else "wrong"
        return "hard" if self.is_hard else "easy", verdict if self.is_judged else "not judged"


class Record(NamedTuple):
    """A recorded optimizer step, see [`read_record`]."""

    settings: RecordSettings
    completions: list[RecordedCompletion]

    def outcome(self, completion: RecordedCompletion, table: Table | None = None) -> Outcome:
        """
        What the objective made of a completion: as the trainer computed it, or, for another `table`, computed now, in
        float32, from the recorded log-probabilities, entropies and advantages. What a table takes from the loss call,
        it takes from the recorded completions.
        """
        if table is not None:
            places = (i for i, each in enumerate(self.completions) if each is completion)
            return self.outcomes(table)[next(places)]
        return self._outcomes([completion], Control(*(_padded([completion], name) for name in OF_CONTROL)))[0]

    def outcomes(self, table: Table) -> list[Outcome]:
        """What another objective makes of each completion, see [`Record.outcome`]."""
        s = self.settings
        names = ("per_token_logps", "old_per_token_logps", "entropies", "advantages", "mask")
        inputs: dict[str, Any] = {name: _padded(self.completions, name) for name in names}
        inputs |= {name: torch.tensor([getattr(each, name) for each in self.completions]) for name in LABELS}
        given: dict[str, Any] = {name: getattr(s, name) for name in (*_CLIP, "top_entropy_share")}
        draws = torch.Generator().manual_seed(s.step)  # of a table that has any: a page is the same at each call
        return self._outcomes(self.completions, control(**inputs, **given, table=table, generator=draws))

    def _outcomes(self, completions: list[RecordedCompletion], result: Control) -> list[Outcome]:
        mask = _padded(completions, "mask")
        effective = _padded(completions, "per_token_logps"), result.old_per_token_logps, result.advantages
        weights = effective_weight(*effective, **{name: getattr(self.settings, name) for name in _CLIP})
        masked = result.groups, result.effects.where(mask, 0), weights.where(mask, torch.nan)
        lengths = (len(each.tokens) for each in completions)
        return [Outcome(*(column[i, :n].numpy() for column in masked)) for i, n in enumerate(lengths)]


def _padded(completions: list[RecordedCompletion], name: str) -> torch.Tensor:
    """A column of completions together, (B, T); padding is 0, or not trained on."""
    return pad_sequence([torch.from_numpy(each.values[name]) for each in completions], batch_first=True)


def write_record(run: str | Path, settings: RecordSettings, rows: list[dict[str, Any]]) -> Path:
    """Write the file of a step, in one step: a kill leaves the old file or the new one. Returns its path."""
    path = Path(run, "tokens", f"step-{settings.step:06d}.parquet")
    table = pa.Table.from_pylist(rows, SCHEMA.with_metadata({"htpo": settings.to_json()}))
    content = pa.BufferOutputStream()
    parquet.write_table(table, content, compression="zstd")
    write_atomically(path, content.getvalue().to_pybytes())
    return path


def recorded_steps(run: str | Path) -> dict[int, Path]:
    """The recorded steps of a run, in their order, and their files."""
    files = Path(run, "tokens").glob("step-*.parquet")
    found = [(re.fullmatch(r"step-([0-9]{1,15})", path.stem), path) for path in files]
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def read_record(run: str | Path, step: int | None = None) -> Record:
    """
    A recorded step of a run, by default the last.

    Raises:
        MissingFileError: if there is no such record, with those there are.
        UsageError: if the file is damaged, was not written here, or was written by a newer version.
    """
    recorded = recorded_steps(run)
    if not recorded:
        raise MissingFileError(
            f"{run} has no recorded tokens. Train with --record_tokens_steps, or add a TokenRecorder to the trainer."
        )
    step = max(recorded) if step is None else step
    if step not in recorded:
        raise MissingFileError(f"step={step} was not recorded in {run}; there are {', '.join(map(str, recorded))}.")
    path = recorded[step]
    content = read_bytes(path, _MAX_BYTES)
    try:
        table = _table(content)
        settings = RecordSettings.from_json((table.schema.metadata or {})[b"htpo"])
        if settings.step != step:
            raise ValueError(f"it is of step {settings.step}, and was renamed")
        return Record(settings, _completions(table, settings))
    except (pa.ArrowException, KeyError, OSError, TypeError, ValueError) as error:
        reason = " ".join((repr(error) if isinstance(error, KeyError) else str(error)).split()).rstrip(".")
        raise UsageError(f"{path} cannot be read as a record of tokens: {reason:.500}.") from error


def _table(content: bytes) -> pa.Table:
    """
    The columns of a file. A small file may stand for any number of values: texts stay in the file's dictionaries until
    it is known how long they are in all.
    """
    texts = ["prompt", "tokens.list.element"]
    file = parquet.ParquetFile(pa.BufferReader(content), read_dictionary=texts)
    if not parquet.read_schema(pa.BufferReader(content)).equals(SCHEMA):
        raise ValueError("it has other columns than those of this version; record the run again")
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    if sum(group.column(i).num_values for group in groups for i in range(group.num_columns)) > _MAX_VALUES:
        raise ValueError(f"it has more than {_MAX_VALUES:,} values")
    table = file.read()
    if not len(table):
        raise ValueError("it holds no completion")
    columns = [table["prompt"], compute.list_flatten(table["tokens"])]
    length = sum(_length(chunk) for column in columns for chunk in column.chunks)
    if length > _MAX_BYTES:
        raise ValueError(f"it has {length:,} bytes of text, of which at most {_MAX_BYTES:,} are read")
    return table.cast(SCHEMA.with_metadata(table.schema.metadata))


def _length(column: pa.Array) -> int:
    """Bytes of the texts in an array, whose dictionary has each of them once."""
    if isinstance(column, pa.DictionaryArray):
        lengths = compute.binary_length(column.dictionary).cast(pa.int64())
        return compute.sum(compute.take(lengths, column.indices)).as_py() or 0
    return compute.sum(compute.binary_length(column).cast(pa.int64())).as_py() or 0


def _completions(table: pa.Table, settings: RecordSettings) -> list[RecordedCompletion]:
    possible = [0, *(1 + EFFECTS.index(effect) for effect in settings.table.effects)]
    tokens = {name: compute.list_flatten(table[name]) for name in _OF_TOKENS}
    lengths = [compute.list_value_length(table[name]) for name in _OF_TOKENS]
    if not (
        all(column.null_count == 0 for column in (*table.columns, *tokens.values()))
        and all(length.equals(lengths[0]) for length in lengths)
        and np.isin(tokens["groups"], range(-1, len(GROUPS))).all()
        and np.isin(tokens["effects"], possible).all()
        and np.isin(compute.list_value_length(table["rewards"]), len(settings.reward_funcs)).all()
    ):
        raise ValueError("a row lacks values, or has lists of unequal lengths or impossible values: it was edited")
    numbers = [name for name in _OF_TOKENS if name != "tokens"]
    rows = table.drop_columns(numbers).to_pylist()
    columns = [[row.values.to_numpy(zero_copy_only=False).copy() for row in table[name]] for name in numbers]
    values = (dict(zip(numbers, arrays, strict=True)) for arrays in zip(*columns, strict=True))
    return [RecordedCompletion(**row, values=each) for row, each in zip(rows, values, strict=True)]
