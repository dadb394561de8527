"""Recorded completions under one or two objectives, and their texts as they can be shown anywhere."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..objective.table import GROUPS, Table, get_table
from ..palette import group_label
from .record import Outcome, Record, RecordedCompletion, read_record


class View(NamedTuple):
    """A record under one or two objectives. Completions in which rules changed most come first."""

    record: Record
    names: list[str]  # as they can be shown: a record may be a stranger's
    tables: list[Table]
    rows: list[tuple[RecordedCompletion, list[Outcome]]]  # one outcome per table

    @classmethod
    def make(cls, run: str | Path, step: int | None = None, versus: Table | str | None = None) -> "View":
        """A recorded step, by default the last; `versus` is another objective, or the name of its preset."""
        record = read_record(run, step)
        trained = record.settings.table
        tables, names = [trained], [trained.name]
        if versus is not None:
            tables.append(get_table(versus) if isinstance(versus, str) else versus)
            names.append(tables[1].name if tables[1].name != trained.name else f"{trained.name}, for comparison")
        rows = [
            (completion, [record.outcome(completion), *(record.outcome(completion, table) for table in tables[1:])])
            for completion in record.completions
        ]
        rows.sort(key=lambda row: -np.count_nonzero(row[1][0].effects))
        return cls(record, list(map(visible, names)), tables, rows)

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

    def legend(self, i: int) -> list[tuple[str, str, str, str]]:
        """Of each group under objective `i`: label, rule, share of the tokens, and how many of them a rule changed."""
        trained_on = sum(int(completion.values["mask"].sum()) for completion, _ in self.rows)
        counts = sum((outcomes[i].counts for _, outcomes in self.rows), np.zeros((2, len(GROUPS)), int))
        return [
            (group_label(group), str(rule), f"{n / max(trained_on, 1):.1%}", f"{changed:,}")
            for group, rule, n, changed in zip(GROUPS, self.tables[i].rows, *counts, strict=True)
        ]

    def summary(self, completion: RecordedCompletion) -> str:
        """`hard · correct · Â +1.234 · 64 tokens · math_reward 1`"""
        advantages = np.unique(completion.values["advantages"])
        parts = [
            *completion.kind,
            f"Â {advantages[0]:+.3f}" if len(advantages) == 1 else "Â by token",
            f"{len(completion.tokens)} tokens",
        ]
        for name, reward in zip(self.record.settings.reward_funcs, completion.rewards, strict=True):
            parts.append(f"{visible(name)} {'none' if reward is None else f'{reward:.4g}'}")
        return " · ".join(parts)


_MARKS = {chr(code): chr(0x2400 + code) for code in range(0x20)} | {"\n": "↵\n", "\t": "⇥\t"}


def visible(text: str) -> str:
    """
    A token's text with nothing invisible in it: line breaks and tabs are marked and kept, other control characters,
    those that change the direction of writing and spaces of unusual width are named. A token without text, a part of
    the next one's character, is a dotted circle.
    """
    shown = (c if c.isprintable() else _MARKS.get(c, f"⟨U+{ord(c):04X}⟩") for c in text)
    return "".join(shown) or "◌"
