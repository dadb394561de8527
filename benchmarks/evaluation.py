"""Time of `evaluate` against transformers' own generation of equally many tokens.

    python benchmarks/evaluation.py [--pairs 15] [--output FILE]

About 2 minutes. Raw generation is `generate` with the same temperature and top-p, and decoding; `evaluate` adds a seed
for every sample, the verdict, the file and the summary. No completion ends before its last token, so that both do the
same work. Interleaved on one thread, in one process. Two models: the laptop job's, for which every millisecond shows,
and a larger one with a vocabulary of 32 thousand tokens.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from htpo_trl.evaluation import Sampling, evaluate
from htpo_trl.warm_start import build_model, build_tokenizer


SAMPLING = Sampling(num_samples=16, max_new_tokens=64, batch_size=64)
PROBLEMS = [{"prompt": f"{1 + i % 9},{i % 7 + 1},5>{10 + i}:", "solution": str(i)} for i in range(16)]


def larger_model():
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=32_000,
            hidden_size=384,
            intermediate_size=1152,
            num_hidden_layers=5,
            num_attention_heads=6,
            num_key_value_heads=3,
            head_dim=64,
            max_position_embeddings=256,
            tie_word_embeddings=True,
        )
    )


def raw(model, tokenizer):
    prompts = [problem["prompt"] for problem in PROBLEMS for _ in range(SAMPLING.num_samples)]
    for start in range(0, len(prompts), SAMPLING.batch_size):
        encoded = tokenizer(
            prompts[start : start + SAMPLING.batch_size],
            return_tensors="pt",
            padding=True,
            return_token_type_ids=False,
        )
        with torch.no_grad():
            output = model.generate(
                **encoded,
                do_sample=True,
                temperature=SAMPLING.temperature,
                top_p=SAMPLING.top_p,
                top_k=0,
                max_new_tokens=SAMPLING.max_new_tokens,
                pad_token_id=0,
            )
        assert output.shape[1] == encoded.input_ids.shape[1] + SAMPLING.max_new_tokens
        tokenizer.batch_decode(output[:, encoded.input_ids.shape[1] :], skip_special_tokens=True)


def harness(model, tokenizer):
    with tempfile.TemporaryDirectory() as directory:
        summary = evaluate((model, tokenizer), {"task": PROBLEMS}, directory, SAMPLING, disable_tqdm=True)["task"]
    assert summary["mean_tokens"] == SAMPLING.max_new_tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "evaluation.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results = {"torch": torch.__version__, "threads": 1, "samples": 256, "tokens_per_sample": 64, "models": {}}
    print("| model | parameters | raw, s | evaluate, s | ratio, median of pairs | quartiles |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, model in (("laptop", build_model()), ("larger", larger_model())):
        model.eval()
        tokenizer = build_tokenizer()
        tokenizer.add_special_tokens({"eos_token": "<never>"})
        tokenizer.eos_token_id = model.generation_config.eos_token_id = 10**6  # nothing ends early
        seconds = {"raw": [], "evaluate": []}
        pairs = arguments.pairs if name == "laptop" else max(arguments.pairs // 3, 1)
        for i in range(pairs + 1):  # the first pair warms up
            for arm, work in (("raw", raw), ("evaluate", harness)):
                start = time.perf_counter()
                work(model, tokenizer)
                if i:
                    seconds[arm].append(time.perf_counter() - start)
        ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        parameters = sum(p.numel() for p in model.parameters())
        medians = [statistics.median(values) for values in seconds.values()]
        print(
            f"| {name} | {parameters / 1e6:.1f} M | {medians[0]:.2f} | {medians[1]:.2f} | {middle:.3f} | "
            f"{low:.3f} to {high:.3f} |"
        )
        results["models"][name] = {"parameters": parameters, "seconds": seconds, "ratio": ratios}
    arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
