import asyncio
import json
import math
import random
import re
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import EarlyStoppingCallback, Qwen3ForCausalLM, TrainerCallback
from transformers.integrations.integration_utils import rewrite_logs

from htpo_trl.evaluation import Sampling, compare, evaluate
from htpo_trl.evaluation import callback as evaluation_callback
from htpo_trl.evaluation.callback import EvaluationCallback
from htpo_trl.evaluation.judges import judge_of_run
from htpo_trl.rewards import dapo_math_reward, math_reward, signed_math_reward
from htpo_trl.utils import UsageError

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
    names = {f"{metric}" for metric in ("mean@3", "pass@2", "pass@3", "truncated", "mean_tokens", "unparsable")}
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


def odd(completions, **kwargs):
    return [1.0 - value for value in even_digits(completions)]


@pytest.mark.parametrize(
    ("benchmarks", "message"),
    [
        ({}, "benchmarks={} must map a name, or several, to problems."),
        ([{"prompt": "1"}], "benchmarks=[{'prompt': '1'}] must map a name"),
        ({"six": []}, "There are no problems in 'six'."),
    ],
)
def test_nothing_to_evaluate_is_told_at_construction(directory, benchmarks, message):
    with pytest.raises(UsageError, match=f"^{re.escape(message)}"):
        EvaluationCallback(build(directory, {"eval_steps": 1}), benchmarks)


class TestJudge:
    """By default that of the run."""

    def judged(self, make_trainer, functions, benchmarks=BENCHMARKS, **options):
        data = Dataset.from_dict({name: [f"{i:02d}" for i in range(64)] for name in ("prompt", "solution", "gold")})
        trainer = make_trainer(reward_funcs=functions, eval_steps=4, train_dataset=data, **options)
        return EvaluationCallback(trainer, benchmarks, Sampling(**SAMPLING)).judge

    def test_is_the_first_reward(self, make_trainer, caplog):
        def scaled(prompts, completions, completion_ids=None, log_metric=None, **kwargs):
            log_metric("judged", 1.0)
            return [
                None if text == "6" else 10 * value
                for text, value in zip(completions, even_digits(completions), strict=True)
            ]

        judge = self.judged(make_trainer, [scaled, odd], correctness_threshold=9.0)
        assert judge.__name__ == "scaled"
        texts = ["2", "1", "6", "21"]
        assert list(judge(prompts=texts, completions=texts)) == [1.0, 0.0, None, 0.0]

    def test_or_the_one_that_is_named(self, make_trainer):
        judge = self.judged(make_trainer, [even_digits, odd], correctness_reward="odd")
        assert list(judge(prompts=["", ""], completions=["2", "1"])) == [0.0, 1.0]

    def test_of_several_the_first_that_judges(self):
        def some(completions, **kwargs):
            return [(None, math.nan)[len(text) % 2] if len(text) > 1 else 1.0 for text in completions]

        judge = judge_of_run([some, even_digits])
        assert list(judge(prompts=[""] * 3, completions=["1", "22", "111"])) == [1.0, 1.0, 0.0]
        assert judge.__name__ == "some+even_digits"

    def test_is_asynchronous_where_the_reward_is(self):
        async def later(completions, **kwargs):
            await asyncio.sleep(0)
            return even_digits(completions)

        assert list(judge_of_run([later])(prompts=["", ""], completions=["2", "1"])) == [1.0, 0.0]

    def test_math_rewards_are_the_verifier(self, make_trainer):
        benchmarks = {"sums": [{"prompt": "1+1", "solution": "2"}]}
        assert self.judged(make_trainer, [math_reward, odd], benchmarks) is None
        assert judge_of_run([dapo_math_reward, signed_math_reward]) is None
        assert judge_of_run([math_reward, odd]).__name__ == "math_reward+odd"

    def test_needs_its_columns_before_the_run(self, make_trainer):
        def golden(completions, gold, **kwargs):
            return [1.0] * len(completions)

        with pytest.raises(
            UsageError, match=r"'digits' has no column 'gold', only prompt; its judge, golden, needs it"
        ):
            self.judged(make_trainer, [golden])
        with pytest.raises(
            UsageError, match=r"'six' has no column 'solution', only prompt; its judge, verifier, needs"
        ):
            self.judged(make_trainer, [math_reward], {"six": BENCHMARKS["six"]})

    def test_of_several_tasks_each_benchmark_is_judged_by_its_own(self, make_trainer):
        def golden(completions, gold, **kwargs):
            return [float(text == each) for text, each in zip(completions, gold, strict=True)]

        judge = self.judged(make_trainer, [golden, odd], correctness_reward=["golden", "odd"])
        assert list(judge(prompts=["", ""], completions=["2", "1"], gold=["2", "2"])) == [1.0, 0.0]
        assert list(judge(prompts=["", ""], completions=["2", "1"])) == [0.0, 1.0]  # without golds it is the other's

    def test_a_reward_model_cannot(self):
        with pytest.raises(
            UsageError, match=r"cannot be judged by the reward model `Linear`\. Name a reward function"
        ):
            judge_of_run([torch.nn.Linear(1, 1)])

    def test_whose_verdicts_are_none_is_said(self, directory, caplog):
        trainer = build(directory, {"eval_steps": 4, "max_steps": 1})
        callback = EvaluationCallback(
            trainer, BENCHMARKS, Sampling(**SAMPLING), lambda completions, **_: [None] * len(completions)
        )
        callback.on_train_begin(trainer.args, trainer.state, trainer.control)
        said = [record.getMessage() for record in caplog.records if "no sample got a verdict" in record.getMessage()]
        assert len(said) == len(BENCHMARKS)
        assert "digits.jsonl: no sample got a verdict of <lambda> (27 unparsable_gold)" in said[0]
        assert trainer.state.log_history[0]["eval_six/unparsable"] == 1.0


class Falling:
    """A judge whose verdicts fall after the second evaluation: 1/3, 2/3, 1/3, 0 of three samples are correct."""

    def __init__(self):
        self.calls, self.__name__ = 0, "falling"

    def __call__(self, completions, **kwargs):
        share = [1, 2, 1, 0, 0, 0][min(self.calls, 5)]
        self.calls += 1
        return [float(i % 3 < share) for i in range(len(completions))]


class TestBestModel:
    OPTIONS = {
        **{"max_steps": 8, "eval_steps": 2, "save_steps": 2, "save_strategy": "steps", "eval_strategy": "steps"},
        **{"load_best_model_at_end": True, "metric_for_best_model": "six/mean@3", "steps_per_generation": 2},
        "per_device_eval_batch_size": 4,
    }

    def run(self, make_trainer, model, *callbacks, eval_dataset=None, **options):
        eval_dataset = {} if eval_dataset is None else eval_dataset
        trainer = make_trainer(
            model=model, callbacks=[*callbacks], eval_dataset=eval_dataset, **self.OPTIONS | options
        )
        # An evaluation is one batch, so that the judge is called once in each; at step 0 it is the first.
        six = {"six": [{"prompt": "6"}] * 3}
        trainer.add_callback(EvaluationCallback(trainer, six, Sampling(3, max_new_tokens=4, batch_size=9), Falling()))
        seen = Weights()
        trainer.add_callback(seen)
        trainer.train()
        return trainer, seen.by_step

    @pytest.mark.parametrize("with_data", [False, True], ids=["benchmarks alone", "beside the trainer's own"])
    def test_is_loaded_and_training_stops_early(self, make_trainer, make_model, dataset, with_data):
        data = dataset.select(range(2)) if with_data else {}
        trainer, by_step = self.run(make_trainer, make_model(), EarlyStoppingCallback(2), eval_dataset=data)
        means = {row["step"]: row["eval_six/mean@3"] for row in trainer.state.log_history if "eval_six/mean@3" in row}
        assert means == pytest.approx({0: 1 / 3, 2: 2 / 3, 4: 1 / 3, 6: 0.0})
        assert trainer.state.global_step == 6  # two evaluations in a row were no better
        assert (trainer.state.best_metric, trainer.state.best_global_step) == (pytest.approx(2 / 3), 2)
        assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
        assert torch.equal(weights(trainer), by_step[2])
        assert not torch.equal(by_step[2], by_step[6])
        assert with_data == any("eval_reward" in row for row in trainer.state.log_history)

    def test_without_it_the_last_one_stays(self, make_trainer, make_model):
        """Negative control, and the plain use: neither best model nor early stopping."""
        plain = {"load_best_model_at_end": False, "metric_for_best_model": None, "eval_strategy": "no"}
        trainer, by_step = self.run(make_trainer, make_model(), **plain)
        assert trainer.state.global_step == 8
        assert torch.equal(weights(trainer), by_step[8])
        assert trainer.state.best_metric is None

    def test_alone_is_saved(self, make_trainer, make_model, tmp_path):
        options = {"save_strategy": "best", "eval_strategy": "no", "load_best_model_at_end": False}
        self.run(make_trainer, make_model(), **options)
        assert [path.name for path in sorted((tmp_path / "run").glob("checkpoint-*"))] == ["checkpoint-2"]

    def test_at_the_ends_of_epochs(self, make_trainer, make_model):
        """Two epochs of four steps each; a step's evaluation is not repeated at the end of its epoch."""
        options = {"eval_strategy": "epoch", "save_strategy": "epoch", "eval_steps": 2, "num_train_epochs": 2}
        data = Dataset.from_dict({"prompt": [f"{i:02d}" for i in range(8)]})
        trainer, by_step = self.run(make_trainer, make_model(), train_dataset=data, max_steps=-1, **options)
        assert [row["step"] for row in trainer.state.log_history if "eval_six/mean@3" in row] == [0, 2, 4, 6, 8]
        assert trainer.state.best_metric == pytest.approx(1 / 3)
        assert torch.equal(weights(trainer), by_step[4])

    def test_by_a_metric_that_there_is_not(self, make_trainer, make_model):
        for name in ("six/mean@64", "reward"):
            with pytest.raises(
                UsageError, match=rf"metric_for_best_model='{name}' is no metric.*: six/mean@3, six/pass@2"
            ):
                self.run(make_trainer, make_model(), metric_for_best_model=name)

    def test_a_schedule_by_the_metric(self, make_trainer, make_model):
        options = {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"mode": "max", "patience": 0}}
        trainer, _ = self.run(make_trainer, make_model(), **options)
        rates = {row["step"]: row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row}
        assert [rates[step] for step in (1, 3, 5, 7)] == pytest.approx([1e-2, 1e-2, 1e-3, 1e-4])


class Weights(TrainerCallback):
    def __init__(self):
        self.by_step = {}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.by_step[state.global_step] = torch.cat([p.detach().flatten() for p in model.parameters()])
