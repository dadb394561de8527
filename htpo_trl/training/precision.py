"""
Number formats under which a run does something else than it seems to: updates that are rounded away, a format that the
device computes in by emulation, and gradients that the scaler of float16 does not take.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch

from ..utils import UsageError
from .adapters import is_adapter


#: Share of the trained parameters whose updates are lost, from which a run is told.
LOST_SHARE = 0.25
_SAMPLED = 4096  # elements of each parameter that are looked at
_SMALL = (torch.bfloat16, torch.float16)


def lost_share(parameters: Iterable[torch.nn.Parameter], step: float) -> float:
    """
    The share of the trained parameters, those of 16 bits, that neither adding nor subtracting `step` changes. AdamW
    moves a weight by about the learning rate, whatever its gradient, and a bfloat16 number has eight significant bits.
    Of each parameter up to 4,096 elements are looked at.
    """
    lost, total = [], 0
    for parameter in parameters:
        size = parameter.numel()
        if not parameter.requires_grad or not size:  # another process may hold it
            continue
        total += size
        if parameter.dtype in _SMALL:
            weights = parameter.detach().flatten()[:: math.ceil(size / _SAMPLED)]
            exact = weights.float()
            same = ((exact + step).to(weights.dtype) == weights) & ((exact - step).to(weights.dtype) == weights)
            lost.append(same.float().mean().cpu() * size)
    return float(sum(lost)) / total if total else 0.0


def smallest_lost(dtype: str, step: float) -> float:
    """The power of two from which on a weight in `dtype` is not changed by `step`."""
    bits = {"bfloat16": 8, "float16": 11}[dtype]
    return 2.0 ** math.ceil(bits + math.log2(step))


def check_precision(args: Any, model: Any, peft_config: Any = None) -> None:
    """Refuse to train float16 weights that the gradient scaler refuses once a batch has been generated."""
    if isinstance(model, str):
        dtype = (args.model_init_kwargs or {}).get("dtype")
        is_float16 = str(dtype).removeprefix("torch.") == "float16" and not is_adapter(model)
    else:
        is_float16 = any(p.requires_grad and p.dtype == torch.float16 for p in model.parameters())
    if args.fp16 and is_float16 and peft_config is None:
        raise UsageError(
            "fp16=True with weights in float16: the gradient scaler takes no float16 gradients. Load them in float32 "
            "(dtype float32, in Python model_init_kwargs={'dtype': 'float32'}): fp16=True computes in float16 all the "
            "same."
        )


def told_of_device(args: Any) -> str:
    """That the device has no such format, in one line with the mend; nothing where it has."""
    kind = args.device.type
    if args.bf16 and kind == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return (
            f"bf16=True: {torch.cuda.get_device_name()} has no bfloat16; torch emulates it, slowly, and vLLM computes "
            "in float16. Set bf16=False, fp16=True (--bf16 false --fp16 true), and load the weights of a model that "
            "an adapter is trained on in float16."
        )
    if args.fp16 and kind == "cpu":
        return "fp16=True does nothing on a CPU: the run computes in the format of the weights. Set fp16=False."
    return ""


def told_of_plan(args: Any, dtype: str, keeps_float32: bool) -> str:
    """[`told`] of what is known without weights: from which size on they stay as they are."""
    if keeps_float32 or dtype not in ("bfloat16", "float16") or not _steps_by_rate(args):
        return ""
    smallest = smallest_lost(dtype, args.learning_rate)
    if smallest > 0.02:  # a usual size of weights
        return ""
    return (
        f"All weights are trained in {dtype}: a step of learning_rate={args.learning_rate:g} is rounded away in every "
        f"weight above {smallest:.2g}. {_MEND}"
    )


def told(trainer: Any) -> str:
    """That most updates are rounded away, in one line with the mend; nothing where they are not."""
    args = trainer.args
    # DeepSpeed keeps float32 weights of its own; FSDP under mixed precision makes them float32.
    keeps_float32 = trainer.is_deepspeed_enabled or (trainer.is_fsdp_enabled and (args.bf16 or args.fp16))
    if keeps_float32 or trainer.optimizer is not None or not _steps_by_rate(args):
        return ""
    share = lost_share(trainer.model.parameters(), args.learning_rate)
    if share < LOST_SHARE:
        return ""
    dtypes = {str(p.dtype)[6:] for p in trainer.model.parameters() if p.requires_grad and p.dtype in _SMALL}
    return (
        f"Weights are trained in {' and '.join(sorted(dtypes))}: a step of learning_rate={args.learning_rate:g} is "
        f"rounded away in {share:.1%} of them, which stay as they are. {_MEND}"
    )


_MEND = (
    "Load them in float32 (dtype float32, in Python model_init_kwargs={'dtype': 'float32'}): bf16=True computes in "
    "bfloat16 all the same. See docs/precision.md."
)


def _steps_by_rate(args: Any) -> bool:
    """Whether the optimizer moves a weight by about the learning rate, and rounds it to the nearest number."""
    name = str(getattr(args.optim, "value", args.optim))
    return ("adam" in name or "lion" in name) and "stochastic" not in (args.optim_args or "")


def float32_adapters(model: Any) -> None:
    """
    Adapters of quantized weights in float32, as PEFT makes them. TRL casts them to bfloat16, in which small updates
    are lost, and which the gradient scaler of float16 does not take. Other models are left as they are.
    """
    if not any(getattr(model, f"is_loaded_in_{bits}bit", False) for bits in (4, 8)):
        return
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in _SMALL:
            parameter.data = parameter.data.float()
