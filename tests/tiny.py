"""The tiny model of the tests, its reward, and the arguments that a run of it needs."""

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM


torch.set_num_threads(1)

# What every CPU run of a tiny model needs; TRL's defaults are a GPU's.
CPU_ARGUMENTS = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 1,
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 12,
    "max_steps": 4,
    "learning_rate": 1e-2,
    "disable_tqdm": True,
}


def tiny_model(seed: int = 0) -> Qwen3ForCausalLM:
    """A Qwen3 of 30 thousand parameters, the same at every call."""
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=13,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            tie_word_embeddings=True,
            initializer_range=0.3,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
    )


def even_digits(completions, **kwargs):
    """1.0 where most digits of the completion are even: about half of a random model's completions."""
    return [float(sum(c in "02468" for c in text) * 2 > len(text)) for text in completions]


def same_parameters(trainer, other) -> bool:
    return all(map(torch.equal, trainer.model.parameters(), other.model.parameters()))
