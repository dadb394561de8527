"""One process at a time in a directory that runs write to: a lock that says who has it, and ends with its process."""

import fcntl
import json
import os
import re
import shlex
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..utils import UsageError
from .reading import parse_json
from .redaction import redact_command
from .writing import check_writable


#: The lock file of a directory, there while it is held. A push to the Hub leaves out what begins with `_`.
LOCK = "_in_use.lock"
_held: dict[Path, tuple[int, int]] = {}  # lock files of this process: descriptor, and thread


class OutputError(UsageError):
    """A directory cannot be written to: it is in use, holds another run, or is none."""


@contextmanager
def held(output_dir: str | Path, what: str) -> Iterator[None]:
    """
    Within, no other process may hold the directory, which is made. The lock is the kernel's and ends with this
    process, however that ends; the file `_in_use.lock` tells others who has it. A thread may hold what it holds.

    On a file system without locks the file alone decides, with a warning.

    Args:
        output_dir (`str` or `Path`):
            The directory.
        what (`str`):
            Who holds it: the command.

    Raises:
        OutputError: if it is in use, naming command, process and host.
        UsageError: if it cannot be written to.
    """
    path = Path(output_dir).resolve() / LOCK
    thread = threading.get_ident()
    if path in _held and _held[path][1] == thread:
        yield
        return
    check_writable("output_dir", output_dir)
    made = [each for each in path.parents if not each.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path, str(output_dir))
    except OSError as error:
        raise OutputError(f"output_dir={str(output_dir)!r} cannot be written to: {error.strerror}.") from error
    _held[path] = descriptor, thread
    try:
        _write(descriptor, what)
        yield
    finally:
        if _held.pop(path, None):  # not in a child that was forked within
            with suppress(OSError):
                path.unlink()  # before it is unlocked: whoever waits for it would lock a file that is gone
                for each in made:
                    each.rmdir()  # unless something was written
            os.close(descriptor)


def check_not_held(output_dir: str | Path) -> None:
    """Raise an [`OutputError`] where another process holds the directory. Nothing is made."""
    lock = Path(output_dir).resolve() / LOCK
    if lock.exists() and lock not in _held:
        with held(output_dir, "a check"):
            pass


def _acquire(path: Path, output_dir: str) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            holder = _lock(descriptor, path, output_dir)
            if _is_at(path, descriptor):  # else its holder has just removed it
                break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    if holder and holder.get("host") != socket.gethostname():
        warnings.warn(
            f"{output_dir} was left without a word by {_name(holder)}. Had it been killed, all is well; a file system "
            "may also keep its locks to each host: then stop one of the two.",
            stacklevel=4,
        )
    return descriptor


def _lock(descriptor: int, path: Path, output_dir: str) -> dict[str, Any]:
    """Lock the file, or raise. Returns who held it and did not give it back."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(output_dir, descriptor) from None
    except OSError as error:
        holder = _holder(descriptor)
        if holder and not _has_ended(holder):
            message = f"{_in_use(output_dir, descriptor)} If it has ended, remove {path}."
            raise OutputError(message) from None
        warnings.warn(
            f"{output_dir} cannot be locked ({error.strerror}): see to it that no run of another host writes there.",
            stacklevel=5,
        )
        return {}
    return _holder(descriptor)


def _in_use(output_dir: str, descriptor: int) -> OutputError:
    return OutputError(
        f"output_dir={output_dir!r} is in use by {_name(_holder(descriptor))}. Wait until it has ended, stop it, or "
        "choose another output_dir."
    )


def _write(descriptor: int, what: str) -> None:
    command = shlex.join(redact_command([Path(sys.argv[0]).name, *sys.argv[1:]]))[:500]
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    content = {"what": what, "pid": os.getpid(), "host": socket.gethostname(), "since": since, "command": command}
    with suppress(OSError):  # of a full disk: it is locked all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(content).encode(), 0)


def _holder(descriptor: int) -> dict[str, Any]:
    """What the file says; nothing where it was just made."""
    with suppress(OSError, ValueError):
        content = parse_json(str(os.pread(descriptor, 2**16, 0), "utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def _name(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process, which has just begun"
    what, pid, host, since, command = (
        re.sub(r"[^ -~]", "?", str(holder.get(key, "?"))) for key in ("what", "pid", "host", "since", "command")
    )
    return f"{what}, process {pid} on {host} since {since} ({command})"


def _has_ended(holder: dict[str, Any]) -> bool:
    """As far as can be known: of another host nothing is."""
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _is_at(path: Path, descriptor: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    return False


def _forget() -> None:
    """In a forked child, which would keep the lock when its parent has died."""
    while _held:
        os.close(_held.popitem()[1][0])


os.register_at_fork(after_in_child=_forget)
