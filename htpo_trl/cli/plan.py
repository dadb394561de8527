"""`htpo train --dry_run`: what a run would do, from its options alone. Nothing is downloaded, launched or trained."""

import warnings
from dataclasses import dataclass
from typing import Any

from ..config import HTPOConfig
from ..data.names import hub_id
from ..objective.rules import Detach, KeepGradient
from ..scripts.arguments import Arguments, UsageError
from ..scripts.htpo import Data, missing_packages, parse
from ..scripts.reward_names import reward_functions
from .launch import Layout
from .memory import estimate, sizes


def plan(arguments: Arguments, layout: Layout) -> str:
    """
    The plan of a run as text. Options, local files, procedural tasks and reward functions are resolved as the run
    would resolve them; data and models of the Hub are not touched.

    Raises:
        ValueError: for what the run would refuse, with the mend.
    """

    warnings.simplefilter("ignore", FutureWarning)  # deprecations within TRL and transformers are not the reader's

    @dataclass
    class Planned(HTPOConfig):
        """The configuration on as many processes as are planned; it must not look for their devices here."""

        world_size = layout.processes

    # What a device of another machine can do is not known here; the CPU takes every precision.
    script, args, model, mixture = parse(
        [*arguments.script, "--use_cpu=true"], arguments.defaults, "htpo train", Planned
    )
    if not model.model_name_or_path:
        raise UsageError("Set model_name_or_path: a model's id on the Hub, or its directory.")
    reward_functions(script.reward_funcs, args.max_completion_length, script.soft_punish_cache)
    data, prompt_tokens = _data(script, args, mixture)
    sections = {
        "Run": _run(script, args, model),
        "Batches": _batches(args, layout),
        "Off-policy": _off_policy(args),
        "Data": data,
        "Memory": _memory(args, model, layout, prompt_tokens),
    }
    if missing := missing_packages(args, model):
        sections["Missing here"] = [f"pip install {' '.join(map(repr, missing))}"]
    lines = [f"{title}:\n" + "\n".join(f"  {line}" for line in body) for title, body in sections.items()]
    return "\n".join([*lines, "Objective:", *(f"  {line}" for line in str(args.table).splitlines())])


def _run(script: Any, args: HTPOConfig, model: Any) -> list[str]:
    kind = "LoRA" if model.use_peft else "all parameters"
    kind += ", 4-bit weights" if model.load_in_4bit else ", 8-bit weights" if model.load_in_8bit else ""
    rewards = " + ".join(
        f"{weight:g} {name}" for name, weight in zip(script.reward_funcs, _weights(script, args), strict=True)
    )
    generation = f"vLLM, {args.vllm_mode}" if args.use_vllm else "transformers"
    return [
        f"model       {model.model_name_or_path}, {kind}, weights loaded in {model.dtype}",
        f"objective   {args.objective}" + (f" with {args.objective_overrides}" if args.objective_overrides else ""),
        f"rewards     {rewards}; correct: {args.correctness_reward or script.reward_funcs[0]} above "
        f"{args.correctness_threshold:g}",
        f"generation  {generation}, up to {args.max_completion_length} tokens, temperature {args.temperature:g}",
        f"output      {args.output_dir}",
    ]


def _weights(script: Any, args: HTPOConfig) -> list[float]:
    weights = args.reward_weights or [1.0] * len(script.reward_funcs)
    if len(weights) != len(script.reward_funcs):
        raise UsageError(
            f"reward_weights={weights} must be one number for each of reward_funcs={script.reward_funcs}."
        )
    return weights


def _batches(args: HTPOConfig, layout: Layout) -> list[str]:
    assert args.steps_per_generation is not None
    assert args.generation_batch_size is not None
    assert args.num_generations is not None
    micro, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
    step = micro * layout.processes * accumulation
    prompts = args.generation_batch_size // args.num_generations
    steps = args.steps_per_generation * args.num_iterations / accumulation
    return [
        f"processes         {layout.processes} on {layout.machines} machine{'s' * (layout.machines > 1)}"
        + (f", DeepSpeed ZeRO-{layout.zero_stage}" if layout.zero_stage else ", FSDP" if layout.fsdp else "")
        + (", offloaded to the CPU" if layout.offload else ""),
        f"generation batch  {args.generation_batch_size} responses = {prompts} prompts x {args.num_generations}"
        + (f"; up to {args.max_sampling_rounds} rounds of dynamic sampling" if args.dynamic_sampling else ""),
        f"optimizer step    {step} responses = {micro} a device x {layout.processes} x {accumulation} accumulated",
        f"optimizer steps   {steps:g} a generation batch"
        + (f"; {args.max_steps} in all" if args.max_steps > 0 else f"; {args.num_train_epochs:g} epochs in all"),
    ]


def _off_policy(args: HTPOConfig) -> list[str]:
    assert args.steps_per_generation
    rows = args.table.rows
    keeps = sum(isinstance(row, KeepGradient) for row in rows)
    detaches = sum(isinstance(row, Detach) for row in rows)
    if args.is_on_policy:
        lines = ["Every importance ratio is 1: each generation batch is used up within one optimizer step."]
        if keeps:
            lines.append(f"The {keeps} rules beyond the clip range never act: raise steps_per_generation.")
    else:
        steps = args.steps_per_generation * args.num_iterations // args.gradient_accumulation_steps
        lines = [
            f"Of {steps} optimizer steps on a generation batch the first is on-policy, {steps - 1} are off-policy."
        ]
        if keeps:
            lines.append(f"{keeps} groups keep gradients beyond the clip range, in those {steps - 1} steps.")
    if detaches:
        lines.append(f"{detaches} groups detach tokens, in every step.")
    if args.use_vllm and args.vllm_importance_sampling_correction:
        lines.append("TRL corrects for the difference between vLLM's probabilities and the policy's.")
    return lines


def _data(script: Any, args: HTPOConfig, mixture: Any) -> tuple[list[str], int]:
    """What there is, and about how many tokens the longest prompt has."""
    names = [script.dataset_name] if script.dataset_name else [entry.path for entry in mixture.datasets]
    remote = [] if script.dataset_path else [name for name in names if hub_id(name)]
    remote += [name for name in script.eval_benchmarks or [] if name != "test" and hub_id(name)]
    if remote:
        return [f"from the Hub, not looked at: {', '.join(remote)}"], 512
    data = Data(script, args, mixture)
    assert args.generation_batch_size is not None
    assert args.num_generations is not None
    batches = len(data.train) * args.num_generations / args.generation_batch_size
    lines = [f"train  {', '.join(names)}: {len(data.train)} problems, {batches:.1f} generation batches an epoch"]
    if batches < 1:
        raise UsageError(
            f"{len(data.train)} problems are fewer than the {args.generation_batch_size // args.num_generations} "
            "prompts of a generation batch: TRL would train on none. Lower per_device_train_batch_size or "
            "steps_per_generation, or add data."
        )
    lines += [f"benchmark {name}: {len(problems)} problems" for name, problems in data.benchmarks.items()]
    return lines, max(len(str(prompt)) for prompt in data.train["prompt"]) // 2


def _memory(args: HTPOConfig, model: Any, layout: Layout, prompt_tokens: int) -> list[str]:
    from trl import get_peft_config

    try:
        size = sizes(model.model_name_or_path, get_peft_config(model))
    except (OSError, ValueError) as error:  # no such model here, or none that transformers knows
        return [f"not estimated: {str(error).splitlines()[0]}"]
    assert args.steps_per_generation is not None
    assert args.max_completion_length is not None
    length = args.vllm_max_model_length or args.max_completion_length + prompt_tokens
    parts = estimate(
        size,
        dtype=model.dtype,
        mixed_precision=bool(args.bf16 or args.fp16),
        quantized_bits=4 if model.load_in_4bit else 8 if model.load_in_8bit else None,
        processes=layout.processes,
        zero_stage=layout.zero_stage,
        fsdp=layout.fsdp,
        offload=layout.offload,
        micro_batch=args.per_device_train_batch_size,
        sequence_length=length,
        completion_length=args.max_completion_length,
        gradient_checkpointing=bool(args.gradient_checkpointing),
        generated_at_once=0 if args.use_vllm else args.per_device_train_batch_size * args.steps_per_generation,
    )
    cache = {name: parts.pop(name) for name in list(parts) if name.startswith("KV")}
    lines = [f"{name:22}  {_bytes(value)}" for name, value in parts.items()]
    lines.insert(
        0, f"{size.parameters:,} parameters, {size.trainable:,} of them trained; sequences of up to {length} tokens"
    )
    lines.insert(1, "estimate per device:")
    lines.append(f"{'together':22}  {_bytes(sum(parts.values()))} while the policy trains")
    lines += [f"{name}: {_bytes(value)}" for name, value in cache.items()]
    if args.use_vllm and args.vllm_mode == "colocate":
        kept = "none while the policy trains" if args.vllm_enable_sleep_mode else "at all times"
        lines.append(f"vLLM takes {args.vllm_gpu_memory_utilization:.0%} of the device, {kept}")
    return lines


def _bytes(value: float) -> str:
    return f"{value / 2**30:7.2f} GiB" if value >= 2**20 else f"{value / 2**20:7.2f} MiB"
