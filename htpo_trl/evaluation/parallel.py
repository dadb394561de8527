"""
The processes that share an evaluation, and the devices of each. Every process has the whole model (with vLLM: an
engine of its own, over one GPU or several), so that what it draws is what one process would draw.
"""

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from torch import distributed

from ..utils import UsageError


# Of one wait for another process: a batch of long completions takes hours, and one that is gone is noticed at once.
_PATIENCE = timedelta(days=30)
_GRACE = 10  # seconds
# By them a launcher tells a process which one it is; an engine that found them would look for its like.
_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


class Processes(NamedTuple):
    """Which process this is, of how many. The first is the one that writes."""

    num_processes: int = 1
    process_index: int = 0
    group: Any = None  #: of torch.distributed; in training the default one

    def gather(self, rows: list[Any]) -> list[Any]:
        """The rows of all processes, in their order, on the first; on the others none."""
        if self.num_processes == 1:
            return rows
        every: list[Any] | None = None if self.process_index else [None] * self.num_processes
        with self._others_there():
            distributed.gather_object(rows, every, group=self.group)
        return [row for part in every or [] for row in part]

    def share(self, value: Any) -> Any:
        """The value that the first process has."""
        if self.num_processes == 1:
            return value
        values = [value]
        with self._others_there():
            distributed.broadcast_object_list(values, group=self.group)
        return values[0]

    @contextmanager
    def _others_there(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # of gloo: a connection was closed
            if self.group is None:
                raise
            # The one that ended has its say, and the launcher learns which was the first; it ends this one meanwhile.
            time.sleep(_GRACE)
            raise UsageError(
                "Another process of the evaluation has ended. What was written stays: called again, it goes on."
            ) from error


_current: list[Processes] = []  # within `joined`


@contextmanager
def joined() -> Iterator[Processes]:
    """
    Within, this is one of the processes that a launcher (`htpo eval --num_processes`, torchrun, accelerate) started.

    Enter it before anything that can fail: who waits for a process that never came waits long.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or _current:
        yield _current[0] if _current else Processes()
        return
    if distributed.is_initialized():  # by a script's Accelerator, say, whose patience is of minutes
        group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
    else:
        distributed.init_process_group("gloo", timeout=_PATIENCE)
        group = distributed.group.WORLD
    _current.append(Processes(size, distributed.get_rank(), group))
    try:
        yield _current[0]
    finally:
        _current.clear()
        distributed.destroy_process_group(group)


def own_device() -> str | None:
    """Where a process of several puts its model: the GPU of its rank, or the CPU. `None` where it is the only one."""
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true":
        return "cpu"
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    if not torch.cuda.is_available():
        return "cpu"
    check_devices(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def devices_of(vllm_options: Mapping[str, Any]) -> int:
    """Number of GPUs that an engine of vLLM spreads the model over."""
    return math.prod(vllm_options.get(f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline"))


def check_devices(processes: int, each: int) -> None:
    """Refuse more processes on this machine, of so many GPUs each, than it has GPUs; one without any cannot tell."""
    there = torch.cuda.device_count()
    if processes > 1 and there and processes * each > there:
        kind = f"{each} GPUs each (tensor_parallel_size)" if each > 1 else "a GPU each"
        raise UsageError(
            f"num_processes={processes} on a machine, with {kind}, need {processes * each} GPUs; there are {there}. "
            f"Set num_processes={max(there // each, 1)}{' and a smaller tensor_parallel_size' * (each > there)}."
        )


def check_engine(vllm_options: Mapping[str, Any], heads: int | None = None) -> None:
    """Refuse what an engine in one process, or in each of several, cannot do; `heads` of attention are divided."""
    if "data_parallel_size" in vllm_options:
        raise UsageError(
            "vllm_options: an engine in one process has no data_parallel_size. Set the option of that name instead, "
            "--data_parallel_size: as many processes, each with an engine."
        )
    size = vllm_options.get("tensor_parallel_size", 1)
    if not isinstance(size, int) or size < 1:
        raise UsageError(f"tensor_parallel_size={size!r} must be at least 1.")
    if heads and heads % size:
        raise UsageError(f"tensor_parallel_size={size} must divide the model's {heads} attention heads.")


@contextmanager
def engine_alone(vllm_options: Mapping[str, Any]) -> Iterator[None]:
    """
    Within, an engine of vLLM that is started in one of several processes sees the GPUs of this one alone, and nothing
    of the others: it has a process group of its own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0":
        raise UsageError(
            "VLLM_ENABLE_V1_MULTIPROCESSING=0 puts vLLM's engine into this process, which shares the evaluation with "
            "others. Leave it out, or evaluate in one process."
        )
    each, local_rank = devices_of(vllm_options), int(os.environ.get("LOCAL_RANK", "0"))
    check_devices(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), each)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[local_rank * each : (local_rank + 1) * each])
    found = [name for name in os.environ if name in _LAUNCHER or name.startswith("TORCHELASTIC_")]
    kept = {name: os.environ.pop(name) for name in found}
    try:
        yield
    finally:
        os.environ.update(kept)
