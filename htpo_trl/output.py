"""
The directories that runs write to: one run at a time (`held`), none over another (`check_free`), cleared on demand
(`overwrite`).
"""

import fcntl
import json
import os
import re
import shlex
import shutil
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .redaction import redact_command
from .utils import UsageError


#: The lock file of a directory, there while it is held. A push to the Hub leaves out what begins with `_`.
LOCK = "_in_use.json"
#: The options of a run, and the versions of its packages.
SETTINGS = "settings.json"
# What a run leaves that another one would take for its own, as patterns below `output_dir`. What begins with `runs/`
# is TensorBoard's, `completions/` what `log_completions` keeps.
_OF_A_RUN = (
    *("checkpoint-*", "evaluation/step-*", "tokens/step-*", "completions/completions_*.parquet"),
    *("runs/*/events.out.tfevents.*", "trainer_state.json", "training_args.bin"),
)
_WEIGHTS = (
    *("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model-*-of-*.bin", "pytorch_model.bin.index.json"),
    *("adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"),
)
_held: dict[Path, tuple[int, int]] = {}  # lock files of this process: descriptor, and thread


class OutputError(UsageError):
    """A directory cannot be written to: it is in use, holds another run, or is none."""


# ---- one at a time


@contextmanager
def held(output_dir: str | Path, what: str) -> Iterator[None]:
    """
    Within, no other process may hold the directory, which is made. The lock is the kernel's and ends with this
    process, however that ends; the file `_in_use.json` tells others who has it. A thread may hold what it holds.

    On a file system without locks the file alone decides, with a warning.

    Args:
        output_dir (`str` or `Path`):
            The directory.
        what (`str`):
            Who holds it: the command.

    Raises:
        OutputError: if it is in use, naming command, process and host; or cannot be written to.
    """
    path = Path(output_dir).resolve() / LOCK
    thread = threading.get_ident()
    if path in _held and _held[path][1] == thread:
        yield
        return
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
        del _held[path]
        with suppress(OSError):
            path.unlink()  # before it is unlocked: whoever waits for it would lock a file that is gone
        os.close(descriptor)


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
        content = json.loads(os.pread(descriptor, 2**16, 0))
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


# ---- none over another


def check_free(
    output_dir: str | Path,
    resume_from_checkpoint: bool | str | None = None,
    overwrite: bool = False,
    inputs: Sequence[str | Path | None] = (),
) -> None:
    """
    Check that a run may write to a directory; nothing is changed.

    Args:
        output_dir (`str` or `Path`):
            The directory, which need not exist.
        resume_from_checkpoint (`bool` or `str`, *optional*):
            As for `htpo train`. A run that goes on, or `"auto"`, finds its own files there; one that goes on from a
            checkpoint elsewhere needs a free directory.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether another run there is to be removed, see [`overwrite`].
        inputs (`Sequence[str]`, *optional*):
            What the run reads, where it is a path: model, data. None may lie in what is removed.

    Raises:
        OutputError: if the directory is in use, cannot be written to, or holds another run, with the mend.
    """
    directory, name = Path(output_dir), f"output_dir={str(output_dir)!r}"
    existing = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise OutputError(f"{name} cannot be written to: {existing} is a file.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"{name} cannot be written to: you have no permission to write in {existing}.")
    if (lock := directory.resolve() / LOCK).exists() and lock not in _held:
        with held(output_dir, "a check"):
            pass
    if _goes_on(directory, resume_from_checkpoint):
        return
    run, others = _found(directory)
    if not run and others:
        raise OutputError(f"{name} holds files that are not a run's ({_listed(others)}). Choose another output_dir.")
    if run and not overwrite:
        raise OutputError(
            f"{name} holds another run ({_listed(run)}). Choose another output_dir, go on with that run by "
            "--resume_from_checkpoint auto, or remove it by --overwrite_output_dir."
        )
    for path in (Path(each).resolve() for each in inputs if each and os.path.exists(each)):
        for removed in [*run, *others]:
            if path == directory.resolve() or path.is_relative_to(removed.resolve()):
                raise OutputError(
                    f"{name} holds {str(path)!r}, which this run reads and --overwrite_output_dir would remove. "
                    "Choose another output_dir."
                )


def overwrite(output_dir: str | Path) -> None:
    """
    Remove what a run has left in a directory: checkpoints, weights, logs, settings, evaluations, recorded tokens and
    completions; links, not what they point to. Everything else stays, and all of a directory that holds no run.
    """
    run, others = _found(Path(output_dir))
    for path in [*(path for path in others if path.name != SETTINGS), *run] if run else []:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _goes_on(directory: Path, checkpoint: bool | str | None) -> bool:
    if not isinstance(checkpoint, str):
        return bool(checkpoint)
    if checkpoint.lower() in ("true", "auto", "false", ""):
        return checkpoint.lower() in ("true", "auto")
    return Path(checkpoint).resolve().parent == directory.resolve()


def _found(directory: Path) -> tuple[list[Path], list[Path]]:
    """What a run has left, `settings.json` last: until that is removed, it is one; and what a model may have, too."""
    run, weights = ([p for pattern in each for p in sorted(directory.glob(pattern))] for each in (_OF_A_RUN, _WEIGHTS))
    run = [path for path in run if not path.name.startswith("checkpoint-") or path.name[11:].isdigit()]
    settings = directory / SETTINGS
    if settings.exists():
        (run if _is_of_a_run(settings) else weights).append(settings)
    return run, weights


def _is_of_a_run(settings: Path) -> bool:
    """Editors have a `settings.json`, too."""
    with suppress(OSError, ValueError), settings.open("rb") as file:
        return "versions" in json.loads(file.read(2**24))
    return False


def _listed(paths: Sequence[Path]) -> str:
    names = [path.name for path in paths]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
