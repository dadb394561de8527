"""Colours and labels of groups, the same in every picture and page."""

#: Okabe and Ito's colours, told apart by colour-blind readers: one hue per difficulty and correctness, pale for low
#: and full for high entropy. In grey, difficulty and correctness are told by labels, line styles or marks.
HUES = {"hard_correct": "#0072B2", "hard_wrong": "#D55E00", "easy_correct": "#009E73", "easy_wrong": "#CC79A7"}


def group_colour(group: str, paper: str = "#ffffff") -> str:
    """Hexadecimal colour of a group of `GROUPS`; that of low entropy is mixed with the colour of the paper."""
    hue, _, entropy = group.rpartition("_")
    share = 0.6 if entropy == "low" else 0.0
    colours = (bytes.fromhex(colour[1:]) for colour in (HUES[hue], paper))
    mixed = (round(a + (b - a) * share) for a, b in zip(*colours, strict=True))
    return f"#{bytes(mixed).hex()}"


def ink(background: str) -> str:
    """Black or white, whichever is easier to read on this background: the contrast (WCAG 2.2) is 4.58 at least."""
    shares = (value / 255 for value in bytes.fromhex(background[1:]))
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares)
    luminance = sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "#000000" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "#ffffff"


def group_label(group: str) -> str:
    """`hard_correct_low` as readers see it: `hard · correct · low`."""
    return " · ".join(group.split("_"))
