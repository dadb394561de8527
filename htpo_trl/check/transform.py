"""The objective's transform on the device: equal to an independent reference, no wait for the device, its cost."""

import ctypes
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from ..objective import PRESETS, Table, control, token_sums
from .operations import watched
from .parts import Finding, Machine
from .reference import DUAL_CLIP, reference


_CLIP: dict[str, Any] = {"epsilon_low": 0.2, "epsilon_high": 0.28}
_OBJECTIVES = ("htpo", "dapo", "high-entropy-only", "gppo", "aspo")  # that the reference knows
_EXACT, _ROUND_OFF = 1e-12, 1e-6


def find(machine: Machine) -> Iterator[Finding]:
    """Right against the reference, right in float32 on the device, no read by the host, cost."""
    device = machine.device
    case = make_case()
    for name in _OBJECTIVES:
        yield _against_reference(name, case, device)
    yield from _in_float32(case, device)
    yield _reads(device)
    yield _cost(device)


def make_case(n_rows: int = 8, n_tokens: int = 300) -> dict[str, Any]:
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
    return {
        "per_token_logps": logps,
        "old_per_token_logps": logps - 0.9 * moved,
        "entropies": (0.5 + ranks.double()).div(n_tokens).pow(4),
        # Mostly of the sign of the verdict, as a reward that also looks at something else has them.
        "advantages": torch.where((kinds % 2 == 0) ^ (kinds >= 6), 1.0, -1.0) * (0.5 + kinds.double() / 9),
        "is_hard": kinds % 4 < 2,
        "is_correct": kinds % 2 == 0,
        "mask": torch.arange(n_tokens) < lengths,
    }


def ppo_loss(logps: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """PPO-clip with dual clip, the mean over tokens."""
    ratio = torch.exp(logps - old)
    clipped = ratio.clamp(1 - _CLIP["epsilon_low"], 1 + _CLIP["epsilon_high"])
    loss = -torch.min(ratio.clamp(max=DUAL_CLIP) * advantages, clipped * advantages)
    return (loss * mask).sum() / mask.sum()


def _to(case: dict[str, Any], device: str, dtype: torch.dtype) -> dict[str, Any]:
    return {name: x.to(device, dtype if x.is_floating_point() else None, copy=True) for name, x in case.items()}


def _against_reference(name: str, case: dict[str, Any], device: str) -> Finding:
    """The gradient of each token, in float64, against a loop over tokens that shares nothing with the transform."""
    expected = torch.tensor(reference({key: x.tolist() for key, x in case.items()}, name)[1], dtype=torch.float64)
    inputs = _to(case, device, torch.float64)
    logps = inputs["per_token_logps"].requires_grad_()
    result = control(**inputs, **_CLIP, table=PRESETS[name])
    ppo_loss(logps, result.old_per_token_logps, result.advantages, inputs["mask"]).backward()
    assert logps.grad is not None
    difference = (logps.grad.cpu() - expected).abs().max().item()
    largest = expected.abs().max().item()
    return Finding(
        f"gradients of {name}, against an independent loop",
        f"difference ≤ {_EXACT:g}",
        f"{difference:.1e} (largest gradient {largest:.1e})",
        difference <= _EXACT < largest,
    )


def _in_float32(case: dict[str, Any], device: str) -> Iterator[Finding]:
    exact = control(**case, **_CLIP, table=PRESETS["htpo"])
    result = control(**_to(case, device, torch.float32), **_CLIP, table=PRESETS["htpo"])
    tokens = int(case["mask"].sum())
    for what in ("groups", "effects"):
        others = int((getattr(result, what).cpu() != getattr(exact, what)).sum())
        yield Finding(
            f"float32 on {device}: {what} of {tokens} tokens", "0 differ from float64", str(others), others == 0
        )
    difference = (result.advantages.cpu().double() - exact.advantages) / exact.advantages.abs().clamp(min=1)
    largest = difference.abs().max().item()
    yield Finding(
        f"float32 on {device}: effective advantages",
        f"difference ≤ {_ROUND_OFF:g}",
        f"{largest:.1e}",
        largest <= _ROUND_OFF,
    )


def _reads(device: str) -> Finding:
    """Transform and metrics, without what waits for the device. On a GPU its driver is asked, too."""
    inputs = _to(make_case(), device, torch.float32)

    def once() -> None:
        result = control(**inputs, **_CLIP, table=PRESETS["htpo"])
        token_sums(result, **_CLIP, **{k: inputs[k] for k in inputs if not k.startswith("is_")})

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
    operations = asked.operations.total()
    return Finding(
        f"waits for the device, in {operations} operations", "none", found, found == "none", {"operations": operations}
    )


def make_inputs(n_rows: int, n_tokens: int, device: str = "cpu") -> dict[str, Any]:
    """As of a language model: ratios near 1, most tokens nearly certain, some not."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(n_tokens // 2, n_tokens + 1, (n_rows, 1), generator=generator)
    logps = -torch.rand(n_rows, n_tokens, generator=generator)
    inputs = {
        "per_token_logps": logps,
        "old_per_token_logps": logps + 0.1 * torch.randn(n_rows, n_tokens, generator=generator),
        "entropies": torch.rand(n_rows, n_tokens, generator=generator).pow(4),
        "advantages": torch.randn(n_rows, generator=generator),
        "is_hard": torch.arange(n_rows) % 2 == 0,
        "is_correct": torch.arange(n_rows) % 4 < 2,
        "mask": torch.arange(n_tokens) < lengths,
    }
    inputs = {name: x.to(device) for name, x in inputs.items()}
    inputs["per_token_logps"].requires_grad_()
    return inputs


def plain_step(inputs: dict[str, Any]) -> None:
    """Forward and backward of the loss alone."""
    inputs["per_token_logps"].grad = None
    logps, old, mask = (inputs[name] for name in ("per_token_logps", "old_per_token_logps", "mask"))
    ppo_loss(logps, old, inputs["advantages"].unsqueeze(1), mask).backward()


def controlled_loss(inputs: dict[str, Any], table: Table = PRESETS["htpo"]) -> tuple[Tensor, Any]:
    """The loss with the transform before it, and what the transform returned."""
    inputs["per_token_logps"].grad = None
    result = control(**inputs, table=table)
    loss = ppo_loss(inputs["per_token_logps"], result.old_per_token_logps, result.advantages, inputs["mask"])
    return loss, result


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


def _cost(device: str) -> Finding:
    """On a GPU milliseconds, which are launches; on the CPU, arithmetic, a multiple of the loss's own."""
    keep_freed_memory()
    inputs = make_inputs(64, 4096, device)

    def synchronized() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    # On the CPU the time of this thread, which a busy machine does not change.
    clock = synchronized if device == "cuda" else time.thread_time
    plain, full = in_turns([lambda: plain_step(inputs), lambda: controlled_loss(inputs)[0].backward()], clock)
    figures = {"rows": 64, "tokens": 4096, "ppo_seconds": plain, "control_ppo_seconds": full}
    found = f"{1e3 * full:.2f} ms against {1e3 * plain:.2f} ms: {full / plain:.2f} times"
    what = "cost with the PPO loss, 64 × 4096 tokens"
    if device == "cuda":
        return Finding(what, "≤ 5 ms more", found, full - plain <= 5e-3, figures)
    return Finding(what, "≤ 4 times the PPO loss", found, full <= 4 * plain, figures)
