# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: language_info
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   language_info:
#     name: python
#     pygments_lexer: ipython3
# ---

# %% [markdown]
# # Qwen3-0.6B learns grade-school math: HTPO with LoRA on one T4
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/htpo-trl/htpo_trl/blob/main/notebooks/02_lora_colab.ipynb)
#
# A LoRA adapter on Qwen3-0.6B, GSM8K problems, rewards by a verifier, generation by vLLM in the process of the training
# (*colocate*). The baseline is one option away.
#
# | | on a T4 (Colab) | without a GPU |
# | --- | --- | --- |
# | model | Qwen3-0.6B, from the Hub | a Qwen3 of 0.1 million parameters, made here |
# | data | GSM8K, from the Hub | one-digit sums, made here |
# | memory | made for 16 GB | 2 GB |
# | runtime | not measured: no GPU was at hand when this was written | 1 minute; it shows the steps, the model learns nothing |
#
# Runtime → Change runtime type → T4 GPU.

# %%
import importlib.util
import subprocess
import sys


if importlib.util.find_spec("htpo_trl") is None:
    package = "htpo_trl[vllm,report,procedural] @ git+https://github.com/htpo-trl/htpo_trl"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %%
import os

import torch


REDUCED = os.environ.get("HTPO_REDUCED") == "1" or not torch.cuda.is_available()  # the small setting
PUSH_TO_HUB = False  # True, after `huggingface_hub.login()`: publishes adapter and model card
OBJECTIVE = "htpo"  # "dapo" is the baseline
OUTPUT = f"runs/lora-{OBJECTIVE}"
print("small setting, CPU" if REDUCED else torch.cuda.get_device_name())

# %% [markdown]
# ## Model and data
#
# `load` gives every set the same columns: `prompt`, `solution` (the bare answer) and `problem`. The template asks for a
# boxed answer, which is what `math_reward` looks for first.

# %%
from htpo_trl.data import check_disjoint, load, split


if REDUCED:
    import string

    from transformers import Qwen3Config, Qwen3ForCausalLM, set_seed

    from htpo_trl.demo.warm_start import build_tokenizer

    set_seed(0)
    MODEL = "runs/tiny-qwen3"
    tokenizer = build_tokenizer(string.printable)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    Qwen3ForCausalLM(config).save_pretrained(MODEL)
    tokenizer.save_pretrained(MODEL)
    options = {"size": 64, "min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    data = load("chain_sum", dataset_options=options)
    train, test = split(data, {"train": 0.9, "test": 0.1}).values()
else:
    MODEL = "Qwen/Qwen3-0.6B"
    train = load("gsm8k-train", template="boxed")
    test = load("gsm8k", template="boxed").select(range(100))
    check_disjoint({"train": train, "test": test})
print(len(train), "problems to train on,", len(test), "held out, such as")
print(test[0])

# %% [markdown]
# ## The plan
#
# The package has this run as a recipe, `qwen3-0.6b-lora`. The command line plans it without starting it: batches, what is
# off-policy (so which rules can act at all), memory.

# %%
# !htpo train --config qwen3-0.6b-lora --dry_run

# %% [markdown]
# ## Train
#
# One generation batch of 16 prompts × 8 responses serves four optimizer steps; beyond the first of them the policy has moved,
# and importance ratios leave 1: only then can a gradient be *kept* beyond the clip range. A T4 has no bfloat16, hence `fp16`.
# `TokenRecorder` stores a few completions with what the objective did to each token; 04_reading_a_run shows how to read them.

# %%
from peft import LoraConfig

from htpo_trl import HTPOConfig, HTPOTrainer
from htpo_trl.evaluation.callback import EvaluationCallback
from htpo_trl.evaluation.generation import Sampling
from htpo_trl.rewards import last_number_reward, math_reward
from htpo_trl.tokens import TokenRecorder


common = {
    "output_dir": OUTPUT,
    "objective": OBJECTIVE,
    "num_generations": 8,
    "learning_rate": 2e-5,
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 5,
    "logging_steps": 1,
    "report_to": "none",
    "eval_steps": 4 if REDUCED else 200,  # of the callback below
}
if REDUCED:
    arguments = HTPOConfig(
        **common,
        per_device_train_batch_size=16,  # x 4 steps per generation = 64 responses = 8 prompts
        max_completion_length=16,
        max_steps=4,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
else:
    arguments = HTPOConfig(
        **common,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=8,
        steps_per_generation=32,  # x 4 = 128 responses = 16 prompts; 4 optimizer steps of 32
        max_completion_length=512,
        chat_template_kwargs={"enable_thinking": False},
        max_steps=200,
        save_steps=25,  # a checkpoint resumes exactly: trainer.train(resume_from_checkpoint=True)
        save_total_limit=2,
        fp16=True,
        bf16=False,
        model_init_kwargs={"dtype": "float16"},
        use_vllm=True,
        vllm_mode="colocate",
        vllm_gpu_memory_utilization=0.3,
        vllm_max_model_length=1024,
    )
trainer = HTPOTrainer(
    model=MODEL,
    reward_funcs=last_number_reward if REDUCED else math_reward,  # judges which responses are correct
    args=arguments,
    train_dataset=train,
    peft_config=LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"),
)
trainer.add_callback(TokenRecorder(trainer, steps=4 if REDUCED else 50))
sampling = Sampling(num_samples=4 if REDUCED else 8, max_new_tokens=arguments.max_completion_length)
trainer.add_callback(EvaluationCallback(trainer, {"test": test}, sampling))
trainer.train()
trainer.save_model()  # the adapter, as safetensors
trainer.save_state()  # the log, for `htpo report`
trainer.create_model_card()

# %% [markdown]
# ## What it learned, and where
#
# `reward` is the share of boxed, correct answers in the training batches. `htpo/share/<group>` says how many tokens each of the
# eight groups has, `htpo/special/<rule>` how many a rule changed. For both as pictures, see 04_reading_a_run.

# %%
import pandas as pd


log = pd.DataFrame(trainer.state.log_history).set_index("step")
batches = (
    log.index - 1
) // 4  # a generation batch serves four optimizer steps; what is kept is kept in the last three
columns = ["reward", "entropy", "htpo/frac_hard", "htpo/special/keep_above", "completions/clipped_ratio"]
log[columns].groupby(batches).mean().tail()

# %% [markdown]
# ## Before and after, on problems it has not seen
#
# The callback evaluated before the first step and after the last. `compare` pairs the two problem by problem; intervals are over
# problems.

# %%
from htpo_trl.evaluation import compare, comparison_table


steps = [f"{OUTPUT}/evaluation/step-{step}" for step in (0, arguments.max_steps)]
print(comparison_table(compare(*steps)))

# %% [markdown]
# ## Publish

# %%
if PUSH_TO_HUB:
    trainer.push_to_hub()  # adapter, tokenizer and model card
