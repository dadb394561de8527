"""What `htpo train --dry_run` says of each device's memory, against arithmetic."""

import pytest
from transformers import Qwen3Config

from htpo_trl.cli.launch import Parallelism
from htpo_trl.cli.memory import Sizes, estimate, sizes


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
