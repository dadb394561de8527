"""Which options of TRL's loss a table goes together with. Others are refused, with the mend."""

import math
from typing import Any

from ..utils import UsageError
from .rules import changes_sign, rewrites_ratio
from .table import Table


#: The loss types whose token loss is PPO-clip, on which the transform of the objective rests.
PPO_LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")


def check_options(table: Table, options: Any) -> None:
    """
    Refuse options that cannot go together with an advantage and an old log-probability of each token's own. A plain
    table changes nothing: every option is TRL's own.

    Args:
        table ([`Table`]):
            The objective.
        options (`HTPOConfig`):
            With all defaults filled in.

    Raises:
        UsageError: with the mend.
    """
    if table.is_plain:
        return
    loss_type, delta = options.loss_type, options.delta
    if loss_type not in PPO_LOSS_TYPES:
        raise UsageError(
            f"loss_type={loss_type!r} has no PPO clipping, which the objective is defined on. Use one of "
            f"{', '.join(PPO_LOSS_TYPES)}; for {loss_type} itself objective={loss_type!r} and no loss_type, or "
            "objective='none', with which every option is TRL's own."
        )
    if loss_type == "bnpo" and (options.gradient_accumulation_steps > 1 or options.world_size > 1):
        raise UsageError(
            "loss_type='bnpo' divides by the tokens of each micro-batch: with gradient_accumulation_steps="
            f"{options.gradient_accumulation_steps} and {options.world_size} processes, a token's weight depends on "
            "the others that share its micro-batch. Use loss_type='dapo', the token mean over all micro-batches and "
            "processes, or, on one process, gradient_accumulation_steps=1."
        )
    if options.importance_sampling_level != "token":
        raise UsageError(
            f"importance_sampling_level={options.importance_sampling_level!r}: the objective table gives every token "
            "an objective of its own and needs importance ratios per token. Use importance_sampling_level='token'; "
            "for one ratio per response objective='gspo', or the rule 'gspo' in some rows."
        )
    if options.top_entropy_quantile < 1.0 and len({*table.rows}) > 1:
        raise UsageError(
            f"top_entropy_quantile={options.top_entropy_quantile} would mask the tokens that the objective table "
            "rules. Leave it at 1.0; to train on high-entropy tokens alone, use objective='high-entropy-only'."
        )
    if options.use_liger_kernel:
        from trl import GRPOTrainer  # seconds

        if hasattr(GRPOTrainer, "compute_liger_loss"):
            raise UsageError(
                "use_liger_kernel=True: this version of TRL then computes the loss in Liger's kernel, where the "
                "objective table has no say. Set use_liger_kernel=False, or pip install 'trl>=1.14', which "
                "replaces layers alone."
            )
    highest = 1 + options.epsilon_high
    if (math.inf if delta is None else delta) <= highest:
        raise UsageError(
            f"delta={delta} must lie above the clip range, which ends at {highest:g}: it bounds the ratio of "
            "negative advantages beyond the range. Raise delta (10.0 in the recipe), or set it to None."
        )
    if options.use_bias_correction_kl and options.beta != 0.0 and any(map(rewrites_ratio, table.rows)):
        raise UsageError(
            f"use_bias_correction_kl=True with beta={options.beta} weighs the KL term by the importance ratio, but "
            f"objective={options.objective!r} replaces that ratio on tokens whose gradient it keeps or weighs. Set "
            "use_bias_correction_kl=False, or beta=0.0."
        )
    if options.off_policy_mask_threshold is not None and any(map(changes_sign, table.rows)):
        raise UsageError(
            f"off_policy_mask_threshold={options.off_policy_mask_threshold} masks by the sign of the advantage, "
            f"which objective={options.objective!r} changes on some tokens. Set off_policy_mask_threshold=None."
        )
