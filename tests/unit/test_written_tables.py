"""What is printed of a table tells it from every other one that does something else."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from htpo_trl.objective import GROUPS, PRESETS, Table, control, effective_weight, parse_rule
from htpo_trl.objective.description import show
from htpo_trl.objective.gates import FUNCTIONS
from htpo_trl.objective.selections import number

from .test_mixed_rows import rows, two_of_each


def told_and_done(table, seed=0):
    """How it reads, without its name, and the gradient of 9 responses."""
    inputs = two_of_each(30)
    drift = torch.linspace(-3, 3, 30, dtype=torch.float64).expand(9, 30).clone()
    drift[::2] = 0.2 * drift[::2]
    drift[5:] = 0.02 * drift[5:] + 0.3
    inputs["old_per_token_logps"] = inputs["per_token_logps"] - drift
    inputs["advantages"] = torch.tensor([1.0, -1, 0.5, -2, 1, -1, 1, -1, 2, -2]).double()[:9]
    torch.manual_seed(seed)
    result = control(**inputs, table=table)
    effective = (inputs["per_token_logps"], result.old_per_token_logps, result.advantages)
    return str(table).split("\n", 1)[1], effective_weight(*effective, 0.2, 0.28, 10.0)


# Another value of each option: the next by a tenth of a per mille, and one that is far.
OTHERS = {
    "which": ["lowest", "highest", "random"],
    "by": ["entropy", "surprisal", "covariance", "drift"],
    "over": ["response", "batch"],
    "rounded": ["down", "up"],
    "where": ["all", "positive", "negative", "unclipped"],
    "when": ["agrees", "clipped", "positive", "always"],
    "delta": [None, "none", 5.0],
    "at_least": [0, 1, 2, 7],
    "sign": [1, -1],
    **{name: [None, 0.3, 0.30001, 0.7] for name in ("epsilon_low", "epsilon_high", "entropy_below")},
    **{name: [None, 0.3, 0.30001, "bound", "inverse_ratio"] for name in ("above", "below")},
    "inside": [None, 0.3, 0.30001, "inverse_ratio"],
    "cap": [math.inf, 10.0, 1.1, 1.10001, 0.5],
    "share": [1.0, 0.1, 0.10001, 1 / 3, 0.333333, 0.0002, 0.00020001],
    "factor": [0.5, 0.50001, 2.0],
    "beta": [0.5, 0.50001, 2.0],
}
SELECTED = ("share", "which", "by", "over", "at_least", "rounded", "above", "below", "where")
OPTIONS = {
    "clip": ("epsilon_low", "epsilon_high", "delta"),
    "keep_gradient": ("above", "inside", "below", "cap", "when", "sign"),
    "detach": SELECTED,
    "scale": (*SELECTED, "factor", "entropy_below"),
    "penalty": (*SELECTED, "beta"),
}
NEEDED = {
    "detach": {"share": 1.0},
    "scale": {"factor": 0.5},
    "penalty": {"beta": 0.5},
    "keep_gradient": {"above": 0.3},
}


def neighbours(rule):
    """Rules that differ from one in one option."""
    name = rule["rule"]
    defaults = dict(FUNCTIONS[name].options) if name in FUNCTIONS else {}
    for option in defaults or OPTIONS.get(name, ()):
        values = [defaults[option] * 1.00001 + 1e-9, defaults[option] + 1.0] if defaults else OTHERS[option]
        for value in values:
            if isinstance(value, str) and option in ("above", "below") and name != "keep_gradient":
                continue
            other = {key: value for key, value in {**rule, option: value}.items() if value is not None}
            try:
                parse_rule(other)
            except ValueError:  # no such combination
                continue
            yield other


@settings(max_examples=15)
@given(row=rows, place=st.integers(0, 10))
def test_rows_that_differ_in_one_option_read_otherwise(row, place):
    """Unless they do the same."""
    place %= len(row)
    mine = told_and_done(Table("mine", (parse_rule(row),) * 8))
    for rule in neighbours(row[place]):
        other = told_and_done(Table("other", (parse_rule([*row[:place], rule, *row[place + 1 :]]),) * 8))
        assert other[0] != mine[0] or torch.equal(other[1], mine[1]), rule


@pytest.mark.parametrize("name", [*OPTIONS, *FUNCTIONS])
def test_all_that_a_rule_can_be_reads_otherwise(name):
    """Two options away from the default, every seventh pair of them."""
    given_ = {"rule": name, **NEEDED.get(name, {})}
    found = {}
    for place, rule in enumerate([given_, *neighbours(given_)]):
        for other in [rule, *[*neighbours(rule)][place % 7 :: 7]]:
            text, gradient = told_and_done(Table("mine", (parse_rule(other),) * 8))
            assert torch.equal(found.setdefault(text, gradient), gradient), other
    assert len(found) > len(OPTIONS.get(name, FUNCTIONS[name].options if name in FUNCTIONS else ())) * 2


@settings(max_examples=40)
@given(first=rows, second=rows, places=st.sets(st.sampled_from(GROUPS), min_size=1))
def test_tables_that_differ_in_some_rows_read_otherwise(first, second, places):
    base = Table("mine", (parse_rule(first),) * 8)
    mine, other = told_and_done(base), told_and_done(base.replace(dict.fromkeys(places, second)))
    assert other[0] != mine[0] or torch.equal(other[1], mine[1])


def test_how_sets_are_cut_is_printed():
    rows = PRESETS["high-entropy-only"].rows
    texts = {str(Table("mine", rows, selection)) for selection in ("exact", "released", "quantile")}
    assert len(texts) == 3
    assert show(PRESETS["archer"]).startswith("archer (high: above the response's quantile)\n")
    assert str(PRESETS["htpo"]).splitlines()[0] == "htpo"
    shown = {show(table).split("\n", 1)[1] for name, table in PRESETS.items() if name != "none"}
    assert len(shown) == len(PRESETS) - 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (2.0, "2"), (0.3, "0.3"), (1 / 3, "0.3333333333333333"), (0.30000001, "0.30000001"), (1e-8, "1e-08")],
)
def test_numbers_are_as_short_as_can_be(value, text):
    assert number(value) == text
    assert float(text) == value


def test_words_of_a_selection():
    stare = parse_rule({"rule": "detach", "share": 0.1, "at_least": 1, "rounded": "up", "over": "batch"})
    assert str(stare) == "J_PPO; the lowest-entropy 10% (rounded up, at least 1) of the group in the batch detached"
    assert str(parse_rule({"rule": "detach", "share": 0.29})) == "J_PPO; the lowest-entropy 29% of the group detached"
    kept = {"rule": "keep_gradient", "above": "bound", "when": "always"}
    assert str(parse_rule(kept | {"cap": 1.1})) == "J_PPO; r > 1+ε_hi: min((1+ε_hi), 1.1)·π/sg[π]·Â"
    both = parse_rule(kept | {"below": "inverse_ratio", "cap": 1.1})
    assert str(both) == "J_PPO; r > 1+ε_hi: min((1+ε_hi), 1.1)·π/sg[π]·Â, r < 1-ε_lo: min(1/r, 1.1)·π/sg[π]·Â"
