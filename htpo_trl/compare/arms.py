"""The arms of a fight, and what its command may not mean: from the command line alone, before anything is read."""

import hashlib
import re
from argparse import Namespace
from collections.abc import Sequence
from itertools import product

from ..output.writing import check_writable
from ..scripts.flags import flags_of
from ..scripts.htpo import TITLES
from ..utils import UsageError, nearest


#: The first of the confirmation seeds; tuning seeds count from 0.
FIRST_CONFIRMATION_SEED = 1000
#: Options of `htpo train` that a fight sets for each run → what to say of them in its command.
OWN = {
    "objective": "Name it in --objectives.",
    "learning_rate": "Name it in --learning_rates.",
    "seed": "Say how many by --seeds and --confirm_seeds.",
    "data_seed": "The order of the data is that of the seed.",
    "eval_benchmarks": "Name the problems by --validation and --test.",
    "eval_num_samples": "Say how many by --samples and --tuning_samples.",
    "eval_steps": "Runs are evaluated at their last step.",
    "eval_strategy": "Runs are evaluated at their last step.",
    "eval_before_training": "The model is evaluated once, for all runs.",
    "resume_from_checkpoint": "The same command goes on.",
    "overwrite_output_dir": "Name another --output_dir.",
    "push_to_hub": "Push the run that is worth it, by `hf upload`.",
}
#: What differs between runs of one arm, or between machines.
NOT_COMPARED = {
    *(OWN.keys() - {"objective"}),
    *("output_dir", "use_cpu", "disable_tqdm", "run_name", "logging_dir", "local_rank", "project"),
    "dataloader_pin_memory",  # off by itself where there is no GPU
}
#: Options of a run that the test goes by, where the second is not set.
OF_TEST = {
    "correctness_reward": "eval_judge",
    "correctness_threshold": "eval_judge",
    "max_completion_length": "eval_max_new_tokens",
    "chat_template_kwargs": None,
}


_HIGHEST = {
    "seeds": FIRST_CONFIRMATION_SEED,
    **dict.fromkeys(("confirm_seeds", "samples", "tuning_samples", "jobs"), 10**6),
}


def read_arms(objectives: Sequence[str] | None, vary: Sequence[str] | None) -> dict[str, dict[str, str]]:
    """Name → options of each arm: the product of the objectives and of what is varied, `FIELD=A,B`."""
    choices = {"objective": [*objectives]} if objectives else {}
    flags = flags_of(TITLES)
    known = [name for name, flag in flags.items() if flag.owner.endswith(("Config", "TrainingArguments"))]
    known = [name for name in known if name not in NOT_COMPARED and not flags[name].owner.endswith("ModelConfig")]
    for text in vary or ():
        name, _, listed = text.partition("=")
        if name in OWN:
            raise UsageError(f"--vary {text}: {name} is no field to vary. {OWN[name]}")
        if name not in known:
            raise UsageError(f"--vary {text}: {nearest(name, known)}{name!r} is no option of HTPOConfig to vary.")
        if name in choices:
            raise UsageError(f"--vary {text}: {name} is varied twice. Name all its values once: {name}=A,B.")
        choices[name] = _values(listed)
        if len(choices[name]) < 2:
            raise UsageError(f"--vary {text} must name two values or more: {name}=A,B.")
    for name, values in choices.items():
        if len({*values}) < len(values):
            raise UsageError(f"{name}: {', '.join(values)} name one value twice.")
    arms = {}
    for chosen in product(*choices.values()):
        options = dict(zip(choices, chosen, strict=True))
        words = [v.rpartition(":")[2] if name == "objective" else f"{name}-{v}" for name, v in options.items()]
        name = re.sub(r"[^\w.+-]+", "-", "-".join(words)).strip("-.")
        if len(name) > 60 or name in arms:
            name = f"{name[:50]}-{hashlib.sha256(repr(chosen).encode()).hexdigest()[:6]}"
        arms[name] = options
    if len(arms) < 2:
        raise UsageError("There is nothing to compare: name two --objectives or more, or --vary FIELD=A,B.")
    return arms


def _values(text: str) -> list[str]:
    """What stands between commas, but for those within the brackets of JSON."""
    values, depth = [""], 0
    for character in text:
        depth += (character in "{[") - (character in "}]")
        if character == "," and not depth:
            values.append("")
        else:
            values[-1] += character
    return [value for value in map(str.strip, values) if value]


def check_arguments(args: Namespace, tokens: Sequence[str]) -> None:
    """Refuse, in one line, what the command cannot mean; nothing is read for it."""
    for token in tokens:
        name = token[2:].partition("=")[0].replace("-", "_").removeprefix("no_")
        if token.startswith("--") and name in OWN:
            raise UsageError(f"--{name} is set for each run of a fight. {OWN[name]}")
    check_writable("output_dir", args.output_dir)
    for name, high in _HIGHEST.items():
        value = getattr(args, name)
        if value is not None and not 1 <= value <= high:
            raise UsageError(f"--{name} {value} must lie in 1..{high}.")
    rates = args.learning_rates or []
    for name in ("seeds", "validation", "tuning_samples") if len(rates) < 2 else ():
        if (value := getattr(args, name)) is not None:
            raise UsageError(
                f"--{name} {value}: one rate is not tuned. Name several --learning_rates, or leave it out."
            )
    if len({f"{rate:g}" for rate in rates}) < len(rates):
        raise UsageError(f"--learning_rates {' '.join(map(str, rates))} name one rate twice.")
    if not all(0 < rate < 1 for rate in rates):
        raise UsageError(f"--learning_rates {' '.join(map(str, rates))} must lie between 0 and 1.")
