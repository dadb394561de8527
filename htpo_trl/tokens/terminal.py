"""The token map in the terminal. Texts come from a model: they are printed as `visible` shows them."""

from pathlib import Path
from typing import Any

from ..objective.table import EFFECTS, GROUPS, Table
from ..palette import group_colour, ink
from .view import View, visible


#: What stands beside a token, by effect.
MARKS = dict(zip(EFFECTS, "××↓↔↑", strict=True))


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
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    view, console = View.make(run, step, versus), console or Console(highlight=False)
    colours = console.color_system is not None and not console.no_color
    styles = {i: f"{ink(colour)} on {colour}" for i, colour in enumerate(map(group_colour, GROUPS))}
    console.print(Text(f"{view.headline}: {view.facts}"))
    for i, name in enumerate(view.names):
        legend = Grid("#", "group", "objective", "tokens", "changed", title=Text(name), title_justify="left")
        for group, (label, *cells) in enumerate(view.legend(i)):
            legend.add_row(str(group + 1), Text(label, styles[group]), *map(Text, cells))
        console.print(legend)
    console.print(Text("Changed by a rule: " + ", ".join(f"{m} {e.replace('_', ' ')}" for e, m in MARKS.items())))
    for number, (completion, outcomes) in enumerate(view.rows, 1):
        console.print(Text(f"\n#{number}  {view.summary(completion)}", "bold"))
        console.print(Text(visible(completion.prompt), "dim"))
        for name, outcome in zip(view.names, outcomes, strict=True):
            console.print(Text(f"{name}: {outcome.changes}", "italic"))
            line = Text()
            for token, group, effect in zip(completion.tokens, outcome.groups, outcome.effects, strict=True):
                text = visible(token)
                if not colours and group < 0:
                    text = f"~{text}~"
                elif not colours and GROUPS[group].endswith("high"):
                    text = f"‹{text}›"
                line.append(text + (MARKS[EFFECTS[effect - 1]] if effect else ""), styles.get(int(group), "dim"))
            console.print(line)
