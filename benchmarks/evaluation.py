"""Time of `evaluate` against transformers' own generation of equally many tokens.

    python benchmarks/evaluation.py [--pairs 15] [--output FILE]

About 2 minutes. Raw generation is `generate` with the same temperature and top-p, and decoding; `evaluate` adds a
seed for every sample, the verdict, the file and the summary. No completion ends before its last token, so that both
do the same work. Interleaved on one thread, in one process; ratios are medians over pairs, of CPU time too, since the
machine may be shared. Two models: the laptop job's, for which every millisecond shows, and a larger one with a
vocabulary of 32 thousand tokens.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from htpo_trl.demo.warm_start import build_model, build_tokenizer
from htpo_trl.evaluation import Sampling, evaluate


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


def raw(model, tokenizer, sampling):
    prompts = [problem["prompt"] for problem in PROBLEMS for _ in range(sampling.num_samples)]
    for start in range(0, len(prompts), sampling.batch_size):
        encoded = tokenizer(
            prompts[start : start + sampling.batch_size],
            return_tensors="pt",
            padding=True,
            return_token_type_ids=False,
        )
        with torch.no_grad():
            output = model.generate(
                **encoded,
                do_sample=True,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=0,
                max_new_tokens=sampling.max_new_tokens,
                pad_token_id=0,
            )
        assert output.shape[1] == encoded.input_ids.shape[1] + sampling.max_new_tokens
        tokenizer.batch_decode(output[:, encoded.input_ids.shape[1] :], skip_special_tokens=True)


def harness(model, tokenizer, sampling):
    with tempfile.TemporaryDirectory() as directory:
        summary = evaluate((model, tokenizer), {"task": PROBLEMS}, directory, sampling, disable_tqdm=True)["task"]
    assert summary["mean_tokens"] == sampling.max_new_tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "evaluation.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results = {"torch": torch.__version__, "threads": 1, "models": {}}
    print("| model | parameters | raw, s | evaluate, s | ratio of wall time (quartiles) | ratio of CPU time |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, model, sampling, pairs in (
        ("laptop", build_model(), Sampling(16, max_new_tokens=64, batch_size=64), arguments.pairs),
        ("larger", larger_model(), Sampling(4, max_new_tokens=32, batch_size=16), max(arguments.pairs // 3, 2)),
    ):
        model.eval()
        tokenizer = build_tokenizer()
        tokenizer.add_special_tokens({"eos_token": "<never>"})
        tokenizer.eos_token_id = model.generation_config.eos_token_id = 10**6  # nothing ends early
        wall, cpu = ({"raw": [], "evaluate": []} for _ in range(2))
        for i in range(pairs + 1):  # the first pair warms up
            for arm, work in (("raw", raw), ("evaluate", harness)):
                start = time.perf_counter(), time.process_time()
                work(model, tokenizer, sampling)
                if i:
                    wall[arm].append(time.perf_counter() - start[0])
                    cpu[arm].append(time.process_time() - start[1])
        ratios = [[b / a for a, b in zip(*seconds.values(), strict=True)] for seconds in (wall, cpu)]
        quartiles = [statistics.quantiles(values, n=4) for values in ratios]
        parameters = sum(p.numel() for p in model.parameters())
        medians = [statistics.median(values) for values in wall.values()]
        cells = [f"{middle:.3f} ({low:.3f} to {high:.3f})" for low, middle, high in quartiles]
        print(f"| {name} | {parameters / 1e6:.1f} M | {medians[0]:.2f} | {medians[1]:.2f} | {' | '.join(cells)} |")
        results["models"][name] = {
            "parameters": parameters,
            "sampling": asdict(sampling),
            "seconds": wall,
            "ratio": ratios[0],
            "cpu_seconds": cpu,
            "cpu_ratio": ratios[1],
        }
    arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
