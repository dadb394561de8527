"""Tiny models whose files have another layout than their memory: mixtures of experts, and models that see."""

from collections.abc import Callable

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)


# As many tokens as the tests' tokenizer has. Those of images are digits: no test shows one.
TEXT = {
    **{"vocab_size": 13, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.3},
    **{"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None},
}
EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 3, "output_router_logits": False}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def _qwen3_moe() -> PreTrainedModel:
    config = TEXT | {"head_dim": 8, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**config, decoder_sparse_step=1, norm_topk_prob=True))


def _mixtral() -> PreTrainedModel:
    return MixtralForCausalLM(MixtralConfig(**TEXT, **EXPERTS))


def _llava() -> PreTrainedModel:
    vision = CLIPVisionConfig(**VISION, image_size=8, patch_size=4, projection_dim=16)
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=LlamaConfig(**TEXT), image_token_id=12, vision_feature_layer=-1)
    )


def _qwen2_5_vl() -> PreTrainedModel:
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = Qwen2_5_VLConfig(
        text_config=TEXT | {"rope_parameters": rope},
        vision_config=vision | {"patch_size": 4, "window_size": 8, "fullatt_block_indexes": [0]},
        image_token_id=12,
        video_token_id=11,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


ARCHITECTURES: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen3_moe": _qwen3_moe,
    "mixtral": _mixtral,
    "llava": _llava,
    "qwen2_5_vl": _qwen2_5_vl,
}


def build(name: str, seed: int = 0) -> PreTrainedModel:
    """The model of this name, the same at every call."""
    torch.manual_seed(seed)
    return ARCHITECTURES[name]()
