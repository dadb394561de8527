"""Rows of several rules: gates, scales and selections of any group, against a loop over tokens and in closed form."""

import math
from collections import Counter
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from htpo_trl.objective import EFFECTS, GROUPS, PRESETS, Table, control, effective_weight, parse_rule
from htpo_trl.objective.gates import FUNCTIONS

from ..reference_objectives import GATES, SCALES, reference
from .test_objective import cases, tensors


def slopes(inputs, table, clip=(0.2, 0.28), delta=10.0, **kwargs):
    """dJ/dlogπ of each token, 0 where masked."""
    options = {"epsilon_low": clip[0], "epsilon_high": clip[1], "delta": delta}
    result = control(**inputs, table=table, **options, **kwargs)
    weight = effective_weight(inputs["per_token_logps"], result.old_per_token_logps, result.advantages, **options)
    return weight.masked_fill(~inputs["mask"], 0), result


selections = st.fixed_dictionaries(
    {"share": st.sampled_from([0.1, 0.29, 1 / 3, 0.5, 1.0])},
    optional={
        "which": st.sampled_from(["lowest", "highest"]),
        "by": st.sampled_from(["entropy", "surprisal", "drift"]),
        "over": st.sampled_from(["response", "batch"]),
        "at_least": st.integers(0, 3),
        "rounded": st.sampled_from(["down", "up"]),
        "above": st.sampled_from([0.1, 0.25, 0.5]),
        "below": st.sampled_from([0.75, 1.0, 2.0]),
        "where": st.sampled_from(["all", "positive", "negative", "unclipped"]),
    },
)
gates = st.one_of(
    st.fixed_dictionaries({"rule": st.sampled_from(sorted(GATES))}),
    st.fixed_dictionaries(
        {"rule": st.just("clip")},
        optional={
            "epsilon_low": st.sampled_from([0.0, 0.2, 0.5]),
            "epsilon_high": st.sampled_from([0.0, 0.28, 1.0]),
            "delta": st.sampled_from(["none", 1.5, 10.0]),
        },
    ),
    st.builds(
        lambda regions, **rest: {"rule": "keep_gradient", **regions, **rest},
        st.sampled_from(
            [
                *({"when": "clipped", **regions} for regions in ({"above": 0.7}, {"below": 0.7})),
                *(
                    {"when": when, **regions}
                    for when in ("agrees", "positive", "always")
                    for regions in ({"above": "bound"}, {"below": "inverse_ratio"}, {"inside": 0.5, "above": 2.0})
                ),
            ]
        ),
        cap=st.sampled_from([math.inf, 1.1]),
        sign=st.sampled_from([1, -1]),
    ),
)
scales = st.one_of(
    st.fixed_dictionaries({"rule": st.sampled_from(sorted(SCALES))}),
    st.builds(
        lambda chosen, **rest: {"rule": "scale", **chosen, **rest},
        selections,
        factor=st.sampled_from([0.0, 0.5, 3.0]),
        entropy_below=st.sampled_from([None, 0.6]),
    ),
)
actions = st.one_of(
    st.builds(lambda chosen: {"rule": "detach", **chosen}, selections),
    st.builds(lambda chosen: {"rule": "penalty", "beta": 0.5, **chosen}, selections),
)
rows = st.builds(
    lambda *parts: [rule for part in parts for rule in part] or [{"rule": "clip"}],
    st.lists(scales, max_size=2),
    st.lists(gates, max_size=1),
    st.lists(actions, max_size=2),
)


def table_of(written, selection="exact"):
    return Table("mine", tuple(map(parse_rule, written)), selection)


@settings(max_examples=200)
@given(
    case=cases,
    written=st.one_of(st.lists(rows, min_size=8, max_size=8), rows.map(lambda row: [row] * 8)),
    selection=st.sampled_from(["exact", "quantile"]),
    top=st.sampled_from([(3, 10), (1, 5), (1, 1)]),
    clip=st.sampled_from([(0.2, 0.28), (0.1, 0.5)]),
    delta=st.sampled_from([10.0, 2.0]),
)
def test_any_table_equals_the_token_loop(case, written, selection, top, clip, delta):
    """Eight rows of their own, or one for all, which holds for responses without a verdict too."""
    found, _ = slopes(tensors(case), table_of(written, selection), clip, delta, top_entropy_share=top[0] / top[1])
    quantile = selection == "quantile"
    expected = reference(case, written, low=clip[0], high=clip[1], delta=delta, top=top, quantile=quantile)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_the_loop_knows_every_function():
    assert {*GATES, *SCALES} == FUNCTIONS.keys()


def two_of_each(n=40, seed=0):
    """Two responses of each kind, and one without a verdict."""
    random = torch.Generator().manual_seed(seed)
    kinds = torch.tensor([0, 1, 2, 3] * 2 + [0])
    logps = -0.05 - 2 * torch.rand(9, n, generator=random, dtype=torch.float64)
    return {
        "per_token_logps": logps,
        "old_per_token_logps": logps + 0.4 * torch.randn(9, n, generator=random, dtype=torch.float64),
        "entropies": torch.rand(9, n, generator=random, dtype=torch.float64),
        "advantages": 2 * torch.randn(9, generator=random, dtype=torch.float64),
        "is_hard": kinds < 2,
        "is_correct": kinds % 2 == 0,
        "is_judged": torch.arange(9) < 8,
        "mask": torch.ones(9, n, dtype=torch.bool),
    }


RULES = [
    *({"rule": name} for name in FUNCTIONS),
    {"rule": "clip", "epsilon_low": 0.0, "epsilon_high": 0.0},
    {"rule": "scale", "factor": 3.0, "share": 0.5, "over": "batch", "by": "surprisal"},
    {"rule": "penalty", "beta": 0.5, "which": "highest", "by": "covariance"},
    {"rule": "detach", "share": 0.5, "by": "drift"},
    {"rule": "detach", "share": 0.5, "which": "random"},
    [{"rule": "ar"}, {"rule": "cispo"}, {"rule": "detach", "share": 0.4, "over": "batch"}],
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_row_leaves_the_other_groups_alone(rule):
    inputs = two_of_each()
    plain, touched = control(**inputs, table="dapo"), 0
    for code, group in enumerate(GROUPS):
        result = control(**inputs, table=PRESETS["dapo"].replace({group: rule}))
        others = plain.groups != code
        for a, b in zip(result, plain, strict=True):
            assert torch.equal(a[others], b[others])
        touched += (result.effects[~others] != 0).any().item()
    assert touched > len(GROUPS) / 2


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_only_a_rule_of_all_groups_holds_without_a_verdict(rule):
    inputs = two_of_each()
    everywhere = control(**inputs, table=PRESETS["dapo"].replace(dict.fromkeys(GROUPS, rule)))
    # Whatever it is called, `verdict` is the advantage of a response that has one.
    assert (everywhere.effects[8] != 0).any() == (rule != {"rule": "verdict"})
    some = control(**inputs, table=PRESETS["dapo"].replace(dict.fromkeys(GROUPS[:7], rule)))
    assert (some.effects[8] == 0).all()
    assert torch.equal(some.advantages[8], inputs["advantages"][8].expand(40))


@pytest.mark.parametrize(
    ("table", "holds"),
    [
        *((PRESETS[name], True) for name in ("archer", "high-entropy-only", "gppo", "aspo")),
        (PRESETS["dapo"].replace({"high": "cispo", "low": "ar"}), True),
        (PRESETS["dapo"].replace({"high": {"rule": "keep_gradient", "below": 0.5}}), False),  # it asks for the verdict
        (PRESETS["dapo"].replace({"wrong_high": "cispo"}), False),
        (PRESETS["htpo"], False),
    ],
    ids=lambda value: getattr(value, "name", value),
)
@pytest.mark.parametrize("correct", [True, False])
def test_what_asks_for_no_verdict_holds_without_one(table, holds, correct):
    """The response has the gradient that it had with either verdict, and is in no group; else that of PPO-clip."""
    inputs = two_of_each()
    inputs["is_correct"][8], inputs["advantages"][8] = correct, 1.5
    found, result = slopes(inputs, table)
    judged, _ = slopes(inputs | {"is_judged": torch.ones(9, dtype=torch.bool)}, table)
    plain, _ = slopes(inputs, PRESETS["dapo"])
    assert (result.groups[8] == -1).all()
    assert (result.groups[:8] >= 0).all()
    assert torch.equal(found[8], (judged if holds else plain)[8])
    assert torch.equal(found[:8], judged[:8])
    assert not torch.equal(found[:8], plain[:8])
    assert torch.equal(found[8], plain[8]) != holds


REGIONS = [
    *({region: weight} for region in ("below", "above") for weight in ("bound", "inverse_ratio", 0.7)),
    *({"inside": weight} for weight in ("inverse_ratio", 0.7)),
    {"below": 0.5, "inside": 0.6, "above": 0.7},
]


@pytest.mark.parametrize("when", ["agrees", "clipped", "positive", "always"])
@pytest.mark.parametrize("regions", REGIONS, ids=str)
def test_a_kept_gradient_among_other_rules(regions, when):
    """All regions, signs, verdicts; within a list, which has a path of its own, and on both sides of the dual clip."""
    if when == "clipped" and "inside" in regions:
        pytest.skip("nothing is clipped inside the range")
    kinds = [(a, correct, judged) for a in (0.5, -0.5, 0.0) for correct in (True, False) for judged in (True, False)]
    ratios = [0.3, 0.79, 0.81, 1.0, 1.27, 1.29, 3.0, 9.9, 10.1]
    case = {
        "per_token_logps": [[math.log(r) - 3 for r in ratios]] * len(kinds),
        "old_per_token_logps": [[-3.0] * len(ratios)] * len(kinds),
        "entropies": [[0.1 * i for i in range(len(ratios))]] * len(kinds),
        "advantages": [a for a, _, _ in kinds],
        "is_hard": [True] * len(kinds),
        "is_correct": [correct for _, correct, _ in kinds],
        "is_judged": [judged for _, _, judged in kinds],
        "mask": [[True] * len(ratios)] * len(kinds),
    }
    for rest in ({}, {"cap": 0.65}, {"cap": 1.1}, {"sign": -1}):
        row = [{"rule": "scale", "factor": 2.0}, {"rule": "keep_gradient", "when": when, **regions, **rest}]
        for written in ([row] * 8, [row] * 7 + [[{"rule": "clip"}]]):
            found, _ = slopes(tensors(case), table_of(written))
            expected = torch.tensor(reference(case, written), dtype=torch.float64)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("rule", "advantage", "effects"),
    [
        # r is 0.5, 1, 1.2, 1.5 and 12; plain PPO-clip drops the last two if Â > 0, the first and the last if Â < 0.
        ("cispo", 1.0, ["", "", "", "gate_keeps", "gate_keeps"]),
        ("cispo", -1.0, ["gate_keeps", "", "", "gate_weighs", "gate_keeps"]),
        ("unclipped", 0.0, [""] * 5),
        ("wapo", 1.0, ["", "", "", "gate_keeps", ""]),
        ("wapo", -1.0, ["", "gate_drops", "gate_drops", "gate_drops", ""]),
        (
            {"rule": "clip", "epsilon_low": 0.6, "epsilon_high": 0.1, "delta": "none"},
            1.0,
            ["", "", "gate_drops", "", ""],
        ),
        ({"rule": "clip", "epsilon_low": 0.6, "delta": "none"}, -1.0, ["gate_keeps", "", "", "", "gate_keeps"]),
        ({"rule": "scale", "factor": 2.0}, 1.0, ["scaled"] * 5),
        ({"rule": "scale", "factor": 2.0}, 0.0, [""] * 5),
        ([{"rule": "scale", "factor": 2.0}, "cispo"], 1.0, ["scaled"] * 3 + ["gate_keeps"] * 2),
        (["cispo", {"rule": "detach", "share": 1.0, "which": "highest"}], 1.0, ["detach_highest"] * 5),
        (["wapo", {"rule": "detach", "share": 1.0, "by": "drift"}], 1.0, ["detach_lowest"] * 4 + [""]),
        ({"rule": "penalty", "beta": 1.0}, 1.0, ["penalised", "", "penalised", "penalised", "penalised"]),
    ],
    ids=str,
)
def test_effects_are_what_a_rule_did(rule, advantage, effects):
    ratios = [0.5, 1.0, 1.2, 1.5, 12.0]
    inputs = one_response(5, per_token_logps=[math.log(r) - 4 for r in ratios], old_per_token_logps=[-4.0] * 5)
    inputs["advantages"] = inputs["advantages"] * advantage
    _, result = slopes(inputs, PRESETS["dapo"].replace({"all": rule}))
    assert [("", *EFFECTS)[code] for code in result.effects[0]] == effects


def one_response(n, **values):
    """A hard, correct response, all of whose tokens are in one row of a table that is the same everywhere."""
    zeros = torch.zeros(1, n, dtype=torch.float64)
    yes, given = (
        torch.tensor([True]),
        {name: torch.tensor([value], dtype=zeros.dtype) for name, value in values.items()},
    )
    inputs = {"per_token_logps": zeros - 1, "old_per_token_logps": zeros - 1, "entropies": zeros}
    inputs |= {"advantages": zeros[0, :1] + 1, "is_hard": yes, "is_correct": yes, "mask": zeros == 0}
    return inputs | given


def chosen(n=10, inputs=None, **selection):
    """Places of the tokens that a selection detaches."""
    inputs = one_response(n) if inputs is None else inputs
    row = parse_rule([{"rule": "scale", "factor": 1.0}, {"rule": "detach", **selection}])
    table = PRESETS["dapo"].replace(dict.fromkeys(GROUPS, row))
    result = control(**inputs, table=table)
    detached = (result.effects >= 1) & (result.effects <= 2) | (result.effects == 1 + EFFECTS.index("detach_random"))
    return detached.flatten().nonzero().flatten().tolist()


H = [0.5, 0.1, 0.5, 0.9, 0.1, 0.9, 0.5, 0.3, 0.7, 0.1]


@pytest.mark.parametrize(
    ("selection", "places"),
    [
        ({"share": 0.3}, [1, 4, 9]),
        ({"share": 0.2}, [1, 4]),  # ties to the earlier token
        ({"share": 0.2, "which": "highest"}, [3, 5]),
        ({"share": 0.1, "which": "highest"}, [3]),
        ({"share": 0.29}, [1, 4]),
        ({"share": 0.29, "rounded": "up"}, [1, 4, 9]),
        ({"share": 0.3, "rounded": "up"}, [1, 4, 9]),
        ({"share": 0.01}, []),
        ({"share": 0.01, "at_least": 1}, [1]),
        ({"share": 0.01, "rounded": "up"}, [1]),
        ({"share": 0.3, "at_least": 2}, [1, 4, 9]),
        ({"share": 0.1, "at_least": 20}, list(range(10))),
        ({"share": 0.3, "above": 0.1}, [0, 2, 7]),  # strictly above; the share is of all tokens
        ({"share": 1.0, "above": 0.5}, [3, 5, 8]),
        ({"share": 1.0, "below": 0.5}, [1, 4, 7, 9]),
        ({"share": 1.0, "above": 0.1, "below": 0.5}, [7]),
        ({"share": 1.0, "where": "negative"}, []),
        ({"share": 1.0, "where": "positive"}, list(range(10))),
    ],
)
def test_selections(selection, places):
    assert chosen(inputs=one_response(10, entropies=H), **selection) == places


def test_what_is_ranked():
    logps = [-3.0, -1.0, -2.0, -0.5]
    old = [-3.0, -1.5, -1.7, -0.6]
    inputs = one_response(4, per_token_logps=logps, old_per_token_logps=old, entropies=[0.1, 0.2, 0.3, 0.4])
    inputs["advantages"] = torch.tensor([[1.0, -1.0, 2.0, -4.0]]).double()
    # Means are -0.5 and -1.625: covariances -2.06, -0.31, -0.94, -3.94.
    assert chosen(inputs=inputs, share=0.25, which="highest") == [3]
    assert chosen(inputs=inputs, share=0.25, which="highest", by="surprisal") == [0]
    assert chosen(inputs=inputs, share=0.25, which="highest", by="drift") == [1]
    assert chosen(inputs=inputs, share=0.5, which="highest", by="drift") == [1, 2]
    assert chosen(inputs=inputs, share=0.25, which="highest", by="covariance") == [1]
    assert chosen(inputs=inputs, share=1.0, above=-1.0, by="covariance") == [1, 2]
    assert chosen(inputs=inputs, share=0.5, where="positive") == [0]
    assert chosen(inputs=inputs, share=0.5, where="negative") == [1]
    # r is 1, 1.65, 0.74 and 1.11; A > 0 above, or A < 0 below, is clipped: none here.
    assert chosen(inputs=inputs, share=1.0, where="unclipped", below=9.0) == [0, 1, 2, 3]
    inputs["advantages"] = -inputs["advantages"]
    assert chosen(inputs=inputs, share=1.0, where="unclipped") == [0, 3]
    assert chosen(inputs=inputs, share=0.5, where="unclipped") == [0, 3]  # ⌊0.5·4⌋, of the two that there are


def test_a_share_of_the_batch_or_of_each_response():
    inputs = two_of_each(5)
    inputs["entropies"] = torch.arange(45).view(9, 5).double()
    assert chosen(inputs=inputs, share=0.2) == [5 * row for row in range(9)]
    assert chosen(inputs=inputs, share=0.2, over="batch") == list(range(9))
    inputs["mask"] = torch.arange(5) < 2
    inputs["mask"] = inputs["mask"].expand(9, 5)
    assert chosen(inputs=inputs, share=0.2, over="batch") == [0, 1, 5]  # ⌊0.2·18⌋
    assert chosen(inputs=inputs, share=0.2) == []


@pytest.mark.parametrize("over", ["response", "batch"])
def test_draws_are_even(over):
    """Exactly the count, and each candidate as often: a χ² below its 99.9% quantile, by a seed."""
    torch.manual_seed(0)
    inputs, n = one_response(12, entropies=[0.1 * i for i in range(12)]), 2000
    counts = Counter()
    for _ in range(n):
        places = chosen(inputs=inputs, share=0.25, which="random", above=0.15, over=over)
        assert len(places) == 3
        counts.update(places)
    assert counts.keys() == set(range(2, 12))
    expected = 3 * n / 10
    # Drawn without replacement, counts vary less than a multinomial's: by 1 - 3/10.
    chi_square = sum((counts[i] - expected) ** 2 / expected for i in range(2, 12)) / (1 - 3 / 10) * 9 / 10
    assert 1.15 < chi_square < 27.9  # of 9 degrees of freedom


def test_a_draw_of_a_generator_of_its_own():
    """It is that of the generator's seed, and nothing is taken from torch's own."""
    table = PRESETS["dapo"].replace({"all": {"rule": "detach", "share": 0.5, "which": "random"}})

    def draw(seed):
        torch.manual_seed(len(drawn))
        before = torch.get_rng_state()
        result = control(**two_of_each(), table=table, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(torch.get_rng_state(), before)
        return tuple(result.effects.flatten().tolist())

    drawn = []
    drawn += [draw(0)]
    drawn += [draw(0)]
    drawn += [draw(1)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("share", [Fraction(1, 1000), Fraction(1, 3), Fraction(999, 1000)])
@pytest.mark.parametrize("n", [1, 2, 3, 999, 1000, 1001])
def test_counts_are_exact(share, n):
    inputs = one_response(n, entropies=torch.rand(n, generator=torch.Generator().manual_seed(n)).tolist())
    options = {"inputs": inputs, "share": float(share)}
    assert len(chosen(**options)) == math.floor(share * n)
    assert len(chosen(**options, rounded="up")) == math.ceil(share * n)
    assert len(chosen(**options, rounded="up", over="batch", which="highest")) == math.ceil(share * n)
    assert len(chosen(**options, which="random")) == math.floor(share * n)
