"""Options of `htpo train` that say nothing without each other, or contradict each other."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from ..utils import UsageError


def check_adapter_options(model: Any, tokens: Sequence[str]) -> None:
    """Refuse options of LoRA without `use_peft`, unless that is switched off in so many words, as of a recipe."""
    if model.use_peft or any(token.replace("-", "_").startswith("__use_peft") for token in tokens):
        return
    plain = type(model)()
    for name in (field.name for field in fields(model)):
        value = getattr(model, name)
        if name.startswith(("lora_", "use_rslora", "use_dora")) and value != getattr(plain, name):
            raise UsageError(
                f"{name}={value!r} has no effect without use_peft: all parameters would be trained. Set "
                f"use_peft=True, or leave {name} out."
            )


def check_quantization(model: Any) -> None:
    """Refuse to train the quantized weights themselves, which transformers does after it has loaded them."""
    bits = "load_in_4bit" if model.load_in_4bit else "load_in_8bit" if model.load_in_8bit else None
    if (
        bits
        and not model.use_peft
        and not os.path.isfile(os.path.join(model.model_name_or_path, "adapter_config.json"))
    ):
        raise UsageError(f"{bits}=True: quantized weights cannot be trained. Set use_peft=True, to train an adapter.")


def check_evaluation(script: Any, args: Any) -> None:
    """Refuse an evaluation without data or steps, and data without an evaluation."""
    names, size = script.eval_benchmarks or [], script.test_split_size
    if "test" in names and size is None:
        raise UsageError("eval_benchmarks: 'test' is what test_split_size holds out: set it, e.g. to 0.05.")
    if script.dataset_streaming and size is not None:
        raise UsageError(f"test_split_size={size} takes the data as a whole: set dataset_streaming=False.")
    if names and args.eval_steps is None:
        raise UsageError("eval_benchmarks need eval_steps, the steps between two evaluations: set it, e.g. to 50.")
    if args.eval_strategy != "no" and size is None and not (script.dataset_test_split or names):
        raise UsageError(
            f"eval_strategy={str(args.eval_strategy.value)!r} needs data: set test_split_size, or "
            "dataset_test_split for a data set of the Hub; or eval_benchmarks, for mean@n and pass@k."
        )
    if size is not None and args.eval_strategy == "no" and "test" not in names:
        told = (
            f"test_split_size={size} holds data out, and nothing is evaluated on it. Add 'test' to eval_benchmarks, "
            "or set eval_strategy to 'steps', or leave test_split_size out."
        )
        if not names:
            raise UsageError(told)
        warnings.warn(told, stacklevel=2)  # the same training data as another run's, evaluated on other problems
    if args.eval_on_start and args.eval_strategy == "no":
        raise UsageError("eval_on_start=True needs eval_strategy='steps' or 'epoch', and data for it.")
    tokens, limit = script.eval_max_new_tokens or args.max_completion_length, args.vllm_max_model_length
    if names and args.use_vllm and args.vllm_mode == "colocate" and limit and tokens >= limit:
        raise UsageError(
            f"eval_max_new_tokens={tokens} and a prompt do not fit into vllm_max_model_length={limit}, whose engine "
            f"the benchmarks are sampled by. Set that to more than {tokens}, or eval_max_new_tokens to fewer."
        )


def check_options_agree(script: Any, args: Any, model: Any) -> None:
    """Raise a [`UsageError`] where the processes of a run have other options; data and code are compared later."""
    from ..training import agreement, settings

    options = {**settings.of_options(args, [], None), **asdict(script), **asdict(model)}
    options |= {"output_dir": str(args.output_dir), "resume_from_checkpoint": args.resume_from_checkpoint}
    options["distributed_type"] = str(args.distributed_state.distributed_type.value)
    agreement.check_same(options)
