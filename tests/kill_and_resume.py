"""
Kill runs by SIGKILL, resume each from its last complete checkpoint, and compare with a run that was not killed:
weights bit for bit, rollouts, and every logged value but timings.

    python -m tests.kill_and_resume benchmarks/results/kill_and_resume.json

The default is every moment below, on one process and on two (half an hour on two cores); tests use `kill_and_resume`.
"""

import json
import random
import signal
import string
import sys
import tempfile
import time
from pathlib import Path

from htpo_trl.demo.warm_start import build_tokenizer

from .tiny import tiny_model
from .training_run import start


# Eight gradient steps per generation batch, a checkpoint each third: most lie between two generations. The data are
# three batches, so that the last steps are of another epoch, in another order.
OPTIONS = {
    "num_generations": 4,
    "steps_per_generation": 4,
    "num_iterations": 2,
    "max_steps": 34,
    "save_strategy": "steps",
    "save_steps": 3,
    "save_total_limit": 2,
    "dynamic_sampling": True,
    "max_sampling_rounds": 30,
}
MOMENTS = [
    *(f"generation:{n}" for n in (3, 40, 70, 100)),
    *(f"backward:{n}" for n in (2, 4, 9, 16, 23, 30)),
    *(f"step:{n}" for n in (7, 12, 28)),
    *(f"save:{n}" for n in (1, 12, 20, 25, 33, 41, 50, 58)),
    *(f"sight:{name}" for name in ("checkpoint-3/optimizer.pt", "checkpoint-12/htpo_checkpoint.json.partial")),
    *(f"random:{seed}" for seed in range(6)),
]
TIMES = ("seconds", "runtime", "time", "per_second")


def make_spec(directory: Path, run: str, n_processes: int, **kwargs) -> dict:
    options = OPTIONS | {"per_device_train_batch_size": 6 // n_processes} | kwargs.pop("options", {})
    return {"directory": str(directory), "run": run, "n_prompts": 18, "dropout": 0.1, "options": options} | kwargs


def results(directory: Path, n_processes: int) -> list[dict]:
    files = [directory / f"result_{i}.json" for i in range(n_processes)]
    ranks = [json.loads(file.read_text()) for file in files]
    for file, rank in zip(files, ranks, strict=True):
        file.unlink()
        rank["seconds"] = rank["log"][-1]["train_runtime"]
        rank["log"] = [
            {name: value for name, value in row.items() if not name.endswith(TIMES)} for row in rank["log"][:-1]
        ]
    return ranks


def uninterrupted(directory: Path, n_processes: int, **kwargs) -> list[dict]:
    start(make_spec(directory, "whole", n_processes, **kwargs), n_processes).finish()
    return results(directory, n_processes)


def kill_and_resume(directory: Path, moment: str, n_processes: int, expected: list[dict], **kwargs) -> dict:
    """Kill a run at `moment`, and resume it until its end; `kwargs` are of the run."""
    name = moment.replace(":", "-").replace("/", "-")
    kind, where = moment.split(":")
    inside = kind in ("generation", "backward", "step", "save")
    # Of two processes, the second is killed where it does the same as the first.
    rank = n_processes - 1 if kind in ("generation", "backward") else 0
    spec = make_spec(directory, name, n_processes, **kwargs, **({"die": moment, "die_rank": rank} if inside else {}))
    processes = start(spec, n_processes)
    if not inside:
        seconds = random.Random(where).uniform(0, 0.8) * expected[0]["seconds"] if kind == "random" else 0
        sight = directory / name / (where if kind == "sight" else "checkpoint-3")
        while not processes.ended() and not sight.exists():
            pass
        seen = time.monotonic()
        while not processes.ended():
            if time.monotonic() - seen >= seconds:
                processes.kill()
                break
    killed = processes.join()[rank] == -signal.SIGKILL
    checkpoints = sorted(int(path.name.split("-")[1]) for path in (directory / name).glob("checkpoint-*"))
    complete = [n for n in checkpoints if (directory / name / f"checkpoint-{n}" / "htpo_checkpoint.json").exists()]

    spec = make_spec(directory, name, n_processes, resume=bool(complete), **kwargs)
    start(spec, n_processes).finish()
    got = results(directory, n_processes)
    return {
        "moment": moment,
        "processes": n_processes,
        "killed": killed,
        "checkpoints": checkpoints,
        "complete": complete,
        "same_weights": [r["weights"] for r in got] == [r["weights"] for r in expected],
        "same_log": [r["log"] for r in got] == [r["log"] for r in expected],
        "same_rollouts": all(
            len(g["seen"]) == 0 or e["seen"][-len(g["seen"]) :] == g["seen"]
            for g, e in zip(got, expected, strict=True)
        ),
    }


def main(path: Path) -> None:
    rows = json.loads(path.read_text()) if path.exists() else []  # goes on where it stopped
    done = {(row["processes"], row["moment"]) for row in rows}
    for n_processes in (1, 2):
        moments = [moment for moment in MOMENTS if (n_processes, moment) not in done]
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            model_and_tokenizer(directory)
            expected = uninterrupted(directory, n_processes) if moments else []
            for moment in moments:
                rows.append(kill_and_resume(directory, moment, n_processes, expected))
                print(json.dumps(rows[-1]), flush=True)
                path.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    print(table(rows))


def table(rows: list[dict]) -> str:
    """The table of docs/resume.md: the last complete checkpoint there was, and what the resumed run was like."""
    lines = ["| moment | one process | two processes |", "| --- | --- | --- |"]
    for moment in dict.fromkeys(row["moment"] for row in rows):
        cells = {}
        for row in rows:
            if row["moment"] == moment:
                same = row["same_weights"] and row["same_log"] and row["same_rollouts"]
                last = f"step {row['complete'][-1]}" if row["complete"] else "start"
                half = [n for n in row["checkpoints"] if n not in row["complete"]]
                cells[row["processes"]] = f"{last}{f' ({half[-1]} half-written)' if half else ''}: " + (
                    ("same" if same else "**differs**") if row["killed"] else "not killed, had ended"
                )
        lines.append(f"| `{moment}` | {cells.get(1, '')} | {cells.get(2, '')} |")
    return "\n".join(lines)


def model_and_tokenizer(directory: Path) -> None:
    tiny_model().save_pretrained(directory / "model")
    build_tokenizer(string.digits).save_pretrained(directory / "model")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
