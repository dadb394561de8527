"""What work on a stranger's file may take: a second of the CPU and 200 MB, whatever the file says."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def bounds(seconds: float = 1.0, megabytes: float = 200) -> Iterator[None]:
    """
    Within, this process fails where it takes more than so much CPU time or so much more memory, or waits for a minute.
    """

    def stop(signum, frame):
        raise AssertionError(f"it took more than {seconds:g} s" if signum == signal.SIGPROF else "it waits")

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handlers = {signum: signal.signal(signum, stop) for signum in (signal.SIGPROF, signal.SIGALRM)}
    resource.setrlimit(resource.RLIMIT_AS, (size + int(megabytes * 1e6), before[1]))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 60)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
