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
# # Your own objective: write a row, see its gradient, run it
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/htpo-trl/htpo_trl/blob/main/notebooks/03_your_own_objective.ipynb)
#
# An objective is a table of eight rows, one rule for each group of tokens. Three rules can be written in a row: `clip` (plain
# PPO-clip), `detach` (no gradient for a share of the tokens) and `keep_gradient` (a gradient beyond the clip range, of a weight that
# you choose). This notebook changes one row, plots what the change does to the gradient, and trains with it.
#
# Needs two CPU cores and 2 GB; 10 minutes, nearly all of them the training (1 minute with `HTPO_REDUCED=1`). No GPU, no downloads.

# %%
import importlib.util
import subprocess
import sys


if importlib.util.find_spec("htpo_trl") is None:
    package = "htpo_trl[report] @ git+https://github.com/htpo-trl/htpo_trl"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %%
import os


REDUCED = os.environ.get("HTPO_REDUCED") == "1"  # a smoke run of every cell
PUSH_TO_HUB = False  # True, after `huggingface_hub.login()`: publishes the model

# %% [markdown]
# ## The table

# %%
from htpo_trl.objective import PRESETS


print(PRESETS["htpo"])

# %% [markdown]
# ## Write a row
#
# Row 2: on a hard prompt, in a correct response, at a token of high entropy, HTPO keeps a gradient of weight 1+ε_hi
# above the clip range. Say we believe that this is too eager, and want the weight to stay 1 there, and to be kept for such tokens
# on easy prompts, too.

# %%
from htpo_trl.objective.rules import KeepGradient


gentle = KeepGradient(above=1.0, below="inverse_ratio", cap=10.0)
mine = PRESETS["htpo"].replace({"hard_correct_high": gentle, "easy_correct_high": gentle})
print(mine)

# %% [markdown]
# What makes no sense is refused, with the mend:

# %%
try:
    KeepGradient(inside="bound")
except ValueError as error:
    print(error)

# %% [markdown]
# ## See its gradient
#
# `control` turns the table into an effective advantage and an effective old log-probability for every token; TRL's unchanged
# PPO-clip loss does the rest. So the gradient of any table can be had by autograd: here for one token of high entropy, at importance
# ratios from 0.5 to 2, in a correct response to a hard prompt.

# %%
import torch

from htpo_trl.objective import control


def weight(table, ratio, advantage, is_hard=True, is_correct=True):
    """The derivative of the token's objective with respect to its log-probability."""
    logps = (
        ratio.log().unsqueeze(1).requires_grad_()
    )  # (B, 1): every response is a single token, hence of high entropy
    n, old = len(ratio), torch.zeros(len(ratio), 1, dtype=ratio.dtype)
    with torch.no_grad():
        result = control(
            per_token_logps=logps,
            old_per_token_logps=old,
            entropies=torch.ones_like(old),
            advantages=torch.full((n,), advantage, dtype=ratio.dtype),
            is_hard=torch.full((n,), is_hard),
            is_correct=torch.full((n,), is_correct),
            mask=torch.ones(n, 1, dtype=torch.bool),
            table=table,
        )
    r = torch.exp(logps - result.old_per_token_logps)
    objective = torch.minimum(r * result.advantages, r.clamp(1 - 0.2, 1 + 0.28) * result.advantages)
    (gradient,) = torch.autograd.grad(objective.sum(), logps)
    return gradient.squeeze(1)


ratio = torch.linspace(0.5, 2.0, 601, dtype=torch.float64)
for name, table in {"dapo": PRESETS["dapo"], "htpo": PRESETS["htpo"], "mine": mine}.items():
    print(
        f"{name:5}",
        [round(w, 3) for w in weight(table, torch.tensor([0.5, 1.0, 1.2, 1.6], dtype=torch.float64), 1.0).tolist()],
    )

# %%
import matplotlib.pyplot as plt


_, axis = plt.subplots(figsize=(7, 3.5), layout="constrained")
styles = {"dapo": ("#000000", ":"), "htpo": ("#0072B2", "-"), "mine": ("#D55E00", "--")}
for (name, (colour, style)), table in zip(styles.items(), (PRESETS["dapo"], PRESETS["htpo"], mine), strict=True):
    axis.plot(ratio, weight(table, ratio, 1.0), color=colour, linestyle=style, linewidth=2, label=name)
axis.axvspan(0.8, 1.28, color="0.9", label="clip range")
axis.set(xlabel="importance ratio r", ylabel="gradient weight for Â = 1", title="hard · correct · high")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Check it
#
# A row is right when its gradient is what you wrote down. Three lines are enough, and they can fail:

# %%
above, inside, below = weight(mine, torch.tensor([1.6, 1.1, 0.5], dtype=torch.float64), 1.0).tolist()
assert abs(above - 1.0) < 1e-12  # kept, of weight 1
assert abs(inside - 1.1) < 1e-12  # in the clip range nothing changes: r
assert abs(below - 2.0) < 1e-12  # 1/r
assert weight(PRESETS["dapo"], torch.tensor([1.6], dtype=torch.float64), 1.0).item() == 0  # what PPO-clip does there

# %% [markdown]
# ## Run it
#
# `objective_overrides` takes the same rows, as objects or, in a YAML recipe, as mappings. The model and its task are those of the
# laptop job: a Qwen3 of 0.6 million parameters that has seen sloppy searches for countdown solutions.

# %%
from pathlib import Path

from datasets import Dataset
from transformers import Qwen3ForCausalLM

from htpo_trl import HTPOConfig, HTPOTrainer
from htpo_trl.data.countdown import countdown_reward, problems
from htpo_trl.demo.warm_start import build_tokenizer, warm_start


start = Path("runs/notebook/warm_start")
warm_start(start, seed=0, steps=8 if REDUCED else 2000)

# %%
import random


overrides = {"hard_correct_high": gentle, "easy_correct_high": gentle}
rng = random.Random(0)
train = Dataset.from_dict({"prompt": [problem.prompt(rng) for problem in problems("train")]})


def reinforce(name, **options):
    trainer = HTPOTrainer(
        Qwen3ForCausalLM.from_pretrained(start),
        countdown_reward,
        HTPOConfig(
            output_dir=f"runs/notebook/{name}",
            max_steps=4 if REDUCED else 80,
            per_device_train_batch_size=64,  # x 4 steps per generation = 16 prompts x 16 responses
            max_completion_length=16 if REDUCED else 64,
            learning_rate=1e-4,
            num_iterations=2,  # two passes over each batch: more ratios leave the clip range
            logging_steps=1,
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            **options,
        ),
        train,
        processing_class=build_tokenizer(),
    )
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    return trainer


runs = {
    "dapo": reinforce("dapo", objective="dapo"),
    "mine": reinforce("mine", objective="htpo", objective_overrides=overrides),
}

# %% [markdown]
# ## Did it do anything?
#
# First look at whether the new rows touched tokens at all. If they touched none, the two runs are the same run, and no curve will tell
# them apart. One seed says nothing about which is better: that takes several, and problems held out (01_quickstart_laptop).

# %%
import pandas as pd


pd.DataFrame(
    {
        name: {
            key: 100 * pd.DataFrame(trainer.state.log_history)[key].mean()
            for key in ("htpo/special/keep_above", "htpo/special/keep_below", "htpo/special/detach_lowest", "reward")
        }
        for name, trainer in runs.items()
    }
).round(4)  # percent

# %% [markdown]
# The same in a recipe:
#
# ```yaml
# objective: htpo
# objective_overrides:
#   hard_correct_high: {rule: keep_gradient, above: 1.0, below: inverse_ratio, cap: 10.0}
#   easy_correct_high: {rule: keep_gradient, above: 1.0, below: inverse_ratio, cap: 10.0}
# ```

# %%
if PUSH_TO_HUB:
    runs["mine"].push_to_hub()
