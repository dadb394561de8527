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

from htpo_trl.objective import (
    EFFECTS,
    GROUPS,
    PRESETS,
    Clip,
    Detach,
    KeepGradient,
    Table,
    control,
    get_table,
    parse_rule,
)

from .reference import reference


# Inputs, loss and gradient of the loss released with the paper (github.com/xcyao00/HTPO), computed in float64.
RELEASED = json.loads((Path(__file__).parent / "data" / "released_vectors.json").read_text())["cases"]
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


def loss_and_grad(case, table, **kwargs):
    inputs = tensors(case)
    logps = inputs["per_token_logps"].requires_grad_()
    result = checked_control(**inputs, table=table, **kwargs)
    assert not any(t.requires_grad for t in result)
    loss = ppo_clip(logps, result.old_per_token_logps, result.advantages, inputs["mask"])
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


def make_case(seed, n_rows, n_columns, ties, spread, mixed_signs, judged=True):
    rng = np.random.default_rng(seed)
    correct = rng.random(n_rows) < 0.5
    advantages = np.where(correct, 1, -1) * rng.uniform(0.2, 2, n_rows)
    if mixed_signs:  # a length penalty can turn the sign against the verdict
        advantages *= rng.choice([-1, 1], n_rows)
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
)


@pytest.mark.parametrize("preset", ["htpo", "dapo", "high-entropy-only", "gppo", "aspo"])
@given(case=cases)
def test_equals_the_token_loop(preset, case):
    # Large shares, so that the detach rules bite at these lengths.
    shares = {
        "hard_correct_low": Detach(0.25, "lowest"),
        "easy_correct_high": Detach(0.4, "highest"),
    }
    table = PRESETS[preset].replace(shares) if preset == "htpo" else PRESETS[preset]
    loss, grad, result = loss_and_grad(case, table, top_entropy_share=0.3)
    expected_loss, expected_grad, groups = reference(case, preset, top=(3, 10), lowest=(1, 4), highest=(2, 5))
    if not any(map(any, case["mask"])):
        expected_loss = 0.0
    assert loss == pytest.approx(expected_loss, rel=1e-12, abs=1e-12)
    torch.testing.assert_close(grad, torch.tensor(expected_grad, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    codes = [[-1 if g is None else 4 * (not g[0]) + 2 * (not g[1]) + g[2] for g in row] for row in groups]
    assert result.groups.tolist() == codes


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
    difficulty, correctness, entropy = group.split("_")
    # Five tokens, one of them high: the first or, for a low group, the last is the one looked at.
    column = 0 if entropy == "high" else 4
    case = {
        "per_token_logps": [[math.log(0.3)] * 5],
        "old_per_token_logps": [[math.log(0.3)] * 5],
        "entropies": [[5.0, 1.0, 2.0, 3.0, 4.0]],
        "advantages": [advantage],
        "is_hard": [difficulty == "hard"],
        "is_correct": [correctness == "correct"],
        "mask": [[True] * 5],
    }
    case["old_per_token_logps"][0][column] -= math.log(ratio)
    _, grad, result = loss_and_grad(case, PRESETS[preset])
    assert GROUPS[result.groups[0, column]] == group
    assert -5 * grad[0, column].item() == pytest.approx(slope, rel=1e-12)


def test_ties_go_to_the_earlier_token():
    case = make_case(0, 1, 10, ties=False, spread=0.1, mixed_signs=False) | {"mask": [[True] * 10]}
    case["entropies"] = [[1.0] * 10]
    _, _, result = loss_and_grad(case, PRESETS["dapo"])
    assert (result.groups % 2 == 1).tolist() == [[True] * 2 + [False] * 8]


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


@pytest.mark.parametrize("preset", PRESETS)
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


def test_advantages_may_be_per_token():
    inputs = tensors(RELEASED[4])
    expected = control(**inputs)
    for shape in ((4, 1), (4, 40)):
        result = control(**{**inputs, "advantages": inputs["advantages"].unsqueeze(1).expand(shape)})
        assert all(map(torch.equal, expected, result))


@pytest.mark.parametrize("preset", PRESETS)
def test_float32_selects_the_same_tokens(preset):
    for case in RELEASED:
        double = control(**tensors(case), table=PRESETS[preset])
        single = control(**tensors(case, torch.float32), table=PRESETS[preset])
        assert torch.equal(double.groups, single.groups)
        assert torch.equal(double.effects, single.effects)
        torch.testing.assert_close(single.advantages.double(), double.advantages, rtol=1e-5, atol=0)


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
    assert (result.advantages == 0).all()
    assert (result.effects == 0).all()


def test_unjudged_rows_keep_ppo():
    inputs = tensors(RELEASED[4])
    judged = torch.tensor([True, False, True, False])
    result = control(**inputs, is_judged=judged)
    assert (result.groups[~judged] == -1).all()
    assert (result.effects[~judged] == 0).all()
    assert torch.equal(result.old_per_token_logps[~judged], inputs["old_per_token_logps"][~judged])
    everything = control(**inputs)
    assert (everything.effects[~judged] != 0).any()


def test_tables_read_like_the_figure():
    lines = str(PRESETS["htpo"]).splitlines()
    assert lines[0] == "htpo"
    assert lines[1] == " 1  hard · correct · low   J_PPO; the lowest-entropy 0.6% detached"
    assert lines[3] == " 3  hard · wrong · low     J_PPO"
    assert lines[6] == " 6  easy · correct · high  J_PPO; the highest-entropy 2% detached"
    assert "min(1/r, 10)" in lines[2]
    assert "(1-ε_lo)" in lines[4]
    assert "(1-ε_lo)" in lines[8]
    assert "-1/r" in str(PRESETS["htpo-released"])


def test_overrides():
    table = get_table("htpo", {"hard_correct_low": "clip", "easy_correct_high": {"rule": "detach", "share": 0.1}})
    assert table.rows[0] == Clip()
    assert table.rows[5] == Detach(0.1, "lowest")
    assert table.rows[1] == PRESETS["htpo"].rows[1]
    assert isinstance(parse_rule({"rule": "keep_gradient", "below": 0.5}), KeepGradient)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: get_table("htpoo"), "'htpoo'.*the presets are htpo, htpo-released"),
        (lambda: get_table("htpo", {"hard_right_low": "clip"}), "hard_right_low.*The groups are hard_correct_low"),
        (lambda: parse_rule("drop"), "'drop'.*clip, detach, keep_gradient"),
        (lambda: parse_rule({"rule": "detach", "part": 1}), "no option part.*share, which"),
        (lambda: parse_rule({"rule": "detach"}), "incomplete"),
        (lambda: Detach(0.0), "share=0.0"),
        (lambda: Detach(1.5), "share=1.5"),
        (lambda: Detach(0.1, "middle"), "which='middle'"),
        (lambda: KeepGradient(), "give a weight"),
        (lambda: KeepGradient(above=-1.0), "above=-1.0"),
        (lambda: KeepGradient(above="edge"), "above='edge'"),
        (lambda: KeepGradient(inside="bound"), "inside='bound'"),
        (lambda: KeepGradient(inside="inverse_ratio", when="clipped"), "nothing is clipped"),
        (lambda: KeepGradient(above="bound", cap=0), "cap=0"),
        (lambda: KeepGradient(above="bound", when="never"), "when='never'"),
        (lambda: KeepGradient(above="bound", sign=2), "sign=2"),
        (lambda: Table("short", (Clip(),)), "1 rows"),
        (lambda: Table("odd", (Clip(),) * 8, selection="loose"), "selection='loose'"),
    ],
)
def test_bad_tables_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
