"""Whole runs of published objectives: against TRL's own where it has them, and stopped and resumed."""

import shutil

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from htpo_trl.objective import PRESETS

from ..distributed_run import ROUND_OFF
from ..tiny import same_parameters


# Of eight optimizer steps seven are off-policy. Completions of one length: a mean over responses is one over tokens.
DRIFTING = {
    **{"max_steps": 8, "num_iterations": 2, "steps_per_generation": 4, "learning_rate": 3e-3},
    **{"generation_kwargs": {"suppress_tokens": [1]}, "max_completion_length": 8},
}
TRL = {"epsilon_high": 0.28, "use_bias_correction_kl": False}
SEQUENCE = {"importance_sampling_level": "sequence", "loss_type": "grpo"}
# TRL's options, ours, and names of shares of clipped tokens that both log.
PAIRS = {
    "cispo": (
        {"loss_type": "cispo", "epsilon_high": 1.1},
        {"objective": "cispo", "epsilon_high": 0.1},
        {"cispo_clip_ratio": "htpo/clip_ratio/high"},
    ),
    "cispo on the tokens of highest entropy": (
        {"loss_type": "cispo", "epsilon_high": 1.3, "top_entropy_quantile": 0.3},
        {"objective": "cispo", "epsilon_high": 0.3, "top_entropy_quantile": 0.3},
        {"cispo_clip_ratio": "htpo/clip_ratio/high"},
    ),
    "sapo": ({"loss_type": "sapo"}, {"objective": "sapo"}, {}),
    "sapo of other temperatures": (
        {"loss_type": "sapo", "sapo_temperature_neg": 2.0, "beta": 0.0},
        {"objective": "none", "objective_overrides": {"all": {"rule": "sapo", "tau_neg": 2.0}}, "loss_type": "grpo"},
        {},
    ),
    "gspo": (
        SEQUENCE | {"epsilon": 0.0003, "epsilon_high": 0.0004},
        {"objective": "gspo"},
        {"clip_ratio/low_mean": "htpo/clip_ratio/low", "clip_ratio/high_mean": "htpo/clip_ratio/high"},
    ),
    "gspo of a wide range": (
        SEQUENCE | {"epsilon": 0.05, "epsilon_high": 0.1},
        {"objective": "gspo", "epsilon": 0.05, "epsilon_high": 0.1, "delta": None},
        {"clip_ratio/low_mean": "htpo/clip_ratio/low", "clip_ratio/high_mean": "htpo/clip_ratio/high"},
    ),
    "vespo": ({"loss_type": "vespo"}, {"objective": "vespo"}, {}),
    "none": ({"loss_type": "dapo", "delta": 10.0}, {"objective": "none"}, {}),
}


def flat(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def logged(trainer, name):
    return [row[name] for row in trainer.state.log_history if name in row]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_run_is_trls(make_trainer, cpu_arguments, pair):
    """The weights after eight steps, and the clip fractions in the log."""
    options, ours, shares = PAIRS[pair]
    theirs = make_trainer(GRPOTrainer, config=GRPOConfig(**cpu_arguments | TRL | DRIFTING | options))
    theirs.train()
    mine = make_trainer(**DRIFTING | ours)
    mine.train()
    bit_for_bit = pair == "none" or pair.startswith("cispo")
    difference = (flat(mine) - flat(theirs)).abs().max().item()
    assert difference == 0 if bit_for_bit else difference < ROUND_OFF
    for name, other in shares.items():
        assert logged(mine, other) == pytest.approx(logged(theirs, name), abs=1e-6)
        assert max(logged(mine, other)) > 0.1
    # Negative control: plain PPO-clip of the same options ends elsewhere.
    if pair != "none":
        plain = make_trainer(**DRIFTING | ours | {"objective": "dapo", "objective_overrides": None})
        plain.train()
        assert (flat(plain) - flat(theirs)).abs().max() > 1e-3


# What a preset needs in order to act within a run this small.
ACTING = {
    "stare": {
        "objective_overrides": {
            "all": {
                **{"rule": "scale", "share": 0.1, "which": "highest"},
                "by": "surprisal",
                "over": "batch",
                "at_least": 1,
                "where": "positive",
                "factor": 1.1,
                "entropy_below": 9.0,
            }
        }
    },
    "clip-cov": {
        "objective_overrides": {
            "all": [
                {"rule": "clip", "delta": "none"},
                {
                    "rule": "detach",
                    "share": 0.1,
                    "which": "random",
                    "by": "covariance",
                    "over": "batch",
                    "at_least": 1,
                    "where": "unclipped",
                },
            ]
        }
    },
}
STEPS = {
    **{"max_steps": 3, "steps_per_generation": 4, "per_device_train_batch_size": 4, "max_completion_length": 8},
    **{"save_strategy": "steps", "save_steps": 1, "learning_rate": 3e-3, "top_entropy_share": 0.4},
    **{"dynamic_sampling": True, "on_sampling_exhausted": "train", "difficulty_threshold": 0.5},
}


@pytest.mark.parametrize("objective", PRESETS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_resumes_within_a_generation_batch(make_trainer, make_model, tmp_path, objective):
    """Bit for bit, draws included, with dynamic sampling; the loss is finite and the weights have moved."""
    options = STEPS | {"objective": objective} | ACTING.get(objective, {})
    whole = make_trainer(**options)
    whole.train()
    before = torch.cat([p.detach().flatten() for p in make_model().parameters()])
    moved = flat(whole) - before
    assert moved.isfinite().all()
    assert moved.abs().max() > 1e-4
    assert all(abs(loss) < 1e3 for loss in logged(whole, "loss"))
    if not whole.table.is_plain and objective != "high-entropy-only":
        acted = {
            name for row in whole.state.log_history for name, value in row.items() if "/special/" in name and value
        }
        assert acted or objective in ("gppo", "aspo", "htpo")
    shutil.rmtree(tmp_path / "run" / "checkpoint-3")
    torch.manual_seed(99)  # nothing is left of the state of the first run
    resumed = make_trainer(model=make_model(5), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    assert resumed.state.global_step == 3
    assert same_parameters(resumed, whole)
