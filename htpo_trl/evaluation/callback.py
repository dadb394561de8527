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

from ..output.writing import WriteError
from ..utils import UsageError
from .judges import Judge, check_columns, judge_of_run
from .parallel import Processes
from .policy import check_engine_takes, has_engine, policy_of
from .results import check_ks
from .runner import Problems, SamplingRun
from .sampling import Sampling


_OTHERS = ("truncated", "mean_tokens", "unparsable")  # metrics of a benchmark, beside those of its verdicts


class EvaluationCallback(TrainerCallback):
    """
    Evaluates the policy that is being trained: before the first step, every `eval_steps` steps of the training
    arguments, and after the last step. What generates for training generates here: transformers, or with `use_vllm`
    the engine of vLLM, after its weights have been brought up to date.

    It logs `eval_<benchmark>/mean@n`, `.../pass@k`, `.../maj@k`, `.../truncated`, `.../mean_tokens` and
    `.../unparsable`, the share of samples without a verdict, which trackers show as `eval/<benchmark>/...`. Samples
    and summaries go to `output_dir/evaluation/step-<N>/`, as [`~htpo_trl.evaluation.evaluate`] writes them. Training
    goes on as if there had been no evaluation, bit for bit. The batches are divided among the processes, whose number
    does not change a sample.

    Each of these can be the `metric_for_best_model`, for `load_best_model_at_end`, `save_strategy="best"` and
    [`~transformers.EarlyStoppingCallback`]. Where the trainer is to evaluate nothing else, its `eval_dataset` is `{}`.

    Prompts are those of training: of the trainer's processor or tokenizer, with its `chat_template_kwargs`, which
    those of `sampling` change, and its tools, or those of the environment that a problem's column `environment`
    names. One turn is sampled: tools are offered, and not called. Problems may have pictures, as in training in the
    column `image` or `images` or in their messages.

    Args:
        trainer ([`~transformers.Trainer`]):
            The trainer, whose `add_callback` takes this callback; one of TRL's that generates (GRPO, HTPO, RLOO).
        benchmarks, sampling, ks:
            As in [`~htpo_trl.evaluation.evaluate`]. The paper's sampling, the default, takes hours for a large model,
            and a hundred problems are often enough. `batch_size` is that of each process.
        judge (`Callable` or `"verifier"`, *optional*):
            As there; by default the reward that judges correctness in training, with its threshold: see
            [`~htpo_trl.evaluation.judges.judge_of_run`].
        backend (`str`, *optional*, defaults to `"auto"`):
            `"transformers"` generates by it in any case: in the number format of training, and slowly.
        before_training (`bool`, *optional*, defaults to `True`):
            Whether to evaluate before the first step, too.

    Raises:
        UsageError: where something does not fit, such as a prompt and `max_new_tokens` into vLLM's context.
    """

    def __init__(
        self,
        trainer: Any,
        benchmarks: Mapping[str, Problems],
        sampling: Sampling | Mapping[str, Any] | None = None,
        judge: Judge | Literal["verifier"] | None = None,
        ks: Iterable[int] | None = None,
        backend: str = "auto",
        before_training: bool = True,
    ) -> None:
        if trainer.args.eval_steps is None:
            raise UsageError("eval_steps=None: set it in the training arguments to the steps between two evaluations.")
        self.trainer, self.judge = trainer, None if judge == "verifier" else judge or _judge_of(trainer)
        if not isinstance(benchmarks, Mapping) or not benchmarks:
            raise UsageError(f"benchmarks={benchmarks!r:.80} must map a name, or several, to problems.")
        self.benchmarks = {name: list(problems) for name, problems in benchmarks.items()}
        for name, problems in self.benchmarks.items():
            if not problems:
                raise UsageError(f"There are no problems in {name!r}.")
            check_columns(self.judge, [*problems[0]], name)
        self.sampling = Sampling.of(sampling)
        self.ks = check_ks(self.sampling.num_samples, ks)
        check_best_metric(
            trainer.args, self.benchmarks, self.sampling, self.judge, self.ks, self._is_the_only_one(trainer.args)
        )
        self.backend, self.before_training = backend, before_training
        if has_engine(trainer, backend):
            check_engine_takes(trainer, self.benchmarks, self.sampling)
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
        if state.global_step == 0 and self.before_training:
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
        processes = Processes(accelerator.num_processes, accelerator.process_index)
        options = self.sampling.chat_template_kwargs or {}
        with _random_states_kept(), policy_of(trainer, options, self.backend) as generator:
            for name, problems in self.benchmarks.items():
                run = SamplingRun(directory, name, problems, generator, self.sampling, self.judge)
                try:
                    summary = run.write(self.ks, processes, args.disable_tqdm)
                except WriteError as error:
                    warnings.warn(f"{error} Training goes on, without this evaluation.", stacklevel=2)
                    summary = {}
                if summary:
                    logs |= {f"eval_{name}/{metric}": value["mean"] for metric, value in summary["metrics"].items()}
                    logs |= {f"eval_{name}/{key}": summary[key] for key in _OTHERS}
        (logs,) = broadcast_object_list([logs])
        self._metrics, self._step = dict(logs), step
        best = _best_metric(args)
        if best.startswith(tuple(f"eval_{name}/" for name in self.benchmarks)) and best not in logs:
            raise UsageError(
                f"metric_for_best_model={args.metric_for_best_model!r} has no value at step {step}: no problem of the "
                "benchmark could be judged. Look at its samples, and name another judge, or another metric."
            )
        # Not TRL's `log`, which would add the training metrics gathered since the last log, and forget them.
        should_log = trainer.control.should_log
        Trainer.log(trainer, logs)
        trainer.control.should_log = should_log  # where the step is to be logged too, that is still to be done


def check_best_metric(
    args: Any, benchmarks: Iterable[str], sampling: Sampling, judge: Any, ks: Iterable[int], is_alone: bool
) -> None:
    """
    Refuse a `metric_for_best_model` that the benchmarks, which are evaluated alone or beside other data, do not have.
    """
    ks = [k for k in ks if k > 1]
    names = [f"mean@{sampling.num_samples}", *(f"pass@{k}" for k in ks)]
    names += [f"maj@{k}" for k in ks if judge is None]
    known = [f"{benchmark}/{name}" for benchmark in benchmarks for name in (*names, *_OTHERS)]
    best = _best_metric(args).removeprefix("eval_")
    is_ours = is_alone or best.startswith(tuple(f"{benchmark}/" for benchmark in benchmarks))
    may_be = judge is not None and "/maj@" in best  # where the judge tells answers
    if best and is_ours and best not in known and not may_be:
        raise UsageError(
            f"metric_for_best_model={args.metric_for_best_model!r} is no metric of the benchmarks: {', '.join(known)}."
        )


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


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """Whatever draws random numbers within, a judge for one, leaves no trace in those that training draws."""
    python, legacy_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
        yield
    random.setstate(python)
    np.random.set_state(legacy_numpy)
