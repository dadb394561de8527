"""
Loading a data set and trying its golds, against `datasets.load_dataset`: time and peak memory above the imports, in
processes of their own, in turns. Files of problems of some 200 characters, with integers and LaTeX as answers.

    python benchmarks/loading.py [--rows 300000 1000000] [--repeats 5]
"""

import argparse
import csv
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet


RESULTS = Path(__file__).parent / "results" / "loading.json"
KINDS = {".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
WORDS = (
    *("find", "the", "number", "of", "positive", "integers", "such", "that", "divides", "and", "is", "a", "perfect"),
    *("square", "of", "real", "solutions", "to"),
)


def gold(rng: random.Random) -> str:
    """An integer, every other time, or LaTeX."""
    a, b, n = rng.randrange(1, 999), rng.randrange(2, 99), str(rng.randrange(10 ** rng.randrange(1, 6)))
    latex = (f"\\frac{{{a}}}{{{b}}}", f"{b}\\sqrt{{{a}}}", f"({a}, {b})", f"{a}x^2+{b}", f"\\frac{{{a}\\pi}}{{{b}}}")
    return rng.choice((n, rng.choice(latex)))


def make(folder: Path, count: int) -> list[Path]:
    """The same rows in each format."""
    rng = random.Random(0)
    rows = [
        {"problem": f"Let $x_{{{i}}}={rng.random()}$. " + " ".join(rng.choices(WORDS, k=34)), "solution": gold(rng)}
        for i in range(count)
    ]
    paths = [folder / f"{count}{suffix}" for suffix in KINDS]
    paths[0].write_text("".join(json.dumps(row) + "\n" for row in rows))
    with paths[1].open("w", newline="") as file:
        writer = csv.DictWriter(file, ["problem", "solution"])
        writer.writeheader()
        writer.writerows(rows)
    parquet.write_table(pa.Table.from_pylist(rows), paths[2])
    return paths


def peak() -> float:
    """The peak of this process's resident memory, in MB."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1e3  # type: ignore[index]


def measure(how: str, path: str) -> None:
    """One load, in this process; prints seconds and MB."""
    import datasets
    import pyarrow.csv
    import pyarrow.json  # noqa: F401

    from htpo_trl.data import columns, load, trial  # noqa: F401
    from htpo_trl.verifier import VerifierConfig

    datasets.disable_progress_bars()
    before, start = peak(), time.perf_counter()
    if how == "ours":
        dataset = load(path)
        loaded = time.perf_counter()
        trial.try_golds(path, dataset, VerifierConfig())
    else:
        with tempfile.TemporaryDirectory() as cache:
            kind = KINDS[Path(path).suffix]
            dataset = datasets.load_dataset(kind, data_files=path, split="train", cache_dir=cache)
            loaded = time.perf_counter()
    end = time.perf_counter() if how == "ours" else loaded
    print(json.dumps({"rows": len(dataset), "load": loaded - start, "seconds": end - start, "mb": peak() - before}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[300_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--measure", nargs=2, metavar=("HOW", "PATH"))
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for path in [path for count in arguments.rows for path in make(Path(folder), count)]:
            runs: dict[str, list[dict]] = {"ours": [], "load_dataset": []}
            for _ in range(arguments.repeats):
                for how, found in runs.items():
                    command = [sys.executable, __file__, "--measure", how, str(path)]
                    found.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
            medians = {
                how: {key: statistics.median(run[key] for run in found) for key in ("seconds", "mb")}
                for how, found in runs.items()
            }
            ratios = {key: medians["ours"][key] / medians["load_dataset"][key] for key in ("seconds", "mb")}
            results[path.name] = {"medians": medians, "ratios": ratios, "runs": runs}
            print(path.name, json.dumps({**medians, "ratios": ratios}), flush=True)
    arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
