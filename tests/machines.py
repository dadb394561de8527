"""
Two machines of one process each, as far as a program can tell: `python -m tests.machines -m MODULE ARGUMENT...` runs
the module twice with what torchrun would set on each of two machines, so that both processes are of local rank 0.

The processes are forks of one that has imported the module, which takes longer than a small run.
"""

import gc
import importlib
import os
import runpy
import signal
import socket
import sys


def start(file: str, rank: int, port: int) -> int:
    """Fork, and run the file in the fork. Returns its process id."""
    pid = os.fork()
    if pid == 0:
        os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "RANK": str(rank), "LOCAL_RANK": "0"}
        os.environ |= {"GROUP_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        runpy.run_path(file, run_name="__main__")
        sys.exit()
    return pid


def main() -> int:
    _, module = sys.argv.pop(1), sys.argv.pop(1)
    file = str(importlib.import_module(module).__file__)
    gc.freeze()  # what was imported is no garbage, and there is much of it
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    running = {start(file, rank, port) for rank in range(2)}
    failed = False
    while running:
        pid, status = os.wait()
        running.discard(pid)
        if status and not failed:  # the other one would wait for it
            failed = True
            for other in running:
                os.kill(other, signal.SIGTERM)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
