"""
Which weights an evaluation is of: a digest that changes with them, whatever their name, their size and their date say.
A copy, a move or another machine does not change it.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..output.reading import read_json


#: Bytes. Of larger files the digest takes a block from every `STRIDE`: training changes weights everywhere.
READ_WHOLE_UP_TO = 256 * 2**20
BLOCK, STRIDE = 4096, 2**20
# What decides which tokens a directory's model gives. Not its log, its card and the state of its optimizer.
_CONFIGURATIONS = {
    *("config.json", "generation_config.json", "adapter_config.json", "tokenizer_config.json", "chat_template.jinja"),
    *("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt"),
}
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth")
_STATES = ("optimizer", "scheduler", "rng_state", "htpo_state", "training_args", "scaler")


def digest_of_files(model: str | Path) -> str | None:
    """
    Of the model, or the LoRA adapter and its base model, in a directory; of an id on the Hub, the commit in the cache.
    `None` where there is neither. Weights of 16 GB take about a second.
    """
    directory = Path(model)
    if not os.path.isdir(directory):
        return _cached_commit(str(model))
    digest = hashlib.sha256()
    for file in sorted(directory.iterdir()):
        is_weights = file.suffix in _WEIGHTS and not file.name.startswith(_STATES)
        if file.is_file() and (is_weights or file.name in _CONFIGURATIONS):
            digest.update(f"{file.name} {file.stat().st_size} ".encode())
            for block in _blocks(file):
                digest.update(block)
    if (adapter := directory / "adapter_config.json").is_file():
        base = read_json(adapter).get("base_model_name_or_path")
        # Were the base an adapter too, perhaps this one, it could not be loaded.
        if not isinstance(base, str) or Path(base, adapter.name).is_file():
            base = None
        digest.update(str(base and digest_of_files(base)).encode())
    return digest.hexdigest()[:16]


def digest_of_parameters(model: torch.nn.Module) -> str:
    """Of all that the state dict of a model in memory holds, to the bit. A gigabyte takes about a second."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        for chunk in tensor.detach().flatten().split(2**24):
            digest.update(chunk.contiguous().view(torch.uint8).cpu().numpy())
    return digest.hexdigest()[:16]


def _blocks(file: Path) -> Iterator[bytes]:
    size = file.stat().st_size
    whole = size <= READ_WHOLE_UP_TO
    with file.open("rb", buffering=0) as stream:
        for offset in range(0, size, STRIDE):
            stream.seek(offset)
            yield stream.read(STRIDE if whole or offset == 0 else BLOCK)  # the first holds the header


def _cached_commit(model: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for name in ("config.json", "adapter_config.json"):
        try:
            found: Any = try_to_load_from_cache(model, name)
        except HFValidationError:
            return None
        if isinstance(found, str):
            return Path(found).parent.name  # snapshots/<commit>/config.json
    return None
