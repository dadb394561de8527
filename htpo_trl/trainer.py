"""`HTPOTrainer`: TRL's `GRPOTrainer` in which every token has the objective of its functional group.

What differs from `GRPOTrainer`: after scoring, each response is labelled (hard prompt? correct?); in the loss,
between TRL's forward pass and TRL's PPO-clip, the advantages and old log-probabilities are replaced by the effective
ones of the objective table (see `objective.py`). Nothing of TRL's loss is copied.
"""

import textwrap
import warnings

import torch
from trl import GRPOTrainer

from .config import HTPOConfig
from .objective import EFFECTS, GROUPS, Control, KeepGradient, control


class HTPOTrainer(GRPOTrainer):
    """
    Trainer for Hierarchical Token-level Objective Control Policy Optimization (HTPO, arXiv 2605.08283).

    It takes the arguments of [`~trl.GRPOTrainer`], with an [`HTPOConfig`] as `args`. One of the reward functions, the
    first unless `HTPOConfig.correctness_reward` names another, judges whether a response is correct.

    Besides TRL's metrics it logs, as shares of the tokens that are trained on unless said otherwise:

    - `htpo/share/<group>`: tokens in each of the eight groups (`hard_correct_low` ... `easy_wrong_high`);
    - `htpo/entropy/<group>`: mean entropy of each group, in nats;
    - `htpo/special/<rule>`: tokens whose objective a rule really changed (`detach_lowest`, `keep_above`, ...);
    - `htpo/clip_ratio/low`, `htpo/clip_ratio/high`: tokens that plain PPO-clip would clip. TRL's `clip_ratio/*` does
      not see those whose gradient is kept;
    - `htpo/frac_hard`: share of prompts that are hard; `htpo/accuracy`: share of judged responses that are correct.

    Example:

    ```python
    from datasets import load_dataset
    from htpo_trl import HTPOConfig, HTPOTrainer
    from trl.rewards import accuracy_reward

    trainer = HTPOTrainer(
        model="Qwen/Qwen3-0.6B",
        args=HTPOConfig(output_dir="Qwen3-0.6B-HTPO"),
        reward_funcs=accuracy_reward,
        train_dataset=load_dataset("trl-lib/DeepMath-103K", split="train"),
    )
    trainer.train()
    ```
    """

    args: HTPOConfig

    _tag_names = ["trl", "htpo"]
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

        self.table = args.table
        name = args.correctness_reward
        if name is not None and self.reward_func_names.count(name) != 1:
            raise ValueError(
                f"correctness_reward={name!r} must name one reward function; there are "
                f"{', '.join(self.reward_func_names)}."
            )
        self._correctness_index = 0 if name is None else self.reward_func_names.index(name)
        self._rewards_per_func: torch.Tensor  # (P·B, F), of the batch that is being scored
        self._loss_inputs: dict | None = None  # inputs of the loss whose forward pass is under way
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

    def _calculate_rewards(self, *args, **kwargs):
        self._rewards_per_func = super()._calculate_rewards(*args, **kwargs)
        return self._rewards_per_func

    def _generate_and_score_completions(self, inputs):
        mode = self._mode()  # read here, as TRL does: continuous batching leaves the model in training mode
        output = super()._generate_and_score_completions(inputs)
        group_size: int = self.num_generations if mode == "train" else self.num_generations_eval  # type: ignore

        # The rewards are gathered, so that a group that straddles processes is still whole. None came in as NaN.
        rewards = self._rewards_per_func[:, self._correctness_index]
        judged = ~rewards.isnan()  # (P·B,)
        correct = rewards > self.args.correctness_threshold
        n_judged = judged.view(-1, group_size).sum(dim=1)
        accuracy = correct.view(-1, group_size).sum(dim=1) / n_judged  # per prompt; NaN if no response was judged
        hard = accuracy < self.args.difficulty_threshold

        rank, size = self.accelerator.process_index, len(inputs)
        local = slice(rank * size, (rank + 1) * size)
        output["is_hard"] = hard.repeat_interleave(group_size)[local]
        output["is_correct"] = correct[local]
        output["is_judged"] = judged[local]

        counts = torch.stack([hard.sum(), (n_judged > 0).sum(), correct.sum(), judged.sum()]).tolist()
        self._metrics[mode]["htpo/frac_hard"].append(_ratio(counts[0], counts[1]))
        self._metrics[mode]["htpo/accuracy"].append(_ratio(counts[2], counts[3]))
        return output

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
        """Replace the loss inputs by the effective ones of the objective table, and log what that did."""
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
        inputs["advantages"] = result.advantages
        inputs["old_per_token_logps"] = result.old_per_token_logps
        # Off-policy sequence masking measures the distance to the policy that sampled, not the effective ratio.
        inputs.setdefault("sampling_per_token_logps", old_per_token_logps)
        self._log_groups(result, mask, entropies, torch.exp(per_token_logps - old_per_token_logps), advantages)
        return result

    def _mode(self) -> str:
        return "train" if self.model.training else "eval"  # type: ignore[union-attr]

    def _log_groups(self, result: Control, mask, entropies, ratio, advantages) -> None:
        """Log what [`control`] did; the tensors are (B, T), but `advantages`, which may be (B,)."""
        advantages = advantages.unsqueeze(1) if advantages.dim() == 1 else advantages
        members = [result.groups == i for i in range(len(GROUPS))]
        counts = [
            mask,
            mask & (ratio < 1 - self.epsilon_low) & (advantages < 0),
            mask & (ratio > 1 + self.epsilon_high) & (advantages > 0),
            *(mask & (result.effects == i) for i in range(1, 1 + len(EFFECTS))),
            *members,
        ]
        sums = [count.sum() for count in counts] + [entropies.masked_fill(~group, 0).sum() for group in members]
        # One collective and one transfer for all of them.
        totals = self.accelerator.reduce(torch.stack([s.float() for s in sums]), reduction="sum").tolist()
        n_tokens, n_low, n_high, *rest = totals
        last = len(GROUPS)
        n_effects, n_groups, entropy_sums = rest[: -2 * last], rest[-2 * last : -last], rest[-last:]

        metrics = self._metrics[self._mode()]
        metrics["htpo/clip_ratio/low"].append(_ratio(n_low, n_tokens))
        metrics["htpo/clip_ratio/high"].append(_ratio(n_high, n_tokens))
        for effect, n in zip(EFFECTS, n_effects, strict=True):
            metrics[f"htpo/special/{effect}"].append(_ratio(n, n_tokens))
        for group, n, entropy in zip(GROUPS, n_groups, entropy_sums, strict=True):
            metrics[f"htpo/share/{group}"].append(_ratio(n, n_tokens))
            metrics[f"htpo/entropy/{group}"].append(_ratio(entropy, n))


def _ratio(part: float, whole: float) -> float:
    """`part / whole`; NaN, which TRL's log leaves out of its averages, where there is nothing to average."""
    return part / whole if whole else float("nan")
