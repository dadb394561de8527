"""
What the trainer computed for sampled completions of one optimizer step: `RUN/tokens/step-000040.parquet`.

A row of the file is a completion, with the columns of `SCHEMA`. The schema's metadata hold [`RecordSettings`] as JSON
under the key `htpo`. Before compression (zstd) a token takes 34 bytes and its text, which bounds the file: completions
× max_completion_length × (34 + text).
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, get_origin

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet

from ..objective.rules import parse_rule, rule_spec
from ..objective.table import EFFECTS, GROUPS, Table
from ..objective.transform import Control, control, effective_weight
from ..utils import write_atomically


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
_LABELS = ("is_hard", "is_correct", "is_judged")  # of the response
#: Columns of the file. Of all values only rewards may be missing, where a reward function gave none.
SCHEMA = pa.schema(
    {
        "prompt": pa.string(),  # special tokens included
        **{name: pa.list_(kind) for name, kind in _OF_TOKENS.items()},
        **dict.fromkeys(_LABELS, pa.bool_()),
        "rewards": pa.list_(pa.float32()),  # of each reward function
    }
)


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
        table = asdict(self.table) | {"rows": [rule_spec(rule) for rule in self.table.rows]}
        return json.dumps({"version": VERSION} | asdict(self) | {"table": table})

    @classmethod
    def from_json(cls, text: str | bytes) -> "RecordSettings":
        """What [`RecordSettings.to_json`] wrote; a `ValueError` where a stranger wrote something else."""
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"its settings are {values!r:.40}")
        version = values.pop("version", 1)
        if not isinstance(version, int) or version > VERSION:
            raise ValueError(
                f"it is of version {version!r}, and this htpo_trl knows versions up to {VERSION}; "
                "pip install --upgrade htpo_trl"
            )
        table = values["table"]
        settings = cls(**values | {"table": Table(**table | {"rows": tuple(map(parse_rule, table["rows"]))})})
        for name, value, kind in (
            ("table.name", settings.table.name, str),
            *((field.name, getattr(settings, field.name), field.type) for field in fields(cls)),
        ):
            if not _is(value, kind):
                raise ValueError(f"its setting {name}={value!r:.40} is of a wrong type")
        return settings


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated type; a collection is one of texts."""
    if collection := get_origin(kind) if get_origin(kind) in (list, dict) else None:
        texts = value.values() if isinstance(value, dict) else value
        return isinstance(value, collection) and all(isinstance(text, str) for text in texts)
    return isinstance(value, kind) and not isinstance(value, bool)


class Outcome(NamedTuple):
    """What an objective makes of the T tokens of a completion."""

    groups: np.ndarray  #: int8, place in GROUPS; -1 where masked or not judged
    effects: np.ndarray  #: int8, 1 + place in EFFECTS where a rule changed the objective, else 0
    weights: np.ndarray  #: float32, see [`~htpo_trl.objective.effective_weight`]; NaN where masked

    @property
    def counts(self) -> np.ndarray:
        """Tokens of each group, and those of them that a rule changed; (2, 8)."""
        grouped = self.groups >= 0
        parts = self.groups[grouped], self.groups[grouped & (self.effects > 0)]
        return np.stack([np.bincount(part, minlength=len(GROUPS)) for part in parts])

    @property
    def changes(self) -> str:
        """How many tokens the rules changed, in words."""
        n = np.count_nonzero(self.effects)
        return f"{n} {'token' if n == 1 else 'tokens'} changed by a rule"


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
        float32, from the recorded log-probabilities, entropies and advantages.
        """
        s = self.settings
        columns = {name: torch.from_numpy(column).unsqueeze(0) for name, column in completion.values.items()}
        mask, logps = columns["mask"], columns["per_token_logps"]
        if table is None:
            effective = columns["effective_advantages"], columns["effective_old_per_token_logps"]
            result = Control(*effective, columns["groups"], columns["effects"])
        else:
            names = ("per_token_logps", "old_per_token_logps", "entropies", "advantages", "mask")
            result = control(
                **{name: columns[name] for name in names},
                **{name: torch.tensor([getattr(completion, name)]) for name in _LABELS},
                table=table,
                epsilon_low=s.epsilon_low,
                epsilon_high=s.epsilon_high,
                top_entropy_share=s.top_entropy_share,
            )
        weights = effective_weight(
            logps, result.old_per_token_logps, result.advantages, s.epsilon_low, s.epsilon_high, s.delta
        ).masked_fill(~mask, torch.nan)
        effects = result.effects.masked_fill(~mask, 0)
        return Outcome(*(column[0].numpy() for column in (result.groups, effects, weights)))


def write_record(run: str | Path, settings: RecordSettings, rows: list[dict[str, Any]]) -> Path:
    """Write the file of a step, in one step: a kill leaves the old file or the new one. Returns its path."""
    path = Path(run, "tokens", f"step-{settings.step:06d}.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows, SCHEMA.with_metadata({"htpo": settings.to_json()}))
    parquet.write_table(table, content, compression="zstd")
    write_atomically(path, content.getvalue().to_pybytes())
    return path


def recorded_steps(run: str | Path) -> dict[int, Path]:
    """The recorded steps of a run, in their order, and their files."""
    files = Path(run, "tokens").glob("step-*.parquet")
    return dict(sorted((int(path.stem.removeprefix("step-")), path) for path in files))


def read_record(run: str | Path, step: int | None = None) -> Record:
    """
    A recorded step of a run, by default the last.

    Raises:
        FileNotFoundError: if there is no such record, with those there are.
        ValueError: if the file is damaged, was not written here, or was written by a newer version.
    """
    recorded = recorded_steps(run)
    if not recorded:
        raise FileNotFoundError(
            f"{run} has no recorded tokens. Train with --record_tokens_steps, or add a TokenRecorder to the trainer."
        )
    step = max(recorded) if step is None else step
    if step not in recorded:
        raise FileNotFoundError(f"step={step} was not recorded in {run}; there are {', '.join(map(str, recorded))}.")
    path = recorded[step]
    try:
        table = parquet.read_table(path)
        settings = RecordSettings.from_json((table.schema.metadata or {})[b"htpo"])
        if not table.schema.equals(SCHEMA):
            raise ValueError("it has other columns than those of this version; record the run again")
        if any(table.column(name).null_count for name in SCHEMA.names):
            raise ValueError("a row lacks values: it was edited")
        rows = table.to_pandas().to_dict("records")
        return Record(settings, [_completion(row, len(settings.reward_funcs)) for row in rows])
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        reason = " ".join((str(error) if isinstance(error, ValueError) else repr(error)).split()).rstrip(".")
        raise ValueError(f"{path} cannot be read as a record of tokens: {reason}.") from error


def _completion(row: dict[str, Any], n_rewards: int) -> RecordedCompletion:
    values = {name: row[name].copy() for name in _OF_TOKENS if name != "tokens"}
    tokens, rewards = row["tokens"].tolist(), row["rewards"].tolist()
    if not (
        len({len(column) for column in (*values.values(), tokens)}) == 1
        # With a missing value, codes and truth values become a column of another type.
        and all(column.dtype == _OF_TOKENS[name].to_pandas_dtype() for name, column in values.items())
        and None not in tokens
        and np.isin(values["groups"], range(-1, len(GROUPS))).all()
        and np.isin(values["effects"], range(1 + len(EFFECTS))).all()
        and len(rewards) == n_rewards
    ):
        raise ValueError(
            "a row has columns of unequal lengths, lacks values, or has some that cannot be: it was edited"
        )
    given = [None if reward != reward else reward for reward in rewards]  # null is NaN by now
    labels = {name: row[name] for name in _LABELS}
    return RecordedCompletion(row["prompt"], tokens, values, **labels, rewards=given)
