"""The parts of `htpo check` by name, what they find and what they are given. No torch here: names are cheap."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ..utils import UsageError


class Part(NamedTuple):
    """
    A part of the check.

    Args:
        title (`str`):
            What it shows, in a line.
        place (`str`):
            `module:function` of this room. The function is given a [`Machine`] and yields findings; it raises
            [`CannotRunError`] where what it needs is not there.
        all_devices (`bool`, *optional*, defaults to `False`):
            Whether it sees all GPUs. Others see the first, since transformers spreads a model over all that it sees.
    """

    title: str
    place: str
    all_devices: bool = False


#: The parts, in the order in which they run.
PARTS: dict[str, Part] = {
    "versions": Part("packages have the versions that this one asks for, devices are seen", "versions:find", True),
    "transform": Part("the objective's transform is right, never waits for the device; its cost", "transform:find"),
    "parity": Part("objective='dapo' is TRL's GRPOTrainer, bit for bit", "parity:find"),
    "resume": Part("a run stopped within a generation batch ends, resumed, as one that was not", "resume:find"),
    "sampling": Part("dynamic sampling trains on groups with both verdicts alone", "sampling:find"),
    "policy": Part("the policy that generates is the one that is trained, and it learns", "policy:find"),
    "peft": Part("LoRA trains its matrices alone, and what is saved is what was trained", "peft:find"),
    "zero3": Part("DeepSpeed ZeRO-3 trains what one process trains, and goes on exactly", "zero3:find", True),
    "vllm": Part("vLLM, colocated, samples from the policy that is trained, in evaluations too", "engine:find"),
    "vllm-sleep": Part("the same of an engine that sleeps while the policy trains", "engine:find_sleeping"),
    "verifier": Part("the math verifier: verdicts, deadlines, nothing left behind", "verdicts:find"),
    "step-time": Part("a step takes no longer than GRPOTrainer's", "step_time:find"),
}


class Finding(NamedTuple):
    """What a part has looked at."""

    what: str
    expected: str
    found: str
    ok: bool | None  #: `None` where there is no verdict: a mere figure, or what cannot be looked at here
    figures: dict[str, Any] = {}  #: the numbers behind it, for the JSON


class CannotRunError(Exception):
    """Raised by a part before it finds anything: why it cannot run here."""


@dataclass
class Machine:
    """
    What a part is given.

    Args:
        asked (`str` or `None`):
            The device that the user wants: `"cpu"`, `"cuda"`, or `None` for a GPU if there is one.
        directory (`Path`):
            A folder for its files, removed after it.
        tell (`Callable`, *optional*):
            Is told about the devices once a part has asked for `device`.
    """

    asked: str | None
    directory: Path
    tell: Callable[..., None] = field(default=lambda **kwargs: None)

    @cached_property
    def device(self) -> str:
        """`"cpu"` or `"cuda"`. Imports torch."""
        import torch

        cuda: dict[str, Any] = {"torch": torch.__version__, "CUDA of torch": torch.version.cuda, "GPUs": []}
        there = self.asked != "cpu" and torch.cuda.is_available()
        for i in range(torch.cuda.device_count() if there else 0):
            properties = torch.cuda.get_device_properties(i)
            cuda["GPUs"].append(
                {
                    "name": properties.name,
                    "GiB": round(properties.total_memory / 2**30, 1),
                    "capability": f"{properties.major}.{properties.minor}",
                }
            )
        self.tell(devices=cuda)
        if self.asked == "cuda" and not there:
            raise UsageError(
                f"--device cuda: torch {torch.__version__} sees no GPU; it was built "
                f"{f'for CUDA {torch.version.cuda}' if torch.version.cuda else 'without CUDA'}."
            )
        return "cuda" if there else "cpu"
