"""A working directory for the command line: a model, data, a reward function and a recipe."""

import contextlib
import json
import sys

import pytest
import torch
import yaml
from transformers import Qwen3Config, Qwen3ForCausalLM

from htpo_trl import HTPOTrainer

from .distributed_run import ARGUMENTS


# Completions that depend on the prompt and the place in its group alone, not on process or model.
JUDGE = """
import random

from htpo_trl import HTPOTrainer

generate = HTPOTrainer._generate_single_turn


def forced(self, prompt_ids, *args, **kwargs):
    generate(self, prompt_ids, *args, **kwargs)
    first = self.accelerator.process_index * len(prompt_ids)
    return [completion(self, ids, row % self.num_generations) for row, ids in enumerate(prompt_ids, first)], None


def completion(self, prompt_ids, place):
    generator = random.Random(f"{prompt_ids} {place}")
    digits = generator.choices("0123456789", k=generator.randrange(self.max_completion_length + 1))
    ids = [*self.processing_class.convert_tokens_to_ids(digits), self.processing_class.eos_token_id]
    return ids[: self.max_completion_length]


def even_digits(completions, **kwargs):
    return [float(sum(c in "02468" for c in text) * 2 > len(text)) for text in completions]


def told(completions, **kwargs):
    print("judging", flush=True)
    return even_digits(completions)


HTPOTrainer._generate_single_turn = forced
"""
RECIPE = {
    **{"model_name_or_path": "model", "dtype": "float32", "output_dir": "out"},
    **{"dataset_name": "prompts.jsonl", "reward_funcs": "judge.even_digits"},
    **{"max_completion_length": 12, "learning_rate": 1e-3, "lr_scheduler_type": "constant", "report_to": "none"},
    **{"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True, "logging_steps": 1},
    **{"num_generations": 8, "per_device_train_batch_size": 24, "steps_per_generation": 1, "save_steps": 3},
    **ARGUMENTS,
}


@contextlib.contextmanager
def make_place(path, tokenizer):
    """Fill the directory, and take back in the end what importing `judge` does to this process."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=13,
        # The feed-forward layer has more than the 100,000 elements up to which ZeRO-3 keeps a parameter whole.
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        initializer_range=0.1,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    Qwen3ForCausalLM(config).save_pretrained(path / "model")
    tokenizer.save_pretrained(path / "model")
    (path / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": f"{i:02d}"}) for i in range(70) if i % 11))
    (path / "judge.py").write_text(JUDGE)
    (path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HTPOTrainer, "_generate_single_turn", HTPOTrainer._generate_single_turn)
        patch.setattr(sys, "path", [*sys.path])
        yield path
    sys.modules.pop("judge", None)
