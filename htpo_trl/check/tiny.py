"""A tiny model, its tokenizer, its task and the options of a run of it: made on the spot, for GPU and CPU."""

import string
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from ..data.countdown import SYMBOLS
from .parts import Machine


#: Characters of the tiny task.
DIGITS = string.digits


def build_tokenizer(characters: str = SYMBOLS) -> PreTrainedTokenizerFast:
    """One token per character, countdown's by default, plus padding, end and unknown."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "<unk>", *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )


def build_model(seed: int = 0, **config: Any) -> Qwen3ForCausalLM:
    """A Qwen3 of 60 thousand parameters for a tokenizer of `DIGITS`; heads are as small as vLLM's kernels take."""
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128}
    ends = {"vocab_size": 13, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(**shape | heads | ends | {"tie_word_embeddings": True, "initializer_range": 0.3} | config)
    )


def prompts(n: int = 64) -> Dataset:
    """Numbers of two digits."""
    return Dataset.from_dict({"prompt": [f"{i % 100:02d}" for i in range(n)]})


def even_digits(completions: list[str], **kwargs: Any) -> list[float]:
    """1 where most characters of a completion are even digits: of a random model's about a third."""
    return [float(sum(c in "02468" for c in text) * 2 > len(text)) for text in completions]


def options(machine: Machine, **others: Any) -> dict[str, Any]:
    """Those of `GRPOConfig` and `HTPOConfig` for a run of it, in float32 unless `bf16` is set."""
    return {
        "output_dir": str(machine.directory / "run"),
        "use_cpu": machine.device == "cpu",
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "steps_per_generation": 4,
        "max_completion_length": 12,
        "max_steps": 8,
        "learning_rate": 1e-2,
        **others,
    }
