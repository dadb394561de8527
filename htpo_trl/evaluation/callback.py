"""Evaluation during training: mean@n, pass@k and maj@k of the policy, to the trackers that the trainer reports to."""

import random
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from transformers import Trainer, TrainerCallback
from trl.models import unwrap_model_for_generation

from ..utils import UsageError, WriteError
from .generation import TransformersGenerator
from .results import check_ks
from .runner import Judge, Problems, SamplingRun
from .sampling import Sampling


class EvaluationCallback(TrainerCallback):
    """
    Evaluates the policy that is being trained, by transformers' generation: before the first step, every `eval_steps`
    steps of the training arguments, and after the last step.

    It logs `eval_<benchmark>/mean@n`, `.../pass@k`, `.../maj@k`, `.../truncated` and `.../mean_tokens`, which trackers
    show as `eval/<benchmark>/...`. Samples and summaries go to `output_dir/evaluation/step-<N>/`, as
    [`~htpo_trl.evaluation.evaluate`] writes them. Training goes on as if there had been no evaluation, bit for bit.
    The batches are divided among the processes, whose number does not change a sample.

    Prompts are those of training: of the trainer's processor or tokenizer, with its `chat_template_kwargs`, which
    those of `sampling` change, and its tools, or those of the environment that a problem's column `environment`
    names. One turn is sampled: tools are offered, and not called. Problems with pictures are refused.

    Args:
        trainer ([`~transformers.Trainer`]):
            The trainer, whose `add_callback` takes this callback; one of TRL's that generates (GRPO, HTPO, RLOO).
        benchmarks, sampling, judge, ks:
            As in [`~htpo_trl.evaluation.evaluate`]. The paper's sampling, the default, takes hours for a large model,
            and a hundred problems are often enough. `batch_size` is that of each process.
    """

    def __init__(
        self,
        trainer: Any,
        benchmarks: Mapping[str, Problems],
        sampling: Sampling | None = None,
        judge: Judge | None = None,
        ks: Iterable[int] | None = None,
    ) -> None:
        if trainer.args.eval_steps is None:
            raise UsageError("eval_steps=None: set it in the training arguments to the steps between two evaluations.")
        self.trainer, self.judge = trainer, judge
        self.benchmarks = {name: list(problems) for name, problems in benchmarks.items()}
        for name, problems in self.benchmarks.items():
            if any(map(_has_pictures, problems)):
                raise UsageError(
                    f"The benchmark {name!r} has pictures, which are not evaluated: EvaluationCallback samples text. "
                    "Leave it out, and give the trainer an eval_dataset, of which TRL logs the reward."
                )
        self.sampling = sampling or Sampling()
        self.ks = check_ks(self.sampling.num_samples, ks)

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            self._evaluate(state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        # The flow callback, which comes first, has already decided whether this was the last step.
        if state.global_step % state.eval_steps == 0 or control.should_training_stop:
            self._evaluate(state.global_step)

    def _evaluate(self, step: int) -> None:
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
                    logs |= {f"eval_{name}/{key}": summary[key] for key in ("truncated", "mean_tokens")}
        if args.gradient_checkpointing:  # TRL has switched it off, and on again with default arguments
            model.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
        (logs,) = broadcast_object_list([logs])
        # Not TRL's `log`, which would add the training metrics gathered since the last log, and forget them.
        should_log = trainer.control.should_log
        Trainer.log(trainer, logs)
        trainer.control.should_log = should_log  # where the step is to be logged too, that is still to be done


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
