"""Time of an optimizer step of `HTPOTrainer` against TRL's `GRPOTrainer`, and of the demo by phase.

    python benchmarks/step_time.py [--pairs 10] [--output FILE]

Both train the laptop model on countdown with the same settings and seed, in interleaved pairs of short runs on one
thread, generation included. The smaller the model, the larger the share of what HTPO adds: this one has 0.6 million
parameters.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
from datasets import Dataset
from transformers import PrinterCallback, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from htpo_trl import HTPOConfig, HTPOTrainer
from htpo_trl.check.step_time import Clock, timed
from htpo_trl.data.countdown import countdown_reward, problems
from htpo_trl.demo.warm_start import build_model, build_tokenizer


STEPS = 16
SETTINGS = {
    "per_device_train_batch_size": 64,
    "num_generations": 16,
    "steps_per_generation": 4,
    "epsilon_high": 0.28,
    "delta": 10.0,
    "max_completion_length": 64,
    "max_steps": STEPS,
    "learning_rate": 1e-4,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
}


def train(cls, config, model_state):
    tokenizer, model = build_tokenizer(), build_model()
    model.load_state_dict(model_state)
    rng = random.Random(0)
    prompts = Dataset.from_dict({"prompt": [problem.prompt(rng) for problem in problems("train")]})
    clock = Clock(time.perf_counter)
    trainer = cls(model, countdown_reward, config, prompts, processing_class=tokenizer, callbacks=[clock])
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [b - a for a, b in zip(clock.begun, clock.ended, strict=True)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--model", type=Path, help="directory of a warm start, by default an untrained model")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "step_time.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Qwen3ForCausalLM.from_pretrained(arguments.model) if arguments.model else build_model()
    state = model.state_dict()

    with tempfile.TemporaryDirectory() as directory:
        arms = {
            "grpo": lambda: train(GRPOTrainer, GRPOConfig(directory, **SETTINGS), state),
            "htpo": lambda: train(HTPOTrainer, HTPOConfig(directory, **SETTINGS), state),
            "htpo trainer, dapo table": lambda: train(
                HTPOTrainer, HTPOConfig(directory, objective="dapo", **SETTINGS), state
            ),
        }
        seconds = {name: [] for name in arms}
        for _ in range(arguments.pairs):
            for name, run in arms.items():
                # The first generation batch of a process warms caches up.
                seconds[name].append(statistics.mean(run()[4:]))

        phases = defaultdict(float)
        names = {
            "_generate": "generate",
            "_calculate_rewards": "score: rewards",
            "_generate_and_score_completions": "score: the rest",
            "_get_per_token_logps_and_entropies": "forward (old log-probs and loss)",
            "_control_objective": "transform and sums of metrics",
            "_log_sums": "metrics",
            "_compute_loss": "loss: the rest",
            "training_step": "backward and the rest of a step",
        }
        took = sum(
            train(timed(HTPOTrainer, time.perf_counter, phases, names), HTPOConfig(directory, **SETTINGS), state)
        )
    phases["optimizer"] = took - sum(phases.values())

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print("| trainer | median s per step | ratio to GRPOTrainer, median of pairs |\n| --- | --- | --- |")
    ratios = {}
    for name in arms:
        ratios[name] = [a / b for a, b in zip(seconds[name], seconds["grpo"], strict=True)]
        print(f"| {name} | {medians[name]:.4f} | {statistics.median(ratios[name]):.3f} |")
    print("\n| phase | s per step | share |\n| --- | --- | --- |")
    for phase, value in sorted(phases.items(), key=lambda item: -item[1]):
        print(f"| {phase} | {value / STEPS:.4f} | {100 * value / took:.1f}% |")
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(
        json.dumps(
            {
                "torch": torch.__version__,
                "threads": 1,
                "seconds_per_step": seconds,
                "ratio_to_grpo": ratios,
                "phase_seconds_per_step": {phase: value / STEPS for phase, value in phases.items()},
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
