"""
What the trainer computed for sampled completions of one optimizer step: `RUN/tokens/step-000040.parquet`.

A row of the file is a completion. Lists are as long as the completion has tokens, T; floats are float32:

| column                           | type            | meaning                                                       |
| -------------------------------- | --------------- | ------------------------------------------------------------- |
| `prompt`                         | `string`        | the prompt, special tokens included                           |
| `token_ids`                      | `list<int32>`   | ids in the tokenizer's vocabulary                             |
| `tokens`                         | `list<string>`  | text of each token, see [`token_texts`]                       |
| `mask`                           | `list<bool>`    | trained on? Results of tools, say, are not                    |
| `entropies`                      | `list<float>`   | H of the current policy, nats                                 |
| `per_token_logps`                | `list<float>`   | log π                                                         |
| `old_per_token_logps`            | `list<float>`   | log π_old                                                     |
| `advantages`                     | `list<float>`   | Â                                                             |
| `effective_advantages`           | `list<float>`   | Â′, what the objective table made of it                       |
| `effective_old_per_token_logps`  | `list<float>`   | log π_old′                                                    |
| `groups`, `effects`              | `list<int8>`    | codes of [`~htpo_trl.objective.Control`]                      |
| `is_hard`, `is_correct`, `is_judged` | `bool`      | labels of the response                                        |
| `rewards`                        | `list<float>`   | of each reward function; null where it gave none              |

The schema's metadata hold [`Settings`] as JSON under the key `htpo`. Before compression (zstd) a token takes 34 bytes
and its text, which bounds the file: completions × max_completion_length × (34 + text).
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet

from ..objective.rules import parse_rule, rule_spec
from ..objective.table import Table
from ..objective.transform import control, effective_weight


_OF_TOKENS = {
    "token_ids": pa.int32(),
    "tokens": pa.string(),
    "mask": pa.bool_(),
    "entropies": pa.float32(),
    "per_token_logps": pa.float32(),
    "old_per_token_logps": pa.float32(),
    "advantages": pa.float32(),
    "effective_advantages": pa.float32(),
    "effective_old_per_token_logps": pa.float32(),
    "groups": pa.int8(),
    "effects": pa.int8(),
}
#: Of the parquet file.
SCHEMA = pa.schema(
    {
        "prompt": pa.string(),
        **{name: pa.list_(kind) for name, kind in _OF_TOKENS.items()},
        **{name: pa.bool_() for name in ("is_hard", "is_correct", "is_judged")},
        "rewards": pa.list_(pa.float32()),
    }
)


@dataclass(frozen=True)
class Settings:
    """
    What the numbers of a step depend on.

    Args:
        step (`int`):
            The optimizer step, counted from 1.
        completions_in_step (`int`):
            Completions that the step trained on, over all micro-batches and processes; the file holds a sample.
        table ([`~htpo_trl.objective.Table`]):
            The objective.
        epsilon_low, epsilon_high, delta (`float`):
            Clip range and dual clip of PPO-clip; without dual clip `delta` is `None`.
        top_entropy_share (`float`):
            Share of a response's tokens that count as high.
        reward_funcs (`list[str]`):
            Names of the reward functions, in the order of the column `rewards`.
        versions (`dict[str, str]`):
            Package → version.
    """

    step: int
    completions_in_step: int
    table: Table
    epsilon_low: float
    epsilon_high: float
    delta: float | None
    top_entropy_share: float
    reward_funcs: list[str]
    versions: dict[str, str]

    def to_json(self) -> str:
        table = {"name": self.table.name, "selection": self.table.selection}
        return json.dumps(asdict(self) | {"table": table | {"rows": [rule_spec(rule) for rule in self.table.rows]}})

    @classmethod
    def from_json(cls, text: str | bytes) -> "Settings":
        values = json.loads(text)
        for name in ("step", "completions_in_step"):
            if type(values[name]) is not int:
                raise TypeError(f"{name} is {values[name]!r}, which is no whole number")
        table = values["table"]
        return cls(**values | {"table": Table(**table | {"rows": tuple(map(parse_rule, table["rows"]))})})


class Outcome(NamedTuple):
    """What an objective makes of the T tokens of a completion."""

    groups: np.ndarray  # int8, place in GROUPS; -1 where masked or not judged
    effects: np.ndarray  # int8, 1 + place in EFFECTS where a rule changed the objective, else 0
    weights: np.ndarray  # float32, see effective_weight; NaN where masked


class Completion(NamedTuple):
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


class Record(NamedTuple):
    """A recorded optimizer step, see [`read`]."""

    settings: Settings
    completions: list[Completion]

    def outcome(self, completion: Completion, table: Table | None = None) -> Outcome:
        """
        What the objective made of a completion: as the trainer computed it, or, for another `table`, computed now, in
        float32, from the recorded log-probabilities, entropies and advantages.
        """
        settings = self.settings
        columns = {name: torch.from_numpy(column) for name, column in completion.values.items()}
        mask, logps = columns["mask"], columns["per_token_logps"]
        if table is None:
            groups, effects = columns["groups"], columns["effects"]
            advantages, old = columns["effective_advantages"], columns["effective_old_per_token_logps"]
        else:
            labels = {name: torch.tensor([getattr(completion, name)]) for name in _LABELS}
            names = ("per_token_logps", "old_per_token_logps", "entropies", "advantages", "mask")
            advantages, old, groups, effects = (
                value[0]
                for value in control(
                    **{name: columns[name].unsqueeze(0) for name in names},
                    **labels,
                    table=table,
                    epsilon_low=settings.epsilon_low,
                    epsilon_high=settings.epsilon_high,
                    top_entropy_share=settings.top_entropy_share,
                )
            )
        weights = effective_weight(
            logps, old, advantages, settings.epsilon_low, settings.epsilon_high, settings.delta
        ).masked_fill(~mask, torch.nan)
        return Outcome(groups.numpy(), effects.masked_fill(~mask, 0).numpy(), weights.numpy())


_LABELS = ("is_hard", "is_correct", "is_judged")


_LONGEST_WAIT = 32  # tokens without a character; each is decoded again with every one that follows


def token_texts(tokenizer: Any, ids: list[int]) -> list[str]:
    """
    The text of each token, such that together they are the text of all. A character of several tokens, as byte-level
    vocabularies spell rare ones, belongs to the last of them; the others have no text.
    """

    def decode(start: int, end: int) -> str:
        return tokenizer.decode(ids[start:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)

    texts: list[str] = []
    # A tokenizer may decode the first token of a sequence differently: the tokens from `context` to `start` stand
    # before those whose text is looked for.
    context = start = 0
    before = ""
    for end in range(1, len(ids) + 1):
        text = decode(context, end)
        # It may be a part of a character, or bytes that spell none: then others follow that do not mend it.
        is_part = text.endswith("\ufffd") and end - start < _LONGEST_WAIT and end < len(ids)
        texts.append("" if is_part else text[len(before) :])
        if not is_part:
            context, start = start, end
            before = decode(context, start)
    return texts


def write(run: str | Path, settings: Settings, rows: list[dict[str, Any]]) -> Path:
    """Write the file of a step, in one step: a kill leaves the old file or the new one. Returns its path."""
    path = Path(run, "tokens", f"step-{settings.step:06d}.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = SCHEMA.with_metadata({"htpo": settings.to_json()})
    partial = path.with_suffix(".parquet.partial")
    parquet.write_table(pa.Table.from_pylist(rows, schema), partial, compression="zstd")
    os.replace(partial, path)
    return path


def steps(run: str | Path) -> dict[int, Path]:
    """The recorded steps of a run, in their order, and their files."""
    files = Path(run, "tokens").glob("step-*.parquet")
    return dict(sorted((int(path.stem.removeprefix("step-")), path) for path in files))


def read(run: str | Path, step: int | None = None) -> Record:
    """
    A recorded step of a run, by default the last.

    Raises:
        FileNotFoundError: if there is no such record, with those there are.
        ValueError: if the file is damaged, or was not written here.
    """
    recorded = steps(run)
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
        settings = Settings.from_json((table.schema.metadata or {})[b"htpo"])
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or no record of tokens: {error!r}.") from error
    if not table.schema.equals(SCHEMA):
        raise ValueError(f"{path} has other columns than those of this version; record the run again.")
    columns = {name: table.column(name) for name in SCHEMA.names}
    rows = [{name: column[i] for name, column in columns.items()} for i in range(len(table))]
    return Record(settings, [_completion(row) for row in rows])


def _completion(row: dict[str, Any]) -> Completion:
    values = {name: row[name].values.to_numpy(zero_copy_only=False).copy() for name in _OF_TOKENS if name != "tokens"}
    if len({len(column) for column in values.values()} | {len(row["tokens"])}) > 1:
        raise ValueError("A row of the record has columns of unequal lengths: it was edited.")
    others = ("prompt", "tokens", *_LABELS, "rewards")
    return Completion(values=values, **{name: row[name].as_py() for name in others})
