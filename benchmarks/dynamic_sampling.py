"""
What dynamic sampling does on a task of which half the prompts cannot be solved: one and two processes, three seeds.

    python -m benchmarks.dynamic_sampling benchmarks/results/dynamic_sampling.json

About 4 minutes on two cores. The runs are those of `tests/training_run.py`.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

from tests.kill_and_resume import model_and_tokenizer
from tests.training_run import mixed_groups, start


METRICS = ("rounds", "frac_informative", "generated_per_trained", "seconds")


def measure(directory: Path, n_processes: int, seed: int, dynamic: bool) -> dict:
    options = {
        "num_generations": 4,
        "per_device_train_batch_size": 10 // n_processes,  # of 2 processes, groups straddle both
        "steps_per_generation": 2,
        "max_steps": 16,
        "max_sampling_rounds": 30,
        "seed": seed,
        "dynamic_sampling": dynamic,
    }
    spec = {"directory": str(directory), "options": options}
    start(spec, n_processes).finish()
    ranks = [json.loads((directory / f"result_{i}.json").read_text()) for i in range(n_processes)]
    rows = [row for row in ranks[0]["log"] if "reward" in row]
    result = {
        "processes": n_processes,
        "seed": seed,
        "dynamic_sampling": dynamic,
        "frac_mixed": mixed_groups([rank["seen"] for rank in ranks], 4),
        "frac_reward_zero_std": statistics.mean(row["frac_reward_zero_std"] for row in rows),
        "step_time": sum(row["step_time"] for row in ranks[0]["log"] if "step_time" in row),
    }
    if dynamic:
        result |= {name: statistics.mean(row[f"htpo/sampling/{name}"] for row in rows) for name in METRICS}
    return result


def main(path: Path) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        model_and_tokenizer(Path(name))
        for n_processes in (1, 2):
            for seed in range(3):
                for dynamic in (False, True):
                    rows.append(measure(Path(name), n_processes, seed, dynamic))
                    print(json.dumps(rows[-1]), flush=True)
    path.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
