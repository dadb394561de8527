"""
What a run needs of each device's memory for weights, gradients and optimizer states, from the model's shape alone: no
weights are loaded. How large they are with AdamW, and how ZeRO divides them: arXiv 1910.02054, section 3.
"""

from typing import Any, NamedTuple

import torch
from peft import PeftConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from ..training.adapters import is_adapter
from .launch import Parallelism


class Sizes(NamedTuple):
    """How many parameters a model has."""

    parameters: int
    in_linear_layers: int  #: those that 4-bit and 8-bit quantization touch
    trainable: int


def sizes(name: str, peft_config: Any = None) -> Sizes:
    """Sizes of a model that is in a directory or in the Hub's cache. Raises an `OSError` for any other."""
    name, peft_config = base_model(name, peft_config)
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
            trainable, _ = get_peft_model(model, peft_config).get_nb_trainable_parameters()
    return Sizes(total, linear, trainable)


def base_model(name: str, peft_config: Any = None) -> tuple[str, Any]:
    """Of an adapter, which is trained further, its base model and itself."""
    if not is_adapter(name):
        return name, peft_config
    peft_config = PeftConfig.from_pretrained(name)
    peft_config.inference_mode = False
    return str(peft_config.base_model_name_or_path), peft_config


def cache_per_token(name: str, dtype: str) -> int:
    """Bytes that generation keeps per token of a response: keys and values of every layer."""
    config = AutoConfig.from_pretrained(base_model(name)[0], local_files_only=True).get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * width * (4 if dtype == "float32" else 2)


def estimate(
    size: Sizes, spread: Parallelism, *, dtype: str, mixed_precision: bool, quantized_bits: int | None
) -> dict[str, float]:
    """
    Bytes per device while the policy trains, by what they are for. Weights are loaded in `dtype`, `"auto"` counts as
    bfloat16; layers compute in half precision with `mixed_precision`. Offload puts divided weights and optimizer
    states into the CPU's memory.
    """
    width = 4 if dtype == "float32" else 2
    if spread.zero_stage and mixed_precision:  # DeepSpeed trains a copy in half precision, and keeps float32 beside it
        weights, gradients, optimizer = 2 * size.parameters, 2 * size.trainable, 12 * size.trainable
    else:
        trained_width = 4 if size.trainable < size.parameters else width  # PEFT keeps adapters in float32
        weights, gradients = width * size.parameters, trained_width * size.trainable
        optimizer = 2 * gradients
    if quantized_bits:
        weights = width * (size.parameters - size.in_linear_layers) + size.in_linear_layers * quantized_bits // 8
    stage = 3 if spread.fsdp else spread.zero_stage
    divided, kept = 1 / spread.processes, 0 if spread.offload else 1 / spread.processes
    return {
        "weights": weights * (kept if stage >= 3 else 1),
        "gradients": gradients * (divided if stage >= 2 else 1),
        "optimizer states": optimizer * (kept if stage >= 1 else 1),
    }
