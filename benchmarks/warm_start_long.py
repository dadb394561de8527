"""Search for a warm start of `laptop-long` that every seed reaches: recipes x seeds, judged by validation problems.

    python benchmarks/warm_start_long.py --recipes plain curriculum --seeds 0 1 2 --output_dir runs/warm_start_long

A recipe is a list of phases, each with its searcher, its steps and its share of the learning rate. A run that was killed goes on
from its last checkpoint; a run whose result is there is not run again. The results go to `OUTPUT/NAME-seedN.json`, and
all of them to `benchmarks/results/warm_start_long.json` with `--collect`.
"""

import argparse
import json
import math
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_
from transformers import Qwen3ForCausalLM

from htpo_trl.check import tiny
from htpo_trl.data.countdown import SEARCHERS, Problem, Searcher, is_solution, problems, write_search
from htpo_trl.output.writing import write_json


BASE = Path("/work/k4_runs/base")
ROW_LENGTH = 336  # prompt of 11, search of 320
SAMPLES = 16
ONE_SOLUTION = Searcher(1.0, 1.0, 1)


@dataclass(frozen=True)
class Phase:
    searcher: Searcher
    steps: int
    rows: int = 8  # of a step
    numbers: int = 4


@dataclass(frozen=True)
class Recipe:
    phases: tuple[Phase, ...]
    learning_rate: float = 2.5e-3
    warmup: int = 100
    optimizer: str = "muon"
    base: bool = True  # whether it begins with the warm start of three numbers


SLOPPY = SEARCHERS[4]
RECIPES = {
    "aim": Recipe((Phase(ONE_SOLUTION, 2000, 8),), 3e-3, optimizer="adamw"),
    "three-aim": Recipe((Phase(ONE_SOLUTION, 1600, 8),), 2e-3),
    "aim-then-search": Recipe((Phase(ONE_SOLUTION, 700, 8), Phase(SLOPPY, 500, 12)), 2e-3),
    "muon-aim": Recipe((Phase(ONE_SOLUTION, 400, 8, 3), Phase(ONE_SOLUTION, 1600, 8)), 2.5e-3),
}


def build_model(seed: int, base: Path | None = None) -> Any:
    if base is not None:
        return Qwen3ForCausalLM.from_pretrained(base, dtype=torch.float32, max_position_embeddings=512)
    torch.manual_seed(seed)
    shape = {"vocab_size": 22, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    return tiny.build_model(None, **shape, **heads, initializer_range=0.02)


def build_optimizers(model: Any, name: str) -> list[torch.optim.Optimizer]:
    """AdamW for all, or Muon for the matrices within the layers and AdamW for embedding and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in n)]
    adamw = {"lr": 0.0, "betas": (0.9, 0.98), "weight_decay": 0.01}
    if name == "adamw":
        return [torch.optim.AdamW([*matrices, *others], **adamw)]
    muon = torch.optim.Muon(matrices, lr=0.0, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, **adamw)]


def packed(tokenizer: Any, tasks: list[Problem], phase: Phase, rng: random.Random) -> dict[str, torch.Tensor]:
    """One step's rows, of several searches each, told apart by their restarting positions."""
    vocabulary = tokenizer.get_vocab()
    rows: list[list[tuple[int, int, int]]] = [[]]
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


def rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine to nothing."""
    steps = sum(phase.steps for phase in recipe.phases)
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - recipe.warmup) / (steps - recipe.warmup)))


def generate(model: Any, tokenizer: Any, prompts: list[str], tokens: int, batch: int = 512) -> list[str]:
    texts = []
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    model.eval()
    for start in range(0, len(order), batch):
        inputs = tokenizer([prompts[i] for i in order[start : start + batch]], return_tensors="pt", padding=True)
        inputs.pop("token_type_ids", None)
        output = model.generate(**inputs, max_new_tokens=tokens, do_sample=True, top_k=0, top_p=1.0, temperature=1.0)
        texts += tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    model.train()
    found = [""] * len(prompts)
    for i, text in zip(order, texts, strict=True):
        found[i] = text
    return found


@torch.no_grad()
def first_attempts(model: Any, tokenizer: Any, samples: int = 8) -> float:
    """Share of sampled first attempts that solve the problem: whether the model aims."""
    rng = random.Random(1)
    prompts = [problem.prompt(rng) for problem in problems("validation", 4)] * samples
    texts = generate(model, tokenizer, prompts, 27, batch=2048)
    attempts = [text.replace("!", "?").split("?")[0] + "!" for text in texts]
    return sum(map(is_solution, prompts, attempts)) / len(prompts)


@torch.no_grad()
def measured(model: Any, tokenizer: Any, samples: int = SAMPLES, limit: int | None = None) -> dict[str, float]:
    rng = random.Random(1)
    tasks = problems("validation", 4)[:limit]
    prompts = [prompt for problem in tasks for prompt in [problem.prompt(rng)] * samples]
    texts = generate(model, tokenizer, prompts, 320)
    verdicts = torch.tensor([float(v) for v in map(is_solution, prompts, texts)]).view(-1, samples)
    lengths = torch.tensor([len(text) + 1.0 for text in texts])
    correct = lengths[verdicts.flatten() > 0]
    return {
        f"mean@{samples}": verdicts.mean().item(),
        f"pass@{samples}": verdicts.amax(1).mean().item(),
        "tokens": lengths.mean().item(),
        "share of 208 tokens and more": (lengths >= 208).float().mean().item(),
        "correct of 250 tokens and more": (correct >= 250).float().mean().item() if len(correct) else 0.0,
        "easy problems": (verdicts.mean(1) >= 0.6).float().mean().item(),
        "unfinished": sum(not text.endswith("!") for text in texts) / len(texts),
    }


def run(name: str, seed: int, directory: Path, every: int = 100) -> dict[str, Any]:
    recipe, tokenizer = RECIPES[name], tiny.build_tokenizer()
    result, checkpoint = directory / f"{name}-seed{seed}.json", directory / f"{name}-seed{seed}.pt"
    if result.exists():
        return json.loads(result.read_text())
    model = build_model(seed, BASE if recipe.base else None)
    optimizers = build_optimizers(model, recipe.optimizer)
    step, curve, seconds = 0, {}, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        step, curve, seconds = state["step"], state["curve"], state["seconds"]
    tasks = {numbers: problems("train", numbers) for numbers in (3, 4)}
    started, losses = time.perf_counter() - seconds, []
    plan = [phase for phase in recipe.phases for _ in range(phase.steps)]
    for step in range(step, len(plan)):
        batch = packed(tokenizer, tasks[plan[step].numbers], plan[step], random.Random(f"{seed}-{step}"))
        loss = model(**batch).loss
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate(recipe, step)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % every == 0 or step + 1 == len(plan):
            torch.manual_seed(step)
            curve[str(step + 1)] = {
                "loss": sum(losses) / len(losses), "first attempts": first_attempts(model, tokenizer),
            }
            losses, seconds = [], time.perf_counter() - started
            print(f"{name} seed {seed} step {step + 1} {seconds:.0f} s {curve[str(step + 1)]}", flush=True)
            state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step + 1}
            torch.save(state | {"curve": curve, "seconds": seconds}, checkpoint)
    torch.manual_seed(0)
    model.save_pretrained(directory / f"{name}-seed{seed}")
    found = {"recipe": name, "seed": seed, "phases": [asdict(p) for p in recipe.phases], "seconds": seconds, "curve": curve}
    if recipe.phases[-1].searcher.attempts > 1:
        found["validation"] = measured(model, tokenizer)
    write_json(result, found)
    print(json.dumps(found.get("validation")), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output_dir", type=Path, default=Path("runs/warm_start_long"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        for name in arguments.recipes:
            run(name, seed, arguments.output_dir)


if __name__ == "__main__":
    main()
