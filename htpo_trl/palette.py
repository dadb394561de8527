"""Colours and labels of groups, effects and runs, the same in every picture and page."""

from typing import Any

from .objective import EFFECTS


# Okabe and Ito's colours, told apart by colour-blind readers: one hue per difficulty and correctness, pale for low and
# full for high entropy. In grey, difficulty and correctness are told by labels, line styles or marks.
HUES = {"hard_correct": "#0072B2", "hard_wrong": "#D55E00", "easy_correct": "#009E73", "easy_wrong": "#CC79A7"}
EFFECT_COLOURS = dict(zip(EFFECTS, ("#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#000000"), strict=True))
EFFECT_MARKS = dict(zip(EFFECTS, ("o", "^", "v", "s", "D"), strict=True))
# Of sets of runs: Okabe and Ito's colours again, with dashes and marks for grey.
_SET_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_SET_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)))
_SET_MARKS = ("o", "^", "s", "D", "v", "P", "X")


def group_colour(group: str) -> str:
    """Hexadecimal colour of a group of `GROUPS`."""
    hue, _, entropy = group.rpartition("_")
    red, green, blue = (int(HUES[hue][i : i + 2], 16) for i in (1, 3, 5))
    pale = 0.6 if entropy == "low" else 0.0
    return "#" + "".join(f"{round(c + (255 - c) * pale):02x}" for c in (red, green, blue))


def group_label(group: str) -> str:
    """`hard_correct_low` as readers see it: `hard · correct · low`."""
    return " · ".join(group.split("_"))


def set_style(i: int) -> dict[str, Any]:
    """Colour, dash and mark of the i-th set of runs, as matplotlib takes them; the first 49 differ."""
    n = len(_SET_COLOURS)
    other = (i + i // n) % n  # from the eighth set on, colours meet other dashes and marks
    return {"color": _SET_COLOURS[i % n], "linestyle": _SET_DASHES[other], "marker": _SET_MARKS[other]}
