"""The tiny model of the tests, its reward, and the arguments that a run of it needs."""

import torch
from transformers import Qwen3ForCausalLM

from htpo_trl.check.tiny import RUN, build_model, even_digits, same_weights


__all__ = ["CPU_ARGUMENTS", "even_digits", "same_parameters", "tiny_model"]

torch.set_num_threads(1)

# What every CPU run of a tiny model needs; TRL's defaults are a GPU's.
CPU_ARGUMENTS = RUN | {"use_cpu": True, "max_steps": 4}


def tiny_model(seed: int = 0) -> Qwen3ForCausalLM:
    """A Qwen3 of 30 thousand parameters, the same at every call."""
    return build_model(seed, hidden_size=32, head_dim=16, max_position_embeddings=32768)


def same_parameters(trainer, other) -> bool:
    return same_weights(trainer.model, other.model)
