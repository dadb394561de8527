"""Whole runs of published objectives: against TRL's own where it has them, and stopped and resumed."""

import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from htpo_trl import HTPOTrainer
from htpo_trl.objective import EFFECTS, PRESETS, Clip, Detach
from htpo_trl.tokens.callback import TokenRecorder
from htpo_trl.tokens.record import RecordSettings, read_record
from htpo_trl.training.optimization import own_generator

from ..distributed_run import ROUND_OFF
from ..losses import loss_and_grads
from ..option_cases import OtherSampler
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


@pytest.mark.parametrize("pair", ["cispo", "gspo", "none"])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_run_is_trls_beside_an_engine(make_trainer, cpu_arguments, pair):
    """That samples from a distribution of its own, for which TRL corrects."""
    ends = []
    shape = {"max_steps": 4, "steps_per_generation": 4, "learning_rate": 3e-3}
    options, ours, _ = PAIRS[pair]
    # TRL's sequence ratio takes the mean of a correction by token, before its gradient: ours corrects each token.
    level = "sequence" if pair == "gspo" else "token"
    for mode in (f"{level}_truncate", f"{level}_mask"):
        correction = shape | {"vllm_importance_sampling_mode": mode}
        for cls, given in (
            (GRPOTrainer, {"config": GRPOConfig(**cpu_arguments | TRL | correction | options)}),
            (HTPOTrainer, correction | ours),
        ):
            trainer = make_trainer(cls, **given)
            trainer.use_vllm, trainer.vllm_generation, trainer._last_loaded_step = True, OtherSampler(), -1
            trainer.rollout_func = trainer.vllm_generation
            trainer.train()
            ends.append(flat(trainer))
        assert (ends[-1] - ends[-2]).abs().max() < ROUND_OFF
    assert (ends[0] - ends[2]).abs().max() > 1e-4


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


def test_a_draw_is_of_seed_step_micro_batch_and_process_alone(make_trainer, batch):
    """So that an evaluation, which draws as well, changes nothing in training, nor does what else draws."""
    trainer = make_trainer(objective="clip-cov", **ACTING["clip-cov"])
    drawn = []
    trainer.loss_observers.append(lambda result, **rest: drawn.append(result.effects.clone()))

    def draw(**state):
        for name, value in state.items():
            setattr(trainer.args if name == "seed" else trainer.state, name, value)
        before = torch.get_rng_state()
        loss_and_grads(trainer, batch)
        assert torch.equal(torch.get_rng_state(), before)
        return drawn[-1]

    first = draw(global_step=3)
    assert (first == 1 + EFFECTS.index("detach_random")).sum() == 7  # a tenth of 76
    torch.manual_seed(5)
    trainer.model.eval()
    before = torch.get_rng_state()
    trainer._compute_loss(trainer.model, dict(batch))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(draw(), first)
    others = [draw(global_step=4), draw(global_step=3, seed=trainer.args.seed + 1)]
    trainer.args.seed -= 1
    trainer.accelerator.gradient_state._set_sync_gradients(False)
    assert torch.equal(draw(), first)
    others.append(draw())  # the second micro-batch of the step
    trainer.accelerator.gradient_state._set_sync_gradients(True)
    assert len({tuple(each.flatten().tolist()) for each in [first, *others]}) == 4
    seeds = set()
    for rank in (0, 1):
        place = {"table": trainer.table, "args": trainer.args, "state": trainer.state}
        other = SimpleNamespace(**place, accelerator=SimpleNamespace(process_index=rank))
        seeds.add(own_generator(other, 0, torch.device("cpu")).initial_seed())
    assert len(seeds) == 2
    assert own_generator(make_trainer(objective="kl-cov"), 0, torch.device("cpu")) is None  # which draws nothing


MIXED = {
    "archer": {"objective": "archer", "epsilon": 0.01, "epsilon_high": 0.01, "learning_rate": 5e-3},
    "gspo": {"objective": "gspo"},
    "kl-cov": {"objective": "kl-cov"},
    "mixed rows": {
        "objective": "htpo",
        "objective_overrides": {
            "high": ["verdict", "cispo"],
            "low": [{"rule": "ar", "alpha": 0.5}, {"rule": "clip", "delta": "none"}, {"rule": "penalty", "beta": 0.1}],
            "hard_wrong_low": {"rule": "detach", "share": 0.3, "by": "drift", "which": "highest"},
        },
    },
    "no dual clip": {"objective": "cispo", "delta": None},
    "a near dual clip": {"objective": "hapo-released", "delta": 1.3},
}


@pytest.mark.parametrize("case", MIXED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_record_knows_the_objective_and_computes_it_again(make_trainer, tmp_path, case):
    """All completions of the loss call are in it, so that statistics of the batch are what they were."""
    options = {"learning_rate": 3e-2, "max_steps": 4, "steps_per_generation": 4, "num_generations": 8}
    trainer = make_trainer(**options | MIXED[case])
    trainer.add_callback(TokenRecorder(trainer, 4, 8))
    trainer.train()
    record = read_record(tmp_path / "run")
    assert record.settings.table == trainer.table
    assert hash(record.settings.table) == hash(trainer.table)
    assert (record.settings.delta, record.settings.epsilon_low) == (trainer.args.delta, trainer.args.epsilon)
    effects = set()
    for completion, again in zip(record.completions, record.outcomes(record.settings.table), strict=True):
        stored = record.outcome(completion)
        effects |= {*stored.effects}
        np.testing.assert_array_equal(stored.groups, again.groups)
        np.testing.assert_array_equal(stored.effects, again.effects)
        np.testing.assert_allclose(stored.weights, again.weights, rtol=1e-4, atol=1e-5)
    assert len(effects) > 1
    pairs = ((record.outcome(each), record.outcome(each, PRESETS["dapo"])) for each in record.completions)
    assert any((mine.weights != other.weights).any() for mine, other in pairs)
    # A card of the run: rules hold bars, which would end a cell.
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text()
    rows = [line for line in card.splitlines() if line.startswith(("| hard · ", "| easy · "))]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [3] * 8
    cells = [row.split(" | ")[1].removesuffix(" |").replace("\\|", "|") for row in rows]
    assert cells == [*map(str, trainer.table.rows)]
    assert f"`{trainer.table.name}` ({trainer.table.source})" in card


def test_a_record_from_before_presets_had_settings(make_trainer, tmp_path):
    trainer = make_trainer(objective="gspo")
    trainer.add_callback(TokenRecorder(trainer, 4, 2))
    trainer.train()
    settings = read_record(tmp_path / "run").settings
    written = json.loads(settings.to_json())
    assert RecordSettings.from_json(json.dumps(written)) == settings
    for name in ("settings", "source", "note"):
        del written["table"][name]
    written["table"]["rows"] = [{"rule": "detach", "share": 0.5}] + [{"rule": "clip"}] * 7
    older = RecordSettings.from_json(json.dumps(written))
    assert older.table.rows == (Detach(0.5), *(Clip(),) * 7)
    written["table"]["settings"] = [["epsilon", [1]]]
    with pytest.raises(ValueError, match="must be numbers and names"):
        RecordSettings.from_json(json.dumps(written))
