"""Short runs of the recipe `laptop-long`: what each of HTPO's rules touches, time of a step, memory, what is learned.

    python benchmarks/laptop_long_rules.py --model laptop-long-warm-start --steps 20 --seeds 0

Counts the tokens of every group, and those of them whose objective the table really changes, over the whole run. A
seed that is in the file already is not run again.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import TrainerCallback

from htpo_trl.objective.table import EFFECTS, GROUPS
from htpo_trl.output.writing import write_json
from htpo_trl.scripts.arguments import load_recipe
from htpo_trl.scripts.htpo import build, parse


RESULTS = Path(__file__).parent / "results" / "laptop_long_rules.json"
LOGGED = (
    "htpo/accuracy",
    "htpo/frac_hard",
    "completions/mean_length",
    "completions/clipped_ratio",
    "entropy",
    "grad_norm",
)


class Clock(TrainerCallback):
    """The time at which each optimizer step ended."""

    def __init__(self):
        self.ended = [time.perf_counter()]

    def on_step_end(self, args, state, control, **kwargs):
        self.ended.append(time.perf_counter())


def run(seed: int, steps: int, changes: dict) -> dict:
    counts = torch.zeros(len(GROUPS), 1 + len(EFFECTS), dtype=torch.long)

    def count(*, mask, result, **_):
        of_group = mask.bool() & (result.groups >= 0)
        places = result.groups[of_group].long() * (1 + len(EFFECTS)) + result.effects[of_group].long()
        counts.view(-1).add_(torch.bincount(places, minlength=counts.numel()))

    recipe = {name: value for name, value in load_recipe("laptop-long")[1].items() if not name.startswith("eval_")}
    with tempfile.TemporaryDirectory() as directory:
        options = {
            "output_dir": directory,
            "save_strategy": "no",
            "max_steps": steps,
            "seed": seed,
            "disable_tqdm": True,
        }
        trainer = build(*parse([], recipe | options | changes))
        clock, processor = Clock(), time.process_time()
        trainer.loss_observers.append(count)
        trainer.add_callback(clock)
        trainer.train()
        processor = time.process_time() - processor
    tokens = counts.sum().item()
    seconds = [b - a for a, b in zip(clock.ended, clock.ended[1:], strict=False)]
    return {
        "seed": seed,
        "steps": steps,
        "learning_rate": trainer.args.learning_rate,
        "tokens": tokens,
        "share of tokens": {group: counts[i].sum().item() / tokens for i, group in enumerate(GROUPS)},
        "touched tokens": {
            group: {effect: n for effect, n in zip(EFFECTS, counts[i, 1:].tolist(), strict=True) if n}
            for i, group in enumerate(GROUPS)
        },
        "seconds a step": statistics.fmean(seconds),
        "CPU seconds a step": processor / steps,
        "GB at most": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "log": {name: [row[name] for row in trainer.state.log_history if name in row] for name in LOGGED},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="laptop-long-warm-start")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--learning_rate", type=float, default=load_recipe("laptop-long")[1]["learning_rate"])
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = json.loads(arguments.output.read_text())["runs"] if arguments.output.exists() else []
    for seed in arguments.seeds:
        changes = {"model_name_or_path": arguments.model, "learning_rate": arguments.learning_rate}
        if not any(
            (run["seed"], run["steps"], run["learning_rate"]) == (seed, arguments.steps, arguments.learning_rate)
            for run in runs
        ):
            runs.append(run(seed, arguments.steps, changes))
            write_json(arguments.output, {"machine": "one thread of a shared machine with two cores", "runs": runs})
            print(json.dumps({name: value for name, value in runs[-1].items() if name != "log"}, indent=1))


if __name__ == "__main__":
    main()
