import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from beartype import beartype
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import jaxtyped

from htpo_trl.check.reference import reference
from htpo_trl.objective import (
    EFFECTS,
    GROUPS,
    PRESETS,
    Clip,
    Detach,
    KeepGradient,
    control,
)
from htpo_trl.objective.rules import is_gate, parts_of


# Inputs, loss and gradient of the loss released with the paper (github.com/xcyao00/HTPO), computed in float64.
RELEASED = json.loads((Path(__file__).parents[1] / "data" / "released_vectors.json").read_text())["cases"]
# Made of HTPO's own rules; the others are in test_published_objectives.py.
OWN = [name for name, table in PRESETS.items() if not table.mixed]
BOOLEAN = ("mask", "is_hard", "is_correct", "is_judged")
checked_control = jaxtyped(typechecker=beartype)(control)


def tensors(case, dtype=torch.float64):
    names = (
        "per_token_logps",
        "old_per_token_logps",
        "entropies",
        "advantages",
        "is_hard",
        "is_correct",
        "mask",
        "is_judged",
    )
    return {k: torch.tensor(case[k], dtype=torch.bool if k in BOOLEAN else dtype) for k in names if k in case}


def ppo_clip(logps, old, advantages, mask, epsilon_low=0.2, epsilon_high=0.28, dual_clip=10.0):
    """The PPO-clip loss that the transform feeds, token mean."""
    ratio = torch.exp(logps - old)
    clipped = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
    loss = -torch.min(ratio.clamp(max=dual_clip) * advantages, clipped * advantages)
    return loss.masked_fill(~mask, 0).sum() / mask.sum().clamp(min=1)


def loss_and_grad(case, table, clip=(0.2, 0.28), **kwargs):
    inputs = tensors(case)
    logps = inputs["per_token_logps"].requires_grad_()
    result = checked_control(**inputs, table=table, epsilon_low=clip[0], epsilon_high=clip[1], **kwargs)
    assert not any(t.requires_grad for t in result)
    loss = ppo_clip(logps, result.old_per_token_logps, result.advantages, inputs["mask"], *clip)
    loss.backward()
    return loss.item(), logps.grad, result


@pytest.mark.parametrize("case", RELEASED, ids=lambda case: case["name"])
def test_released_vectors(case):
    loss, grad, _ = loss_and_grad(case, PRESETS["htpo-released"])
    assert loss == pytest.approx(case["loss"], rel=0, abs=1e-9)
    torch.testing.assert_close(grad, torch.tensor(case["grad"], dtype=torch.float64), rtol=0, atol=1e-9)


def test_released_vectors_tell_presets_apart():
    """A negative control: the figure's objective is not the released one."""
    case = next(case for case in RELEASED if case["name"] == "all_four")
    _, grad, _ = loss_and_grad(case, PRESETS["htpo"])
    assert (grad - torch.tensor(case["grad"], dtype=torch.float64)).abs().max() > 1e-3


def make_case(seed, n_rows, n_columns, ties, spread, mixed_signs, judged=True, per_token=False):
    rng = np.random.default_rng(seed)
    correct = rng.random(n_rows) < 0.5
    advantages = np.where(correct, 1, -1) * rng.uniform(0.2, 2, n_rows)
    if mixed_signs:  # a length penalty can turn the sign against the verdict
        advantages *= rng.choice([-1, 1], n_rows)
    if per_token:
        advantages = advantages[:, None] * rng.uniform(-1 if mixed_signs else 0.1, 1, (n_rows, n_columns))
    entropies = rng.integers(0, 4, (n_rows, n_columns)) / 4 if ties else rng.exponential(1, (n_rows, n_columns))
    case = {
        "per_token_logps": rng.normal(-1.5, spread, (n_rows, n_columns)),
        "old_per_token_logps": rng.normal(-1.5, spread, (n_rows, n_columns)),
        "entropies": entropies,
        "advantages": advantages,
        "is_hard": rng.random(n_rows) < 0.5,
        "is_correct": correct,
        "mask": rng.random((n_rows, n_columns)) < rng.choice([0, 0.1, 0.8, 1], (n_rows, 1)),
    }
    if not judged:
        case["is_judged"] = rng.random(n_rows) < 0.5
    return {k: v.tolist() for k, v in case.items()}


cases = st.builds(
    make_case,
    seed=st.integers(0, 2**32 - 1),
    n_rows=st.integers(1, 5),
    n_columns=st.sampled_from([1, 2, 4, 5, 9, 31, 60]),
    ties=st.booleans(),
    spread=st.sampled_from([0.05, 0.3, 2.0]),
    mixed_signs=st.booleans(),
    judged=st.booleans(),
    per_token=st.booleans(),
)


@pytest.mark.parametrize("preset", ["htpo", "dapo", "high-entropy-only", "gppo", "aspo"])
@given(
    case=cases,
    top=st.sampled_from([(3, 10), (1, 5), (1, 1)]),
    clip=st.sampled_from([(0.2, 0.28), (0.1, 0.5)]),
)
def test_equals_the_token_loop(preset, case, top, clip):
    # Large shares, so that the detach rules bite at these lengths.
    shares = {
        "hard_correct_low": Detach(0.25, "lowest"),
        "easy_correct_high": Detach(0.4, "highest"),
    }
    table = PRESETS[preset].replace(shares) if preset == "htpo" else PRESETS[preset]
    loss, grad, result = loss_and_grad(case, table, clip, top_entropy_share=top[0] / top[1])
    expected_loss, expected_grad, groups = reference(case, preset, top, lowest=(1, 4), highest=(2, 5), clip=clip)
    if not any(map(any, case["mask"])):
        expected_loss = 0.0
    assert loss == pytest.approx(expected_loss, rel=1e-12, abs=1e-12)
    torch.testing.assert_close(grad, torch.tensor(expected_grad, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    codes = [[-1 if g is None else 4 * (not g[0]) + 2 * (not g[1]) + g[2] for g in row] for row in groups]
    assert result.groups.tolist() == codes


@pytest.mark.parametrize("preset", PRESETS)
def test_gradcheck(preset):
    """Central differences agree with autograd where the objective is smooth, and not on a kink."""
    inputs = tensors(make_case(5, 6, 20, ties=False, spread=0.5, mixed_signs=True))
    inputs["advantages"] *= 3  # so that covariances reach 1
    inputs["entropies"] /= 5  # so that their mean is below 0.3
    logps, old = inputs["per_token_logps"], inputs["old_per_token_logps"]
    assert min((torch.exp(logps - old) - kink).abs().min() for kink in (0.8, 1.28, 10.0)) > 1e-4

    def is_differentiable(old_per_token_logps):
        # What the transform returns is constant: it is the stop-gradient part of the objective.
        torch.manual_seed(0)
        result = control(**inputs | {"old_per_token_logps": old_per_token_logps}, table=preset)
        constants = result.old_per_token_logps, result.advantages, inputs["mask"]
        return result, torch.autograd.gradcheck(
            lambda x: ppo_clip(x, *constants),
            logps.clone().requires_grad_(),
            eps=1e-6,
            atol=1e-9,
            rtol=1e-6,
            raise_exception=False,
        )

    result, smooth = is_differentiable(old)
    assert smooth
    assert (result.effects != 0).any() == (preset not in ("dapo", "none"))
    # The dual clip of a high token with Â < 0 stays where its ratio does. A gate's weight is a constant, and `fipo`
    # removes a response with two such tokens.
    kinks = (result.groups % 2 == 1) & (inputs["advantages"].unsqueeze(1) < 0)
    smooth = is_differentiable(torch.where(kinks, logps - math.log(10), old))[1]
    parts = parts_of(PRESETS[preset].rows[0])
    has_gate = any(is_gate(part) and not isinstance(part, KeepGradient) and part != Clip() for part in parts)
    assert smooth == (has_gate or preset == "fipo")


@pytest.mark.parametrize("n", [49, 50, 166, 167, 208, 209, 250, 834, 835])
def test_detach_counts_are_exact(n):
    """⌊0.006·n_low⌋ low and ⌊0.02·n_high⌋ high tokens, from the first length at which they are one."""
    rng = np.random.default_rng(n)
    case = make_case(n, 2, n, ties=False, spread=0.01, mixed_signs=False)
    case |= {"is_hard": [True, False], "is_correct": [True, True], "advantages": [1.0, 1.0], "mask": [[True] * n] * 2}
    case["entropies"] = rng.permutation(2 * n).reshape(2, n).astype(float).tolist()
    _, grad, result = loss_and_grad(case, PRESETS["htpo"])
    n_high = max(n // 5, 1)
    n_detached = (result.advantages == 0).sum(dim=1).tolist()
    assert n_detached == [6 * (n - n_high) // 1000, 2 * n_high // 100]
    assert ((grad == 0) == (result.advantages == 0)).all()
    counts = [(result.effects == 1 + EFFECTS.index(e)).sum().item() for e in ("detach_lowest", "detach_highest")]
    assert counts == n_detached


@pytest.mark.parametrize(
    ("preset", "group", "ratio", "advantage", "slope"),
    [
        # dJ/dlogπ in closed form, on both sides of every clip. Group 2, correct and high:
        ("htpo", "hard_correct_high", 1.27, 1.0, 1.27),
        ("htpo", "hard_correct_high", 1.29, 1.0, 1.28),
        ("htpo", "hard_correct_high", 0.81, 1.0, 0.81),
        ("htpo", "hard_correct_high", 0.79, 1.0, 1 / 0.79),
        ("htpo", "hard_correct_high", 0.101, 1.0, 1 / 0.101),
        ("htpo", "hard_correct_high", 0.05, 1.0, 10.0),
        # ... where the sign disagrees with the verdict: plain J_PPO.
        ("htpo", "hard_correct_high", 1.29, -1.0, -1.29),
        ("htpo", "hard_correct_high", 0.79, -1.0, 0.0),
        # Groups 4 and 8, wrong and high:
        ("htpo", "hard_wrong_high", 0.81, -1.0, -0.81),
        ("htpo", "hard_wrong_high", 0.79, -1.0, -0.8),
        ("htpo", "hard_wrong_high", 1.29, -1.0, -1.29),
        ("htpo", "hard_wrong_high", 9.99, -1.0, -9.99),
        ("htpo", "hard_wrong_high", 10.01, -1.0, 0.0),
        ("htpo", "hard_wrong_high", 0.79, 1.0, 0.79),
        ("htpo", "easy_wrong_high", 0.79, -1.0, -0.8),
        # Groups 3, 5, 6 and 7: plain J_PPO.
        ("htpo", "hard_wrong_low", 0.79, -1.0, 0.0),
        ("htpo", "easy_wrong_low", 0.79, -1.0, 0.0),
        ("htpo", "easy_correct_low", 1.29, 1.0, 0.0),
        ("htpo", "easy_correct_high", 1.29, 1.0, 0.0),
        ("htpo", "easy_correct_high", 0.79, 1.0, 0.79),
        # The released code pushes kept tokens the other way, whatever the sign of the advantage, without a cap.
        ("htpo-released", "hard_correct_high", 1.29, 1.0, -1.28),
        ("htpo-released", "hard_correct_high", 0.05, 1.0, -20.0),
        ("htpo-released", "hard_wrong_high", 0.79, -1.0, 0.8),
        ("htpo-released", "hard_wrong_high", 0.79, 1.0, -0.8),
        ("dapo", "hard_correct_high", 1.29, 1.0, 0.0),
        ("dapo", "hard_wrong_high", 0.79, -1.0, 0.0),
        ("gppo", "easy_correct_low", 1.29, 1.0, 1.28),
        ("gppo", "hard_wrong_low", 0.79, -1.0, -0.8),
        ("gppo", "easy_correct_low", 0.79, 1.0, 0.79),
        ("gppo", "hard_correct_low", 0.79, -1.0, -0.8),
        ("aspo", "easy_correct_low", 0.9, 1.0, 1 / 0.9),
        ("aspo", "easy_correct_low", 0.5, 1.0, 2.0),
        ("aspo", "easy_correct_low", 1.29, 1.0, 0.0),
        ("aspo", "hard_wrong_high", 0.9, -1.0, -0.9),
        ("high-entropy-only", "hard_correct_low", 1.0, 1.0, 0.0),
        ("high-entropy-only", "hard_correct_high", 1.0, 1.0, 1.0),
    ],
)
def test_closed_form_gradients(preset, group, ratio, advantage, slope):
    assert slope_of(PRESETS[preset], group, ratio, advantage)[0] == pytest.approx(slope, rel=1e-12)


def slope_of(table, group, ratio, advantage, **kwargs):
    """dJ/dlogπ of one token of `group`, and what was done to it."""
    difficulty, correctness, entropy = group.split("_")
    # Five tokens, one of them high: the first or, for a low group, the last is the one looked at.
    column = 0 if entropy == "high" else 4
    case = {
        "per_token_logps": [[0.0] * 5],
        "old_per_token_logps": [[0.0] * 5],
        "entropies": [[5.0, 1.0, 2.0, 3.0, 4.0]],
        "advantages": [advantage],
        "is_hard": [difficulty == "hard"],
        "is_correct": [correctness == "correct"],
        "mask": [[True] * 5],
    }
    case["per_token_logps"][0][column] = math.log(ratio)
    _, grad, result = loss_and_grad(case, table, **kwargs)
    assert GROUPS[result.groups[0, column]] == group
    return -5 * grad[0, column].item(), result.effects[0, column].item()


@pytest.mark.parametrize(
    ("rule", "ratio", "slope", "effect"),
    [
        ({"above": 0.3}, 1.29, 0.3, "keep_above"),
        ({"above": 0.3}, 1.27, 1.27, None),
        ({"above": 0.3}, 0.79, 0.79, None),
        ({"above": "inverse_ratio"}, 2.0, 0.5, "keep_above"),
        ({"above": "bound", "cap": 0.9}, 1.29, 0.9, "keep_above"),
        ({"above": 3.0, "cap": 2}, 1.29, 2.0, "keep_above"),
        ({"above": 0.3, "sign": -1}, 1.29, -0.3, "keep_above"),
        ({"inside": 0.3}, 1.27, 0.3, "keep_inside"),
        ({"inside": 0.3}, 0.81, 0.3, "keep_inside"),
        ({"inside": 0.3}, 1.29, 0.0, None),
        ({"inside": 0.3}, 0.79, 0.79, None),
        ({"below": 0.3}, 0.79, 0.3, "keep_below"),
        ({"below": 0.3}, 0.81, 0.81, None),
        ({"above": 0.1, "inside": 0.2, "below": 0.3}, 1.29, 0.1, "keep_above"),
        ({"above": 0.1, "inside": 0.2, "below": 0.3}, 1.27, 0.2, "keep_inside"),
        ({"above": 0.1, "inside": 0.2, "below": 0.3}, 0.79, 0.3, "keep_below"),
    ],
)
def test_weights_of_kept_gradients(rule, ratio, slope, effect):
    table = PRESETS["dapo"].replace({"hard_correct_high": {"rule": "keep_gradient", **rule}})
    grad, code = slope_of(table, "hard_correct_high", ratio, 1.0)
    assert grad == pytest.approx(slope, rel=1e-12)
    assert code == (0 if effect is None else 1 + EFFECTS.index(effect))


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_edges_belong_to_the_clip_range(ratio):
    rule = KeepGradient(above=0.1, inside=0.2, below=0.3)
    table = PRESETS["dapo"].replace({"hard_correct_high": rule})
    # Powers of two, so that the ratio is on the edge exactly.
    assert slope_of(table, "hard_correct_high", ratio, 1.0, clip=(0.5, 1.0))[1] == 1 + EFFECTS.index("keep_inside")


def test_ties_go_to_the_earlier_token():
    case = make_case(0, 1, 10, ties=False, spread=0.1, mixed_signs=False) | {"mask": [[True] * 10]}
    case["entropies"] = [[1.0] * 10]
    _, _, result = loss_and_grad(case, PRESETS["dapo"])
    assert (result.groups % 2 == 1).tolist() == [[True] * 2 + [False] * 8]


def test_released_ties_join_the_high_and_highest_and_leave_the_lowest():
    case = make_case(0, 2, 10, ties=False, spread=0.1, mixed_signs=False)
    case |= {"is_hard": [True, False], "is_correct": [True, True], "advantages": [1.0, 1.0], "mask": [[True] * 10] * 2}
    case["entropies"] = [[3.0] * 3 + [1.0] * 2 + [2.0] * 5] * 2
    # Of ten, the second largest is a 3; of seven low ones, the third smallest is a 2; of three high ones, all are a 3.
    _, _, result = loss_and_grad(case, PRESETS["htpo-released"].replace({"hard_correct_low": Detach(0.5)}))
    assert (result.groups % 2 == 1).tolist() == [[True] * 3 + [False] * 7] * 2
    assert (result.advantages == 0).tolist() == [
        [False] * 3 + [True] * 2 + [False] * 5,
        [True] * 3 + [False] * 7,
    ]


@pytest.mark.parametrize("preset", PRESETS)
def test_all_equal_entropies_and_short_rows(preset):
    for n_columns in (1, 2, 7):
        case = make_case(1, 4, n_columns, ties=True, spread=1.0, mixed_signs=True)
        case |= {"entropies": [[0.0] * n_columns] * 4, "mask": [[True] * n_columns] * 2 + [[False] * n_columns] * 2}
        loss, grad, result = loss_and_grad(case, PRESETS[preset])
        assert math.isfinite(loss)
        assert grad.isfinite().all()
        assert (result.groups[2:] == -1).all()
        assert (result.effects[2:] == 0).all()


@pytest.mark.parametrize("preset", OWN)
@given(case=cases)
def test_masked_cells_and_row_order_do_not_matter(preset, case):
    inputs = tensors(case)
    mask = inputs["mask"]

    clean = control(**inputs, table=PRESETS[preset])
    for garbage in (math.nan, math.inf, -math.inf, 1e30):
        dirty = {
            name: value.masked_fill(~mask, garbage) if value.shape == mask.shape and name != "mask" else value
            for name, value in inputs.items()
        }
        for a, b in zip(clean, control(**dirty, table=preset), strict=True):
            assert torch.equal(a[mask], b[mask])
    order = torch.randperm(len(mask), generator=torch.Generator().manual_seed(0))
    permuted = control(**{name: value[order] for name, value in inputs.items()}, table=PRESETS[preset])
    for a, b in zip(clean, permuted, strict=True):
        assert torch.equal(a[order][mask[order]], b[mask[order]])


def test_dapo_leaves_the_inputs_as_they_are():
    inputs = tensors(RELEASED[4])
    result = control(**inputs, table=PRESETS["dapo"])
    assert torch.equal(result.advantages, inputs["advantages"].unsqueeze(1).expand_as(result.advantages))
    assert result.old_per_token_logps is inputs["old_per_token_logps"]
    assert (result.effects == 0).all()


def test_shapes_and_types_that_are_alike():
    inputs = tensors(RELEASED[4])
    expected = control(**inputs)
    assert expected.groups.dtype == expected.effects.dtype == torch.int8
    assert all(map(torch.equal, expected, control(**inputs | {"mask": inputs["mask"].long()})))
    written_out = {"table": PRESETS["htpo"], "epsilon_low": 0.2, "epsilon_high": 0.28, "top_entropy_share": 0.2}
    assert all(map(torch.equal, expected, control(**inputs, **written_out)))
    for shape in ((4, 1), (4, 40)):
        result = control(**{**inputs, "advantages": inputs["advantages"].unsqueeze(1).expand(shape)})
        assert all(map(torch.equal, expected, result))


@pytest.mark.parametrize("preset", PRESETS)
def test_float32_selects_the_same_tokens(preset):
    for case in RELEASED:
        double = control(**tensors(case), table=PRESETS[preset])
        single = control(**tensors(case, torch.float32), table=PRESETS[preset])
        assert torch.equal(double.groups, single.groups)
        differ, same = double.effects != single.effects, torch.ones_like(double.effects, dtype=torch.bool)
        if preset in ("sapo", "vespo"):  # whose weights vanish, or are J_PPO's, in single precision sooner
            logps, old, _, advantages, *_ = tensors(case).values()
            plain = advantages.unsqueeze(1) * (logps - old).exp()
            vanishes = double.advantages.abs().minimum((double.advantages - plain).abs()) < 1e-6
            assert vanishes[differ].all()
        elif preset != "clip-cov":  # which draws
            assert not differ.any()
        else:
            same = ~differ
        torch.testing.assert_close(single.advantages.double()[same], double.advantages[same], rtol=1e-5, atol=1e-7)


def test_half_precision_ranks_like_single_with_more_ties():
    """The two are ranked by different functions on a CPU; a GPU ranks all as half precision is ranked here."""
    half = tensors(RELEASED[7], torch.bfloat16)
    for table in PRESETS.values():
        low, high = (
            control(**half | {n: half[n].to(t) for n in half if n not in BOOLEAN}, table=table)
            for t in (torch.bfloat16, torch.float64)
        )
        assert torch.equal(low.groups, high.groups)
        is_ranked = (low.effects > 0) & (low.effects < 3)
        assert torch.equal(is_ranked, (high.effects > 0) & (high.effects < 3))


@pytest.mark.parametrize("share", [1 / 3, 0.1 + 0.2, 0.123456789])
def test_shares_of_many_digits_of_long_responses(share):
    """The exact share times the length would not fit into 64 bits."""
    n = 30_000
    logps, names = torch.full((1, n), -1.0), ("per_token_logps", "old_per_token_logps")
    entropies = torch.rand(1, n, generator=torch.Generator().manual_seed(0))
    yes = torch.tensor([True])
    inputs = {
        "entropies": entropies,
        "advantages": torch.ones(1),
        "is_hard": yes,
        "is_correct": yes,
        "mask": logps < 0,
    }
    table = PRESETS["dapo"].replace({"hard_correct_low": Detach(share), "hard_correct_high": Detach(share, "highest")})
    result = control(**dict.fromkeys(names, logps), **inputs, table=table, top_entropy_share=share)
    n_high = (result.groups == GROUPS.index("hard_correct_high")).sum().item()
    assert n_high == math.floor(n * share + 1e-6)
    counts = [(result.effects == code).sum().item() for code in (1, 2)]
    assert counts == [math.floor((n - n_high) * share + 1e-6), math.floor(n_high * share + 1e-6)]


def test_no_host_synchronisation():
    """Meta tensors have no values: an operation that must read one on the host fails on them."""
    inputs = {name: value.to("meta") for name, value in tensors(RELEASED[7]).items()}
    for table in PRESETS.values():
        assert control(**inputs, table=table).groups.shape == (2, 700)
    with pytest.raises((NotImplementedError, RuntimeError)):
        inputs["mask"].any().item()


@pytest.mark.parametrize("preset", PRESETS)
def test_no_rule_touches_a_response_without_advantage(preset):
    inputs = tensors(RELEASED[7]) | {"advantages": torch.zeros(2, dtype=torch.float64)}
    result = control(**inputs, table=preset)
    # But where the advantage is another (both responses are correct), or not all there is.
    learns = preset in ("w-reinforce", "psr", "kl-cov")
    assert (result.advantages != 0).any() == learns
    assert (result.effects != 0).any() == learns


def test_unjudged_rows_keep_ppo():
    inputs = tensors(RELEASED[4])
    judged = torch.tensor([True, False, True, False])
    result = control(**inputs, is_judged=judged)
    assert (result.groups[~judged] == -1).all()
    assert (result.effects[~judged] == 0).all()
    assert torch.equal(result.old_per_token_logps[~judged], inputs["old_per_token_logps"][~judged])
    everything = control(**inputs)
    assert (everything.effects[~judged] != 0).any()
