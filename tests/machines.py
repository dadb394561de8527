"""
Two machines, two processes on each, by two `htpo train` on this one: stopped and killed in many ways, and gone on with
by the same commands. What they end with is compared with a run that was not stopped, bit for bit, and with one
process.

    python -m tests.machines benchmarks/results/machines.json

About 15 minutes on two idle cores. A part of it is in `tests/processes/test_command_line.py`.
"""

import hashlib
import json
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from htpo_trl.demo.warm_start import build_tokenizer

from .distributed_run import ENVIRONMENT, PORT, ROUND_OFF
from .place import make_place


#: What happens in the third of six steps, to which processes; a checkpoint was saved after the second.
DRILLS = {
    "SIGTERM to one command": ("SIGTERM", "launcher"),
    "SIGUSR1 to one command": ("SIGUSR1", "launcher"),
    "SIGKILL of a whole machine": ("SIGKILL", "machine"),
    "SIGKILL of the first machine": ("SIGKILL", "first"),
    "SIGKILL of one process": ("SIGKILL", "process"),
}
#: Configuration of accelerate -> its drills.
DRILLS_OF = {"ddp-cpu": [*DRILLS], **dict.fromkeys(("zero2-cpu", "zero3-cpu"), [*DRILLS][:3:2])}
# Completions are forced by `judge`; it is the second machine's first process that acts, or the first machine's.
JUDGE = """
import os, signal, time

import psutil
from judge import even_digits


def struck(completions, trainer_state, **kwargs):
    signum, _, target = os.environ.get("STRIKE", "").partition(" ")
    if target and trainer_state.global_step == 2 and os.environ["RANK"] == ("0" if target == "first" else "2"):
        launcher = psutil.Process(os.getppid())
        others = [each for each in launcher.children(recursive=True) if each.pid != os.getpid()]
        open("struck", "w").write(str(time.time()))
        if target != "process":
            launcher.send_signal(getattr(signal, signum))
        if signum == "SIGKILL":
            [each.kill() for each in others if target != "process"]
            os.kill(os.getpid(), signal.SIGKILL)
        while not signal.getsignal(getattr(signal, signum)).__self__.received:
            time.sleep(0.01)
    return even_digits(completions)
"""


def start(place: Path, config: str, output_dir: str, strike: str = "") -> list[dict]:
    """Run the same command on both machines; what became of each."""
    (place / "struck").unlink(missing_ok=True)
    argv = [*("train", "--config", "recipe.yaml", "--accelerate_config", config, "--output_dir", output_dir)]
    argv += ["--reward_funcs", "machines_judge.struck", "--per_device_train_batch_size", "6", "--save_steps", "2"]
    argv += ["--num_machines", "2", "--num_processes", "4", "--main_process_ip", "127.0.0.1"]
    argv += ["--main_process_port", str(PORT), "--resume_from_checkpoint", "auto", "--save_total_limit", "2"]
    machines = [
        subprocess.Popen(
            [*("env", "--default-signal", sys.executable, "-m", "htpo_trl", *argv, "--machine_rank", str(rank))],
            cwd=place,
            env=ENVIRONMENT | {"STRIKE": strike},
            stdout=(place / f"out-{rank}").open("w"),
            stderr=(place / f"err-{rank}").open("w"),
        )
        for rank in (0, 1)
    ]
    ended: dict[int, float] = {}
    while len(ended) < 2:
        for rank, machine in enumerate(machines):
            if rank not in ended and machine.poll() is not None:
                ended[rank] = time.time()
        time.sleep(0.05)
    struck = float((place / "struck").read_text()) if strike else None
    return [
        {
            "exit_code": machine.returncode if machine.returncode >= 0 else 128 - machine.returncode,
            "seconds": round(ended[rank] - struck, 1) if struck else None,
            "told": [
                line.replace(f" ({socket.gethostname()})", "")
                for name in ("out", "err")
                for line in (place / f"{name}-{rank}").read_text().splitlines()
                if line.startswith(("htpo train", "Stopped by"))
            ],
        }
        for rank, machine in enumerate(machines)
    ]


def result(directory: Path) -> dict:
    """Weights and log, but for timings; of a run that went on its log is whole."""
    log = json.loads((directory / "trainer_state.json").read_text())["log_history"]
    rows = [
        {name: value for name, value in row.items() if not name.endswith(("time", "seconds", "runtime", "per_second"))}
        for row in log
        if "grad_norm" in row
    ]
    weights = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    return {"weights": weights, "log": rows}


def difference(one: Path, other: Path) -> float:
    """The largest of the weights' differences, relative to the largest weight or 1; tied ones may be saved twice."""
    first, second = (load_file(path / "model.safetensors") for path in (one, other))
    pairs = [(first[name], second[name]) for name in first]
    largest = max(1.0, *(float(a.abs().max()) for a, _ in pairs))
    return max(float(torch.abs(a - b).max()) for a, b in pairs) / largest


def drill(place: Path, config: str, name: str) -> dict:
    signum, target = DRILLS[name]
    output_dir = f"{config}-{signum}-{target}"
    stopped = start(place, config, output_dir, f"{signum} {target}")
    complete = sorted(path.parent.name for path in (place / output_dir).glob("checkpoint-*/htpo_checkpoint.json"))
    resumed = start(place, config, output_dir)
    same = {}
    if all(machine["exit_code"] == 0 for machine in resumed):
        got, expected = result(place / output_dir), result(place / f"{config}-whole")
        same = {f"same_{what}": got[what] == expected[what] for what in got}
    return {"config": config, "drill": name, "stopped": stopped, "complete": complete, "resumed": resumed, **same}


def main(path: Path) -> None:
    rows = json.loads(path.read_text()) if path.exists() else []  # goes on where it stopped
    with tempfile.TemporaryDirectory() as name, make_place(Path(name), build_tokenizer(string.digits)) as place:
        (place / "machines_judge.py").write_text(JUDGE)
        single = ["--config", "recipe.yaml", "--output_dir", "single", "--reward_funcs", "machines_judge.struck"]
        command = [sys.executable, "-m", "htpo_trl", "train", *single]
        subprocess.run(command, cwd=place, env=ENVIRONMENT, check=True, capture_output=True)
        for config, drills in DRILLS_OF.items():
            done = {row["drill"] for row in rows if row["config"] == config}
            if left := [each for each in ["none", *drills] if each not in done]:
                whole = start(place, config, f"{config}-whole")
            for each in left:
                if each == "none":
                    differs = difference(place / "single", place / f"{config}-whole")
                    rows.append({"config": config, "drill": each, "stopped": whole, "from_one_process": differs})
                else:
                    rows.append(drill(place, config, each))
                print(json.dumps(rows[-1]), flush=True)
                path.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    print(table(rows))


def table(rows: list[dict]) -> str:
    """The table of docs/failures.md: how each machine ended, when, and what the run was like that went on."""
    lines = [
        "| what happened | | first machine | second machine | gone on with |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        ends = [
            f"{each['exit_code']}" + (f" after {each['seconds']:.0f} s" if each["seconds"] is not None else "")
            for each in row["stopped"]
        ]
        if row["drill"] == "none":
            n = row["from_one_process"]
            what = f"as one process, {n:.0e}" if n < ROUND_OFF else f"**differs**, {n:.0e}"
        else:
            what = "same" if row.get("same_weights") and row.get("same_log") else "**differs**"
            what = f"from {row['complete'][-1].replace('checkpoint-', 'step ')}: {what}"
        lines.append(f"| {row['drill']} | `{row['config']}` | {ends[0]} | {ends[1]} | {what} |")
    return "\n".join(lines)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(Path(sys.argv[1]))
