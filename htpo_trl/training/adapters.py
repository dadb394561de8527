"""Going on from an adapter, such as a LoRA checkpoint: on its base model, the adapter is trained further."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from transformers import AutoProcessor, AutoTokenizer
from trl.trainer.utils import create_model_from_path

from ..utils import UsageError


#: Where an adapter lies and how it was used, not what it is.
PLACE = {"base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version", "runtime_config"}


def is_adapter(directory: str) -> bool:
    """Whether a directory holds an adapter rather than a whole model."""
    return os.path.isfile(os.path.join(directory, "adapter_config.json"))


def load(directory: str, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """
    The adapter on its base model, and the trainer's other arguments: without those that have been used up.

    Raises:
        UsageError: if there is a `peft_config` that contradicts the adapter.
    """
    config, kwargs = PeftConfig.from_pretrained(directory), dict(kwargs)
    _check(directory, config, kwargs.pop("peft_config", None))
    options: dict[str, Any] = {"trust_remote_code": False if args is None else args.trust_remote_code}
    options |= (args and args.model_init_kwargs) or {}
    options["revision"] = config.revision
    if (quantization := kwargs.pop("quantization_config", None)) is not None:
        options["quantization_config"] = quantization
    zero3 = args is not None and args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3
    if args is not None and args.distributed_state.distributed_type in ("MULTI_GPU", "DEEPSPEED"):
        options["device_map"] = None
    try:
        base = create_model_from_path(config.base_model_name_or_path, **options)
    except OSError as error:
        raise UsageError(
            f"model={directory!r} is an adapter, and its base model {config.base_model_name_or_path!r} cannot be "
            f"loaded: {error} Mend base_model_name_or_path in its adapter_config.json."
        ) from error
    # As TRL makes new adapters: ZeRO-3 wants all weights in one type.
    model = PeftModel.from_pretrained(base, directory, is_trainable=True, autocast_adapter_dtype=not zero3)
    return model, kwargs


def processing_class(directory: str) -> Any:
    """The tokenizer or processor beside an adapter, or `None`: then the base model's serves."""
    if not Path(directory, "tokenizer_config.json").is_file():
        return None
    sees = any(Path(directory, f"{name}_config.json").is_file() for name in ("processor", "preprocessor"))
    auto: Any = AutoProcessor if sees else AutoTokenizer
    return auto.from_pretrained(directory, truncation_side="left", padding_side="left")


def _check(directory: str, saved: Any, given: Any) -> None:
    if given is None:
        return
    names = [field.name for field in dataclasses.fields(given) if field.name not in PLACE]
    differ = []
    for name in names:
        now, before = _plain(getattr(given, name)), _plain(getattr(saved, name, None))
        if now != before and now not in (None, [], {}, "all-linear"):  # the adapter has what these came to
            differ.append(f"{name}={now!s:.60}, the adapter's is {before!s:.60}")
    if differ:
        raise UsageError(
            f"model={directory!r} is an adapter, and peft_config asks for another one: {'; '.join(differ)}. Leave "
            "peft_config (--use_peft, --lora_*) out, or give it the adapter's values. For a new adapter, merge this "
            "one into its base model first: PeftModel.merge_and_unload()."
        )


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, (set, list, tuple)) else getattr(value, "value", value)
