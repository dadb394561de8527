"""The figures of the docs: their numbers are closed forms, and the committed images show those of the present code."""

import json

import pytest
from PIL import Image

from docs.figure_data import counts_data, detached_data, gradient_data
from docs.figures import IMAGES, figures
from htpo_trl.objective import GROUPS, PRESETS


FIGURES = figures()


@pytest.mark.parametrize("name", FIGURES)
def test_committed_images_show_the_present_code(name):
    draw, data = FIGURES[name]
    path = IMAGES / f"{name}.png"
    assert approximate(json.loads(Image.open(path).text["Data"])) == data, "run `python -m docs.figures`"
    assert path.stat().st_size < 150_000
    draw(data).draw_without_rendering()


def approximate(data):
    if isinstance(data, dict):
        return {name: approximate(value) for name, value in data.items()}
    if isinstance(data, list):
        return [approximate(value) for value in data]
    return pytest.approx(data, rel=1e-5, abs=1e-9) if isinstance(data, float) else data


def plain(r, positive):
    """dJ/dlogπ of PPO-clip with dual clip, in units of Â."""
    inside = r <= 1.28 if positive else 0.8 <= r <= 10
    return r if inside else 0.0


def group_2(r, positive):
    return 1.28 if positive and r > 1.28 else min(1 / r, 10) if positive and r < 0.8 else plain(r, positive)


def groups_4_and_8(r, positive):
    return 0.8 if not positive and r < 0.8 else plain(r, positive)


def group_2_released(r, positive):
    return -1.28 if r > 1.28 else -1 / r if r < 0.8 else plain(r, positive)


def groups_4_and_8_released(r, positive):
    return -0.8 if r < 0.8 else plain(r, positive)


def gppo(r, positive):
    return 1.28 if positive and r > 1.28 else groups_4_and_8(r, positive)


def aspo(r, positive):
    return min(1 / r, 10) if positive and r <= 1.28 else plain(r, positive)


@pytest.mark.parametrize(
    ("preset", "groups", "weight"),
    [
        ("htpo", "hard_correct_low easy_correct_high", lambda r, positive: 0.0),
        ("htpo", "hard_correct_high", group_2),
        ("htpo", "hard_wrong_high easy_wrong_high", groups_4_and_8),
        ("htpo-released", "hard_correct_low easy_correct_high", lambda r, positive: 0.0),
        ("htpo-released", "hard_correct_high", group_2_released),
        ("htpo-released", "hard_wrong_high easy_wrong_high", groups_4_and_8_released),
        (
            "high-entropy-only",
            "hard_correct_low hard_wrong_low easy_correct_low easy_wrong_low",
            lambda r, positive: 0.0,
        ),
        ("gppo", " ".join(GROUPS), gppo),
        ("aspo", " ".join(GROUPS), aspo),
    ],
)
def test_plotted_weights_are_closed_forms(preset, groups, weight):
    curves = gradient_data(PRESETS[preset])
    for name, expected in (("J_PPO", plain), (f"{preset}: {groups}", weight)):
        for sign, positive in (("Â > 0", True), ("Â < 0", False)):
            for piece, weights in zip(curves["ratio"], curves[name][sign], strict=True):
                # The ends of a piece are rounded onto its edges.
                inner = [expected(r, positive) for r in piece[1:-1]]
                assert weights[1:-1] == pytest.approx(inner, rel=1e-5)
                for end, towards in ((0, 1 + 1e-7), (-1, 1 - 1e-7)):
                    assert weights[end] == pytest.approx(expected(piece[end] * towards, positive), rel=1e-5)


def test_every_changed_group_is_plotted():
    for table in PRESETS.values():
        curves = {name for name in gradient_data(table) if name not in ("ratio", "J_PPO")}
        plotted = [group for name in curves for group in name.partition(": ")[2].split()]
        changed = [str(rule) != "J_PPO" for rule in table.rows]
        assert len(plotted) == len(set(plotted)) == sum(changed)


def test_other_presets_can_be_drawn():
    drawn = figures("dapo", "gppo")
    assert set(drawn) == {"objective-dapo", "objective-gppo", "gradient-gppo"}  # plain PPO-clip has nothing to show
    for draw, data in drawn.values():
        draw(data).draw_without_rendering()


def test_detached_tokens_are_the_ends_of_the_ranking():
    runs = detached_data(PRESETS["htpo"])
    assert runs["hard · correct"] == [
        [0, 4, "hard_correct_low", "detach_lowest"],  # ⌊0.006·800⌋
        [4, 800, "hard_correct_low", None],
        [800, 1000, "hard_correct_high", None],
    ]
    assert runs["easy · correct"][1:] == [
        [800, 996, "easy_correct_high", None],
        [996, 1000, "easy_correct_high", "detach_highest"],  # ⌊0.02·200⌋
    ]
    assert not any(effect for kind in ("hard · wrong", "easy · wrong") for *_, effect in runs[kind])


def test_shares_need_long_responses():
    counts = counts_data(PRESETS["htpo"], PRESETS["htpo-released"])

    def first(group, table):
        return next(length for length, n in counts[group][table] if n > 0)

    # ⌊0.006·n_low⌋ is 1 from 167 low tokens on, ⌊0.02·n_high⌋ from 50 high ones; a fifth is high.
    assert first("hard_correct_low", "htpo") == 208 == 167 + 208 // 5
    assert first("easy_correct_high", "htpo") == 250 == 50 * 5
    # Released: strictly below the second lowest takes 334 low tokens; at or above the highest is always one.
    assert first("hard_correct_low", "htpo-released") == 417 == 334 + 417 // 5
    assert first("easy_correct_high", "htpo-released") == 1
