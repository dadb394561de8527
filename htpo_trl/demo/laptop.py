"""The laptop main job: a small Qwen3 learns countdown, by a supervised warm start and then by HTPO, on two CPU cores.

Everything is made on the spot (task, tokenizer, model), so nothing is downloaded. The warm start depends on the seed
alone and is kept beside the runs, so that objectives are compared from the same model.
"""

import json
import random
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, ProgressCallback, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from ..config import HTPOConfig
from ..data.countdown import Problem, countdown_reward, is_solution, problems
from ..evaluation.statistics import mean_with_interval, pass_at_k
from ..tokens.callback import TokenRecorder
from ..tokens.token_map import write_token_map
from ..trainer import HTPOTrainer
from .warm_start import CPU_ARGUMENTS, Progress, build_model, build_tokenizer, save, warm_start


#: Tokens per completion.
MAX_NEW_TOKENS = 64
#: Samples per problem, before and after.
SAMPLES = 64
#: Validation mean@16. Below this, RL has too little to learn from: a warm start of .13 hardly improved, one of .26
#: always did.
MIN_WARM_START_ACCURACY = 0.22
#: Of a warm start that is too weak.
MAX_EXTENSIONS = 2


@dataclass
class LaptopConfig:
    """Settings of the main job; `quick` shrinks everything to a smoke run of the same code."""

    objective: str = "htpo"
    seed: int = 0
    steps: int = 160
    warm_start_steps: int = 2000
    output_dir: str = "runs/laptop"
    threads: int | None = None
    quick: bool = False

    def __post_init__(self) -> None:
        if self.quick:
            self.steps, self.warm_start_steps = min(self.steps, 4), min(self.warm_start_steps, 8)
        for name in ("steps", "warm_start_steps", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")


def evaluate(model, tokenizer, tasks: list[Problem], n: int, desc: str, seed: int = 0) -> list[int]:
    """Number of correct among `n` samples at temperature 1, for every problem. Leaves the random state as it was."""
    rng = random.Random(0)  # the order of the numbers belongs to the problem: the same for every model
    prompts = [problem.prompt(rng) for problem in tasks]
    verdicts: list[bool] = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        rows = [prompt for prompt in prompts for _ in range(n)]
        batch_size = 512
        for start in tqdm(range(0, len(rows), batch_size), desc=desc, unit="batch"):
            batch = rows[start : start + batch_size]
            encoded = tokenizer(batch, return_tensors="pt", return_token_type_ids=False)
            output = model.generate(
                **encoded, max_new_tokens=MAX_NEW_TOKENS, do_sample=True, temperature=1.0, top_k=0, top_p=1.0
            )
            texts = tokenizer.batch_decode(output[:, encoded.input_ids.shape[1] :], skip_special_tokens=True)
            verdicts += map(is_solution, batch, texts)
    return [sum(verdicts[i : i + n]) for i in range(0, len(verdicts), n)]


def prepare(config: LaptopConfig, directory: Path) -> None:
    """
    The warm start, continued by half its steps, twice at most, while it is too weak by the validation problems: with
    some seeds the model plays at random for longer before it begins to aim.
    """
    model = None
    tasks = problems("validation")[: 8 if config.quick else None]
    for extension in range(1 + MAX_EXTENSIONS):
        steps = config.warm_start_steps if extension == 0 else -(-config.warm_start_steps // 2)
        warm_start(directory, config.seed + 1000 * extension, steps, model)
        model = Qwen3ForCausalLM.from_pretrained(directory)
        accuracy = sum(evaluate(model, build_tokenizer(), tasks, 16, "validation")) / (16 * len(tasks))
        print(f"Validation mean@16: {accuracy:.3f}; reinforcement needs {MIN_WARM_START_ACCURACY}.")
        if accuracy >= MIN_WARM_START_ACCURACY or config.quick:
            return
    sys.exit(
        f"The warm start reached a validation mean@16 of {accuracy:.3f}, below {MIN_WARM_START_ACCURACY}: too weak "
        "for reinforcement to learn from. Raise --warm_start_steps or try another --seed."
    )


def choose_threads() -> int:
    """
    One thread or two, whichever is faster now: the second helps on an idle machine, and on a busy one it makes
    everything several times slower.
    """
    model, ids = build_model(), torch.full((64, 40), 5)
    seconds = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        model(ids, labels=ids).loss.backward()
        start = time.perf_counter()
        for _ in range(5):
            model(ids, labels=ids).loss.backward()
        seconds[threads] = time.perf_counter() - start
    return 2 if seconds[2] < 0.9 * seconds[1] else 1


def reinforce(config: LaptopConfig, model, tokenizer, directory: Path) -> None:
    """Train by reinforcement; model and tokenizer go to `directory`."""
    rng = random.Random(config.seed)
    prompts = [problem.prompt(rng) for problem in problems("train")]
    trainer = HTPOTrainer(
        model,
        countdown_reward,
        HTPOConfig(
            str(directory),
            objective=config.objective,
            max_steps=config.steps,
            per_device_train_batch_size=64,  # 16 prompts x 16 samples, used in 4 optimizer steps
            num_generations=16,
            steps_per_generation=4,
            max_completion_length=MAX_NEW_TOKENS,
            learning_rate=1e-4,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=8,
            seed=config.seed,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            **CPU_ARGUMENTS,
        ),
        Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Progress(directory / "metrics.jsonl"))
    trainer.add_callback(TokenRecorder(trainer, steps=max(config.steps // 4, 1)))
    trainer.train()
    trainer.create_model_card(model_name=directory.name)
    save(model, tokenizer, directory)


def run(config: LaptopConfig) -> dict:
    """The main job from nothing to the report; returns what it wrote to `result.json`."""
    from ..report import require_matplotlib, write_report  # before the work, so that it does not fail after it

    require_matplotlib()
    disable_progress_bar()  # of loading and saving; those of training and evaluation stay
    warnings.simplefilter("ignore", FutureWarning)  # deprecations within TRL and transformers are not the reader's
    root = Path(config.output_dir)
    directory = root / f"{config.objective}-seed{config.seed}"
    warm_directory = root / f"warm_start-seed{config.seed}"
    directory.mkdir(parents=True, exist_ok=True)
    threads = config.threads or choose_threads()
    torch.set_num_threads(threads)
    seconds: dict[str, float] = {}

    def phase(name: str, what: str, work: Callable):
        print(f"\n[{len(seconds) + 1}/5] {what}", flush=True)
        start = time.perf_counter()
        result = work()
        seconds[name] = round(time.perf_counter() - start, 1)
        return result

    print(
        f"Countdown on a laptop: objective {config.objective}, seed {config.seed}, {threads} thread(s). About 8 "
        f"minutes, 3 where the warm start is there already. Results go to {directory}."
    )
    settings = {"seed": config.seed, "steps": config.warm_start_steps}
    stamp = warm_directory / "settings.json"
    if stamp.exists() and json.loads(stamp.read_text()) == settings:
        phase("warm_start", f"Supervised warm start: found in {warm_directory}", lambda: None)
    else:
        stamp.unlink(missing_ok=True)
        what = f"Supervised warm start, {config.warm_start_steps} steps on sloppy searches"
        phase("warm_start", what, lambda: prepare(config, warm_directory))
        stamp.write_text(json.dumps(settings))  # last: its presence says that the warm start is whole

    tokenizer = PreTrainedTokenizerFast.from_pretrained(warm_directory)
    model = Qwen3ForCausalLM.from_pretrained(warm_directory)
    test = problems("test")[: 8 if config.quick else None]

    before = phase(
        "evaluate_before",
        f"Before: {len(test)} held-out problems, {SAMPLES} samples each",
        lambda: evaluate(model, tokenizer, test, SAMPLES, "test"),
    )
    what = f"Reinforcement by {config.objective}, {config.steps} optimizer steps of 64 completions"
    phase("reinforce", what, lambda: reinforce(config, model, tokenizer, directory))
    after = phase(
        "evaluate_after",
        f"After: the same {len(test)} problems",
        lambda: evaluate(model.eval(), tokenizer, test, SAMPLES, "test"),
    )
    result = {
        "config": asdict(config),
        "threads": threads,
        "versions": {name: version(name) for name in ("htpo_trl", "trl", "transformers", "torch")},
        "seconds": seconds,
        "problems": [f"{','.join(map(str, problem.numbers))}>{problem.target}" for problem in test],
        "samples": SAMPLES,
        "correct_before": before,
        "correct_after": after,
        "summary": summarize(before, after),
    }
    (directory / "result.json").write_text(json.dumps(result, indent=1))
    report = phase("report", "Report", lambda: write_report([directory], directory / "report"))
    token_map = write_token_map(directory)
    print(f"\n{summary_table(result['summary'])}\n\nReport: {report}\nToken map: {token_map}")
    print(f"In all: {sum(seconds.values()):.0f} s.")
    return result


def summarize(before: list[int], after: list[int], n: int = SAMPLES) -> dict[str, dict[str, tuple]]:
    """Metric → before, after and their paired difference, each as mean and 95% interval over problems."""
    table = {}
    for k in (1, 4, 16, 64):
        values = {"before": pass_at_k(n, before, k), "after": pass_at_k(n, after, k)}
        values["difference"] = values["after"] - values["before"]
        table[f"pass@{k}"] = {name: mean_with_interval(value) for name, value in values.items()}
    return {f"mean@{n}": table["pass@1"], **table}


def summary_table(summary: dict[str, dict[str, tuple]]) -> str:
    """What [`summarize`] returns, as Markdown."""

    def cell(interval: tuple, sign: str = "") -> str:
        mean, low, high = interval
        return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"

    lines = ["| metric | before | after | difference |", "| --- | --- | --- | --- |"]
    for metric, row in summary.items():
        lines.append(f"| {metric} | {cell(row['before'])} | {cell(row['after'])} | {cell(row['difference'], '+')} |")
    return "\n".join(lines)
