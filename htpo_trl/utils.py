"""What several rooms need and none owns: the error a user can mend, tables, writing in one step, names, versions."""

import difflib
import json
import os
from collections.abc import Iterable
from dataclasses import field
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any


#: What a bug report should tell the versions of.
PACKAGES = (
    *("htpo_trl", "trl", "transformers", "accelerate", "datasets", "peft", "torch", "deepspeed", "vllm"),
    *("bitsandbytes", "math-verify", "pebble", "reasoning-gym", "matplotlib", "wandb", "trackio", "tensorboard"),
    *("huggingface_hub", "safetensors", "numpy"),
)


class UsageError(ValueError):
    """What the user can mend: one line that names the option, its value and the mend. Any other error is a bug."""


@cache
def versions() -> dict[str, str]:
    """Package → version, of those that are installed."""
    found = {package: next(iter(distributions(name=package)), None) for package in PACKAGES}
    return {package: distribution.version for package, distribution in found.items() if distribution}


def nearest(name: str, known: Iterable[str]) -> str:
    """`Did you mean ...? `, if there is a name close to this one; else nothing."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}? " if near else ""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file in one step: a kill, or a full disk, leaves the old file or the new one. Text is UTF-8."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)


def write_json(path: Path, content: Any) -> None:
    """[`write_atomically`] of JSON."""
    write_atomically(path, json.dumps(content, indent=1) + "\n")


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns are aligned: text, the first two, to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width if i < 2 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    line = " | ".join(f"{{:{'<' if i < 2 else '>'}{width}}}" for i, width in enumerate(widths))
    return "\n".join(f"| {line.format(*row)} |" for row in [header, rule, *rows])


def option(default: Any, text: str, **metadata: Any) -> Any:
    """A field of a dataclass, with its help."""
    made: Any = {"default_factory": default.copy} if isinstance(default, list) else {"default": default}
    return field(**made, metadata={"help": text, **metadata})
