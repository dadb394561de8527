"""What several rooms need and none owns: the error a user can mend, ranges of numbers, tables, versions."""

import difflib
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, fields
from functools import cache
from importlib.metadata import distributions
from inspect import get_annotations
from numbers import Real
from typing import Any

from .output.redaction import redact_text
from .output.terminal import printable


#: What a bug report should tell the versions of.
PACKAGES = (
    *("htpo_trl", "trl", "transformers", "accelerate", "datasets", "peft", "torch", "deepspeed", "vllm"),
    *("bitsandbytes", "math-verify", "reasoning-gym", "matplotlib", "wandb", "trackio", "tensorboard"),
    *("huggingface_hub", "safetensors", "numpy"),
)


class UsageError(ValueError):
    """
    What the user can mend: one line that names the option, its value and the mend, without secrets and without what
    could control a terminal. Any other error is a bug.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*(printable(redact_text(arg)) if isinstance(arg, str) else arg for arg in args))


class MissingFileError(UsageError, FileNotFoundError):
    """A file that an option names is not there."""


class MissingPackageError(UsageError, ImportError):
    """A package that an option needs is not installed; the message has the command that installs it."""


def main_process_decides(decide: Callable[[], Any]) -> Any:
    """
    What the main process finds, for all processes, each of which calls this; a [`UsageError`] of its is raised by all.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    found, refusal = None, None
    if PartialState().is_main_process:
        try:
            found = decide()
        except UsageError as error:
            refusal = error
    found, refusal = broadcast_object_list([found, refusal])
    if refusal is not None:
        raise refusal
    return found


@cache
def versions() -> dict[str, str]:
    """Package → version, of those that are installed."""
    found = {package: next(iter(distributions(name=package)), None) for package in PACKAGES}
    return {package: distribution.version for package, distribution in found.items() if distribution}


def nearest(name: str, known: Iterable[str]) -> str:
    """`Did you mean ...? `, if there is a name close to this one; else nothing."""
    names = {each.lower(): each for each in known}
    begun = [each for each in names if len(name) > 2 and each.startswith(f"{name.lower()}-")]
    near = begun or difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    return f"Did you mean {names[near[0]]!r}? " if near else ""


def content_digest(value: Any) -> str:
    """What stands for a picture, an array or bytes in JSON: their content, so that equal ones are equal there."""
    import numpy as np

    array = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else np.asarray(value)
    if array.dtype == object:  # neither picture nor numbers
        return repr(value)
    return f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns are aligned: text, the first two, to the left, numbers to the right."""
    header, *rows = [[*map(printable, row)] for row in [header, *rows]]
    widths = [max(2, *map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width if i < 2 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    line = " | ".join(f"{{:{'<' if i < 2 else '>'}{width}}}" for i, width in enumerate(widths))
    return "\n".join(f"| {line.format(*row)} |" for row in [header, rule, *rows])


def option(default: Any, text: str, **metadata: Any) -> Any:
    """A field of a dataclass, with its help."""
    made: Any = {"default_factory": default.copy} if isinstance(default, list) else {"default": default}
    return field(**made, metadata={"help": text, **metadata})


def check_numbers(options: Any, ranges: Mapping[str, Iterable[str]]) -> None:
    """
    Raise a [`UsageError`] for a field of a dataclass whose number, or one of a list, is out of its range: `(0, 1]`,
    `[1, inf)`, or `-1 or [1, inf)`, each with the names of its fields. Others need only be finite; infinity is in
    ranges that end with `inf]`. What is an `int` must be whole.
    """
    known = {name: within for within, names in ranges.items() for name in names}
    # Not the fields' own types: transformers' parser takes `None` out of them.
    types = {name: str(kind) for cls in type(options).__mro__[::-1] for name, kind in get_annotations(cls).items()}
    for each in fields(options):
        kinds, value = set(re.findall(r"\w+", types[each.name])), getattr(options, each.name)
        if not kinds & {"int", "float"} or (value is None and kinds & {"None", "Optional"}):
            continue
        for number in value if isinstance(value, list | tuple) else [value]:
            if not (isinstance(number, str) and "str" in kinds):
                reason = _reason(number, known.get(each.name, "(-inf, inf)"), is_whole="float" not in kinds)
                if reason:
                    raise UsageError(f"{each.name}={value!r} must {reason}.")


def check_given(name: str, given: Any, ranges: Mapping[str, Iterable[str]]) -> None:
    """Raise a [`UsageError`] for an option that is no dictionary, or has a number out of its range in `ranges`."""
    if not isinstance(given, dict):
        raise UsageError(f"{name}={given!r:.80} must be a mapping.")
    known = {each: within for within, names in ranges.items() for each in names}
    for each in given.keys() & known.keys():
        reason = "" if given[each] is None else _reason(given[each], known[each], is_whole=False)
        if reason:
            raise UsageError(f"{name}: {each}={given[each]!r:.80} must {reason}.")


def _reason(value: Any, within: str, is_whole: bool) -> str:
    """What a number must be, if it is not; or nothing."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return "be a number"
    try:
        number = float(value)
    except OverflowError:  # an int
        number = -math.inf if value < 0 else math.inf
    other, _, interval = within.rpartition(" or ")
    low, high = map(float, interval[1:-1].split(","))
    is_above = number >= low if interval[0] == "[" else number > low
    is_below = number <= high if interval[-1] == "]" else number < high
    if is_above and is_below:
        return "be a whole number" if is_whole and not number.is_integer() else ""
    if other and number == float(other):
        return ""
    if high < math.inf:
        return f"lie in {interval}"
    least = f"{'at least' if interval[0] == '[' else 'above'} {low:g}"
    parts = ["" if math.isfinite(number) else "finite", least if low > -math.inf else ""]
    return "be " + f"{other} or " * bool(other) + " and ".join(filter(None, parts))


def check_vocabulary(config: Any, processing_class: Any, what: str) -> None:
    """
    Refuse a tokenizer of other weights: one with tokens beyond the model's embeddings. Of its special tokens those
    count that are met with, which are the ends of texts, padding, and what its chat template names.

    Args:
        config (`PreTrainedConfig`):
            The model's.
        processing_class:
            Tokenizer or processor.
        what (`str`):
            How the message names the model.
    """
    size = getattr(config.get_text_config(), "vocab_size", None)
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    if size is None or not hasattr(tokenizer, "added_tokens_decoder"):
        return
    template = str(getattr(processing_class, "chat_template", None))
    ids = {tokenizer.vocab_size - 1, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}
    ids |= {i for i, token in tokenizer.added_tokens_decoder.items() if not token.special or token.content in template}
    if (last := max(ids)) >= size:
        raise UsageError(
            f"{what} has embeddings of {size} tokens, and its tokenizer has others: "
            f"{tokenizer.convert_ids_to_tokens(last)!r} is number {last}. Take the tokenizer of the weights; for new "
            "tokens call model.resize_token_embeddings(len(tokenizer)) and save both."
        )


def check_prompt(prompt: Any, place: str) -> None:
    """Refuse what is neither text nor a conversation."""
    if not (isinstance(prompt, str) or _is_conversation(prompt)):
        raise UsageError(
            f"{place}: prompt={prompt!r:.80} must be a text, or a list of messages, each with role and content. "
            "Correct or remove it."
        )


def _is_conversation(prompt: Any) -> bool:
    said = {"content", "tool_calls"}
    return (
        isinstance(prompt, list)
        and bool(prompt)
        and all(isinstance(message, dict) and message.get("role") and said & {*message} for message in prompt)
    )
