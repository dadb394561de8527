"""Recorded completions under one or two objectives, and their texts as they can be shown anywhere."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..objective.table import GROUPS, Table, get_table
from .record import Completion, Outcome, Record, read


class View(NamedTuple):
    """A record under one or two objectives. Completions in which rules changed most come first."""

    record: Record
    names: list[str]  # as they can be shown: a record may be a stranger's
    tables: list[Table]
    rows: list[tuple[Completion, list[Outcome]]]  # one outcome per table

    @classmethod
    def make(cls, run: str | Path, step: int | None = None, versus: Table | str | None = None) -> "View":
        record = read(run, step)
        trained = record.settings.table
        tables, names = [trained], [trained.name]
        if versus is not None:
            tables.append(get_table(versus) if isinstance(versus, str) else versus)
            names.append(tables[1].name if tables[1].name != trained.name else f"{trained.name}, for comparison")
        names = list(map(visible, names))
        rows = [
            (completion, [record.outcome(completion), *(record.outcome(completion, table) for table in tables[1:])])
            for completion in record.completions
        ]
        rows.sort(key=lambda row: -np.count_nonzero(row[1][0].effects))
        return cls(record, names, tables, rows)

    def counts(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of each group, and those of them that a rule changed, under objective `i`; both (8,)."""
        per_completion = [counts(outcomes[i]) for _, outcomes in self.rows]
        return sum(n for n, _ in per_completion), sum(n for _, n in per_completion)  # type: ignore[return-value]

    @property
    def n_tokens(self) -> int:
        """Tokens that are trained on, at least 1 for the shares of nothing."""
        return max(sum(int(completion.values["mask"].sum()) for completion, _ in self.rows), 1)

    @property
    def headline(self) -> str:
        return f"Step {self.record.settings.step}, {' versus '.join(self.names)}"

    @property
    def facts(self) -> str:
        """What the step's numbers depend on."""
        s = self.record.settings
        dual_clip = "no dual clip" if s.delta is None else f"dual clip {s.delta:g}"
        return (
            f"{len(self.rows)} of the step's {s.completions_in_step} completions, drawn at random; clip range "
            f"{1 - s.epsilon_low:g} to {1 + s.epsilon_high:g}, {dual_clip}, high: the top {s.top_entropy_share:.0%} "
            "of a response by entropy"
        )

    def summary(self, completion: Completion) -> str:
        """`hard · correct · Â +1.234 · 64 tokens · math_reward 1`"""
        advantages = np.unique(completion.values["advantages"])
        rewards = (
            f"{visible(name)} {'none' if reward is None else f'{reward:.4g}'}"
            for name, reward in zip(self.record.settings.reward_funcs, completion.rewards, strict=True)
        )
        parts = [
            *kind(completion),
            f"Â {advantages[0]:+.3f}" if len(advantages) == 1 else "Â by token",
            f"{len(completion.tokens)} tokens",
            *rewards,
        ]
        return " · ".join(parts)


def kind(completion: Completion) -> tuple[str, str]:
    """Difficulty of the prompt, and whether the response is correct."""
    verdict = "correct" if completion.is_correct else "wrong"
    return "hard" if completion.is_hard else "easy", verdict if completion.is_judged else "not judged"


def changes(outcome: Outcome) -> str:
    """How many tokens the rules changed, in words."""
    n = np.count_nonzero(outcome.effects)
    return f"{n} {'token' if n == 1 else 'tokens'} changed by a rule"


def counts(outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of each group, and those of them that a rule changed; both (8,)."""
    grouped = outcome.groups >= 0
    groups, changed = outcome.groups[grouped], outcome.groups[grouped & (outcome.effects > 0)]
    return np.bincount(groups, minlength=len(GROUPS)), np.bincount(changed, minlength=len(GROUPS))


def visible(text: str) -> str:
    """
    A token's text with nothing invisible in it: line breaks and tabs are marked and kept, other control characters,
    those that change the direction of writing and spaces of unusual width are named. A token without text, a part of
    the next one's character, is a dotted circle.
    """
    return "".join(character if character.isprintable() else _named(character) for character in text) or "◌"


def _named(character: str) -> str:
    code = ord(character)
    if character in "\n\t":
        return {"\n": "↵\n", "\t": "⇥\t"}[character]
    return chr(0x2400 + code) if code < 0x20 else f"⟨U+{code:04X}⟩"
