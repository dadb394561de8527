"""
What `examples/slurm.sh` needs of Slurm, on this machine: `sbatch` sets the variables, `srun` starts a task for each
node, with its own, and passes signals on to them, and `scontrol` knows the nodes' names and notes who is requeued.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

from .distributed_run import ENVIRONMENT, ROOT


SRUN = """
import os, signal, subprocess, sys

command = sys.argv[next(i for i, word in enumerate(sys.argv) if i and not word.startswith("--")):]
tasks = []
for signum in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(signum, lambda signum, frame: [task.send_signal(signum) for task in tasks])
for i in range(int(os.environ["SLURM_NNODES"])):
    own = {"SLURM_NODEID": str(i), "SLURM_PROCID": str(i), "SLURM_LOCALID": "0"}
    tasks.append(subprocess.Popen(command, env=os.environ | own, start_new_session=True))
codes = [task.wait() for task in tasks]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""
SCONTROL = """
import os, sys

if sys.argv[1:3] == ["show", "hostnames"]:
    print(sys.argv[3].replace(",", "\\n"))
elif sys.argv[1:] == ["requeue", os.environ["SLURM_JOB_ID"]]:
    open(os.environ["REQUEUED"], "a").write("requeued\\n")
else:
    sys.exit(f"scontrol: {sys.argv}")
"""


def install(directory: Path) -> Path:
    """Put the commands, and `htpo`, into a directory for the PATH."""
    directory.mkdir()
    for name, code in {"srun": SRUN, "scontrol": SCONTROL, "htpo": "from htpo_trl.cli import main; main()"}.items():
        (directory / name).write_text(f"#!{sys.executable}\n{code}")
        (directory / name).chmod(0o755)
    return directory


def sbatch(bin: Path, place: Path, *options: object, n_nodes: int = 2, **environment: str) -> subprocess.Popen:
    """Start `examples/slurm.sh` as a job on nodes that are all this machine, each with a process."""
    while True:  # the script's port is of its job, 20000 and more: a free one
        job = int.from_bytes(os.urandom(2)) % 10000
        with socket.socket() as found:
            if found.connect_ex(("localhost", 20000 + job)):
                break
    variables = {
        **{"SLURM_JOB_ID": str(job), "SLURM_NNODES": str(n_nodes), "SLURM_GPUS_ON_NODE": "1"},
        **{"SLURM_JOB_NODELIST": ",".join(["localhost"] * n_nodes), "REQUEUED": str(place / "requeued")},
        "PATH": f"{bin}{os.pathsep}{ENVIRONMENT['PATH']}",
    }
    return subprocess.Popen(
        # The signals of a job, whatever those of the tests are; the job tells its number.
        [
            *("env", "--default-signal", "bash", "-c", 'export BATCH=$$; exec bash "$@"', "bash"),
            *(str(ROOT / "examples" / "slurm.sh"), *map(str, options)),
        ],
        cwd=place,
        env=ENVIRONMENT | variables | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
