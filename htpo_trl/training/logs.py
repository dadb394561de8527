"""TRL's `GRPOTrainer` that trains on where its log cannot be written: a disk is full, a tracker is out of reach."""

import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from trl import GRPOTrainer

from ..output.writing import WriteError, free_space, writing


class LoggingGRPOTrainer(GRPOTrainer):
    """[`~trl.GRPOTrainer`], for which a log that cannot be written is a warning."""

    args: Any

    def log(self, logs, start_time=None):
        try:
            super().log(logs, start_time)
        except OSError as error:  # of a tracker, or of the table of `log_completions`: training is worth more
            self._metrics["train" if self.model.training else "eval"].clear()  # type: ignore[union-attr]
            what = f"The log of step {self.state.global_step} is not complete: {error}."
            warnings.warn(f"{what} {free_space(self.args.output_dir)} Training goes on.", stacklevel=2)

    def save_state(self):
        """Write the log of the run in one step; a warning where that cannot be: the model is still to be saved."""
        if not self.is_world_process_zero():
            return
        path = Path(self.args.output_dir, TRAINER_STATE_NAME)
        partial = path.with_name(f"{path.name}.partial")
        try:
            with writing(path):
                self.state.save_to_json(str(partial))
                os.replace(partial, path)
        except WriteError as error:
            with suppress(OSError):
                partial.unlink()
            warnings.warn(f"{error} The log of this run is not kept; all else is.", stacklevel=2)
