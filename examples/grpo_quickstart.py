"""TRL's GRPO quick-start with HTPO: two names change, nothing else.

    python examples/grpo_quickstart.py

Needs one GPU and the Hub.
"""

from datasets import load_dataset
from trl.rewards import accuracy_reward

from htpo_trl import HTPOTrainer  # was: from trl import GRPOTrainer


trainer = HTPOTrainer(  # was: GRPOTrainer(
    model="Qwen/Qwen2.5-0.5B-Instruct",
    reward_funcs=accuracy_reward,
    train_dataset=load_dataset("trl-lib/DeepMath-103K", split="train"),
)
trainer.train()
