"""The laptop main job: a small Qwen3 that has seen searches learns countdown by HTPO, in three minutes on two cores.

Nothing is downloaded. The warm start is the package's, or a fresh one, which depends on the seed alone and is kept
beside the runs: objectives are compared from the same model. The reinforcement is the recipe `laptop`, and leaves what
`htpo train` leaves.
"""

import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils.benchmark import Timer
from transformers import Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from ..data import load
from ..data.countdown import countdown_reward
from ..evaluation import Sampling, compare, comparison_table, evaluate
from ..objective.presets import PRESETS
from ..objective.selections import check_choice
from ..output.directory import overwrite
from ..output.lock import held
from ..output.reading import read_json
from ..output.writing import check_writable, write_json
from ..report import require_matplotlib, write_report
from ..scripts.arguments import load_recipe
from ..scripts.htpo import build, finish, parse
from ..tokens import write_token_map
from ..training.console import ConsoleLog
from ..utils import UsageError, check_numbers, option
from .warm_start import Progress, build_model, build_tokenizer, row, warm_start


#: What compares two objectives over seeds.
COMPARISON = "compare --config laptop --objectives dapo htpo --output_dir runs/fight"
#: Of each objective, by its default.
SEEDS = 8
#: Validation mean@16. Below this, RL has too little to learn from: a warm start of .13 hardly improved, one of .26
#: always did.
MIN_WARM_START_ACCURACY = 0.22


@dataclass
class LaptopConfig:
    """Settings of the main job; `quick` shrinks everything to a smoke run of the same code."""

    objective: str = option("htpo", "A preset: htpo, dapo, cispo, ...", choices=PRESETS)
    seed: int = option(0, "Seed of the reinforcement, and of a fresh warm start.")
    steps: int = option(160, "Optimizer steps of reinforcement.")
    samples: int = option(16, "Samples of each held-out problem, before and after.")
    warm_start: str = option(
        "packaged", "'packaged', or 'fresh': made anew, which takes minutes, and kept.", choices=("packaged", "fresh")
    )
    warm_start_steps: int = option(2000, "Supervised steps of a fresh warm start.")
    output_dir: str = option("runs/laptop", "Where runs and warm starts are kept.")
    threads: int | None = option(None, "CPU threads; by default one or two, whichever is faster now.")
    quick: bool = option(False, "A smoke run: a few steps of everything, learns nothing.")

    RANGES = {"[1, inf)": ("steps", "samples", "warm_start_steps", "threads"), "[0, 4294967295]": ("seed",)}

    def __post_init__(self) -> None:
        require_matplotlib()  # before the work, so that it does not fail after it
        check_numbers(self, self.RANGES)
        check_choice("LaptopConfig", "objective", self.objective, tuple(PRESETS))
        check_choice("LaptopConfig", "warm_start", self.warm_start, ("packaged", "fresh"))
        check_writable("output_dir", self.output_dir)
        if self.warm_start == "packaged" and self.warm_start_steps != type(self).warm_start_steps:
            raise UsageError(
                f"warm_start_steps={self.warm_start_steps} has no effect on the packaged warm start: set "
                "--warm_start fresh, or leave it out."
            )
        if self.quick:
            self.steps = min(self.steps, 4)
        if self.quick and self.warm_start == "fresh":
            self.warm_start_steps = min(self.warm_start_steps, 8)


def prepare(config: LaptopConfig, directory: Path) -> list[float]:
    """
    The warm start, continued by half its steps, twice at most, while it is too weak by the validation problems: with
    some seeds the model plays at random for longer before it begins to aim. Returns the loss of every step.
    """
    model, losses = None, list[float]()
    for extension in range(3):
        steps = config.warm_start_steps if extension == 0 else -(-config.warm_start_steps // 2)
        losses += warm_start(directory, config.seed + 1000 * extension, steps, model)
        model = Qwen3ForCausalLM.from_pretrained(directory)
        with TemporaryDirectory() as results:
            summary = measure((model, build_tokenizer()), "validation", 16, results, config.quick)
        accuracy = summary["metrics"]["mean@16"]["mean"]
        print(f"Validation mean@16: {accuracy:.3f}; reinforcement needs {MIN_WARM_START_ACCURACY}.")
        if accuracy >= MIN_WARM_START_ACCURACY or config.quick:
            return losses
    raise UsageError(
        f"The warm start reached a validation mean@16 of {accuracy:.3f}, below {MIN_WARM_START_ACCURACY}: too weak "
        "for reinforcement to learn from. Raise --warm_start_steps or try another --seed."
    )


def measure(model: Any, part: str, samples: int, directory: str | Path, quick: bool) -> dict[str, Any]:
    """Evaluate (model, tokenizer) on a part of countdown; returns the summary of what it wrote to `directory`."""
    problems = load("countdown", split=part)
    benchmarks = {"countdown": problems.take(8) if quick else problems}
    sampling = Sampling(samples, top_p=1.0, max_new_tokens=64, batch_size=512)
    with redirect_stdout(None):  # the table; the bar stays
        return evaluate(model, benchmarks, directory, sampling, countdown_reward)["countdown"]


def choose_threads() -> int:
    """
    One thread or two, whichever is faster now: the second helps on an idle machine, and on a busy one it makes
    everything several times slower.
    """
    step, names = "model(ids, labels=ids).loss.backward()", {"model": build_model(), "ids": torch.full((64, 40), 5)}
    one, two = (Timer(step, globals=names, num_threads=threads).timeit(5).mean for threads in (1, 2))
    return 2 if two < 0.9 * one else 1


def run(config: LaptopConfig) -> Path:
    """The main job from nothing to the report. Returns the directory of the run."""
    directory = Path(config.output_dir, f"{config.objective}-seed{config.seed}")
    with held(directory, "htpo demo"):
        _run(config, directory)
    return directory


def _run(config: LaptopConfig, directory: Path) -> None:
    disable_progress_bar()  # of loading and saving; those of training and evaluation stay
    warnings.simplefilter("ignore", FutureWarning)  # deprecations within TRL and transformers are not the reader's
    threads = config.threads or choose_threads()
    torch.set_num_threads(threads)
    started = time.perf_counter()

    recipe = load_recipe("laptop")[1]
    is_fresh = config.warm_start == "fresh"
    print(
        f"Countdown on a laptop: objective {config.objective}, seed {config.seed}, {threads} thread(s). About 3 "
        f"minutes{', and 6 for a warm start that is not there yet' * is_fresh}. Results go to {directory}"
        f"{', in place of those that are there' * (directory / 'settings.json').exists()}."
    )
    print("The task is to reach a number from three others, as in 2,5,9>43:5*9=45,45-2=43! Answers are checked.")
    print(f"\n[1/5] Supervised warm start: {'' if is_fresh else 'the package has one'}", flush=True)
    model = str(_fresh(config)) if is_fresh else recipe["model_name_or_path"]

    overwrite(directory)  # an earlier run, perhaps from another warm start, or one that was stopped
    for name in ("evaluation", "tokens", "report"):
        shutil.rmtree(directory / name, ignore_errors=True)
    # Evaluation is a phase of its own.
    options = {name: value for name, value in recipe.items() if not name.startswith("eval_")} | {
        "model_name_or_path": model,
        "output_dir": str(directory),
        "objective": config.objective,
        "seed": config.seed,
        "max_steps": config.steps,
        "record_tokens_steps": max(config.steps // 4, 1),
        "save_strategy": "no",
    }
    trainer = build(*parse([], options))
    trainer.remove_callback(ConsoleLog)
    trainer.add_callback(Progress())
    before, after = (directory / "evaluation" / f"step-{step}" for step in (0, config.steps))

    def evaluate_policy(results: Path) -> None:
        subject = trainer.model, trainer.processing_class
        summary = measure(subject, "test", config.samples, results, config.quick)
        mean = summary["metrics"][f"mean@{config.samples}"]["mean"]
        print(row("held-out", mean), flush=True)

    print(f"\n[2/5] Before: held-out problems, {config.samples} samples each", flush=True)
    evaluate_policy(before)
    print(f"\n[3/5] Reinforcement by {config.objective}, {config.steps} optimizer steps of 64 completions", flush=True)
    began = time.perf_counter()
    trainer.train()
    finish(trainer, None)
    print("\n[4/5] After: the same problems", flush=True)
    evaluate_policy(after)
    trainer.create_model_card()  # once more, with the evaluation
    print("\n[5/5] Report", flush=True)
    print(f"\n{comparison_table(compare(before, after))}\n\nfirst: before, second: after the reinforcement")
    print(f"In all: {time.perf_counter() - started:.0f} s.")
    print("\nWhat to look at next:")
    print(f"- report, curves and tables: {_page(write_report, [directory], directory / 'report')}")
    print(f"- token map, each token by its rule, as a page: {_page(write_token_map, directory)}")
    print(f"- two objectives compared: {_program()} {COMPARISON}")
    minutes = 2 * SEEDS * (time.perf_counter() - began) / 60
    print(
        "This was one seed, which proves little; `htpo compare --config laptop`, as above, runs the fight: "
        f"{SEEDS} seeds each, some {minutes:.0f} minutes here."
    )


def _fresh(config: LaptopConfig) -> Path:
    """The warm start of the seed, made unless it is there."""
    directory = Path(config.output_dir, f"warm_start-seed{config.seed}")
    settings = {"seed": config.seed, "steps": config.warm_start_steps}
    stamp = directory / "warm_start.json"
    if stamp.exists() and read_json(stamp) == settings:
        print(f"found in {directory}", flush=True)
        return directory
    print(f"{config.warm_start_steps} steps on sloppy searches", flush=True)
    with held(directory, "htpo demo"):  # which several objectives share
        stamp.unlink(missing_ok=True)
        prepare(config, directory)
        write_json(stamp, settings)  # last: its presence says that the warm start is whole
    return directory


def _program() -> str:
    """How the command is called here: by its name, or by its path where that is not in PATH."""
    return "htpo" if shutil.which("htpo") else os.path.relpath(Path(sys.executable).with_name("htpo"))


def _page(write: Callable[..., Path], *args: Any) -> Path | str:
    """Where it is, or why it could not be written: the run is complete without it."""
    try:
        return write(*args)
    except Exception as error:
        return f"none: {error if isinstance(error, UsageError) else repr(error)} The run is complete."
