"""What a directory of a model must hold, looked at without loading it: a download may be half of one."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import AutoProcessor

from ..output.reading import MAX_LOG_BYTES, read_json
from ..utils import UsageError, check_vocabulary


#: Of what is a tokenizer: without any of these, transformers makes one of no tokens.
TOKENIZERS = ("token*", "vocab*", "merges.txt", "*.model", "*.tiktoken", "tekken.json")


def check_weight_files(directory: Path, what: str) -> None:
    """Refuse weights that are damaged, or of which parts are missing. Headers alone are read."""
    for file in sorted(directory.glob("*.safetensors")):
        if file.exists() and not file.is_file():
            raise UsageError(f"{what}: {file.name} is no regular file. Copy or download it.")
        try:
            safe_open(file, "pt")
        except (SafetensorError, OSError) as error:
            with file.open("rb") as stream:
                is_pointer = stream.read(7) == b"version"
            mend = "It is a pointer of Git LFS: git lfs pull." if is_pointer else "Copy or download it again."
            raise UsageError(f"{what}: {file.name} is damaged: {error}. {mend}") from error
    for index in directory.glob("*.safetensors.index.json"):
        parts = set[str]()
        with suppress(KeyError, AttributeError):  # transformers tells of these
            parts = {*map(str, read_json(index, MAX_LOG_BYTES)["weight_map"].values())}
        if missing := sorted(part for part in parts if not (directory / part).is_file()):
            raise UsageError(f"{what}: {', '.join(missing)} of {index.name} is missing. Copy or download it.")


def check_tokenizer(model: str, config: Any, processing_class: Any, what: str, **loading: Any) -> None:
    """
    Refuse a directory of a whole model without a tokenizer, and a tokenizer of other weights. That of a model on the
    Hub is not downloaded for it.

    Args:
        model (`str`):
            A directory, or an id on the Hub.
        config (`PreTrainedConfig`, *optional*):
            What is known of the model.
        processing_class (*optional*):
            Tokenizer or processor; by default the model's.
        what (`str`):
            How the message names the model.
    """
    directory = Path(model)
    is_whole = os.path.isfile(directory / "config.json")
    if processing_class is None and is_whole:
        if not any(file.is_file() for pattern in TOKENIZERS for file in directory.glob(pattern)):
            raise UsageError(
                f"{what} has no tokenizer. Save one there: AutoTokenizer.from_pretrained(its base "
                "model).save_pretrained."
            )
        with suppress(OSError, ValueError, ImportError):  # of these the loading tells
            processing_class = _processor(model, loading)
    if config is not None and processing_class is not None:
        check_vocabulary(config, processing_class, what)


def check_chat_template(
    model: str, processing_class: Any = None, option: str = "model_name_or_path", **loading: Any
) -> None:
    """Conversations need the chat template of a tokenizer or processor, by default the model's."""
    if processing_class is None:
        try:
            processing_class = _processor(model, loading)
        except (OSError, ValueError) as error:
            is_remote = loading.get("local_files_only") and not os.path.isdir(model)
            if is_remote or os.path.isfile(os.path.join(model, "adapter_config.json")):  # the tokenizer is elsewhere
                return
            raise UsageError(f"{option}={model!r} has no tokenizer that can be loaded: {error}") from error
    if not getattr(processing_class, "chat_template", None):
        raise UsageError(
            f"The prompts are conversations, and the tokenizer of {model!r} has no chat template. Set chat=False "
            "(--chat false), so that prompts are plain text, or give the tokenizer a chat_template."
        )


def _processor(model: str, loading: Mapping[str, Any]) -> Any:
    kept = ("revision", "trust_remote_code", "token", "cache_dir", "local_files_only")
    return AutoProcessor.from_pretrained(model, **{key: loading[key] for key in kept if key in loading})
