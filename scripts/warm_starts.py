"""
The warm starts that the package brings: htpo_trl/warm_starts/NAME, in bfloat16, and in warm_start.json what they are.

    python scripts/warm_starts.py laptop-warm-start      # 6 minutes, on one thread: the same weights again
    python scripts/warm_starts.py laptop-warm-start --output_dir /tmp/again
    python scripts/warm_starts.py laptop-long-warm-start # 10 minutes, from laptop-warm-start
"""

import argparse
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM
from warm_start_long import run, validate

from htpo_trl.demo.laptop import LaptopConfig, measure, prepare
from htpo_trl.output.reading import read_json
from htpo_trl.output.writing import write_json
from htpo_trl.scripts.arguments import WARM_STARTS
from htpo_trl.utils import versions


SEED = 0
RECIPE = "aim-then-search"  # of the one for four numbers
LOSSES = 40  # the first steps, for a test to follow
_MAKERS = ("htpo_trl", "trl", "transformers", "accelerate", "datasets", "torch", "numpy", "safetensors")


def laptop(directory: Path) -> dict[str, Any]:
    """That of the laptop job. Returns what is to be told of it."""
    config = LaptopConfig(seed=SEED, threads=1)
    losses = prepare(config, directory)
    return {"seed": config.seed, "steps": len(losses), "losses": losses[:LOSSES]}


def validate_laptop(model: Any, directory: Path) -> dict[str, Any]:
    """Its validation problems."""
    return measure(model, "validation", 16, directory, quick=False)


def laptop_long(directory: Path) -> dict[str, Any]:
    """Four numbers: by the recipe of warm_start_long.py, whose run is used where it is in runs/warm_start_long."""
    done = run(RECIPE, SEED, Path("runs/warm_start_long"))
    place = Path("runs/warm_start_long", f"{RECIPE}-seed{SEED}")
    directory.mkdir()
    for file in [*place.glob("*.safetensors"), *place.glob("*config.json"), *place.glob("tokenizer*.json")]:
        shutil.copy(file, directory)
    return {"begins with": "laptop-warm-start", **{name: done[name] for name in ("seed", "steps", "losses")}}


#: Name → how it is made, and how it is evaluated.
JOBS: dict[str, tuple[Callable[[Path], dict[str, Any]], Callable[[Any, Path], dict[str, Any]]]] = {
    "laptop-warm-start": (laptop, validate_laptop),
    "laptop-long-warm-start": (laptop_long, validate),
}


def make(name: str, target: Path) -> None:
    """Train it, round it, evaluate the rounded weights in float32, as the recipes load them."""
    train, validate = JOBS[name]
    torch.set_num_threads(1)  # sums of several depend on their number
    with TemporaryDirectory() as place:
        made, results = Path(place, "made"), Path(place, "results")
        told = train(made)
        Qwen3ForCausalLM.from_pretrained(made, dtype=torch.bfloat16).save_pretrained(target)
        for file in made.glob("tokenizer*.json"):  # one that was loaded would tell of that
            shutil.copy(file, target)
        model = Qwen3ForCausalLM.from_pretrained(target, dtype=torch.float32)
        summary = validate((model, AutoTokenizer.from_pretrained(target)), results)
        (record,) = results.glob("*.json")
        sampling = read_json(record)["settings"]["sampling"]
    weights = target / "model.safetensors"
    weights.chmod(0o644)  # safetensors writes for its user alone
    validation = {"split": "validation", "problems": summary["problems"], "sampling": sampling}
    told |= {
        "threads": torch.get_num_threads(),
        "validation": {**validation, "metrics": {key: summary["metrics"][key] for key in ("mean@16", "pass@16")}},
        **{name: summary[name] for name in ("completions",) if name in summary},
        "sha256": {weights.name: hashlib.sha256(weights.read_bytes()).hexdigest()},
        "versions": {package: version for package, version in versions().items() if package in _MAKERS},
    }
    write_json(target / "warm_start.json", told)
    print(f"{target}: mean@16 {summary['metrics']['mean@16']}, {weights.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=JOBS, metavar="NAME", help=", ".join(JOBS))
    parser.add_argument("--output_dir", type=Path, default=WARM_STARTS, help="by default htpo_trl/warm_starts")
    arguments = parser.parse_args()
    for name in arguments.names:
        make(name, arguments.output_dir / name)


if __name__ == "__main__":
    main()
