"""What a run says on the terminal while it trains."""

import logging
import re

import pytest
from transformers import PrinterCallback, TrainerControl, TrainerState

from htpo_trl.evaluation import EvaluationCallback, Sampling
from htpo_trl.training import console
from htpo_trl.training.console import ConsoleLog, NothingLearnt


OPTIONS = {"steps_per_generation": 4, "max_steps": 8}


def trained_lines(make_trainer, capsys, **options):
    trainer = make_trainer(callbacks=[ConsoleLog()], **OPTIONS | options)
    trainer.remove_callback(PrinterCallback)
    problems = [{"prompt": "12"}, {"prompt": "34"}]
    sampling = Sampling(2, max_new_tokens=4)
    trainer.args.eval_steps = 8
    trainer.add_callback(
        EvaluationCallback(trainer, {"digits": problems}, sampling, lambda completions, **_: [1, 0] * 2)
    )
    capsys.readouterr()
    trainer.train()
    return trainer, capsys.readouterr().out.splitlines()


def test_one_short_line_a_step(make_trainer, capsys):
    trainer, lines = trained_lines(make_trainer, capsys)
    log = [row for row in trainer.state.log_history if "loss" in row]
    assert len(lines) == 8 + 2 + 1  # two evaluations and the end
    assert max(map(len, lines)) < 110
    assert lines[0] == "step 0/8  digits: mean@2 0.500, pass@2 1.000"
    number = r"(-?\d+\.?\d*)"
    pattern = (
        rf"step (\d)/8  reward {number}  accuracy {number}%  hard {number}%  touched {number}%  entropy {number}  "
    )
    pattern += r"\d+:\d\d:\d\d left"
    generated = {}
    for line, row in zip([line for line in lines if "left" in line], log, strict=True):
        step, reward, accuracy, hard, touched, entropy = map(float, re.fullmatch(pattern, line).groups())
        generated |= {name: row[name] for name in ("reward", "htpo/accuracy", "htpo/frac_hard") if name in row}
        assert step == row["step"]
        assert (reward, entropy) == (round(generated["reward"], 3), round(row["entropy"], 3))
        assert abs(accuracy - 100 * generated["htpo/accuracy"]) <= 0.5
        assert abs(hard - 100 * generated["htpo/frac_hard"]) <= 0.5
        special = sum(value for name, value in row.items() if name.startswith("htpo/special/"))
        assert abs(touched - 100 * special) <= 0.005
    assert re.fullmatch(r"step 8/8  done in \d+:\d\d:\d\d", lines[-1])
    assert len(log[0]) > 30  # all of it is in the log


def test_logs_that_lack_values_are_no_error(capsys):
    state, callback = TrainerState(max_steps=100, is_world_process_zero=True), ConsoleLog()
    callback.on_train_begin(None, state, TrainerControl())
    for logs in (
        {"loss": 0.0},
        {"loss": 0.0, "reward": None, "entropy": float("nan")},
        {},
        {"eval_runtime": 2.0},
        None,
    ):
        callback.on_log(None, state, TrainerControl(), logs=logs)
    callback.on_log(None, state, TrainerControl(), logs={"eval_reward": 0.25, "eval_loss": 0.1})
    callback.on_log(None, state, TrainerControl(), logs={"eval_easy_reward": 0.5, "eval_rewards/f/mean": 0.1})
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        *["step   0/100  0:00:00 left"] * 2,
        "step   0/100  evaluation: reward 0.250",
        "step   0/100  evaluation: easy_reward 0.500",
    ]
    state.is_world_process_zero = False
    callback.on_log(None, state, TrainerControl(), logs={"loss": 0.0})
    assert capsys.readouterr().out == ""


def wrong(completions, **kwargs):
    return [0.0] * len(completions)


def test_that_nothing_is_learnt_is_said_once(make_trainer, caplog, monkeypatch):
    monkeypatch.setattr(console, "PATIENCE", 2)
    with caplog.at_level(logging.WARNING):
        trainer = make_trainer(reward_funcs=wrong, steps_per_generation=2, max_steps=8, logging_steps=2)
        trainer.train()
    (said,) = [record.getMessage() for record in caplog.records if record.name == console.__name__]
    assert said.startswith("Step 4: nothing was learnt from the last 2 generation batches.")
    assert "(all wrong)" in said
    assert "dynamic_sampling" in said
    assert "\n" not in said
    assert {row["loss"] for row in trainer.state.log_history if "loss" in row} == {0.0}


@pytest.mark.parametrize(
    ("shares", "accuracy", "said"),
    [
        ([1.0] * 7, 0.0, []),
        ([1.0] * 20, 1.0, ["Step 32", "(all correct)"]),
        ([1.0] * 7 + [0.9] + [1.0] * 7, 0.0, []),
        ([1.0] * 7 + [0.9] + [1.0] * 9, 0.5, ["Step 64", "equal, so"]),
        ([1.0] * 8, None, ["not judged"]),
    ],
)
def test_batches_in_a_row_are_counted(make_config, caplog, shares, accuracy, said):
    args, state, callback = (
        make_config(steps_per_generation=4),
        TrainerState(is_world_process_zero=True),
        NothingLearnt(),
    )
    callback.on_train_begin(args, state, None)
    for share in shares:
        for row in ({}, {}, {}, {"frac_reward_zero_std": share, "htpo/accuracy": accuracy}):
            state.global_step += 1
            callback.on_log(args, state, None, logs=row)
    text = "".join(record.getMessage() for record in caplog.records)
    assert text.count("nothing was learnt") == bool(said)
    assert all(part in text for part in said)
