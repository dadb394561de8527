"""`HTPOTrainer`: TRL's `GRPOTrainer` in which every token has the objective of its functional group.

What differs from `GRPOTrainer`: after scoring, each response is labelled (hard prompt? correct?); in the loss,
between TRL's forward pass and TRL's PPO-clip, the advantages and old log-probabilities are replaced by the effective
ones of the objective table (see `objective.py`). Nothing of TRL's loss is copied. Before scoring, dynamic sampling can
discard groups that teach nothing (`sampling.py`). A run resumes exactly at any step (`resume.py`).
"""

import textwrap
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object

from .config import HTPOConfig
from .objective.rules import KeepGradient
from .objective.table import EFFECTS, GROUPS
from .objective.transform import Control, control
from .training import model_card
from .training.resume import ResumableGRPOTrainer
from .training.reward_errors import RewardErrors
from .training.sampling import Batch, PromptStream, Rollouts, SamplingExhaustedError, collect, join_rows, split_rows


class HTPOTrainer(ResumableGRPOTrainer):
    """
    Trainer for Hierarchical Token-level Objective Control Policy Optimization (HTPO, arXiv 2605.08283).

    It takes the arguments of [`~trl.GRPOTrainer`], with an [`HTPOConfig`] as `args`. One of the reward functions, the
    first unless `HTPOConfig.correctness_reward` names another, judges whether a response is correct.

    Besides TRL's metrics it logs, as shares of the tokens that are trained on unless said otherwise:

    - `htpo/share/<group>`: tokens in each of the eight groups (`hard_correct_low` ... `easy_wrong_high`);
    - `htpo/entropy/<group>`: mean entropy of each group that has tokens, in nats;
    - `htpo/special/<rule>`: tokens whose objective a rule really changed (`detach_lowest`, `keep_above`, ...);
    - `htpo/clip_ratio/low`, `htpo/clip_ratio/high`: tokens that plain PPO-clip would clip. TRL's `clip_ratio/*` does
      not see those whose gradient is kept;
    - `htpo/frac_hard`: share of prompts that are hard; `htpo/accuracy`: share of judged responses that are correct;
    - with dynamic sampling, `htpo/sampling/<what>`: `rounds` of generation; of all groups generated `frac_informative`,
      `frac_all_correct`, `frac_all_wrong` and the mean `accuracy`; `generated_per_trained` completions; `frac_filled`,
      the share of trained groups that are not informative; `seconds` of generating and judging. TRL's `completions/*`
      and token counts are of all that was generated, its rewards of what is trained on.

    Checkpoints resume exactly, also between two generations: see [`ResumableGRPOTrainer`].

    Each function in `loss_observers` is called in every loss, between the forward pass and PPO-clip, by keywords:
    `inputs`, TRL's inputs of the loss, in which nothing has been replaced yet; `mask`, `per_token_logps`,
    `old_per_token_logps` and `entropies`, all (B, T) and without gradient; and `result`, the [`Control`] of the table.

    Example:

    ```python
    from datasets import load_dataset
    from htpo_trl import HTPOConfig, HTPOTrainer
    from htpo_trl.rewards import math_reward

    trainer = HTPOTrainer(
        model="Qwen/Qwen3-0.6B",
        args=HTPOConfig(output_dir="Qwen3-0.6B-HTPO"),
        reward_funcs=math_reward,
        train_dataset=load_dataset("trl-lib/DeepMath-103K", split="train"),
    )
    trainer.train()
    ```
    """

    args: HTPOConfig
    num_generations: int
    train_dataset: Any

    _tag_names = ["trl", "htpo", "grpo"]
    _name = "HTPO"
    _paper = {
        "title": "HTPO: Towards Exploration-Exploitation Balanced Policy Optimization via Hierarchical Token-level "
        "Objective Control",
        "id": "2605.08283",
        # docstyle-ignore
        "citation": textwrap.dedent("""\
            @article{yao2026htpo,
                title        = {{HTPO: Towards Exploration-Exploitation Balanced Policy Optimization via Hierarchical Token-level Objective Control}},
                author       = {Xincheng Yao and Ruoqi Li and Cheng Chen and Daoxin Zhang and Yi Wu and Yao Hu and Chongyang Zhang},
                year         = 2026,
                eprint       = {arXiv:2605.08283},
            }"""),
    }

    def __init__(self, model, reward_funcs=None, args: HTPOConfig | None = None, *other_args, **kwargs):
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = HTPOConfig(f"{name.split('/')[-1]}-HTPO")
        if not isinstance(args, HTPOConfig):
            raise TypeError(f"`args` must be an `HTPOConfig`, got `{type(args).__name__}`.")
        super().__init__(model, reward_funcs, args, *other_args, **kwargs)

        self._reward_errors = RewardErrors(self.accelerator.process_index)
        self.reward_funcs = list(map(self._reward_errors.guard, self.reward_funcs, self.reward_func_names))
        self.table = args.table
        self.loss_observers: list[Callable[..., None]] = []
        name = args.correctness_reward
        if name is not None and self.reward_func_names.count(name) != 1:
            raise ValueError(
                f"correctness_reward={name!r} must name one reward function; there are "
                f"{', '.join(self.reward_func_names)}."
            )
        self._correctness_index = 0 if name is None else self.reward_func_names.index(name)
        self._rewards_per_func: torch.Tensor  # (P·B, F), of the batch that is being scored
        self._loss_inputs: dict | None = None  # inputs of the loss whose forward pass is under way
        # What generation, rewards and their extra columns were, while TRL scores a batch that was sampled dynamically.
        self._sampled: tuple[tuple, torch.Tensor, dict[str, list]] | None = None
        if args.dynamic_sampling:
            self._check_dynamic_sampling()
        self._prompts = PromptStream(self.train_dataset, args.seed, bool(self.shuffle_dataset))
        keeps = any(isinstance(row, KeepGradient) for row in self.table.rows)
        if args.is_on_policy and keeps and self.accelerator.is_main_process:
            warnings.warn(
                f"Each generation batch is used up within one optimizer step (gradient_accumulation_steps="
                f"{args.gradient_accumulation_steps}, steps_per_generation={args.steps_per_generation}, "
                f"num_iterations={args.num_iterations}), so every importance ratio is 1 and the rules of objective="
                f"{args.objective!r} beyond the clip range never act. Set steps_per_generation="
                f"{4 * args.gradient_accumulation_steps} (four optimizer steps, as in the paper) or raise "
                "num_iterations.",
                stacklevel=2,
            )

    def _check_dynamic_sampling(self) -> None:
        for name in ("rollout_func", "environment_factories", "tools"):
            if getattr(self, name):
                raise ValueError(
                    f"dynamic_sampling=True draws prompts of its own, which `{name}` cannot follow: it keeps state per "
                    "row of the batch. Set dynamic_sampling=False, or leave the argument out."
                )
        if columns := {"image", "images"} & set(next(iter(self.train_dataset))):
            raise ValueError(
                f"dynamic_sampling=True supports text only; the training data has the column {min(columns)!r}. Set "
                "dynamic_sampling=False, or remove the column."
            )

    def _generate(self, prompts):
        return super()._generate(prompts) if self._sampled is None else self._sampled[0]

    def _calculate_rewards(self, *args, **kwargs):
        if self._sampled is None:
            self._rewards_per_func = super()._calculate_rewards(*args, **kwargs)
            self._reward_errors.raise_if_any(save=self.save_last_step)
        else:
            _, self._rewards_per_func, extra_logs = self._sampled
            self._pending_extra_logs.update(extra_logs)
        return self._rewards_per_func

    def _labels(self, mode: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Which responses are correct and which were judged, both (P·B,), and each prompt's accuracy (P·B/G,), NaN if
        no response was judged. The rewards are gathered, so that a group that straddles processes is whole.
        """
        group_size: int = self.num_generations if mode == "train" else self.num_generations_eval  # type: ignore
        rewards = self._rewards_per_func[:, self._correctness_index]
        judged = ~rewards.isnan()  # None came in as NaN
        correct = rewards > self.args.correctness_threshold
        return correct, judged, correct.view(-1, group_size).sum(dim=1) / judged.view(-1, group_size).sum(dim=1)

    def _generate_and_score_completions(self, inputs):
        mode = self._mode()  # read here, as TRL does: continuous batching leaves the model in training mode
        if mode == "train" and self.args.dynamic_sampling:
            inputs = self._sample(inputs)
        try:
            output = super()._generate_and_score_completions(inputs)
        finally:
            self._sampled = None
        correct, judged, accuracy = self._labels(mode)
        hard = accuracy < self.args.difficulty_threshold

        rank, size = self.accelerator.process_index, len(inputs)
        local = slice(rank * size, (rank + 1) * size)
        output["is_hard"] = hard.repeat_interleave(len(correct) // len(hard))[local]
        output["is_correct"] = correct[local]
        output["is_judged"] = judged[local]
        output["rewards_per_func"] = self._rewards_per_func[local]  # for those who look at the loss, TRL's has no use

        counts = torch.stack([hard.sum(), (~accuracy.isnan()).sum(), correct.sum(), judged.sum()]).tolist()
        self._metrics[mode]["htpo/frac_hard"].append(_ratio(counts[0], counts[1]))
        self._metrics[mode]["htpo/accuracy"].append(_ratio(counts[2], counts[3]))
        return output

    def _sample(self, inputs: list[dict]) -> list[dict]:
        """
        Generate until every group is informative. Returns the rows to train on, and leaves their completions and
        rewards in `_sampled`. Only TRL scores, later: completions that are discarded cost no forward pass.
        """
        started = time.perf_counter()
        first: tuple = ()  # what generation returned at first

        def roll_out(rows):
            nonlocal first
            prompts = [row["prompt"] for row in rows]
            generated = self._generate(prompts)
            _, completion_ids, _, completions, *_ = generated
            rewards = self._calculate_rewards(rows, prompts, completions, completion_ids)
            extra_logs = dict(self._pending_extra_logs)
            self._pending_extra_logs.clear()
            logs = [{name: values[i] for name, values in extra_logs.items()} for i in range(len(rows))]
            first = first or generated
            _, _, accuracy = self._labels("train")
            fields = split_rows(generated, len(rows))
            return Rollouts(list(zip(rows, fields, logs, strict=True)), rewards, accuracy.tolist())

        def draw(n, held):
            # One process reads, so that all have the same prompts, whatever the data set does.
            drawn = [self._prompts.draw(n, held) if self.accelerator.is_main_process else None]
            broadcast_object_list(drawn)
            return [{name: example[name] for name in inputs[0]} for example in drawn[0] or []]

        batch = collect(
            inputs,
            roll_out=roll_out,
            draw=draw,
            exchange=gather_object,
            group_size=self.num_generations,
            rank=self.accelerator.process_index,
            n_processes=self.accelerator.num_processes,
            max_rounds=self.args.max_sampling_rounds,
        )
        metrics = batch.metrics(self.num_generations) | {"seconds": time.perf_counter() - started}
        for name, value in metrics.items():
            self._metrics["train"][f"htpo/sampling/{name}"].append(value)
        if batch.missing:
            self._sampling_exhausted(batch, metrics)
        rows, fields, logs = (list(column) for column in zip(*batch.rows, strict=True))
        names = {name for log in logs for name in log}
        extra_logs = {name: [log.get(name) for log in logs] for name in names}
        self._sampled = join_rows(fields, first, len(inputs)), batch.rewards, extra_logs
        return rows

    def _sampling_exhausted(self, batch: Batch, metrics: dict[str, float]) -> None:
        n_groups = len(batch.rewards) // self.num_generations
        why = (
            f"dynamic_sampling found {n_groups - batch.missing} informative groups of the {n_groups} of a batch, in "
            f"{batch.rounds} rounds (max_sampling_rounds={self.args.max_sampling_rounds}). Of the {len(batch.accuracy)} "
            f"groups generated, {metrics['frac_informative']:.1%} were informative, {metrics['frac_all_correct']:.1%} "
            f"all correct and {metrics['frac_all_wrong']:.1%} all wrong."
        )
        if self.args.on_sampling_exhausted == "train":
            if self.accelerator.is_main_process:
                warnings.warn(f"{why} The batch is filled with discarded groups.", stacklevel=2)
            return
        raise SamplingExhaustedError(
            f"{why} Use prompts that the model solves sometimes (easier ones if most are all wrong, harder ones if most "
            "are all correct), raise num_generations or max_sampling_rounds, or set on_sampling_exhausted='train'. "
            f"{self.save_last_step()}"
        )

    def create_model_card(self, model_name=None, dataset_name=None, tags=None):  # type: ignore[override]
        """
        Write TRL's model card with the objective table, rewards, data, hyper-parameters and evaluation of this run to
        `output_dir/README.md`. The arguments are TRL's; a data set that `load_dataset` took from the Hub is named.
        """
        directory = Path(str(self.args.output_dir))
        model_name = model_name or directory.name
        super().create_model_card(model_name, dataset_name or model_card.dataset_id(self.train_dataset), tags)
        if self.is_world_process_zero():
            model_card.extend(directory / "README.md", self)

    def _counters(self):
        return super()._counters() | {"prompts_drawn": self._prompts.drawn}

    def _restore_counters(self, counters):
        super()._restore_counters(counters)
        self._prompts.drawn = counters["prompts_drawn"]

    def _compute_loss(self, model, inputs):
        # TRL's loss reads `advantages` and `old_per_token_logps` after its forward pass: they are replaced in between,
        # in a copy, since `inputs` is used again when num_iterations > 1.
        inputs = self._loss_inputs = dict(inputs)
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._loss_inputs = None

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        outputs = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        # Only the forward of a loss is followed by the transform, not those that score old and reference policies.
        inputs, self._loss_inputs = self._loss_inputs, None
        if inputs is not None:
            self._control_objective(inputs, per_token_logps=outputs[0].detach(), entropies=outputs[1].detach())
        return outputs

    def _control_objective(self, inputs: dict, per_token_logps: torch.Tensor, entropies: torch.Tensor) -> Control:
        """
        Replace the loss inputs by the effective ones of the objective table, and log what that did.

        Raises:
            FloatingPointError: where a token that is trained on has no finite log-probability or entropy.
        """
        mask = inputs["completion_mask"]
        if "tool_mask" in inputs:
            mask = mask * inputs["tool_mask"]
        mask = mask.bool()
        advantages = inputs["advantages"]
        # TRL leaves the old log-probs out where they equal the current ones.
        old_per_token_logps = inputs.get("old_per_token_logps", per_token_logps)
        result = control(
            per_token_logps=per_token_logps,
            old_per_token_logps=old_per_token_logps,
            entropies=entropies,
            advantages=advantages,
            is_hard=inputs["is_hard"],
            is_correct=inputs["is_correct"],
            is_judged=inputs.get("is_judged"),
            mask=mask,
            table=self.table,
            epsilon_low=self.epsilon_low,
            epsilon_high=self.epsilon_high,
            top_entropy_share=self.args.top_entropy_share,
        )
        for observe in self.loss_observers:
            observe(
                inputs=inputs,
                mask=mask,
                per_token_logps=per_token_logps,
                old_per_token_logps=old_per_token_logps,
                entropies=entropies,
                result=result,
            )
        inputs["advantages"] = result.advantages
        inputs["old_per_token_logps"] = result.old_per_token_logps
        # Off-policy sequence masking measures the distance to the policy that sampled, not the effective ratio.
        inputs.setdefault("sampling_per_token_logps", old_per_token_logps)
        finite = per_token_logps.isfinite() & old_per_token_logps.isfinite() & entropies.isfinite()
        self._log_groups(result, mask, finite, entropies, torch.exp(per_token_logps - old_per_token_logps), advantages)
        return result

    def _mode(self) -> str:
        return "train" if self.model.training else "eval"  # type: ignore[union-attr]

    def _log_groups(self, result: Control, mask, finite, entropies, ratio, advantages) -> None:
        """Log what [`control`] did; the tensors are (B, T), but `advantages`, which may be (B,)."""
        advantages = advantages.unsqueeze(1) if advantages.dim() == 1 else advantages
        members = [result.groups == i for i in range(len(GROUPS))]
        counts = [
            mask & ~finite,
            mask,
            mask & (ratio < 1 - self.epsilon_low) & (advantages < 0),
            mask & (ratio > 1 + self.epsilon_high) & (advantages > 0),
            *(mask & (result.effects == i) for i in range(1, 1 + len(EFFECTS))),
            *members,
        ]
        sums = [count.sum() for count in counts] + [entropies.masked_fill(~group, 0).sum() for group in members]
        # One collective and one transfer for all of them.
        totals = self.accelerator.reduce(torch.stack([s.float() for s in sums]), reduction="sum").tolist()
        n_not_finite, n_tokens, n_low, n_high, *rest = totals
        if n_not_finite:
            raise FloatingPointError(
                f"{n_not_finite:.0f} of {n_tokens:.0f} tokens have no finite log-probability or entropy after step "
                f"{self.state.global_step}: the model's logits are NaN or infinite, and no token was trained on them. "
                "Resume from the last checkpoint with a lower learning_rate or max_grad_norm, or bf16 instead of fp16."
            )
        last = len(GROUPS)
        n_effects, n_groups, entropy_sums = rest[: -2 * last], rest[-2 * last : -last], rest[-last:]

        metrics = self._metrics[self._mode()]
        metrics["htpo/clip_ratio/low"].append(_ratio(n_low, n_tokens))
        metrics["htpo/clip_ratio/high"].append(_ratio(n_high, n_tokens))
        for effect, n in zip(EFFECTS, n_effects, strict=True):
            metrics[f"htpo/special/{effect}"].append(_ratio(n, n_tokens))
        for group, n, entropy in zip(GROUPS, n_groups, entropy_sums, strict=True):
            metrics[f"htpo/share/{group}"].append(_ratio(n, n_tokens))
            if n:  # a group without tokens has no entropy, and TensorBoard warns of every None
                metrics[f"htpo/entropy/{group}"].append(entropy / n)


def _ratio(part: float, whole: float) -> float:
    """`part / whole`; NaN, which TRL's log leaves out of its averages, where there is nothing to average."""
    return part / whole if whole else float("nan")
