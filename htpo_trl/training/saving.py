"""The model at the end of a run, which must be somewhere: a run of whose steps none is left cannot be resumed."""

import tempfile
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from ..output.writing import WriteError, writing
from ..utils import main_process_decides


def save_model(trainer: Any) -> None:
    """
    Save a trainer's model in its `output_dir`, or in the system's directory of temporary files where the first is
    full and no checkpoint has it; to be called on all processes.

    Raises:
        WriteError: where `output_dir` does not have it, with where it is instead.
    """
    args, best = trainer.args, trainer.state.best_model_checkpoint
    last = Path(args.output_dir, f"checkpoint-{trainer.state.global_step}")
    failure = _failure(trainer, args.output_dir)
    if not failure:
        return
    checkpoint = Path(best) if args.load_best_model_at_end and best else last
    if main_process_decides(checkpoint.is_dir):
        raise WriteError(f"{failure} The model is in {checkpoint}, too.")
    elsewhere = main_process_decides(lambda: tempfile.mkdtemp(prefix="htpo-model-"))
    if other := _failure(trainer, elsewhere):
        raise WriteError(
            f"{failure} Nor could {other} The model is lost: free space, and train again with a save_strategy."
        )
    raise WriteError(f"{failure} The model is in {elsewhere} instead: free space, and move it.")


def _failure(trainer: Any, directory: str) -> str:
    """Why the model could not be saved there by one of the processes; nothing where it could."""
    failure = ""
    try:
        with writing(directory):
            trainer.save_model(directory)
    except WriteError as error:
        failure = str(error)
    return next(filter(None, gather_object([failure])), "")
