"""A worker process: compares answers within limits, and is no use to a text that takes it over."""

import ctypes
import json
import math
import os
import resource
import signal
import sys
import time
from multiprocessing.connection import Connection

from .algebra import compare


#: What a worker replies, by the index as one byte.
OUTCOMES = ("correct", "wrong", "unparsable_answer", "unparsable_gold", "crashed")
#: Added to that byte by a worker which is to be replaced.
SPENT = 128
#: Exit status of a worker whose answer took too much memory.
OUT_OF_MEMORY = 3

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000

_SWALLOWING = (
    *("math_verify.grader", "math_verify.parser"),
    *("latex2sympy2_extended.latex2sympy2", "latex2sympy2_extended.math_normalization"),
)

_memory_limit = math.inf  # bytes of peak memory at which this worker is given up
_most_resident = math.inf  # bytes that it may keep from one answer to the next


def serve(pipe: Connection, memory_limit: int, deadline: float) -> None:
    """Replies to pairs of gold and answer that come by the pipe, until it is closed. Limits this process for good."""
    limit(memory_limit)
    while True:
        try:
            gold, answer = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        index = OUTCOMES.index(compare_within_limits(gold, answer, deadline))
        # What earlier answers have left in caches must not be missing to the next one.
        spent = SPENT if _resident() > _most_resident else 0
        # One byte cannot come in part, and the pool's process parses nothing that a worker says.
        os.write(pipe.fileno(), bytes([index + spent]))


def limit(mebibytes: int) -> None:
    """Limits this process for good: its memory beyond what it starts with (on Linux), no core dumps, no files."""
    global _memory_limit, _most_resident
    tell_shortage()
    for which in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):  # root can start processes
        resource.setrlimit(which, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # with the pool's process, however that ends
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        size = mebibytes * 2**20
        virtual = _pages(0) * resource.getpagesize()
        _set_limit(resource.RLIMIT_AS, virtual + size, for_good=True)
        _memory_limit = _peak_memory() + 0.8 * size
        _most_resident = _resident() + 0.2 * size


def leave_network() -> None:
    """Leaves this process, and those that it forks, without a network where the kernel lets a user do so."""
    if sys.platform == "linux":
        ctypes.CDLL(None).unshare(_CLONE_NEWUSER | _CLONE_NEWNET)


def tell_shortage() -> None:
    """
    Lets math-verify no longer take a lack of memory or of stack for "no match". It catches `Exception`, in four
    modules: in these, that name is now a tuple of all other errors.
    """
    errors = [*Exception.__subclasses__(), *RuntimeError.__subclasses__()]
    others = tuple(error for error in errors if error not in (MemoryError, RecursionError, RuntimeError))
    for name in _SWALLOWING:
        vars(sys.modules[name])["Exception"] = others


def compare_within_limits(gold: str, answer: str, deadline: float) -> str:
    """`compare` in a worker that `limit` has prepared; the pool ends the worker at the deadline, in seconds."""
    # Should the pool's own process be killed, the kernel ends the worker soon after.
    _set_limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + deadline) + 1)
    try:
        verdict = compare(gold, answer)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except Exception:  # what math-verify raised and did not catch
        verdict = "crashed"
    if _peak_memory() > _memory_limit:
        # To end here frees the memory, and tells of it where a MemoryError was swallowed on the way.
        os._exit(OUT_OF_MEMORY)
    return verdict


def _set_limit(which: int, value: int, for_good: bool = False) -> None:
    """Sets a limit to this value, or to what the shell or the cluster has set, which cannot be raised."""
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value if for_good else hard))


def _resident() -> int:
    return _pages(1) * resource.getpagesize() if sys.platform == "linux" else 0


def _pages(field: int) -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[field])


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # KiB on Linux
