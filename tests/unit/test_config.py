import argparse
import copy
import json
import pickle

import pytest
from trl import GRPOConfig, TrlParser

from htpo_trl import HTPOConfig
from htpo_trl.objective import PRESETS, Clip, Detach


def test_defaults_are_the_recipe(tmp_path):
    config = HTPOConfig(str(tmp_path), use_cpu=True, bf16=False, gradient_accumulation_steps=3)
    recipe = {
        "objective": "htpo",
        "objective_overrides": None,
        "difficulty_threshold": 0.6,
        "top_entropy_share": 0.2,
        "correctness_reward": None,
        "correctness_threshold": 0.5,
        "epsilon": 0.2,
        "epsilon_high": 0.28,
        "delta": 10.0,
        "beta": 0.0,
        "loss_type": "dapo",
        "num_generations": 16,
        "steps_per_generation": 12,
    }
    assert {name: getattr(config, name) for name in recipe} == recipe
    assert config.table == PRESETS["htpo"]
    assert not config.is_on_policy


def test_generation_batch_size_is_respected(make_config):
    config = make_config(generation_batch_size=16)
    assert config.steps_per_generation == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "ppo"}, "'ppo'.*The presets are"),
        ({"objective_overrides": {"hart_low": "clip"}}, "hart_low.*The groups are"),
        ({"objective_overrides": "hard_correct_low=clip"}, "objective_overrides=.*JSON"),
        ({"difficulty_threshold": 0.0}, "difficulty_threshold=0.0"),
        ({"top_entropy_share": 1.2}, "top_entropy_share=1.2"),
        ({"loss_type": "cispo"}, "loss_type='cispo'.*Use one of grpo"),
        ({"loss_type": "sapo"}, "loss_type='sapo'"),
        ({"loss_type": "dappo", "objective": "dapo"}, "loss_type='dappo' is not one of 'grpo'"),
        ({"importance_sampling_level": "word", "objective": "dapo"}, "importance_sampling_level='word' is not one of"),
        ({"loss_type": "vespo"}, "loss_type='vespo'"),
        ({"loss_type": "bnpo", "gradient_accumulation_steps": 2}, "gradient_accumulation_steps=2 and.*'dapo'"),
        ({"importance_sampling_level": "sequence"}, "importance_sampling_level='sequence'.*'token'"),
        ({"top_entropy_quantile": 0.2}, "top_entropy_quantile=0.2.*high-entropy-only"),
        ({"delta": 1.2}, "delta=1.2.*1.28"),
        ({"delta": 1.2, "epsilon_high": 0.2}, "delta=1.2.*ends at 1.2:"),
        ({"beta": 0.1, "use_bias_correction_kl": True}, "use_bias_correction_kl=True with beta=0.1"),
        ({"objective": "htpo-released", "off_policy_mask_threshold": 0.5}, "off_policy_mask_threshold=0.5"),
    ],
)
def test_contradictions_are_refused(make_config, options, message):
    with pytest.raises(ValueError, match=message):
        make_config(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"beta": 0.1},
        {"objective": "dapo", "beta": 0.1, "use_bias_correction_kl": True},
        {"objective": "htpo", "off_policy_mask_threshold": 0.5},
        {"delta": None},
        {"loss_type": "luspo", "gradient_accumulation_steps": 2},
        {"loss_type": "bnpo"},
        {"objective": "dapo", "loss_type": "bnpo", "gradient_accumulation_steps": 2},
        {"objective": "dapo", "loss_type": "cispo", "delta": 1.0},
    ],
)
def test_what_fits_is_accepted(make_config, options):
    config = make_config(**options)
    assert {name: getattr(config, name) for name in options} == options


@pytest.mark.parametrize(("micro_batch", "mend"), [(1, 8), (3, 8), (5, 8), (11, 8), (13, 16)])
def test_the_batch_size_that_is_named_holds_whole_groups(make_config, micro_batch, mend):
    options = {"num_generations": 8, "steps_per_generation": 1}
    with pytest.raises(ValueError, match=rf"Set per_device_train_batch_size={mend} \(or a multiple of 8\)"):
        make_config(per_device_train_batch_size=micro_batch, **options)
    assert make_config(per_device_train_batch_size=mend, **options).generation_batch_size == mend


def test_bnpo_is_refused_on_several_processes(make_config, monkeypatch):
    monkeypatch.setattr(HTPOConfig, "world_size", 2)
    make_config()
    with pytest.raises(ValueError, match=r"loss_type='bnpo'.*2 processes.*'dapo'"):
        make_config(loss_type="bnpo")


def test_overrides_come_from_python_and_from_the_command_line(tmp_path, make_config):
    overrides = {"hard_correct_low": "clip", "easy_correct_high": {"rule": "detach", "share": 0.5, "which": "highest"}}
    config = make_config(objective_overrides=overrides)
    assert config.table.rows[5] == Detach(0.5, "highest")
    # Rules may be objects, and are written out: whatever records the options records them.
    same = make_config(objective_overrides={"hard_correct_low": Clip(), "easy_correct_high": Detach(0.5, "highest")})
    written = json.loads(same.to_json_string())["objective_overrides"]
    assert make_config(objective_overrides=written).table == config.table

    yaml = tmp_path / "recipe.yaml"
    yaml.write_text(
        "output_dir: out\nuse_cpu: true\nbf16: false\nobjective: htpo\n"
        "objective_overrides:\n  hard_correct_low: clip\n  easy_correct_high:\n    rule: detach\n    share: 0.5\n"
    )
    (config,) = TrlParser(HTPOConfig).parse_args_and_config(["--config", str(yaml)])
    assert config.table.rows[0] == Clip()
    (config,) = TrlParser(HTPOConfig).parse_args_and_config(
        ["--config", str(yaml), "--objective_overrides", '{"hard_correct_low": {"rule": "detach", "share": 0.1}}']
    )
    assert config.table.rows[0] == Detach(0.1)


def test_every_option_of_ours_has_help():
    parser = TrlParser(HTPOConfig)
    ours = set(HTPOConfig.__dataclass_fields__) - set(GRPOConfig.__dataclass_fields__)
    actions = {action.dest: action for action in parser._actions if action.dest != argparse.SUPPRESS}
    assert ours
    assert all(actions[name].help for name in ours)


def test_copies_keep_secrets_and_what_is_published_or_shown_does_not(make_config, make_trainer, tmp_path):
    """By name, by form, and nested."""
    secrets = {
        "hub_token": "hf_secret",
        "vllm_server_base_url": "http://me:hush@host:8000",
        "model_init_kwargs": {"token": "hush", "proxies": {"https": "http://me:hush@proxy"}, "use_safetensors": True},
    }
    config = make_config(**secrets)

    def kept(config):
        return {name: getattr(config, name) for name in secrets}

    assert kept(copy.deepcopy(config)) == kept(pickle.loads(pickle.dumps(config))) == kept(config) == secrets
    texts = [
        repr(config),
        str(config),
        str(config.to_dict()),
        config.to_json_string(),
        str(config.to_sanitized_dict()),
    ]
    assert all("hush" not in text and "hf_secret" not in text for text in texts)
    assert all("<redacted>@host:8000" in text and "use_safetensors" in text for text in texts)
    config.model_init_kwargs = None  # for a model by name
    trainer = make_trainer(config=config)
    trainer.args.model_init_kwargs = secrets["model_init_kwargs"]
    trainer.save_model()
    written = (tmp_path / "run" / "training_args.bin").read_bytes()
    assert b"hf_secret" not in written
    assert b"hush" not in written
    assert config.output_dir.encode() in written  # negative control: it is the arguments that are there
    # Nor do copies that are made after a save lose them.
    assert kept(trainer.args) == kept(copy.deepcopy(trainer.args)) == secrets
