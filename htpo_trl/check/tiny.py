"""A tiny model, its tokenizer, its task and the options of a run of it: made on the spot, for GPU and CPU."""

import string
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, PrinterCallback, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig

from ..config import HTPOConfig
from ..data.countdown import SYMBOLS
from ..trainer import HTPOTrainer
from .parts import Machine


#: Characters of the tiny task.
DIGITS = string.digits
#: Options of a run of it, in float32.
RUN: dict[str, Any] = {
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 12,
    "learning_rate": 1e-2,
}


def build_tokenizer(characters: str = SYMBOLS) -> PreTrainedTokenizerFast:
    """One token per character, countdown's by default, plus padding, end and unknown."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "<unk>", *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )


def build_model(seed: int | None = 0, **config: Any) -> Any:
    """
    A `Qwen3ForCausalLM`, of 60 thousand parameters for `DIGITS` unless `config` says otherwise, whose heads are as
    small as vLLM's kernels take. Torch is seeded first, but for `None`.
    """
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128}
    ends = {"vocab_size": 13, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    others = {"tie_word_embeddings": True, "initializer_range": 0.3}
    if seed is not None:
        torch.manual_seed(seed)
    return Qwen3ForCausalLM(Qwen3Config(**shape | heads | ends | others | config))


def even_digits(completions: list[str], **kwargs: Any) -> list[float]:
    """1 where most characters of a completion are even digits: of a random model's about a third."""
    return [float(sum(c in "02468" for c in text) * 2 > len(text)) for text in completions]


def solvable_even_digits(prompts: list[str], completions: list[str], **kwargs: Any) -> list[float]:
    """[`even_digits`] of an even prompt; an odd one has no answer that is right."""
    return [x * (int(p) % 2 == 0) for p, x in zip(prompts, even_digits(completions), strict=True)]


def make_trainer(cls: Any, machine: Machine, model: Any = None, reward: Any = even_digits, **others: Any) -> Any:
    """
    A trainer of the tiny task.

    Args:
        cls (`type`):
            `GRPOTrainer`, `HTPOTrainer` or a class of either.
        machine ([`~htpo_trl.check.parts.Machine`]):
            What the part was given.
        model (*optional*):
            Model, by default one from [`build_model`].
        reward (`Callable`, *optional*):
            Reward function, by default [`even_digits`].
        **others:
            `callbacks`, `peft_config`, and options of the run beyond [`RUN`].
    """
    keywords = {name: others.pop(name) for name in ("callbacks", "peft_config") if name in others}
    place = {"output_dir": str(machine.directory / "run"), "use_cpu": machine.device == "cpu"}
    config: Any = HTPOConfig
    if not issubclass(cls, HTPOTrainer):  # HTPO's defaults
        config = partial(GRPOConfig, epsilon_high=0.28, delta=10.0, use_bias_correction_kl=False)
    trainer = cls(
        build_model() if model is None else model,
        reward,
        config(**RUN | {"steps_per_generation": 4, "max_steps": 8} | place | others),
        Dataset.from_dict({"prompt": [f"{i:02d}" for i in range(64)]}),
        processing_class=build_tokenizer(DIGITS),
        **keywords,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def same_weights(model: Any, other: Any) -> bool:
    """Whether two models have the same parameters, bit for bit."""
    return all(map(torch.equal, model.parameters(), other.parameters()))


def logged(trainer: Any) -> list[dict[str, Any]]:
    """What a run has logged for each step, without times."""
    rows = [row for row in trainer.state.log_history if "loss" in row]
    return [{name: value for name, value in row.items() if "time" not in name} for row in rows]
