"""
What a fight's results say, by the rule that its plan wrote down before the first run: each arm's learning rate by the
tuning seeds and the validation problems, then each arm against the first one, paired by confirmation seed, on the test
problems. Results are never dropped: a run that failed scores 0. Nothing here needs torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..evaluation.statistics import ROUND_OFF, holm, paired_t_test, pass_at_k, smallest_difference, t_intervals
from ..utils import UsageError


#: Power of the smallest difference that is told of a pair that is undecided.
POWER = 0.8
#: A run has collapsed where it scores less than this share of what the model scored before.
COLLAPSED_BELOW = 0.5


class Comparison(NamedTuple):
    """An arm minus the baseline in one metric, paired by seed; NaN where there is no test."""

    arm: str
    baseline: str
    metric: str
    seeds: int
    first: float  #: mean of the baseline
    second: float  #: mean of the arm
    difference: float
    low: float  #: 95% interval of the difference over seeds, by Student's t
    high: float
    p: float  #: of the paired t test, two-sided
    corrected: float  #: p after Holm's correction for all arms and metrics of the fight
    smallest: float  #: difference that these seeds would have shown with power 0.8; NaN where decided
    verdict: str  #: better, worse, undecided, or untested

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        pair, n = f"{self.arm} against {self.baseline} in {self.metric}", self.seeds
        if self.verdict == "untested":
            why = "no problem could be judged in all runs" if np.isnan(self.difference) else "one seed has no test"
            why = why if np.isnan(self.p) else "all their runs failed"
            return f"{pair}: no verdict, {why}."
        found = f"{self.difference:+z.3f} [{self.low:+z.3f}, {self.high:+z.3f}], corrected p {p_text(self.corrected)}"
        if self.verdict != "undecided":
            return f"{self.arm} is {self.verdict} than {self.baseline} in {self.metric}: {found}, over {n} seeds."
        could = f"the smallest difference that {n} seeds would have shown with power {POWER} is {self.smallest:.3f}"
        if np.isnan(self.smallest):
            could = f"all {n} differences are equal, which tells none that would have shown"
        elif self.smallest > 1:
            could = f"{n} seeds that differ so much could have shown no difference with power {POWER}"
        return f"{pair}: undecided, {found}; {could}."


class Phase(NamedTuple):
    """The runs of the tuning, or of the confirmation."""

    runs: pd.DataFrame  #: a row per run: arm, learning_rate, seed, failed, collapsed and its score in each metric
    metrics: list[str]  #: mean@N first; the tuning has pass@K beside it if it has so many samples
    before: dict[str, float]  #: metric -> score of the model before training; empty where it is not known
    problems: int  #: that the scores are means over
    left_out: int  #: problems that some run could not judge in full: they are left out of all
    missing: int  #: runs whose results are not there yet


class Judgement(NamedTuple):
    """What a fight's results say."""

    rates: dict[str, float]  #: arm -> learning rate that its tuning seeds chose; without arms whose tuning is not over
    tuning: Phase
    confirmation: Phase
    comparisons: list[Comparison]  #: none before the fight is over
    notes: list[str]  #: what a reader of the verdicts must know, in sentences

    @property
    def is_over(self) -> bool:
        """Whether all results are there."""
        return not self.tuning.missing + self.confirmation.missing

    @property
    def sentences(self) -> list[str]:
        """A verdict per arm and metric, or that there is none yet; then the notes."""
        return [each.sentence for each in self.comparisons] + self.notes


def choose_rates(plan: Mapping[str, Any], results: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """
    The learning rate of every arm: that of the highest mean over the tuning seeds of validation mean@N, where a failed
    run counts as 0, and the lower of equal ones. An arm whose tuning is not over is left out; one rate is not tuned.
    """
    rates = plan["learning_rates"]
    if len(rates) == 1:
        return dict.fromkeys(plan["arms"], rates[0])
    runs, (score, *_), *_ = _phase(plan, list(results), "tuning")
    chosen = {}
    for arm in plan["arms"]:
        own = runs[runs.arm == arm]
        if len(own) == len(rates) * len(plan["tuning_seeds"]):
            means = own.groupby("learning_rate")[score].mean().fillna(0)  # NaN: no problem could be judged
            chosen[arm] = float(means.index[means >= means.max() - ROUND_OFF].min())
    return chosen


def judge(plan: Mapping[str, Any], results: Iterable[Mapping[str, Any]]) -> Judgement:
    """
    Judge a fight.

    Args:
        plan (`Mapping`):
            What `plan.json` holds.
        results (`Iterable[Mapping]`):
            What `results/*.json` hold, in any order; those of runs that are still to come are absent.

    Returns:
        [`Judgement`]: without comparisons as long as a result is missing, so that nobody stops at a lucky moment.

    Raises:
        UsageError: where results are not of one fight: a run that is not planned, a rate that tuning has not chosen,
            other problems, or counts that no evaluation has.
    """
    results = list(results)
    rates = choose_rates(plan, results)
    tuning, confirmation = (_phase(plan, results, phase) for phase in ("tuning", "confirmation"))
    for run in confirmation.runs.itertuples():
        if run.learning_rate != rates.get(run.arm):
            raise UsageError(
                f"{run.name} has learning_rate={run.learning_rate:g}, which the tuning of {run.arm} has not chosen "
                f"({rates.get(run.arm, 'it is not over')}). Remove this result, and run it again."
            )
    found = Judgement(rates, tuning, confirmation, [], [])
    comparisons = compare(plan, confirmation.runs) if found.is_over else []
    return found._replace(comparisons=comparisons, notes=_notes(plan, found))


def compare(plan: Mapping[str, Any], runs: pd.DataFrame) -> list[Comparison]:
    """Every arm but the first against the first, in every metric, of confirmation runs that are all there."""
    baseline, *others = plan["arms"]
    sides = {arm: each.set_index("seed")[plan["metrics"]] for arm, each in runs.groupby("arm")}
    tests = [*product(others, plan["metrics"])]
    if not tests:
        return []
    apart = np.array([sides[arm][metric] - sides[baseline][metric] for arm, metric in tests])  # (tests, seeds)
    p = paired_t_test(apart)
    corrected = holm(p)
    decided = corrected < plan["alpha"]
    # Holm's steps end at this level: one of the undecided with a p below it would have been decided.
    smallest = smallest_difference(apart, plan["alpha"] / max(1, (~decided).sum()), POWER)
    intervals = np.array(t_intervals(apart.T)[:3]).clip(-1, 1)
    found = []
    for i, (arm, metric) in enumerate(tests):
        mean, low, high = intervals[:, i].tolist()
        first, second = (float(sides[side][metric].mean()) for side in (baseline, arm))
        has_failed = runs[runs.arm.isin([arm, baseline])].failed.all()
        verdict = "untested" if np.isnan(p[i]) or has_failed else "undecided"
        if decided[i]:
            verdict = "better" if mean > 0 else "worse"
        numbers = float(p[i]), float(corrected[i]), np.nan if decided[i] else float(smallest[i])
        row = arm, baseline, metric, apart.shape[1], first, second, mean, low, high, *numbers, verdict
        found.append(Comparison(*row))
    return found


def p_text(p: float) -> str:
    """`= 0.012`, or `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _phase(plan: Mapping[str, Any], results: Sequence[Mapping[str, Any]], phase: str) -> Phase:
    tunes = phase == "tuning"
    n = plan["tuning_samples" if tunes else "samples"]
    ks = {f"mean@{n}": 1} | {name: int(name.partition("@")[2]) for name in plan["metrics"][1:]}
    metrics = [name for name, k in ks.items() if k <= n]  # of fewer samples than K there is no pass@K
    before = "before-validation" if tunes else "before-test"
    found = [each for each in results if each["phase"] == phase or each["name"] == before]
    counts = {each["name"]: _counts(each, n) for each in found if each["status"] != "failed"}
    table = pd.DataFrame(counts)  # (problems, runs): correct samples, NaN where not all could be judged
    if any(len(each) < len(table) for each in counts.values()):
        odd = min(counts, key=lambda name: len(counts[name]))
        raise UsageError(f"{odd} is not of the same problems as other results. Remove the wrong ones.")
    judged = table.dropna().astype(int)
    rows = []
    for each in found:
        row = {key: each.get(key) for key in ("name", "arm", "learning_rate", "seed")}
        row["failed"] = each["status"] == "failed"
        for metric in metrics:
            # Of no problem there is no mean.
            row[metric] = 0.0 if row["failed"] else pd.Series(pass_at_k(n, judged[each["name"]], ks[metric])).mean()
        rows.append(row)
    runs = pd.DataFrame(rows, columns=["name", "arm", "learning_rate", "seed", "failed", *metrics])
    first: dict[Any, Any] = next(iter(runs[runs.name == before][metrics].to_dict("records")), {})
    runs = runs[runs.name != before].sort_values("seed", ignore_index=True)
    score = metrics[0]
    runs["collapsed"] = ~runs.failed & (runs[score] < COLLAPSED_BELOW * first.get(score, np.nan))
    planned = {*product(plan["arms"], plan["learning_rates"], plan[f"{phase}_seeds"])}
    seen = [*zip(runs.arm, runs.learning_rate, runs.seed, strict=True)]
    if wrong := [name for name, run in zip(runs.name, seen, strict=True) if run not in planned or seen.count(run) > 1]:
        raise UsageError(f"{wrong[0]} is no run of this plan, or is there twice. Remove its result.")
    expected = len(plan["arms"]) * len(plan["confirmation_seeds"]) if not tunes else len(planned)
    return Phase(runs, metrics, first, len(judged), len(table) - len(judged), expected - len(runs))


def _counts(result: Mapping[str, Any], n: int) -> Any:
    """Problem -> number of its `n` samples that are correct; NaN where not all were judged."""
    try:
        table = pd.DataFrame({name: result[name] for name in ("problems", "judged", "correct")})
        table = table.set_index("problems")
        in_order = (table.correct >= 0) & (table.correct <= table.judged) & (table.judged <= n)
        if not (in_order & (table % 1 == 0).all(axis=1)).all() or not table.index.is_unique:  # NaN is in no order
            raise ValueError("out of range, or problems are there twice")
    except (KeyError, TypeError, ValueError) as error:
        what = f"{result['name']} has no counts of {n} samples a problem ({error!r:.200})"
        raise UsageError(f"{what}. Remove this result, and run it again.") from None
    return table.correct.where(table.judged == n)


def _notes(plan: Mapping[str, Any], found: Judgement) -> list[str]:
    """What the verdicts leave unsaid."""
    notes, rates = [], plan["learning_rates"]
    if not found.is_over:
        missing = {"tuning": found.tuning.missing, "confirmation": found.confirmation.missing}
        runs = " and ".join(f"{n} of {phase}" for phase, n in missing.items() if n)
        notes.append(f"The fight is not over: runs are missing, {runs}. There is no verdict before the last one.")
    for rate, end, further in ((min(rates), "lowest", "lower"), (max(rates), "highest", "higher")):
        if arms := [arm for arm, chosen in found.rates.items() if chosen == rate and len(rates) > 1]:
            notes.append(
                f"The learning rate that tuning chose for {', '.join(arms)}, {rate:g}, is the {end} of the grid, "
                f"which may be too narrow: no {further} one was tried."
            )
    baseline = next(iter(plan["arms"]))
    if apart := [arm for arm, chosen in found.rates.items() if chosen != found.rates.get(baseline, chosen)]:
        at = ", ".join(f"{arm} {found.rates[arm]:g}" for arm in (baseline, *apart))
        notes.append(
            f"Arms are compared at the learning rates that tuning chose ({at}). That choice is made once, and its own "
            "chance is no part of p: of two arms that are alike one may seem better for its rate. What each arm "
            "scored at each rate stands with the tuning."
        )
    for phase, of in (("tuning", found.tuning), ("confirmation", found.confirmation)):
        for arm, own in of.runs.groupby("arm", sort=False):
            lost = {
                "failed and count as 0": own.failed,
                "collapsed, to less than half of the score before": own.collapsed,
            }
            told = [f"{runs.sum()} {what}" for what, runs in lost.items() if runs.any()]
            notes += [f"{arm}: of {len(own)} {phase} runs {', '.join(told)}."] if told else []
        if of.left_out:
            all_of = of.left_out + of.problems
            notes.append(
                f"{of.left_out} of {all_of} problems of {phase} are left out: a run could not judge them in full."
            )
    if len(found.confirmation.runs) and not found.confirmation.before:
        notes.append("What the model scored before is not known, hence neither whether a run collapsed.")
    return notes
