"""The token map: an HTML page, of `page.html.jinja` with `page.css.jinja` and `page.js`, and text in the terminal."""

import base64
import hashlib
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..objective.presets import get_table
from ..objective.table import EFFECTS, GROUPS, Table
from ..output.writing import write_atomically
from ..palette import group_colour, group_label, ink
from ..utils import MissingPackageError
from .record import Outcome, Record, RecordedCompletion, read_record, recorded_steps


LIGHT, DARK = "#ffffff", "#14171c"  # paper of the page
_MARKS = dict(zip(EFFECTS, "⌊⌈↓↔↑×⊕⊖⊙⊛⊗", strict=True))  # beside a token, by its effect


def write_token_map(
    run: str | Path, step: int | None = None, versus: Table | str | None = None, output: str | Path | None = None
) -> Path:
    """
    Write the token map of a recorded step as one HTML page that needs no network: recorded completions in which every
    token is coloured by its functional group. Returns its path.

    Args:
        run (`str` or `Path`):
            Directory of the run, with records in `tokens/`, see [`~htpo_trl.tokens.TokenRecorder`].
        step (`int`, *optional*):
            A recorded optimizer step; by default the last.
        versus ([`~htpo_trl.objective.table.Table`] or `str`, *optional*):
            Another objective, or its name as `HTPOConfig.objective` takes it, to be shown beside: what it would have
            made of the same tokens, computed from the recorded log-probabilities, entropies and advantages.
        output (`str` or `Path`, *optional*):
            The page; by default beside the record, `tokens/step-<N>.html`, or `step-<N>-versus-<name>.html`.

    Raises:
        FileNotFoundError: if there is no such record.
        ValueError: if it is damaged, or there is no such preset.
    """
    view = View.make(run, step, versus)
    data = [
        {
            "kind": completion.kind,
            "prompt": visible(completion.prompt),
            "tokens": [*map(visible, completion.tokens)],
            "ids": completion.values["token_ids"],
            "entropy": completion.values["entropies"],
            "ratio": completion.ratio,
            "advantage": completion.values["advantages"],
            "outcomes": [outcome._asdict() | {"counts": outcome.counts.tolist()} for outcome in outcomes.values()],
        }
        for completion, outcomes in view.rows
    ]
    files = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    files.trim_blocks = files.lstrip_blocks = True
    files.policies["json.dumps_kwargs"] = {"default": _base64}
    html = files.get_template("page.html.jinja").render(
        view=view,
        run=Path(run).resolve().name,
        script=Markup(Path(__file__).with_name("page.js").read_text(encoding="utf-8")),
        hash=_hash,
        data=data,
        groups=GROUPS,
        effects=view.effects,
        papers={"light": LIGHT, "dark": DARK},
        group_colour=group_colour,
        ink=ink,
    )
    record = recorded_steps(run)[view.record.settings.step]
    other = "" if versus is None else f"-versus-{re.sub(r'[^A-Za-z0-9.-]+', '-', [*view.tables][1])}"
    path = Path(output) if output else record.with_name(f"{record.stem}{other}.html")
    write_atomically(path, html)
    return path


def print_token_map(
    run: str | Path, step: int | None = None, versus: Table | str | None = None, console: Any = None
) -> None:
    """
    Print the token map of a recorded step. Without colours, high-entropy tokens stand in ‹› and those that are not
    trained on in ~~; difficulty and correctness are in each headline.

    Args:
        run, step, versus:
            As for [`~htpo_trl.tokens.write_token_map`]; two objectives are shown one below the other.
        console (`rich.console.Console`, *optional*):
            Where to print; by default standard output.
    """
    if find_spec("rich") is None:
        raise MissingPackageError("The token map in a terminal needs rich: pip install 'htpo_trl[report]'.")
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    view, console = View.make(run, step, versus), console or Console(highlight=False)
    colours = console.color_system is not None and not console.no_color
    styles = [f"{ink(colour)} on {colour}" for colour in map(group_colour, GROUPS)] + ["dim"]  # of group -1
    marks = ["", *_MARKS.values()]
    brackets = [("‹›" if group.endswith("high") else ("", "")) for group in GROUPS] + ["~~"]
    console.print(Text(f"{view.headline}: {view.facts}"))
    for name in view.tables:
        legend = Grid("#", "group", "objective", "tokens", "changed", title=Text(name), title_justify="left")
        for group, (label, *cells) in enumerate(view.legend(name)):
            legend.add_row(str(group + 1), Text(label, styles[group]), *map(Text, cells))
        console.print(legend)
    effects = [f"{_MARKS[effect]} {effect.replace('_', ' ')}" for effect in view.effects.values()]
    console.print(Text(f"Changed by a rule: {', '.join(effects)}"))
    for number, (completion, outcomes) in enumerate(view.rows, 1):
        console.print(Text(f"\n#{number}  {view.summary(completion)}", "bold"))
        console.print(Text(visible(completion.prompt), "dim"))
        for name, outcome in outcomes.items():
            console.print(Text(f"{name}, tokens changed by a rule: {np.count_nonzero(outcome.effects)}", "italic"))
            line = Text()
            for token, group, effect in zip(completion.tokens, outcome.groups, outcome.effects, strict=True):
                before, after = ("", "") if colours else brackets[group]
                line.append(before + visible(token) + after + marks[effect], styles[group])
            console.print(line)


class View(NamedTuple):
    """A record under one or two objectives. Completions in which rules changed most come first."""

    record: Record
    tables: dict[str, Table]  # by their names as they can be shown: a record may be a stranger's
    rows: list[tuple[RecordedCompletion, dict[str, Outcome]]]  # one outcome per table

    @classmethod
    def make(cls, run: str | Path, step: int | None = None, versus: Table | str | None = None) -> "View":
        """A recorded step, by default the last; `versus` is another objective, or the name of its preset."""
        record = read_record(run, step)
        trained = visible(record.settings.table.name)
        tables = {trained: record.settings.table}
        if versus is not None:
            other = get_table(versus) if isinstance(versus, str) else versus
            name = visible(other.name)
            tables[f"{name}, for comparison" if name == trained else name] = other
        stored = [record.outcome(row) for row in record.completions]
        outcomes = [stored if name == trained else record.outcomes(table) for name, table in tables.items()]
        rows = [
            (row, dict(zip(tables, each, strict=True)))
            for row, *each in zip(record.completions, *outcomes, strict=True)
        ]
        rows.sort(key=lambda row: -np.count_nonzero(row[0].values["effects"]))
        return cls(record, tables, rows)

    @property
    def headline(self) -> str:
        return f"Step {self.record.settings.step}, {' versus '.join(self.tables)}"

    @property
    def effects(self) -> dict[int, str]:
        """What the rules of the tables can do to a token, by the code that it has."""
        possible = {effect for table in self.tables.values() for effect in table.effects}
        return {code: effect for code, effect in enumerate(EFFECTS, 1) if effect in possible}

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

    def legend(self, name: str) -> list[tuple[str, str, str, str]]:
        """Of each group under an objective: label, rule, share of the tokens, and how many of them a rule changed."""
        trained_on = sum(int(completion.values["mask"].sum()) for completion, _ in self.rows)
        counts = sum((outcomes[name].counts for _, outcomes in self.rows), np.zeros((2, len(GROUPS)), int))
        return [
            (group_label(group), str(rule), f"{n / max(trained_on, 1):.1%}", f"{changed:,}")
            for group, rule, n, changed in zip(GROUPS, self.tables[name].rows, *counts, strict=True)
        ]

    def summary(self, completion: RecordedCompletion) -> str:
        """`hard · correct · Â +1.234 · 64 tokens · math_reward 1`"""
        advantages = np.unique(completion.values["advantages"])
        advantage = f"Â {advantages[0]:+.3f}" if len(advantages) == 1 else "Â by token"
        rewards = [
            f"{visible(name)} {'none' if reward is None else f'{reward:.4g}'}"
            for name, reward in zip(self.record.settings.reward_funcs, completion.rewards, strict=True)
        ]
        return " · ".join([*completion.kind, advantage, f"{len(completion.tokens)} tokens", *rewards])


_CONTROLS = {chr(code): chr(0x2400 + code) for code in range(0x20)} | {"\n": "↵\n", "\t": "⇥\t"}


def visible(text: str) -> str:
    """
    A token's text with nothing invisible in it: line breaks and tabs are marked and kept, other control characters,
    those that change the direction of writing and spaces of unusual width are named. A token without text, a part of
    the next one's character, is a dotted circle.
    """
    shown = (c if c.isprintable() else _CONTROLS.get(c, f"⟨U+{ord(c):04X}⟩") for c in text)
    return "".join(shown) or "◌"


def _base64(column: np.ndarray) -> str:
    """Columns of numbers in JSON: little-endian arrays."""
    return base64.b64encode(column.astype(column.dtype.newbyteorder("<")).tobytes()).decode()


def _hash(source: str) -> Markup:
    return Markup(f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'")
