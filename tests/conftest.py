import os
import string


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from datasets import Dataset
from hypothesis import settings
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from htpo_trl import HTPOConfig, HTPOTrainer
from htpo_trl.demo.warm_start import build_tokenizer

from .hub_files import publisher


torch.set_num_threads(1)
settings.register_profile("htpo", deadline=None, derandomize=True)
settings.load_profile("htpo")


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


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer(string.digits)


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizer):
    """A working directory for the command line: a model, data, a reward function and a recipe."""
    from .place import make_place

    with make_place(tmp_path_factory.mktemp("place"), tokenizer) as path:
        yield path


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


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Publishes data sets where `load_dataset` looks before it asks the Hub, see `publisher`."""
    return publisher(tmp_path, monkeypatch)


@pytest.fixture
def make_model():
    return tiny_model


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def tiny_chat_model(tmp_path):
    """A Llama that chats in single characters."""
    tokenizer = build_tokenizer(string.printable)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}>{% endfor %}"
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
        )
    )
    directory = tmp_path / "tiny"
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def dataset():
    return Dataset.from_dict({"prompt": [f"{i:02d}" for i in range(64)]})


@pytest.fixture
def cpu_arguments(tmp_path):
    return {"output_dir": str(tmp_path / "run"), **CPU_ARGUMENTS}


@pytest.fixture
def make_config(cpu_arguments):
    return lambda **kwargs: HTPOConfig(**{**cpu_arguments, **kwargs})


@pytest.fixture
def reward():
    return even_digits


@pytest.fixture
def make_trainer(make_model, tokenizer, dataset, make_config, reward):
    def make(cls=HTPOTrainer, reward_funcs=None, config=None, model=None, train_dataset=dataset, **kwargs):
        keywords = {name: kwargs.pop(name) for name in ("eval_dataset", "peft_config", "callbacks") if name in kwargs}
        return cls(
            model if model is not None else make_model(),
            reward_funcs or reward,
            config or make_config(**kwargs),
            train_dataset,
            processing_class=tokenizer,
            **keywords,
        )

    return make


@pytest.fixture
def batch():
    """Inputs of a loss: 6 responses of up to 30 tokens, sampled by a policy that has moved away since."""
    generator = torch.Generator().manual_seed(0)
    n_rows, n_prompt, n_completion = 6, 3, 30
    lengths = torch.tensor([30, 17, 5, 1, 0, 23])
    completion_mask = (torch.arange(n_completion) < lengths.unsqueeze(1)).long()
    correct = torch.tensor([True, True, False, True, False, False])
    return {
        "prompt_ids": torch.randint(3, 13, (n_rows, n_prompt), generator=generator),
        "prompt_mask": torch.ones(n_rows, n_prompt, dtype=torch.long),
        "completion_ids": torch.randint(3, 13, (n_rows, n_completion), generator=generator),
        "completion_mask": completion_mask,
        "advantages": torch.where(correct, 1.0, -1.0) * torch.rand(n_rows, generator=generator),
        "old_per_token_logps": -2.5 + 0.6 * torch.randn(n_rows, n_completion, generator=generator),
        "num_items_in_batch": lengths.sum(),
        "is_hard": torch.tensor([True, False, True, True, False, False]),
        "is_correct": correct,
        "is_judged": torch.ones(n_rows, dtype=torch.bool),
    }


def even_digits(completions, **kwargs):
    """1.0 where most digits of the completion are even: about half of a random model's completions."""
    return [float(sum(c in "02468" for c in text) * 2 > len(text)) for text in completions]
