"""
What a run needs of each device's memory for weights, gradients and optimizer states, from the model's shape alone: no
weights are loaded. How large they are with AdamW, and how ZeRO divides them: arXiv 1910.02054, section 3.
"""

from typing import Any, NamedTuple


#: Of a value, by the name of its type.
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class Sizes(NamedTuple):
    """How many parameters a model has."""

    parameters: int
    in_linear_layers: int  #: those that 4-bit and 8-bit quantization touch
    trainable: int


def sizes(name: str, peft_config: Any = None) -> Sizes:
    """
    Sizes of a model that is on this machine, in a directory or in the Hub's cache.

    Raises:
        OSError: if it is not.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(name, local_files_only=True)
    except OSError as error:
        raise OSError(f"{name} is not on this machine") from error
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        total = trainable = model.num_parameters()
        blocks = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n]
        linear = sum(block.weight.numel() for block in blocks)
        if peft_config is not None:
            from peft import get_peft_model

            adapted = get_peft_model(model, peft_config)
            trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    return Sizes(total, linear, trainable)


def estimate(
    size: Sizes,
    *,
    dtype: str,
    mixed_precision: bool,
    quantized_bits: int | None,
    processes: int,
    zero_stage: int,
    fsdp: bool,
    offload: bool,
) -> dict[str, float]:
    """
    Bytes per device while the policy trains, by what they are for.

    Args:
        size ([`Sizes`]):
            Of the model.
        dtype (`str`):
            Of the weights as they are loaded; `"auto"` counts as bfloat16.
        mixed_precision (`bool`):
            Whether layers compute in bfloat16 or float16.
        quantized_bits (`int`, *optional*):
            4 or 8.
        processes, zero_stage, fsdp, offload:
            How the states are divided among processes; `offload` puts divided weights and optimizer states into the
            CPU's memory.
    """
    width = BYTES.get(dtype, 2)
    if zero_stage and mixed_precision:  # DeepSpeed trains a copy in half precision, and keeps float32 beside it
        weights, gradients, optimizer = 2 * size.parameters, 2 * size.trainable, 12 * size.trainable
    else:
        trained_width = 4 if size.trainable < size.parameters else width  # PEFT keeps adapters in float32
        weights = width * size.parameters
        gradients, optimizer = trained_width * size.trainable, 2 * trained_width * size.trainable
    if quantized_bits:
        weights = width * (size.parameters - size.in_linear_layers) + size.in_linear_layers * quantized_bits // 8
    stage = 3 if fsdp else zero_stage
    states: dict[str, float] = {"weights": weights, "gradients": gradients, "optimizer states": optimizer}
    for name, is_divided in {"optimizer states": stage >= 1, "gradients": stage >= 2, "weights": stage >= 3}.items():
        if is_divided:
            states[name] = 0 if offload and name != "gradients" else states[name] / processes
    return states
