"""What a piece of code asks of the device: operations on tensors of a size, and values that the host reads."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


#: Methods that wait for a device. `tolist` of a tensor on the CPU is no operation, which a dispatch mode would see.
READS = {"item", "tolist", "cpu", "nonzero", "unique", "masked_select", "equal", "allclose", "bincount"}
READS |= {"__bool__", "__int__", "__float__", "__index__", "__contains__", "__array__"}


class Asked(NamedTuple):
    """What was counted."""

    operations: Counter  #: that take or give a tensor of the size; without views, which cost a device nothing
    reads: Counter  #: of the host


class _Operations(TorchDispatchMode):
    def __init__(self, numel, asked):
        super().__init__()
        self.numel, self.asked = numel, asked

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, result))
        if not function.is_view and any(isinstance(x, torch.Tensor) and x.numel() >= self.numel for x in leaves):
            self.asked.operations[str(function.overloadpacket)] += 1
        return result


class _Reads(TorchFunctionMode):
    def __init__(self, asked):
        super().__init__()
        self.asked = asked

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        by_mask = name == "__getitem__" and any(
            isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in tree_leaves(args[1:])
        )
        if name in READS or by_mask:
            self.asked.reads[name] += 1
        return function(*args, **(kwargs or {}))


@contextmanager
def watched(numel: int) -> Iterator[Asked]:
    """Within, operations on tensors of `numel` elements or more, and reads of the host, are counted."""
    asked = Asked(Counter(), Counter())
    with _Reads(asked), _Operations(numel, asked):
        yield asked
