"""Rules in their written form, which recipes, checkpoints and settings hold."""

import json

import pytest
import torch

from htpo_trl.objective import PRESETS, Clip, Detach, KeepGradient, control, parse_rule, rule_spec
from htpo_trl.objective.rules import Mix, Named, changes_sign, rewrites_ratio
from htpo_trl.objective.table import Table
from htpo_trl.utils import UsageError


WRITTEN = [
    (Clip(), {"rule": "clip"}),
    (Detach(0.01), {"rule": "detach", "share": 0.01}),
    (Detach(0.02, "lowest"), {"rule": "detach", "share": 0.02}),
    (Detach(1.0, "highest"), {"rule": "detach", "share": 1.0, "which": "highest"}),
    (KeepGradient(inside=2.0, sign=-1), {"rule": "keep_gradient", "inside": 2.0, "sign": -1}),
    (
        KeepGradient(above="bound", below="inverse_ratio", cap=10.0, when="always"),
        {"rule": "keep_gradient", "above": "bound", "below": "inverse_ratio", "cap": 10.0, "when": "always"},
    ),
]


@pytest.mark.parametrize(("rule", "written"), WRITTEN)
def test_the_written_form_names_what_is_not_the_default(rule, written):
    assert rule_spec(rule) == written
    assert parse_rule(json.loads(json.dumps(written))) == rule


@pytest.mark.parametrize("preset", PRESETS)
def test_every_row_survives_being_written(preset):
    for row in PRESETS[preset].rows:
        assert parse_rule(json.loads(json.dumps(rule_spec(row)))) == row


def test_a_rule_that_control_does_not_know_is_named():
    class Unknown:
        def __repr__(self):
            return "Unknown(3)"

    zeros = torch.zeros(1, 2)
    with pytest.raises(TypeError, match=r"Unknown\(3\)"):
        control(
            per_token_logps=zeros,
            old_per_token_logps=zeros,
            entropies=zeros,
            advantages=zeros,
            is_hard=torch.tensor([True]),
            is_correct=torch.tensor([True]),
            mask=torch.ones(1, 2, dtype=torch.bool),
            table=Table("mine", (Unknown(),) * 8),
            epsilon_low=0.2,
            epsilon_high=0.28,
        )


def test_which_presets_replace_the_ratio_and_the_sign():
    replaced = {name for name, table in PRESETS.items() if any(map(rewrites_ratio, table.rows))}
    assert PRESETS.keys() - replaced == {"dapo", "none", "high-entropy-only", "stare", "fipo", "ar"}
    other_sign = {name for name, table in PRESETS.items() if any(map(changes_sign, table.rows))}
    assert other_sign == {"htpo-released", "kl-cov", "w-reinforce", "psr", "nsr"}


def test_a_list_of_rules_reads_as_one_and_is_one_of_a_tuple():
    parts = [Named("cispo"), Detach(0.1, "highest"), Detach(0.2, "lowest")]
    one = "; the highest-entropy 10% of the group detached; the lowest-entropy 20% of the group detached"
    assert str(Mix(parts)) == f"{Named('cispo')}{one}"
    assert hash(Mix(parts)) == hash(Mix(tuple(parts)))


def test_a_name_that_is_none_is_told_with_the_nearest():
    with pytest.raises(UsageError) as refused:
        Named("no such rule")
    assert str(refused.value) == "Unknown rule 'no such rule'."
    with pytest.raises(
        UsageError, match=r"^Unknown rule 'dettach' in 'dettach'\. Did you mean 'detach'\? The rules are "
    ):
        parse_rule("dettach")
