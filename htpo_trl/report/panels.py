"""Which metrics of the log a report draws, in which pictures, and why one may be missing."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from ..objective.table import EFFECTS, GROUPS
from ..palette import group_label
from ..verifier import Verdict
from .runs import TOKENS_PER_SECOND, Run
from .sets import RunSet


class Metric(NamedTuple):
    """A metric of the log and its panel."""

    key: str
    title: str
    unit: str
    scale: float = 1.0  # of the logged value in the picture and the table
    bounds: tuple[float | None, float | None] = (0, None)
    optional: bool = False  # no panel where no run logs it
    decimals: int = 3  # in tables

    @property
    def label(self) -> str:
        """Title and unit, for tables."""
        return self.title if self.unit.lower() in self.title.lower() else f"{self.title} ({self.unit})"


class Curves(NamedTuple):
    """A picture of curves over steps; its name is that of the file and of the anchor."""

    name: str
    heading: str
    caption: str
    metrics: Sequence[Metric]


def _percent(key: str, title: str, of: str = "tokens", optional: bool = False) -> Metric:
    return Metric(key, title, f"% of {of}", 100, (0, 100), optional, 1)


#: Reward and what it is made of.
LEARNING = Curves(
    "learning",
    "Learning curves",
    "Reward and what it is made of, on training batches.",
    (
        Metric("reward", "Mean reward", "reward", 1, (None, None)),
        _percent("htpo/accuracy", "Correct responses", "judged responses"),
        _percent("htpo/frac_hard", "Hard prompts", "prompts"),
        _percent("frac_reward_zero_std", "Groups whose rewards are all equal", "groups"),
        Metric("loss", "Loss", "loss", 1, (None, None)),
        Metric("grad_norm", "Gradient norm, before clipping", "norm"),
        Metric("learning_rate", "Learning rate", "learning rate", optional=True),
        Metric("kl", "KL to the reference model", "nats", 1, (None, None), optional=True),
        Metric("eval_reward", "Mean reward on the trainer's evaluation data", "reward", 1, (None, None), True),
    ),
)
#: Entropy, overall and by group.
ENTROPY = Curves(
    "entropy",
    "Entropy, overall and by group",
    "Mean entropy of the next-token distribution, of all tokens and within each group. A group without tokens at a "
    "step has no entropy there: a gap.",
    (
        Metric("entropy", "Entropy of all tokens", "nats"),
        *(Metric(f"htpo/entropy/{group}", group_label(group), "nats") for group in GROUPS),
    ),
)
#: Tokens that each rule touched.
RULES = Curves(
    "rules",
    "Tokens that a rule touched",
    "Share of the trained tokens whose objective a rule of the table really changed, over plain PPO-clip.",
    tuple(_percent(f"htpo/special/{effect}", effect.replace("_", " ")) for effect in EFFECTS),
)
#: Clip fractions, true and as TRL counts them.
CLIPPING = Curves(
    "clipping",
    "Clip fractions",
    "Upper row: tokens that plain PPO-clip would clip. Lower row: those that TRL's loss clipped; it does not count "
    "tokens whose gradient a rule kept.",
    (
        _percent("htpo/clip_ratio/low", "Ratio below the clip range"),
        _percent("htpo/clip_ratio/high", "Ratio above the clip range"),
        _percent("clip_ratio/low_mean", "Clipped by the loss, below"),
        _percent("clip_ratio/high_mean", "Clipped by the loss, above"),
    ),
)
#: Lengths and truncation.
LENGTHS = Curves(
    "lengths",
    "Lengths and truncation",
    "Completions generated for training. Truncated: cut off at max_completion_length.",
    (
        Metric("completions/mean_length", "Mean length", "tokens", decimals=1),
        Metric("completions/mean_terminated_length", "Mean length of those not truncated", "tokens"),
        Metric("completions/max_length", "Longest", "tokens"),
        _percent("completions/clipped_ratio", "Truncated", "completions"),
    ),
)
#: Cost of dynamic sampling.
SAMPLING = Curves(
    "sampling",
    "Cost of dynamic sampling",
    "What it took to fill a batch with informative groups: their responses are neither all correct nor all wrong.",
    (
        Metric("htpo/sampling/generated_per_trained", "Generated per trained completion", "completions"),
        Metric("htpo/sampling/rounds", "Rounds of generation", "rounds per batch"),
        Metric("htpo/sampling/seconds", "Time of generating and judging", "seconds per batch"),
        _percent("htpo/sampling/frac_informative", "Informative groups", "generated groups"),
        _percent("htpo/sampling/frac_all_correct", "All responses correct", "generated groups"),
        _percent("htpo/sampling/frac_all_wrong", "All responses wrong", "generated groups"),
        _percent("htpo/sampling/frac_filled", "Trained groups that are not informative", "trained groups"),
    ),
)
#: Tokens per second and time of a step.
THROUGHPUT = Curves(
    "throughput",
    "Throughput",
    "Tokens per second: prompt and completion tokens between two logged num_tokens, all processes together, over the "
    "step_time of the steps between them; evaluations and checkpoints are outside the step time.",
    (
        Metric(TOKENS_PER_SECOND, "Tokens per second", "tokens per second", decimals=0),
        Metric("step_time", "Time of an optimizer step", "seconds"),
    ),
)
#: Metrics whose final values are compared.
FINAL = (
    *LEARNING.metrics[:3],
    ENTROPY.metrics[0],
    LENGTHS.metrics[0],
    LENGTHS.metrics[3],
    *SAMPLING.metrics[:1],
    *THROUGHPUT.metrics,
)


def training_verdicts(sets: Sequence[RunSet]) -> Curves:
    """The verdicts that reward functions logged, `<reward>/<verdict>`."""
    pattern = re.compile(rf"(?!eval_)(.+)/({'|'.join(Verdict)})")
    names = {name for _, runs in sets for run in runs for row in run.log for name in row}
    rewards = sorted({match[1] for name in names if (match := pattern.fullmatch(name))})
    return Curves(
        "verdicts",
        "Verifier verdicts in training",
        "Share of the completions of each batch that got each verdict. Timed out and crashed count as wrong.",
        tuple(
            _percent(f"{reward}/{verdict}", f"{reward}: {verdict.replace('_', ' ')}", "completions")
            for reward in rewards or ["math_reward"]
            for verdict in Verdict
        ),
    )


def why_missing(runs: Sequence[Run], key: str) -> str:
    """Why no band could be drawn for a set of runs, as far as the runs tell."""
    names = {name for run in runs for row in run.log for name in row}
    if not names:
        return "no training log"
    if key in names:
        return "no values at a step that two runs share" if len(runs) > 1 else "no finite value"
    if key.startswith("htpo/") and not any(name.startswith("htpo/") for name in names):
        return "plain GRPO run"
    if key.startswith("htpo/sampling/") and all(
        run.options is not None and not run.options.get("dynamic_sampling") for run in runs
    ):
        return "dynamic sampling is off"
    if re.search(rf"/({'|'.join(Verdict)})$", key):
        return "its rewards log no verdicts"
    return "not in the log"
