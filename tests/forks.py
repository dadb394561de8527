"""
Processes that start at once: forks of a server that has imported torch, TRL and this package, which takes longer than
a small run. Each is a process like any other, that can be killed.
"""

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any


CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.preload"])


class Forks:
    """
    A process that calls a function, or one for each of several ranks. What they print goes to one file.

    Args:
        function (`Callable`):
            Of a module.
        *arguments:
            Of the function; whatever can be pickled.
        output (`Path`):
            The file.
        n_processes (`int`, *optional*, defaults to `1`):
            Where there are more, each gets the environment that torchrun would give it.
        n_machines (`int`, *optional*, defaults to `1`):
            Which the processes are spread over, as far as they can tell.
    """

    def __init__(
        self, function: Callable, *arguments: Any, output: Path, n_processes: int = 1, n_machines: int = 1
    ) -> None:
        self.output = output
        output.write_text("")
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        per_machine = n_processes // n_machines
        self.processes = []
        for rank in range(n_processes):
            machine, local_rank = divmod(rank, per_machine)
            environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
            if n_processes > 1:
                environment |= {"RANK": str(rank), "WORLD_SIZE": str(n_processes), "GROUP_RANK": str(machine)}
                environment |= {"LOCAL_RANK": str(local_rank), "LOCAL_WORLD_SIZE": str(per_machine)}
                environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            process = CONTEXT.Process(target=_call, args=(function, arguments, environment, output))
            process.start()
            self.processes.append(process)

    def ended(self) -> bool:
        return all(process.exitcode is not None for process in self.processes)

    def kill(self) -> None:
        for process in self.processes:
            process.kill()

    def join(self, timeout: float = 600) -> list[int | None]:
        """Wait for all, and return their exit codes. When one fails, the others, which may wait for it, are ended."""
        running = {process.sentinel: process for process in self.processes}
        while running:
            ended = wait(running, timeout)
            for sentinel in ended:
                running.pop(sentinel).join()
            if not ended:
                self.kill()
            elif any(process.exitcode for process in self.processes):
                for process in running.values():
                    process.terminate()
        return [process.exitcode for process in self.processes]

    def finish(self) -> None:
        """Wait for all, which must end well."""
        codes = self.join()
        assert not any(codes), f"{codes}\n{self.output.read_text()[-6000:]}"


def _call(function: Callable, arguments: tuple, environment: dict[str, str], output: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(file, standard)
    function(*arguments)
