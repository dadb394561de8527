"""The page of a fight, and the same tables as Markdown: from plan and results alone."""

import base64
import hashlib
import html
import json
import math
import re
import warnings

import numpy as np
import pytest
from scipy import stats

from htpo_trl import cli
from htpo_trl.compare.judgement import judge
from htpo_trl.compare.report import write_compare_report
from htpo_trl.compare.tables import markdown, read_outcome
from htpo_trl.utils import UsageError

from .test_compare_judgement import K, N, make_plan, result, sample
from .test_report import Page


HOSTILE = "<script>alert('$x|')</script>"
RATES = (5e-5, 1e-4, 2e-4)


def log(seed):
    rng = np.random.default_rng(seed)
    names = ("reward", "htpo/accuracy", "entropy", "grad_norm", "completions/mean_length", "htpo/clip_ratio/low")
    return {name: {str(step): rng.random() / 2 + step / 80 for step in range(4, 41, 4)} for name in names}


def write(directory, plan, results):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "plan.json").write_text(json.dumps(plan))
    digest = hashlib.sha256((directory / "plan.json").read_bytes()).hexdigest()
    (directory / "results").mkdir(exist_ok=True)
    for each in results:
        (directory / "results" / f"{each['name']}.json").write_text(json.dumps({**each, "plan": digest}))
    return directory


def fight(seed=0, arms=("dapo", "htpo", "cispo"), tuning=3, confirmation=8, rates=RATES, logs=True):
    """Plan and results of a fight in which arms differ by chance alone; each at the middle rate is best."""
    plan = make_plan(arms, rates, tuning, confirmation) | {
        "problems": {"test": {"name": "countdown:test", "count": 50, "digest": "ab12"}},
        "model": {"name": "warm-start", "digest": None},
        "rule": ["A rule.", f"Of {HOSTILE}."],
    }
    rng = np.random.default_rng(seed)
    counts = sample(rng, (1, len(arms) * (1 + len(rates)), max(tuning, confirmation)))[0]
    cost = {
        "mean_tokens": 33.5,
        "truncated": 0.04,
        "seconds": 60.0,
        "train_tokens": 30_000,
        "versions": {"trl": "1.16"},
    }
    results = [result("validation", None, None, None, counts[0, 0]), result("test", None, None, None, counts[0, 0])]
    for i, arm in enumerate(arms):
        of_arm = counts[i * (1 + len(rates)) : (i + 1) * (1 + len(rates))]
        for j, rate in enumerate(rates):
            results += [
                result("tuning", arm, rate, s, np.minimum(of_arm[j][s] + 3 * (rate == 1e-4), N), **cost)
                for s in plan["tuning_seeds"]
            ]
        touched = {"touched": {"keep_above": 0.0012 * i, "detach_lowest": 0.0}}
        results += [
            result("confirmation", arm, 1e-4, seed, of_arm[-1][s], log=log(seed) if logs else {}, **cost, **touched)
            for s, seed in enumerate(plan["confirmation_seeds"])
        ]
    return plan, results


FAILED = {
    "status": "failed",
    "error": f"RuntimeError: {HOSTILE}",
    "problems": [],
    "judged": [],
    "correct": [],
    "log": {},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Of three arms, one run failed; with a picture of an earlier report."""
    plan, results = fight()
    results[-1] |= FAILED
    results[-2]["log"]["reward"] |= {"36": math.nan, "40": 1e308}
    directory = write(tmp_path_factory.mktemp("fight"), plan, results)
    (directory / "report").mkdir()
    (directory / "report" / "rules.png").write_bytes(b"of an earlier report")
    with warnings.catch_warnings(action="error"):
        return directory, Page(write_compare_report(directory)), plan, results


def test_the_page_is_self_contained(finished):
    directory, page, _, _ = finished
    assert "://" not in page.html.replace("http-equiv", "")
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    embedded = [a["src"] for tag, a in page.tags if tag == "img"]
    pictures = {base64.b64encode(path.read_bytes()).decode() for path in (directory / "report").glob("*.png")}
    assert {each.removeprefix("data:image/png;base64,") for each in embedded} == pictures
    assert {path.stem for path in (directory / "report").glob("*.png")} == {
        *("tuning", "differences", "learning", "entropy", "lengths", "clipping")
    }
    assert all(a["alt"] for tag, a in page.tags if tag == "img")
    assert HOSTILE not in page.html
    assert any(HOSTILE in text for text in page.texts)


def test_the_numbers_are_those_of_the_results(finished):
    directory, page, plan, results = finished
    digest = hashlib.sha256((directory / "plan.json").read_bytes()).hexdigest()
    assert page.row("digest of the plan") == [digest]
    scores = {
        arm: np.array(
            [np.mean(r["correct"] or [0]) / N for r in results if (r["phase"], r["arm"]) == ("confirmation", arm)]
        )
        for arm in plan["arms"]
    }
    for arm, failed in (("dapo", "0"), ("cispo", "1")):
        ((_, rate, runs, n_failed, collapsed, mean, *_),) = [
            row for row in page.rows if row[0] == arm and len(row) == 9
        ]
        half = stats.t.ppf(0.975, 7) * stats.sem(scores[arm])
        center = scores[arm].mean()
        assert (rate, runs, n_failed, collapsed) == ("0.0001", "8", failed, "0")
        assert mean == f"{center:.3f} [{center - half:.3f}, {center + half:.3f}]"
    ((verdict, first, second, difference, interval, p, corrected, could),) = [
        row[2:] for row in page.rows if row[:2] == ["htpo", "mean@16"] and len(row) == 10
    ]
    test = stats.ttest_rel(scores["htpo"], scores["dapo"])
    low, high = test.confidence_interval()
    assert (first, second) == (f"{scores['dapo'].mean():.3f}", f"{scores['htpo'].mean():.3f}")
    assert interval == f"[{low:+.3f}, {high:+.3f}]"
    assert (difference, p) == (f"{(scores['htpo'] - scores['dapo']).mean():+.3f}", f"{test.pvalue:.3f}")
    assert verdict == "undecided"
    assert float(corrected) >= float(p)
    assert float(could) > float(difference)
    tuned = [r["correct"] for r in results if (r["phase"], r["arm"], r["learning_rate"]) == ("tuning", "htpo", 2e-4)]
    none_of = [[math.comb(N - c, K) / math.comb(N, K) for c in correct] for correct in tuned]  # K drawn samples
    for metric, score in (("mean@16", np.mean(tuned) / N), ("pass@8", 1 - np.mean(none_of))):
        assert page.row("htpo", metric, "0.0001")[-1].startswith(f"{score:.3f} [")
    assert page.row("cispo", "0.240%") == ["0.000%"]
    assert page.row("htpo", "tuning") == ["9", "60", "30,000"]
    assert page.row("confirmation-cispo-lr0.0001-seed1007", "RuntimeError: " + HOSTILE) == []


def test_verdicts_come_first(finished):
    _, page, _, _ = finished
    found = judge(*finished[2:]).comparisons
    assert len(found) == 4
    headings = [a["id"] for tag, a in page.tags if tag == "h2"]
    assert headings[:2] == ["verdicts", "plan"]
    text = page.html.split('id="verdicts"')[1].split("<h2")[0]
    for each in found:
        assert html.escape(each.sentence, quote=False).replace("'", "&#39;") in text
    assert "cispo: of 8 confirmation runs 1 failed and count as 0." in text


def test_the_markdown_has_the_same_tables(finished):
    directory, page, _, _ = finished
    text = markdown(read_outcome(directory))
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.split("\n") if line[:1] == "|"
    ]
    rows = [row for row in rows if not re.fullmatch(r"[-:]+", "".join(row)) or "–" in row]
    shown = [[" ".join(cell.split()) for cell in row] for row in page.rows]
    plain = [[html.unescape(cell).replace("\\|", "|") for cell in row] for row in rows]
    assert plain == shown[: len(plain)]
    assert len(plain) > 25
    assert "<script" not in text


@pytest.mark.parametrize("n", [0, 20, -1])
def test_a_fight_that_is_not_over_shows_no_scores_of_the_test(tmp_path, n):
    plan, results = fight(arms=("dapo", "htpo"), logs=False)
    directory = write(tmp_path, plan, results[:n])
    page = Page(write_compare_report(directory))
    assert any("The fight is not over" in text for text in page.texts)
    assert "differences" not in [a["id"] for tag, a in page.tags if tag == "h2"]
    assert not (directory / "report" / "differences.png").exists()
    (row,) = [row for row in page.rows if row[0] == "dapo" and len(row) == 9]
    assert row[4:] == ["–"] * 5, "nor what would tell of them"
    assert "undecided" not in page.html


def test_htpo_report_shows_a_fight_of_any_code(tmp_path, capsys):
    directory, there = write(tmp_path / "fight", *fight(arms=("dapo", "htpo"))), tmp_path / "there"
    there.mkdir()
    (there / "mine.png").write_bytes(b"of its reader")
    cli.main(["report", str(directory), "--output_dir", str(there)])
    said = capsys.readouterr().out
    assert said == f"{markdown(read_outcome(directory))}\n\nReport: {there / 'index.html'}\n"
    assert "htpo against dapo in mean@16" in said
    assert (there / "index.html").read_text().count("<img") == len([*there.glob("*.png")]) - 1
    assert (there / "mine.png").read_bytes() == b"of its reader"
    assert not (directory / "report").exists()
    with pytest.raises(SystemExit):
        cli.main(["report", str(tmp_path), str(directory)])
    assert "is a fight of htpo compare, which is reported alone" in capsys.readouterr().err


def test_of_few_tuning_samples_there_is_no_pass_at_k(tmp_path):
    plan, results = fight(tuning=1, confirmation=2)
    for each in results:
        if each["phase"] == "tuning" or each["name"] == "before-validation":
            each |= {"judged": [K - 1] * 50, "correct": [min(c, K - 1) for c in each["correct"]]}
    page = Page(write_compare_report(write(tmp_path, plan | {"tuning_samples": K - 1}, results)))
    assert {row[1] for row in page.rows if row[0] == "htpo" and len(row) == 6} == {"mean@7"}


@pytest.mark.parametrize(("n", "verdict"), [(1, "untested"), (2, "undecided")])
def test_few_seeds_and_one_rate(tmp_path, n, verdict):
    directory = write(tmp_path, *fight(arms=("dapo", "htpo"), rates=(1e-4,), confirmation=n, logs=False))
    page = Page(write_compare_report(directory))
    assert "All arms have the learning rate 0.0001: none was tuned." in page.texts
    assert page.row("htpo", "mean@16")[0] == verdict
    assert not (directory / "report" / "tuning.png").exists()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("plan.json", {"alpha": 0.1}, "is of another plan, [0-9a-f]{12} and not [0-9a-f]{12}"),
        ("plan.json", {"schema": 2}, "schema 2, and not 1"),
        ("results/before-test.json", {"plan": "0" * 64}, "is of another plan, [0-9a-f]{12} and not [0-9a-f]{12}"),
        ("plan.json", {"alpha": "small"}, "alpha is 'small', of the wrong kind"),
        ("plan.json", {"arms": ["dapo", "htpo"]}, "arms is .'dapo', 'htpo'., of the wrong kind"),
        ("plan.json", {"problems": {"test": 3}}, "problems has 3, of the wrong kind"),
        ("plan.json", {"learning_rates": ["fast"]}, "learning_rates has 'fast', of the wrong kind"),
        ("results/before-test.json", {"status": None}, "no 'status'"),
        ("results/confirmation-htpo-lr0.0001-seed1000.json", {"log": {"reward": {"x": 1}}}, "its log cannot be read"),
        ("results/confirmation-htpo-lr0.0001-seed1000.json", {"log": [1]}, "its log cannot be read"),
    ],
)
def test_files_of_no_fight_are_refused(tmp_path, name, change, message):
    directory = write(tmp_path, *fight(arms=("dapo", "htpo"), tuning=1, confirmation=2))
    content = json.loads((directory / name).read_text()) | change
    if None in change.values():
        content.pop(*change)
    (directory / name).write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message):
        write_compare_report(directory)
    (directory / name).write_text("{")
    with pytest.raises(UsageError, match=f"{name}: broken JSON"):
        write_compare_report(directory)
