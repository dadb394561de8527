"""What a run may write to: a directory that is free (`check_free`), or cleared on demand (`overwrite`)."""

import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import wraps
from pathlib import Path
from typing import Any

from ..utils import UsageError, main_process_decides
from .lock import OutputError, check_not_held, held
from .reading import read_json
from .writing import check_writable


#: The options of a run, and the versions of its packages.
SETTINGS = "settings.json"
#: The file that lists all others of a complete checkpoint.
SEAL = "htpo_checkpoint.json"
# Patterns below `output_dir`: what tells that a run has been there,
_OF_A_RUN = ("checkpoint-*", "trainer_state.json", "training_args.bin")
# what else it leaves that another one would take for its own (`runs/` is TensorBoard's, the completions are those of
# `log_completions`), and what it shares with any model.
_BESIDE = (
    *("evaluation/step-*", "tokens/step-*", "completions/completions_*.parquet", "runs/*/events.out.tfevents.*"),
)
_WEIGHTS = (
    *("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model-*-of-*.bin", "pytorch_model.bin.index.json"),
    *("adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"),
)


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
            As for `htpo train`. A run that goes on, or `"auto"`, finds its own files there, but for a checkpoint that
            is not the last, checkpoints of which it wrote none, or none since it went on from elsewhere; one that goes
            on from a checkpoint elsewhere needs a free directory.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether another run there is to be removed, see [`overwrite`].
        inputs (`Sequence[str]`, *optional*):
            What the run reads, where it is a path: model, data. None may lie in what is removed.

    Raises:
        OutputError: if the directory is in use, cannot be written to, or holds another run, with the mend.
    """
    directory, name = Path(output_dir), f"output_dir={str(output_dir)!r}"
    check_writable("output_dir", output_dir)
    check_not_held(directory)
    if _goes_on(directory, resume_from_checkpoint):
        if overwrite:
            raise OutputError(
                f"{name}: --overwrite_output_dir would remove the run that resume_from_checkpoint="
                f"{str(resume_from_checkpoint)!r} goes on with. Leave one of the two out."
            )
        if problem := _in_the_way(directory, resume_from_checkpoint):
            raise OutputError(problem)
        return
    run, others = _found(directory)
    if not run and (others := [path for path in others if path.parent == directory]):
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
    for path in [*(each for each in others if each.name != SETTINGS), *run] if run else []:  # until the end it is one
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def one_at_a_time(train: Callable[..., Any]) -> Callable[..., Any]:
    """
    Decorates `train` of a trainer: its `output_dir` is held by the main process, and all processes raise if it cannot
    be. Checkpoints of another run there are a warning: notebooks train again and again into one directory.
    """

    @wraps(train)
    def held_train(trainer: Any, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        directory, holder = trainer.args.output_dir, f"{type(trainer).__name__}.train()"
        with ExitStack() as stack:
            main_process_decides(lambda: stack.enter_context(held(directory, holder)))
            if trainer.accelerator.is_main_process:
                _warn_of_checkpoints(Path(directory), resume_from_checkpoint)
            return train(trainer, resume_from_checkpoint, *args, **kwargs)

    return held_train


def _warn_of_checkpoints(directory: Path, resume_from_checkpoint: Any) -> None:
    others = _checkpoints(directory)
    if _goes_on(directory, resume_from_checkpoint):
        if problem := _in_the_way(directory, resume_from_checkpoint):
            warnings.warn(problem, stacklevel=4)
    elif others:
        warnings.warn(
            f"{directory} holds checkpoints of another run ({_listed(others)}): resume_from_checkpoint=True would "
            "take them for those of this one, and save_total_limit delete them. Use another output_dir.",
            stacklevel=4,
        )


def _in_the_way(directory: Path, checkpoint: Any) -> str:
    """What keeps a run from going on in its directory without loss, with the mend; nothing where all is well."""
    others, run = _checkpoints(directory), _settings(directory / SETTINGS)
    complete = [path for path in others if (path / SEAL).exists()]
    if others and not complete and not run:
        return (
            f"{directory} holds checkpoints of another run ({_listed(others)}), such as GRPOTrainer's, which cannot "
            "be gone on with and would be written over. Choose another output_dir, or start from the weights of one "
            "of them alone by passing its directory as `model`."
        )
    if not complete and (resumes := run.get("resumes")):
        last = resumes[-1].get("from") if isinstance(resumes, list) and isinstance(resumes[-1], dict) else resumes
        return (
            f"{directory} holds a run that went on from {last!s:.200}, which is not there, and has no "
            "complete checkpoint since: it would start from the beginning. Name that checkpoint by its path again, "
            "with another output_dir."
        )
    step = Path(str(checkpoint)).resolve().name.removeprefix("checkpoint-")
    if later := [path for path in complete if step.isdigit() and int(path.name[11:]) > int(step)]:
        return (
            f"{directory} holds later checkpoints than {checkpoint} ({_listed(later)}): the next "
            "resume_from_checkpoint=True would take one of them for this run's. Move them away, or use another "
            "output_dir."
        )
    return ""


def _checkpoints(directory: Path) -> list[Path]:
    return [path for path in _found(directory)[0] if path.name.startswith("checkpoint-")]


def _goes_on(directory: Path, checkpoint: bool | str | None) -> bool:
    if not isinstance(checkpoint, str):
        return bool(checkpoint)
    if checkpoint.lower() in ("true", "auto", "false", ""):
        return checkpoint.lower() in ("true", "auto")
    # A link in the directory to a checkpoint elsewhere, or one elsewhere to a checkpoint in it.
    return directory.resolve() in (Path(checkpoint).parent.resolve(), Path(checkpoint).resolve().parent)


def _found(directory: Path) -> tuple[list[Path], list[Path]]:
    """What tells of a run, and what else it may have left."""
    parts = (_OF_A_RUN, _BESIDE + _WEIGHTS)
    run, others = ([path for pattern in part for path in sorted(directory.glob(pattern))] for part in parts)
    run = [path for path in run if not path.name.startswith("checkpoint-") or path.name[11:].isdigit()]
    settings = directory / SETTINGS
    if settings.exists():
        (run if _settings(settings) else others).append(settings)
    return run, others


def _settings(path: Path) -> dict[str, Any]:
    """Of a run, or nothing: editors have a `settings.json`, too."""
    with suppress(UsageError):
        content = read_json(path)
        return content if "versions" in content else {}
    return {}


def _listed(paths: Sequence[Path]) -> str:
    names = [path.name for path in paths]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
