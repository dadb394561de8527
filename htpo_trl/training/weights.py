"""
The weights of a checkpoint: how they are read, and the proof that they have been.

`Trainer` copies the tensors of a checkpoint whose names it finds in the model, and leaves the others. Mixtures of
experts and vision-language models are saved in the layout of the Hub, which is not that of memory, so that they would
go on from their initial weights. Here they are read as `from_pretrained` reads them. Whatever loads a model, each
process then compares what it holds with what it held when the checkpoint was saved.
"""

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.dataclasses import type_validator
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..output.reading import MAX_LOG_BYTES, read_json
from ..output.writing import write_json
from ..utils import UsageError
from .checkpoint import MEND, CheckpointError


#: Elements of a tensor that are added up at once, which bounds the memory that it takes.
CHUNK = 2**24
_REFERENCE = "htpo_reference_model.safetensors"
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def load(model: PreTrainedModel, directory: str | Path) -> None:
    """
    Fill a model from the files in a directory, bit for bit. It may lie on any device, and in several types.

    Raises:
        CheckpointError: naming the weights that one of the two has and the other has not, or has in another shape.
    """
    own = model.state_dict()
    types = {weight.dtype for weight in own.values() if weight.is_floating_point()}
    read: Any = type(model).from_pretrained
    loaded, report = read(
        directory,
        config=model.config,  # copied there
        dtype=functools.reduce(torch.promote_types, types),  # holds all of them
        local_files_only=True,
        ignore_mismatched_sizes=True,  # they are named below
        output_loading_info=True,
    )
    weights = loaded.state_dict()
    foreign = set(report["unexpected_keys"])
    if direct := foreign & own.keys():  # weights that the user has added to the architecture
        weights |= {
            name: each for file in _files(directory) for name, each in load_file(file).items() if name in direct
        }
    for names, where in (
        (set(report["missing_keys"]) & own.keys(), "not in the checkpoint"),
        (foreign - own.keys(), "not in the model"),
        ({each[0] for each in report["mismatched_keys"]}, "of another shape in the checkpoint"),
    ):
        if names:
            raise CheckpointError(f"The weights in {directory} are not this model's: {min(names)} is {where}. {MEND}")
    model.load_state_dict({name: weight for name, weight in weights.items() if name in own}, strict=False)


def _files(directory: str | Path) -> list[Path]:
    return sorted(file for file in Path(directory).glob("*.safetensors") if not file.name.startswith("htpo_"))


def _names(directory: str | Path) -> list[str]:
    """Of the weights in the files of a checkpoint."""
    names: set[str] = set()
    for file in _files(directory):
        with safe_open(file, framework="pt") as stored:
            names |= set(stored.keys())
    return sorted(names)


def digests(model: nn.Module) -> dict[str, str]:
    """Name -> type, shape and digest of each weight, as far as this process holds it; of tied ones once."""
    return {name: _digest(_held(weight)) for name, weight in _weights(model)}


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a state dict has, but quantized parameters, whose form is up to the device."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            yield name, parameter
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(prefix, recurse=False):
            if name.rpartition(".")[2] not in module._non_persistent_buffers_set:
                yield name, buffer


def _held(weight: Any) -> Tensor:
    if hasattr(weight, "ds_tensor"):  # of ZeRO-3: this process's part, without the padding of the last one
        part = weight.ds_tensor.detach().flatten()
        before = weight.ds_zero_partition_rank * len(part)
        return part[: max(weight.ds_numel - before, 0)]
    return (weight.to_local() if hasattr(weight, "to_local") else weight).detach()


def _digest(weight: Tensor) -> str:
    """A sum of the bits, each multiplied by an odd number of its own: one weight that differs always shows."""
    bits = weight.contiguous().flatten().view(_INTEGERS[weight.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for start in range(0, len(bits), CHUNK):
        part = bits[start : start + CHUNK]
        factors = torch.arange(start, start + len(part), device=bits.device).mul_(2).add_(1)
        total += factors.mul_(part).sum()  # modulo 2^64
    return f"{str(weight.dtype).removeprefix('torch.')} {[*weight.shape]} {int(total) & (2**64 - 1):016x}"


def _file(directory: str | Path, rank: int) -> Path:
    return Path(directory, f"htpo_weights_{rank}.json")


def write_digests(directory: str | Path, rank: int, models: dict[str, nn.Module]) -> None:
    """Write what this process holds, model by model, into a checkpoint, and the first what the files hold."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {name: digests(model) for name, model in models.items()}
    write_json(_file(directory, rank), content | ({"files": _names(directory)} if rank == 0 else {}))


def _read(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file, MAX_LOG_BYTES)
        for name, each in content.items():
            type_validator(name, each, list[str] if name == "files" else dict[str, str])
        return content
    except (TypeError, UsageError) as error:
        raise CheckpointError(f"{file} is missing or damaged ({error}). {MEND}") from error


def check_names(directory: str | Path) -> None:
    """
    Compare the names of the weights in a checkpoint's files with those that were written there.

    Raises:
        CheckpointError: naming one.
    """
    written, found = {*_read(_file(directory, 0)).get("files", ())}, set(_names(directory))
    if names := written ^ found:
        where = "missing in" if min(names) in written else "in none that was saved, but in"
        raise CheckpointError(f"The weight {min(names)} is {where} the files of {directory}. {MEND}")


def prove(directory: str | Path, rank: int, models: dict[str, nn.Module]) -> None:
    """
    Compare what this process holds with what it held when the checkpoint was written.

    Raises:
        CheckpointError: naming a weight that differs, or that one of the two has not.
    """
    written = _read(_file(directory, rank))
    for what, model in models.items():
        if what not in written and what != "model":  # a reference model that has come in since
            continue
        saved, held = written.get(what, {}), digests(model)
        wrong = sorted(name for name in saved.keys() | held.keys() if saved.get(name) != held.get(name))
        if not wrong:
            continue
        name = wrong[0]
        if name in saved and name in held:
            told = f"{name} was {saved[name]} and is {held[name]}"
        else:
            told = f"{name} is in {'the checkpoint' if name in saved else 'this run'} alone"
        if what != "model":
            mend = "Pass the model that the run began with: the reference model is another one."
        elif hasattr(model, "peft_config") and name in held and not _is_trained(model, name):
            mend = "Pass the base model that the adapter was trained on: this is another one."
        else:
            mend = MEND
        raise CheckpointError(
            f"{directory} is not what it was when it was saved, in {len(wrong)} of the {len(saved)} weights of the "
            f"{what}: {told}. {mend}"
        )


def _is_trained(model: Any, name: str) -> bool:
    """Whether a weight belongs to an adapter, which a checkpoint holds, rather than to its base model."""
    trained = (each for each, parameter in model.named_parameters() if parameter.requires_grad)
    return bool({*name.split(".")} & {*model.peft_config}) or name in trained


def save_reference(directory: str | Path, model: nn.Module, write: bool) -> None:
    """Write a reference model that moves; called on all processes, of which some write."""
    tensors = {}
    for name, parameter in model.named_parameters():
        with _whole(parameter):
            if write:
                tensors[name] = parameter.detach().to("cpu", copy=True).contiguous()
    if write:
        save_file(tensors, Path(directory, _REFERENCE))


def load_reference(directory: str | Path, model: nn.Module) -> None:
    """What [`save_reference`] wrote, bit for bit; called on all processes."""
    tensors = load_file(Path(directory, _REFERENCE))
    for name, parameter in model.named_parameters():
        with _whole(parameter), torch.no_grad():
            if parameter.numel():
                parameter.copy_(tensors[name])


def _whole(parameter: Any) -> AbstractContextManager:
    """Within, a parameter of ZeRO-3 is whole; what the first process makes of it counts."""
    if not hasattr(parameter, "ds_tensor"):
        return nullcontext()
    import deepspeed  # type: ignore[import-untyped]

    return deepspeed.zero.GatheredParameters([parameter], modifier_rank=0)
