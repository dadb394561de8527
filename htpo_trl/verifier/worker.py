"""The limits within which answers are compared in a worker process."""

import math
import os
import resource
import signal
import sys
import time

from .algebra import compare


_memory_limit = math.inf  # bytes of peak memory at which this worker is given up


def limit(mebibytes: int) -> None:
    """Limits this process for good: its memory beyond what it starts with (on Linux), no core dumps, no files."""
    global _memory_limit
    # pebble's handler of SIGTERM would wait for the end of a long step in C.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform == "linux":
        with open("/proc/self/statm") as statm:
            virtual = int(statm.read().split()[0]) * resource.getpagesize()
        size = mebibytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (virtual + size, virtual + size))
        _memory_limit = _peak_memory() + 0.8 * size


def compare_within_limits(gold: str, answer: str, deadline: float) -> str:
    """`compare` in a worker that `limit` has prepared; the pool ends the worker at the deadline, in seconds."""
    # Should the pool's own process be killed, the kernel ends the worker soon after.
    seconds = math.ceil(time.process_time() + deadline) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
    verdict = compare(gold, answer)
    if _peak_memory() > _memory_limit:
        # math-verify swallows a MemoryError and calls the answer wrong. To end here tells, and frees the memory.
        os._exit(1)
    return verdict


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # KiB on Linux
