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
# # Quick start on a laptop: train, look, compare
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/htpo-trl/htpo_trl/blob/main/notebooks/01_quickstart_laptop.ipynb)
#
# A Qwen3 of 0.6 million parameters learns countdown (combine three numbers to reach a target): from a supervised warm start that the package brings, by
# reinforcement: once with HTPO's objective, once with DAPO's. Then you look at what happened to which tokens, and compare the two.
#
# Needs two CPU cores and 2 GB; 3 minutes for each of the two runs. No GPU, no downloads.
# With `HTPO_REDUCED=1` in the environment it is a smoke run of a minute in which nothing is learned.

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
# ## Train
#
# `make demo` and `htpo demo` do the same. Of each problem the model writes 16 answers before and after.

# %%
from htpo_trl.demo.laptop import LaptopConfig, run


runs = {
    objective: run(LaptopConfig(objective=objective, output_dir="runs/laptop", quick=REDUCED))
    for objective in ("dapo", "htpo")
}

# %% [markdown]
# ## Look
#
# The report of a run is one HTML file, `report/index.html`, with its pictures beside it. Here are two of them: the learning curves, and
# the share of tokens in each group.

# %%
from IPython.display import HTML, Image, display


for name in ("learning", "shares"):
    display(Image(f"runs/laptop/htpo-seed0/report/{name}.png"))

# %% [markdown]
# ## Which token learns what
#
# During training a few completions were stored with everything that the objective did to their tokens. Each token's colour is its group:
# prompt hard or easy, response correct or wrong (hue), entropy among the response's top 20% (full colour) or not (pale). Hover over a
# token for its entropy, importance ratio, advantage and weight in the gradient; click a row of the legend to see its group alone.

# %%
import html

from htpo_trl.tokens import write_token_map


page = write_token_map("runs/laptop/htpo-seed0").read_text()
display(HTML(f'<iframe srcdoc="{html.escape(page)}" width="100%" height="700" style="border: 0"></iframe>'))

# %% [markdown]
# ## Compare
#
# Both runs began at the same model and answered the same problems, so the difference is taken problem by problem; the interval is over
# problems. It does not speak for other seeds: docs/results.md has five, where the two objectives are equal on this task.

# %%
from htpo_trl.evaluation import compare, comparison_table


last = f"evaluation/step-{4 if REDUCED else 160}"
print(comparison_table(compare(runs["dapo"] / last, runs["htpo"] / last)))  # second minus first

# %% [markdown]
# Next: 02_lora_colab (a real model on one GPU), 03_your_own_objective (change what tokens learn), 04_reading_a_run (reports and token maps
# in full).

# %%
if PUSH_TO_HUB:
    from huggingface_hub import HfApi

    repository = HfApi().create_repo("Qwen3-countdown-HTPO", exist_ok=True)
    HfApi().upload_folder(repo_id=repository.repo_id, folder_path="runs/laptop/htpo-seed0")
