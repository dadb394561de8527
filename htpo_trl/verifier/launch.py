"""The verifier's process as its client sees it: how it is started, asked and ended."""

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any


# Variables that Python and the C library read. No others: what is not there cannot be given away, a token for one.
_ENVIRONMENT = re.compile(
    "PATH|HOME|LANG|LC_[A-Z]+|TZ|TMPDIR|(DY)?LD_LIBRARY_PATH|SYSTEMROOT|"
    "PYTHON(HOME|USERBASE|NOUSERSITE|HASHSEED|UTF8|DONTWRITEBYTECODE|PYCACHEPREFIX)"
)
_DEPENDENCIES = ("math-verify", "latex2sympy2-extended", "sympy", "mpmath", "antlr4-python3-runtime")


class ServerError(Exception):
    """The process has ended; the message says how."""


class ServerProcess:
    """A process that serves requests as `server.main` does; settings: those of `VerifierConfig`."""

    def __init__(self, settings: dict[str, Any]):
        near, far = socket.socketpair()
        errors, its_errors = os.pipe()
        # Where a daemon has closed the standard streams, what others write to those must not end up in the socket.
        self._socket = socket.socket(fileno=_above_standard_streams(near.detach()))
        self._errors = open(_above_standard_streams(errors), "rb", buffering=0)  # noqa: SIM115 (until the end)
        # Nobody reads while it runs: what is too much is dropped. And all three streams are its own, since others'
        # files may have the numbers of closed ones.
        os.set_blocking(self._errors.fileno(), False)
        os.set_blocking(its_errors, False)
        try:
            # A session of its own: Ctrl-C is for the trainer, which then closes the server.
            self._process = subprocess.Popen(
                [*_command(), json.dumps(settings)],
                stdin=far.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=its_errors,
                cwd="/",
                env={name: value for name, value in os.environ.items() if _ENVIRONMENT.fullmatch(name)},
                start_new_session=True,
            )
        except OSError:
            self._socket.close()
            self._errors.close()
            raise
        finally:
            far.close()
            os.close(its_errors)

    def ask(self, request: Any, seconds: float) -> list[str]:
        """Its reply; raises `TimeoutError` or, if it ends before, [`ServerError`]."""
        self._socket.settimeout(seconds)
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            with self._socket.makefile("rb") as replies:
                line = replies.readline()
        except ConnectionError:
            line = b""
        reply = json.loads(line) if line.endswith(b"\n") else self.end()
        if isinstance(reply, str):
            raise ServerError(reply)
        return reply

    def end(self) -> str:
        """Ends the process, if it has not ended; returns how it did, with the last line that it wrote."""
        self._socket.close()
        try:
            status = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        if self._errors.closed:
            return how
        with self._errors:
            lines = (self._errors.read() or b"").decode(errors="replace").strip().splitlines()
        return ": ".join([how, *lines[-1:]])

    def forget(self) -> None:
        """In a forked child, of which it is no child, and out of reach."""
        self._socket.close()
        self._errors.close()
        self._process.returncode = 0  # nothing to wait for


def _command() -> list[str]:
    """
    The command line, less the settings. Nothing is imported from the working directory or that of the script, where a
    file may be named like a library: the interpreter's own path comes first, and what it lacks is taken from where its
    distribution is installed. Of this package only the directory is known.
    """
    package = Path(__file__).parents[1]
    code = (
        f"import sys, types; sys.path += {_more_places()}; "
        f"package = sys.modules[{package.name!r}] = types.ModuleType({package.name!r}); "
        f"package.__path__ = [{str(package)!r}]; from {__package__}.server import main; main()"
    )
    return [sys.executable, "-P", "-c", code]


def _more_places() -> list[str]:
    """Directories in which this process finds what the server needs, such as those of `PYTHONPATH` on a cluster."""
    script = getattr(sys.modules["__main__"], "__file__", None) or "."
    places, strange = set(), set()
    with suppress(FileNotFoundError):  # a working directory that has been removed
        strange = {os.path.realpath(os.getcwd()), os.path.dirname(os.path.realpath(script))}
    for name in _DEPENDENCIES:
        with suppress(PackageNotFoundError, FileNotFoundError):
            places.add(os.path.realpath(str(distribution(name).locate_file(""))))
    return sorted(places - strange)


def _above_standard_streams(descriptor: int) -> int:
    """The same file by a descriptor above 2."""
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return copy
