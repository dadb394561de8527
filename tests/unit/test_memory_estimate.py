"""What `htpo train --dry_run` says of each device's memory, against arithmetic."""

import pytest
import torch
from transformers import Qwen3Config

from htpo_trl.cli.launch import Parallelism
from htpo_trl.cli.memory import Sizes, estimate, generation, sizes, smallest_device


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
        Sizes(parameters=8_190_735_360, in_linear_layers=6_945_767_424, trainable=8_190_735_360, cached=0),
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
    assert sizes(str(tmp_path)) == Sizes(total, linear, trainable=total, cached=2 * 3 * 2 * 16)


def test_what_generation_keeps_is_the_cache(model, tokenizer, tmp_path):
    """Measured: keys and values of a real generation, all rows at their full length."""
    model.save_pretrained(tmp_path)
    ids = torch.full((4, 1), 5)
    output = model.generate(ids, max_new_tokens=9, min_new_tokens=9, return_dict_in_generate=True)
    cache = sum(layer.keys.nbytes + layer.values.nbytes for layer in output.past_key_values.layers)
    numbers = {"mixed_precision": False, "dtype": "float32"}
    size = sizes(str(tmp_path))
    assert generation(size, Parallelism(), 4, 9, **numbers) == cache
    assert generation(size, Parallelism(), 4, 9, mixed_precision=True, dtype="float32") == cache / 2
    # Where weights are divided, the others' parts come on top.
    others = sum(p.nbytes for p in model.parameters()) * 3 / 4
    assert generation(size, Parallelism(4, zero_stage=3), 4, 9, **numbers) == cache + others


@pytest.mark.parametrize(
    ("gigabytes", "share", "device"), [(1, 1.0, 8), (6.5, 1.0, 12), (60, 1.0, 80), (60, 0.7, 141), (500, 1.0, None)]
)
def test_verdict(gigabytes, share, device):
    assert smallest_device(gigabytes * 1e9, share) == device
