"""What `htpo train --dry_run` says of each device's memory, against arithmetic."""

import pytest

from htpo_trl.cli.launch import Parallelism
from htpo_trl.cli.memory import Sizes, estimate


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
