"""Time and peak memory of the objective's transform with the PPO-clip loss, against the PPO-clip loss alone.

    python benchmarks/control_cost.py [--repeats 30] [--output FILE]

Forward and backward of both, in turns, on one thread; medians of processor time, which a busy machine does not change.
Freed memory is kept by the process: else the kernel takes pages back and gives them again, which adds up to a half to
either, differently in each run. Memory is the peak of live tensor bytes above the inputs, as PyTorch's profiler counts
allocations: exact and repeatable. As in the trainer, what `control` returned is let go when the loss is there; `held`
is the peak where it is kept through the backward pass. Then every preset's ratio to PPO-clip alone and to `htpo`, in
turns too. The last part doubles B and T, and compares ways to rank.
"""

import argparse
import functools
import json
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from htpo_trl.check.transform import controlled_loss, in_turns, keep_freed_memory, make_inputs, plain_step
from htpo_trl.objective import PRESETS, control


SHAPES = ((16, 1024), (64, 4096), (16, 20480))


def inputs_of(n_rows: int, n_tokens: int) -> dict[str, torch.Tensor]:
    """As in training: ratios near 1. With those of the check, of which many are clipped, the bare loss is slower."""
    inputs, generator = make_inputs(n_rows, n_tokens), torch.Generator().manual_seed(1)
    moved = 0.1 * torch.randn(n_rows, n_tokens, generator=generator)
    return {**inputs, "old_per_token_logps": inputs["per_token_logps"] + moved}


def controlled(inputs, objective="htpo"):
    controlled_loss(inputs, objective)[0].backward()


def held(inputs):
    loss, result = controlled_loss(inputs)
    loss.backward()
    return result


def seconds(functions, repeats: int) -> list[float]:
    return in_turns(functions, time.thread_time, repeats)


def peak_bytes(function) -> int:
    function()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    live = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def of_presets(inputs, repeats: int) -> dict[str, dict[str, float]]:
    """Ratios of times of each preset, and the peak of bytes per token."""
    runs = {name: functools.partial(controlled, inputs, name) for name in PRESETS}
    base, *times = seconds([functools.partial(plain_step, inputs), *runs.values()], repeats)
    htpo, n = times[[*runs].index("htpo")], inputs["mask"].numel()
    return {
        name: {"ratio": took / base, "of_htpo": took / htpo, "bytes_per_token": peak_bytes(run) / n}
        for (name, run), took in zip(runs.items(), times, strict=True)
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "control_cost.json")
    parser.add_argument("--repeats", type=int, default=30, help="of each measurement, of which the median counts")
    args = parser.parse_args()
    output, repeats = args.output, args.repeats
    torch.set_num_threads(1)
    keep_freed_memory()

    rows = []
    print("| B x T | PPO ms | control + PPO ms | ratio | tokens/s | PPO bytes/token | control + PPO bytes/token |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for n_rows, n_tokens in SHAPES:
        inputs = inputs_of(n_rows, n_tokens)
        base, full = seconds([lambda: plain_step(inputs), lambda: controlled(inputs)], repeats)  # noqa: B023
        memory = [peak_bytes(lambda f=f: f(inputs)) / (n_rows * n_tokens) for f in (plain_step, controlled, held)]  # noqa: B023
        rows.append(
            {
                "rows": n_rows,
                "tokens": n_tokens,
                "ppo_seconds": base,
                "control_ppo_seconds": full,
                "ratio": full / base,
                "tokens_per_second": n_rows * n_tokens / full,
                "ppo_bytes_per_token": memory[0],
                "control_ppo_bytes_per_token": memory[1],
                "control_ppo_bytes_per_token_held": memory[2],
            }
        )
        print(
            f"| {n_rows} x {n_tokens} | {1e3 * base:.2f} | {1e3 * full:.2f} | {full / base:.2f} | "
            f"{n_rows * n_tokens / full:.3g} | {memory[0]:.1f} | {memory[1]:.1f} |"
        )

    presets: dict[str, dict[str, dict[str, float]]] = {name: {} for name in PRESETS}
    for n_rows, n_tokens in SHAPES:
        for name, costs in of_presets(inputs_of(n_rows, n_tokens), repeats).items():
            presets[name][f"{n_rows}x{n_tokens}"] = costs
    print(f"\n| preset | {' | '.join(f'{b} x {t}' for b, t in SHAPES)} | of htpo, at most | bytes/token |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, by_shape in presets.items():
        ratios, of_htpo, memory = zip(*(costs.values() for costs in by_shape.values()), strict=True)
        print(f"| {name} | {' | '.join(f'{x:.2f}' for x in ratios)} | {max(of_htpo):.2f} | {max(memory):.1f} |")

    growth = []
    print("\n| B x T | control ms | ns per token | bytes per token |\n| --- | --- | --- | --- |")
    for n_rows, n_tokens in ((8, 4096), (16, 4096), (32, 4096), (8, 8192), (8, 16384), (8, 32768)):
        inputs = inputs_of(n_rows, n_tokens)
        inputs["per_token_logps"] = inputs["per_token_logps"].detach()
        (took,) = seconds([lambda: control(**inputs)], repeats)  # noqa: B023
        memory = peak_bytes(lambda: control(**inputs)) / (n_rows * n_tokens)  # noqa: B023
        growth.append({"rows": n_rows, "tokens": n_tokens, "seconds": took, "bytes_per_token": memory})
        print(f"| {n_rows} x {n_tokens} | {1e3 * took:.2f} | {1e9 * took / n_rows / n_tokens:.1f} | {memory:.1f} |")

    entropies = inputs_of(16, 20480)["entropies"]
    k = 20480 // 5
    ways = {
        "full sort": lambda: entropies.sort(dim=1, descending=True),
        "topk, sorted": lambda: entropies.topk(k, dim=1),
        "topk, unsorted": lambda: entropies.topk(k, dim=1, sorted=False),
        "kthvalue": lambda: entropies.kthvalue(20480 - k + 1, dim=1),
        "numpy's partition": lambda: entropies.clone().numpy().partition(-k, axis=1),
    }
    ranking = dict(zip(ways, seconds(list(ways.values()), repeats), strict=True))
    print("\nRanking 16 x 20480: " + ", ".join(f"{name} {1e3 * took:.2f} ms" for name, took in ranking.items()))
    output.parent.mkdir(exist_ok=True)
    result = {
        "torch": torch.__version__,
        "threads": 1,
        "cost": rows,
        "presets": presets,
        "growth": growth,
        "ranking_seconds": ranking,
    }
    output.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
