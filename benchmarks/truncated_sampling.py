"""
How far truncated sampling moves the policy that samples, μ, from that of training, π_old: SmolLM2-135M on a CPU.

    python -m benchmarks.truncated_sampling --model DIRECTORY [--seeds 3] [--output FILE]

Responses are sampled by transformers under each setting. Per token log ρ = log π_old - log μ, where log π_old is that
of training (the logits, divided by the temperature) and log μ that of the scores that were sampled from. For top_p,
top_k and min_p ρ is the probability of the tokens that were kept. `docs/vllm.md` shows the results. vLLM itself is not
run: ρ is what an exact engine would give. Ten minutes on one idle core; what is in FILE already is not run again.
"""

import argparse
import json
import math
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from htpo_trl.evaluation import mean_with_interval


ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "truncated_sampling.json"
LENGTH, PER_TASK = 96, 4
TASKS = (
    "Explain step by step how to find the area of a circle whose diameter is 14 cm, then check the result.",
    "A train leaves at 9:40 and takes 2 hours and 35 minutes. When does it arrive? Think aloud.",
    "Write a long story about a lighthouse keeper who learns to count the ships that pass at night.",
    "Compare the fractions 3/7 and 5/12 in three different ways and explain each of them.",
)
SETTINGS: dict[str, dict] = {
    "temperature 0.7": {"temperature": 0.7},  # training divides by it as well
    "top_p 0.95": {"top_p": 0.95},
    "top_p 0.9": {"top_p": 0.9},
    "top_k 50": {"top_k": 50},
    "top_k 20": {"top_k": 20},
    "min_p 0.05": {"min_p": 0.05},
    "temperature 0.7, top_p 0.8, top_k 20": {"temperature": 0.7, "top_p": 0.8, "top_k": 20},
    "repetition_penalty 1.1": {"repetition_penalty": 1.1},
}


def conversations(tokenizer) -> dict[str, torch.Tensor]:
    texts = [
        tokenizer.apply_chat_template([{"role": "user", "content": task}], tokenize=False, add_generation_prompt=True)
        for task in TASKS
        for _ in range(PER_TASK)
    ]
    return tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)


def log_ratios(model, tokenizer, setting: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of sampled tokens: log ρ, entropy of π_old in nats, and which are of the responses: (B, T) each."""
    given = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, **setting}
    inputs = conversations(tokenizer)
    output = model.generate(
        **inputs,
        **given,
        do_sample=True,
        max_new_tokens=LENGTH,
        pad_token_id=tokenizer.pad_token_id,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
    )
    ids = output.sequences[:, inputs["input_ids"].shape[1] :]  # (B, T)
    ratios, entropies = [], []
    for tokens, logits, scores in zip(ids.T, output.logits, output.scores, strict=True):
        policy = (logits.float() / given["temperature"]).log_softmax(dim=-1)
        sampled = scores.float().log_softmax(dim=-1)
        ratios.append((policy - sampled).gather(1, tokens[:, None])[:, 0])
        entropies.append(-(policy.exp() * policy).sum(dim=-1))
    is_end = ids == model.generation_config.eos_token_id
    mask = is_end.cumsum(dim=1) - is_end.long() == 0
    return torch.stack(ratios, 1), torch.stack(entropies, 1), mask


def summary(name: str, parts: list[tuple]) -> dict:
    """Over the responses of all seeds; an interval is that of a mean over responses."""
    ratios = [row[keep].numpy() for ratio, _, mask in parts for row, keep in zip(ratio, mask, strict=True)]
    entropies = [row[keep].numpy() for _, entropy, mask in parts for row, keep in zip(entropy, mask, strict=True)]
    tokens, level = np.concatenate(ratios), np.concatenate(entropies)
    high = level >= np.quantile(level, 0.8)
    per_response = [row.sum() for row in ratios]
    mean, *interval = mean_with_interval([row.mean() for row in ratios])
    return {
        "setting": name,
        "responses": len(ratios),
        "tokens": len(tokens),
        "log_rho_mean": float(mean),
        "log_rho_interval": [float(x) for x in np.ravel(interval)],
        "log_rho_min": float(tokens.min()),
        "log_rho_max": float(tokens.max()),
        "share_not_1": float((np.abs(tokens) > 1e-4).mean()),
        "log_rho_mean_high_entropy": float(tokens[high].mean()),
        "log_rho_mean_low_entropy": float(tokens[~high].mean()),
        "rho_of_a_response_mean": float(np.exp(per_response).mean()),
        "rho_of_a_response_median": float(np.median(np.exp(per_response))),
        "response_dropped": float((np.array(per_response) > math.log(3)).mean()),  # vllm_importance_sampling_clip_max
        "tokens_until_rho_is_0.01": float(math.log(0.01) / tokens.mean()) if tokens.mean() < -1e-5 else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="directory of SmolLM2-135M-Instruct")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    result = {
        "settings": {"max_tokens": LENGTH, "prompts": len(TASKS), "per_prompt": PER_TASK},
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "rows": [],
    }
    if args.output.exists():  # what it holds is not run again
        result["rows"] = json.loads(args.output.read_text())["rows"]
    for name, setting in SETTINGS.items():
        if name in [row["setting"] for row in result["rows"]]:
            continue
        parts = []
        for seed in range(args.seeds):
            set_seed(seed)
            with torch.no_grad():
                parts.append(log_ratios(model, tokenizer, setting))
        result["rows"].append({**summary(name, parts), "seeds": args.seeds})
        print(json.dumps(result["rows"][-1]), flush=True)
        args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
