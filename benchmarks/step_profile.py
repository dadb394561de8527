"""Where the time of an optimizer step goes on a GPU: `HTPOTrainer` against `GRPOTrainer`, in processes of their own.

    python benchmarks/step_profile.py [--rows 64] [--tokens 192] [--rounds 2] [--output FILE]

The arms take turns, forwards and backwards. A run trains twice in one process, so that what is paid once per process
(kernels that are loaded at their first launch, memory that is taken) shows as the difference between the two. It tells
the seconds before the first step, of the step that generates, of each other step and after the last; launches, waits
and allocations of one step; and time that Python spends collecting garbage. Runs without a GPU as well, on a smaller
model. Made on the spot; nothing is fetched.
"""

import argparse
import collections
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path


ARMS = ("GRPO", "HTPO", "dapo", "HTPO, not logged", "HTPO, not transformed")
STEPS = 16  # of two generation batches


def make_trainer(arm, options, directory):
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback, Qwen3Config, Qwen3ForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    from htpo_trl import HTPOConfig, HTPOTrainer
    from htpo_trl.demo.warm_start import build_tokenizer

    class NotLogged(HTPOTrainer):
        def _log_sums(self):
            self._sums = ()

    class NotTransformed(HTPOTrainer):
        def _control_objective(self, *args, **kwargs):
            pass

        def _log_sums(self):
            pass

    on_gpu = torch.cuda.is_available()
    tokenizer = build_tokenizer("0123456789+=")
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 512}
    if on_gpu:  # as SmolLM2-135M
        shape = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152}
    heads = {"num_attention_heads": shape["hidden_size"] // 64, "num_key_value_heads": 1, "head_dim": 64}
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**shape, **heads, **ends, tie_word_embeddings=True))
    model.to(torch.bfloat16 if on_gpu else torch.float32)
    trainer, config = (GRPOTrainer, GRPOConfig) if arm == "GRPO" else (HTPOTrainer, HTPOConfig)
    trainer = {"HTPO, not logged": NotLogged, "HTPO, not transformed": NotTransformed}.get(arm, trainer)
    args = config(
        **{"output_dir": directory, "report_to": [], "save_strategy": "no", "disable_tqdm": True, "seed": 3},
        **{"use_cpu": not on_gpu, "bf16": on_gpu, "gradient_checkpointing": False, "use_bias_correction_kl": False},
        **{"per_device_train_batch_size": options.rows, "num_generations": 16, "max_steps": STEPS},
        **{"steps_per_generation": 4, "num_iterations": 2, "max_completion_length": options.tokens},
        **{"epsilon": 0.2, "epsilon_high": 0.28, "delta": 10.0, "beta": 0.0, "learning_rate": 1e-6},
        **{"logging_steps": 1000, **({"objective": "dapo"} if arm == "dapo" else {})},
    )
    data = Dataset.from_dict({"prompt": [f"{i}+{i + 1}=" for i in range(512)]})

    def odd_length(completions, **kwargs):
        return [float(len(completion) % 2) for completion in completions]

    trainer = trainer(model, odd_length, args, data, processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    return trainer


def one_run(arm, options):
    """Trains once; seconds by part."""
    import torch
    from transformers import TrainerCallback

    on_gpu = torch.cuda.is_available()

    def now():
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    class Clock(TrainerCallback):
        def __init__(self):
            self.begun, self.ended = [], []

        def on_step_begin(self, *args, **kwargs):
            self.begun.append(now())

        def on_step_end(self, *args, **kwargs):
            self.ended.append(now())

    garbage = []
    gc.callbacks.append(lambda phase, info: garbage.append(time.perf_counter() * (1 if phase == "stop" else -1)))
    clock = Clock()
    with tempfile.TemporaryDirectory() as directory:
        trainer = make_trainer(arm, options, directory)
        trainer.add_callback(clock)
        before = torch.cuda.memory_stats() if on_gpu else {}
        garbage.clear()
        start, cpu = now(), time.process_time()
        trainer.train()
        end, cpu = now(), time.process_time() - cpu
    del gc.callbacks[-1]
    steps = [b - a for a, b in zip(clock.begun, clock.ended, strict=True)]
    result = {
        "total": end - start,
        "processor": cpu,
        "before the first step": clock.begun[0] - start,
        "generation steps": steps[::8],
        "other steps": [step for i, step in enumerate(steps) if i % 8],
        "after the last step": end - clock.ended[-1],
        "garbage": sum(garbage),
    }
    if on_gpu:
        after = torch.cuda.memory_stats()
        names = ("num_alloc_retries", "num_device_alloc", "num_device_free", "num_sync_all_streams")
        result |= {name: after[name] - before.get(name, 0) for name in names if name in after}
        result["peak GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return result


def profile_steps(arm, options):
    """Calls of the driver and time by operation, in a whole run."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    on_gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as directory:
        trainer = make_trainer(arm, options, directory)
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiled:
            trainer.train()
    events = profiled.key_averages()
    watched = ("LaunchKernel", "cudaMalloc", "cudaFree", "Synchronize", "cudaMemcpy", "_local_scalar_dense")
    return {
        "calls": {e.key: [e.count, e.self_cpu_time_total / 1e6] for e in events if any(w in e.key for w in watched)},
        "host": [[e.key, e.count, e.self_cpu_time_total / 1e6] for e in _top(events, "self_cpu_time_total")],
        "device": [[e.key, e.count, e.self_device_time_total / 1e6] for e in _top(events, "self_device_time_total")],
    }


def _top(events, by):
    return sorted(events, key=lambda event: -getattr(event, by))[:20]


def child(options):
    warnings.filterwarnings("ignore")
    runs = [one_run(options.arm, options) for _ in range(2)]
    profiled = profile_steps(options.arm, options) if options.profiled else None
    Path(options.output).write_text(json.dumps({"arm": options.arm, "runs": runs, "profile": profiled}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("step_profile.json"))
    parser.add_argument("--arm", choices=ARMS, help="one run, in this process")
    parser.add_argument("--profiled", action="store_true", help="of one run: with calls and operations")
    options = parser.parse_args()
    if options.arm:
        child(options)
        return
    found = collections.defaultdict(list)
    started = time.time()
    for turn in range(options.rounds):
        for arm in ARMS if turn % 2 == 0 else reversed(ARMS):
            with tempfile.NamedTemporaryFile(suffix=".json") as file:
                command = [sys.executable, __file__, "--arm", arm, "--output", file.name]
                command += ["--rows", str(options.rows), "--tokens", str(options.tokens)]
                command += ["--profiled"] if turn == options.rounds - 1 and arm in ("GRPO", "HTPO") else []
                subprocess.run(command, check=True, timeout=300)
                found[arm].append(json.loads(Path(file.name).read_text()))
            options.output.write_text(json.dumps(found, indent=1))  # what is known, should a later run fail
            for name, run in zip(("first", "second"), found[arm][-1]["runs"], strict=True):
                parts = {n: round(statistics.median(v) if isinstance(v, list) else v, 4) for n, v in run.items()}
                print(f"[{time.time() - started:5.0f} s] {arm}, {name} of its process: {parts}", flush=True)
    for which in (0, 1):
        for part in ("total", "generation steps", "other steps"):
            seconds = {arm: [run["runs"][which][part] for run in runs] for arm, runs in found.items()}
            medians = {arm: statistics.median(_flat(values)) for arm, values in seconds.items()}
            ratios = {arm: round(value / medians["GRPO"], 3) for arm, value in medians.items()}
            print(f"{('first', 'second')[which]} run, {part}: ratio to GRPO {ratios}", flush=True)


def _flat(values):
    return [each for value in values for each in (value if isinstance(value, list) else [value])]


if __name__ == "__main__":
    main()
