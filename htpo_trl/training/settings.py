"""
What makes a run the run it is: kept in each of its checkpoints, compared when one is resumed from, and told by
`settings.json` in its directory.
"""

import hashlib
import inspect
import json
import random
import warnings
from collections.abc import Mapping, Sequence, Sized
from contextlib import suppress
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..objective.table import GROUPS
from ..output.directory import SETTINGS
from ..output.reading import read_json
from ..output.redaction import redacted
from ..output.writing import write_json
from ..utils import UsageError, versions
from .adapters import PLACE
from .checkpoint import CheckpointError


#: Rows of an iterable data set that stand for it: to read it whole would take a run of its own.
STREAM_ROWS = 8
# Packages that have a hand in a run's numbers.
_COMPUTES = {
    *("htpo_trl", "trl", "transformers", "accelerate", "datasets", "peft", "torch", "deepspeed", "vllm"),
    "bitsandbytes",
}
# Where a run writes, whom it tells, and what it keeps: another value makes no other run.
_ELSEWHERE = {
    *("output_dir", "logging_dir", "run_name", "project", "report_to", "local_rank", "disable_tqdm", "push_to_hub"),
    *("resume_from_checkpoint", "resume_with_changes", "overwrite_output_dir", "save_total_limit", "save_strategy"),
    *("load_best_model_at_end", "metric_for_best_model", "greater_is_better", "num_completions_to_print"),
    *("restore_callback_states_from_checkpoint", "log_level", "log_level_replica", "log_on_each_node", "ddp_timeout"),
}
_ELSEWHERE_TOO = ("hub_", "push_to_hub_", "trackio_", "save_", "logging_", "eval_", "dataloader_", "record_tokens_")
# With another of these it is another run.
_OBJECTIVE = (
    *("objective", "loss_type", "importance_sampling_level", "difficulty_threshold", "top_entropy_share"),
    *("correctness_reward", "correctness_threshold", "multi_objective_aggregation", "scale_rewards"),
    *("advantage", "advantage_kwargs"),
)
_ANOTHER_RUN = {*_OBJECTIVE, "data", "rewards", "reward_weights", "soft_punish_cache", "skip_reasoning"}
_ANOTHER_RUN_TOO = ("table.", "model.")
# What checkpoints from before it was an option were trained with.
_SINCE_THEN = {"skip_reasoning": True, "advantage": "grpo"}
# What weights and optimizer states cannot follow.
_UNFIT = {"model.architecture", "model.parameters", "model.dtype"}
# What a change of the others does, where that is not simply that it holds from here on.
_NOTES = {
    **dict.fromkeys(("seed", "data_seed"), "the data's order is that of the new seed; random numbers go on"),
    **dict.fromkeys(
        (
            *("per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation"),
            *("num_generations", "num_iterations", "generation_batch_size"),
        ),
        "the place in the data is counted in the new batches",
    ),
    **dict.fromkeys(
        ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_completion_length"),
        "from the next generation batch",
    ),
}


def of_options(args: Any, rewards: Sequence[str] | None, dataset: Any) -> dict[str, Any]:
    """The settings that are known before a model is loaded, flat and as JSON holds them; `None` is not known."""
    settings = args.to_dict()
    if (table := getattr(args, "table", None)) is not None:
        settings |= {f"table.{group}": repr(row) for group, row in zip(GROUPS, table.rows, strict=True)}
        settings["table.selection"] = table.selection
    if dataset is not None:
        settings["data"] = fingerprint(dataset)
    if rewards is not None:
        settings |= {"rewards": [*rewards], "reward_weights": [*(args.reward_weights or [1.0] * len(rewards))]}
    else:  # an environment may add some
        del settings["reward_weights"]
    kept = {name: value for name, value in settings.items() if not _is_elsewhere(name)}
    return redacted(json.loads(json.dumps(kept, default=_written)))


def describe(trainer: Any) -> dict[str, Any]:
    """All that makes the run of a trainer what it is."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    settings: dict[str, Any] = {f"versions.{name}": each for name, each in versions().items() if name in _COMPUTES}
    settings |= {name: value for section in trainer.settings.values() for name, value in section.items()}
    settings["model.architecture"] = type(base).__name__
    settings["model.parameters"] = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())
    settings["model.dtype"] = str(base.dtype)
    for adapter, config in getattr(model, "peft_config", {}).items():
        written = {field.name: getattr(config, field.name) for field in fields(config)}
        settings[f"model.{adapter}"] = written.pop("peft_type")
        settings |= {f"model.{adapter}.{name}": value for name, value in written.items() if name not in PLACE}
    for name, function in zip(trainer.reward_func_names, trainer.reward_funcs, strict=False):
        settings[f"source of {name}"] = _source(function)
    estimator = getattr(trainer.args, "estimator", None)  # a plain GRPOConfig has none
    if estimator and not getattr(estimator.function, "__module__", "").startswith("htpo_trl."):
        settings["source of advantage"] = _source(estimator.function)
    settings = {name: value for name, value in settings.items() if not _is_elsewhere(name)}
    known = of_options(trainer.args, trainer.reward_func_names, trainer.train_dataset)
    return redacted(json.loads(json.dumps(settings, default=_written))) | known


def _is_elsewhere(name: str) -> bool:
    return name in _ELSEWHERE or name.startswith(_ELSEWHERE_TOO)


def _written(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)


def _source(function: Any) -> str:
    try:
        source = inspect.getsource(inspect.unwrap(function))
    except (OSError, TypeError):  # a model, a partial function, typed in an interpreter
        return ""
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def fingerprint(dataset: Any) -> str:
    """Rows, columns and content of a data set, wherever it lies; of an iterable one, its first rows."""
    digest = hashlib.sha256()
    if isinstance(dataset, Sized):
        for batch in dataset.with_format("arrow").iter(1000):  # type: ignore[attr-defined]
            digest.update(repr(batch.to_pylist()).encode("utf-8", "surrogatepass"))
        columns: list[str] = dataset.column_names  # type: ignore[attr-defined]
        return f"{len(dataset)} rows of {', '.join(columns)}: {digest.hexdigest()[:16]}"
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    rows = [*islice(dataset, STREAM_ROWS)]
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.random.set_rng_state(states[2])
    digest.update(json.dumps(rows, default=lambda value: type(value).__name__).encode("utf-8", "surrogatepass"))
    return f"a stream of {', '.join(rows[0]) if rows else 'nothing'}: {digest.hexdigest()[:16]}"


def changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Name -> value in the checkpoint and in this run, of those that differ and matter."""
    saved, now = {**_SINCE_THEN, **saved}, {**_SINCE_THEN, **now}
    changed = {
        name: [saved.get(name), now.get(name)]
        for name in sorted(saved.keys() | now.keys())
        if saved.get(name) != now.get(name)
    }
    whole = tuple("table." if name == "objective" else f"{name}." for name in changed)
    return {name: each for name, each in changed.items() if not name.startswith(whole)}  # of which the whole says all


def compare(changed: Mapping[str, list[Any]], directory: str, go_on: bool, tell: bool) -> None:
    """
    Refuse to go on with what is another run, unless the user says so, and with what its weights or optimizer do not
    fit; tell, in one warning, what else has changed.

    Raises:
        CheckpointError: with what differs.
    """
    unfit = {name for name in changed if name in _UNFIT}
    optimizers = {str(name).removesuffix("_fused") for name in changed.get("optim", ())}
    schedules = {"reduce_lr_on_plateau", "greedy"} & {*map(str, changed.get("lr_scheduler_type", ()))}
    unfit |= {"optim"} if len(optimizers) > 1 else {"lr_scheduler_type"} if schedules else set()
    another = {name for name in changed if name in _ANOTHER_RUN or name.startswith(_ANOTHER_RUN_TOO)} | unfit
    if unfit or (another and not go_on):
        mend = "or, to go on knowingly, set resume_with_changes to true"
        if unfit:
            mend = "or start from the weights alone by passing the checkpoint's directory as `model`"
        raise CheckpointError(
            f"{directory} is of another run: {_told(changed, another)}. Resume with the settings of that run "
            f"({SETTINGS} in its directory tells them), give this one another output_dir and leave "
            f"resume_from_checkpoint out, {mend}."
        )
    if changed and tell:
        warnings.warn(
            f"Resumed from {directory} with other settings, which hold from here on: {_told(changed, changed)}.",
            stacklevel=2,
        )


def _told(changed: Mapping[str, list[Any]], names: Any) -> str:
    lines = []
    for name in sorted(names):
        before, after = (f"{value!r:.60}" for value in changed[name])
        lines.append(f"{name} {before} -> {after}" + (f" ({_NOTES[name]})" if name in _NOTES else ""))
    return "; ".join(lines)


def write(trainer: Any, settings: Mapping[str, Any], resumed: Mapping[str, Any] | None) -> None:
    """
    Write `settings.json`: versions and device, options by section, `run`, what they come to, and `resumes`, what was
    resumed from, in order, and what changed there.
    """
    args, path = trainer.args, Path(trainer.args.output_dir, SETTINGS)
    # A push publishes the file, which lies in `output_dir`: the way there is nobody's concern.
    sections = {**trainer.settings, type(args).__name__: args.to_dict() | {"output_dir": path.parent.name}}
    run = {name: settings[name] for name in ("model.architecture", "data", "rewards")}
    content: dict[str, Any] = {"versions": {**versions(), "device": _device(trainer)}, **sections, "run": run}
    if resumed is None:
        path.with_name("trainer_state.json").unlink(missing_ok=True)  # the log of a run that was here before
    else:
        earlier = None
        with suppress(UsageError):
            earlier = read_json(path).get("resumes")
        content["resumes"] = [*(earlier if isinstance(earlier, list) else []), resumed]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, redacted(json.loads(json.dumps(content, default=str))))


def _device(trainer: Any) -> str:
    """Of each process, such as `8 x NVIDIA H200` or `cpu, threads: 2`: what times, and the last bits, go by."""
    device, n = trainer.accelerator.device, trainer.accelerator.num_processes
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    name += f", threads: {torch.get_num_threads()}" if device.type == "cpu" else ""
    return f"{n} x {name}" if n > 1 else name
