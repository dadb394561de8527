"""
Which options of TRL's loss a table goes together with. Others are refused, with the mend; of those that it does not
read a run is told.
"""

import functools
import math
from typing import Any

from ..utils import UsageError
from .rules import Clip, KeepGradient, Named, changes_sign, is_gate, parts_of, rewrites_ratio
from .selections import Detach
from .table import SETTINGS, Table


#: The loss types whose token loss is PPO-clip, on which the transform of the objective rests.
PPO_LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
# Of TRL's other losses, and the option of the rule of that name.
_PARAMETERS = {
    "sapo": {"sapo_temperature_pos": "tau_pos", "sapo_temperature_neg": "tau_neg"},
    "vespo": {f"vespo_{name}": name for name in ("k_pos", "lambda_pos", "k_neg", "lambda_neg")},
}


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
            "objective='none' without objective_overrides, with which every option is TRL's own."
        )
    named = (part for row in table.rows for part in parts_of(row) if isinstance(part, Named))
    for part in dict.fromkeys(named):
        if not _tried(part)[1]:
            raise UsageError(
                f"objective={table.name!r}: the rule {part.name!r} with {_written(dict(part.options))} gives no "
                "finite number for a token that has not moved. Give other options."
            )
    for loss, parameters in _PARAMETERS.items():
        for name in _changed(parameters, options):
            rule = f"{{'rule': {loss!r}, {parameters[name]!r}: {getattr(options, name)!r}}}"
            raise UsageError(
                f"{name}={getattr(options, name)!r}: TRL's loss_type={loss!r} alone reads it, not the rules of "
                f"objective={options.objective!r}. Leave it out; for the rule {loss!r} write "
                f"objective_overrides={{'all': {rule}}}."
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


def told_of_options(table: Table, options: Any, given: list[str]) -> list[str]:
    """
    What was given against the objective as it was published, the two meanings of one option, and what nothing reads;
    a line each.

    Args:
        table ([`Table`]):
            The objective.
        options (`HTPOConfig`):
            With all defaults filled in.
        given (`list` of `str`):
            Those of `SETTINGS` that were not left to the objective.
    """
    published, lines = dict(table.settings), []
    if others := [name for name in given if name in published and getattr(options, name) != published[name]]:
        lines.append(
            f"objective={options.objective!r} was published with {_written(published)}; this run has "
            f"{_written({name: getattr(options, name) for name in others})}. Leave out what is not on purpose."
        )
    if table.is_plain and options.loss_type == "cispo" and "epsilon_high" not in given:
        lines.append(
            f"loss_type='cispo' with objective={options.objective!r}: epsilon_high={options.epsilon_high}, its "
            "default here, is then the cap of every importance ratio. Set epsilon_high=5.0, which TRL recommends, or "
            "use objective='cispo', whose cap is 1+epsilon_high."
        )
    verdicts = all(any(isinstance(part, Named) and part.name == "verdict" for part in parts_of(r)) for r in table.rows)
    if verdicts and options.advantage != "grpo":
        lines.append(
            f"advantage={options.advantage!r}: objective={table.name!r} learns from verdicts, whatever the advantage "
            "is. Leave it out; with objective='none' it counts."
        )
    usual = SETTINGS | published
    unread: list[str] = [each for each in given if each != "loss_type" and getattr(options, each) != usual[each]]
    unread += ["delta"] * (options.delta is not None and "delta" in _changed(["delta"], options))
    if table.is_plain:
        losses = {"cispo": {"epsilon_high"}, "sapo": {*_PARAMETERS["sapo"]}, "vespo": {*_PARAMETERS["vespo"]}}
        read = losses.get(options.loss_type, {"epsilon", "epsilon_high", "delta"})
        unread += [name for parameters in _PARAMETERS.values() for name in _changed(parameters, options)]
        reader = f"loss_type={options.loss_type!r}"
    else:
        read, reader = options_read(table), f"no rule of objective={table.name!r}"
    if unread := [name for name in unread if name not in read]:
        does = "reads" if reader.startswith("no") else "does not read"
        lines.append(
            f"{_written({name: getattr(options, name) for name in unread})}: {reader} {does} "
            f"{'it' if len(unread) == 1 else 'them'}, and the run trains as without. Leave out what is not on purpose."
        )
    return lines


def options_read(table: Table) -> set[str]:
    """Which of `epsilon`, `epsilon_high` and `delta` the rules of a table read."""
    found: set[str] = set()
    for row in dict.fromkeys(table.rows):
        parts = parts_of(row)
        if any(isinstance(part, Detach) and part.is_whole for part in parts):
            continue
        gate = next(filter(is_gate, parts), Clip())
        if isinstance(gate, Clip):
            own = {"epsilon": gate.epsilon_low, "epsilon_high": gate.epsilon_high, "delta": gate.delta}
            found |= {name for name, value in own.items() if value is None}
        elif isinstance(gate, KeepGradient):
            found |= {"epsilon", "epsilon_high", "delta"}
        found |= {name for part in parts if isinstance(part, Named) for name in _tried(part)[0]}
    return found


@functools.cache
def _tried(rule: Named) -> tuple[set[str], bool]:
    """As [`options_read`], of a function: what it looks up when it is called, on a few tokens. And is it finite?"""
    import torch

    from .batch import Batch

    names, read = {"epsilon_low": "epsilon", "epsilon_high": "epsilon_high", "delta": "delta"}, set[str]()

    class Watched(Batch):
        def __getattribute__(self, name: str) -> Any:
            read.update({names[name]} if name in names else ())
            return super().__getattribute__(name)

    advantages, correct = torch.tensor([[1.0], [-1.0]]), torch.tensor([True, False])
    values = torch.full((2, 2), -1.0)
    tokens = Watched(values, values, -values, advantages, values < 0, correct, correct | True, 0.2, 0.28, 10.0)
    result = rule.function.function(tokens, **dict(rule.options))
    return read, bool(result.isfinite().all())


def _changed(names: Any, options: Any) -> list[str]:
    """Those that have not the default of their class."""
    return [name for name in names if getattr(options, name, None) != getattr(type(options), name, None)]


def _written(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
