"""Objectives in `HTPOConfig`: the settings they bring, the groups that overrides name, the options they go with."""

import dataclasses
import json
import pickle
import re
import warnings

import pytest
import torch
from transformers import HfArgumentParser
from trl import TrlParser

from htpo_trl import HTPOConfig, HTPOTrainer
from htpo_trl.advantages import ESTIMATORS
from htpo_trl.objective import GROUPS, PRESETS, Clip, Detach, KeepGradient, Mix, Named, Scale, Table, get_table
from htpo_trl.objective.rules import parse_rule
from htpo_trl.objective.table import SETTINGS
from htpo_trl.training import settings
from htpo_trl.utils import UsageError

from ..losses import loss_and_grads


def names_of(config):
    return {name: getattr(config, name) for name in SETTINGS}


PUBLISHED = {
    "htpo": (0.2, 0.28, "dapo"),
    "gspo": (3e-4, 4e-4, "grpo"),
    "sapo": (0.2, 0.28, "grpo"),
    "w-reinforce": (0.2, 0.2, "dapo"),
    "ar": (0.2, 0.24, "dapo"),
}


@pytest.mark.parametrize("objective", PUBLISHED)
def test_what_is_left_alone_is_as_published(warned, objective):
    values = dict(zip(SETTINGS, PUBLISHED[objective], strict=True))
    config, told = warned(objective=objective)
    assert (names_of(config), told) == (values, [])
    config, told = warned(objective=objective, epsilon_high=None, epsilon=None, loss_type=None)  # as TRL's `None`
    assert (names_of(config), told) == (values, [])
    # Rows of one's own do not change what the others were published with.
    assert names_of(make := warned(objective=objective, objective_overrides={"hard_wrong": "clip"})[0]) == values
    assert make.table.name != objective or objective == "htpo"


def test_what_is_given_holds_and_is_told_once(warned):
    config, (told,) = warned(objective="gspo", loss_type="dapo", epsilon=3e-4)
    assert names_of(config) == {"epsilon": 3e-4, "epsilon_high": 4e-4, "loss_type": "dapo"}
    assert told.startswith(
        "objective='gspo' was published with epsilon=0.0003, epsilon_high=0.0004, loss_type='grpo'; this run has "
        "loss_type='dapo'."
    )
    assert warned(objective="htpo", loss_type="grpo", epsilon=0.1)[1] == []


def test_a_config_is_saved_copied_and_read_again(warned, tmp_path):
    config, _ = warned(objective="gspo", epsilon_high=1e-3)
    assert names_of(pickle.loads(pickle.dumps(config))) == names_of(config)  # training_args.bin
    saved = json.loads(config.to_json_string())  # settings.json
    again, told = warned(**{name: saved[name] for name in (*SETTINGS, "objective")})
    assert names_of(again) == names_of(config)
    assert len(told) == 1
    # As with TRL's own derived option, what is to be derived again is set to None.
    derived = dict.fromkeys([*SETTINGS, "generation_batch_size"])
    other = dataclasses.replace(config, objective="cispo", **derived)
    assert names_of(other) == SETTINGS


def test_the_cap_of_trls_cispo_is_no_clip_range(warned):
    for objective in ("none", "dapo"):
        config, (told,) = warned(objective=objective, loss_type="cispo")
        assert config.epsilon_high == 0.28
        assert "is then the cap of every importance ratio. Set epsilon_high=5.0" in told
        assert warned(objective=objective, loss_type="cispo", epsilon_high=5.0)[1] == []


def test_a_table_of_ones_own_brings_settings(tmp_path, monkeypatch, make_config):
    monkeypatch.chdir(tmp_path)
    text = "from htpo_trl.objective import Named, Table\nMINE = Table('mine', (Named('gspo'),) * 8, settings={})\n"
    (tmp_path / "mine.py").write_text(text.format("(('epsilon', 0.01), ('loss_type', 'luspo'))"))
    config = make_config(objective="mine.py:MINE")
    assert names_of(config) == {"epsilon": 0.01, "epsilon_high": 0.28, "loss_type": "luspo"}
    with pytest.raises(UsageError, match="Table 'mine': settings can hold epsilon, epsilon_high, loss_type, not beta"):
        Table("mine", (Clip(),) * 8, settings=(("beta", 0.1),))
    for name, value, message in (
        ("loss_type", "nowhere", "loss_type='nowhere' is not one of"),
        ("epsilon", -1.0, "epsilon=-1.0 must be at least 0"),
    ):
        monkeypatch.setitem(PRESETS, "bad", Table("bad", (Clip(),) * 8, settings=((name, value),)))
        with pytest.raises(UsageError, match=message):
            make_config(objective="bad")


WORDS = [
    ({"all": "cispo"}, dict.fromkeys(GROUPS, "cispo")),
    ({"high": "cispo"}, {g: "cispo" for g in GROUPS if g.endswith("high")}),
    (
        {"wrong": "ar"},
        {"hard_wrong_low": "ar", "hard_wrong_high": "ar", "easy_wrong_low": "ar", "easy_wrong_high": "ar"},
    ),
    ({"hard_wrong": "ar"}, {"hard_wrong_low": "ar", "hard_wrong_high": "ar"}),
    ({"high_easy": "ar"}, {"easy_correct_high": "ar", "easy_wrong_high": "ar"}),
    (
        {"all": "clip", "high": "cispo", "hard_high": "sapo", "hard_wrong_high": "gppo_row"},
        {
            **dict.fromkeys(GROUPS, "clip"),
            **{"hard_correct_high": "sapo", "hard_wrong_high": "gppo_row"},
            **{"easy_correct_high": "cispo", "easy_wrong_high": "cispo"},
        },
    ),
    # Two that are as near, but agree, or but for a nearer one.
    ({"hard": "ar", "high": "ar"}, {g: "ar" for g in GROUPS if "hard" in g or "high" in g}),
    (
        {"hard": "ar", "high": "cispo", "hard_high": "clip"},
        {
            **{
                "hard_correct_low": "ar",
                "hard_wrong_low": "ar",
                "hard_correct_high": "clip",
                "hard_wrong_high": "clip",
            },
            **{"easy_correct_high": "cispo", "easy_wrong_high": "cispo"},
        },
    ),
]
_KEPT = {"rule": "keep_gradient", "above": "bound"}


@pytest.mark.parametrize(("overrides", "expected"), WORDS)
def test_words_name_all_groups_that_have_them(make_config, overrides, expected):
    overrides, expected = (
        {name: _KEPT if rule == "gppo_row" else rule for name, rule in each.items()} for each in (overrides, expected)
    )
    table = make_config(objective_overrides=overrides).table
    rows = zip(GROUPS, PRESETS["htpo"].rows, strict=True)
    assert table.rows == tuple(parse_rule(expected[g]) if g in expected else row for g, row in rows)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"hard": "ar", "high": "clip"}, r"'hard' and 'high' name hard_correct_high with different .*Add 'hard_high'"),
        (
            {"hard_high": "ar", "high_hard": "clip"},
            "'hard_high' and 'high_hard' name hard_correct_high .*Leave one out",
        ),
        ({"hart": "clip"}, r"No such group: hart\..*high or hard_wrong"),
        ({"hard_easy": "clip"}, "No such group: hard_easy"),
        ({"": "clip"}, "No such group: "),
        ({3: "clip"}, "No such group: 3"),
        ({"high": "cipso"}, "high: Unknown rule 'cipso'.*'cispo'"),
        ({"high": ["cispo", "sapo"]}, "high: A row has one gate, not 2"),
        ({"high": {"rule": "sapo", "tau": 1}}, "high: Rule 'sapo' has no option tau; it takes tau_pos, tau_neg"),
        ({"high": []}, "high: A row that is a list holds at least two rules"),
    ],
)
def test_overrides_that_say_nothing_clear_are_refused(make_config, overrides, message):
    with pytest.raises(UsageError, match=rf"^objective_overrides: {message}"):
        make_config(objective_overrides=overrides)


def test_overrides_are_the_same_in_python_yaml_and_json(tmp_path, make_config):
    written = {
        "high": "cispo",
        "low": {"rule": "detach", "share": 1.0},
        "hard_wrong": ["ar", {"rule": "gmpo", "clip": 0.2}],
    }
    mixed = Mix((Scale(factor=2.0, share=0.5, by="surprisal"), Named("cispo")))
    objects = {"high": Named("cispo"), "low": Detach(1.0), "hard_wrong": [Named("ar"), Named("gmpo", {"clip": 0.2})]}
    config = make_config(objective_overrides=objects)
    yaml = tmp_path / "recipe.yaml"
    yaml.write_text(
        "output_dir: out\nuse_cpu: true\nbf16: false\nobjective_overrides:\n  high: cispo\n"
        "  low: {rule: detach, share: 1.0}\n  hard_wrong:\n  - ar\n  - {rule: gmpo, clip: 0.2}\n"
    )
    (read,) = TrlParser(HTPOConfig).parse_args_and_config(["--config", str(yaml)])
    argv = ["--output_dir", "out", "--use_cpu", "--bf16", "false", "--objective_overrides", json.dumps(written)]
    (flags,) = HfArgumentParser(HTPOConfig).parse_args_into_dataclasses(argv)
    again = make_config(objective_overrides=json.loads(config.to_json_string())["objective_overrides"])
    assert config.table == read.table == flags.table == again.table == get_table("htpo", written)
    with_mix = make_config(objective_overrides={"all": mixed})
    assert json.loads(with_mix.to_json_string())["objective_overrides"]["all"][1] == {"rule": "cispo"}
    assert with_mix.table.rows == (mixed,) * 8


def test_help_lists_the_presets_that_there_are(monkeypatch):
    parser = TrlParser(HTPOConfig)
    (text,) = (action.help for action in parser._actions if action.dest == "objective")
    assert set(re.split(r"[\s,.:]+", text)) >= set(PRESETS)
    (text,) = (action.help for action in parser._actions if action.dest == "advantage")
    before, after = text.split("; from verdicts alone ")
    listed = [re.split(r"[\s,;:]+", part) for part in (before, after)]
    for name, estimator in ESTIMATORS.items():
        assert name in listed[estimator.from_verdicts]
        assert name not in listed[not estimator.from_verdicts]


# What each preset is, as its paper has it; docs/compatibility.md tells why it refuses options.
PLAIN = {"dapo", "none"}
BY_GROUP = {"htpo", "htpo-released", "high-entropy-only", "archer"}
TRUE_RATIO = {"high-entropy-only", "stare", "fipo", "ar"}
OTHER_SIGN = {"htpo-released", "kl-cov", "w-reinforce", "psr", "nsr"}
NOT_PLAIN = set(PRESETS) - PLAIN

# Options, and the presets that refuse them.
OPTIONS = [
    *(({"loss_type": name}, NOT_PLAIN, f"objective={name!r} and no loss_type") for name in ("cispo", "sapo", "vespo")),
    *(({"loss_type": name}, set(), "") for name in ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")),
    ({"loss_type": "bnpo", "gradient_accumulation_steps": 2}, NOT_PLAIN, "Use loss_type='dapo'"),
    ({"importance_sampling_level": "sequence"}, NOT_PLAIN, "objective='gspo'"),
    ({"top_entropy_quantile": 0.2}, BY_GROUP, "high-entropy-only"),
    ({"epsilon": 0.5, "epsilon_high": 0.9}, set(), ""),
    ({"epsilon": 0.0, "epsilon_high": 0.0}, set(), ""),
    ({"delta": None}, set(), ""),
    ({"delta": 1.1}, NOT_PLAIN - {"gspo"}, "set it to None"),
    ({"beta": 0.1}, set(), ""),
    ({"beta": 0.1, "use_bias_correction_kl": True}, NOT_PLAIN - TRUE_RATIO, "Set use_bias_correction_kl=False"),
    ({"use_bias_correction_kl": True}, set(), ""),
    ({"off_policy_mask_threshold": 0.5}, OTHER_SIGN, "Set off_policy_mask_threshold=None"),
    *(({"scale_rewards": value}, set(), "") for value in ("group", "batch", "none")),
    ({"entropy_coef": 0.1, "mask_truncated_completions": True}, set(), ""),
    ({"num_iterations": 2, "dynamic_sampling": True}, set(), ""),
]


@pytest.mark.parametrize(("options", "refusing", "mend"), OPTIONS, ids=[str(options)[:60] for options, *_ in OPTIONS])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_every_option_beside_every_preset(make_config, options, refusing, mend):
    for name in PRESETS:
        if name not in refusing:
            config = make_config(objective=name, **options)
            assert {option: getattr(config, option) for option in options} == options
            continue
        with pytest.raises(UsageError) as raised:
            make_config(objective=name, **options)
        text = str(raised.value)
        assert text.startswith(f"{next(reversed(options)) if 'beta' in options else next(iter(options))}="), name
        assert mend in text
        assert "\n" not in text


@pytest.mark.parametrize("objective", PRESETS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_accepted_computes(make_trainer, batch, objective):
    """One trainer, whose options are changed: each has a gradient, and none for the results of tools."""
    trainer = make_trainer(objective=objective)
    tools = torch.zeros_like(batch["completion_mask"])
    tools[:, 3:6] = 1
    rejected = torch.rand(tools.shape, generator=torch.Generator().manual_seed(1)) * 3 - 4
    options = [{"loss_type": name} for name in ("grpo", "bnpo", "dr_grpo", "luspo", "dapo")] + [{"delta": None}]
    options += [{"top_entropy_quantile": 0.3}] * (objective not in BY_GROUP)
    options += [{"top_entropy_quantile": 1.0, "off_policy_mask_threshold": 0.5}] * (objective not in OTHER_SIGN)
    for each in options:
        for name, value in each.items():
            for owner in (trainer, trainer.args):
                setattr(owner, name, value)
        torch.manual_seed(0)
        loss, grads = loss_and_grads(trainer, batch | {"tool_mask": 1 - tools})
        assert loss.isfinite(), each
        assert any(grad.any() for grad in grads), each
        assert all(grad.isfinite().all() for grad in grads), each
        torch.manual_seed(0)
        dirty = batch | {"tool_mask": 1 - tools}
        dirty["old_per_token_logps"] = torch.where(tools.bool(), rejected, batch["old_per_token_logps"])
        assert all(map(torch.equal, loss_and_grads(trainer, dirty)[1], grads)), each
    # Negative control: they are there to be seen.
    trainer.off_policy_mask_threshold = None
    seen, clean = ({**each, "tool_mask": torch.ones_like(tools)} for each in (dirty, batch))
    if objective not in ("psr", "nsr", "high-entropy-only"):
        assert not all(map(torch.equal, loss_and_grads(trainer, seen)[1], loss_and_grads(trainer, clean)[1]))


@pytest.mark.parametrize("objective", ["w-reinforce", "psr", "nsr"])
def test_responses_without_a_verdict_are_ppos(make_trainer, batch, objective):
    trainer = make_trainer(objective=objective)
    plain = make_trainer(objective="dapo", epsilon_high=0.2, delta=None)
    unjudged = batch | {"is_judged": torch.zeros(6, dtype=torch.bool)}
    for mine, other in zip(loss_and_grads(trainer, unjudged)[1], loss_and_grads(plain, unjudged)[1], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
    judged = loss_and_grads(trainer, batch)[1]
    assert max((a - b).abs().max() for a, b in zip(judged, loss_and_grads(plain, batch)[1], strict=True)) > 1e-3


WAIT = {
    *("htpo", "htpo-released", "gppo", "aspo", "cispo", "sapo", "dppo-tv", "dppo-kl", "archer", "kl-cov"),
    *("hapo-released", "gspo", "gmpo", "vespo", "tis"),
}
CHANGES = {"htpo-released", "high-entropy-only", "wapo", "w-reinforce", "psr", "nsr", "ar"}  # each response


@pytest.mark.parametrize("objective", PRESETS)
def test_a_run_on_policy_is_told_that_ratios_are_1(make_trainer, batch, objective):
    """Where rules go by the ratio; and where all do, such a run is plain PPO."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = make_trainer(objective=objective, steps_per_generation=1, loss_type="dapo")
    told = any("every importance ratio is 1 and the rules of objective=" in str(each.message) for each in caught)
    assert told == (objective in WAIT)
    inputs = {name: value for name, value in batch.items() if name != "old_per_token_logps"}
    plain = make_trainer(objective="dapo", epsilon=trainer.args.epsilon, epsilon_high=trainer.args.epsilon_high)
    torch.manual_seed(0)
    pairs = zip(loss_and_grads(trainer, inputs)[1], loss_and_grads(plain, inputs)[1], strict=True)
    differ = max((a - b).abs().max() for a, b in pairs) > 1e-5
    assert differ == (objective in CHANGES)


def test_checkpoints_from_before_are_of_the_same_run(make_config):
    """Rules are written in them as they were before they had more options."""
    before = {
        "table.hard_correct_low": "Detach(share=0.006, which='lowest')",
        "table.hard_correct_high": "KeepGradient(above='bound', inside=None, below='inverse_ratio', cap=10.0, "
        "when='agrees', sign=1)",
        "table.hard_wrong_low": "Clip()",
        "table.easy_correct_high": "Detach(share=0.02, which='highest')",
        "table.selection": "exact",
    }
    now = settings.of_options(make_config(), ["even_digits"], None)
    assert {name: now[name] for name in before} == before
    assert eval(now["table.hard_correct_high"]) == KeepGradient("bound", None, "inverse_ratio", 10.0)
    changed = settings.of_options(
        make_config(objective_overrides={"hard_correct_low": "cispo"}), ["even_digits"], None
    )
    assert set(settings.changes(now, changed)) == {"table.hard_correct_low", "objective_overrides"}
    other = settings.of_options(make_config(objective="gspo"), ["even_digits"], None)
    assert set(settings.changes(now, other)) == {"objective", "epsilon", "epsilon_high", "loss_type"}


def test_trainers_read_what_was_resolved(make_trainer):
    trainer = make_trainer(HTPOTrainer, objective="gspo")
    assert (trainer.epsilon_low, trainer.epsilon_high, trainer.loss_type) == (3e-4, 4e-4, "grpo")
