"""A user's first real run, by the command: SmolLM2-135M-Instruct with LoRA learns one-digit arithmetic on a CPU.

    python -m benchmarks.smollm2_command_line MODEL [--seeds 0 1 2] [--objectives htpo dapo]

MODEL is the directory of the model, or its id on the Hub; `examples/smollm2_lora.py` says how to get it from PyPI.
Each run is `htpo train --config smollm2-135m-cpu` in a process of its own, about 10 minutes on an idle core. Finished
runs are kept under `runs/`, so that the script can be stopped and called again. Writes
`benchmarks/results/smollm2_command_line.json`: accuracy on held-out problems before and after, paired, with intervals.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from htpo_trl.evaluation import compare
from htpo_trl.utils import versions


ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "smollm2_command_line.json"
RECIPE = "smollm2-135m-cpu"


def run(model: str, objective: str, seed: int, directory: Path) -> dict:
    """Train, unless that is done, and read what the run left."""
    record = directory / "record.json"
    if not record.exists():
        argv = ["train", "--config", RECIPE, "--model_name_or_path", model, "--objective", objective]
        argv += ["--seed", str(seed), "--output_dir", str(directory), "--disable_tqdm", "true"]
        started = time.perf_counter()
        with (ROOT / "runs" / f"{directory.name}.log").open("w") as log:
            command = [sys.executable, "-c", "from htpo_trl.cli import main; main()", *argv]
            subprocess.run(command, check=True, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # of the largest child so far
        record.write_text(json.dumps({"seconds": round(time.perf_counter() - started), "peak_gib": round(peak, 2)}))
    log = json.loads((directory / "trainer_state.json").read_text())["log_history"]
    first, last = sorted((directory / "evaluation").glob("step-*"), key=lambda path: int(path.name.split("-")[1]))
    (mean,) = (r for r in compare(first, last) if r["metric"].startswith("mean@"))
    return {
        "objective": objective,
        "seed": seed,
        **json.loads(record.read_text()),
        "steps": [int(path.name.split("-")[1]) for path in (first, last)],
        "held_out": mean,
        "reward": {row["step"]: row["reward"] for row in log if "reward" in row},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--objectives", nargs="+", default=["htpo"])
    args = parser.parse_args()
    (ROOT / "runs").mkdir(exist_ok=True)
    runs = [
        run(args.model, objective, seed, ROOT / "runs" / f"smollm2-cli-{objective}-seed{seed}")
        for seed in args.seeds
        for objective in args.objectives
    ]
    RESULTS.write_text(json.dumps({"recipe": RECIPE, "versions": versions(), "runs": runs}, indent=1) + "\n")
    for record in runs:
        m = record["held_out"]
        print(
            f"{record['objective']}, seed {record['seed']}: {m['first']:.3f} -> {m['second']:.3f}, difference "
            f"{m['difference']:.3f} [{m['low']:.3f}, {m['high']:.3f}], {record['seconds']} s"
        )


if __name__ == "__main__":
    main()
