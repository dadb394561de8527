"""
A warm start for countdown with four numbers that every seed reaches: recipes × seeds, judged by validation problems.

    python scripts/warm_start_long.py --recipes aim-then-search --seeds 0 1 2     # 10 minutes a seed, on one thread
    python scripts/warm_start_long.py --collect benchmarks/results/warm_start_long.json

A recipe is a list of phases, each with its searcher. A run that is killed goes on from its last checkpoint, one whose
result is there is not run again. `--collect` gathers all results into one file, those of runs that did not end too.
"""

import argparse
import json
import math
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_
from transformers import Qwen3ForCausalLM

from htpo_trl.check.tiny import build_tokenizer
from htpo_trl.data import load
from htpo_trl.data.countdown import SEARCHERS, Problem, Searcher, countdown_reward, is_solution, problems, write_search
from htpo_trl.demo.warm_start import build_model
from htpo_trl.evaluation import Sampling, evaluate
from htpo_trl.output.reading import read_json
from htpo_trl.output.writing import write_json
from htpo_trl.scripts.arguments import WARM_STARTS


ROW_LENGTH = 336  # a prompt and a search of 320 tokens
EVERY = 100  # steps from one checkpoint to the next
LOSSES = 40  # the first steps, to be told
#: Goes straight to a solution: what there is to learn is to aim.
AIMER = Searcher(solves=1.0, submits=1.0, attempts=1)
SLOPPY = SEARCHERS[4]


@dataclass(frozen=True)
class Phase:
    """Supervised steps on what a searcher writes."""

    searcher: Searcher
    steps: int
    rows: int = 8  # of a step
    numbers: int = 4


@dataclass(frozen=True)
class Recipe:
    """Phases, and one schedule of the learning rate for all of them."""

    phases: tuple[Phase, ...]
    learning_rate: float = 2e-3
    optimizer: str = "muon"
    base: str | None = "laptop-warm-start"  # what it begins with: weights of the package, or none
    warmup: int = 100
    bf16: bool = True  # 30% faster


RECIPES = {
    "aim-then-short-search": Recipe((Phase(AIMER, 700), Phase(SLOPPY, 500, 12)), bf16=False),
    "aim-then-search": Recipe((Phase(AIMER, 400), Phase(SLOPPY, 700)), 4e-3),
    # Probes, of single attempts alone.
    "aim-new-adamw": Recipe((Phase(AIMER, 2000),), 3e-3, "adamw", base=None, bf16=False),
    "aim-new-muon": Recipe((Phase(AIMER, 400, numbers=3), Phase(AIMER, 1600)), 2.5e-3, base=None, bf16=False),
    "aim": Recipe((Phase(AIMER, 1600),), bf16=False),
}


def packed(tokenizer: Any, tasks: list[Problem], phase: Phase, rng: random.Random) -> dict[str, torch.Tensor]:
    """One step's rows, of several searches each, told apart by their restarting positions."""
    vocabulary = tokenizer.get_vocab()
    rows: list[list[tuple[int, int, int]]] = [[]]  # input id, label and position of each token
    while True:
        problem = rng.choice(tasks)
        prompt = problem.prompt(rng)
        ids = [vocabulary[c] for c in prompt + write_search(problem, rng, phase.searcher)] + [tokenizer.eos_token_id]
        if len(rows[-1]) + len(ids) > ROW_LENGTH:
            rows[-1] += [(tokenizer.pad_token_id, -100, i) for i in range(ROW_LENGTH - len(rows[-1]))]
            if len(rows) == phase.rows:
                break
            rows.append([])
        rows[-1] += zip(ids, [-100] * len(prompt) + ids[len(prompt) :], range(len(ids)), strict=True)
    ids, labels, positions = torch.tensor(rows).unbind(-1)
    return {"input_ids": ids, "labels": labels, "position_ids": positions}


def build_optimizers(model: Any, name: str) -> list[torch.optim.Optimizer]:
    """AdamW, or Muon for the matrices within the layers and AdamW for the embedding and the norms."""
    parts: dict[bool, list[Any]] = {True: [], False: []}
    for parameter_name, parameter in model.named_parameters():
        parts[parameter.ndim == 2 and ".layers." in parameter_name].append(parameter)
    adamw: dict[str, Any] = {"lr": 0.0, "betas": (0.9, 0.98), "weight_decay": 0.01}
    if name == "adamw":
        return [torch.optim.AdamW(parts[True] + parts[False], **adamw)]
    muon = torch.optim.Muon(parts[True], lr=0.0, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(parts[False], **adamw)]


def rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine to nothing."""
    steps = sum(phase.steps for phase in recipe.phases) - recipe.warmup
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - recipe.warmup) / steps))


@torch.no_grad()
def first_attempts(model: Any, tokenizer: Any, samples: int = 8) -> float:
    """
    Share of sampled first attempts that solve their validation problem, whatever follows: whether the model aims,
    for little. Random play has .016.
    """
    rng = random.Random(1)
    prompts = [problem.prompt(rng) for problem in problems("validation", 4)] * samples
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
    model.eval()
    output = model.generate(**inputs, max_new_tokens=27, do_sample=True, top_k=0, top_p=1.0, temperature=1.0)
    model.train()
    texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    attempts = [text.replace("!", "?").split("?")[0] + "!" for text in texts]
    return sum(map(is_solution, prompts, attempts)) / len(prompts)


def validate(subject: tuple[Any, Any], directory: str | Path, every: int = 1, samples: int = 16) -> dict[str, Any]:
    """Evaluate (model, tokenizer) on every such validation problem, and what its completions are like."""
    tasks = load("countdown", split="validation", dataset_options={"numbers": 4})
    tasks = tasks.select(range(0, len(tasks), every))
    sampling = Sampling(samples, top_p=1.0, max_new_tokens=320, batch_size=512)
    summary = evaluate(*(subject, {"countdown": tasks}, directory, sampling, countdown_reward))["countdown"]
    lines = (Path(directory) / "countdown.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    lengths = torch.tensor([len(row["completion"]) + 1.0 for row in found])
    correct = torch.tensor([row["verdict"] == "correct" for row in found])
    accuracies = correct.view(-1, samples).float().mean(1).repeat_interleave(samples)
    easy = accuracies >= 0.6
    told = {
        "tokens": lengths.mean(),
        "of 210 tokens and more": (lengths >= 210).float().mean(),
        "of easy problems": easy.float().mean(),
        "correct, of easy problems, of 250 tokens and more": (correct & easy & (lengths >= 250)).float().mean(),
        "unfinished": torch.tensor([not row["completion"].endswith("!") for row in found]).float().mean(),
    }
    return {**summary, "completions": {name: round(value.item(), 4) for name, value in told.items()}}


def run(name: str, seed: int, directory: Path) -> dict[str, Any]:
    """Train one recipe with one seed, from its last checkpoint on; returns its result."""
    recipe, tokenizer, place = RECIPES[name], build_tokenizer(), directory / f"{name}-seed{seed}"
    result, checkpoint = place / "result.json", place / "checkpoint.pt"
    if result.exists():
        return read_json(result)
    place.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = (
        Qwen3ForCausalLM.from_pretrained(WARM_STARTS / recipe.base, dtype=torch.float32)
        if recipe.base
        else build_model()
    )
    model.config.max_position_embeddings = 512
    model.train()
    optimizers = build_optimizers(model, recipe.optimizer)
    done: dict[str, Any] = {"step": 0, "seconds": 0.0, "losses": [], "curve": {}}
    if checkpoint.exists():
        done = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(done["model"])
        for optimizer, state in zip(optimizers, done["optimizers"], strict=True):
            optimizer.load_state_dict(state)
    tasks = {numbers: problems("train", numbers) for numbers in (3, 4)}
    plan = [phase for phase in recipe.phases for _ in range(phase.steps)]
    started = time.perf_counter() - done["seconds"]
    for step in range(done["step"], len(plan)):
        batch = packed(tokenizer, tasks[plan[step].numbers], plan[step], random.Random(f"{seed}-{step}"))
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
            loss = model(**batch).loss
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate(recipe, step)
            optimizer.step()
            optimizer.zero_grad()
        done["losses"].append(loss.item())
        if (step + 1) % EVERY == 0 or step + 1 == len(plan):
            torch.manual_seed(step)
            recent = done["losses"][-EVERY:]
            point = {"loss": sum(recent) / len(recent), "first attempts": first_attempts(model, tokenizer)}
            done["curve"][str(step + 1)] = point
            done |= {"step": step + 1, "seconds": time.perf_counter() - started, "model": model.state_dict()}
            done["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
            torch.save(done, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
            print(f"{name} seed {seed} step {step + 1}, {done['seconds']:.0f} s: {point}", flush=True)
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    write_json(result, told(name, seed, done))
    return read_json(result)


def judge(name: str, seed: int, directory: Path) -> dict[str, Any]:
    """A run's result with that of half of the validation problems."""
    found, place = run(name, seed, directory), directory / f"{name}-seed{seed}"
    if "validation" not in found and RECIPES[name].phases[-1].searcher.attempts > 1:
        model = Qwen3ForCausalLM.from_pretrained(place, dtype=torch.float32)
        with TemporaryDirectory() as results:
            found["validation"] = validate((model, build_tokenizer()), results, every=2)
        write_json(place / "result.json", found)
    return found


def told(name: str, seed: int, done: dict[str, Any]) -> dict[str, Any]:
    """What is to be told of a run, whether it has ended or not."""
    recipe = {**asdict(RECIPES[name]), "name": name}
    return {
        **{"recipe": recipe, "seed": seed, "steps": done["step"], "seconds": round(done["seconds"])},
        **{"losses": done["losses"][:LOSSES], "curve": done["curve"]},
    }


def collect(directory: Path, path: Path) -> None:
    """All results, and what there is of runs that did not end."""
    runs = []
    for name in RECIPES:
        for place in sorted(directory.glob(f"{name}-seed*")):
            if (place / "result.json").exists():
                runs.append(read_json(place / "result.json"))
            elif (place / "checkpoint.pt").exists():
                seed = int(place.name.rpartition("seed")[2])
                runs.append(told(name, seed, torch.load(place / "checkpoint.pt", weights_only=True)))
    write_json(path, {"command": "python scripts/warm_start_long.py", "runs": runs})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=["aim-then-search"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output_dir", type=Path, default=Path("runs/warm_start_long"))
    parser.add_argument("--collect", type=Path, metavar="FILE", help="run nothing, gather the results")
    arguments = parser.parse_args()
    if arguments.collect:
        collect(arguments.output_dir, arguments.collect)
        return
    torch.set_num_threads(1)
    for seed in arguments.seeds:
        for name in arguments.recipes:
            print(json.dumps(judge(name, seed, arguments.output_dir).get("validation")), flush=True)


if __name__ == "__main__":
    main()
