"""Time of `evaluate` against transformers' own generation of equally many tokens; time and memory of its numbers.

    python benchmarks/evaluation.py [--pairs 15] [--output FILE]
    python benchmarks/evaluation.py --scale [--output FILE]

About 2 minutes without `--scale`. Raw generation is `generate` with the same temperature and top-p, and decoding;
`evaluate` adds a seed for every sample, the verdict, the file and the summary. No completion ends before its last
token, so that both do the same work. Interleaved on one thread, in one process; ratios are medians over pairs, of CPU
time too, since the machine may be shared. Two models: the laptop job's, for which every millisecond shows, and a
larger one with a vocabulary of 32 thousand tokens.

With `--scale`: CPU time and peak memory of everything but the model, on made-up samples of 64 a problem and up to
10,000 problems, each number in a process of its own; what is linear takes twice as much at each size. About 5 minutes.
"""

import argparse
import json
import random
import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from htpo_trl.demo.warm_start import build_model, build_tokenizer
from htpo_trl.evaluation import Sampling, evaluate, results
from htpo_trl.evaluation.generation import Generation
from htpo_trl.evaluation.runner import SamplingRun
from htpo_trl.evaluation.statistics import means_with_intervals, sign_flip_test
from htpo_trl.verifier import Judgement, Verdict


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


class MadeUp:
    """A generator that says at once, of a problem with a chance of its own, the right answer or one of twenty."""

    name, tokenizer = "made up", staticmethod(lambda text: SimpleNamespace(input_ids=list(text.encode())))

    def generate(self, prompts, seeds, sampling):
        completions = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            draw = random.Random(seed)
            chance = random.Random(bytes(prompt)).random()
            answer = "right" if draw.random() < chance else f"wrong {draw.randrange(20)}"
            completions.append(Generation(f"{'x' * 200} {answer}", 100, False))
        return completions


def judge(completions, **kwargs):
    answers = [text[201:] for text in completions]
    return [Judgement(Verdict.CORRECT if a == "right" else Verdict.WRONG, a) for a in answers]


def stages(n_problems):
    """CPU seconds of each stage, and MiB of peak memory after it, beyond those of the imports."""
    seconds, peak = {}, {}
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def timed(name, function, *arguments, **options):
        start = time.process_time()
        found = function(*arguments, **options)
        seconds[name] = time.process_time() - start
        peak[name] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024
        return found

    sampling = Sampling(num_samples=64, batch_size=64)
    problems = [{"prompt": str(i), "solution": "right"} for i in range(n_problems)]
    with tempfile.TemporaryDirectory() as directory:
        run = timed("problems", SamplingRun, Path(directory), "scale", problems, MadeUp(), sampling, judge)
        results.resume(run.path, run.settings, run.keys, sampling.batch_size)
        run.path.with_suffix(".json").write_text(json.dumps({"settings": run.settings}))
        with run.path.open("w") as file:
            timed("draw", lambda: [file.write(json.dumps(row) + "\n") for row in rows_of(run, sampling)])
        done = timed("resume", results.resume, run.path, run.settings, run.keys, sampling.batch_size)
        assert done == len(run.keys)
        found = timed("read", results.read, run.path)
    ks = results.check_ks(64)
    timed("pass@k", results.scores, found, ks, majority=False)
    table = timed("maj@k", results.scores, found, ks)
    timed("intervals", means_with_intervals, table)
    other = table.sample(frac=1, random_state=0).to_numpy()
    timed("comparison", lambda: (means_with_intervals(table - other), sign_flip_test(table - other)))
    return {"cpu_seconds": seconds, "peak_mib": peak}


def rows_of(run, sampling):
    return (row for start in range(0, len(run.keys), sampling.batch_size) for row in run._draw(start))


def scale(output):
    runs = {size: [] for size in (1250, 2500, 5000, 10_000)}
    for size in [*runs] * 2:  # of the two the quicker stage, since others use the machine
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:
            runs[size].append(alone.submit(stages, size).result())
    records = [
        {kind: {name: min(run[kind][name] for run in pair) for name in pair[0][kind]} for kind in pair[0]}
        for pair in runs.values()
    ]
    last = records[-1]
    print("| stage | s at 10,000 problems | growth per doubling | MiB at the peak, so far | growth |")
    print("| --- | --- | --- | --- | --- |")
    for name in last["cpu_seconds"]:
        seconds, peaks = ([record[kind][name] for record in records] for kind in ("cpu_seconds", "peak_mib"))
        growth = [", ".join(f"{b / max(a, 1e-3):.2f}" for a, b in pairwise(v)) for v in (seconds, peaks)]
        print(f"| {name} | {seconds[-1]:.2f} | {growth[0]} | {peaks[-1]:.0f} | {growth[1]} |")
    output.write_text(
        json.dumps({"samples_per_problem": 64, "sizes": dict(zip(runs, records, strict=True))}, indent=1) + "\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--scale", action="store_true", help="of everything but the model, at growing sizes")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    name = "evaluation_scale.json" if arguments.scale else "evaluation.json"
    arguments.output = arguments.output or Path(__file__).parent / "results" / name
    if arguments.scale:
        scale(arguments.output)
        return
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
