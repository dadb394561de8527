"""Colours and labels of groups and runs, the same in every picture and page."""

from typing import Any


#: Okabe and Ito's colours, told apart by colour-blind readers: one hue per difficulty and correctness, pale for low
#: and full for high entropy. In grey, difficulty and correctness are told by labels, line styles or marks.
HUES = {"hard_correct": "#0072B2", "hard_wrong": "#D55E00", "easy_correct": "#009E73", "easy_wrong": "#CC79A7"}
# Of sets of runs: Okabe and Ito's colours again, with dashes and marks for grey.
_SET_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_SET_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)))
_SET_MARKS = ("o", "^", "s", "D", "v", "P", "X")


def group_colour(group: str, paper: str = "#ffffff") -> str:
    """Hexadecimal colour of a group of `GROUPS`; that of low entropy is mixed with the colour of the paper."""
    hue, _, entropy = group.rpartition("_")
    share = 0.6 if entropy == "low" else 0.0
    mixed = (round(a + (b - a) * share) for a, b in zip(_rgb(HUES[hue]), _rgb(paper), strict=True))
    return f"#{bytes(mixed).hex()}"


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours, 1 to 21, as WCAG 2.2 defines it; text needs 4.5."""
    lighter, darker = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def ink(background: str) -> str:
    """Black or white, whichever is easier to read on this background: the contrast is 4.58 at least."""
    return max("#000000", "#ffffff", key=lambda colour: contrast(colour, background))


def group_label(group: str) -> str:
    """`hard_correct_low` as readers see it: `hard · correct · low`."""
    return " · ".join(group.split("_"))


def set_style(i: int) -> dict[str, Any]:
    """Colour, dash and mark of the i-th set of runs, as matplotlib takes them; the first 49 differ."""
    n = len(_SET_COLOURS)
    other = (i + i // n) % n  # from the eighth set on, colours meet other dashes and marks
    return {"color": _SET_COLOURS[i % n], "linestyle": _SET_DASHES[other], "marker": _SET_MARKS[other]}


def _rgb(colour: str) -> bytes:
    return bytes.fromhex(colour.removeprefix("#"))


def _luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in _rgb(colour))]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
