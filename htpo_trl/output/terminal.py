"""What a command does at its terminal: closed descriptors, readers that go away, secrets, signals."""

import errno
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from .redaction import redact_text


#: Warnings of an end that is near: a terminal that closes, Slurm's `--signal`, `qsub -notify`.
WARNINGS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO)


# What moves a cursor, colours, names a window or turns text around, but for tabs and line breaks.
_CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# Colours and movements of progress bars and tables. Of a stranger's text these alone could get through, in what other
# packages print.
_HARMLESS = re.compile(r"(\r|\x1b\[(?:[\d;]{0,40}[mABCDGHJK]|\?25[hl]))")


def printable(text: str) -> str:
    """Text of a stranger for a terminal: control characters, and those that turn text around, as `\\x1b`."""
    if text.isprintable():
        return text
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def steady_streams() -> Callable[[], None]:
    """
    From now on what is printed ends no run, shows no secret, and sends a terminal colours and the cursor's movements
    alone. Output that nobody reads any more (`| head`, a lost
    terminal) goes nowhere, and so does what a full disk has no room for; a standard stream that was closed is
    /dev/null, so that no file gets its number. Streams that were replaced, by a notebook or a test, are left alone.

    Returns:
        `Callable`: takes it back.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            _to_nowhere(descriptor)
    originals = {name: getattr(sys, name) for name in ("stdin", "stdout", "stderr")}
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 (as long as this process)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = originals[name]
        if stream is None or stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _Stream(descriptor, stream))
    ours = {name: getattr(sys, name) for name in originals}

    def undo() -> None:
        for name, stream in originals.items():
            if stream is not ours[name] is getattr(sys, name):
                ours[name].flush() if name != "stdin" else None
                setattr(sys, name, stream)

    return undo


class _Stream(io.TextIOWrapper):
    """`sys.stdout` or `sys.stderr`."""

    def __init__(self, descriptor: int, like: Any) -> None:
        if like is not None:
            with suppress(OSError, ValueError):
                like.flush()
        super().__init__(
            io.BufferedWriter(_Descriptor(descriptor, "w", closefd=False)),
            encoding=getattr(like, "encoding", "utf-8"),
            errors="backslashreplace" if getattr(like, "errors", "strict") == "strict" else like.errors,
            line_buffering=descriptor == 2 or getattr(like, "line_buffering", False),
            write_through=getattr(like, "write_through", False),
        )

    def write(self, text: str) -> int:
        parts = _HARMLESS.split(redact_text(text))  # every second one is one of these
        super().write("".join(part if i % 2 else printable(part) for i, part in enumerate(parts)))
        return len(text)


class _Descriptor(io.FileIO):
    def write(self, data: Any) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in _GONE:
                _to_nowhere(self.fileno())  # for the processes that are started here, too
            return len(data)


def _to_nowhere(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null == descriptor:
        os.set_inheritable(null, True)
    else:
        os.dup2(null, descriptor)
        os.close(null)


def warnings_to_heed() -> tuple[int, ...]:
    """Those of `WARNINGS` that would end this process: not what `nohup` ignores, and not what another one handles."""
    return tuple(signum for signum in WARNINGS if signal.getsignal(signum) in (signal.SIG_DFL, _stop))


class Stopped(KeyboardInterrupt):
    """A signal other than SIGINT, handled as Ctrl-C is; its number is the argument."""


def _stop(signum: int, frame: Any) -> None:
    for each in (signal.SIGTERM, *WARNINGS):  # launchers pass one on several times
        if signal.getsignal(each) is _stop:
            signal.signal(each, signal.SIG_IGN)
    raise Stopped(signum)


@contextmanager
def stoppable(command: str, advice: str) -> Iterator[None]:
    """
    Within, Ctrl-C, SIGTERM and the `WARNINGS` end the command as an error would: files are closed, a line says how to
    go on, and the exit code is 128 + the signal's number.
    """
    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {signum: signal.signal(signum, _stop) for signum in (signal.SIGTERM, *warnings_to_heed())}
    try:
        yield
    except KeyboardInterrupt as error:
        number = error.args[0] if isinstance(error, Stopped) else signal.SIGINT
        said = "" if isinstance(error, Stopped) or not error.args else f" {error}"
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"\n{command}: stopped by {signal.Signals(number).name}.{said or f' {advice}'}", file=sys.stderr)
        sys.exit(128 + number)
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
