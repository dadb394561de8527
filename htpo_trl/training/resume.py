"""TRL's `GRPOTrainer` whose runs resume exactly at any step, not only where a batch is generated (`checkpoint.py`)."""

import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from ..output.directory import one_at_a_time
from ..output.writing import writing
from ..utils import main_process_decides
from . import adapters, agreement, checkpoint, remembered, settings, weights
from .checkpoint import CheckpointError
from .logs import LoggingGRPOTrainer


class ResumableGRPOTrainer(LoggingGRPOTrainer):
    """
    [`~trl.GRPOTrainer`] with exact resume: `train(resume_from_checkpoint=True)`, on the same number of processes, ends
    with bitwise the parameters that the run would have had without a break. docs/resume.md tells what a checkpoint
    holds. After each load what is in memory is compared with what was there when the checkpoint was saved.

    Where `model` is the directory of an adapter, a LoRA checkpoint for one, its base model is loaded and the adapter
    is trained further.

    `settings.json` in `output_dir` tells the options, `trainer_state.json`, at the end, the log.

    Raises:
        CheckpointError: by `train`, if the checkpoint is incomplete or damaged, naming the file; if its weights are
            not what was saved, naming one; or if it is of another run, with what differs.
    """

    args: Any
    #: Section -> options beyond `args`, for `settings.json`; set before `train`.
    settings: dict[str, dict[str, Any]]
    #: How a message names the option to go on by; `htpo train` sets it to its flag.
    resume_option: str = "resume_from_checkpoint={}"
    _buffered_inputs: Any  # one batch per gradient step of the generation batch, or None
    _train_sampler: Any = None
    _saved_step: int | None = None  # of the last checkpoint, written or resumed from
    _described: dict[str, Any] = {}  # what makes this run the run it is
    _state: tuple[checkpoint.Batches, dict[str, Any]] | None = None  # of the checkpoint that is resumed from
    _resumed: dict[str, Any] | None = None  # what `settings.json` tells of it
    _is_pass_over: bool = False  # the data has been read to its end, and the next pass has not begun

    def __init__(
        self,
        model,
        reward_funcs=None,
        args=None,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        *others,
        **kwargs,
    ):
        self.settings = {}
        init_kwargs = args and args.model_init_kwargs
        if isinstance(model, str) and adapters.is_adapter(model):
            loaded, kwargs = adapters.load(model, args, kwargs)
            model, processing_class = loaded, processing_class or adapters.processing_class(model)
            if args:
                args.model_init_kwargs = None  # used up: TRL would say that they are ignored
        super().__init__(model, reward_funcs, args, train_dataset, eval_dataset, processing_class, *others, **kwargs)
        self.args.model_init_kwargs = init_kwargs or self.args.model_init_kwargs

    @one_at_a_time
    def train(self, resume_from_checkpoint=None, *args, **kwargs):
        """
        [`~transformers.Trainer.train`], from a complete checkpoint alone.

        Args:
            resume_from_checkpoint (`bool` or `str`, *optional*):
                `True` takes the last complete checkpoint of `output_dir`, with a warning for each newer one that is
                skipped; `"auto"` does if there is one, and starts from the beginning if not; a path takes that one.
        """
        self._described, self._state, self._resumed = settings.describe(self), None, None
        agreement.check_same(self._described)
        agreement.check_output_dir(self.args, self.accelerator)
        if self.is_fsdp_enabled and self.accelerator.is_main_process:
            warnings.warn(
                "FSDP is not run by the tests of this package, which have no GPUs. Before a long run stop a short "
                "one, resume it and compare; or take DeepSpeed ZeRO, which is tested.",
                stacklevel=2,
            )
        output_dir = str(self.args.output_dir)
        directory = main_process_decides(lambda: checkpoint.chosen(resume_from_checkpoint, output_dir))
        if directory is not None:
            self._state = self._read_state(directory)
            counters = self._state[1]
            changed = settings.changes(counters["settings"], self._described)
            go_on = getattr(self.args, "resume_with_changes", False)
            settings.compare(changed, directory, go_on, tell=self.accelerator.is_main_process)
            self._resumed = {"from": Path(directory).name, "step": counters["global_step"], "changed": changed}
        # Nothing of an earlier training by this trainer, which may have been stopped anywhere.
        self._step, self._buffered_inputs, self._saved_step = 0, None, None
        watch = remembered.Watch(self)
        self.callback_handler.callbacks.insert(0, watch)
        try:
            result = super().train(directory, *args, **kwargs)
        finally:
            self.remove_callback(watch)
            self._state = None
        self.save_state()
        return result

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
                weights.write_digests(directory, self.accelerator.process_index, self._models())
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
            batches=self._buffered_inputs if remembered.is_in_mid_batch(self) else None,
            counters=self._counters(),
        )
        if getattr(self.args, "sync_ref_model", False) and not self.is_fsdp_enabled:
            weights.save_reference(output_dir, self._models()["reference model"], self.args.should_save)
        # The caller would now delete older checkpoints, before this one is sealed; `_save_checkpoint` does it later.
        self.args.save_total_limit = None

    def _models(self) -> dict[str, Any]:
        """The models that a checkpoint answers for."""
        models = {"model": self.model, "reference model": getattr(self, "ref_model", None)}
        return {name: self.accelerator.unwrap_model(model) for name, model in models.items() if model is not None}

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        model = self.model if model is None else model
        weights.check_names(resume_from_checkpoint)
        if isinstance(model, PreTrainedModel) and not self.is_fsdp_enabled:
            weights.load(model, resume_from_checkpoint)
        else:  # an adapter; FSDP, whose state has the layout of memory
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self):
        directory = str(self.state.best_model_checkpoint)
        if not Path(directory).is_dir():
            warnings.warn(f"The best checkpoint, {directory}, is gone: the last weights are kept.", stacklevel=2)
            self.state.best_model_checkpoint = None  # the caller compares others with it
            return
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_best_model()
        else:
            self._load_from_checkpoint(directory)
        weights.prove(directory, self.accelerator.process_index, {"model": self._models()["model"]})

    def _init_training_state(self, max_steps, *args):
        place = super()._init_training_state(max_steps, *args)
        if self._state is None:
            return place
        if self.state.global_step >= max_steps:
            best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
            raise CheckpointError(
                f"There is nothing left to train: the checkpoint is of step {self.state.global_step}, and the run "
                f"ends at step {max_steps}. Raise {'max_steps' if self.args.max_steps > 0 else 'num_train_epochs'} to "
                f"go on; {best or 'the directory of the checkpoint'} is a model already."
            )
        self.state.compute_steps(self.args, max_steps)  # transformers keeps the checkpoint's
        stream = self._state[1]["stream"]
        return place if stream is None or self.args.ignore_data_skip else tuple(stream)

    def _load_optimizer_and_scheduler(self, directory):
        options = remembered.optimizer_options(self)
        super()._load_optimizer_and_scheduler(directory)
        if directory is None or self._state is None:
            return
        remembered.set_optimizer_options(self, options)
        if getattr(self.args, "sync_ref_model", False):
            weights.load_reference(directory, self._models()["reference model"])
        weights.prove(directory, self.accelerator.process_index, self._models())
        self._buffered_inputs, counters = self._state
        self._saved_step = self.state.global_step
        self._restore_counters(counters)
        # TRL's sampler takes the order of every epoch from one generator, which starts anew with the process.
        if self._train_sampler is not None:
            for _ in range(int(self.state.epoch or 0)):
                next(iter(self._train_sampler))

    def _read_state(self, directory: str) -> tuple[checkpoint.Batches, dict[str, Any]]:
        """What this process has in a checkpoint, if this run can go on from there."""
        file = checkpoint.state_file(directory, self.accelerator.process_index)
        if not file.is_file() and checkpoint.state_file(directory, 0).is_file():
            n = len([*file.parent.glob("htpo_state_*.safetensors")])
            raise CheckpointError(self._unlike(file.parent, "num_processes", n, self.accelerator.num_processes))
        batches, counters = checkpoint.load_state(file, self._writer(), self.accelerator.device)
        try:
            remembered.check(counters)
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{file} is damaged ({error!r:.200}). {checkpoint.MEND}") from error
        for name, value in remembered.batch_shape(self).items():
            saved = counters["batch_shape"][name]
            if saved != value and (batches is not None or name == "num_processes"):
                raise CheckpointError(self._unlike(file, name, saved, value))
        if batches is not None and self.beta != 0 and "ref_per_token_logps" not in batches[0]:
            raise CheckpointError(
                f"{self._unlike(file, 'beta', 0.0, self.beta)} Its completions, which are still to be trained on, "
                "were not scored by a reference model; beta may change where a batch is generated next."
            )
        optim = getattr(self.args.optim, "value", self.args.optim)
        if "layerwise" in optim:
            raise CheckpointError(
                f"resume_from_checkpoint: optim={optim!r} keeps its state where no checkpoint has it. Start "
                "with an optimizer that is not layerwise."
            )
        if any(type(callback).__name__ == "BEMACallback" for callback in self.callback_handler.callbacks):
            raise CheckpointError(
                "resume_from_checkpoint: BEMACallback remembers what no checkpoint has, its averages. Leave it "
                "out, or train without a break."
            )
        if self.is_fsdp_enabled and getattr(self.args, "sync_ref_model", False):
            raise CheckpointError(
                "resume_from_checkpoint: under FSDP no checkpoint has the reference model that sync_ref_model=True "
                "moves. Set sync_ref_model=False, or use DeepSpeed or DDP."
            )
        return batches, counters

    def _unlike(self, file: Any, name: str, saved: Any, value: Any) -> str:
        return (
            f"{file} was written with {name}={saved}, this run has {value}. Resume with the same, or start from the "
            "weights alone by passing the checkpoint's directory as `model`."
        )

    def _get_train_sampler(self, dataset=None):
        self._train_sampler = super()._get_train_sampler(dataset)
        return self._train_sampler

    def _writer(self) -> str:
        """This package's class of trainer, whatever users derive from it: which counters a checkpoint has."""
        return next(cls.__name__ for cls in type(self).__mro__ if cls.__module__.split(".")[0] == "htpo_trl")

    def _counters(self) -> dict[str, Any]:
        """State of this process that JSON can hold."""
        return remembered.counters(self) | {"settings": self._described}

    def _restore_counters(self, counters: dict[str, Any]) -> None:
        remembered.restore(self, counters)
