"""Colours and labels of groups and effects, the same in every picture and page."""

from .objective import EFFECTS


#: Okabe and Ito's colours, told apart by colour-blind readers: one hue per difficulty and correctness, pale for low
#: and full for high entropy. In grey, difficulty and correctness are told by labels, line styles or marks.
HUES = {"hard_correct": "#0072B2", "hard_wrong": "#D55E00", "easy_correct": "#009E73", "easy_wrong": "#CC79A7"}
#: Hexadecimal colour of each of `EFFECTS`.
EFFECT_COLOURS = dict(zip(EFFECTS, ("#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#000000"), strict=True))
#: matplotlib's marker of each of `EFFECTS`.
EFFECT_MARKS = dict(zip(EFFECTS, ("o", "^", "v", "s", "D"), strict=True))


def group_colour(group: str) -> str:
    """Hexadecimal colour of a group of `GROUPS`."""
    hue, _, entropy = group.rpartition("_")
    red, green, blue = (int(HUES[hue][i : i + 2], 16) for i in (1, 3, 5))
    pale = 0.6 if entropy == "low" else 0.0
    return "#" + "".join(f"{round(c + (255 - c) * pale):02x}" for c in (red, green, blue))


def group_label(group: str) -> str:
    """`hard_correct_low` as readers see it: `hard · correct · low`."""
    return " · ".join(group.split("_"))
