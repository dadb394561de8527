"""What `htpo train --dry_run` says of each device's memory, against arithmetic."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, Qwen3Config

from htpo_trl.cli.launch import Parallelism
from htpo_trl.cli.memory import Sizes, cache_per_token, estimate, sizes


BILLIONS = 8.190735360  # parameters of Qwen3-8B, as its weights on the Hub count


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize(
    ("layout", "mixed_precision", "gigabytes"),
    [
        ({"zero_stage": 2, "fsdp": False}, True, 2 * BILLIONS / 8),
        ({"zero_stage": 3, "fsdp": False}, True, 2 * BILLIONS / 8),
        ({"zero_stage": 0, "fsdp": True}, False, 4 * BILLIONS / 8),
    ],
    ids=["ZeRO-2", "ZeRO-3", "FSDP"],
)
def test_gradients_are_counted_on_the_device_with_offload_too(layout, mixed_precision, gigabytes, offload):
    """Bytes of a value × parameters / processes: weights and optimizer states are put away, gradients are not."""
    parts = estimate(
        Sizes(parameters=8_190_735_360, in_linear_layers=6_945_767_424, trainable=8_190_735_360),
        Parallelism(processes=8, offload=offload, **layout),
        dtype="float32",
        mixed_precision=mixed_precision,
        quantized_bits=None,
    )
    assert parts["gradients"] == pytest.approx(gigabytes * 1e9)


@pytest.mark.parametrize("tied", [False, True])
def test_quantization_touches_the_linear_layers_of_the_blocks(tmp_path, tied):
    """Not the output layer, which bitsandbytes leaves as it is, nor embeddings and norms."""
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen3Config(vocab_size=100, num_hidden_layers=3, head_dim=16, tie_word_embeddings=tied, **shape)
    config.architectures = ["Qwen3ForCausalLM"]
    config.save_pretrained(tmp_path)
    attention = 32 * (4 * 16) * 2 + 32 * (2 * 16) * 2  # query and output, key and value
    linear = 3 * (attention + 3 * 32 * 48)
    norms = 3 * (2 * 32 + 2 * 16) + 32
    total = linear + norms + 100 * 32 * (1 if tied else 2)
    assert sizes(str(tmp_path)) == Sizes(parameters=total, in_linear_layers=linear, trainable=total)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "config",
    [
        # Fewer heads of keys and values than of queries, wider than the model's share; and as many of each.
        Qwen3Config(
            vocab_size=20,
            hidden_size=32,
            intermediate_size=8,
            num_hidden_layers=3,
            head_dim=16,
            num_attention_heads=4,
            num_key_value_heads=2,
        ),
        GPT2Config(vocab_size=20, n_embd=32, n_layer=2, n_head=4),
    ],
    ids=["Qwen3", "GPT2"],
)
def test_generation_keeps_what_its_cache_holds(tmp_path, config, dtype):
    """Against the keys and values of a forward pass over 2 rows of 5 tokens."""
    config.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    cache = model(torch.ones(2, 5, dtype=torch.long), use_cache=True).past_key_values
    held = sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))
    assert 2 * 5 * cache_per_token(str(tmp_path), dtype) == held
