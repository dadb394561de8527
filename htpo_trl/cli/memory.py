"""
What a run needs of each device's memory, estimated from shapes alone: no weights are loaded.

Weights, gradients and optimizer states, and how ZeRO divides them: arXiv 1910.02054, section 3. Activations are
counted as in arXiv 2205.05198, for a decoder layer of today, by what was measured to be kept for the backward pass.
"""

from typing import Any, NamedTuple


_QWEN3 = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}
#: Shapes of the recipes' models, from their `config.json`: a plan can be made without the Hub.
SHAPES: dict[str, dict[str, Any]] = {
    "Qwen/Qwen3-0.6B": _QWEN3
    | {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16}
    | {"tie_word_embeddings": True},
    "Qwen/Qwen3-1.7B": _QWEN3
    | {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16}
    | {"tie_word_embeddings": True},
    "Qwen/Qwen3-4B-Base": _QWEN3
    | {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32}
    | {"tie_word_embeddings": True},
    "Qwen/Qwen3-8B-Base": _QWEN3
    | {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32}
    | {"tie_word_embeddings": False},
    "HuggingFaceTB/SmolLM2-135M-Instruct": {"model_type": "llama", "vocab_size": 49152, "hidden_size": 576}
    | {"intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
    | {"head_dim": 64, "tie_word_embeddings": True},
}
#: Of a value, by the name of its type.
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class Sizes(NamedTuple):
    """What of a model counts here."""

    parameters: int
    in_linear_layers: int  #: those that 4-bit and 8-bit quantization touch
    trainable: int
    layers: int
    hidden: int
    vocabulary: int
    kv_per_token: int  #: values in the key-value cache per token
    kept_per_token: int  #: values that one layer keeps for the backward pass, per token


def sizes(name: str, peft_config: Any = None) -> Sizes:
    """
    Sizes of a model, by its name or directory.

    Raises:
        OSError: if it is none of those known here, no directory, and not to be had from the Hub.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if name in SHAPES:
        shape = {"model_type": "qwen3"} | SHAPES[name]
        config = AutoConfig.for_model(**shape)
    else:
        config = AutoConfig.from_pretrained(name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        total = trainable = model.num_parameters()
        blocks = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n]
        linear = sum(block.weight.numel() for block in blocks)
        if peft_config is not None:
            from peft import get_peft_model

            adapted = get_peft_model(model, peft_config)
            trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return Sizes(
        total,
        linear,
        trainable,
        config.num_hidden_layers,
        config.hidden_size,
        config.vocab_size,
        2 * config.num_hidden_layers * kv_heads * head_dim,
        _kept_per_token(config, config.num_attention_heads * head_dim, kv_heads * head_dim),
    )


def _kept_per_token(config: Any, queries: int, keys: int) -> int:
    """
    Inputs of both norms and of the two blocks; queries, keys, values, attention's output; gate, up, its activation and
    their product. Norms of queries and keys (Qwen3) keep another copy of these. Fused attention keeps no matrix.
    """
    normed = 2 * (queries + keys) if config.model_type.startswith("qwen3") else 0
    return 4 * config.hidden_size + 2 * queries + 2 * keys + 4 * config.intermediate_size + normed


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
    micro_batch: int,
    sequence_length: int,
    completion_length: int,
    gradient_checkpointing: bool,
    generated_at_once: int,
) -> dict[str, float]:
    """
    Bytes per device while the policy trains, by what they are for, and of generation by transformers.

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
            How the states are divided among processes; `offload` puts them in the CPU's memory.
        micro_batch, sequence_length, completion_length (`int`):
            Sequences per forward pass, and tokens of each, at most.
        gradient_checkpointing (`bool`):
            Whether only the layers' inputs are kept.
        generated_at_once (`int`):
            Completions that a process generates at once with transformers; 0 with vLLM.
    """
    width = BYTES.get(dtype, 2)
    compute = 2 if mixed_precision else width
    is_lora = size.trainable < size.parameters
    is_half = width == 2 or (zero_stage > 0 and mixed_precision)
    if zero_stage and mixed_precision:  # DeepSpeed trains a copy in half precision, and keeps float32 beside it
        weights, gradients, optimizer = 2 * size.parameters, 2 * size.trainable, 12 * size.trainable
    else:
        weights = width * size.parameters
        # PEFT keeps adapters in float32
        trained_width = 4 if is_lora else width
        gradients, optimizer = trained_width * size.trainable, 2 * trained_width * size.trainable
    if quantized_bits:
        weights = width * (size.parameters - size.in_linear_layers) + size.in_linear_layers * quantized_bits // 8
    stage = 3 if fsdp else zero_stage
    shares = {"optimizer states": stage >= 1, "gradients": stage >= 2, "weights": stage >= 3}
    states: dict[str, float] = {"weights": weights, "gradients": gradients, "optimizer states": optimizer}
    for name, divided in shares.items():
        states[name] /= processes if divided else 1
        if offload and divided and name != "gradients":
            states[name] = 0
    if mixed_precision and width == 4 and not stage:
        states["half-precision copies"] = 2 * size.in_linear_layers
    tokens = micro_batch * sequence_length
    # Bytes per value, measured (a test does it again): norms keep float32 copies, autocast keeps what it casts.
    per_value = (3.8 if is_lora else 2.6) if is_half else 3.2 if mixed_precision else 4.6
    per_layer = per_value * tokens * size.kept_per_token
    inputs = (2 if is_half else 4) * tokens * size.hidden * size.layers
    states["activations"] = inputs + per_layer if gradient_checkpointing else per_layer * size.layers
    # TRL from 1.15 makes them for at most 4096 tokens at once (`trl.kernels`); older versions keep all of them.
    states["logits"] = 4 * min(micro_batch * completion_length, 4096) * size.vocabulary
    if generated_at_once:
        cache = compute * size.kv_per_token * sequence_length * generated_at_once
        states["KV cache of generation (not at the same time)"] = cache
    return states
