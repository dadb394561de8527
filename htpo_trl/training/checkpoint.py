"""
Exact resume: what a checkpoint needs beyond TRL's, and how to tell a complete checkpoint from a half-written one.

- `htpo_state_<rank>.safetensors`, one per process: the rollouts that are still to be trained on, and the counters.
  Which counters there are is decided in `resume.py` (`_counters`), and by a trainer that adds its own.
- `htpo_checkpoint.json`, the seal: written last and in one step, it lists every file of the checkpoint. A checkpoint
  without it, or that differs from it, is not resumed from.
"""

import hashlib
import json
import os
import warnings
from collections import deque
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..output.directory import SEAL
from ..output.reading import MAX_LOG_BYTES, parse_json, read_json
from ..output.writing import write_json
from ..utils import UsageError


#: Buffered rollouts, one per gradient step that is still to be done.
Batches = list[dict[str, Any]] | None
#: Of the state file. It goes up when what an older version wrote can no longer be resumed from.
FORMAT = 2
#: Bytes. Larger files, the weights of real models, are compared by size alone: hashing them would take minutes.
HASHED_UP_TO = 64 * 2**20
#: What to do instead of resuming from a checkpoint that is no good.
MEND = (
    "Resume from another checkpoint (resume_from_checkpoint=True takes the last complete one), or start from the "
    "weights of this one alone by passing its directory as `model`."
)


class CheckpointError(UsageError):
    """A checkpoint cannot be resumed from; the message names the file and the mend."""


def state_file(checkpoint: str | Path, rank: int) -> Path:
    """Where the process of this rank keeps its state in a checkpoint."""
    return Path(checkpoint, f"htpo_state_{rank}.safetensors")


def save_state(file: Path, writer: str, batches: Batches, counters: dict[str, Any]) -> None:
    """
    Write buffered rollouts, whose values are tensors or JSON, and counters, which are JSON. `writer` is the class of
    the trainer, which alone can go on from there.
    """
    tensors, others = {}, []
    for i, batch in enumerate(batches or []):
        others.append({name: value for name, value in batch.items() if not isinstance(value, torch.Tensor)})
        for name, value in batch.items():
            if isinstance(value, torch.Tensor):
                # A copy, since batches are views of one tensor, and safetensors refuses shared memory.
                tensors[f"{i}/{name}"] = value.detach().to("cpu", copy=True).contiguous()
    state = {"format": FORMAT, "writer": writer, "batches": batches if batches is None else others}
    state["counters"] = counters
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file, metadata={"htpo": json.dumps(state)})


def load_state(file: Path, writer: str, device: torch.device | str = "cpu") -> tuple[Batches, dict[str, Any]]:
    """
    What [`save_state`] wrote, with the tensors on `device`.

    Raises:
        CheckpointError: if the file is damaged, or of another format or class of trainer.
    """
    try:
        if not file.is_file():
            raise OSError("no regular file")
        with safe_open(file, framework="pt") as stored:
            state = parse_json(stored.metadata()["htpo"], MAX_LOG_BYTES)
            found = state.get("format", "none"), state.get("writer", "unknown")
            batches = state["batches"]
            for name in stored.keys() if found == (FORMAT, writer) else ():
                i, key = name.split("/", maxsplit=1)
                batches[int(i)][key] = stored.get_tensor(name).to(device)
            counters = state["counters"]
    except (OSError, SafetensorError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file} is missing or damaged ({error}). {MEND}") from error
    if found != (FORMAT, writer):
        raise CheckpointError(
            f"{file} has format {found[0]} and was written by {found[1]}; this is format {FORMAT} and {writer}. "
            f"Resume with the trainer and the version of htpo_trl that wrote it. {MEND}"
        )
    return batches, counters


def as_json(value: Any) -> Any:
    """What JSON makes of lists, mappings and their like; other objects by their text."""

    def written(each: Any) -> Any:
        return list(each) if isinstance(each, deque) else str(each)

    return json.loads(json.dumps(value, default=written))


def seal(checkpoint: str | Path) -> None:
    """Declare that all files of a checkpoint are written. Atomic."""
    checkpoint = Path(checkpoint)
    # A process that was killed here may have left its unfinished seal behind.
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and not path.name.startswith(SEAL))
    content = {str(path.relative_to(checkpoint)): _fingerprint(path) for path in files}
    write_json(checkpoint / SEAL, {"files": content})


def check(checkpoint: str | Path) -> None:
    """
    Check that a checkpoint is complete and undamaged.

    Raises:
        CheckpointError: naming the file that is missing, damaged or incomplete, and the mend.
    """
    file = Path(checkpoint, SEAL)
    if not os.path.isdir(file.parent):
        raise CheckpointError(f"resume_from_checkpoint={str(checkpoint)!r} is no directory. {MEND}")
    if not file.is_file() and (held := [path.name for path in file.parent.glob(f"{PREFIX_CHECKPOINT_DIR}-*")]):
        raise CheckpointError(
            f"resume_from_checkpoint={str(checkpoint)!r} is no checkpoint, but holds {', '.join(sorted(held)[:3])}: "
            "name one of these, or set it to 'auto', which takes the last complete one of output_dir."
        )
    if not file.is_file():
        raise CheckpointError(
            f"{file} is missing: the checkpoint was not written to its end, or not by HTPOTrainer, or with "
            f"save_only_model=True. {MEND}"
        )
    try:
        content = dict[str, Any](read_json(file)["files"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged ({error}). {MEND}") from error
    for name, expected in content.items():
        path = Path(checkpoint, name)
        if not os.path.isfile(path):  # unlike the path's own, of a name that is too long too
            raise CheckpointError(f"{path!s:.300} is missing. {MEND}")
        if _fingerprint(path) != expected:
            raise CheckpointError(f"{path} is damaged: it is not what was saved. {MEND}")


def chosen(resume_from_checkpoint: Any, output_dir: str | Path) -> str | None:
    """
    The checkpoint that the option names: `True` or `"true"` the last complete one of `output_dir`, `"auto"` that one
    if there is one, a path that one; `None`, for a start, where it is `None`, `False` or `"false"`.

    Raises:
        CheckpointError: if there is none, or the one that is named is incomplete or damaged.
    """
    word = str(resume_from_checkpoint).lower()
    if word in ("none", "false", ""):
        return None
    if word not in ("true", "auto"):
        check(resume_from_checkpoint)
        return str(resume_from_checkpoint)
    last = last_complete(output_dir)
    if last is None and word == "true":
        raise CheckpointError(
            f"resume_from_checkpoint=True, but there is no complete checkpoint in {output_dir}. Leave it out to start "
            "from the beginning, or set it to 'auto', which starts where there is none."
        )
    return last


def not_saved(directory: str | Path) -> str:
    """What an error says that came while a checkpoint was being written."""
    directory = Path(directory).absolute()
    return (
        f"{directory} is not complete and will not be resumed from; older checkpoints are as they were. If the free "
        "space did not suffice: delete the directory, free more (save_total_limit bounds what checkpoints take), and "
        "go on with resume_from_checkpoint=True."
    )


def last_complete(output_dir: str | Path) -> str | None:
    """The newest complete checkpoint in `output_dir`, with a warning for each newer one that is skipped."""
    prefix = f"{PREFIX_CHECKPOINT_DIR}-"
    steps = {path.name.removeprefix(prefix): path for path in Path(output_dir).glob(f"{prefix}*")}
    for step in sorted(filter(str.isdigit, steps), key=int, reverse=True):
        try:
            check(steps[step])
        except CheckpointError as error:
            warnings.warn(f"{steps[step]} is skipped. {error}", stacklevel=2)
        else:
            return str(steps[step])
    return None


def _fingerprint(file: Path) -> dict[str, Any]:
    size = file.stat().st_size
    if size > HASHED_UP_TO:
        return {"size": size}
    return {"size": size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
