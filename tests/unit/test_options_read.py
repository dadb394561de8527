"""Options of the loss that no rule of the table reads: told, or refused with the rule that was meant."""

import math

import pytest
import torch

from htpo_trl.objective import PRESETS, control, effective_weight, parse_rule
from htpo_trl.utils import UsageError


# What the rules of a preset read, as its paper has it; of the others a clip range and a dual clip.
READ = {
    **{name: set() for name in ("tis", "sapo", "dppo-tv", "dppo-kl", "wapo", "kl-cov", "gmpo", "vespo")},
    **{name: {"epsilon", "epsilon_high"} for name in ("clip-cov", "w-reinforce", "psr", "nsr", "gspo")},
    **{"cispo": {"epsilon_high"}, "archer": {"delta"}},
}
ALL = {"epsilon": 0.1, "epsilon_high": 0.4, "delta": 7.0}


@pytest.mark.parametrize("objective", PRESETS)
def test_what_no_rule_reads_is_told(warned, batch, make_trainer, objective):
    _, told = warned(objective=objective, **ALL)
    unread = [name for name in ALL if name not in READ.get(objective, ALL)]
    lines = [line for line in told if "reads" in line]
    assert len(lines) == bool(unread)
    for line in lines:
        names, rest = line.split(f": no rule of objective='{objective}' reads ")
        assert names == ", ".join(f"{name}={ALL[name]}" for name in unread)
        assert rest == (
            f"{'it' if len(unread) == 1 else 'them'}, and the run trains as without. Leave out what is not on purpose."
        )
    # Nothing is said of what has its value anyway, nor of no dual clip.
    usual = warned(objective=objective)[0]
    assert warned(objective=objective, delta=None, epsilon=usual.epsilon, epsilon_high=usual.epsilon_high)[1] == []


@pytest.mark.parametrize("objective", PRESETS)
def test_what_is_read_matters_and_the_rest_does_not(objective):
    """The gradient of 800 tokens on all sides of every edge, for each option that is said to be read or not to be."""
    random = torch.Generator().manual_seed(0)
    kinds = torch.arange(32) % 8
    drift = 6 * torch.rand(32, 25, generator=random, dtype=torch.float64) - 3
    for row, constant in ((8, -0.5), (16, 0.5), (24, 1.9)):  # for gates on the ratio of the response
        drift[row : row + 8] = constant
    inputs = {
        "per_token_logps": drift - 4,
        "old_per_token_logps": torch.full_like(drift, -4),
        "entropies": torch.rand(32, 25, generator=random, dtype=torch.float64),
        "advantages": 1.0 - 2.0 * (kinds % 2).double(),
        "is_hard": kinds < 4,
        "is_correct": kinds % 2 == 0,
        "mask": torch.ones(32, 25, dtype=torch.bool),
    }

    def slopes(**changed):
        given = {"epsilon_low": 0.2, "epsilon_high": 0.28, "delta": 10.0} | changed
        torch.manual_seed(0)
        result = control(**inputs, table=objective, **given)
        effective = (inputs["per_token_logps"], result.old_per_token_logps, result.advantages)
        return effective_weight(*effective, *given.values())

    # No token of these two is clipped on one side, since none moves that way: not what a gate can know.
    read = READ.get(objective, {*ALL}) - {"psr": {"epsilon"}, "nsr": {"epsilon_high"}}.get(objective, set())
    others = {"epsilon": {"epsilon_low": 0.6}, "epsilon_high": {"epsilon_high": 1.2}, "delta": {"delta": 5.0}}
    assert {option for option, other in others.items() if not torch.equal(slopes(), slopes(**other))} == read


@pytest.mark.parametrize(
    ("overrides", "unread"),
    [
        ({"all": "sapo", "hard_low": "clip"}, []),
        ({"all": {"rule": "clip", "epsilon_low": 0.1}}, ["epsilon"]),
        ({"all": {"rule": "clip", "epsilon_low": 0.1, "epsilon_high": 0.1, "delta": "none"}}, [*ALL]),
        ({"high": "cispo", "low": {"rule": "detach", "share": 1.0}}, ["epsilon", "delta"]),
        ({"high": {"rule": "keep_gradient", "above": 1.0}, "low": "tis"}, []),
        ({"all": ["fipo", "gmpo"]}, [*ALL]),
        ({"all": ["fipo", {"rule": "penalty", "beta": 0.1}]}, []),
        ({"all": "hapo-released"}, []),
    ],
)
def test_what_rows_of_ones_own_read(warned, overrides, unread):
    _, told = warned(objective="none", objective_overrides=overrides, **ALL)
    given = ", ".join(f"{name}={ALL[name]}" for name in unread)
    assert [line.split(": no rule")[0] for line in told] == [given] * bool(unread)


@pytest.mark.parametrize("objective", ["none", "dapo"])
@pytest.mark.parametrize(
    ("loss_type", "unread"),
    [
        *((name, ["sapo_temperature_neg", "vespo_k_pos"]) for name in ("grpo", "dapo", "luspo")),
        ("cispo", ["epsilon", "delta", "sapo_temperature_neg", "vespo_k_pos"]),
        ("sapo", [*ALL, "vespo_k_pos"]),
        ("vespo", [*ALL, "sapo_temperature_neg"]),
    ],
)
def test_what_a_loss_of_trls_does_not_read_is_told(warned, objective, loss_type, unread):
    values = ALL | {"sapo_temperature_neg": 1.2, "vespo_k_pos": 4.0}
    _, told = warned(objective=objective, loss_type=loss_type, **values)
    (line,) = [text for text in told if "does not read" in text]
    given = ", ".join(f"{name}={values[name]}" for name in unread)
    assert line.startswith(f"{given}: loss_type='{loss_type}' does not read them, and the run trains as without.")


@pytest.mark.parametrize("objective", ["w-reinforce", "psr", "nsr"])
def test_an_advantage_that_verdicts_replace_is_told(warned, objective):
    _, (line,) = warned(objective=objective, advantage="rloo")
    assert line == (
        f"advantage='rloo': objective='{objective}' learns from verdicts, whatever the advantage is. Leave it out; "
        "with objective='none' it counts."
    )
    assert warned(objective=objective)[1] == warned(objective="none", advantage="rloo")[1] == []
    assert warned(objective=objective, objective_overrides={"low": "clip"}, advantage="rloo")[1] == []


@pytest.mark.parametrize(
    ("rule", "options"),
    [("vespo", "k_pos"), ("sapo", "tau_neg"), ("ar", "alpha"), ("verdict", "positive"), ("tis", ""), ("fipo", "")],
)
def test_a_rule_that_gives_no_number_is_refused(make_config, rule, options):
    """Infinity is no bound where an option is none, and a mistake elsewhere."""
    bounds = {"tis": ["cap"], "fipo": ["half_life", "high", "safety"]}
    written = {"rule": rule, **dict.fromkeys(bounds.get(rule, [options]), math.inf)}
    if rule in bounds:
        assert make_config(objective_overrides={"high": written}).table.rows[1] == parse_rule(written)
        return
    with pytest.raises(UsageError) as raised:
        make_config(objective_overrides={"high": written})
    assert str(raised.value) == (
        f"objective='htpo*': the rule '{rule}' with {options}=inf gives no finite number for a token that has not "
        "moved. Give other options."
    )


@pytest.mark.parametrize(
    ("option", "rule"),
    [
        ({"sapo_temperature_neg": 1.2}, "{'rule': 'sapo', 'tau_neg': 1.2}"),
        ({"sapo_temperature_pos": 0.5}, "{'rule': 'sapo', 'tau_pos': 0.5}"),
        ({"vespo_k_neg": 1.0}, "{'rule': 'vespo', 'k_neg': 1.0}"),
        ({"vespo_lambda_pos": 1.0}, "{'rule': 'vespo', 'lambda_pos': 1.0}"),
    ],
)
@pytest.mark.parametrize("objective", ["sapo", "vespo", "htpo"])
def test_parameters_of_trls_other_losses_are_refused_with_the_rule(make_config, objective, option, rule):
    with pytest.raises(UsageError) as raised:
        make_config(objective=objective, **option)
    text = str(raised.value)
    assert text.startswith(f"{next(iter(option))}={next(iter(option.values()))}: TRL's loss_type=")
    mend = text.split("objective_overrides=")[1].rstrip(".")
    assert mend == f"{{'all': {rule}}}"
    assert dict(make_config(objective="none", objective_overrides=eval(mend)).table.rows[0].options)
