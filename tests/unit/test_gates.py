"""Gates and scales in closed form, on both sides of each edge, and at the ends of what numbers can be."""

import dataclasses
import json
import math
import re

import pytest
import torch
import yaml

from htpo_trl.objective import (
    GROUPS,
    PRESETS,
    Named,
    Table,
    control,
    effective_weight,
    parse_rule,
    rule_spec,
)
from htpo_trl.objective.gates import FUNCTIONS

from .test_mixed_rows import one_response, slopes


E = 1e-6


def slope(rule, ratio, advantage=1.0, p=0.3, entropies=None, **kwargs):
    """dJ/dlogπ of the first token of a response; the others have ratio 1."""
    ratios = [ratio] if isinstance(ratio, float) else ratio
    old = [math.log(p / r) for r in ratios]
    logps = [math.log(p)] * len(ratios)
    given = {"entropies": entropies} if entropies else {}
    inputs = one_response(len(ratios), per_token_logps=logps, old_per_token_logps=old, **given)
    inputs["advantages"] = inputs["advantages"] * advantage
    table = PRESETS["dapo"].replace(dict.fromkeys(GROUPS, parse_rule(rule)))
    return slopes(inputs, table, **kwargs)[0][0, 0].item()


@pytest.mark.parametrize(
    ("rule", "ratio", "advantage", "expected"),
    [
        ("unclipped", 50.0, 2.0, 100.0),
        ("unclipped", 0.01, -1.0, -0.01),
        ("cispo", 1.28 - E, 1.0, 1.28 - E),
        ("cispo", 1.28 + E, 1.0, 1.28),
        ("cispo", 100.0, -1.0, -1.28),
        ("cispo", 0.01, 1.0, 0.01),
        *(("tis", 2 - E, -1.0, -2 + E), ("tis", 9.0, 1.0, 2.0), ({"rule": "tis", "cap": 1.0}, 9.0, -1.0, -1.0)),
        ("sapo", 1.0, -3.0, -3.0),
        ("sapo", 2.0, 1.0, 8 * math.e / (1 + math.e) ** 2),
        ("sapo", 2.0, -1.0, -8 * math.exp(1.05) / (1 + math.exp(1.05)) ** 2),
        ({"rule": "sapo", "tau_pos": 2.0}, 2.0, 1.0, 8 * math.exp(2) / (1 + math.exp(2)) ** 2),
        ({"rule": "sapo", "tau_neg": 2.0}, 2.0, -1.0, -8 * math.exp(2) / (1 + math.exp(2)) ** 2),
        ("wapo", 10 - E, 1.0, 10 - E),
        ("wapo", 10 + E, 1.0, 0.0),
        ("wapo", 0.01, 1.0, 0.01),
        ("wapo", 1.0, -1.0, 0.0),
        ({"rule": "wapo", "clip": 1.0}, 2 + E, 1.0, 0.0),
        # p = 0.3: π-π_old is 0.15 where r = 2, and -0.15 where r = 2/3.
        ("dppo-tv", 2 - E, 1.0, 2 - E),
        ("dppo-tv", 2 + E, 1.0, 0.0),
        ("dppo-tv", 2 + E, -1.0, -2 - E),
        ("dppo-tv", 2 / 3 + E, -1.0, -2 / 3 - E),
        ("dppo-tv", 2 / 3 - E, -1.0, 0.0),
        ("dppo-tv", 2 / 3 - E, 1.0, 2 / 3 - E),
        ({"rule": "dppo-tv", "threshold_high": 0.2}, 3 - E, 1.0, 3 - E),
        ({"rule": "dppo-tv", "threshold_high": 0.2}, 3 + E, 1.0, 0.0),
        ({"rule": "dppo-tv", "threshold_low": 0.3}, 0.5 + E, -1.0, -0.5 - E),
        ({"rule": "dppo-tv", "threshold_low": 0.3}, 0.5 - E, -1.0, 0.0),
        ({"rule": "dppo-tv", "cap": 1.5}, 1.9, 1.0, 1.5),
        ("dppo-tv", 100.0, -1.0, -20.0),
        ("gmpo", math.exp(0.4) - E, 1.0, math.exp(0.4) - E),
        ("gmpo", math.exp(0.4) + E, 1.0, 0.0),
        ("gmpo", math.exp(0.4) + E, -1.0, -math.exp(0.4) - E),
        ("gmpo", math.exp(-0.4) + E, -1.0, -math.exp(-0.4) - E),
        ("gmpo", math.exp(-0.4) - E, -1.0, 0.0),
        ({"rule": "gmpo", "clip": 0.1}, 1.2, 1.0, 0.0),
        ("gspo", 1.28 - E, 1.0, 1.28 - E),
        ("gspo", 1.28 + E, 1.0, 0.0),
        ("gspo", 0.8 - E, -1.0, 0.0),
        ("gspo", 0.8 + E, -1.0, -0.8 - E),
        ("gspo", 50.0, -1.0, -50.0),  # no dual clip
        ("vespo", 1.0, 1.0, 1.0),
        ("vespo", 2.0, 1.0, 4 * math.exp(-3)),
        ("vespo", 2.0, -1.0, -8 * math.exp(-2)),
        ({"rule": "vespo", "k_pos": 1.0, "lambda_pos": 0.5}, 2.0, 1.0, 2 * math.exp(-0.5)),
        ({"rule": "vespo", "k_neg": 1.0, "lambda_neg": 0.5}, 2.0, -1.0, -2 * math.exp(-0.5)),
        ({"rule": "verdict"}, 1.1, -5.0, 0.11),
        ({"rule": "verdict", "positive": 0.7}, 1.1, -5.0, 0.77),
        ({"rule": "verdict"}, 1.29, -5.0, 0.0),  # clipped as the advantage is now
        # π_old is 0.3 / r.
        ("ar", 1.2, 1.0, 1.2 * (0.2 * 0.25 + 0.8)),
        ({"rule": "ar", "alpha": 1.0}, 1.2, -1.0, -1.2 * 0.25),
        ("ar", 1.29, 1.0, 0.0),
        # The token's own log r is in the sum: factor r, in [1, 1.2].
        ("fipo", 1.1, 1.0, 1.21),
        ("fipo", 1.25, 1.0, 1.5),
        ("fipo", 0.9, 1.0, 0.9),
        ({"rule": "fipo", "low": 0.5}, 0.9, 1.0, 0.81),
        ({"rule": "fipo", "high": 2.0}, 1.25, 1.0, 1.5625),
        ({"rule": "fipo", "low": 1.1}, 1.0, 1.0, 1.1),
        ({"rule": "fipo", "safety": 1.05}, 1.1, 1.0, 1.1),  # not in its own sum
        ({"rule": "fipo", "safety": 1.05, "low": 1.1}, 1.06, -1.0, -1.06),  # clip to [0.8, 1]
        ({"rule": "fipo", "half_life": 0.0}, 1.1, 1.0, 1.21),
        ({"rule": "fipo", "half_life": math.inf}, 1.1, 1.0, 1.21),
        ({"rule": "clip", "epsilon_low": 0.5, "epsilon_high": 0.6}, 1.6 - E, 1.0, 1.6 - E),
        ({"rule": "clip", "epsilon_low": 0.5, "epsilon_high": 0.6}, 1.6 + E, 1.0, 0.0),
        ({"rule": "clip", "epsilon_low": 0.5, "epsilon_high": 0.6}, 0.5 + E, -1.0, -0.5 - E),
        ({"rule": "clip", "epsilon_low": 0.5, "epsilon_high": 0.6}, 0.5 - E, -1.0, 0.0),
        ({"rule": "clip", "delta": "none"}, 50.0, -1.0, -50.0),
        ({"rule": "clip", "delta": 5.0}, 5 - E, -1.0, -5 + E),
        ({"rule": "clip", "delta": 5.0}, 5 + E, -1.0, 0.0),
        ({"rule": "clip", "epsilon_high": 0.1}, 10 + E, -1.0, 0.0),  # the loss's own dual clip
        # What is unclipped goes by the row's own gate.
        (
            [{"rule": "clip", "epsilon_high": 0.5}, {"rule": "detach", "share": 1.0, "where": "unclipped"}],
            1.4,
            1.0,
            0.0,
        ),
        (
            [{"rule": "clip", "epsilon_high": 0.5}, {"rule": "penalty", "beta": 0.5, "where": "unclipped"}],
            1.4,
            1.0,
            0.9,
        ),
        (
            [{"rule": "clip", "epsilon_high": 0.5}, {"rule": "penalty", "beta": 0.5, "where": "unclipped"}],
            1.6,
            1.0,
            0.0,
        ),
        ([{"rule": "scale", "factor": 2.0, "where": "unclipped"}, "cispo"], 5.0, 1.0, 2.56),
        ([{"rule": "penalty", "beta": 0.5, "where": "unclipped"}], 11.0, -1.0, 0.0),  # the dual clip is one too
        (
            [{"rule": "clip", "delta": "none"}, {"rule": "penalty", "beta": 0.5, "where": "unclipped"}],
            11.0,
            -1.0,
            -11.5,
        ),
        ([{"rule": "penalty", "beta": 0.5, "where": "unclipped"}], 11.0, 0.0, -0.5),  # without an advantage nothing is
        # Â is 0.1 when the gate is asked, and was -5 when the selection was.
        (
            [{"rule": "scale", "factor": 2.0, "where": "unclipped"}, "verdict", {"rule": "clip", "delta": "none"}],
            *(1.29, -5.0, 0.0),
        ),
        ({"rule": "penalty", "beta": 0.5}, 1.2, 1.0, 0.7),
        ({"rule": "penalty", "beta": 0.5}, 0.5, 1.0, 1.0),
        ({"rule": "penalty", "beta": 0.5}, 1.29, 1.0, -0.5),
        ({"rule": "penalty", "beta": 0.5}, 1.0, 1.0, 1.0),
        ({"rule": "scale", "factor": 3.0}, 1.2, -1.0, -3.6),
        ({"rule": "scale", "factor": 3.0}, 1.29, 1.0, 0.0),
        ({"rule": "scale", "factor": 3.0, "entropy_below": 0.0}, 1.2, 1.0, 1.2),  # strictly
        ({"rule": "scale", "factor": 3.0, "entropy_below": 1e-9}, 1.2, 1.0, 3.6),
    ],
)
def test_closed_forms(rule, ratio, advantage, expected):
    assert slope(rule, float(ratio), advantage) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("rule", "ratio", "advantage"),
    [
        ({"rule": "clip", "epsilon_low": 0.5, "epsilon_high": 1.0}, 2.0, 1.0),
        ({"rule": "clip", "epsilon_low": 0.5, "epsilon_high": 1.0}, 0.5, -1.0),
        ({"rule": "clip", "delta": 4.0}, 4.0, -1.0),
        ({"rule": "wapo", "clip": 1.0}, 2.0, 1.0),
        ({"rule": "dppo-tv", "threshold_high": 0.5}, 2.0, 1.0),
        ({"rule": "dppo-tv", "threshold_low": 0.5}, 0.5, -1.0),
    ],
)
def test_edges_belong_to_the_range(rule, ratio, advantage):
    """Powers of two, so that the ratio is on the edge exactly."""
    logp = min(math.log(ratio), 0.0)
    inputs = one_response(1, per_token_logps=[logp], old_per_token_logps=[logp - math.log(ratio)])
    assert (inputs["per_token_logps"] - inputs["old_per_token_logps"]).exp().item() == ratio
    inputs["advantages"] = inputs["advantages"] * advantage
    table = PRESETS["dapo"].replace(dict.fromkeys(GROUPS, parse_rule(rule)))
    assert slopes(inputs, table)[0].item() == pytest.approx(advantage * ratio)


PRINTED = {
    "unclipped": "w = r",
    "cispo": "w = min(r, 1+ε_hi)",
    "sapo": "w = 4·s·(1-s)·r, s = sigmoid(τ·(r-1))",
    "dppo-tv": "w = min(r, cap) while π-π_old has not moved by more than the threshold in the direction of Â",
    "dppo-kl": "w = min(r, cap) while the binary KL of π_old and π in the direction of Â is no more",
    "tis": "w = min(r, cap)",
    "wapo": "w = r if Â > 0 and r ≤ 1+clip, else 0",
    "hapo-released": "w = (1+h)·r within a clip range by the entropy's place h in the batch",
    "gspo": "w = s in the clip range, s = exp(mean log r) of the response",
    "gmpo": "w = R where |log r| ≤ clip on the side of Â, R = exp(mean log r, so clipped) of the response",
    "vespo": "w = W^k·exp(λ·(1-W)), W = Π r of the response",
    "verdict": "Â′ = positive for a correct response, negative for a wrong one, whatever Â is",
    "ar": "Â′ = (α·π_old + 1-α)·Â",
    "fipo": "Â′ = Â times exp of the discounted sum of log r from the token on, clipped",
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_says_what_it_is(name):
    function = FUNCTIONS[name]
    assert str(Named(name)) == f"{name}: {PRINTED[name]}"
    assert function.name == name
    assert PRESETS[{"verdict": "nsr", "unclipped": "kl-cov"}.get(name, name)].source == function.source
    assert re.match(r"arXiv \d{4}\.\d{5}|[A-Z].* (19|20)\d\d,", function.source)
    with pytest.raises(dataclasses.FrozenInstanceError):
        function.name = "other"
    with pytest.raises(TypeError):
        function.options["tau_pos"] = 3.0
    # Does it wait for the policy to move? The middle of five entropies has no place of its own.
    inputs = one_response(5, entropies=[0.1, 0.2, 0.3, 0.4, 0.9])
    table = PRESETS["dapo"].replace(dict.fromkeys(GROUPS, Named(name)))
    found = [slopes(inputs | {"advantages": a * inputs["advantages"]}, table)[0] for a in (1.0, -1.0)]
    is_plain = torch.allclose(found[0], torch.ones(1, 5).double()) and torch.allclose(found[1], -found[0])
    assert function.waits_for_drift == (is_plain and function.kind == "gate")
    assert function.changes_sign == (name == "verdict")
    assert function.of_response == (name in ("gspo", "gmpo", "vespo"))


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("end", [1e-4, 1 - 1e-4])
def test_binary_kl_on_both_sides_of_its_threshold(advantage, end):
    def kl(p, q):
        return q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))

    p, near, far = 0.3, 0.3, end
    for _ in range(60):  # bisection of q
        middle = (near + far) / 2
        near, far = (middle, far) if kl(p, middle) < 0.05 else (near, middle)
    step = 1e-4 if end > p else -1e-4
    inside, outside = p / (near - step), p / (far + step)
    assert slope("dppo-kl", inside, advantage) == pytest.approx(advantage * inside, rel=1e-9)
    dropped = (outside > 1) == (advantage > 0)  # p moved in its direction
    assert slope("dppo-kl", outside, advantage) == pytest.approx(0 if dropped else advantage * outside, rel=1e-9)
    other = "threshold_low" if advantage > 0 else "threshold_high"
    assert (slope({"rule": "dppo-kl", other: 9.0}, outside, advantage) == 0) == dropped
    mine = "threshold_high" if advantage > 0 else "threshold_low"
    assert slope({"rule": "dppo-kl", mine: 9.0, "cap": 0.1}, outside, advantage) == pytest.approx(0.1 * advantage)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities_of_0_and_1(dtype):
    """Rounding can make log π positive; log 0 is a large number here."""
    logps, old = (
        torch.tensor([[0.0, 1e-6, -1e-6, -200.0, -0.5, 1e-6]]),
        torch.tensor([[0.0, -1.0, 1e-6, -1.0, -200, 0]]),
    )
    for name in ("dppo-tv", "dppo-kl", "ar"):
        for advantage in (1.0, -1.0):
            inputs = one_response(6)
            inputs |= {"per_token_logps": logps, "old_per_token_logps": old, "advantages": torch.tensor([advantage])}
            inputs = {n: v.to(dtype) if v.is_floating_point() else v for n, v in inputs.items()}
            table = PRESETS[name]
            found = control(**inputs, table=table).advantages[0] * advantage
            assert found.isfinite().all()
            if name != "ar":  # π: 1 → 1, 0.37 → 1, 1 → 1, 0.37 → 0, 0 → 0.61, 1 → 1
                up, down = [1, 0, 1, 0, 0, 1], [1, math.e, 1, 0, 20, 1]
                expected = torch.tensor(up if advantage > 0 else down, dtype=dtype)
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_response_of_several_tokens():
    assert slope("gspo", [2.0, 0.5, 1.1], 1.0) == pytest.approx(1.1 ** (1 / 3))
    assert slope("gspo", [0.5, 1.3, 1.0], -1.0, clip=(0.2, 0.28)) == pytest.approx(-(0.65 ** (1 / 3)))
    assert slope("gmpo", [1.2, 9.0], 1.0) == pytest.approx(math.sqrt(1.2 * math.exp(0.4)))
    assert slope("gmpo", [9.0, 1.2], 1.0) == 0
    assert slope("vespo", [1.2, 1.5], 1.0) == pytest.approx(1.8**2 * math.exp(3 * (1 - 1.8)))
    assert slope("vespo", [math.exp(25), math.exp(-25)], 1.0) == pytest.approx(1.0)  # each is bounded, then the sum
    assert slope("vespo", [math.exp(25), math.exp(-24)], 1.0) == pytest.approx(1.0)
    no_bend = {"rule": "vespo", "lambda_pos": 0.0, "k_pos": 1.0, "lambda_neg": 0.0, "k_neg": 0.5}
    assert slope(no_bend, [math.exp(15), math.exp(16)], 1.0) == pytest.approx(math.exp(20))
    assert slope(no_bend, [math.exp(-15), math.exp(-16)], -1.0) == pytest.approx(-1e-4)
    # Half as much, a half-life on.
    half = {"rule": "fipo", "half_life": 2.0, "high": 9.0}
    assert slope(half, [1.0, 1.0, 4.0], 1.0) == pytest.approx(2.0)
    assert slope(half, [1.0, 4.0, 1.0], 1.0) == pytest.approx(4 ** (0.5**0.5))
    assert slope(half | {"half_life": 0.0}, [1.1, 4.0, 4.0], 1.0) == pytest.approx(1.21)  # of the token alone
    assert slope(half | {"half_life": math.inf}, [1.1, 2.0, 3.0], 1.0) == pytest.approx(7.26)  # all alike
    # Of a ratio beyond the safety itself, where Â < 0, at least 0.8.
    assert slope({"rule": "fipo", "safety": 1.05, "low": 0.7}, [1.06, 0.5], -1.0) == pytest.approx(-0.848)
    assert slope({"rule": "fipo", "safety": 1.05, "low": 0.7}, [1.04, 0.5], -1.0) == pytest.approx(-0.728)
    assert slope(half, [1.0, 11.0, 4.0], 1.0) == pytest.approx(2.0)  # one beyond the safety is not in the sum
    assert slope(half, [1.0, 11.0, 4.0], -1.0) == pytest.approx(-2.0)
    assert slope(half, [1.0, 11.0, 12.0], -1.0) == 0  # two, and the response is removed
    assert slope(half, [1.0, 11.0, 12.0], 1.0) == 1


@pytest.mark.parametrize(
    ("log_h", "ratio", "advantage", "expected"),
    [
        # Of -1, 0, 2 and 4 the median, by the nearest rank, half to even, is 2. Of h = z/max z the 4 has 1; of
        # h = z/min z the 2 has 0, the 0 has 2/3 and the -1 has 1, as if its entropy were high.
        (4.0, 1.55, 1.0, 3.1),
        (4.0, 1.57, 1.0, 0.0),
        (4.0, 1.29, 1.0, 2.58),
        (4.0, 1.27, 1.0, 1.27),  # within half of the range
        (-1.0, 1.55, 1.0, 3.1),
        (-1.0, 1.57, 1.0, 0.0),
        (0.0, 1.46, 1.0, 1.46 * 5 / 3),
        (0.0, 1.47, 1.0, 0.0),
        (0.0, 1.23, 1.0, 1.23),
        (0.0, 1.24, 1.0, 1.24 * 5 / 3),
        (2.0, 1.27, 1.0, 1.27),
        (2.0, 1.29, 1.0, 0.0),
        (4.0, 0.79, -1.0, 0.0),
        (4.0, 0.81, -1.0, -1.62),
        (4.0, 0.91, -1.0, -0.91),
        (4.0, 10.1, -1.0, 0.0),
        (4.0, 9.9, -1.0, -19.8),
    ],
)
def test_place_of_the_entropy_in_the_batch(log_h, ratio, advantage, expected):
    others = [x for x in (-1.0, 0.0, 2.0, 4.0) if x != log_h]
    entropies = [math.exp(x) for x in (log_h, *others)]
    rule = {"rule": "hapo-released", "pivot": 0.5}
    assert slope(rule, [ratio, 1.0, 1.0, 1.0], advantage, entropies=entropies) == pytest.approx(expected)


@pytest.mark.parametrize("entropies", [[0.0] * 4, [0.7] * 4, [1e-12] * 4])
def test_equal_entropies_are_at_no_place(entropies):
    """0/0 in the published code."""
    assert slope("hapo-released", [1.2, 1.0, 1.0, 1.0], entropies=entropies) == pytest.approx(1.2)
    assert slope("hapo-released", [1.29, 1.0, 1.0, 1.0], entropies=entropies) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("preset", PRESETS)
def test_long_responses_that_drift_far_stay_finite(preset, dtype):
    """Each log r up to several nats over 20,480 tokens, in one direction or both."""
    n = 20480
    random = torch.Generator().manual_seed(0)
    logps = -6 * torch.rand(6, n, generator=random)
    drift = torch.tensor([5.0, -5.0, 0.0, 0.0, 1e-3, -40.0]).unsqueeze(1)
    drift = drift + torch.tensor([0, 0, 3.0, 0, 0, 5]).unsqueeze(1) * torch.randn(6, n, generator=random)
    inputs = {
        "per_token_logps": logps.to(dtype),
        "old_per_token_logps": (logps - drift).to(dtype),
        "entropies": torch.rand(6, n, generator=random).to(dtype),
        "is_hard": torch.tensor([True, True, True, False, False, False]),
        "is_correct": torch.tensor([True, False] * 3),
        "mask": torch.ones(6, n, dtype=torch.bool),
    }
    for sign in (1, -1):
        advantages = sign * torch.tensor([1.0, -1.0, 0.5, -0.5, 2.0, -2.0]).to(dtype)
        result = control(**inputs, advantages=advantages, table=preset)
        assert result.advantages.isfinite().all()
        weight = effective_weight(
            inputs["per_token_logps"], result.old_per_token_logps, result.advantages, 0.2, 0.28, 10.0
        )
        assert weight.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ratios_of_long_responses_are_those_of_double_precision(dtype):
    """Means, sums and suffix sums over 20,480 tokens; bfloat16 has 8 bits, and GSPO's range is 0.0004 wide."""
    n = 20480
    random = torch.Generator().manual_seed(1)
    logps = -2 * torch.rand(4, n, generator=random)
    drift = torch.tensor([2e-4, -2e-4, 4e-3, 0.0]).unsqueeze(1) + 0.03 * torch.randn(4, n, generator=random)
    given = {"per_token_logps": logps, "old_per_token_logps": logps - drift, "entropies": torch.rand(4, n)}
    given = {name: value.to(dtype) for name, value in given.items()}
    labels = {"is_hard": torch.ones(4).bool(), "is_correct": torch.ones(4).bool(), "mask": torch.ones(4, n).bool()}
    for name in ("gspo", "gmpo", "vespo", "fipo"):
        for advantages in (torch.tensor([1.0, 1.0, 1.0, 0.5]), torch.tensor([-1.0, -1.0, -1.0, -0.5])):
            options = {"table": name, "epsilon_low": 0.1, "epsilon_high": 0.1}
            found = control(**given, **labels, advantages=advantages, **options)
            double = {name: value.double() for name, value in given.items()}
            exact = control(**double, **labels, advantages=advantages.double(), **options)
            torch.testing.assert_close(found.advantages.double(), exact.advantages, rtol=2e-4, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_discounted_future_is_that_of_the_recursion(dtype):
    n = 20480
    random = torch.Generator().manual_seed(2)
    drift = 0.05 * torch.randn(1, n, generator=random, dtype=torch.float64)
    given = {"per_token_logps": torch.zeros(1, n, dtype=dtype) - 1, "old_per_token_logps": (-1 - drift).to(dtype)}
    inputs = (
        one_response(n) | given | {"advantages": torch.ones(1, dtype=dtype), "entropies": given["per_token_logps"]}
    )
    table = PRESETS["dapo"].replace(dict.fromkeys(GROUPS, parse_rule({"rule": "fipo", "low": 0.0, "high": 1e9})))
    found = control(**inputs, table=table).advantages[0].double().log()
    log_ratio = (given["per_token_logps"] - given["old_per_token_logps"]).double()[0].tolist()
    future, expected = 0.0, []
    for value in reversed(log_ratio):
        future = value + 0.5 ** (1 / 32) * future
        expected.append(future)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found, torch.tensor(expected[::-1], dtype=torch.float64), rtol=0, atol=tolerance)


@pytest.mark.parametrize("preset", PRESETS)
def test_tables_survive_being_written(preset):
    table = PRESETS[preset]
    for load, dump in ((json.loads, json.dumps), (yaml.safe_load, yaml.safe_dump)):
        rows = tuple(parse_rule(load(dump(rule_spec(row)))) for row in table.rows)
        again = Table(table.name, rows, table.selection, table.settings)
        assert again == table
        assert hash(again) == hash(table)
        assert str(again) == str(table)
    other = table.replace({"hard_wrong_low": {"rule": "detach", "share": 0.123}})
    assert other != table
    assert {table: 1, other: 2}[other] == 2


def test_gates_on_the_ratio_of_the_response():
    found = {name: table.of_response for name, table in PRESETS.items() if table.of_response}
    assert found == dict.fromkeys(("gspo", "gmpo", "vespo"), tuple(range(8)))
    assert PRESETS["dapo"].replace({"hard_wrong": "gspo"}).of_response == (2, 3)


def test_options_that_are_the_default_are_not_written():
    assert rule_spec(Named("sapo", {"tau_pos": 1, "tau_neg": 1.1})) == {"rule": "sapo", "tau_neg": 1.1}
    assert Named("sapo", {"tau_pos": 1}) == Named("sapo") == parse_rule("sapo")
    assert hash(Named("vespo", {"k_pos": 4, "k_neg": 5})) == hash(Named("vespo", {"k_neg": 5.0, "k_pos": 4.0}))


def test_a_row_without_a_positive_or_any_advantage():
    """STARE's share of no tokens, a single token of Archer's, no candidate of Clip-Cov, r = 1 for KL-Cov."""
    inputs = one_response(5, entropies=[0.1] * 5)
    down = inputs | {"advantages": torch.tensor([-1.0]).double()}
    assert slopes(down, "stare")[0].tolist() == [[-1.0] * 5]
    assert slopes(inputs, "stare")[0].tolist() == [[1.1] + [1.0] * 4]
    assert slopes(inputs, "clip-cov")[0].tolist() == [[1.0] * 5]
    assert slopes(inputs, "kl-cov")[0].tolist() == [[1.0] * 5]
    single = one_response(1, per_token_logps=[-1.0], old_per_token_logps=[-1.0 - math.log(1.3)])
    found, result = slopes(single, "archer")
    assert found.item() == 0
    assert GROUPS[result.groups.item()] == "hard_correct_low"
