"""The laptop job over seeds and objectives: what it gains, and what HTPO does against DAPO.

    python benchmarks/laptop_seeds.py                     # table of the committed results
    python benchmarks/laptop_seeds.py --run runs/seeds    # first run what is missing there: 8 minutes each
    python benchmarks/laptop_seeds.py --demo runs/laptop/htpo-seed0    # keep what `htpo demo` gave, for the docs

Each seed is a whole run (model, warm start, reinforcement); the objectives of one seed share its warm start. Raw
results, with every held-out problem, are in `results/laptop`.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from htpo_trl.data import load
from htpo_trl.demo.laptop import LaptopConfig, run
from htpo_trl.evaluation import mean_with_interval, pass_at_k
from htpo_trl.objective import EFFECTS


RESULTS = Path(__file__).parent / "results" / "laptop"
DEMO = RESULTS.with_name("demo.json")
OBJECTIVES = ("htpo", "dapo")
SEEDS = range(5)


def run_missing(directory: Path) -> None:
    for objective in OBJECTIVES:
        for seed in SEEDS:
            options = {"objective": objective, "seed": seed, "output_dir": str(directory)}
            config = LaptopConfig(**options, warm_start="fresh", samples=64)
            finished = directory / f"{objective}-seed{seed}"
            if not (finished / "report" / "index.html").exists():  # written last
                run(config)
            RESULTS.mkdir(parents=True, exist_ok=True)
            result = raw_results(finished, config.steps)
            (RESULTS / f"{objective}-seed{seed}.json").write_text(json.dumps(result, indent=1) + "\n")


def raw_results(finished: Path, steps: int) -> dict:
    """What is kept of a run: its options, the samples that solved each problem, and what the rules touched."""
    settings = json.loads((finished / "settings.json").read_text())
    log = json.loads((finished / "trainer_state.json").read_text())["log_history"]
    touched = {effect: [row[key] for row in log if (key := f"htpo/special/{effect}") in row] for effect in EFFECTS}
    samples, before = correct(finished, 0)
    _, after = correct(finished, steps)
    return {
        "config": settings["HTPOConfig"],
        "versions": settings["versions"],
        "problems": load("countdown", split="test")["problem"][:],
        "samples": samples,
        "correct_before": before,
        "correct_after": after,
        "touched": {effect: float(np.mean(shares)) for effect, shares in touched.items() if shares},
    }


def correct(finished: Path, step: int) -> tuple[int, list[int]]:
    """Samples per problem, and how many of each problem's are correct."""
    solved: dict[str, list[bool]] = {}
    with (finished / "evaluation" / f"step-{step}" / "countdown.jsonl").open() as file:
        for row in map(json.loads, file):
            solved.setdefault(row["problem"], []).append(row["verdict"] == "correct")
    (samples,) = set(map(len, solved.values()))
    return samples, list(map(sum, solved.values()))


def summarize(result: dict) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Metric -> before, after and their paired difference, each as mean and 95% interval over problems."""
    n, table = result["samples"], {}
    for k in (1, 4, 16, 64):
        values = {when: pass_at_k(n, result[f"correct_{when}"], k) for when in ("before", "after")}
        values["difference"] = values["after"] - values["before"]
        table[f"pass@{k}"] = {name: mean_with_interval(value) for name, value in values.items()}
    return {f"mean@{n}": table["pass@1"], **table}


def interval(values: list[float]) -> str:
    """Mean and 95% interval over the five seeds, by Student's t with four degrees of freedom."""
    half = 2.776 * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):+.3f} ± {half:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="directory of the runs; those that are missing are run")
    parser.add_argument("--demo", type=Path, help="directory of a run of `htpo demo`, whose results are to be kept")
    arguments = parser.parse_args()
    if arguments.demo:
        DEMO.write_text(json.dumps(raw_results(arguments.demo, LaptopConfig.steps), indent=1) + "\n")
        return
    if arguments.run:
        run_missing(arguments.run)

    runs = {
        objective: [json.loads((RESULTS / f"{objective}-seed{seed}.json").read_text()) for seed in SEEDS]
        for objective in OBJECTIVES
    }
    results = {objective: [summarize(each) for each in rows] for objective, rows in runs.items()}
    print("mean@64 on held-out problems, with 95% intervals over problems:\n")
    print("| seed | before | after HTPO | gain | after DAPO | gain |\n| --- | --- | --- | --- | --- | --- |")
    for seed, (htpo, dapo) in enumerate(zip(results["htpo"], results["dapo"], strict=True)):
        cells = [htpo["mean@64"]["before"], htpo["mean@64"]["after"], htpo["mean@64"]["difference"]]
        cells += [dapo["mean@64"]["after"], dapo["mean@64"]["difference"]]
        print(f"| {seed} | " + " | ".join(f"{mean:.3f} [{low:.3f}, {high:.3f}]" for mean, low, high in cells) + " |")

    print("\nOver seeds, with 95% intervals over seeds:\n")
    print("| metric | gain of HTPO | gain of DAPO | HTPO - DAPO, paired by seed |\n| --- | --- | --- | --- |")
    for metric in results["htpo"][0]:
        gains = {name: [row[metric]["difference"][0] for row in rows] for name, rows in results.items()}
        paired = [a - b for a, b in zip(gains["htpo"], gains["dapo"], strict=True)]
        print(f"| {metric} | {interval(gains['htpo'])} | {interval(gains['dapo'])} | {interval(paired)} |")
    print("\nMean share of tokens that a rule of HTPO changed:\n")
    for effect in runs["htpo"][0]["touched"]:
        print(f"- {effect}: " + ", ".join(f"{100 * each['touched'][effect]:.3f}%" for each in runs["htpo"]))


if __name__ == "__main__":
    main()
