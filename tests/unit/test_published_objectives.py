"""Published objectives against known answers: vectors of the authors' own code, and a loop over tokens."""

import json
import math
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from htpo_trl.objective import EFFECTS, GROUPS, PRESETS, Table, control, effective_weight, parse_rule, rule_spec
from htpo_trl.objective.rules import changes_sign

from ..reference_objectives import reference
from .test_objective import cases, checked_control, ppo_clip, tensors


# Inputs and gradients of the authors' functions, computed in float64; not in this repository.
VECTORS = Path(__file__).parents[3] / "shared" / "spec" / "objective_vectors.json"
PUBLISHED = json.loads(VECTORS.read_text())["cases"] if VECTORS.exists() else []
# Small inputs that were made up, and what the loop over tokens says: C of each token. Both were written once.
MADE_UP = json.loads((Path(__file__).parents[1] / "data" / "objective_cases.json").read_text())
# They draw tokens at random, or rank those of all rows.
DRAWN, OVER_THE_BATCH = ("clip-cov",), ("clip-cov", "kl-cov", "stare", "hapo-released")
NAMED = [name for name, table in PRESETS.items() if table.mixed]


def written(table):
    """The rows of a table as lists of dictionaries."""
    return [spec if isinstance(spec := rule_spec(row), list) else [spec] for row in table.rows]


def with_options(table, **options):
    """A table whose rules have another value of an option that they have."""
    rows = [[{k: options.get(k, v) for k, v in rule.items()} for rule in row] for row in written(table)]
    return Table(table.name, tuple(map(parse_rule, rows)), table.selection, table.settings)


def gradient(inputs, table, mean="token_mean", denominator=None, clip=(0.2, 0.28), delta=10.0, **kwargs):
    """dloss/dlogπ through the PPO-clip loss that the transform feeds."""
    logps, mask = inputs["per_token_logps"].clone().requires_grad_(), inputs["mask"]
    options = {"epsilon_low": clip[0], "epsilon_high": clip[1], "delta": delta, **kwargs}
    result = checked_control(**inputs, table=table, **options)
    assert not any(t.requires_grad for t in result)
    ratio = torch.exp(logps - result.old_per_token_logps)
    dual = math.inf if delta is None else delta
    advantages = result.advantages
    loss = -torch.min(ratio.clamp(max=dual) * advantages, ratio.clamp(1 - clip[0], 1 + clip[1]) * advantages)
    loss = loss.masked_fill(~mask, 0)
    if mean == "token_mean":
        loss = loss.sum() / (denominator or mask.sum().clamp(min=1))
    else:
        loss = (loss.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean()
    loss.backward()
    return logps.grad.masked_fill(~mask, 0), result


def of_published(case, dtype=torch.float64):
    params, table = case["params"], PRESETS[case["objective"]]
    if "share" in params:
        table = with_options(table, share=params["share"])
    clip, delta = (params["epsilon_low"], params["epsilon_high"]), params.get("delta", 10.0)
    inputs = tensors(case, dtype)
    grad, result = gradient(inputs, table, case["aggregation"], case.get("denominator"), clip, delta)
    expected = torch.tensor(case["grad"], dtype=torch.float64).masked_fill(~inputs["mask"], 0)
    return grad.double(), expected, result


@pytest.mark.skipif(not PUBLISHED, reason="the authors' vectors are not here")
def test_every_authors_objective_has_vectors():
    own = {"htpo", "htpo-released", "dapo", "none", "high-entropy-only", "gppo", "aspo", "tis"}
    assert {case["objective"] for case in PUBLISHED} == PRESETS.keys() - own


@pytest.mark.parametrize("case", [c for c in PUBLISHED if "any_of" not in c], ids=lambda case: case["name"])
def test_equals_the_authors_code(case):
    grad, expected, _ = of_published(case)
    torch.testing.assert_close(grad, expected, rtol=0, atol=1e-9)
    assert grad.abs().max() > 1e-3
    single = of_published(case, torch.float32)[0]
    # W of `vespo` is a power of r: what r has of round-off, it has many times.
    torch.testing.assert_close(single, expected, rtol=2e-4 if case["objective"] == "vespo" else 2e-5, atol=1e-7)


@pytest.mark.parametrize("case", [c for c in PUBLISHED if "any_of" in c], ids=lambda case: case["name"])
@pytest.mark.parametrize("seed", range(3))
def test_a_draw_takes_as_many_as_the_authors_of_their_candidates(case, seed):
    torch.manual_seed(seed)
    grad, expected, result = of_published(case)
    candidates = torch.tensor(case["any_of"]["candidates"]).bool()
    drawn = result.effects == 1 + EFFECTS.index("detach_random")
    assert drawn.sum() == case["any_of"]["count"] < candidates.sum()
    assert not (drawn & ~candidates).any()
    torch.testing.assert_close(grad, expected.masked_fill(drawn, 0), rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", [c for c in PUBLISHED if c.get("note", "").find(" of ") < 0], ids=lambda c: c["name"])
def test_settings_of_a_preset_are_the_authors(case):
    if case["name"] == "clip-cov/all":
        pytest.skip("the clip range of another script")
    params, chosen = case["params"], {"epsilon": 0.2, "epsilon_high": 0.28, "loss_type": "dapo"}
    chosen |= dict(PRESETS[case["objective"]].settings)
    assert (chosen["epsilon"], chosen["epsilon_high"]) == (params["epsilon_low"], params["epsilon_high"])
    assert chosen["loss_type"] == {"token_mean": "dapo", "sequence_mean": "grpo"}[case["aggregation"]]


@pytest.mark.parametrize("case", MADE_UP, ids=lambda case: case["objective"])
def test_equals_answers_that_were_written_down(case):
    inputs, clip = tensors(case), case["clip"]
    grad, _ = gradient(inputs, case["objective"], clip=clip)
    expected = -torch.tensor(case["c"], dtype=torch.float64) / inputs["mask"].sum()
    torch.testing.assert_close(grad, expected, rtol=0, atol=1e-9)
    again = reference(
        case, written(PRESETS[case["objective"]]), low=clip[0], high=clip[1], quantile=case["objective"] == "archer"
    )
    torch.testing.assert_close(torch.tensor(again), torch.tensor(case["c"]), rtol=0, atol=1e-12)
    flipped = gradient(inputs | {"is_correct": ~inputs["is_correct"], "advantages": -inputs["advantages"]}, "dapo")[0]
    assert (flipped - expected).abs().max() > 1e-3


def test_every_preset_but_one_that_draws_has_an_answer():
    assert {case["objective"] for case in MADE_UP} == PRESETS.keys() - {"htpo-released", *DRAWN}


@settings(max_examples=150)
@given(case=cases, preset=st.sampled_from(NAMED))
def test_equals_the_token_loop(case, preset):
    """Also of one-token rows, rows without tokens, one row, rows without a verdict, and advantages per token."""
    if not any(map(any, case["mask"])):
        return
    torch.manual_seed(0)
    inputs, table = tensors(case), PRESETS[preset]
    grad, result = gradient(inputs, table)
    drawn = result.effects == 1 + EFFECTS.index("detach_random")
    rows = [[r for r in row if r.get("which") != "random"] for row in written(table)]
    expected = torch.tensor(reference(case, rows, quantile=table.selection == "quantile"), dtype=torch.float64)
    n = inputs["mask"].sum()
    if preset == "kl-cov":  # covariances of one row, say, are 0 or round-off: either token is the largest
        off = (grad * n + expected).abs() > 1e-10
        assert off.sum() in (0, 2)
        return
    torch.testing.assert_close(-grad * n, expected.masked_fill(drawn, 0), rtol=1e-10, atol=1e-10)


@settings(max_examples=150)
@given(case=cases, preset=st.sampled_from(NAMED), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_masked_cells_have_no_influence(case, preset, dtype):
    def seeded(inputs):
        torch.manual_seed(0)
        return control(**inputs, table=preset)

    inputs = tensors(case, dtype)
    mask, clean = inputs["mask"], seeded(inputs)
    assert clean.advantages[mask].isfinite().all()
    for garbage in (math.nan, math.inf, -math.inf, 1e30):
        dirty = {
            name: value.masked_fill(~mask, garbage) if value.shape == mask.shape and name != "mask" else value
            for name, value in inputs.items()
        }
        for a, b in zip(clean, seeded(dirty), strict=True):
            assert torch.equal(a[mask], b[mask])
    assert (clean.effects[~mask] == 0).all()
    assert (clean.groups[~mask] == -1).all()


@settings(max_examples=60)
@given(case=cases, preset=st.sampled_from([name for name in NAMED if name not in OVER_THE_BATCH]))
def test_the_order_of_rows_and_their_company_do_not_matter(case, preset):
    inputs = tensors(case)
    mask, clean = inputs["mask"], control(**inputs, table=preset)
    for order in (torch.arange(len(mask)).flip(0), torch.tensor([0])):
        other = control(**{name: value[order] for name, value in inputs.items()}, table=preset)
        for a, b in zip(clean, other, strict=True):
            # Not to the last bit: at the end of memory, `exp` and `sigmoid` are computed by another function.
            torch.testing.assert_close(a[order][mask[order]], b[mask[order]], rtol=1e-12, atol=1e-300)


def generic(n_rows=4, n_tokens=40, seed=0, dtype=torch.float64, spread=0.3):
    """Rows of a batch that no objective leaves as they are, two for each kind of response, full and half."""
    random = torch.Generator().manual_seed(seed)
    logps = -0.05 - 2 * torch.rand(n_rows, n_tokens, generator=random, dtype=torch.float64)
    rows = torch.arange(n_rows)
    values = {
        "per_token_logps": logps,
        "old_per_token_logps": logps + spread * torch.randn(n_rows, n_tokens, generator=random, dtype=torch.float64),
        "entropies": 0.4 * torch.rand(n_rows, n_tokens, generator=random, dtype=torch.float64),
        "advantages": 3 * torch.randn(n_rows, generator=random, dtype=torch.float64),
    }
    mask = torch.arange(n_tokens) < torch.where(rows % 3 == 1, n_tokens // 2, n_tokens).unsqueeze(1)
    labels = {"is_hard": rows % 2 == 0, "is_correct": rows // 2 % 2 == 0, "mask": mask}
    return {name: value.to(dtype) for name, value in values.items()} | labels


@pytest.mark.parametrize("preset", OVER_THE_BATCH[1:])
def test_rankings_over_the_batch_do_not_see_the_order_of_rows(preset):
    inputs, order = generic(), torch.tensor([2, 0, 3, 1])
    result = control(**inputs, table=preset)
    other = control(**{name: value[order] for name, value in inputs.items()}, table=preset)
    assert torch.equal(result.effects[order], other.effects)
    torch.testing.assert_close(result.advantages[order], other.advantages, rtol=1e-12, atol=0)
    alone = control(**{name: value[:1] for name, value in inputs.items()}, table=preset)
    assert not torch.equal(alone.advantages, result.advantages[:1])  # and that is why they depend on micro-batches


@pytest.mark.parametrize("preset", PRESETS)
def test_control_changes_no_input_and_says_nothing(preset):
    for inputs in (generic(), generic(1, 1), generic(3, 2, dtype=torch.float32)):
        before = {name: value.clone() for name, value in inputs.items()}
        torch.manual_seed(3)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            first = control(**inputs, table=preset)
        for name, value in inputs.items():
            assert torch.equal(value, before[name])
        torch.manual_seed(3)
        assert all(map(torch.equal, first, control(**inputs, table=preset)))


def test_other_seeds_draw_other_tokens():
    draws = []
    for seed in range(5):
        torch.manual_seed(seed)
        draws.append(control(**generic(), table="clip-cov").effects)
    assert not all(torch.equal(draws[0], draw) for draw in draws)


@pytest.mark.parametrize("preset", NAMED)
def test_no_tokens_at_all(preset):
    inputs = generic()
    empty = control(**inputs | {"mask": torch.zeros_like(inputs["mask"])}, table=preset)
    assert (empty.groups == -1).all()
    assert (empty.effects == 0).all()


@pytest.mark.parametrize("preset", NAMED)
def test_without_advantage_only_those_that_change_its_sign_learn(preset):
    inputs = generic()
    result = control(**inputs | {"advantages": torch.zeros(4, dtype=torch.float64)}, table=preset)
    learns = any(map(changes_sign, PRESETS[preset].rows))
    assert (result.advantages[inputs["mask"]] != 0).any() == learns
    assert (result.effects != 0).any() == learns


@pytest.mark.parametrize("preset", NAMED)
def test_advantages_may_have_any_of_three_shapes(preset):
    inputs = generic()
    torch.manual_seed(0)
    expected = control(**inputs, table=preset)
    for shape in ((4, 1), (4, 40)):
        torch.manual_seed(0)
        result = control(**inputs | {"advantages": inputs["advantages"].unsqueeze(1).expand(shape)}, table=preset)
        for a, b in zip(result, expected, strict=True):
            torch.testing.assert_close(a[inputs["mask"]], b[inputs["mask"]], rtol=1e-12, atol=0)


@pytest.mark.parametrize("preset", NAMED)
def test_what_is_counted_is_what_changed(preset):
    """Tokens without an effect have the weight of J_PPO, those with one another weight."""
    inputs = generic()
    result = control(**inputs, table=preset)
    tokens = {"epsilon_low": 0.2, "epsilon_high": 0.28, "delta": 10.0}
    logps, old = inputs["per_token_logps"], inputs["old_per_token_logps"]
    plain = effective_weight(logps, old, inputs["advantages"].unsqueeze(1).expand_as(logps), **tokens)
    now = effective_weight(logps, result.old_per_token_logps, result.advantages, **tokens)
    differs = ((now - plain).abs() > 1e-9) & inputs["mask"]
    # A scale of a token that is clipped anyway is counted, although nothing comes of it.
    counted = (result.effects != 0) & ((result.effects != 1 + EFFECTS.index("scaled")) | (plain != now))
    assert torch.equal(differs, counted & inputs["mask"])
    assert {EFFECTS[code - 1] for code in result.effects.unique().tolist() if code} <= set(PRESETS[preset].effects)
    assert GROUPS  # of which all tokens are in one
    assert (result.groups >= 0).eq(inputs["mask"]).all()
    assert ppo_clip(logps, result.old_per_token_logps, result.advantages, inputs["mask"]).isfinite()
