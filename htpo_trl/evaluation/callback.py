"""Evaluation during training: mean@n, pass@k and maj@k of the policy, to the trackers that the trainer reports to."""

import random
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from transformers import DefaultFlowCallback, SchedulerType, Trainer, TrainerCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from trl.models import unwrap_model_for_generation

from ..utils import UsageError, WriteError
from .generation import TransformersGenerator
from .judges import Judge, check_columns, judge_of_run
from .results import check_ks
from .runner import Problems, SamplingRun
from .sampling import Sampling


class EvaluationCallback(TrainerCallback):
    """
    Evaluates the policy that is being trained, by transformers' generation: before the first step, every `eval_steps`
    steps of the training arguments, and after the last step.

    It logs `eval_<benchmark>/mean@n`, `.../pass@k`, `.../maj@k`, `.../truncated`, `.../mean_tokens` and
    `.../unparsable`, the share of samples without a verdict, which trackers show as `eval/<benchmark>/...`. Samples
    and summaries go to `output_dir/evaluation/step-<N>/`, as [`~htpo_trl.evaluation.evaluate`] writes them. Training
    goes on as if there had been no evaluation, bit for bit. The batches are divided among the processes, whose number
    does not change a sample.

    Each of these can be the `metric_for_best_model`, for `load_best_model_at_end`, `save_strategy="best"` and
    [`~transformers.EarlyStoppingCallback`]. Where the trainer is to evaluate nothing else, its `eval_dataset` is `{}`.

    Prompts are those of training: of the trainer's processor or tokenizer, with its `chat_template_kwargs`, which
    those of `sampling` change, and its tools, or those of the environment that a problem's column `environment`
    names. One turn is sampled: tools are offered, and not called. Problems with pictures are refused.

    Args:
        trainer ([`~transformers.Trainer`]):
            The trainer, whose `add_callback` takes this callback; one of TRL's that generates (GRPO, HTPO, RLOO).
        benchmarks, sampling, ks:
            As in [`~htpo_trl.evaluation.evaluate`]. The paper's sampling, the default, takes hours for a large model,
            and a hundred problems are often enough. `batch_size` is that of each process.
        judge (`Callable` or `"verifier"`, *optional*):
            As there; by default the reward that judges correctness in training, with its threshold: see
            [`~htpo_trl.evaluation.judges.judge_of_run`].
    """

    def __init__(
        self,
        trainer: Any,
        benchmarks: Mapping[str, Problems],
        sampling: Sampling | None = None,
        judge: Judge | Literal["verifier"] | None = None,
        ks: Iterable[int] | None = None,
    ) -> None:
        if trainer.args.eval_steps is None:
            raise UsageError("eval_steps=None: set it in the training arguments to the steps between two evaluations.")
        self.trainer, self.judge = trainer, None if judge == "verifier" else judge or _judge_of(trainer)
        self.benchmarks = {name: list(problems) for name, problems in benchmarks.items()}
        for name, problems in self.benchmarks.items():
            check_columns(self.judge, [*problems[0]] if problems else ["prompt"], name)
            if any(map(_has_pictures, problems)):
                raise UsageError(
                    f"The benchmark {name!r} has pictures, which are not evaluated: EvaluationCallback samples text. "
                    "Leave it out, and give the trainer an eval_dataset, of which TRL logs the reward."
                )
        self.sampling = sampling or Sampling()
        self.ks = check_ks(self.sampling.num_samples, ks)
        self._metrics: dict[str, float] = {}  # of the last evaluation,
        self._step = -1  # which was at this step

    def on_train_begin(self, args, state, control, **kwargs):
        # Behind the flow callback, before all others, which are to find the benchmarks in an evaluation's metrics.
        callbacks = self.trainer.callback_handler.callbacks
        if self in callbacks:
            callbacks.remove(self)
            flow = next(i for i, callback in enumerate(callbacks) if isinstance(callback, DefaultFlowCallback))
            callbacks.insert(flow + 1, self)
        self._step = -1
        if state.global_step == 0:
            self._evaluate(state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        # The flow callback, which comes first, has already decided what is due, and whether this was the last step.
        if state.global_step % state.eval_steps == 0 or control.should_training_stop or control.should_evaluate:
            self._evaluate(state.global_step)
            self._conclude(args, state, control)

    def on_epoch_end(self, args, state, control, **kwargs):
        if control.should_evaluate:
            self._evaluate(state.global_step)
            self._conclude(args, state, control)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if metrics is not None and self._step == state.global_step:
            metrics |= self._metrics

    def _conclude(self, args: Any, state: Any, control: Any) -> None:
        """What [`~transformers.Trainer`] does after an evaluation, where it has no data for one of its own."""
        trainer = self.trainer
        is_due = control.should_evaluate or args.eval_strategy == IntervalStrategy.NO
        if not self._is_the_only_one(args) or not is_due:
            return
        best = _best_metric(args)
        if control.should_evaluate or best:
            trainer.callback_handler.on_evaluate(args, state, control, dict(self._metrics))
        if best:
            is_best = trainer._determine_best_metric(self._metrics, None)
            if args.save_strategy == SaveStrategy.BEST:
                control.should_save = is_best
            if args.lr_scheduler_type in (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY):
                trainer.lr_scheduler.step(self._metrics[best])

    def _is_the_only_one(self, args: Any) -> bool:
        """Whether the trainer has no evaluation of its own."""
        return args.eval_strategy == IntervalStrategy.NO or not self.trainer.eval_dataset

    def _evaluate(self, step: int) -> None:
        if self._step == step:  # the end of an epoch, whose last step was evaluated
            return
        trainer, args, accelerator = self.trainer, self.trainer.args, self.trainer.accelerator
        directory = Path(args.output_dir) / "evaluation" / f"step-{step}"
        logs: dict[str, float] = {}
        gather = args.ds3_gather_for_generation
        with _random_states_kept(), unwrap_model_for_generation(trainer.model_wrapped, accelerator, gather) as model:
            generator = _Policy(model, trainer, self.sampling.chat_template_kwargs or {})
            for name, problems in self.benchmarks.items():
                run = SamplingRun(directory, name, problems, generator, self.sampling, self.judge)
                try:
                    summary = run.write(self.ks, accelerator, args.disable_tqdm)
                except WriteError as error:
                    warnings.warn(f"{error} Training goes on, without this evaluation.", stacklevel=2)
                    summary = {}
                if summary:
                    logs |= {f"eval_{name}/{metric}": value["mean"] for metric, value in summary["metrics"].items()}
                    logs |= {f"eval_{name}/{key}": summary[key] for key in ("truncated", "mean_tokens", "unparsable")}
        if args.gradient_checkpointing:  # TRL has switched it off, and on again with default arguments
            model.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
        (logs,) = broadcast_object_list([logs])
        self._metrics, self._step = dict(logs), step
        best = _best_metric(args)
        is_ours = self._is_the_only_one(args) or best.removeprefix("eval_").rpartition("/")[0] in self.benchmarks
        if best and is_ours and best not in logs:
            raise UsageError(
                f"metric_for_best_model={args.metric_for_best_model!r} is no metric of the benchmarks: "
                f"{', '.join(name.removeprefix('eval_') for name in logs)}."
            )
        # Not TRL's `log`, which would add the training metrics gathered since the last log, and forget them.
        should_log = trainer.control.should_log
        Trainer.log(trainer, logs)
        trainer.control.should_log = should_log  # where the step is to be logged too, that is still to be done


def _best_metric(args: Any) -> str:
    """As it is logged; nothing, where none is set."""
    name = args.metric_for_best_model or ""
    return f"eval_{name}" if name and not name.startswith("eval_") else name


def _judge_of(trainer: Any) -> Judge | None:
    """Of the reward functions that judge correctness in training, by default the first."""
    names = getattr(trainer.args, "correctness_names", None) or trainer.reward_func_names[:1]
    indices = map(trainer.reward_func_names.index, names)
    functions = [getattr(trainer.reward_funcs[i], "unguarded", trainer.reward_funcs[i]) for i in indices]
    return judge_of_run(functions, getattr(trainer.args, "correctness_threshold", 0.5))


class _Policy(TransformersGenerator):
    """The policy of a trainer, whose prompts are tokenized as for training, with `options` of the chat template."""

    def __init__(self, model: Any, trainer: Any, options: Mapping[str, Any]) -> None:
        super().__init__(model, trainer.processing_class)
        self.trainer, self.options = trainer, options

    def tokenize(self, row: Mapping[str, Any]) -> list[int]:
        """The tokens of a problem's prompt."""
        trainer, options = self.trainer, self.trainer.chat_template_kwargs
        if getattr(trainer, "environment_factories", None) is not None:
            name = row.get("environment") if trainer._multi_environment else None
            if name not in trainer.environment_factories:
                raise UsageError(
                    f"The problem {row['prompt']!r:.60} has environment={name!r}: name one of environment_factory, "
                    f"{', '.join(trainer.environment_factories)}, in its column 'environment'."
                )
            trainer._batch_environments = [name]
        trainer.chat_template_kwargs = {**options, **self.options}
        try:
            return trainer._tokenize_prompts([row["prompt"]])[0][0]
        finally:
            trainer.chat_template_kwargs = options


def _has_pictures(row: Mapping[str, Any]) -> bool:
    contents = [] if isinstance(row["prompt"], str) else [message.get("content") for message in row["prompt"]]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    columns = row.get("image") is not None or bool(row.get("images"))
    return columns or any(part["type"] == "image" for part in parts)


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """Whatever draws random numbers within, a judge for one, leaves no trace in those that training draws."""
    python, legacy_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
        yield
    random.setstate(python)
    np.random.set_state(legacy_numpy)
