"""
Each scenario beyond plain text with each thing that HTPO adds: `dapo` is TRL's `GRPOTrainer` bit for bit, `htpo` gives
every token its group, a run resumes in mid batch, groups are sampled dynamically, tokens are recorded, and the policy
is evaluated, without a trace in the training.
"""

import io

import pytest
import torch
from rich.console import Console
from trl import GRPOConfig, GRPOTrainer

from htpo_trl import HTPOConfig, HTPOTrainer
from htpo_trl.evaluation import EvaluationCallback, Sampling
from htpo_trl.objective.table import GROUPS
from htpo_trl.tokens.callback import TokenRecorder
from htpo_trl.tokens.record import read_record
from htpo_trl.tokens.view import print_token_map

from .. import scenarios
from ..tiny import CPU_ARGUMENTS


RECIPE = {"epsilon_high": 0.28, "delta": 10.0, "use_bias_correction_kl": False}  # where HTPO's defaults differ
STEPS = {"steps_per_generation": 3, "max_steps": 4, "save_strategy": "steps", "save_steps": 2, "eval_steps": 4}


@pytest.fixture(params=scenarios.SCENARIOS, ids=lambda scenario: scenario.__name__)
def scenario(request, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    return request.param


def make(scenario, directory, cls=HTPOTrainer, **options):
    parts = scenario(directory)
    options = CPU_ARGUMENTS | RECIPE | STEPS | parts.pop("options", {}) | options
    if cls is GRPOTrainer:
        options.pop("correctness_threshold", None)
    config = {GRPOTrainer: GRPOConfig, HTPOTrainer: HTPOConfig}[cls]
    return cls(args=config(str(directory / "run"), **options), **parts)


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_matrix(scenario, tmp_path):
    theirs = make(scenario, tmp_path, GRPOTrainer, save_strategy="no")
    theirs.train()
    plain = make(scenario, tmp_path, objective="dapo", save_strategy="no")
    plain.train()
    assert torch.equal(weights(plain), weights(theirs))

    # Many tokens are of groups whose rules act.
    control = {"top_entropy_share": 0.5, "difficulty_threshold": 1.0}
    watched = make(scenario, tmp_path, **control)
    recorder = TokenRecorder(watched, steps=2, completions=3)
    watched.add_callback(recorder)
    row = {name: value for name, value in next(iter(watched.train_dataset)).items() if "image" not in name}
    row["prompt"] = row["prompt"] if isinstance(row["prompt"], str) else [{"role": "user", "content": "12"}]
    sampling = Sampling(num_samples=2, max_new_tokens=4, batch_size=4)
    judge = scenarios.evens
    watched.add_callback(EvaluationCallback(watched, {"digits": [row]}, sampling, judge))
    watched.train()
    assert weights(watched).isfinite().all()
    assert not torch.equal(weights(watched), weights(plain))
    logs = [log for log in watched.state.log_history if "loss" in log]
    assert len(logs) == 4
    for log in logs:
        assert sum(log[f"htpo/share/{group}"] for group in GROUPS) == pytest.approx(1)
    print_token_map(tmp_path / "run", console=Console(file=io.StringIO()))
    assert {row.is_judged for row in read_record(tmp_path / "run").completions} == {True}
    assert [log["step"] for log in watched.state.log_history if "eval_digits/mean@2" in log] == [0, 4]

    resumed = make(scenario, tmp_path, **control)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert resumed.state.global_step == 4
    assert torch.equal(weights(resumed), weights(watched)), "observed and whole, or resumed in mid batch: the same"
