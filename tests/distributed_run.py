"""Run under torchrun by `test_distributed.py`: groups that straddle two processes. Each process writes what it saw."""

import json
import sys
from pathlib import Path

import torch
from accelerate.utils import gather
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from htpo_trl import HTPOConfig, HTPOTrainer


# How many of a process's 8 rows are correct, by turns. The group, 13/16 and 9/16, is easy and hard (threshold 12/16).
# Alone, the first process would call it easy and the second hard, always: in each turn one of them would be wrong.
N_CORRECT = {0: (8, 8), 1: (5, 1)}


def scripted(completions, **kwargs):
    """Whatever was sampled, which differs between versions: verdicts that disagree between the processes."""
    n_correct = N_CORRECT[trainer.accelerator.process_index][len(seen) % 2]
    return [float(i < n_correct) for i in range(len(completions))]


class Recorder(HTPOTrainer):
    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        seen.append({name: output[name].tolist() for name in ("is_hard", "is_correct", "is_judged")})
        return output

    def _control_objective(self, inputs, per_token_logps, entropies):
        result = super()._control_objective(inputs, per_token_logps, entropies)
        mask = inputs["completion_mask"].bool()
        in_group = torch.stack([(result.groups == i).sum() for i in range(8)])
        totals = gather(torch.cat([in_group, mask.sum().unsqueeze(0)])).view(-1, 9).sum(dim=0).tolist()
        expected.append([n / totals[8] for n in totals[:8]])
        return result


directory = Path(sys.argv[1])
seen, expected = [], []
trainer = Recorder(
    Qwen3ForCausalLM.from_pretrained(directory / "model"),
    scripted,
    HTPOConfig(
        str(directory / "run"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1,
        max_steps=16,
        learning_rate=1e-2,
        max_completion_length=12,
        per_device_train_batch_size=2,
        num_generations=16,  # of which each process holds a half
        steps_per_generation=4,
        difficulty_threshold=0.75,
    ),
    Dataset.from_dict({"prompt": [f"{i:02d}" for i in range(64)]}),
    processing_class=PreTrainedTokenizerFast.from_pretrained(directory / "model"),
)
trainer.train()
rank = trainer.accelerator.process_index
(directory / f"rank{rank}.json").write_text(
    json.dumps(
        {
            "labels": seen,
            "expected_shares": expected,
            "log": trainer.state.log_history,
            "parameters": sum(p.double().sum().item() for p in trainer.model.parameters()),
        }
    )
)
