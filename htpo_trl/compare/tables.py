"""A fight as its plan and its results tell it, in sentences and tables: for the page, and as Markdown."""

import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ..output.terminal import printable
from ..report.estimates import Outline, estimate, interval_text
from ..utils import markdown_table
from .judgement import POWER, Judgement, judge, p_text
from .plan import PLAN, listed
from .results import read_plan, read_results


class Outcome(NamedTuple):
    """A fight as its directory tells it."""

    plan: Mapping[str, Any]
    digest: str  #: sha256 of the plan's file, which stands in every result
    results: Sequence[Mapping[str, Any]]
    judgement: Judgement

    def of(self, phase: str, arm: str) -> list[Mapping[str, Any]]:
        """Results of an arm in a phase."""
        return [each for each in self.results if (each["phase"], each["arm"]) == (phase, arm)]


class ResultTable(NamedTuple):
    """Header and rows, of text in the first columns; `None` is a dash."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    text_columns: int = 1


#: A section's outline, and its paragraphs and tables.
Section = tuple[Outline, list[str | ResultTable]]


def read_outcome(output_dir: str | Path) -> Outcome:
    """Read and judge a fight; a [`UsageError`] names a file that is broken, or of another plan."""
    plan, digest = read_plan(Path(output_dir, PLAN))
    found = [*read_results(Path(output_dir), digest).values()]
    return Outcome(plan, digest, found, judge(plan, found))


def markdown(outcome: Outcome) -> str:
    """The sections as Markdown."""
    parts = []
    for outline, blocks in sections(outcome):
        texts = []
        for block in blocks:
            if isinstance(block, str):
                texts.append(_escaped(block))
            else:
                rows = [["–" if cell is None else _escaped(str(cell)) for cell in row] for row in block.rows]
                texts.append(markdown_table([*map(_escaped, block.header)], rows))
        parts += [f"### {outline.heading}", *texts]
    return "\n\n".join(parts)


def _escaped(text: str) -> str:
    """Text of a stranger in Markdown: no tags, no entities, and no cell ends within."""
    text = re.sub(r"&(?=[#\w]+;)", "&amp;", printable(" ".join(text.split())))
    return re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", text).replace("|", "\\|")


def sections(outcome: Outcome) -> list[Section]:
    """Verdicts first, then what they rest on."""
    found = outcome.judgement
    made: list[tuple[str, str, list[str | ResultTable]]] = [
        ("verdicts", "Verdicts", [*found.sentences]),
        ("plan", "The plan", _plan(outcome)),
        ("arms", "Arms on the test problems", _arms(outcome)),
        ("differences", "Paired differences", _differences(outcome)),
        ("tuning", "Learning rates", _tuning(outcome)),
        ("touched", "Tokens that a rule touched", _touched(outcome)),
        ("cost", "Cost", _cost(outcome)),
        ("losses", "Failed runs", _failures(outcome)),
    ]
    return [(Outline(name, heading), blocks) for name, heading, blocks in made if blocks]


def _arms(outcome: Outcome) -> list[str | ResultTable]:
    plan, (rates, _, phase, *_) = outcome.plan, outcome.judgement
    metrics = plan["metrics"]
    rows: list[Sequence[Any]] = []
    if phase.before:
        rows.append(
            ["before training", *[None] * 4, *(f"{phase.before[metric]:.3f}" for metric in metrics), None, None]
        )
    for arm in plan["arms"]:
        runs, results = phase.runs[phase.runs.arm == arm], outcome.of("confirmation", arm)
        # Before the end there is nothing of the test to look at.
        scores = estimate(runs[metrics], "seeds", (0, 1)).to_dict("index") if outcome.judgement.is_over else {}
        results = results if outcome.judgement.is_over else []
        rows.append(
            [
                *(
                    arm,
                    f"{rates[arm]:g}" if arm in rates else None,
                    len(runs),
                    runs.failed.sum(),
                    runs.collapsed.sum() if outcome.judgement.is_over else None,
                ),
                *(interval_text(scores.get(metric)) for metric in metrics),
                *(_mean(results, "mean_tokens", "{:.1f}"), _mean(results, "truncated", "{:.1%}")),
            ]
        )
    header = ("arm", "learning rate", "runs", "failed", "collapsed", *metrics, "tokens per sample", "truncated")
    return [
        f"Means over confirmation seeds with 95% intervals, Student's t, of {phase.problems} test problems with "
        f"{plan['samples']} samples each; of two seeds, both. A failed run counts as 0.",
        ResultTable(header, rows),
    ]


def _differences(outcome: Outcome) -> list[str | ResultTable]:
    baseline = next(iter(outcome.plan["arms"]))
    header = ("arm", "metric", "verdict", baseline, "the arm", "difference", "95% interval", "p", "corrected p")
    rows = []
    for each in outcome.judgement.comparisons:
        means = f"{each.first:.3f}", f"{each.second:.3f}", f"{each.difference:+z.3f}"
        interval = None if pd.isna(each.low) else f"[{each.low:+z.3f}, {each.high:+z.3f}]"
        p = (None if pd.isna(p) else p_text(p).removeprefix("= ") for p in (each.p, each.corrected))
        smallest = None if pd.isna(each.smallest) else f"{each.smallest:.3f}" if each.smallest <= 1 else "none"
        rows.append((each.arm, each.metric, each.verdict, *means, interval, *p, smallest))
    text = (
        f"Each arm minus {baseline}, paired by confirmation seed. p: of the paired t test, two-sided, and corrected "
        "by Holm for all arms and metrics; intervals are not. Last column: the smallest difference that so many "
        f"seeds, as they vary, would have shown with power {POWER}."
    )
    return [text, ResultTable((*header, "could show"), rows, 3)] if rows else []


def _tuning(outcome: Outcome) -> list[str | ResultTable]:
    rates, (runs, metrics, *_) = outcome.plan["learning_rates"], outcome.judgement.tuning
    if len(rates) == 1:
        return [f"All arms have the learning rate {rates[0]:g}: none was tuned."]
    rows = []
    for arm, metric in product(outcome.plan["arms"], metrics):
        tried = [runs[(runs.arm == arm) & (runs.learning_rate == rate)][[metric]] for rate in rates]
        cells = (interval_text(estimate(each, "seeds", (0, 1)).loc[metric].to_dict()) for each in tried)
        chosen = outcome.judgement.rates.get(arm)
        rows.append((arm, metric, None if chosen is None else f"{chosen:g}", *cells))
    seeds = ", ".join(map(str, outcome.plan["tuning_seeds"]))
    text = f"On the validation problems by learning rate, chosen by {metrics[0]}; tuning seeds {seeds}."
    return [text, ResultTable(("arm", "metric", "chosen", *(f"{rate:g}" for rate in rates)), rows, 2)]


def _touched(outcome: Outcome) -> list[str | ResultTable]:
    shares = {
        arm: [each.get("touched") or {} for each in outcome.of("confirmation", arm)] for arm in outcome.plan["arms"]
    }
    table = pd.DataFrame({arm: pd.DataFrame(each).mean() for arm, each in shares.items()})  # (effects, arms)
    rows = [(arm, *(None if pd.isna(share) else f"{share:.3%}" for share in each)) for arm, each in table.items()]
    text = "Share of the trained tokens whose objective a rule really changed, over plain PPO-clip; means over seeds."
    return [text, ResultTable(("arm", *(name.replace("_", " ") for name in table.index)), rows)] if len(table) else []


def _cost(outcome: Outcome) -> list[str | ResultTable]:
    rows = [
        (arm, phase, len(runs), _mean(runs, "seconds", "{:.0f}"), _mean(runs, "train_tokens", "{:,.0f}"))
        for arm, phase in product(outcome.plan["arms"], ("tuning", "confirmation"))
        if (runs := outcome.of(phase, arm))
    ]
    seconds, tokens = (sum(each.get(name) or 0 for each in outcome.results) for name in ("seconds", "train_tokens"))
    text = f"In all {seconds / 60:,.0f} minutes of optimizer steps, evaluations apart, and {tokens:,} training tokens."
    return [text, ResultTable(("arm", "phase", "runs", "seconds per run", "tokens per run"), rows, 2)] if rows else []


def _plan(outcome: Outcome) -> list[str | ResultTable]:
    plan = outcome.plan
    rows: list[Sequence[str | None]] = [(f"arm {arm}", listed(each["options"])) for arm, each in plan["arms"].items()]
    rows += [
        ("learning rates", ", ".join(f"{rate:g}" for rate in plan["learning_rates"])),
        ("tuning seeds", ", ".join(map(str, plan["tuning_seeds"])) or None),
        ("confirmation seeds", ", ".join(map(str, plan["confirmation_seeds"]))),
        *((f"{part} problems", listed(each)) for part, each in plan["problems"].items()),
        ("model", listed(plan["model"])),
        ("digest of the plan", outcome.digest),
    ]
    versions = pd.DataFrame([each.get("versions") or {} for each in outcome.results])
    told = ", ".join(
        f"{name} {' | '.join(map(str, sorted(each.dropna().unique())))}" for name, each in versions.items()
    )
    about = (
        f"Written before the first run; its digest is in every result. Runs were made with {told or 'nothing told'}."
    )
    return [ResultTable(("part", "what it says"), rows, 2), " ".join(plan["rule"]), about]


def _failures(outcome: Outcome) -> list[str | ResultTable]:
    rows = [(each["name"], each.get("error")) for each in outcome.results if each["status"] == "failed"]
    return [ResultTable(("run", "its last line"), rows, 2)] if rows else []


def _mean(results: Sequence[Mapping[str, Any]], name: str, form: str) -> str | None:
    """The mean of what finished runs tell."""
    found = [float(each[name]) for each in results if each.get(name) is not None and each["status"] != "failed"]
    return form.format(sum(found) / len(found)) if found else None
