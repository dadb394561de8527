"""`htpo train --dry_run`: what a run would do, from its options alone. Nothing is downloaded, launched or trained."""

from typing import Any

from transformers import AutoConfig, GenerationConfig

from ..config import HTPOConfig
from ..evaluation.judges import name_of
from ..objective.rules import waits_for_drift
from ..scripts.arguments import Arguments, find_model
from ..scripts.htpo import Parts, check_output, model_init_kwargs, parse, prepare, remote
from ..scripts.packages import missing_packages
from ..training import truncation
from ..training.adapters import is_adapter
from ..training.checks import check_run
from ..training.precision import check_precision, told_of_plan
from .launch import Parallelism
from .memory import base_model, cache_per_token, estimate, sizes


#: GB of the usual GPUs.
DEVICES = (16, 24, 40, 48, 80, 96, 141, 192)


def plan_run(arguments: Arguments, spread: Parallelism) -> str:
    """
    The plan of a run as text. Options, local files, procedural tasks and reward functions are resolved as the run
    would resolve them; data and models of the Hub are not touched. Raises a [`UsageError`] for what it would refuse.
    """
    # On as many processes as are planned, whose devices are not looked for here. What a device of another machine can
    # do is not known; the CPU takes every precision.
    planned = type("Planned", (HTPOConfig,), {"world_size": spread.processes})
    script, args, model = parse([*arguments.script, "--use_cpu=true"], arguments.defaults, planned)
    check_output(script, args, model)
    parts = prepare(script, args, model, is_plan=True)
    args.model_init_kwargs = model_init_kwargs(args, model)
    path = find_model(model.model_name_or_path)
    adapter = parts.peft_config
    check_run(args, path, parts.rewards, parts.train, peft_config=adapter, is_plan=True)
    check_precision(args, path, adapter)
    missing = missing_packages(args, model, bool(spread.zero_stage))
    sections = {
        "Run": _run(script, args, model),
        "Batches": _batches(args, spread),
        "Off-policy": _off_policy(args),
        "Warnings": _warnings(args, model, spread, adapter),
        "Data": _data(script, args, parts),
        "Memory": _memory(args, model, spread, adapter),
        "Missing here": [f"pip install {' '.join(map(repr, missing))}"] if missing else [],
        "Objective": str(args.table).splitlines(),
    }
    return "\n".join("\n  ".join([f"{title}:", *lines]) for title, lines in sections.items() if lines)


def _run(script: Any, args: HTPOConfig, model: Any) -> list[str]:
    is_further = is_adapter(find_model(model.model_name_or_path))
    kind = "an adapter, trained further" if is_further else "LoRA" if model.use_peft else "all parameters"
    kind += ", 4-bit weights" if model.load_in_4bit else ", 8-bit weights" if model.load_in_8bit else ""
    names, weights = script.reward_funcs, args.reward_weights or [1.0] * len(script.reward_funcs)
    rewards = " + ".join(f"{weight:g} {name}" for name, weight in zip(names, weights, strict=True))
    correct = f"{', else '.join(args.correctness_names or names[:1])} above {args.correctness_threshold:g}"
    delta = "none" if args.delta is None else f"{args.delta:g}"
    generation = f"vLLM, {args.vllm_mode}" if args.use_vllm else "transformers"
    return [
        f"model       {model.model_name_or_path}, {kind}, weights loaded in {model.dtype}",
        f"objective   {args.objective}" + (f" with {args.objective_overrides}" if args.objective_overrides else ""),
        f"loss        {args.loss_type}, clip range 1-{args.epsilon:g} to 1+{args.epsilon_high:g}, dual clip {delta}",
        f"rewards     {rewards}; correct: {correct}",
        *([f"advantage   {args.estimator}"] if args.advantage != "grpo" else []),
        f"generation  {generation}, up to {args.max_completion_length} tokens, temperature {args.temperature:g}",
        f"output      {args.output_dir}",
    ]


def _batches(args: Any, spread: Parallelism) -> list[str]:
    micro, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
    generated, prompts = args.generation_batch_size, args.generation_batch_size // args.num_generations
    steps = args.steps_per_generation * args.num_iterations / accumulation
    division = f", DeepSpeed ZeRO-{spread.zero_stage}" if spread.zero_stage else ", FSDP" if spread.fsdp else ""
    return [
        f"processes         {spread.processes} on {spread.machines} machine{'s' * (spread.machines > 1)}"
        f"{f', {spread.processes // spread.machines} on each' * (spread.machines > 1)}"
        f"{division}{', offloaded to the CPU' * spread.offload}",
        f"generation batch  {generated} responses = {prompts} prompts x {args.num_generations}"
        + (f"; up to {args.max_sampling_rounds} rounds of dynamic sampling" if args.dynamic_sampling else ""),
        f"optimizer step    {micro * spread.processes * accumulation} responses = {micro} a device x "
        f"{spread.processes} x {accumulation} accumulated",
        f"optimizer steps   {steps:g} a generation batch"
        + (f"; {args.max_steps} in all" if args.max_steps > 0 else f"; {args.num_train_epochs:g} epochs in all"),
    ]


def _off_policy(args: Any) -> list[str]:
    waiting = sum(map(waits_for_drift, args.table.rows))
    lengths = args.table.detaches_from(args.top_entropy_share).values()
    shortest, longest = min(lengths, default=0), args.max_completion_length
    acting = sum(n <= longest for n in lengths)
    detached = f"{acting} groups detach tokens, in every step: of responses of {shortest} tokens and more."
    if not acting:
        detached = f"No group detaches tokens: that takes {shortest} tokens, max_completion_length is {longest}."
    steps = args.steps_per_generation * args.num_iterations // args.gradient_accumulation_steps
    if args.is_on_policy:
        first = "Every importance ratio is 1: each generation batch is used up within one optimizer step."
        kept = f"The {waiting} rules beyond the clip range never act: raise steps_per_generation."
    else:
        first = f"Of {steps} optimizer steps on a generation batch the first is on-policy, {steps - 1} are off-policy."
        what = "go by the importance ratio" if args.table.mixed else "keep gradients beyond the clip range"
        kept = f"{waiting} groups {what}, in those {steps - 1} steps."
    is_corrected = args.use_vllm and args.vllm_importance_sampling_correction
    lines = {
        first: True,
        kept: waiting,
        detached: bool(lengths),
        "TRL corrects for the difference between vLLM's probabilities and the policy's.": is_corrected,
    }
    return [line for line, applies in lines.items() if applies]


def _warnings(args: Any, model: Any, spread: Parallelism, adapter: Any) -> list[str]:
    """What the trainer would warn of; of the weights themselves only what their format says."""
    dtype, defaults = model.dtype, None
    try:
        name, adapter = base_model(find_model(model.model_name_or_path), adapter)
        if dtype == "auto":
            dtype = str(AutoConfig.from_pretrained(name, local_files_only=True).dtype)[6:]
        defaults = GenerationConfig.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError):  # not on this machine, or it has none
        pass
    keeps_float32 = adapter is not None or bool(spread.zero_stage) or spread.fsdp
    return [line for line in (truncation.told(args, defaults), told_of_plan(args, dtype, keeps_float32)) if line]


def _data(script: Any, args: Any, parts: Parts) -> list[str]:
    judge = [f"benchmarks are judged by {name_of(parts.judge)}"] if script.eval_benchmarks else []
    if parts.train is None:
        return [f"from the Hub, not looked at: {', '.join(remote(script))}", *judge]
    batches = len(parts.train) * args.num_generations / args.generation_batch_size
    return [
        f"train  {script.dataset_name}: {len(parts.train)} problems, {batches:.1f} generation batches an epoch",
        *(f"benchmark {name}: {len(problems)} problems" for name, problems in parts.benchmarks.items()),
        *judge,
    ]


def _memory(args: Any, model: Any, spread: Parallelism, adapter: Any) -> list[str]:
    path = find_model(model.model_name_or_path)
    try:
        size = sizes(path, adapter)
    except (OSError, ValueError) as error:  # no such model here, or none that transformers knows
        lines = [f"not estimated: {str(error).splitlines()[0]}"]
    else:
        precision = {"dtype": model.dtype, "mixed_precision": bool(args.bf16 or args.fp16)}
        bits = 4 if model.load_in_4bit else 8 if model.load_in_8bit else None
        states = estimate(size, spread, **precision, quantized_bits=bits)
        counts = f"{size.parameters:,} parameters, {size.trainable:,} of them trained"
        lines = [f"{counts}; per device, but for activations:"]
        together = sum(states.values())
        lines += [_amount(name, n) for name, n in {**states, "together": together}.items()]
        if not args.use_vllm:
            rows, length = args.per_device_train_batch_size * args.steps_per_generation, args.max_completion_length
            cache = rows * length * cache_per_token(path, model.dtype)
            lines.append(f"{_amount('generation', cache)} more, the cache of {rows} responses at their full length")
            together += cache
        fitting = next((f"in {size} GB" for size in DEVICES if together < size * 1e9), "on no usual GPU")
        lines.append(f"fits {fitting}, activations, prompts and libraries aside")
    if args.use_vllm and args.vllm_mode == "colocate":
        kept = "none while the policy trains" if args.vllm_enable_sleep_mode else "at all times"
        lines.append(f"vLLM takes {args.vllm_gpu_memory_utilization:.0%} of the device, {kept}")
    return lines


def _amount(name: str, n: float) -> str:
    return f"{name:16}  {n / 2**30:7.2f} GiB" if n >= 2**30 else f"{name:16}  {n / 2**20:7.2f} MiB"
