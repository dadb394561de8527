"""The objective's transform on the device: equal to an independent reference, no wait for the device, its cost."""

import ctypes
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from ..objective import PRESETS, control, token_sums
from .operations import watched
from .parts import Finding, Machine
from .reference import DUAL_CLIP, reference


_OBJECTIVES = ("htpo", "dapo", "high-entropy-only", "gppo", "aspo")  # that the reference knows
_EXACT, _ROUND_OFF = 1e-12, 1e-6


def find(machine: Machine) -> Iterator[Finding]:
    """Right against the reference, right in float32 on the device, no read by the host, cost."""
    for name in _OBJECTIVES:
        yield _against_reference(name, machine.device)
    yield from _in_float32(machine.device)
    yield _reads(machine.device)
    yield _cost(machine)


def make_inputs(
    n_rows: int = 8, n_tokens: int = 300, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """
    Responses of all four kinds, long enough for every detach rule, with ratios beyond both clip edges and the dual
    clip. No entropy is there twice: on a GPU, ties of rounded values may be others.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(n_tokens * 4 // 5, n_tokens + 1, (n_rows, 1), generator=generator)
    logps = -2 * torch.rand(n_rows, n_tokens, generator=generator, dtype=torch.float64)
    moved = torch.randn(n_rows, n_tokens, generator=generator, dtype=torch.float64)
    ranks = torch.rand(n_rows, n_tokens, generator=generator).argsort(dim=1)
    kinds = torch.arange(n_rows)
    inputs = {
        "per_token_logps": logps,
        "old_per_token_logps": logps - 0.9 * moved,
        "entropies": (0.5 + ranks.double()).div(n_tokens).pow(4),
        # Mostly of the sign of the verdict, as a reward that also looks at something else has them.
        "advantages": torch.where((kinds % 2 == 0) ^ (kinds >= 6), 1.0, -1.0) * (0.5 + kinds.double() / 9),
        "is_hard": kinds % 4 < 2,
        "is_correct": kinds % 2 == 0,
        "mask": torch.arange(n_tokens) < lengths,
    }
    return {name: x.to(device, dtype if x.is_floating_point() else None) for name, x in inputs.items()}


def _ppo_loss(logps: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """PPO-clip with dual clip, the mean over tokens."""
    ratio = torch.exp(logps - old)
    loss = -torch.min(ratio.clamp(max=DUAL_CLIP) * advantages, ratio.clamp(1 - 0.2, 1 + 0.28) * advantages)
    return (loss * mask).sum() / mask.sum()


def plain_step(inputs: dict[str, Any]) -> None:
    """Forward and backward of the loss alone."""
    logps, old, mask = (inputs[name] for name in ("per_token_logps", "old_per_token_logps", "mask"))
    logps.requires_grad_().grad = None
    _ppo_loss(logps, old, inputs["advantages"].unsqueeze(1), mask).backward()


def controlled_loss(inputs: dict[str, Any], objective: str = "htpo") -> tuple[Tensor, Any]:
    """The loss with the transform before it, and what the transform returned."""
    logps = inputs["per_token_logps"].requires_grad_()
    logps.grad = None
    result = control(**inputs, table=PRESETS[objective])
    return _ppo_loss(logps, result.old_per_token_logps, result.advantages, inputs["mask"]), result


def _against_reference(name: str, device: str) -> Finding:
    """The gradient of each token, in float64, against a loop over tokens that shares nothing with the transform."""
    inputs = make_inputs(device=device, dtype=torch.float64)
    expected = torch.tensor(reference({key: x.tolist() for key, x in inputs.items()}, name)[1], dtype=torch.float64)
    controlled_loss(inputs, name)[0].backward()
    difference = (inputs["per_token_logps"].grad.cpu() - expected).abs().max().item()
    largest = expected.abs().max().item()
    what, note = f"gradients of {name}, against an independent loop", f" (largest gradient {largest:.1e})"
    return Finding.near(what, difference, _EXACT, note, largest > _EXACT)


def _in_float32(device: str) -> Iterator[Finding]:
    case = make_inputs(dtype=torch.float64)
    exact = control(**case)
    result = control(**make_inputs(device=device))
    tokens = int(case["mask"].sum())
    for what in ("groups", "effects"):
        others = int((getattr(result, what).cpu() != getattr(exact, what)).sum())
        title = f"float32 on {device}: {what} of {tokens} tokens"
        yield Finding(title, "0 differ from float64", str(others), others == 0)
    difference = (result.advantages.cpu().double() - exact.advantages) / exact.advantages.abs().clamp(min=1)
    yield Finding.near(f"float32 on {device}: effective advantages", difference.abs().max().item(), _ROUND_OFF)


def _reads(device: str) -> Finding:
    """Transform and metrics, without what waits for the device. On a GPU its driver is asked, too."""
    inputs = make_inputs(device=device)

    def once() -> None:
        values = {name: x for name, x in inputs.items() if not name.startswith("is_")}
        token_sums(control(**inputs), epsilon_low=0.2, epsilon_high=0.28, **values)

    once()  # loads kernels
    with watched(inputs["mask"].numel()) as asked:
        once()
    found = ", ".join(f"{name} {n}" for name, n in asked.reads.items()) or "none"
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
        try:
            once()
        except RuntimeError as error:
            found = str(error).splitlines()[0]
        finally:
            torch.cuda.set_sync_debug_mode("default")
    n = asked.operations.total()
    return Finding(f"waits for the device, in {n} operations", "none", found, found == "none", {"operations": n})


def keep_freed_memory() -> None:
    """
    Of glibc: no memory goes back to the kernel, none is mapped for one tensor alone. Else the kernel takes pages back
    and gives them again, which adds up to a half to any time, differently in each run.
    """
    m_trim_threshold, m_mmap_max = -1, -4
    with suppress(OSError, AttributeError):  # elsewhere
        libc = ctypes.CDLL(None)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
        libc.mallopt(m_mmap_max, 0)


def in_turns(functions: Sequence[Callable[[], Any]], clock: Callable[[], float], repeats: int = 30) -> list[float]:
    """Median seconds of each function; they take turns, so that a busy moment hits all."""
    times: list[list[float]] = [[] for _ in functions]
    for i in range(repeats + 3):
        for function, mine in zip(functions, times, strict=True):
            start = clock()
            function()
            if i >= 3:
                mine.append(clock() - start)
    return [statistics.median(mine) for mine in times]


def _cost(machine: Machine) -> Finding:
    """On a GPU milliseconds, which are launches; on the CPU, arithmetic, a multiple of the loss's own."""
    keep_freed_memory()
    inputs = make_inputs(64, 4096, machine.device)
    plain, full = in_turns([lambda: plain_step(inputs), lambda: controlled_loss(inputs)[0].backward()], machine.now)
    figures = {"rows": 64, "tokens": 4096, "ppo_seconds": plain, "control_ppo_seconds": full}
    found = f"{1e3 * full:.2f} ms against {1e3 * plain:.2f} ms: {full / plain:.2f} times"
    what = "cost with the PPO loss, 64 × 4096 tokens"
    if machine.device == "cuda":
        return Finding(what, "≤ 5 ms more", found, full - plain <= 5e-3, figures)
    return Finding(what, "≤ 4 times the PPO loss", found, full <= 4 * plain, figures)
