import base64
import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from htpo_trl import cli
from htpo_trl.evaluation.statistics import mean_with_interval, pass_at_k
from htpo_trl.objective import EFFECTS, GROUPS
from htpo_trl.report import RunError, write_report
from htpo_trl.report.estimates import MAX_POINTS, Metric, band, differences, final_values, paired, paired_scores
from htpo_trl.report.pictures import Curve, Panel, draw_curves, draw_shares, draw_verdicts
from htpo_trl.report.runs import differing_options, read_run, read_sets

from .test_comparison import random_answers
from .test_comparison import write as write_results


T = {3: 4.30265}  # by number of seeds
N = 4  # samples per problem
HOSTILE = "<script>alert('$x')</script>"


def trl_log(seed, steps=12, **rows):
    """A GRPO log, with generation at every second step."""
    rng = np.random.default_rng(seed)
    log = []
    for step in range(1, steps + 1):
        row = {"step": step, "loss": rng.normal(), "entropy": rng.random(), "step_time": 2.0}
        if step % 2:
            row |= {"reward": rng.random(), "num_tokens": 100.0 * step, "completions/mean_length": 9.0}
        log.append(row)
    return log


def htpo_log(seed, **kwargs):
    rng = np.random.default_rng(seed + 100)
    for row in (log := trl_log(seed, **kwargs)):
        shares = rng.dirichlet(np.ones(len(GROUPS)))
        row |= {f"htpo/share/{group}": share for group, share in zip(GROUPS, shares, strict=True)}
        row |= {f"htpo/entropy/{group}": rng.random() for group in GROUPS}
        row |= {f"htpo/special/{effect}": 0.0 for effect in EFFECTS}
    return log


def trl_run(path, log, **state):
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": log[-1]["step"], "log_history": log} | state))
    return path


def train_run(path, log, **options):
    config = {"output_dir": str(path), "learning_rate": 1e-6, "dynamic_sampling": False} | options
    trl_run(path, log)
    (path / "settings.json").write_text(json.dumps({"versions": {"trl": "1.16.0"}, "HTPOConfig": config}))
    return path


def evaluated_run(path, seed, after=(3, 1, 4), objective="htpo", log=None):
    """A run evaluated before and after; of each problem so many of `N` samples are correct."""
    log = htpo_log(seed) if log is None else log
    train_run(path, log, objective=objective, seed=seed)
    for step, counts in ((0, [1] * len(after)), (log[-1]["step"], after)):
        answers = {f"p{i}": ["right"] * correct + ["a"] * (N - correct) for i, correct in enumerate(counts)}
        write_results(path / "evaluation" / f"step-{step}" / "countdown.jsonl", answers)
    return path


class Page(HTMLParser):
    """Tags with their attributes, text, and the rows of tables."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts, self.rows, self.in_cell = [], [], [], False
        self.html = path.read_text()
        self.feed(self.html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.texts.append(data)
        if self.in_cell:
            self.rows[-1][-1] += data

    def row(self, *start):
        (found,) = [row for row in self.rows if tuple(row[: len(start)]) == start]
        return found[len(start) :]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """A report of two sets of seeds, and of a plain GRPO run that died and bears a hostile name."""
    root = tmp_path_factory.mktemp("mixture")
    after = {("dapo", 0): (3, 1, 4), ("dapo", 1): (2, 2, 2), ("htpo", 0): (4, 1, 4), ("htpo", 1): (2, 4, 3)}
    runs = [evaluated_run(root / f"{name}-seed{s}", s, counts, name) for (name, s), counts in after.items()]
    grpo = root / "<b>grpo"
    trl_run(grpo / "checkpoint-11", trl_log(7, steps=11))
    trl_run(grpo / "checkpoint-12", trl_log(7))
    output = root / "report"
    output.mkdir()
    (output / "sampling.png").write_bytes(b"of an earlier report")
    page = write_report([*runs, f"_{HOSTILE}={grpo}"], output)
    return Page(page), output, after


def test_page_is_self_contained(mixture):
    page, output, _ = mixture
    assert "://" not in page.html.replace("http-equiv", "")
    assert not {"script", "link", "iframe", "object", "b"} & {tag for tag, _ in page.tags}
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    (policy,) = [a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    assert policy.startswith("default-src 'none'")
    pictures = [a for tag, a in page.tags if tag == "img"]
    embedded = {base64.b64decode(a["src"].removeprefix("data:image/png;base64,")) for a in pictures}
    assert embedded == {path.read_bytes() for path in output.glob("*.png")}  # with no picture of the earlier report
    assert all(png.startswith(b"\x89PNG") for png in embedded)
    assert all(len(a["alt"]) > 30 and "dapo" in a["alt"] for a in pictures)
    anchors = {a["id"] for tag, a in page.tags if tag == "h2"}
    assert {a["href"] for tag, a in page.tags if tag == "a"} == {f"#{anchor}" for anchor in anchors}


def test_text_of_runs_is_escaped(mixture):
    page, _, _ = mixture
    assert HOSTILE not in page.html
    assert any(f"_{HOSTILE}" in text for text in page.texts)  # shown as it is
    assert page.row(f"_{HOSTILE}", "<b>grpo")[:3] == ["–", "TRL trainer", "12"]


def test_what_is_missing_is_said(mixture):
    page, output, _ = mixture
    text = "".join(page.texts)
    assert (
        f"Not logged: dapo: dynamic sampling is off; htpo: dynamic sampling is off; _{HOSTILE}: plain GRPO run."
        in text
    )
    assert page.row("Shares of the eight groups", f"_{HOSTILE}") == ["plain GRPO run"]
    assert page.row("<b>grpo", f"_{HOSTILE}")[0].startswith("the log ends with checkpoint-12")
    assert page.row("Clip fractions", "htpo")[0].startswith("not in the log")
    assert page.row("Learning curves", f"_{HOSTILE}", "plain GRPO run: Correct responses, Hard prompts") == []
    assert page.row("Correct responses (% of judged responses)") == ["–", "–", "–"]
    assert not (output / "sampling.png").exists()
    assert "Runs without recorded options: _" in text


def test_panels_of_what_rules_did_are_those_that_a_run_logs(tmp_path):
    runs = []
    for name, effects in (("htpo", EFFECTS[:5]), ("cispo", ("gate_keeps", "gate_weighs")), ("plain", ())):
        log = [row | {f"htpo/special/{effect}": 0.1 for effect in effects} for row in trl_log(0)]
        if effects:
            log = [row | {"htpo/accuracy": 0.5} for row in log]
        runs.append(f"{name}={train_run(tmp_path / name, log, objective=name)}")
    page = Page(write_report(runs, tmp_path / "report"))
    (alt,) = [a["alt"] for tag, a in page.tags if tag == "img" and a["alt"].startswith("Tokens that a rule touched")]
    shown = [each.replace("_", " ") for each in (*EFFECTS[:5], "gate_keeps", "gate_weighs")]
    assert (
        alt.removeprefix("Tokens that a rule touched, over optimizer steps: ")
        .split(". ")[0]
        .startswith(", ".join(shown))
    )
    assert "gate drops" not in page.html
    reason = "no rule of its objective does that: gate keeps, gate weighs"
    assert ["Tokens that a rule touched", "htpo", reason] in page.rows
    alone = Page(write_report(runs[2:], tmp_path / "alone"))
    assert ["Tokens that a rule touched", "plain", "plain GRPO run"] in alone.rows


def test_tables_hold_means_and_intervals_over_seeds(mixture):
    page, _, after = mixture
    means = {key: np.mean(counts) / N for key, counts in after.items()}
    difference = np.array([means["htpo", seed] - means["dapo", seed] for seed in (0, 1)])
    expected = (
        f"{difference.mean():+.3f} ({difference.min():+.3f} and {difference.max():+.3f})"  # of two seeds the two
    )
    sides = [f"{np.mean([means[name, seed] for seed in (0, 1)]):.3f}" for name in ("dapo", "htpo")]
    assert page.row("htpo", "countdown: mean") == [*sides, expected, "0.500", "2 seeds"]
    htpo = np.array([means["htpo", seed] for seed in (0, 1)])
    last = f"{htpo.mean():.3f} ({htpo.min():.3f} and {htpo.max():.3f})"
    assert page.row("countdown", "mean@4", "htpo")[:3] == ["0 → 12", "0.250 (0.250 and 0.250)", last]
    rewards = [[row["reward"] for row in htpo_log(seed) if "reward" in row][-1] for seed in (0, 1)]
    assert page.row("Mean reward")[1].startswith(f"{np.mean(rewards):.3f} (")  # the last tenth of six values: one
    assert page.row("objective") == ["dapo", "htpo", "not recorded"]
    assert any("no seed in common" in text for text in page.texts)


def band_of(*runs):
    """The band over runs, of each one's step → value."""
    return band([pd.Series(run, dtype=float) for run in runs])


def test_bands_are_means_and_t_intervals():
    series = [{1: 1.0, 5: 2.0, 9: 4.0}, {1: 2.0, 5: 2.0, 9: 5.0}, {1: 6.0, 5: 2.0, 9: 9.0}]
    found = band_of(*series)
    np.testing.assert_array_equal(found.index, [1, 5, 9])
    np.testing.assert_allclose(found["mean"], [3, 2, 6])
    half = [T[3] * math.sqrt(7 / 3), 0, T[3] * math.sqrt(7 / 3)]
    np.testing.assert_allclose(found.high - found["mean"], half, rtol=1e-5)
    np.testing.assert_allclose(found["mean"] - found.low, half, rtol=1e-5)
    single = band_of(series[0])
    np.testing.assert_array_equal(single["mean"], [1, 2, 4])
    assert single.low.isna().all()  # one seed: a line, no band
    many = band_of({step: float(step % 2) for step in range(1, 4 * MAX_POINTS + 1)})
    assert (set(many.width), len(many)) == ({4}, MAX_POINTS)
    np.testing.assert_array_equal(many.index, range(4, 4 * MAX_POINTS + 1, 4))
    np.testing.assert_array_equal(many["mean"], 0.5)


def test_missing_values_are_gaps_in_the_line():
    """And never zero."""
    found = band_of({1: 5.0, 2: 5.0, 3: math.nan, 4: 5.0, 5: 5.0, 6: 5.0})
    x, y = draw_curves([Panel("reward", "reward", [Curve(0, found)])], ["run"]).axes[0].lines[0].get_data()
    assert np.isnan(y[x == 3]).tolist() == [True]
    assert set(y[~np.isnan(y)]) == {5.0}
    assert band_of({1: math.nan}, {}) is None


def test_steps_of_some_seeds_only():
    found = band_of({1: 1.0, 2: 1.0, 3: 7.0}, {1: 3.0, 2: 3.0}, {1: 5.0})
    np.testing.assert_allclose(found["mean"], [3, 2, np.nan])  # one seed's 7 is not the mean of three
    np.testing.assert_array_equal(found.n, [3, 2, 1])
    assert band_of({1: 1.0}, {2: 1.0}) is None


def test_round_off_is_not_magnified():
    found = band_of(*[{1: 0.4, 2: 0.4}] * 3)
    curve = Curve(0, found.assign(high=found.high + 1e-15))
    low, high = draw_curves([Panel("share", "", [curve])], ["run"]).axes[0].get_ylim()
    assert high - low > 0.01


def test_labels_of_runs_are_neither_formulas_nor_hidden():
    label, curve = r"_$\frac$", Curve(0, band_of({1: 1.0}))
    figure = draw_curves([Panel(label, "", [curve]), Panel("shares", "%", [], label)], [label])
    assert [text.get_text().strip() for text in figure.legends[0].get_texts()] == [label]
    reward, shares = figure.axes
    assert reward.lines
    assert [text.get_text() for text in shares.texts] == [f"not logged\n{label}"]
    assert not shares.lines
    assert not shares.get_xticks().size
    for each in (figure, draw_shares({label: label}), draw_verdicts(pd.DataFrame({label: [1]}, [label]))):
        each.savefig(io.BytesIO())  # raises where a label is read as a broken formula


def test_runs_that_differ_by_seed_form_a_set(tmp_path):
    log = trl_log(0)
    runs = [train_run(tmp_path / f"run{seed}", log, seed=seed, hub_model_id=f"me/{seed}") for seed in range(3)]
    other = train_run(tmp_path / "fast", log, seed=0, learning_rate=1e-5)
    sets = read_sets([*runs, other])
    assert [(s.name, len(s.runs)) for s in sets] == [("learning_rate=1e-06", 3), ("learning_rate=1e-05", 1)]
    assert differing_options(sets) == {"learning_rate": [["1e-06"], ["1e-05"]]}
    named = read_sets([runs[0], f"mine={runs[1]}", f"mine={other}"])
    assert [(s.name, [run.path.name for run in s.runs]) for s in named] == [
        ("run0", ["run0"]),
        ("mine", ["run1", "fast"]),
    ]
    assert differing_options(named)["learning_rate"] == [["1e-06"], ["1e-05", "1e-06"]]
    (evaluation,) = read_sets([write_results(tmp_path / "eval" / "sums.jsonl", {"p": ["a"] * N}).parent])
    # It records other options: none of them is a difference.
    assert differing_options([evaluation, *sets]) == {"learning_rate": [[], ["1e-06"], ["1e-05"]]}
    plain = [trl_run(tmp_path / name, log) for name in ("a-seed1", "a_seed2", "a-s3", "b-seed1", "plain/seed4")]
    assert [s.label for s in read_sets(plain)] == ["a (3 seeds)", "b (1 run)", "plain (1 run)"]
    assert [run.seed for run in read_sets(plain)[0].runs] == [1, 2, 3]
    with pytest.raises(RunError, match="twice"):
        read_sets([other, other])


def test_another_device_is_told_and_makes_no_other_set(tmp_path):
    runs = [train_run(tmp_path / f"run{seed}", trl_log(0), seed=seed) for seed in range(2)]
    for run, device in zip(runs, ("cpu", "NVIDIA H200"), strict=True):
        settings = (run / "settings.json").read_text()
        (run / "settings.json").write_text(settings.replace('"trl"', f'"device": "{device}", "trl"'))
    assert differing_options(read_sets(runs)) == {"device": [["NVIDIA H200", "cpu"]]}


def test_sets_that_their_options_do_not_tell_apart_go_by_their_directories(tmp_path):
    runs = [train_run(tmp_path / name, trl_log(0), objective="htpo", learning_rate=name * 40) for name in "ab"]
    assert [s.name for s in read_sets(runs)] == ["a", "b"]


def test_checkpoints_evaluated_apart_are_no_seeds(tmp_path):
    """Their options agree, but for the model's path."""
    answers = random_answers(np.random.default_rng(0), 0.5)
    directories = [tmp_path / name for name in ("step-0", "step-16", "final-seed0", "final-seed1")]
    for directory in directories:
        record = write_results(directory / "sums.jsonl", answers).with_suffix(".json")
        content = json.loads(record.read_text())
        content["settings"]["model"] = f"runs/{directory.name}"
        record.write_text(json.dumps(content))
    assert [s.label for s in read_sets(directories)] == ["step-0 (1 run)", "step-16 (1 run)", "final (2 seeds)"]


def test_one_pair_of_runs_is_paired_by_problem(tmp_path):
    before, after = [3, 1, 4, 0, 2, 2], [4, 1, 4, 2, 1, 3]
    logs = [[{"step": 11, "reward": reward}, {"step": 12, "reward": reward + 1}] for reward in (2.0, 5.0)]
    runs = [("dapo", before, logs[0]), ("htpo", after, logs[1])]
    first, second = read_sets([evaluated_run(tmp_path / name, 0, counts, name, log) for name, counts, log in runs])
    (one,), (two,) = (side.runs for side in paired(first, second))
    found = paired_scores(*([run.evaluations["countdown"][12]] for run in (one, two)))
    for metric, k in (("mean", 1), ("pass@2", 2)):
        expected = mean_with_interval(pass_at_k(N, after, k) - pass_at_k(N, before, k))
        assert tuple(found.loc[metric, ["mean", "low", "high", "n"]]) == pytest.approx((*expected, 6))
        assert found.units[metric] == "problems"
    unpaired = pass_at_k(N, after, 1) - np.roll(pass_at_k(N, before, 1), 1)
    assert mean_with_interval(unpaired)[1] != pytest.approx(found.low["mean"])
    rewards = [final_values([run], [Metric("reward", "Reward", "reward")]) for run in (one, two)]
    final = differences(*rewards, "seeds").loc["reward"]
    assert tuple(final[["first", "second", "mean"]]) == (3, 6, 3)  # the last tenth of two values: one
    assert np.isnan([final.low, final.p]).all()  # no units to resample


def test_what_cannot_be_paired_says_why(tmp_path):
    runs = {s: evaluated_run(tmp_path / f"a-seed{s}", s) for s in (0, 1)} | {2: evaluated_run(tmp_path / "b-seed2", 2)}
    runs[3] = evaluated_run(tmp_path / "b-seed3", 3, after=(1, 2))
    sets = read_sets([f"a={runs[0]}", f"a={runs[1]}", f"b={runs[2]}", f"b={runs[3]}"])
    with pytest.raises(RunError, match="no seed in common"):
        paired(*sets)
    again = sets[0]._replace(runs=[sets[0].runs[0]] * 2)
    with pytest.raises(RunError, match="several runs of seed 0"):
        paired(sets[0], again)
    one, two = sets[0].runs[0].evaluations["countdown"][12], sets[1].runs[1].evaluations["countdown"][12]
    with pytest.raises(RunError, match="problems are not the same"):
        paired_scores([one], [two])


def test_training_runs_with_evaluations(tmp_path):
    path = train_run(tmp_path / "run", htpo_log(0), objective="htpo", seed=5)
    rng = np.random.default_rng(0)
    answers = {step: random_answers(rng, accuracy) for step, accuracy in ((0, 0.2), (12, 0.6))}
    for step, each in answers.items():
        write_results(path / "evaluation" / f"step-{step}" / "sums.jsonl", each)
    run = read_run(path)
    assert (run.seed, run.steps, run.source, list(run.evaluations["sums"])) == (5, 12, "HTPO trainer", [0, 12])
    rows = [answer == "right" for each in answers[12].values() for answer in each]
    page = Page(write_report([path], tmp_path / "report"))
    steps, _, last, _, over = page.row("sums", "mean@4", "run")
    assert (steps, over) == ("0 → 12", "20 problems")
    expected = mean_with_interval(np.reshape(rows, (20, 4)).mean(axis=1))
    assert last == "{:.3f} [{:.3f}, {:.3f}]".format(*expected)
    header, counts = (page.row(label) for label in ("benchmark and set", "sums: run"))
    assert dict(zip(header, map(int, counts), strict=True))["correct"] == sum(rows)
    assert (tmp_path / "report" / "evaluation_verdicts.png").exists()
    assert not (tmp_path / "report" / "differences.png").exists()  # of one set there are none

    (path / "evaluation" / "step-12" / "sums.json").unlink()  # a run that died while it evaluated
    assert read_run(path).notes == ["sums.jsonl in step-12 is unfinished: there is no sums.json"]
    assert list(read_run(path).evaluations["sums"]) == [0]


def test_tokens_per_second(tmp_path):
    log = [{"step": step, "step_time": 2.0 + (step == 5), "num_tokens": 10.0 * step**2} for step in (2, 4, 5)]
    run = read_run(trl_run(tmp_path / "run", log))  # a logged step time is the mean since the last log
    assert run.series("tokens_per_second").to_dict() == pytest.approx({4: 120 / 4, 5: 90 / 3})
    assert read_run(trl_run(tmp_path / "none", [{"step": 1, "num_tokens": 5.0}])).series("tokens_per_second").empty


def test_resumed_and_odd_values(tmp_path):
    odd = [
        {"step": 1, "reward": 1.0},
        {"step": 2, "reward": "<b>"},
        {"step": 3, "reward": None},
        {"step": 1, "reward": 2},
        {"step": 4, "reward": 10**400},
        {"step": 5, "reward": True},
    ]
    series = read_run(trl_run(tmp_path / "run", odd)).series("reward")
    assert series[1] == 2.0
    assert series.drop(1).isna().all()
    assert list(series.index) == [1, 2, 3, 4, 5]


def test_a_run_that_reached_its_end_is_not_said_to_have_died(tmp_path):
    path, log = tmp_path / "run", trl_log(0)
    trl_run(path, log, max_steps=12)
    trl_run(path / "checkpoint-12", log[:-1], global_step=12, max_steps=12)  # saved before the last row was logged
    assert read_run(path).notes == []
    assert len(read_run(path).series("loss")) == 12
    (path / "trainer_state.json").unlink()  # a trainer in Python that is not told to write it
    assert read_run(path).notes == []
    trl_run(tmp_path / "stopped" / "checkpoint-11", log[:-1], max_steps=12)
    assert read_run(tmp_path / "stopped").notes[0].startswith("the log ends with checkpoint-11")


def broken(path, name):
    file = path / name
    if name == "sums.jsonl":
        write_results(file, random_answers(np.random.default_rng(0), 0.5))
        file.write_bytes(file.read_bytes()[:-200])
    elif name == "trainer_state.json":
        trl_run(path, trl_log(0))
        file.write_text(file.read_text()[:-5])
    elif name == "settings.json":
        train_run(path, trl_log(0))
        file.write_text("[]")
    elif name == "its versions":
        train_run(path, trl_log(0))
        (path / "settings.json").write_text('{"versions": 3}')
    else:
        trl_run(path, [{"step": 1}], log_history=[{"loss": 1.0}])
    return path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sums.jsonl", "sums.jsonl"),
        ("trainer_state.json", "trainer_state.json: broken JSON"),
        ("settings.json", "settings.json: expected an object"),
        ("its versions", "settings.json: expected versions in braces"),
        ("a row without a step", "trainer_state.json: row 1 of the log has no step"),
    ],
)
def test_broken_files_are_named(tmp_path, name, said):
    with pytest.raises(RunError, match=re.escape(said)):
        read_run(broken(tmp_path / "run", name))


@pytest.mark.parametrize("arguments", [["nowhere"], ["."], []])
def test_command_line_refuses_in_one_line(tmp_path, arguments, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["report", *arguments])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    if arguments:
        assert said.count("\n") == 1
        assert said.startswith("htpo report: ")
    if arguments == ["."]:
        assert "trainer_state.json" in said
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_mend_is_said(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["report", "run"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "htpo report: Reports need matplotlib: pip install 'htpo_trl[report]'.\n"
