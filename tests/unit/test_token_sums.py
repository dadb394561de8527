"""`token_sums`, what the trainer logs, against a loop over tokens, in float64."""

import math

import pytest
import torch

from htpo_trl.objective import EFFECTS, GROUPS, PRESETS, Control, control, token_sums


def by_loop(result, mask, logps, old, entropies, advantages, low, high):
    """The sums, token by token in plain Python."""
    sums = dict.fromkeys(("tokens", "not_finite", "clip_ratio/low", "clip_ratio/high"), 0.0)
    sums |= {f"special/{effect}": 0.0 for effect in EFFECTS}
    sums |= {f"{kind}/{group}": 0.0 for kind in ("share", "entropy") for group in GROUPS}
    for i, row in enumerate(mask.tolist()):
        for j, trained in enumerate(row):
            if not trained:
                continue
            values = logps[i, j].item(), old[i, j].item(), entropies[i, j].item()
            sums["tokens"] += 1
            sums["not_finite"] += not all(map(math.isfinite, values))
            ratio, advantage = math.exp(values[0] - values[1]), advantages[i, j].item()
            sums["clip_ratio/low"] += ratio < 1 - low and advantage < 0
            sums["clip_ratio/high"] += ratio > 1 + high and advantage > 0
            if effect := result.effects[i, j].item():
                sums[f"special/{EFFECTS[effect - 1]}"] += 1
            if (group := result.groups[i, j].item()) >= 0:
                sums[f"share/{GROUPS[group]}"] += 1
                sums[f"entropy/{GROUPS[group]}"] += values[2]
    return sums


@pytest.mark.parametrize("seed", range(6))
def test_sums_are_those_of_a_loop(seed):
    random = torch.Generator().manual_seed(seed)
    b, t = 7, 60
    logps, old = (-2 + torch.randn(b, t, generator=random, dtype=torch.float64) for _ in range(2))
    entropies = torch.rand(b, t, generator=random, dtype=torch.float64)
    advantages = torch.randn(b, 1, generator=random, dtype=torch.float64)
    mask = torch.rand(b, t, generator=random) < 0.8
    flags = [torch.rand(b, generator=random) < share for share in (0.5, 0.5, 0.8)]
    result = control(
        per_token_logps=logps,
        old_per_token_logps=old,
        entropies=entropies,
        advantages=advantages,
        mask=mask,
        **dict(zip(("is_hard", "is_correct", "is_judged"), flags, strict=True)),
    )
    given = {"per_token_logps": logps, "old_per_token_logps": old, "entropies": entropies}
    expected = by_loop(result, mask, logps, old, entropies, advantages.expand(b, t), 0.2, 0.28)
    assert sum(n for name, n in expected.items() if name.startswith("special/")) > 0
    for shape in (advantages[:, 0], advantages, advantages.expand(b, t)):
        sums = token_sums(result, mask=mask, advantages=shape, epsilon_low=0.2, epsilon_high=0.28, **given)
        assert sums.keys() == expected.keys()
        assert {v.dtype for v in sums.values()} == {torch.float64}
        assert {name: value.item() for name, value in sums.items()} == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("advantages", "low", "high"), [([1.0, -1.0], 1, 1), ([1.0, 1.0], 0, 2), ([0.0, 0.0], 0, 0)])
def test_clip_ratio_is_what_ppo_clips(advantages, low, high):
    """Beyond the range, not on its edges; without masked tokens."""
    ratio = torch.tensor([[0.4, 0.5, 1.0, 2.0, 2.5, 0.1, 9.0]] * 2)
    mask = (torch.arange(7) < 5).expand(2, 7)
    nothing = torch.zeros(2, 7, dtype=torch.int8)
    logps = ratio.log()
    sums = token_sums(
        Control(ratio, ratio, nothing - 1, nothing),
        mask=mask,
        per_token_logps=logps,
        old_per_token_logps=torch.zeros_like(logps),
        entropies=ratio,
        advantages=torch.tensor(advantages),
        epsilon_low=0.5,
        epsilon_high=1.0,
    )
    assert (sums["clip_ratio/low"].item(), sums["clip_ratio/high"].item()) == (low, high)


def test_counts_of_half_precision_go_beyond_256_and_carry_no_gradient():
    ones = torch.ones(1, 1001, dtype=torch.bfloat16, requires_grad=True)  # 1001 is no number of bfloat16
    codes = torch.zeros(1, 1001, dtype=torch.int8)
    values = dict.fromkeys(("per_token_logps", "old_per_token_logps", "entropies", "advantages"), ones)
    result = Control(ones, ones, codes, codes)
    sums = token_sums(result, mask=ones.bool(), epsilon_low=0.2, epsilon_high=0.28, **values)
    assert sums["tokens"].item() == sums[f"entropy/{GROUPS[0]}"].item() == 1001
    assert not any(value.requires_grad for value in sums.values())


def test_values_that_are_not_finite_are_counted_where_trained():
    zeros, codes = torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.int8)
    mask = torch.tensor([[True, True, False, False]] * 2)
    for name in ("per_token_logps", "old_per_token_logps", "entropies"):
        values = {n: zeros.clone() for n in ("per_token_logps", "old_per_token_logps", "entropies")}
        values[name][0, 1], values[name][1, 3] = math.inf, math.nan
        sums = token_sums(
            Control(zeros, zeros, codes, codes),
            mask=mask,
            advantages=torch.ones(2),
            epsilon_low=0.2,
            epsilon_high=0.28,
            **values,
        )
        assert sums["not_finite"].item() == 1


@pytest.mark.parametrize("which", ["lowest", "highest", "random"])
def test_a_detached_token_is_not_one_that_the_gate_on_the_response_cuts_off(which):
    """A response at ratio 1, within GSPO's range, and one that is far above it; half of the tokens are detached."""
    n = 8
    table = PRESETS["dapo"].replace({"all": ["gspo", {"rule": "detach", "share": 0.5, "which": which}]})
    logps = torch.full((2, n), -1.0)
    tokens = {
        "mask": torch.ones(2, n, dtype=torch.bool),
        "per_token_logps": logps,
        "old_per_token_logps": logps - torch.tensor([[0.0], [1.0]]),
        "entropies": torch.rand(2, n, generator=torch.Generator().manual_seed(0)),
    }
    clip = {"epsilon_low": 0.2, "epsilon_high": 0.28}
    labels = {"is_hard": torch.ones(2, dtype=torch.bool), "is_correct": torch.ones(2, dtype=torch.bool)}
    result = control(**tokens, **clip, **labels, advantages=torch.ones(2), table=table)
    given = {"advantages": torch.ones(2), "of_response": table.of_response}
    sums = token_sums(result, **tokens, **clip, **given)
    assert sums[f"special/detach_{which}"] == n // 2
    assert (sums["clip_ratio/low"], sums["clip_ratio/high"]) == (0, n)
