"""Evaluation during training: mean@n, pass@k and maj@k of the policy, to the trackers that the trainer reports to."""

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object
from tqdm import tqdm
from transformers import Trainer, TrainerCallback
from trl.models import unwrap_model_for_generation

from ..utils import write_json
from .generation import TransformersGenerator
from .results import budgets, to_lines
from .runner import Judge, Plan, Problems, write_summary
from .sampling import Sampling


class EvaluationCallback(TrainerCallback):
    """
    Evaluates the policy that is being trained, by transformers' generation: before the first step, every `eval_steps`
    steps of the training arguments, and after the last step.

    It logs `eval_<benchmark>/mean@n`, `.../pass@k`, `.../maj@k`, `.../truncated` and `.../mean_tokens`, which trackers
    show as `eval/<benchmark>/...`. Samples and summaries go to `output_dir/evaluation/step-<N>/`, as
    [`~htpo_trl.evaluation.evaluate`] writes them, so that two steps can be compared.

    Training goes on as if there had been no evaluation, bit for bit: random states are restored, and metrics that the
    trainer has gathered stay. The batches are divided among the processes; their number does not change a sample.

    Args:
        trainer ([`~transformers.Trainer`]):
            The trainer, whose `add_callback` takes this callback; one of TRL's that generates (GRPO, HTPO, RLOO).
        benchmarks (`Mapping[str, Dataset]`):
            Name → problems, with the columns `prompt` and `solution`. A hundred problems are often enough: what counts
            is the interval of the difference between two steps.
        sampling ([`Sampling`], *optional*):
            How to sample; by default as the paper does, which takes hours for a large model. Its `batch_size` is that
            of each process.
        judge (`Callable`, *optional*, defaults to the math verifier):
            As in [`~htpo_trl.evaluation.evaluate`], e.g. the reward function.
        ks (`Iterable[int]`, *optional*):
            Sampling budgets of pass@k and maj@k, by default the powers of two up to the number of samples, and that.

    Example:

    ```python
    trainer = HTPOTrainer(..., args=HTPOConfig(..., eval_steps=50))
    trainer.add_callback(EvaluationCallback(trainer, {"sums": problems}, Sampling(num_samples=8, max_new_tokens=512)))
    ```
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
            raise ValueError("eval_steps=None: set it in the training arguments to the steps between two evaluations.")
        self.trainer, self.benchmarks, self.judge = trainer, benchmarks, judge
        self.sampling = sampling or Sampling()
        self.ks = budgets(self.sampling.num_samples, ks)
        self.plans: list[Plan] | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            self._evaluate(state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        # The flow callback, which comes first, has already decided whether this was the last step.
        if state.global_step % state.eval_steps == 0 or control.should_training_stop:
            self._evaluate(state.global_step)

    def _evaluate(self, step: int) -> None:
        trainer = self.trainer
        logs: dict[str, float] = {}
        with (
            _random_states_kept(),
            unwrap_model_for_generation(
                trainer.model_wrapped,
                trainer.accelerator,
                gather_deepspeed3_params=trainer.args.ds3_gather_for_generation,
            ) as model,
        ):
            generator = TransformersGenerator(model, trainer.processing_class)
            if self.plans is None:
                self.plans = [
                    Plan.make(name, problems, generator, self.sampling, self.judge)
                    for name, problems in self.benchmarks.items()
                ]
            for plan in self.plans:
                name = plan.settings["benchmark"]
                path = Path(trainer.args.output_dir) / "evaluation" / f"step-{step}" / f"{name}.jsonl"
                self._sample(plan, generator, path)
                if trainer.accelerator.is_main_process:
                    write_json(path.with_suffix(".json"), {"settings": plan.settings})
                    summary = write_summary(path, self.ks)
                    logs |= {f"eval_{name}/{metric}": value["mean"] for metric, value in summary["metrics"].items()}
                    logs |= {f"eval_{name}/{key}": summary[key] for key in ("truncated", "mean_tokens")}
        if trainer.args.gradient_checkpointing:  # TRL has switched it off, and on again with default arguments
            model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
        for_all = [logs]
        broadcast_object_list(for_all)
        # Not TRL's `log`, which would add the training metrics gathered since the last log, and forget them.
        should_log = trainer.control.should_log
        Trainer.log(trainer, for_all[0])
        trainer.control.should_log = should_log  # where the step is to be logged too, that is still to be done

    def _sample(self, plan: Plan, generator: TransformersGenerator, path: Path) -> None:
        """Write the result file; in every round each process draws a batch."""
        accelerator = self.trainer.accelerator
        main = accelerator.is_main_process
        starts = range(0, len(plan.requests), plan.sampling.batch_size)
        if main:
            path.parent.mkdir(parents=True, exist_ok=True)
        with (
            path.open("wb") if main else nullcontext() as file,
            tqdm(
                total=len(plan.requests),
                desc=f"{path.stem}, {path.parent.name}",
                unit="sample",
                leave=False,
                disable=self.trainer.args.disable_tqdm or not main,
            ) as progress,
        ):
            for first in range(0, len(starts), accelerator.num_processes):
                mine = first + accelerator.process_index
                # Where parameters are sharded, generation is collective: a process without a batch repeats the last.
                rows = plan.run(generator, starts[min(mine, len(starts) - 1)])
                rows = gather_object(rows if mine < len(starts) else [])
                if file is not None:
                    file.write(to_lines(rows))
                    progress.update(len(rows))


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """Whatever draws random numbers within, a judge for one, leaves no trace in those that training draws."""
    python, legacy_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy_numpy)
