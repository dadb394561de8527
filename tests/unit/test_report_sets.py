"""Of a report: which seed a run has, what a difference is of, why a metric is missing, which curve stands back."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from htpo_trl.report.estimates import band, differences, estimate, interval_text, why_missing
from htpo_trl.report.pictures import Curve, Panel, draw_curves
from htpo_trl.report.runs import read_run, read_sets
from htpo_trl.report.sections import Report, budgets_section

from .test_comparison import random_answers
from .test_comparison import write as write_results
from .test_report import N, evaluated_run, htpo_log, train_run, trl_log, trl_run


def test_the_seed_of_the_name_is_that_of_the_run(tmp_path):
    """What `htpo eval` records is the seed of its samples, the same for the models of all seeds."""
    answers = random_answers(np.random.default_rng(0), 0.5)
    directories = [tmp_path / f"final-seed{seed}" for seed in (3, 4)]
    for directory in directories:
        record = write_results(directory / "sums.jsonl", answers).with_suffix(".json")
        content = json.loads(record.read_text())
        content["settings"]["sampling"]["seed"] = 42
        record.write_text(json.dumps(content))
    (found,) = read_sets(directories)
    assert ([run.seed for run in found.runs], found.label) == ([3, 4], "final (2 seeds)")


def test_sides_of_a_difference_are_of_the_pairs_that_have_both():
    first = pd.DataFrame({"a": [1.0, 2.0, 30.0], "b": [1.0, np.nan, 5.0]})
    second = pd.DataFrame({"a": [2.0, 4.0, np.nan], "b": [7.0, 8.0, 9.0]})
    found = differences(first, second, "seeds")
    assert found.loc["a", ["first", "second", "mean", "n"]].tolist() == [1.5, 3, 1.5, 2]
    assert found.loc["b", ["first", "second", "mean", "n"]].tolist() == [3, 8, 5, 2]


def test_what_rounds_to_zero_has_no_minus():
    found = {"mean": -4e-4, "low": -0.01, "high": 0.0, "n": 3, "units": "seeds"}
    assert interval_text(found) == "0.000 [-0.010, 0.000]"
    assert interval_text(found, decimals=2, sign="+") == "+0.00 [-0.01, +0.00]"


def test_intervals_stay_where_values_can_be():
    """By hand: t of three seeds is 4.30265; of two it would be 12.7, which says less than the two themselves."""
    shares = pd.DataFrame({"share": [0.9, 0.95, 1.0], "reward": [-1.0, 0.0, 7.0]})
    found = estimate(shares, "seeds", [(0, 1), (-math.inf, math.inf)])
    assert found.loc["share", ["mean", "low", "high"]].tolist() == pytest.approx(
        [0.95, 0.95 - 4.30265 * 0.05 / 3**0.5, 1]
    )
    assert found.low["reward"] < -1
    two = estimate(shares[:2].assign(share=[1.0, 0.4]), "seeds", (0, 1))
    assert two.loc["share", ["mean", "low", "high"]].tolist() == pytest.approx([0.7, 0.4, 1.0])
    assert interval_text(two.loc["share"]) == "0.700 (0.400 and 1.000)"
    assert interval_text(differences(shares[:2], shares[1:].reset_index(drop=True), "seeds").loc["share"], 2, "+") == (
        "+0.05 (+0.05 and +0.05)"
    )
    problems = estimate(pd.DataFrame({"mean": [0.0, 1.0]}), "problems")
    assert interval_text(problems.loc["mean"]) == "0.500 [0.000, 1.000]"  # two problems are not two seeds


def test_names_of_sets_are_short(tmp_path):
    log = htpo_log(0)
    runs = [
        train_run(tmp_path / name / "out", log, learning_rate=10.0**-i, max_steps=160 * i)
        for i, name in enumerate("ab", 1)
    ]
    assert [s.name for s in read_sets(runs)] == ["a/out", "b/out"]
    short = [train_run(tmp_path / f"one{i}", log, max_steps=i) for i in (1, 2)]
    assert [s.name for s in read_sets(short)] == ["max_steps=1", "max_steps=2"]
    long = [trl_run(tmp_path / f"a-run-of-which-the-name-is-long-{name}", trl_log(0)) for name in ("one", "two")]
    assert [s.name for s in read_sets(long)] == ["a-run-of-wh…-is-long-one", "a-run-of-wh…-is-long-two"]


def test_long_notes_take_no_room_from_panels():
    curve = Curve(0, band([pd.Series({1: 1.0, 2: 2.0})]))
    widths = []
    for note in ("", "set number one: " + "dynamic sampling is off " * 9, "x" * 200):
        figure = draw_curves(
            [Panel("reward", "reward", [curve], note), Panel("loss", "loss", [], note or "off")], ["run"]
        )
        figure.draw_without_rendering()
        widths.append([axis.get_position().width for axis in figure.axes])
    assert widths[1] == pytest.approx(widths[0])
    assert widths[2] == pytest.approx(widths[0])


def test_dynamic_sampling_is_off_where_no_run_has_it(tmp_path):
    runs = [read_run(train_run(tmp_path / str(on), htpo_log(0), dynamic_sampling=on)) for on in (False, True)]
    key = "htpo/sampling/rounds"
    assert why_missing(runs[:1], key) == "dynamic sampling is off"
    assert why_missing(runs[1:], key) == why_missing(runs, key) == "not in the log"


def test_the_last_evaluation_stands_before_the_first(tmp_path):
    """In the picture over k the curve of the first evaluation is the thin one; its values are those of step 0."""
    drawn = {}

    class Seen(Report):
        def panels(self, outline, panels, alt):
            drawn.update(panels)
            return []

    report = Seen(read_sets([evaluated_run(tmp_path / "run", 0, after=(3, 4, 4))]), tmp_path / "report")
    (outline,) = [outline for outline in report.outlines if outline.name == "budgets"]
    budgets_section(report, outline)
    curves = {curve.faded: curve.points["mean"] for curve in drawn["countdown: pass@k"].curves}
    assert curves[True][1] == pytest.approx(1 / N)  # one sample of each problem is right
    assert curves[False][1] == pytest.approx((3 + 4 + 4) / 3 / N)
