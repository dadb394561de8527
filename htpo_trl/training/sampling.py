"""
Dynamic sampling (DAPO, arXiv 2503.14476): a group whose responses are all right or all wrong carries no signal. It is
discarded, and fresh prompts are drawn until every group of the batch is informative.

[`DynamicSampler`] ties the loop, [`~htpo_trl.training.collect`], to a trainer and to TRL. [`PromptStream`] is where
the fresh prompts come from, [`~htpo_trl.training.rollouts`] says what stays with a row.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from accelerate.utils import gather_object
from torch import Tensor

from ..utils import UsageError, main_process_decides
from . import rollouts
from .advantages import teaching_groups
from .collect import CollectedBatch, Round, collect, informative_groups
from .prompts import PromptStream


class SamplingExhaustedError(UsageError):
    """No full batch of informative groups was found."""


class Sampled(NamedTuple):
    """What dynamic sampling leaves to be scored."""

    generated: tuple  #: as TRL's `_generate` returns it
    rewards: Tensor  #: (n_processes * B, n_rewards), of all processes


class Generated(Exception):  # noqa: N818 - no error: what `_generate` was given and returned, in place of scoring it
    """Raised by the trainer's `_generate` within [`DynamicSampler.sample`], to leave TRL's method there."""


class DynamicSampler:
    """
    Samples the batches of a trainer dynamically. Only TRL prepares rows (environments, pictures), generates, and
    scores what is left: completions that are discarded cost no forward pass. It logs `htpo/sampling/<what>`, see
    [`~htpo_trl.training.collect.CollectedBatch.metrics`], and `seconds` of generating and judging. TRL's
    `completions/*`, `tools/*` and token counts are of all that was generated, its rewards of what is trained on.

    With environments every row that is drawn is an episode of its own, whether its prompt is in the batch or not: what
    it asks may be known to `reset` alone.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.prompts = PromptStream(trainer.train_dataset, trainer.args.seed, bool(trainer.shuffle_dataset))
        self.is_generating = False  # a round: the trainer's `_generate` raises `Generated`

    def sample(self, inputs: list[dict], score: Callable[[list[dict]], Any]) -> tuple[list[dict], Sampled]:
        """
        Generate, from this process's rows of a batch on, until every group is informative. Returns the rows to train
        on and what has been sampled for them, and logs what it took and what the reward functions log of them. `score`
        is TRL's method, which prepares rows, generates and goes on to score.

        Raises:
            SamplingExhaustedError: if no full batch was found; a checkpoint is saved before.
        """
        trainer, started = self.trainer, time.perf_counter()
        accelerator = trainer.accelerator
        logged: dict[str, list[float]] = {}  # metric -> values, which TRL will average

        def roll_out(rows):
            prompts, generated = self._generate(rows, score)
            sampled = rollouts.split(rows, prompts, generated)
            rewards = trainer._calculate_rewards(
                [rollout.row for rollout in sampled],
                prompts,
                [rollout.completion for rollout in sampled],
                [rollout.completion_ids for rollout in sampled],
            )
            logs = trainer._pending_extra_logs
            found = [
                rollout._replace(logs={name: values[i] for name, values in logs.items()})
                for i, rollout in enumerate(sampled)
            ]
            logs.clear()
            for name, values in trainer._pending_metrics.items():
                # A round counts as often as it has rows.
                logged.setdefault(name, []).extend(values * len(rows))
            trainer._pending_metrics.clear()
            correct, judged, shares = trainer._labels("train")
            accuracy, weights = shares.tolist(), trainer.reward_weights
            if trainer.args.advantage == "grpo":
                informative = informative_groups(accuracy, rewards, weights)
            else:
                labels = (correct, judged, trainer.num_generations)
                informative = teaching_groups(trainer.args.estimator, rewards, weights, *labels)
            return Round(found, rewards, accuracy, informative)

        def draw(n, held):
            # One process reads, so that all have the same prompts, whatever the data set does.
            held = None if trainer.environment_factories else held
            drawn = main_process_decides(lambda: self.prompts.draw(n, held))
            return [{name: example[name] for name in inputs[0]} for example in drawn]

        batch = collect(
            inputs,
            roll_out=roll_out,
            draw=draw,
            exchange=gather_object,
            group_size=trainer.num_generations,
            rank=accelerator.process_index,
            n_processes=accelerator.num_processes,
            max_rounds=trainer.args.max_sampling_rounds,
        )
        metrics = batch.metrics(trainer.num_generations) | {"seconds": time.perf_counter() - started}
        for name, value in metrics.items():
            trainer._metrics["train"][f"htpo/sampling/{name}"].append(value)
        if batch.missing:
            self._exhausted(batch, metrics)
        rows, generated = rollouts.join(batch.rows)
        names = {name for rollout in batch.rows for name in rollout.logs}
        trainer._pending_extra_logs.update(
            {name: [rollout.logs.get(name) for rollout in batch.rows] for name in names}
        )
        trainer._pending_metrics.update(logged)
        return rows, Sampled(generated, batch.rewards)

    def _generate(self, rows: list[dict], score: Callable[[list[dict]], Any]) -> tuple[list, tuple]:
        """TRL's preparation of rows and its generation: the prompts that it made, and what `_generate` returned."""
        self.is_generating = True
        try:
            score(rows)
        except Generated as generated:
            prompts, columns = generated.args
            return prompts, columns
        finally:
            self.is_generating = False
        raise RuntimeError("TRL's `_generate_and_score_completions` has not called `_generate`.")

    @contextmanager
    def episodes_over(self, n: int) -> Iterator[None]:
        """Within, TRL finds environments that have played: those of `n` rows are not reset to be scored."""
        trainer = self.trainer
        if trainer.environment_factories is None:
            yield
            return
        pool = trainer._environment_pool
        trainer._environment_pool = {name: [rollouts.Played()] * n for name in pool}
        try:
            yield
        finally:
            trainer._environment_pool = pool

    def _exhausted(self, batch: CollectedBatch, metrics: dict[str, float]) -> None:
        args = self.trainer.args
        n_groups = len(batch.rewards) // self.trainer.num_generations
        why = (
            f"dynamic_sampling found {n_groups - batch.missing} informative groups of the {n_groups} of a batch, in "
            f"{batch.rounds} rounds (max_sampling_rounds={args.max_sampling_rounds}). Of the {len(batch.accuracy)} "
            f"groups generated, {metrics['frac_informative']:.1%} were informative, {metrics['frac_all_correct']:.1%} "
            f"all correct, {metrics['frac_all_wrong']:.1%} all wrong and {metrics['frac_unjudged']:.1%} without a "
            "verdict."
        )
        if args.on_sampling_exhausted == "train":
            if self.trainer.accelerator.is_main_process:
                warnings.warn(f"{why} The batch is filled with discarded groups.", stacklevel=2)
            return
        saved = self.trainer.save_last_step()
        mend = (
            "Use prompts that the model solves sometimes (easier ones if most are all wrong, harder ones if most are "
            "all correct), raise num_generations or max_sampling_rounds"
        )
        if metrics["frac_unjudged"] > 0.5:
            judges = " and ".join(self.trainer.correctness_names)
            mend = f"Look at the golds: {judges}, which should judge, returned None for most. Correct or remove them, "
            mend += "or name another reward function in correctness_reward"
        raise SamplingExhaustedError(f"{why} {mend}, or set on_sampling_exhausted='train'. {saved}")
