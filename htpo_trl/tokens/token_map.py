"""
The token map: recorded completions in which every token is coloured by its functional group, as an HTML page or in
the terminal, under the objective they were trained by and, beside it, under another.

Texts come from a model. They reach neither the page's markup nor the terminal as they are: see
[`~htpo_trl.tokens.view.visible`].
"""

from pathlib import Path
from typing import Any

from ..objective.table import EFFECTS, GROUPS, Table
from ..palette import group_colour, group_label, ink
from .page import page
from .record import steps
from .view import View, changes, visible


#: What stands beside a token in the terminal, by effect.
MARKS = dict(zip(EFFECTS, "××↓↔↑", strict=True))


def write_token_map(
    run: str | Path, step: int | None = None, versus: Table | str | None = None, output: str | Path | None = None
) -> Path:
    """
    Write the token map of a recorded step as one HTML page that needs no network. Returns its path.

    Args:
        run (`str` or `Path`):
            Directory of the run, with records in `tokens/`, see [`~htpo_trl.tokens.callback.TokenRecorder`].
        step (`int`, *optional*):
            A recorded optimizer step; by default the last.
        versus ([`~htpo_trl.objective.Table`] or `str`, *optional*):
            Another objective, or the name of its preset, to be shown beside: what it would have made of the same
            tokens, computed from the recorded log-probabilities, entropies and advantages.
        output (`str` or `Path`, *optional*):
            The page; by default beside the record, `tokens/step-<N>.html`.

    Raises:
        FileNotFoundError: if there is no such record.
        ValueError: if it is damaged, or there is no such preset.
    """
    view = View.make(run, step, versus)
    path = Path(output) if output else steps(run)[view.record.settings.step].with_suffix(".html")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(view, Path(run).resolve().name), encoding="utf-8")
    return path


def print_token_map(
    run: str | Path, step: int | None = None, versus: Table | str | None = None, console: Any = None
) -> None:
    """
    Print the token map of a recorded step. Without colours, high-entropy tokens stand in ‹› and those that are not
    trained on in ~~; difficulty and correctness are in each headline.

    Args:
        run, step, versus:
            As for [`write_token_map`]; two objectives are shown one below the other.
        console (`rich.console.Console`, *optional*):
            Where to print; by default standard output.
    """
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    view, console = View.make(run, step, versus), console or Console(highlight=False)
    colours = console.color_system is not None and not console.no_color
    styles = {i: f"{ink(colour)} on {colour}" for i, colour in enumerate(map(group_colour, GROUPS))}
    console.print(Text(f"{view.headline}: {view.facts}"))
    for i, (name, table) in enumerate(zip(view.names, view.tables, strict=True)):
        legend = Grid("#", "group", "objective", "tokens", "changed", title=Text(name), title_justify="left")
        for group, (rule, n, changed) in enumerate(zip(table.rows, *view.counts(i), strict=True)):
            label = Text(group_label(GROUPS[group]), styles[group])
            legend.add_row(str(group + 1), label, Text(str(rule)), f"{n / view.n_tokens:.1%}", f"{changed:,}")
        console.print(legend)
    console.print(Text("Changed by a rule: " + ", ".join(f"{m} {e.replace('_', ' ')}" for e, m in MARKS.items())))
    for number, (completion, outcomes) in enumerate(view.rows, 1):
        console.print(Text(f"\n#{number}  {view.summary(completion)}", "bold"))
        console.print(Text(visible(completion.prompt), "dim"))
        for name, outcome in zip(view.names, outcomes, strict=True):
            console.print(Text(f"{name}: {changes(outcome)}", "italic"))
            line = Text()
            for token, group, effect in zip(completion.tokens, outcome.groups, outcome.effects, strict=True):
                text = visible(token)
                if not colours and group < 0:
                    text = f"~{text}~"
                elif not colours and GROUPS[group].endswith("high"):
                    text = f"‹{text}›"
                line.append(text + (MARKS[EFFECTS[effect - 1]] if effect else ""), styles.get(int(group), "dim"))
            console.print(line)
