"""Tables of rules: how they read, that they are constants, how rows are overridden, and what is refused."""

import dataclasses
import math
import re

import pytest

from htpo_trl.objective import PRESETS, Clip, Detach, KeepGradient, Table, get_table, parse_rule
from htpo_trl.objective.gates import FUNCTIONS


RULES = ", ".join(["clip", "detach", "keep_gradient", "scale", "penalty", *FUNCTIONS])


def test_tables_read_like_the_figure():
    assert str(PRESETS["htpo"]).splitlines() == [
        "htpo",
        " 1  hard · correct · low   J_PPO; the lowest-entropy 0.6% of the group detached",
        " 2  hard · correct · high  J_PPO; r > 1+ε_hi: (1+ε_hi)·π/sg[π]·Â, r < 1-ε_lo: min(1/r, 10)·π/sg[π]·Â"
        " if Â agrees with the verdict",
        " 3  hard · wrong · low     J_PPO",
        " 4  hard · wrong · high    J_PPO; r < 1-ε_lo: (1-ε_lo)·π/sg[π]·Â if Â agrees with the verdict",
        " 5  easy · correct · low   J_PPO",
        " 6  easy · correct · high  J_PPO; the highest-entropy 2% of the group detached",
        " 7  easy · wrong · low     J_PPO",
        " 8  easy · wrong · high    J_PPO; r < 1-ε_lo: (1-ε_lo)·π/sg[π]·Â if Â agrees with the verdict",
    ]


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Detach(1.0), "detached"),
        (
            PRESETS["htpo-released"].rows[1],
            "J_PPO; r > 1+ε_hi: -(1+ε_hi)·π/sg[π]·Â, r < 1-ε_lo: -1/r·π/sg[π]·Â",
        ),
        (
            PRESETS["gppo"].rows[0],
            "J_PPO; r > 1+ε_hi: (1+ε_hi)·π/sg[π]·Â, r < 1-ε_lo: (1-ε_lo)·π/sg[π]·Â if clipped",
        ),
        (
            PRESETS["aspo"].rows[0],
            "J_PPO; in range: min(1/r, 10)·π/sg[π]·Â, r < 1-ε_lo: min(1/r, 10)·π/sg[π]·Â if Â > 0",
        ),
        (KeepGradient(above=0.5, cap=3, when="always"), "J_PPO; r > 1+ε_hi: 0.5·π/sg[π]·Â"),
        (KeepGradient(above=5.0, cap=3, when="always"), "J_PPO; r > 1+ε_hi: 3·π/sg[π]·Â"),
    ],
)
def test_rules_read_like_the_papers(rule, text):
    assert str(rule) == text


def test_traits_of_tables():
    assert {name for name, table in PRESETS.items() if table.draws} == {"clip-cov"}
    asking = {"htpo", "htpo-released", "dapo", "none"}  # the last two change nothing
    assert {name for name, table in PRESETS.items() if not table.holds_unjudged} == asking


def test_the_heading_says_how_sets_are_cut():
    headings = {name: str(table).splitlines()[0] for name, table in PRESETS.items() if table.selection != "exact"}
    assert headings == {
        "htpo-released": "htpo-released (sets by value, as released)",
        "archer": "archer (high: above the response's quantile)",
    }


@pytest.mark.parametrize("value", [PRESETS["htpo"], *PRESETS["htpo"].rows[:3]], ids=lambda value: type(value).__name__)
def test_tables_and_rules_are_constants(value):
    """They are shared by all who use a preset, and rules are keys of dictionaries."""
    assert hash(value) == hash(dataclasses.replace(value))
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.share = 0.5


def test_overrides():
    table = get_table("htpo", {"hard_correct_low": "clip", "easy_correct_high": {"rule": "detach", "share": 0.1}})
    assert table.rows[0] == Clip()
    assert table.rows[5] == Detach(0.1, "lowest")
    assert table.rows[1] == PRESETS["htpo"].rows[1]
    assert (table.name, table.replace({"high": "clip"}).name) == ("htpo*", "htpo*")
    assert PRESETS["htpo"].replace({"hard_wrong_low": "clip"}).name == "htpo"  # as it was
    assert isinstance(parse_rule({"rule": "keep_gradient", "below": 0.5}), KeepGradient)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: get_table("htpoo"),
            f"Unknown objective 'htpoo'. Did you mean 'htpo'? The presets are {', '.join(PRESETS)}; "
            "a table of your own is named by its file, as in mine.py:TABLE, or its module, as in package.mine:TABLE.",
        ),
        (
            lambda: get_table("htpo", {"hard_right_low": "clip", "easy": "clip"}),
            "objective_overrides: No such group: hard_right_low. The groups are hard_correct_low, hard_correct_high, "
            "hard_wrong_low, hard_wrong_high, easy_correct_low, easy_correct_high, easy_wrong_low, easy_wrong_high; "
            "some of the words, as in high or hard_wrong, name all groups that have them, all names all.",
        ),
        (lambda: parse_rule("drop"), f"Unknown rule 'drop' in 'drop'. The rules are {RULES}."),
        (
            lambda: parse_rule({"share": 0.1}),
            f"Unknown rule None in {{'share': 0.1}}. The rules are {RULES}.",
        ),
        (
            lambda: parse_rule({"rule": "detach", "part": 1, "bit": 2}),
            "Rule 'detach' has no option bit, part; "
            "it takes share, which, by, over, at_least, rounded, above, below, where.",
        ),
        (
            lambda: parse_rule({"rule": "clip", "share": 1}),
            "Rule 'clip' has no option share; it takes epsilon_low, epsilon_high, delta.",
        ),
        (
            lambda: parse_rule({"rule": "detach"}),
            "Rule 'detach' needs share, a number, as in {rule: detach, share: 0.5}.",
        ),
        (lambda: Detach(0.0), "Detach: share=0.0 must lie in (0, 1]; use the rule `clip` to change nothing."),
        (lambda: Detach(1.5), "Detach: share=1.5 must lie in (0, 1]; use the rule `clip` to change nothing."),
        (lambda: Detach(0.1, "middle"), "Detach: which='middle' is not one of 'lowest', 'highest', 'random'."),
        (
            lambda: KeepGradient(),
            "KeepGradient: give a weight for above, inside or below; use the rule `clip` for none.",
        ),
        *(
            (
                lambda region=region, weight=weight: KeepGradient(**{region: weight}),
                f"KeepGradient: {region}={weight} must be positive; use sign=-1 for the other direction.",
            )
            for region in ("above", "inside", "below")
            for weight in (-1.0, 0.0)
        ),
        *(
            (
                lambda region=region, weight=weight: KeepGradient(**{region: weight}),
                f"KeepGradient: {region}={weight} must be {'finite' if weight == math.inf else 'a number'}.",
            )
            for region in ("above", "inside", "below")
            for weight in (math.nan, math.inf, True)
        ),
        (lambda: KeepGradient(above=1.0, cap="x"), "KeepGradient: cap='x' must be a number."),
        (lambda: KeepGradient(above=1.0, cap=-1), "KeepGradient: cap=-1 must be positive."),
        (
            lambda: parse_rule({"rule": "scale"}),
            "Rule 'scale' needs factor, a number, as in {rule: scale, factor: 0.5}.",
        ),
        (lambda: Clip(epsilon_high="none"), "Clip: epsilon_high='none' must be a number of at least 0."),
        (
            lambda: KeepGradient(above="edge"),
            "KeepGradient: above='edge' is not one of 'bound', 'inverse_ratio'.",
        ),
        (
            lambda: KeepGradient(inside="bound"),
            "KeepGradient: inside='bound' has no meaning; use 'inverse_ratio' or a number.",
        ),
        (
            lambda: KeepGradient(inside="inverse_ratio", when="clipped"),
            "KeepGradient: nothing is clipped inside the range; drop `inside` or change `when`.",
        ),
        (lambda: KeepGradient(above="bound", cap=0), "KeepGradient: cap=0 must be positive."),
        (
            lambda: KeepGradient(above="bound", when="never"),
            "KeepGradient: when='never' is not one of 'agrees', 'clipped', 'positive', 'always'.",
        ),
        (lambda: KeepGradient(above="bound", sign=2), "KeepGradient: sign=2 is not one of 1, -1."),
        (
            lambda: Table("short", (Clip(),)),
            "Table 'short' has 1 rows; give one for each of hard_correct_low, hard_correct_high, hard_wrong_low, "
            "hard_wrong_high, easy_correct_low, easy_correct_high, easy_wrong_low, easy_wrong_high.",
        ),
        (
            lambda: Table("odd", (Clip(),) * 8, selection="loose"),
            "Table: selection='loose' is not one of 'exact', 'released', 'quantile'.",
        ),
    ],
)
def test_bad_tables_are_refused(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()
