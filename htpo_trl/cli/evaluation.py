"""`htpo eval` in several processes, and its plan, `htpo eval --dry_run`: nothing is downloaded or generated for it."""

import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from ..evaluation.judges import name_of
from ..evaluation.parallel import check_devices, devices_of
from ..output.redaction import redact_text
from ..output.terminal import printable
from ..scripts.evaluate import EvalArguments, Parts, check_whole, main, parse, prepare, read_options, remote, try_golds
from ..utils import MissingPackageError, UsageError
from .launch import Parallelism, launch, launch_arguments, parallelism


def run_evaluation(tokens: Sequence[str], is_plan: bool) -> None:
    """Evaluate here, or in the processes that the options ask for, or print the plan of that."""
    arguments = read_options(tokens)
    args, sampling = parse(arguments)
    flags = _flags(arguments.launch, args.data_parallel_size)
    if not (flags or is_plan):
        main(tokens)
        return
    accelerate = launch_arguments(flags, tokens, "htpo_trl.scripts.evaluate") if flags else None
    spread = parallelism(accelerate) if accelerate else Parallelism()
    size = args.data_parallel_size
    if size is not None and size != spread.processes:
        raise UsageError(f"data_parallel_size={size} is num_processes={spread.processes}. Set one of the two.")
    check_whole(f"DeepSpeed ZeRO-{spread.zero_stage}" if spread.zero_stage else "FSDP" if spread.fsdp else None)
    parts = prepare(args, sampling, is_plan=True)
    if size is not None and parts.backend != "vllm":
        raise UsageError(
            f"data_parallel_size={size} is a number of vLLM's engines. Set --vllm, or --num_processes {size}."
        )
    each = devices_of(args.vllm_options or {}) if parts.backend == "vllm" else 1
    check_devices(math.ceil(spread.processes / spread.machines), each)
    missing = "pip install 'htpo_trl[vllm]'" if parts.backend == "vllm" and not find_spec("vllm") else ""
    if is_plan:
        try_golds(args, parts)
        print(printable(redact_text(_plan(args, sampling, parts, spread, each, missing))))
    elif missing:
        raise MissingPackageError(f"backend='vllm' needs vLLM: {missing}")
    elif accelerate:
        launch(accelerate, "htpo eval")


def _flags(flags: Sequence[str], data_parallel_size: int | None) -> list[str]:
    """Those of accelerate, with the number of processes; without a configuration of it, with that for plain copies."""
    names = {flag.partition("=")[0].replace("-", "_").lstrip("_") for flag in flags if flag.startswith("--")}
    flags = [*flags]
    if data_parallel_size and "num_processes" not in names:
        flags += ["--num_processes", str(data_parallel_size)]
        names.add("num_processes")
    if "num_processes" in names and not names & {"accelerate_config", "config_file", "cpu"}:
        flags += ["--accelerate_config", "ddp"]
    return flags


def _plan(args: EvalArguments, sampling: Any, parts: Parts, spread: Parallelism, each: int, missing: str) -> str:
    model = f"a copy of the model in each of {spread.processes} processes" if spread.processes > 1 else "one process"
    engine = f"vLLM, an engine over {each} GPU{'s' * (each > 1)}" if parts.backend == "vllm" else "transformers"
    n = sampling.num_samples
    problems = [
        f"{name}: {len(rows)} problems, {len(rows) * n} samples, in "
        f"{math.ceil(len(rows) * n / sampling.batch_size / spread.processes)} rounds of {spread.processes} x "
        f"{sampling.batch_size}"
        for name, rows in parts.benchmarks.items()
    ] or [f"from the Hub, not looked at: {', '.join(remote(args))}"]
    sections = {
        "Evaluation": [
            f"model       {args.model}, weights loaded in {args.dtype}",
            f"generation  {engine}; {model} on {spread.machines} machine{'s' * (spread.machines > 1)}",
            f"sampling    {n} samples a problem, up to {sampling.max_new_tokens} tokens, temperature "
            f"{sampling.temperature:g}, top-p {sampling.top_p:g}",
            f"judge       {name_of(parts.judge)}",
            f"output      {parts.output_dir}",
        ],
        "Benchmarks": problems,
        "Missing here": [missing] if missing else [],
    }
    return "\n".join("\n  ".join([f"{title}:", *lines]) for title, lines in sections.items() if lines)
