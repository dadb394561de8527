"""The picture of a few completions of the laptop run: which token is in which group."""

from pathlib import Path

from ..objective import EFFECTS, GROUPS
from ..palette import EFFECT_COLOURS, group_colour, group_label
from .figures import new_figure


def write_token_figure(examples: list[dict], path: Path) -> None:
    """Draw completions, every token coloured by its group and framed where a rule changed its objective, as a PNG."""
    columns = 34
    rows = [max(1, -(-len(example["tokens"]) // columns)) for example in examples]
    height = 0.34 * (sum(rows) + 1.6 * len(examples)) + 1.0
    figure = new_figure(height)
    axis = figure.subplots()
    axis.axis("off")
    y = 0.0
    for example, n_rows in zip(examples, rows, strict=True):
        axis.text(0, y, f"{example['prompt']}   ({example['kind']})", fontsize=10, va="center", family="monospace")
        for i, (token, group, effect) in enumerate(
            zip(example["tokens"], example["groups"], example["effects"], strict=True)
        ):
            x, line = i % columns, y - 1.05 - i // columns
            frame = EFFECT_COLOURS[effect] if effect else "white"
            axis.add_patch(
                _rectangle(x, line, facecolor=group_colour(group), edgecolor=frame, linewidth=2 if effect else 0.5)
            )
            text = "end" if token == "<eos>" else token
            colour = "white" if group.endswith("high") else "black"
            size = 6 if len(text) > 1 else 11
            axis.text(x + 0.5, line, text, ha="center", va="center", family="monospace", fontsize=size, color=colour)
        y -= n_rows + 1.6
    present = [group for group in GROUPS if any(group in example["groups"] for example in examples)]
    touched = [effect for effect in EFFECTS if any(effect in example["effects"] for example in examples)]
    patches = [_rectangle(0, 0, facecolor=group_colour(group), label=group_label(group)) for group in present]
    patches += [
        _rectangle(0, 0, facecolor="none", edgecolor=EFFECT_COLOURS[e], linewidth=2, label=e.replace("_", " "))
        for e in touched
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=4, frameon=False)
    axis.set(xlim=(-0.2, columns + 0.2), ylim=(y + 0.4, 0.8))
    figure.savefig(path, dpi=120)


def _rectangle(x: float, y: float, **kwargs):
    from matplotlib.patches import Rectangle

    return Rectangle((x, y - 0.45), 1, 0.9, **kwargs)
