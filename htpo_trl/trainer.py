"""
`HTPOTrainer`: TRL's `GRPOTrainer` in which every token has the objective of its functional group.

What differs from `GRPOTrainer`:

1. After scoring, each response is labelled: is its prompt hard, is it correct (`_generate_and_score_completions`)?
2. In the loss, between TRL's forward pass and TRL's PPO-clip, the advantages and old log-probabilities are replaced by
   the effective ones of the objective table (`_compute_loss`, `objective/`). Nothing of TRL's loss is copied.
3. Groups that teach nothing can be discarded (`training/sampling.py`), advantages replaced (`training/advantages.py`).
4. A run resumes exactly at any step (`training/resume.py`), an error of a reward function ends it on all processes
   (`training/reward_errors.py`), and the model card says what was trained (`training/model_card.py`).
"""

import textwrap
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from .config import HTPOConfig
from .objective.transform import Control, control, token_sums
from .training import advantages, checks, precision, truncation
from .training.console import NothingLearnt, tell
from .training.model_card import write_model_card
from .training.optimization import own_generator, told_on_policy
from .training.resume import ResumableGRPOTrainer
from .training.reward_errors import RewardErrors
from .training.sampling import DynamicSampler, Generated, Sampled
from .training.verdicts import UnjudgedTeller, verdicts


class HTPOTrainer(ResumableGRPOTrainer):
    """
    Trainer for Hierarchical Token-level Objective Control Policy Optimization (HTPO, arXiv 2605.08283).

    It takes the arguments of [`~trl.GRPOTrainer`], with an [`HTPOConfig`] as `args`. One of the reward functions, the
    first unless `HTPOConfig.correctness_reward` names another, judges whether a response is correct; of several that
    it names, for several tasks, the first that does not return `None`.

    Besides TRL's metrics it logs, as shares of the tokens that are trained on unless said otherwise:

    - `htpo/share/<group>`: tokens in each of the eight groups (`hard_correct_low` ... `easy_wrong_high`);
    - `htpo/entropy/<group>`: mean entropy of each group that has tokens, in nats;
    - `htpo/special/<effect>`: tokens whose objective a rule really changed (`detach_lowest`, `gate_keeps`, ...);
    - `htpo/clip_ratio/low`, `htpo/clip_ratio/high`: tokens that plain PPO-clip would clip, or a gate on the ratio of
      the response cuts off. TRL's `clip_ratio/*` does not see those whose gradient is kept or weighed;
    - `htpo/frac_hard`: share of prompts that are hard; `htpo/accuracy`: share of judged responses that are correct;
      `htpo/frac_unjudged`: share of responses without a verdict; `htpo/frac_zero_advantage`: share with advantage 0,
      where `advantage` is not "grpo";
    - with dynamic sampling, `htpo/sampling/<what>`: see [`~htpo_trl.training.sampling.DynamicSampler`].

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
    loss_observers: Sequence[Callable[..., None]] = ()
    # Defaults of the class, since TRL's own tests build trainers without `__init__`.
    _sampler: Any = None
    _sampled: Sampled | None = None  # what was sampled dynamically, while TRL scores it
    _reward_errors: RewardErrors | None = None
    _correctness_columns: Sequence[int] = (0,)  # of the rewards, in the order in which they judge
    _unjudged: UnjudgedTeller | None = None
    _rewards_per_func: Tensor  # (P·B, F), of the batch that is being scored
    _lengths: Sequence[int] = ()  # of this process's completions of that batch
    _loss_inputs: dict | None = None  # inputs of the loss whose forward pass is under way
    _sums: tuple[dict[str, Tensor], ...] = ()  # of the micro-batches of the optimizer step under way, on the device

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

    def __init__(
        self,
        model,
        reward_funcs=None,
        args: HTPOConfig | None = None,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        *other_args,
        **kwargs,
    ):
        model = str(model) if isinstance(model, PathLike) else model
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = HTPOConfig(f"{name.split('/')[-1]}-HTPO")
        if not isinstance(args, HTPOConfig):
            raise TypeError(f"`args` must be an `HTPOConfig`, got `{type(args).__name__}`.")
        has_own_rollouts = any(kwargs.get(name) for name in ("rollout_func", "environment_factory"))
        checks.check_run(
            *(args, model, reward_funcs, train_dataset, processing_class),
            peft_config=kwargs.get("peft_config"),
            has_own_rollouts=has_own_rollouts,
        )
        precision.check_precision(args, model, kwargs.get("peft_config"))
        tell(args, precision.told_of_device(args))
        super().__init__(
            model, reward_funcs, args, train_dataset, eval_dataset, processing_class, *other_args, **kwargs
        )
        checks.check_trainable(self.model)
        self.add_callback(checks.StepsTaken())

        self._reward_errors = RewardErrors(self.accelerator.process_index, checks_logs=args.dynamic_sampling)
        self.reward_funcs = list(map(self._reward_errors.guard, self.reward_funcs, self.reward_func_names))
        self.table = args.table
        self.loss_observers = []
        self.add_callback(NothingLearnt())
        self._correctness_columns = checks.correctness_columns(args.correctness_names, self.reward_func_names)
        advantages.check_rewards(args, self.reward_func_names, self._correctness_columns)  # an environment's too
        self._unjudged = UnjudgedTeller(self._correctness_columns, self.reward_func_names)
        self._sampler = DynamicSampler(self)
        precision.float32_adapters(self.model)
        defaults = getattr(self.model, "generation_config", None)
        tell(args, truncation.told(args, defaults), precision.told(self), told_on_policy(args))

    @property
    def correctness_names(self) -> list[str]:
        """Names of the reward functions that judge correctness, in the order in which they are asked."""
        return [self.reward_func_names[column] for column in self._correctness_columns]

    def train(self, resume_from_checkpoint=None, *args, **kwargs):
        """See [`~htpo_trl.training.resume.ResumableGRPOTrainer.train`]."""
        self._sums = ()  # of an earlier training, which may have been stopped anywhere
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def get_train_dataloader(self):
        """TRL's, of a data set that has prompts for one generation batch."""
        checks.check_prompts(self.args, self.train_dataset)
        return super().get_train_dataloader()

    def _generate(self, prompts):
        if self._sampled is not None:
            return self._sampled.generated
        generated = super()._generate(prompts)
        if self._sampler is not None and self._sampler.is_generating:
            raise Generated(prompts, generated)
        return generated

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        self._lengths = [*map(len, completion_ids_list)]
        if self._sampled is None:
            self._rewards_per_func = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
            if self._reward_errors is not None:
                self._reward_errors.raise_if_any(save=self.save_last_step)
            if self._unjudged is not None and self._mode() == "train" and self.accelerator.is_main_process:
                self._unjudged.tell(self._rewards_per_func)
        else:
            self._rewards_per_func = self._sampled.rewards
        return self._rewards_per_func

    def _labels(self, mode: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Which responses are correct and which were judged, both (P·B,); each prompt's accuracy (P·B/G,), or NaN."""
        # The rewards are gathered, so that a group that straddles processes is whole.
        group_size: int = self.num_generations if mode == "train" else self.num_generations_eval  # type: ignore
        judging = verdicts(self._rewards_per_func, self._correctness_columns)
        judged = ~judging.isnan()
        correct = judging > self.args.correctness_threshold
        return correct, judged, correct.view(-1, group_size).sum(dim=1) / judged.view(-1, group_size).sum(dim=1)

    def _generate_and_score_completions(self, inputs):
        mode = self._mode()  # read here, as TRL does: continuous batching leaves the model in training mode
        score = super()._generate_and_score_completions
        if mode == "train" and self.args.dynamic_sampling:
            inputs, sampled = self._sampler.sample(inputs, score)
            with self._sampler.episodes_over(len(inputs)):
                self._sampled = sampled
                try:
                    output = score(inputs)
                finally:
                    self._sampled = None
        else:
            output = score(inputs)
        correct, judged, accuracy = self._labels(mode)
        hard = accuracy < self.args.difficulty_threshold

        rank, size = self.accelerator.process_index, len(inputs)
        local = slice(rank * size, (rank + 1) * size)
        output["is_hard"] = hard.repeat_interleave(len(correct) // len(hard))[local]
        output["is_correct"] = correct[local]
        output["is_judged"] = judged[local]
        if self.args.advantage != "grpo":
            output["advantages"] = advantages.replaced(self, mode, correct, judged)[local]
        output["rewards_per_func"] = self._rewards_per_func[local]  # for those who look at the loss, TRL's has no use

        counts = torch.stack([hard.sum(), (~accuracy.isnan()).sum(), correct.sum(), judged.sum()]).tolist()
        self._metrics[mode]["htpo/frac_hard"].append(_ratio(counts[0], counts[1]))
        self._metrics[mode]["htpo/accuracy"].append(_ratio(counts[2], counts[3]))
        self._metrics[mode]["htpo/frac_unjudged"].append(1 - counts[3] / len(judged))
        return output

    def create_model_card(self, model_name=None, dataset_name=None, tags=None):  # type: ignore[override]
        """
        Write TRL's model card with the objective table, rewards, data, hyper-parameters and evaluation of this run to
        `output_dir/README.md`. The arguments are TRL's; a data set that `load_dataset` took from the Hub is named.
        """
        write_model_card(self, super().create_model_card, model_name, dataset_name, tags)

    def _counters(self):
        return super()._counters() | {"prompts_drawn": self._sampler.prompts.drawn}

    def _restore_counters(self, counters):
        super()._restore_counters(counters)
        self._sampler.prompts.drawn = counters["prompts_drawn"]

    def _compute_loss(self, model, inputs):
        # TRL's loss reads `advantages` and `old_per_token_logps` after its forward pass: they are replaced in between,
        # in a copy, since `inputs` is used again when num_iterations > 1.
        inputs = self._loss_inputs = dict(inputs)
        try:
            loss = super()._compute_loss(model, inputs)
        finally:
            self._loss_inputs = None
        # The host reads once per optimizer step, before it, and here, where TRL has just waited for the device.
        if self.accelerator.sync_gradients or self._mode() == "eval":
            self._log_sums()
        return loss

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        outputs = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        # Only the forward of a loss is followed by the transform, not those that score old and reference policies.
        inputs, self._loss_inputs = self._loss_inputs, None
        if inputs is not None:
            self._control_objective(inputs, per_token_logps=outputs[0].detach(), entropies=outputs[1].detach())
        return outputs

    def _control_objective(self, inputs: dict, per_token_logps: torch.Tensor, entropies: torch.Tensor) -> Control:
        """Replace the loss inputs by the effective ones of the objective table, and log what that did."""
        mask = inputs["completion_mask"]
        if "tool_mask" in inputs:
            mask = mask * inputs["tool_mask"]
        tokens = {
            "mask": mask.bool(),
            "per_token_logps": per_token_logps,
            # TRL leaves the old log-probs out where they equal the current ones.
            "old_per_token_logps": inputs.get("old_per_token_logps", per_token_logps),
            "entropies": entropies,
        }
        clip_range: dict[str, Any] = {"epsilon_low": self.epsilon_low, "epsilon_high": self.epsilon_high}
        labels = {name: inputs[name] for name in ("advantages", "is_hard", "is_correct", "is_judged")}
        result = control(
            **(tokens | clip_range | labels),
            table=self.table,
            top_entropy_share=self.args.top_entropy_share,
            delta=self.args.delta,
            generator=own_generator(self, micro_batch=len(self._sums), device=per_token_logps.device),
        )
        for observe in self.loss_observers:
            observe(inputs=inputs, result=result, **tokens)
        given = {"advantages": inputs["advantages"]}
        counted: dict[str, Any] = {"effects": self.table.effects, "of_response": self.table.of_response}
        sums = token_sums(result, **tokens, **clip_range, **given, **counted)
        self._sums = (*self._sums, sums) if self._mode() == "train" else (sums,)
        if not self.table.is_plain:  # one that is leaves every option of TRL's its own way
            inputs["advantages"] = result.advantages
            inputs["old_per_token_logps"] = result.old_per_token_logps
            # Off-policy sequence masking measures the distance to the policy that sampled, not the effective ratio.
            inputs.setdefault("sampling_per_token_logps", tokens["old_per_token_logps"])
        return result

    def _mode(self) -> str:
        return "train" if self.model.training else "eval"  # type: ignore[union-attr]

    def _log_sums(self) -> None:
        """Reduce what [`token_sums`] counted in micro-batches over the processes, and log it as shares and means."""
        counted, self._sums = self._sums, ()
        # One collective and one transfer for all of them.
        sums = torch.stack([torch.stack([*each.values()]) for each in counted])
        totals = [dict(zip(counted[0], row, strict=True)) for row in self.accelerator.reduce(sums).tolist()]
        for total in totals:
            if total["not_finite"]:
                raise FloatingPointError(
                    f"{total['not_finite']:.0f} of {total['tokens']:.0f} tokens have no finite log-probability or "
                    f"entropy after step {self.state.global_step}: the model's logits are NaN or infinite, and no "
                    "token was trained on them. Resume from the last checkpoint with a lower learning_rate or "
                    "max_grad_norm, or bf16 instead of fp16."
                )
            metrics = self._metrics[self._mode()]
            for name, value in total.items():
                kind, _, group = name.partition("/")
                n = total[f"share/{group}"] if kind == "entropy" else total["tokens"]
                if group and (n or kind != "entropy"):  # no entropy of no tokens: TensorBoard warns of every None
                    metrics[f"htpo/{name}"].append(_ratio(value, n))


def _ratio(part: float, whole: float) -> float:
    """`part / whole`; NaN, which TRL's log leaves out of its averages, where there is nothing to average."""
    return part / whole if whole else float("nan")
