"""How a fight is decided: by hand, at its edges, and over thousands of made-up fights whose truth is known."""

import math

import numpy as np
import pytest
from scipy import stats

from htpo_trl.compare.judgement import choose_rates, judge
from htpo_trl.evaluation.statistics import holm, paired_t_test, pass_at_k, smallest_difference
from htpo_trl.utils import UsageError


N, K, FIGHTS = 16, 8, 2000
METRICS = (f"mean@{N}", f"pass@{K}")
SCORES = np.stack([np.arange(N + 1) / N, pass_at_k(N, np.arange(N + 1), K)])  # of a problem, by correct samples


def make_plan(arms=("dapo", "htpo"), rates=(1e-4,), tuning=2, confirmation=8):
    return {
        "schema": 1,
        "arms": {arm: {"options": {"objective": arm}} for arm in arms},
        "learning_rates": list(rates),
        "tuning_seeds": list(range(tuning)) if len(rates) > 1 else [],
        "confirmation_seeds": list(range(1000, 1000 + confirmation)),
        "samples": N,
        "tuning_samples": N,
        "metrics": list(METRICS),
        "alpha": 0.05,
    }


def result(phase, arm, rate, seed, correct, **fields):
    problems = [f"p{i}" for i in range(len(correct))]
    name = f"before-{phase}" if arm is None else f"{phase}-{arm}-lr{rate}-seed{seed}"
    made = {"name": name, "phase": phase if arm else "before", "arm": arm, "learning_rate": rate, "seed": seed}
    counts = {"problems": problems, "judged": [N] * len(problems), "correct": [int(c) for c in correct]}
    return {"schema": 1, "status": "finished", "error": None} | made | counts | fields


def confirmed(counts, rates=1e-4):
    """Results of confirmation, from arm -> correct samples (seeds, problems)."""
    return [
        result("confirmation", arm, rates, 1000 + i, correct)
        for arm, table in counts.items()
        for i, correct in enumerate(table)
    ]


def sample(rng, shape, problems=50, shift=0.0):
    """
    Correct samples (..., seeds, problems), `shape` is (fights, arms, seeds): problems are of all difficulties, a seed
    is good or bad for all arms, a run on its own too; `shift` is what arms but the first are better, in log-odds.
    """
    fights, arms, seeds = shape
    odds = rng.normal(-1, 1.5, (fights, 1, 1, problems)) + rng.normal(0, 0.2, (fights, 1, seeds, 1))
    odds = odds + rng.normal(0, 0.15, (fights, arms, seeds, 1)) + shift * (np.arange(arms) > 0)[:, None, None]
    return rng.binomial(N, 1 / (1 + np.exp(-odds)))


def p_values(counts):
    """(fights, tests), uncorrected, and the mean differences: as `judge` has them, see the first test of fights."""
    scores = np.stack([table[counts].mean(-1) for table in SCORES], 2)  # (fights, arms, metrics, seeds)
    apart = (scores[:, 1:] - scores[:, :1]).reshape(len(counts), -1, counts.shape[2])
    return paired_t_test(apart), apart.mean(-1)


@pytest.fixture(scope="module")
def null():
    """Fights of a baseline and three arms without any difference."""
    return sample(np.random.default_rng(0), (FIGHTS, 4, 8))


def test_tests_and_correction_by_hand():
    rng = np.random.default_rng(1)
    one, two = rng.random((2, 5, 7))
    assert paired_t_test(two - one) == pytest.approx(stats.ttest_rel(two, one, axis=1).pvalue)
    # 4 · .005, 3 · .01, 2 · .03, and .04 is no less than the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([[0.9, 0.6], [0.02, 0.04]]).tolist() == [[1, 1], [0.04, 0.04]]


@pytest.mark.parametrize(("n", "level"), [(2, 0.05), (3, 0.05), (8, 0.05 / 12)])
def test_the_smallest_difference_has_the_power(n, level):
    rng, sd = np.random.default_rng(2), 0.02
    seen = np.array([-1.0, 1.0] + [0.0] * (n - 2))
    (found,) = smallest_difference(sd * seen[None] / seen.std(ddof=1), level, 0.8)
    differences = rng.normal(found, sd, (40_000, n))
    t = differences.mean(1) / stats.sem(differences, axis=1)
    shown = (t > stats.t.isf(level / 2, n - 1)).mean()
    assert shown == pytest.approx(0.8, abs=3 * math.sqrt(0.8 * 0.2 / 40_000))


def test_no_difference_is_found_where_there_is_none(null):
    p, mean = p_values(null)
    decided = holm(p) < 0.05
    error = math.sqrt(0.05 * 0.95 / FIGHTS)
    assert (decided & (mean > 0)).any(1).mean() <= 0.05
    assert 0.01 < decided.any(1).mean() <= 0.05 + 2 * error
    # Negative control: without the correction for six tests.
    assert (p < 0.05).any(1).mean() > 0.12
    for fight in range(5):  # and `judge` has the same numbers
        results = confirmed(dict(zip("abcd", null[fight], strict=True)))
        order = np.random.default_rng(fight).permutation(len(results))
        found = judge(make_plan("abcd"), [results[i] for i in order]).comparisons
        assert [each.p for each in found] == pytest.approx(p[fight])
        assert [each.corrected for each in found] == pytest.approx(holm(p)[fight])
        assert [each.difference for each in found] == pytest.approx(mean[fight])


def test_rates_are_not_chosen_by_the_seeds_that_judge():
    """A baseline at its one rate, and an arm that is no better at any of its sixteen."""
    counts = sample(np.random.default_rng(3), (FIGHTS, 33, 5), problems=10)
    baseline, tuned, fresh = counts[:, :1], counts[:, 1:17], counts[:, 17:]
    best = tuned.mean((2, 3)).argmax(1)
    better = {}
    for name, runs in (("same", tuned), ("fresh", fresh)):
        p, mean = p_values(np.concatenate([baseline, runs[np.arange(FIGHTS), best][:, None]], 1))
        better[name] = ((holm(p) < 0.05) & (mean > 0)).any(1).mean()
    assert better["fresh"] <= 0.05
    assert better["same"] > 0.08


@pytest.mark.parametrize(("means", "wrong"), [((0, 0, 0), 0.05), ((0, 0.01, 0), 0.15)])
def test_the_choice_of_a_rate_is_no_part_of_p(means, wrong):
    """Two arms that are alike, scores of a standard deviation of .01: docs/compare.md gives both shares."""
    rng = np.random.default_rng(6)
    tuning = rng.normal(np.reshape(means, (3, 1)), 0.01, (FIGHTS, 2, 3, 3))
    mean = np.array(means)[tuning.mean(-1).argmax(-1)]  # (fights, arms), at the rates that were chosen
    scores = rng.normal(mean[..., None], 0.01, (FIGHTS, 2, 8))
    found = (paired_t_test(scores[:, 1] - scores[:, 0]) < 0.05).mean()
    assert found == pytest.approx(wrong, abs=3 * math.sqrt(wrong * (1 - wrong) / FIGHTS))


def test_power_is_as_planned():
    """One arm of three is better: the chance to find it is that of the noncentral t at Holm's level, or a bit more."""
    counts = sample(np.random.default_rng(4), (FIGHTS, 4, 8), shift=0.35)
    null = sample(np.random.default_rng(5), (FIGHTS, 4, 8))
    scores = SCORES[0][counts].mean(-1)
    apart = scores[:, 1] - scores[:, 0]
    delta, sd = apart.mean(), math.sqrt(apart.var(1, ddof=1).mean())
    power = stats.nct.sf(stats.t.isf(0.05 / 6 / 2, 7), 7, delta * math.sqrt(8) / sd)
    error = 3 * math.sqrt(power * (1 - power) / FIGHTS)
    assert 0.6 < power < 0.9
    p, _ = p_values(counts)
    assert (p[:, 0] < 0.05 / 6).mean() == pytest.approx(power, abs=error)
    found = holm(np.concatenate([p[:, :2], p_values(null)[0][:, 2:]], 1))[:, 0] < 0.05
    assert power - error <= found.mean() <= power + 0.05


def tuned(means, n=2):
    """Results of tuning: arm -> rate -> correct samples of one problem, by seed."""
    return [
        result("tuning", arm, rate, seed, [correct])
        for arm, of_arm in means.items()
        for rate, by_seed in of_arm.items()
        for seed, correct in enumerate(by_seed)
    ]


def test_rates_are_those_of_the_highest_mean():
    plan = make_plan(rates=(5e-5, 1e-4, 2e-4))
    results = tuned(
        {"dapo": {5e-5: [8, 4], 1e-4: [6, 8], 2e-4: [13, 0]}, "htpo": {5e-5: [3, 3], 1e-4: [3, 3], 2e-4: [3, 3]}}
    )
    assert choose_rates(plan, results) == {"dapo": 1e-4, "htpo": 5e-5}  # of equal ones the lower
    failed = [each | {"status": "failed", "correct": []} if each["correct"] == [8] else each for each in results]
    assert choose_rates(plan, failed)["dapo"] == 2e-4  # 6.5 of 16; 2 and 3 where a failed run is 0
    assert choose_rates(plan, results[:-1]) == {"dapo": 1e-4}  # the other is not over
    assert choose_rates(make_plan(), []) == {"dapo": 1e-4, "htpo": 1e-4}


def test_rounding_makes_no_rate_better():
    """The sum of 0, .1, 1 and .1 is that of 0, .1, .1 and 1, but for round-off."""
    plan = make_plan(["dapo"], rates=(1e-4, 2e-4), tuning=4) | {"tuning_samples": 10}
    results = [
        result("tuning", "dapo", rate, seed, [counts[seed]], judged=[10])
        for rate, counts in ((1e-4, (0, 1, 1, 10)), (2e-4, (0, 1, 10, 1)))
        for seed in range(4)
    ]
    assert choose_rates(plan, results) == {"dapo": 1e-4}


def verdicts(found):
    return [each.verdict for each in found.comparisons]


def test_a_verdict_by_hand():
    """Of one problem: differences of 2, 3, 4, 3 sixteenths in mean@16; t = 3 / (sqrt(2/3) / 2) = 7.348, 3 degrees."""
    found = judge(make_plan(confirmation=4), confirmed({"dapo": [[4], [4], [5], [3]], "htpo": [[6], [7], [9], [6]]}))
    mean, best = found.comparisons
    assert (mean.first, mean.second, mean.difference) == pytest.approx((0.25, 7 / 16, 3 / 16))
    half = 3.18245 * math.sqrt(2 / 3) / 2 / 16
    assert (mean.low, mean.high) == pytest.approx((3 / 16 - half, 3 / 16 + half), abs=1e-6)
    assert mean.p == pytest.approx(0.005217, abs=1e-5)
    assert mean.corrected == pytest.approx(2 * mean.p)
    assert (mean.verdict, best.metric, best.verdict) == ("better", "pass@8", "undecided")
    assert (
        mean.sentence
        == "htpo is better than dapo in mean@16: +0.188 [+0.106, +0.269], corrected p = 0.010, over 4 seeds."
    )
    assert best.sentence.startswith("htpo against dapo in pass@8: undecided, +0.0")
    assert best.sentence.endswith(
        f"the smallest difference that 4 seeds would have shown with power 0.8 is {best.smallest:.3f}."
    )
    seen = np.diff(SCORES[1][[[4, 6], [4, 7], [5, 9], [3, 9 - 3]]], axis=1)[:, 0]
    shown = stats.nct.sf(stats.t.isf(0.05 / 2, 3), 3, best.smallest / stats.sem(seen))
    assert shown == pytest.approx(0.8, abs=1e-6)  # one of two was decided: Holm's level is .05
    mirrored = judge(
        make_plan(("htpo", "dapo"), confirmation=4),
        confirmed({"dapo": [[4], [4], [5], [3]], "htpo": [[6], [7], [9], [6]]}),
    )
    assert verdicts(mirrored) == ["worse", "undecided"]


def test_few_seeds():
    one = judge(make_plan(confirmation=1), confirmed({"dapo": [[1]], "htpo": [[16]]}))
    assert verdicts(one) == ["untested"] * 2
    assert one.comparisons[0].sentence == "htpo against dapo in mean@16: no verdict, one seed has no test."
    two = judge(make_plan(confirmation=2), confirmed({"dapo": [[1], [4]], "htpo": [[15], [15]]}))
    assert verdicts(two) == ["undecided", "undecided"]
    assert two.comparisons[0].p == pytest.approx(2 / math.pi * math.atan(3 / 25))  # the t of one degree is Cauchy's
    assert two.comparisons[0].corrected == pytest.approx(2 * two.comparisons[0].p)
    wild = judge(make_plan(confirmation=2), confirmed({"dapo": [[1], [15]], "htpo": [[15], [1]]}))
    assert "could have shown no difference" in wild.comparisons[0].sentence
    assert (wild.comparisons[0].low, wild.comparisons[0].high) == (-1, 1)
    differences = np.array([14, -14]) / 16
    shown = stats.nct.sf(stats.t.isf(0.025 / 2, 1), 1, wild.comparisons[0].smallest / stats.sem(differences))
    assert shown == pytest.approx(0.8, abs=1e-5)  # none of two was decided


def test_runs_that_do_not_vary():
    """Equal runs are undecided; equal differences are judged by signs alone, 2 · 2/2⁸ = .016 and 2 · 2/2³ = .5."""
    same = judge(make_plan(), confirmed({"dapo": [[4]] * 8, "htpo": [[4]] * 8}))
    assert verdicts(same) == ["undecided"] * 2
    assert [each.corrected for each in same.comparisons] == [1, 1]
    assert "all 8 differences are equal" in same.comparisons[0].sentence
    eight = judge(make_plan(), confirmed({"dapo": [[4]] * 8, "htpo": [[0]] * 8}))
    assert verdicts(eight) == ["worse"] * 2
    assert eight.comparisons[0].corrected == pytest.approx(2 / 2**7)
    assert (
        verdicts(judge(make_plan(confirmation=3), confirmed({"dapo": [[4]] * 3, "htpo": [[9]] * 3})))
        == ["undecided"] * 2
    )


def test_failed_and_collapsed_runs_count():
    results = confirmed({"dapo": [[8, 8]] * 8, "htpo": [[9, 9], [3, 4], *[[8, 9]] * 6]})
    results[-1] |= {"status": "failed", "error": "RuntimeError: NaN", "problems": [], "judged": [], "correct": []}
    results.append(result("test", None, None, None, [8, 7]))
    found = judge(make_plan(), results)
    assert found.comparisons[0].second == pytest.approx((9 + 3.5 + 5 * 8.5 + 0) / 8 / 16)
    assert found.confirmation.before["mean@16"] == 7.5 / 16
    assert (
        "htpo: of 8 confirmation runs 1 failed and count as 0, 1 collapsed, to less than half of the score before."
        in found.notes
    )
    runs = found.confirmation.runs
    assert runs[runs.collapsed | runs.failed][["arm", "seed"]].to_numpy().tolist() == [["htpo", 1001], ["htpo", 1007]]
    assert "dapo" not in " ".join(found.notes)


def test_there_is_no_verdict_before_the_last_result():
    results = confirmed({"dapo": [[4]] * 8, "htpo": [[12]] * 8})
    found = judge(make_plan(), results[:-3])
    assert not found.comparisons
    assert (
        "The fight is not over: runs are missing, 3 of confirmation. There is no verdict before the last one."
        in found.notes
    )
    tuning = make_plan(rates=(1e-4, 2e-4))
    assert "runs are missing, 8 of tuning and 16 of confirmation" in judge(tuning, []).notes[0]


def test_a_rate_at_the_edge_is_told():
    plan = make_plan(("dapo", "htpo", "cispo"), rates=(5e-5, 1e-4, 2e-4), tuning=1)
    best = dict(zip(plan["arms"], plan["learning_rates"], strict=True))
    results = tuned({arm: {rate: [9 if rate == best[arm] else 1] for rate in best.values()} for arm in best})
    notes = [each for each in judge(plan, results).notes if "grid" in each]
    assert [each.split(" is the ")[0] for each in notes] == [
        "The learning rate that tuning chose for dapo, 5e-05,",
        "The learning rate that tuning chose for cispo, 0.0002,",
    ]
    assert "no lower one" in notes[0]
    assert "no higher one" in notes[1]
    assert not [
        each for each in judge(make_plan(), confirmed({"dapo": [[1]] * 8, "htpo": [[2]] * 8})).notes if "grid" in each
    ]


def test_other_rates_are_told():
    """A verdict is on arms at their rates."""
    plan = make_plan(("dapo", "htpo", "cispo"), rates=(5e-5, 1e-4), tuning=1)
    best = {"dapo": 5e-5, "htpo": 1e-4, "cispo": 5e-5}
    results = tuned({arm: {rate: [9 if rate == best[arm] else 1] for rate in (5e-5, 1e-4)} for arm in best})
    (note,) = [each for each in judge(plan, results).notes if "no part of p" in each]
    assert "that tuning chose (dapo 5e-05, htpo 0.0001)" in note


def test_a_problem_that_one_run_could_not_judge_is_left_out_of_all():
    results = confirmed({"dapo": [[4, 8, 16]] * 8, "htpo": [[4, 8, 0]] * 8})
    results[3]["judged"] = [N, N, N - 1]
    results[3]["correct"] = [4, 8, 15]
    found = judge(make_plan(), results)
    assert found.comparisons[0].first == found.comparisons[0].second == pytest.approx(6 / 16)
    assert "1 of 3 problems of confirmation are left out: a run could not judge them in full." in found.notes
    for each in results:
        each |= {"judged": [0, 0, 0], "correct": [0, 0, 0]}
    none = judge(make_plan(), results)
    assert none.comparisons[0].sentence.endswith("no verdict, no problem could be judged in all runs.")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct": [math.nan, 1]}, "no counts of 16 samples"),
        ({"correct": [17, 1]}, "no counts of 16 samples"),
        ({"correct": [1.5, 1]}, "no counts of 16 samples"),
        ({"correct": ["x", 1]}, "no counts of 16 samples"),
        ({"correct": [1]}, "no counts of 16 samples"),
        ({"problems": ["p0", "p0"]}, "no counts of 16 samples"),
        ({"problems": ["p0", "p2"]}, "not of the same problems"),
        ({"seed": 1001}, "no run of this plan, or is there twice"),
        ({"arm": "cispo"}, "no run of this plan"),
        ({"learning_rate": 2e-4}, "no run of this plan"),
    ],
)
def test_results_of_no_fight_are_refused(change, message):
    results = confirmed({"dapo": [[4, 5]] * 8, "htpo": [[4, 5]] * 8})
    results[8] |= change
    with pytest.raises(UsageError, match=message):
        judge(make_plan(), results)


def test_a_rate_that_tuning_did_not_choose_is_refused():
    plan = make_plan(rates=(1e-4, 2e-4), tuning=1, confirmation=2)
    results = tuned({arm: {1e-4: [9], 2e-4: [3]} for arm in plan["arms"]})
    runs = confirmed({arm: [[1]] * 2 for arm in plan["arms"]})
    assert len(judge(plan, results + runs).comparisons) == 2
    runs[0]["learning_rate"] = 2e-4
    with pytest.raises(
        UsageError, match=r"learning_rate=0\.0002, which the tuning of dapo has not chosen \(0\.0001\)"
    ):
        judge(plan, results + runs)


def test_of_arms_whose_runs_all_failed_there_is_no_verdict():
    """Their scores of 0 are no finding that they are alike; but an arm that fails is worse than one that works."""
    plan = make_plan(("dapo", "htpo"), (1e-4,), 0, 8)
    failed = [
        result("confirmation", arm, 1e-4, 1000 + i, [], status="failed") for arm in plan["arms"] for i in range(8)
    ]
    for each in judge(plan, failed).comparisons:
        assert each.verdict == "untested"
        assert each.sentence.endswith("no verdict, all their runs failed.")
    works = confirmed({"dapo": np.full((8, 5), 3)})
    assert {each.verdict for each in judge(plan, works + failed[8:]).comparisons} == {"worse"}
