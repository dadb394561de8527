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
# # Reading a run: the report and the token map
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/htpo-trl/htpo_trl/blob/main/notebooks/04_reading_a_run.ipynb)
#
# What to look at when a run is over, or while it lasts: whether it learned, what it did to entropy and lengths, which groups its tokens
# were in, which rules acted on them, and what that did to single tokens. All of it comes from files in the run directory.
#
# It makes two runs to read, those of 01_quickstart_laptop: 6 minutes on two CPU cores, 2 GB; those that are there already are not made
# again. No GPU, no downloads. With `HTPO_REDUCED=1` in the environment, a smoke run of a minute.

# %%
import importlib.util
import subprocess
import sys


if importlib.util.find_spec("htpo_trl") is None:
    package = "htpo_trl[report] @ git+https://github.com/htpo-trl/htpo_trl"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %%
import os
from pathlib import Path


REDUCED = os.environ.get("HTPO_REDUCED") == "1"  # a smoke run of every cell
PUSH_TO_HUB = False  # True, after `huggingface_hub.login()`: publishes the report

# %%
from htpo_trl.demo.laptop import LaptopConfig, run


RUNS = {objective: f"runs/laptop/{objective}-seed0" for objective in ("dapo", "htpo")}
for objective, directory in RUNS.items():
    if not (Path(directory) / "report" / "index.html").exists():
        run(LaptopConfig(objective=objective, output_dir="runs/laptop", quick=REDUCED))

# %% [markdown]
# ## The report
#
# Runs whose options agree but for the seed form a set; here each set has a single run, so training curves have no bands. `dapo` comes
# first, so that differences are to the baseline. On the command line:
#
# ```bash
# htpo report dapo=runs/laptop/dapo-seed0 htpo=runs/laptop/htpo-seed0 --output_dir report
# ```

# %%
from IPython.display import HTML, Image, display

from htpo_trl.report import write_report


page = write_report([f"{name}={directory}" for name, directory in RUNS.items()], "report")
print(f"{page}: {page.stat().st_size / 2**20:.1f} MiB, with", *sorted(path.name for path in page.parent.glob("*.png")))

# %% [markdown]
# **Did it learn?** `learning.png`: the reward on training batches is what the trainer saw, of problems that it trained on. What counts is
# the evaluation on problems held out, before and after, with its interval over problems.

# %%
for name in ("learning", "evaluations"):
    display(Image(page.parent / f"{name}.png"))

# %% [markdown]
# **Does it still explore?** Entropy that falls to nothing, or pass@k that falls for large k while mean@k rises, says that answers are
# getting narrower.

# %%
for name in ("entropy", "budgets"):
    display(Image(page.parent / f"{name}.png"))

# %% [markdown]
# **Which rules acted, and on how much?** Shares of the eight groups move with difficulty and accuracy: when all prompts have become easy,
# rules for hard ones have nothing to act on. A rule that touched no token made no difference, whatever the curves say: here the detach
# rules touch none, because 0.6% of a group is a whole token only from 167 tokens on, and 2% from 50 on.

# %%
for name in ("shares", "rules"):
    display(Image(page.parent / f"{name}.png"))

# %% [markdown]
# ## The log itself
#
# Everything in the report is in the log, too.

# %%
import json

import pandas as pd


state = json.loads(Path("runs/laptop/htpo-seed0/trainer_state.json").read_text())
log = pd.DataFrame(state["log_history"]).set_index("step")
log.filter(regex="^reward$|^entropy$|htpo/special|htpo/clip_ratio").describe().T[["mean", "min", "max"]]

# %% [markdown]
# ## The token map
#
# A recorder stored sampled completions with everything that the objective did to their tokens. Side by side with another preset it shows
# which tokens the two treat differently. On the command line, as a page or in the terminal:
#
# ```bash
# htpo tokens --run runs/laptop/htpo-seed0 --versus dapo
# htpo tokens --run runs/laptop/htpo-seed0 --terminal
# ```

# %%
import html

from htpo_trl.tokens import write_token_map


token_map = write_token_map("runs/laptop/htpo-seed0", versus="dapo", output="tokens.html").read_text()
display(HTML(f'<iframe srcdoc="{html.escape(token_map)}" width="100%" height="800" style="border: 0"></iframe>'))

# %% [markdown]
# The record is a parquet file with a row per completion, so that questions of your own take a few lines. Which tokens does the model
# hesitate at?

# %%
last = max(Path("runs/laptop/htpo-seed0/tokens").glob("*.parquet"))
tokens = pd.read_parquet(last)[["tokens", "entropies"]].explode(["tokens", "entropies"]).astype({"entropies": float})
tokens.groupby("tokens")["entropies"].agg(["mean", "count"]).sort_values("mean", ascending=False).head(8).round(
    3
)  # nats

# %%
if PUSH_TO_HUB:
    from huggingface_hub import HfApi

    repository = HfApi().create_repo("htpo-report", repo_type="dataset", exist_ok=True)
    HfApi().upload_folder(repo_id=repository.repo_id, repo_type="dataset", folder_path="report")
