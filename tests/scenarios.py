"""
Where TRL's users train beyond plain text: the parts of tiny runs with tools, environments, a `rollout_func`, pictures,
experts, a reward model, LoRA, a reference model and a stream.

A scenario is a function of a directory that returns keywords of a trainer, and under `options` those of its config.
"""

import functools
import string
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from htpo_trl.demo.warm_start import build_tokenizer

from .tiny import even_digits


#: A whole call of a tool is one token, so that a model of random weights makes some.
CALL = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>'
TOOL_TEMPLATE = (
    "{% for m in messages %}"
    "{% for c in m.tool_calls or [] %}{{ '<tool_call>' + (c.function | tojson) + '</tool_call>' }}{% endfor %}"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}{% endif %}>"
    "{% endfor %}{{ mark or '' }}{{ 'A:' if add_generation_prompt }}"
)
RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "A:",
    "fields": {
        "tool_calls": {
            "open": "<tool_call>",
            "close_pattern": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": "<eos>", "content": "text"},
    },
}


def chat_tokenizer():
    """One that chats in digits, and calls a tool by a single token."""
    tokenizer = build_tokenizer(string.digits + ">")
    tokenizer.add_tokens([CALL, "A:", "<image>"])
    tokenizer.chat_template = TOOL_TEMPLATE
    return tokenizer


def model_config(tokenizer, **changes) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "tie_word_embeddings": True,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
        **changes,
    }


def build(cls, config):
    torch.manual_seed(0)
    return cls(config)


def text_of(completion) -> str:
    """All that the model wrote, of a text or of messages."""
    if isinstance(completion, str):
        return completion
    contents = [message.get("content") for message in completion if message["role"] == "assistant"]
    return "".join(c if isinstance(c, str) else "".join(part["text"] for part in c) for c in contents if c)


def evens(completions, **kwargs):
    """1.0 where most digits are even, of a text or of messages."""
    return even_digits(["".join(filter(str.isdigit, text_of(completion))) for completion in completions])


def numbered(n=64, chat=True, **columns):
    prompts = [f"{i:02d}" for i in range(n)]
    prompts = [[{"role": "user", "content": prompt}] for prompt in prompts] if chat else prompts
    return {"prompt": prompts, "number": list(range(n)), **columns}


def half(function):
    """The reward function, and 0 for odd numbers: about half of the groups are all wrong."""

    @functools.wraps(function)
    def halved(number, **kwargs):
        return [r * (n % 2 == 0) for r, n in zip(function(number=number, **kwargs), number, strict=True)]

    return halved


def text(directory: Path) -> dict[str, Any]:
    tokenizer = build_tokenizer(string.digits)
    return {
        "model": build(Qwen3ForCausalLM, Qwen3Config(**model_config(tokenizer))),
        "reward_funcs": evens,
        "train_dataset": Dataset.from_dict(numbered(chat=False)),
        "processing_class": tokenizer,
    }


def chat(directory: Path) -> dict[str, Any]:
    tokenizer = chat_tokenizer()
    model = build(Qwen3ForCausalLM, Qwen3Config(**model_config(tokenizer)))
    dataset = Dataset.from_dict(numbered())
    return {"model": model, "reward_funcs": evens, "train_dataset": dataset, "processing_class": tokenizer}


def add(a: int, b: int) -> int:
    """
    Add two numbers.

    Args:
        a: the first
        b: the second
    """
    return a + b


def tools(directory: Path) -> dict[str, Any]:
    parts = chat(directory)
    tokenizer = parts["processing_class"]
    tokenizer.response_template = RESPONSE_TEMPLATE
    # A call ends the turn.
    parts["model"].generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(CALL)]
    return parts | {"tools": [add], "options": {"max_completion_length": 24}}


class Adding:
    """An environment: it asks for a number, and rewards completions of a call and an even number of digits."""

    def reset(self, prompt=None, number=None, **kwargs):
        self.number, self.calls = number, 0
        return f"{number % 10}" * 2

    def add(self, a: int, b: int) -> int:
        """
        Add two numbers.

        Args:
            a: the first
            b: the second
        """
        self.calls += 1
        return a + b + self.number % 10


def called(completions, environments, number, **kwargs):
    """Reads the environment's state, and the columns beside."""
    assert [environment.number for environment in environments] == number
    return [float(environment.calls > 0) for environment in environments]


def environment(directory: Path) -> dict[str, Any]:
    parts = tools(directory)
    del parts["tools"]
    return parts | {"environment_factory": Adding, "reward_funcs": [called, evens]}


def rollout(prompts, trainer):
    """In an engine's place: random digits, of which the first of each was the environment's; a field of each row."""
    generator = torch.Generator().manual_seed(trainer.state.global_step + len(prompts))
    lengths = torch.randint(2, 13, (len(prompts),), generator=generator).tolist()
    completions = [torch.randint(3, 13, (n,), generator=generator).tolist() for n in lengths]
    return {
        "prompt_ids": trainer.processing_class(text=prompts)["input_ids"],
        "completion_ids": completions,
        "logprobs": [[-2.5] * n for n in lengths],
        "env_mask": [[0] + [1] * (n - 1) for n in lengths],
        "last": [ids[-1] for ids in completions],
        "handle": [lambda: None for _ in prompts],  # cannot go to another process
        "engine": "random",
    }


def last_is_even(completions, last, engine, **kwargs):
    """Reads the fields that `rollout` added: digit d is token d + 3."""
    assert [int(text[-1]) for text in completions] == [token - 3 for token in last]
    assert set(engine) == {"random"}
    return [float(token % 2) for token in last]


def rollout_func(directory: Path) -> dict[str, Any]:
    return text(directory) | {"rollout_func": rollout, "reward_funcs": last_is_even}


def picture(i: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (4 * i, 255 - 4 * i, 100))


def processor():
    return LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}),
        chat_tokenizer(),
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TOOL_TEMPLATE,
    )


def pictures(directory: Path) -> dict[str, Any]:
    """The same words to every picture."""
    processing_class = processor()
    tokenizer = processing_class.tokenizer
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=8,
            patch_size=4,
        ),
        text_config=Qwen3Config(**model_config(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
        initializer_range=0.3,
    )
    columns = numbered() | {"image": [picture(i) for i in range(64)]}
    columns["prompt"] = [[{"role": "user", "content": "7"}]] * 64
    return {
        "model": build(LlavaForConditionalGeneration, config),
        "reward_funcs": evens,
        "train_dataset": Dataset.from_dict(columns),
        "processing_class": processing_class,
    }


def pictures_in_messages(directory: Path) -> dict[str, Any]:
    parts = pictures(directory)
    data = [
        {
            "prompt": [
                {
                    "role": "user",
                    "content": [{"type": "image", "image": picture(i)}, {"type": "text", "text": f"{i % 8}"}],
                }
            ],
            "number": i,
        }
        for i in range(64)
    ]
    return parts | {"train_dataset": IterableDataset.from_generator(lambda: iter(data))}


def experts(directory: Path) -> dict[str, Any]:
    parts = text(directory)
    config = model_config(parts["processing_class"], num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8)
    return parts | {"model": build(Qwen3MoeForCausalLM, Qwen3MoeConfig(**config))}


def reward_model(directory: Path) -> dict[str, Any]:
    parts = text(directory)
    config = Qwen3Config(**model_config(parts["processing_class"]), num_labels=1)
    judge = build(Qwen3ForSequenceClassification, config).eval()
    judge.config._name_or_path = "judge"
    return parts | {
        "reward_funcs": [judge, evens],
        "reward_processing_classes": [parts["processing_class"], None],
        "options": {"correctness_threshold": 0.0},
    }


def lora(directory: Path) -> dict[str, Any]:
    return text(directory) | {"peft_config": LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")}


def reference(directory: Path) -> dict[str, Any]:
    """The reference policy, which TRL loads by the model's name, is not the policy."""
    parts = text(directory)
    parts["model"].save_pretrained(directory / "reference")
    with torch.no_grad():
        for parameter in parts["model"].parameters():
            parameter.mul_(1.1)
    parts["model"].config._name_or_path = str(directory / "reference")
    return parts | {"options": {"beta": 0.1}}


def stream(directory: Path) -> dict[str, Any]:
    rows = Dataset.from_dict(numbered(chat=False)).to_list()
    return text(directory) | {"train_dataset": IterableDataset.from_generator(lambda: iter(rows))}


SCENARIOS = (
    *(tools, environment, rollout_func, pictures, pictures_in_messages),
    *(experts, reward_model, lora, reference, stream),
)
