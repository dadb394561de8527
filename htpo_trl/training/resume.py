"""TRL's `GRPOTrainer` whose runs resume exactly at any step, not only where a batch is generated (`checkpoint.py`)."""

import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from trl import GRPOTrainer

from ..output import one_at_a_time
from ..utils import free_space, writing
from . import checkpoint
from .checkpoint import CheckpointError


class ResumableGRPOTrainer(GRPOTrainer):
    """
    [`~trl.GRPOTrainer`] with exact resume: `train(resume_from_checkpoint=True)`, on the same number of processes, ends
    with bitwise the parameters that the run would have had without a break. `True` takes the last complete checkpoint
    of `output_dir`, a path that one.

    Not part of a checkpoint: the random state of a vLLM engine, and what reward functions remember. With
    `save_only_model=True` there is nothing to resume from.

    Raises:
        CheckpointError: by `train`, if the checkpoint is incomplete or damaged, naming the file; or if its rollouts do
            not fit this run, naming the option.
    """

    args: Any
    #: How a message names the option to go on by; `htpo train` sets it to its flag.
    resume_option: str = "resume_from_checkpoint={}"
    _buffered_inputs: Any  # one batch per gradient step of the generation batch, or None
    _train_sampler: Any = None
    _saved_step: int | None = None  # of the last checkpoint, written or resumed from

    @one_at_a_time
    def train(self, resume_from_checkpoint=None, *args, **kwargs):
        """
        [`~transformers.Trainer.train`], from a complete checkpoint alone. With `resume_from_checkpoint=True` there is
        a warning for each newer one that is skipped.
        """
        if resume_from_checkpoint is True:
            # One process chooses, so that all take the same one.
            last = checkpoint.last_complete(self.args.output_dir) if self.accelerator.is_main_process else None
            (resume_from_checkpoint,) = broadcast_object_list([last])
            if resume_from_checkpoint is None:
                raise CheckpointError(
                    f"resume_from_checkpoint=True, but there is no complete checkpoint in {self.args.output_dir}. "
                    "Leave it out to start from the beginning."
                )
        elif resume_from_checkpoint:
            checkpoint.check(resume_from_checkpoint)
        # Nothing of an earlier training by this trainer, which may have been stopped anywhere.
        self._step, self._buffered_inputs, self._saved_step = 0, None, None
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _save_checkpoint(self, model, trial):
        run_dir = self._get_output_dir(trial=trial)
        directory = Path(run_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.args.should_save:
            (directory / checkpoint.SEAL).unlink(missing_ok=True)  # before any of its files is written
        self.accelerator.wait_for_everyone()
        limit = self.args.save_total_limit
        try:
            with writing(directory):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save and not self.args.save_only_model:
                    checkpoint.seal(directory)
        except Exception as error:
            error.add_note(checkpoint.not_saved(directory))
            raise
        finally:
            self.args.save_total_limit = limit
        self._saved_step = self.state.global_step
        if self.args.should_save and not self.args.save_only_model:
            rotate_checkpoints(run_dir, limit, self.state.best_model_checkpoint, use_mtime=True)
        if self.args.push_to_hub:
            self._warn_of_failed_push()
            with self._without_token():
                super()._push_from_checkpoint(str(directory))

    def log(self, logs, start_time=None):
        try:
            super().log(logs, start_time)
        except OSError as error:  # of a tracker, or of the table of `log_completions`: training is worth more
            self._metrics["train" if self.model.training else "eval"].clear()  # type: ignore[union-attr]
            what = f"The log of step {self.state.global_step} is not complete: {error}."
            warnings.warn(f"{what} {free_space(self.args.output_dir)} Training goes on.", stacklevel=2)

    def _save(self, output_dir=None, state_dict=None):
        with self._without_token():
            super()._save(output_dir, state_dict)

    @contextmanager
    def _without_token(self):
        """Within, the arguments are pickled without secrets: `training_args.bin` is published."""
        self.args._is_published = True
        try:
            yield
        finally:
            self.args._is_published = False

    def _push_from_checkpoint(self, checkpoint_folder):
        """The caller would push the checkpoint before it is sealed; `_save_checkpoint` does it later."""

    def _finish_current_push(self):
        super()._finish_current_push()
        self._warn_of_failed_push()

    def _warn_of_failed_push(self) -> None:
        # Pushes run in the background, and nobody else asks how they ended.
        push = getattr(self, "push_in_progress", None)
        for error in (job.exception() for job in (push.jobs if push else []) if job.done()):
            if error is not None:
                warnings.warn(
                    f"A push to {self.hub_model_id} on the Hub failed: {error} Nothing is lost: the checkpoints are "
                    f"in {self.args.output_dir}, and trainer.push_to_hub() pushes the model again.",
                    stacklevel=2,
                )

    def save_last_step(self) -> str:
        """
        Save a checkpoint of the last optimizer step unless there is one, for a run that is about to end early; to be
        called on all processes. Says where it is; not saved where gradients of the next step have been accumulated.
        """
        step = self.state.global_step
        if self._saved_step != step:
            if step == 0 or self._step % self.args.gradient_accumulation_steps:
                return "There is no whole step since the start or the last checkpoint, so that nothing is saved."
            self._save_checkpoint(self.model_wrapped, trial=None)
        path = Path(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{step}")
        if self.args.save_only_model:
            return (
                f"The weights are saved at step {step} in {path}; save_only_model=True leaves nothing to resume from."
            )
        return f"The run is saved at step {step}. To go on from there: {self.resume_option.format(path)}"

    def _save_rng_state(self, output_dir):
        super()._save_rng_state(output_dir)
        checkpoint.save_state(
            checkpoint.state_file(output_dir, self.accelerator.process_index),
            self._writer(),
            batches=self._buffered_inputs if self._is_in_mid_batch() else None,
            counters=self._counters(),
        )
        # The caller would now delete older checkpoints, before this one is sealed; `_save_checkpoint` does it later.
        self.args.save_total_limit = None

    def _load_optimizer_and_scheduler(self, directory):
        super()._load_optimizer_and_scheduler(directory)
        if directory is None:
            return
        file = checkpoint.state_file(directory, self.accelerator.process_index)
        batches, counters = checkpoint.load_state(file, self._writer(), self.accelerator.device)
        for name, value in self._batch_shape().items():
            saved = counters["batch_shape"][name]
            if saved != value and (batches is not None or name == "num_processes"):
                raise CheckpointError(
                    f"{file} was written with {name}={saved}, this run has {value}. Resume with the same, or start "
                    "from the weights alone by passing the checkpoint's directory as `model`."
                )
        self._buffered_inputs, self._saved_step = batches, self.state.global_step
        self._restore_counters(counters)
        # TRL's sampler takes the order of every epoch from one generator, which starts anew with the process.
        if self._train_sampler is not None:
            for _ in range(int(self.state.epoch or 0)):
                next(iter(self._train_sampler))

    def _get_train_sampler(self, dataset=None):
        self._train_sampler = super()._get_train_sampler(dataset)
        return self._train_sampler

    def _writer(self) -> str:
        """This package's class of trainer, whatever users derive from it: which counters a checkpoint has."""
        return next(cls.__name__ for cls in type(self).__mro__ if cls.__module__.split(".")[0] == "htpo_trl")

    def _is_in_mid_batch(self) -> bool:
        return self._step % ((self.args.steps_per_generation or 1) * self.num_iterations) != 0

    def _batch_shape(self) -> dict[str, Any]:
        """What buffered rollouts must agree with."""
        names = ("per_device_train_batch_size", "steps_per_generation", "num_iterations", "num_generations")
        return {"num_processes": self.accelerator.num_processes} | {name: getattr(self.args, name) for name in names}

    def _counters(self) -> dict[str, Any]:
        """State of this process that JSON can hold."""
        return {
            # Where a batch is to be generated next, TRL starts from 0.
            "step": self._step if self._is_in_mid_batch() else 0,
            "metrics": self._metrics["train"],  # not yet logged
            "batch_shape": self._batch_shape(),
        }

    def _restore_counters(self, counters: dict[str, Any]) -> None:
        self._step = counters["step"]
        self._metrics["train"].update(counters["metrics"])
