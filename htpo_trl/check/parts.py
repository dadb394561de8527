"""The parts of `htpo check` by name, what they find and what they are given. No torch here: names are cheap."""

import time
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

    @classmethod
    def same(cls, what: str, is_same: bool, expected: bool = True) -> "Finding":
        """Whether two things are equal, as they should be, or should not."""
        words = ("different", "equal")
        return cls(what, words[expected], words[is_same], is_same == expected)

    @classmethod
    def near(cls, what: str, difference: float, limit: float, note: str = "", control: bool = True) -> "Finding":
        """A difference that must be within a limit; `control` is whether another one would have been seen."""
        ok = difference <= limit and control
        return cls(what, f"difference ≤ {limit:g}", f"{difference:.1e}{note}", ok, {"difference": difference})

    @classmethod
    def none_of(cls, what: str, n: int, control: bool = True) -> "Finding":
        """How many there are of what there must be none."""
        return cls(what, "0", str(n), n == 0 and control)


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

        there = self.asked != "cpu" and torch.cuda.is_available()
        found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count() if there else 0)]
        gpus = [
            {"name": gpu.name, "GiB": round(gpu.total_memory / 2**30, 1), "capability": f"{gpu.major}.{gpu.minor}"}
            for gpu in found
        ]
        self.tell(devices={"torch": torch.__version__, "CUDA of torch": torch.version.cuda, "GPUs": gpus})
        if self.asked == "cuda" and not there:
            raise UsageError(
                f"--device cuda: torch {torch.__version__} sees no GPU; it was built "
                f"{f'for CUDA {torch.version.cuda}' if torch.version.cuda else 'without CUDA'}."
            )
        return "cuda" if there else "cpu"

    def now(self) -> float:
        """Seconds: on a GPU, once it has done what it was given; on a CPU, of this process, whatever else runs."""
        if self.device == "cpu":
            return time.process_time()
        import torch

        torch.cuda.synchronize()
        return time.perf_counter()
