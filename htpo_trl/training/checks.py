"""
What can be known of a run before its model is loaded, in one place: [`~htpo_trl.HTPOTrainer`], `htpo train` and its
plan ask here, so that they give the same answer. The numbers of the options are the configuration's to check.
"""

import copy
import functools
import inspect
import os
import traceback
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from huggingface_hub.utils import HFValidationError, validate_repo_id
from peft import PeftConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, TrainerCallback
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..output.writing import check_writable
from ..utils import UsageError, check_vocabulary, nearest
from . import checkpoint, settings
from .advantages import check_rewards
from .model_files import check_chat_template, check_tokenizer, check_weight_files
from .optimization import check_optimization
from .prompts import check_dataset, check_prompt_values
from .verdicts import check_reward_funcs


#: What TRL gives every reward function, beside the columns of the data.
GIVEN = {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments"}


def check_run(
    args: Any,
    model: Any,
    reward_funcs: Any,
    dataset: Any,
    processing_class: Any = None,
    *,
    peft_config: Any = None,
    has_own_rollouts: bool = False,
    is_plan: bool = False,
) -> None:
    """
    Raise a [`UsageError`] for what a run would fail on.

    Args:
        args ([`HTPOConfig`]):
            The configuration, whose own contradictions it has refused.
        model (`str` or model):
            As the trainer takes it; what is a name is looked for.
        reward_funcs (`Callable`, `str`, model or `list`):
            As the trainer takes them.
        dataset (`Dataset`, `IterableDataset` or `None`):
            The training data; `None` where they are not known.
        processing_class (*optional*):
            Tokenizer or processor; by default the model's.
        peft_config (`PeftConfig`, *optional*):
            The adapter that is trained.
        has_own_rollouts (`bool`, *optional*, defaults to `False`):
            Whether an environment or a rollout function adds rewards and columns, so that these are not known.
        is_plan (`bool`, *optional*, defaults to `False`):
            Whether nothing is to be downloaded: what only the Hub knows is left out.
    """
    loading = {"trust_remote_code": args.trust_remote_code, **(args.model_init_kwargs or {})}
    loading |= {"local_files_only": True} if is_plan else {}
    if isinstance(model, str):
        config = check_model(model, is_plan=is_plan, **loading)
        check_tokenizer(model, config, processing_class, f"model_name_or_path={model!r}", **loading)
        if config is not None and peft_config is not None:
            check_adapter(config, peft_config)
        if args.router_aux_loss_coef and config and not hasattr(config.get_text_config(), "output_router_logits"):
            raise UsageError(
                f"router_aux_loss_coef={args.router_aux_loss_coef} weighs a loss of mixtures of experts, which "
                f"{model!r} is not. Leave it out."
            )
    elif model is not None:
        check_vocabulary(model.config, processing_class, "model")
    if peft_config is not None and args.sync_ref_model:
        raise UsageError(
            "sync_ref_model=True needs a reference model of its own; with an adapter it is the model without it. Set "
            "sync_ref_model=False, or train all parameters."
        )
    if args.n_gpu > 1:
        raise UsageError(
            f"One process sees {args.n_gpu} GPUs: start one for each by `htpo train --num_processes {args.n_gpu}`, "
            "`accelerate launch` or torchrun, or let it see one by CUDA_VISIBLE_DEVICES."
        )
    by_launcher = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    on_cpu = args.device.type == "cpu" and not is_plan
    if (args.fsdp and args.world_size == 1) or ((args.fsdp or by_launcher) and on_cpu):
        raise UsageError(
            f"fsdp={args.fsdp!r} splits a model among GPUs, and this is {'a CPU' if on_cpu else 'one process'}. Leave "
            "it out, or start a process on each GPU: --accelerate_config fsdp2 --num_processes N."
        )
    check_writable("output_dir", args.output_dir)
    check_optimization(args)
    functions = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs] * (reward_funcs is not None)
    if not has_own_rollouts:
        check_reward_funcs(functions)
        names = [reward_name(function) for function in functions]
        check_rewards(args, names, correctness_columns(args.correctness_names, names))
    _check_resume(args, [reward_name(function) for function in functions] if not has_own_rollouts else None, dataset)
    if dataset is None:
        return
    if not has_own_rollouts:
        check_dataset(dataset)
        check_columns(functions, dataset)
        check_prompt_values(dataset)
    # With a model that is loaded, few prompts are told when it trains: perhaps it is evaluated alone.
    if isinstance(model, str) or not isinstance(dataset, Sized):
        check_prompts(args, dataset)
    first: Any = next(iter(dataset), {})
    if isinstance(first.get("prompt"), list):
        name = model if isinstance(model, str) else model.config._name_or_path
        check_chat_template(name, processing_class, **loading)


def check_model(name: str, option: str = "model_name_or_path", is_plan: bool = False, **loading: Any) -> Any:
    """
    A directory must hold a model, or an adapter; another name must be that of a model on the Hub. Returns the model's
    configuration; nothing of an adapter, nor of what a plan would have to download.
    """
    path, what = Path(name), f"{option}={name!r}"
    attention = loading.get("attn_implementation") or "eager"
    known = ["eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()]
    if isinstance(attention, str) and attention not in known and "/" not in attention:  # kernels on the Hub have one
        raise UsageError(
            f"attn_implementation={attention!r} is none of {', '.join(known)}. {nearest(attention, known)}".rstrip()
        )
    if os.path.isdir(path):  # unlike the path's own, of a name that is too long too
        if "gguf_file" in loading or (path / "adapter_config.json").is_file():
            return None
        if not (path / "config.json").is_file():
            raise UsageError(f"{what} is no directory of a model: it has no config.json.")
        suffixes = ("safetensors",) if loading.get("use_safetensors") else ("safetensors", "bin")
        if not any(file for suffix in suffixes for file in path.glob(f"*.{suffix}")):
            raise UsageError(
                f"{what} has no weights: there is no file {' or '.join(f'*.{s}' for s in suffixes)} in it."
            )
    else:
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise UsageError(f"{what} is no directory here, and cannot be an id on the Hub.") from error
        is_cached = isinstance(try_to_load_from_cache(name, "config.json", revision=loading.get("revision")), str)
        if constants.HF_HUB_OFFLINE and not is_cached and ("/" not in name or os.path.isdir(path.parent)):
            raise UsageError(f"{what} is no directory here, nor in the Hub's cache, and HF_HUB_OFFLINE is set.")
        if is_plan and not is_cached:
            return None
    kept = ("revision", "trust_remote_code", "token", "cache_dir", "subfolder", "local_files_only")
    try:
        config = AutoConfig.from_pretrained(name, **{key: loading[key] for key in kept if key in loading})
    except (OSError, ValueError, StrictDataclassError) as error:
        raise UsageError(f"{what} cannot be loaded: {error}") from error
    if os.path.isdir(path):
        check_weight_files(path, what)
    return config


def check_adapter(config: Any, peft_config: Any) -> None:
    """An adapter must find its layers in a model of this configuration; no weights are made."""
    if not isinstance(peft_config, PeftConfig):
        raise UsageError(f"peft_config is a `{type(peft_config).__name__}`: pass one of PEFT's, such as LoraConfig().")
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except ValueError:  # a model of several modalities, say
        return
    try:
        adapted = get_peft_model(model, copy.deepcopy(peft_config))
    except ValueError as error:
        raise UsageError(f"peft_config (lora_target_modules, lora_modules_to_save): {error}") from error
    if isinstance(adapted.get_output_embeddings(), BaseTunerLayer):
        raise UsageError(
            "An adapter of lm_head would never be trained: TRL computes with its weight directly. Take 'lm_head' out "
            "of lora_target_modules."
        )


def check_columns(functions: Sequence[Any], dataset: Any) -> None:
    """Refuse reward functions with an argument that is neither given to all nor a column of the data set."""
    columns = dataset.column_names
    if columns is None:  # a stream does not know
        return
    mend = "Name the columns by problem_column and solution_column, or rename them."
    if "prompt" not in columns:
        raise UsageError(f"The data has no column 'prompt', only {', '.join(columns)}. {mend}")
    if taken := {"prompts", "completions"} & {*columns}:
        raise UsageError(f"The data's column {min(taken)!r} has the name of what each reward is given. Rename it.")
    for function in functions:
        parameters = inspect.signature(function).parameters.values() if inspect.isroutine(function) else ()
        for parameter in parameters:
            is_optional = parameter.default is not parameter.empty or parameter.kind.name.startswith("VAR_")
            if not is_optional and parameter.name not in {*GIVEN, *columns}:
                raise UsageError(
                    f"The reward function {reward_name(function)!r} needs the column {parameter.name!r}; the data has "
                    f"only {', '.join(columns)}. {mend}"
                )


@contextmanager
def loading_told(what: str) -> Iterator[None]:
    """Within, what `from_pretrained` cannot load, a version that TRL refuses, and a server not reached are told."""
    try:
        yield
    except (ImportError, OSError, SafetensorError, TypeError) as error:
        is_of_model = any(frame.name == "from_pretrained" for frame in traceback.extract_tb(error.__traceback__))
        if is_of_model and isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
            raise UsageError(f"model_init_kwargs: {what} cannot be loaded with them: {error}") from error
        if is_of_model and not isinstance(error, TypeError):
            raise UsageError(f"{what} cannot be loaded: {error}") from error
        if isinstance(error, ImportError | ConnectionError):
            raise UsageError(str(error)) from error
        raise


def check_prompts(args: Any, dataset: Any) -> None:
    """There must be prompts for one generation batch: TRL drops what is less. A stream needs `max_steps`."""
    if not isinstance(dataset, Sized | None) and args.max_steps < 1:
        raise UsageError(
            "The data is a stream, whose length is not known: set max_steps, the optimizer steps to take."
        )
    prompts = args.generation_batch_size // args.num_generations
    if isinstance(dataset, Sized) and len(dataset) < prompts:
        raise UsageError(
            f"{len(dataset)} problems are fewer than the {prompts} prompts of a generation batch: TRL would train on "
            "none. Lower per_device_train_batch_size or steps_per_generation, or add data."
        )


def correctness_columns(wanted: Sequence[str], names: Sequence[str]) -> list[int]:
    """
    The reward functions that judge correctness, in the order in which they are asked: those that are wanted, or the
    first. No other is asked by default: what comes next may be a penalty for length, whose number is no verdict.
    """
    for name in wanted:
        if names.count(name) != 1:
            raise UsageError(
                f"correctness_reward={name!r} must name one reward function; there are {', '.join(names)}."
            )
    return [names.index(name) for name in wanted or names[:1]]


def check_trainable(model: Any) -> None:
    """There must be something to train."""
    if any(parameter.requires_grad for parameter in model.parameters()):
        return
    mend = "unfreeze it: model.requires_grad_(True)"
    if hasattr(model, "peft_config"):
        mend = "load the adapter for training: PeftModel.from_pretrained(model, directory, is_trainable=True)"
    raise UsageError(f"None of the model's parameters is trainable (requires_grad is False for all): {mend}.")


class StepsTaken(TrainerCallback):
    """Ends a training that did nothing with a [`UsageError`]."""

    def __init__(self) -> None:
        self._first = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self._first = state.global_step

    def on_train_end(self, args, state, control, **kwargs):
        if state.global_step == self._first:
            prompts = args.generation_batch_size // args.num_generations
            raise UsageError(
                f"No optimizer step was taken: the training data gave no generation batch of {prompts} prompts. Add "
                "data, or lower per_device_train_batch_size or steps_per_generation."
            )


def _check_resume(args: Any, rewards: list[str] | None, dataset: Any) -> None:
    """The checkpoint that the options name must be there, complete, and of this run."""
    if args.process_index > 0:  # one process chooses
        return
    directory = checkpoint.chosen(args.resume_from_checkpoint, args.output_dir)
    if directory is None:
        return
    _, counters = checkpoint.load_state(checkpoint.state_file(directory, 0), "HTPOTrainer")
    now = settings.of_options(args, rewards, dataset)
    changed = settings.changes({name: counters["settings"][name] for name in now if name in counters["settings"]}, now)
    settings.compare(changed, directory, args.resume_with_changes, tell=False)


def reward_name(function: Callable | str | Any) -> str:
    """What TRL calls a reward function, a partial or an object that can be called, or a reward model."""
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, str):
        return function.split("/")[-1]
    if hasattr(function, "config"):
        return function.config._name_or_path.split("/")[-1]
    return getattr(function, "__name__", type(function).__name__)
