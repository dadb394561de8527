"""
What number formats do to the ratio, to HTPO's groups and to small updates: SmolLM2-135M on a CPU.

    python -m benchmarks.precision --model DIRECTORY [--seeds 4] [--output FILE]

For each seed, responses are sampled and three optimizer steps taken on them, in float32. Then the same responses are
scored in each format under the weights before (π_old) and after (π), by TRL's own fused head, and by the same
functions as in training it is decided which tokens PPO-clip clips, which are of high entropy and what a rule changes:
any difference to float32 is rounding. Last, the same gradients are given to AdamW on float32 and on bfloat16 weights,
to see which weights move at all. `scripts/test_vllm_cpu.sh` makes the model's directory. Five minutes a seed on one
idle core. `docs/precision.md` shows and explains the results.

The model's weights are bfloat16 numbers, as of most checkpoints. Those of a run under way, in float32, lie between
such numbers: "in training" are the checkpoint's, each moved at random within the interval that is rounded to it.
"""

import argparse
import copy
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl.trainer.utils import add_fused_lm_head

from htpo_trl.objective.table import EFFECTS
from htpo_trl.objective.transform import control, effective_weight, token_sums


ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "precision.json"
GROUP, STEPS = 4, 3
LEARNING_RATE = 1e-6  # TRL's default, and the paper's
CLIP = {"epsilon_low": 0.2, "epsilon_high": 0.28}
TASKS = (
    "Explain step by step how to find the area of a circle whose diameter is 14 cm, then check the result.",
    "A train leaves at 9:40 and takes 2 hours and 35 minutes. When does it arrive? Think aloud.",
)
# name: (dtype of the weights, computed in, head in float32)
FORMATS = {
    "float32": (torch.float32, None, False),
    "float32 weights, bf16 autocast": (torch.float32, torch.bfloat16, False),
    "float32 weights, bf16 autocast, float32 head": (torch.float32, torch.bfloat16, True),
    "bfloat16 weights": (torch.bfloat16, None, False),
    "bfloat16 weights, float32 head": (torch.bfloat16, None, True),
    # CPUs have no fast float16: see `Float16Linear`.
    "float32 weights, fp16 autocast, float32 head": (torch.float32, torch.float16, True),
}
RATES = (1e-6, 1e-5, 1e-4)  # learning rates at which updates are counted


def dithered(weights: dict) -> dict:
    """Each weight moved at random within the interval of float32 numbers that bfloat16 rounds to it."""
    moved = {}
    for name, weight in weights.items():
        exponent = torch.frexp(weight.abs().clamp(min=1e-30))[1]  # weight = m * 2^e with m in [.5, 1)
        half_step = torch.ldexp(torch.ones_like(weight), exponent - 9)  # of 8 bits
        moved[name] = weight + (torch.rand_like(weight) - 0.5) * 2 * half_step
    return moved


def sample(model, tokenizer, length: int) -> dict[str, torch.Tensor]:
    """Completions at temperature 1 from the whole distribution; ids, and what is theirs: (B, P + T)."""
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": task}], tokenize=False, add_generation_prompt=True)
        for task in TASKS
        for _ in range(GROUP)
    ]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    with torch.no_grad():
        ids = model.generate(
            **inputs, do_sample=True, top_k=0, max_new_tokens=length, pad_token_id=tokenizer.pad_token_id
        )
    start = inputs["input_ids"].shape[1]
    is_end = ids[:, start:] == model.generation_config.eos_token_id
    mask = is_end.cumsum(dim=1) - is_end.long() == 0  # the end token itself included
    attention = torch.cat([inputs["attention_mask"], mask.long()], dim=1)
    return {"ids": ids, "attention": attention, "mask": mask, "start": start}


class Float16Linear(torch.nn.Linear):
    """What a GPU does under float16 autocast: products of rounded numbers, added up in float32, then rounded."""

    def forward(self, x):
        return torch.nn.functional.linear(x.half().float(), self.weight.half().float(), self.bias).half().float()


def score(model, batch: dict, rows: slice = slice(None)) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies of the completions, as TRL computes them: (B, T) each."""
    ids, attention, start = batch["ids"][rows], batch["attention"][rows], batch["start"]
    labels = torch.where(attention.bool(), ids, -100)
    labels[:, :start] = -100
    positions = (attention.cumsum(dim=1) - 1).clamp(min=0)
    output = model(ids, attention_mask=attention, position_ids=positions, labels=labels, fused_lm_head=True)
    return output.log_probs[:, start - 1 :], output.entropy[:, start - 1 :]


def scored(model, weights: dict, batch: dict, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    dtype, computed, float32_head = FORMATS[name]
    model = model.to(dtype)
    model.load_state_dict(weights)
    model.__dict__.pop("forward", None)  # the head of another format
    add_fused_lm_head(model, cast_lm_head_to_fp32=float32_head, outputs=("log_probs", "entropy"))
    linear = [module for module in model.model.modules() if isinstance(module, torch.nn.Linear)]
    for module in linear:
        module.__class__ = Float16Linear if computed is torch.float16 else torch.nn.Linear
    parts, is_autocast = [], computed is torch.bfloat16
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_autocast):
        for row in range(0, len(batch["ids"]), 4):
            parts.append(score(model, batch, slice(row, row + 4)))
    logps, entropies = (torch.cat(part) for part in zip(*parts, strict=True))
    return logps.float() * batch["mask"], entropies.float() * batch["mask"]


def decisions(logps: torch.Tensor, old: torch.Tensor, entropies: torch.Tensor, batch: dict) -> dict:
    tokens = {"per_token_logps": logps, "old_per_token_logps": old, "entropies": entropies, "mask": batch["mask"]}
    labels = {key: batch[key] for key in ("advantages", "is_hard", "is_correct")}
    result = control(**tokens, **labels, **CLIP)
    sums = token_sums(result, **tokens, **CLIP, advantages=batch["advantages"])
    advantages = batch["advantages"].unsqueeze(1).expand_as(logps)
    plain = effective_weight(logps, old, advantages, *CLIP.values(), delta=10.0)
    return {
        "groups": result.groups,
        "effects": result.effects,
        "clipped": plain == 0,
        "sums": sums,
        "ratio": (logps - old).exp(),
    }


def compare(
    name: str, mine: dict, exact: dict, logps: torch.Tensor, old: torch.Tensor, reference: tuple, mask
) -> dict:
    """Shares of the tokens on which a format decides otherwise than float32, and its own metrics."""
    n = mask.sum().item()
    share = lambda tokens: (tokens & mask).sum().item() / n  # noqa: E731
    kept = 1 + EFFECTS.index("keep_below"), 1 + EFFECTS.index("keep_above")
    is_kept = lambda effects: (effects == kept[0]) | (effects == kept[1])  # noqa: E731
    is_detached = lambda effects: (effects > 0) & (effects <= 1 + EFFECTS.index("detach_highest"))  # noqa: E731
    error = ((logps - old) - (reference[0] - reference[1]))[mask].abs()
    logp_error = (logps - reference[0])[mask].abs()
    sums = {key: value.item() for key, value in mine["sums"].items()}
    return {
        "format": name,
        "tokens": n,
        "log_prob_error_mean": logp_error.mean().item(),
        "log_prob_error_p99": logp_error.quantile(0.99).item(),
        "log_ratio_error_mean": error.mean().item(),
        "log_ratio_error_p99": error.quantile(0.99).item(),
        "log_ratio_error_max": error.max().item(),
        "ratio_outside": share((mine["ratio"] < 0.8) | (mine["ratio"] > 1.28)),
        "clip_differs": share(mine["clipped"] != exact["clipped"]),
        "group_differs": share(mine["groups"] != exact["groups"]),
        "kept_differs": share(is_kept(mine["effects"]) != is_kept(exact["effects"])),
        "detached_differs": share(is_detached(mine["effects"]) != is_detached(exact["effects"])),
        "metrics": {
            **{key: sums[key] / n for key in sums if key.startswith(("clip_ratio/", "special/", "share/"))},
            **{
                key: sums[key] / max(sums[key.replace("entropy", "share")], 1)
                for key in sums
                if key.startswith("entropy/")
            },
        },
    }


def updates(weights: dict, gradients: list[dict]) -> list[dict]:
    """AdamW on float32 and on bfloat16 weights, given the same gradients: which weights differ after these steps?"""
    rows = []
    for rate in RATES:
        ends = {}
        for dtype in (torch.float32, torch.bfloat16):
            parameters = {name: torch.nn.Parameter(weights[name].to(dtype, copy=True)) for name in gradients[0]}
            before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
            optimizer = torch.optim.AdamW(parameters.values(), lr=rate, weight_decay=0.0)
            for gradient in gradients:
                for name, parameter in parameters.items():
                    parameter.grad = gradient[name].to(dtype)
                optimizer.step()
            ends[dtype] = torch.cat(
                [(p.detach().float() - before[n].float()).flatten() for n, p in parameters.items()]
            )
            changed = sum((p != before[n]).sum().item() for n, p in parameters.items())
            total = sum(p.numel() for p in parameters.values())
            rows.append(
                {
                    "learning_rate": rate,
                    "weights": str(dtype).split(".")[1],
                    "steps": len(gradients),
                    "changed": changed / total,
                }
            )
        exact, rounded = ends[torch.float32], ends[torch.bfloat16]
        rows[-1] |= {
            "update_norm_against_float32": (rounded.norm() / exact.norm()).item(),
            "cosine_to_float32": torch.nn.functional.cosine_similarity(exact, rounded, dim=0).item(),
        }
    return rows


def run(path: Path, seed: int, length: int) -> dict:
    set_seed(seed)
    started = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    original = copy.deepcopy(model.state_dict())
    before = dithered(original)
    before["lm_head.weight"] = before["model.embed_tokens.weight"]  # tied
    model.load_state_dict(before)
    batch = sample(model, tokenizer, length)
    n = len(batch["ids"])
    # No reward is needed to see rounding: of the first prompt one response is correct, of the second all but one.
    correct = torch.tensor([i in (0, *range(GROUP, 2 * GROUP - 1)) for i in range(n)])
    rewards = correct.float().view(-1, GROUP)
    batch |= {
        "is_correct": correct,
        "is_hard": (rewards.mean(1) < 0.6).repeat_interleave(GROUP),
        "advantages": ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).flatten(),
    }
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    gradients = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        for row in range(0, n, 2):
            rows = slice(row, row + 2)
            logps, _ = score(model, batch, rows)
            loss = -(logps * batch["mask"][rows] * batch["advantages"][rows, None]).sum() / batch["mask"].sum()
            loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
        optimizer.step()
    after = copy.deepcopy(model.state_dict())
    optimizer.zero_grad()
    # The same steps from the checkpoint's own weights.
    starts = {
        "in training": (before, after, FORMATS),
        "checkpoint": (original, {k: original[k] + (after[k] - before[k]) for k in after}, [*FORMATS][:2]),
    }
    found = []
    for start, (old_weights, new_weights, formats) in starts.items():
        exact, reference = None, None
        for name in formats:
            old, _ = scored(model, old_weights, batch, name)
            logps, entropies = scored(model, new_weights, batch, name)
            mine = decisions(logps, old, entropies, batch)
            if exact is None or reference is None:
                exact, reference = mine, (logps, old)
            row = compare(name, mine, exact, logps, old, reference, batch["mask"])
            found.append({"start": start, **row})
            print(f"seed {seed}, {time.perf_counter() - started:.0f} s: {start}, {row}", flush=True)
    rounded = {
        start: sum((old[k].bfloat16() != new[k].bfloat16()).sum().item() for k in gradients[0])
        / sum(old[k].numel() for k in gradients[0])
        for start, (old, new, _) in starts.items()
    }
    return {
        "seed": seed,
        "seconds": round(time.perf_counter() - started),
        "formats": found,
        "weights_changed_in_bfloat16": rounded,
        "updates": updates(original, gradients),
    }


def tables(runs: list[dict]) -> str:
    """Means over the seeds, with their smallest and largest value."""

    def cell(values: list[float], text: str = "{:.2%}") -> str:
        low, high = text.format(min(values)), text.format(max(values))
        return text.format(sum(values) / len(values)) + (f" ({low} to {high})" if low != high else "")

    columns = ("log_prob_error_mean", "log_ratio_error_mean", "log_ratio_error_p99")
    decided = ("ratio_outside", "clip_differs", "group_differs", "kept_differs", "detached_differs")
    lines = []
    for i, first in enumerate(runs[0]["formats"]):
        rows = [run["formats"][i] for run in runs]
        cells = [cell([row[name] for row in rows], "{:.4f}") for name in columns]
        cells += [cell([row[name] for row in rows]) for name in decided]
        lines.append(f"| {first['start']} | {first['format']} | {' | '.join(cells)} |")
    for i, first in enumerate(runs[0]["formats"]):
        metrics = [run["formats"][i]["metrics"] for run in runs]
        names = ("clip_ratio/low", "clip_ratio/high", *(name for name in metrics[0] if name.startswith("special/")))
        cells = [cell([metric[name] for metric in metrics]) for name in names]
        lines.append(f"| {first['start']} | {first['format']} | {' | '.join(cells)} |")
    for i, first in enumerate(runs[0]["updates"]):
        rows = [run["updates"][i] for run in runs]
        names = ("changed", "update_norm_against_float32", "cosine_to_float32")
        cells = [cell([row[name] for row in rows]) for name in names if name in first]
        lines.append(f"| {first['learning_rate']:g} | {first['weights']} | {' | '.join(cells)} |")
    starts = [cell([run["weights_changed_in_bfloat16"][s] for run in runs]) for s in ("checkpoint", "in training")]
    return "\n".join([*lines, f"weights that differ in bfloat16 after the steps: {', '.join(starts)}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="directory of SmolLM2-135M-Instruct")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--length", type=int, default=256, help="of a response, at most")
    parser.add_argument("--table", action="store_true", help="print the tables of the docs from --output, run nothing")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.table:
        print(tables(json.loads(args.output.read_text())["runs"]))
        return
    runs = []
    for seed in range(args.seeds):
        runs.append(run(args.model, seed, args.length))
        settings = {
            "responses": len(TASKS) * GROUP,
            "max_tokens": args.length,
            "steps": STEPS,
            "learning_rate": LEARNING_RATE,
            **CLIP,
            "threads": torch.get_num_threads(),
        }
        versions = {name: version(name) for name in ("torch", "transformers", "trl")}
        machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        result = {"settings": settings, "versions": versions, "machine": machine, "runs": runs}
        args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
