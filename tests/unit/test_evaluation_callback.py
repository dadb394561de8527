import json
import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from transformers import Qwen3ForCausalLM, TrainerCallback
from transformers.integrations.integration_utils import rewrite_logs

from htpo_trl.evaluation import Sampling, compare, evaluate
from htpo_trl.evaluation import callback as evaluation_callback
from htpo_trl.evaluation.callback import EvaluationCallback

from ..distributed_run import build
from ..tiny import even_digits


SAMPLING = {"num_samples": 3, "max_new_tokens": 8, "batch_size": 4}
BENCHMARKS = {"digits": [{"prompt": "123456789"[i:] + str(i)} for i in range(9)], "six": [{"prompt": "6"}] * 5}
ARGUMENTS = {"max_steps": 5, "eval_steps": 2, "steps_per_generation": 2, "logging_steps": 2}


@pytest.fixture
def directory(model, tokenizer, tmp_path):
    # Dropout: whatever touches the random state changes the run.
    model.config.attention_dropout = 0.1
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path


def disturbing(completions, **kwargs):
    """A judge that draws from every global random state."""
    torch.rand(3), np.random.rand(3), random.random()
    return even_digits(completions)


class Seen(TrainerCallback):
    """What a tracker is given."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append((state.global_step, rewrite_logs(logs)))


def trained(directory, evaluated=True, arguments=ARGUMENTS, benchmarks=BENCHMARKS):
    trainer = build(directory, arguments)
    seen = Seen()
    trainer.add_callback(seen)
    if evaluated:
        trainer.add_callback(EvaluationCallback(trainer, benchmarks, Sampling(**SAMPLING), disturbing))
    trainer.train()
    return trainer, seen.logs


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def training_log(trainer):
    timings = ("runtime", "per_second", "step_time")
    return [
        {name: value for name, value in row.items() if not name.endswith(timings)}
        for row in trainer.state.log_history
        if "eval_six/mean@3" not in row
    ]


def test_training_is_bit_for_bit_the_same(directory, monkeypatch):
    plain, _ = trained(directory, evaluated=False)
    evaluated, _ = trained(directory)
    assert torch.equal(weights(evaluated), weights(plain))
    assert training_log(evaluated) == training_log(plain)
    assert ["htpo/accuracy" in row for row in training_log(plain)] == [True, True, True]
    # Were random states not kept, it would be another run.
    monkeypatch.setattr(evaluation_callback, "_random_states_kept", nullcontext)
    disturbed, _ = trained(directory)
    assert not torch.equal(weights(disturbed), weights(plain))


def test_every_random_state_is_kept():
    def draw():
        return torch.rand(1).item(), np.random.rand(), random.random()

    expected = []
    for _ in range(2):
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        expected.append(draw())
    assert expected[0] == expected[1]
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    with evaluation_callback._random_states_kept():
        draw()
    assert draw() == expected[0]


def test_beginning_of_training(directory):
    for use_reentrant in (True, False):
        kwargs = {"use_reentrant": use_reentrant}
        options = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": kwargs, "eval_steps": 1}
        trainer = build(directory, options)
        trainer.model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
        callback = EvaluationCallback(trainer, BENCHMARKS, Sampling(**SAMPLING), even_digits)
        callback.on_train_begin(trainer.args, trainer.state, trainer.control)
        assert len(trainer.state.log_history) == 1
        assert trainer.model.is_gradient_checkpointing
        assert trainer.model.model.layers[0]._gradient_checkpointing_func.keywords == kwargs
        trainer.state.global_step = 7  # of a checkpoint, which was evaluated before it was written
        callback.on_train_begin(trainer.args, trainer.state, trainer.control)
        assert len(trainer.state.log_history) == 1


def test_reports_to_trackers_and_files(directory, tokenizer):
    trainer, logs = trained(directory)
    rows = [row for row in trainer.state.log_history if "eval_digits/mean@3" in row]
    assert [row["step"] for row in rows] == [0, 2, 4, 5]  # before, every second, after the last
    names = {f"{metric}" for metric in ("mean@3", "pass@2", "pass@3", "truncated", "mean_tokens")}
    shown = [(step, log) for step, log in logs if "eval/digits/mean@3" in log]
    assert [step for step, _ in shown] == [0, 2, 4, 5]
    for row, (_, log) in zip(rows, shown, strict=True):
        assert {name for name in log if name.startswith("eval/")} == {
            f"eval/{benchmark}/{name}" for benchmark in BENCHMARKS for name in names
        }
        summary = json.loads((directory / "run" / "evaluation" / f"step-{row['step']}" / "six.json").read_text())
        assert row["eval_six/pass@2"] == log["eval/six/pass@2"] == summary["summary"]["metrics"]["pass@2"]["mean"]

    # The same samples as an evaluation of the model as it was, and is.
    steps = directory / "run" / "evaluation"
    sampling = Sampling(**SAMPLING | {"batch_size": 100})
    first = Qwen3ForCausalLM.from_pretrained(directory / "model")
    for step, model in ((0, first), (5, trainer.model)):
        evaluate((model, tokenizer), BENCHMARKS, directory / "apart", sampling, disturbing, disable_tqdm=True)
        for name in BENCHMARKS:
            file = directory / "apart" / f"{name}.jsonl"
            assert file.read_bytes() == (steps / f"step-{step}" / f"{name}.jsonl").read_bytes()
            file.unlink()
            file.with_suffix(".json").unlink()
    assert {record["benchmark"] for record in compare(steps / "step-0", steps / "step-5")} == set(BENCHMARKS)
    assert (steps / "step-0" / "six.jsonl").read_bytes() != (steps / "step-5" / "six.jsonl").read_bytes()


def test_interval_is_asked_for_at_construction(directory):
    with pytest.raises(ValueError, match="eval_steps=None"):
        EvaluationCallback(build(directory, {}), BENCHMARKS)
    with pytest.raises(ValueError, match=r"ks=\[64\] must lie in 1..num_samples=32"):
        EvaluationCallback(build(directory, {"eval_steps": 1}), BENCHMARKS, ks=[64])
