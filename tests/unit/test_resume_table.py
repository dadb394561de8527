"""Whatever a trainer holds after some steps is in the table of docs/resume.md: saved, computed again, or refused."""

import re
from pathlib import Path

import pytest
from datasets import IterableDataset
from peft import LoraConfig
from transformers import EarlyStoppingCallback

from htpo_trl.evaluation import Sampling
from htpo_trl.evaluation.callback import EvaluationCallback
from htpo_trl.tokens.callback import TokenRecorder
from htpo_trl.training.checkpoint import CheckpointError

from ..tiny import even_digits
from ..training_run import prompts


PAGE = Path(__file__).parents[2] / "docs/resume.md"
KNOWN = set(re.findall(r"`(\w+)`", PAGE.read_text().split("## What a trainer remembers")[1].split("## ")[0]))
MOVES = {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 2, "use_adaptive_entropy": True}


@pytest.mark.parametrize("kind", ["plain", "everything", "lora on a stream"])
def test_the_table_knows_what_a_trainer_holds(make_trainer, make_model, tokenizer, dataset, tmp_path, kind):
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    options = {"model": str(tmp_path / "model"), "max_steps": 3, "steps_per_generation": 2}
    if kind == "everything":
        options |= MOVES | {"log_completions": True, "dynamic_sampling": True, "on_sampling_exhausted": "train"}
        options |= {"eval_strategy": "steps", "eval_steps": 1, "eval_dataset": dataset.select(range(2))}
        options |= {"metric_for_best_model": "reward", "load_best_model_at_end": True, "neftune_noise_alpha": 1.0}
        options |= {"save_strategy": "steps", "save_steps": 1, "callbacks": [EarlyStoppingCallback(9)]}
    elif kind == "lora on a stream":
        stream = IterableDataset.from_generator(lambda: iter(prompts(16)))
        options |= {"train_dataset": stream, "peft_config": LoraConfig(r=2, target_modules="all-linear")}
    trainer = make_trainer(**options)
    if kind == "everything":
        sampling = Sampling(1, max_new_tokens=2)
        trainer.add_callback(EvaluationCallback(trainer, {"one": [{"prompt": "1"}]}, sampling, even_digits))
        trainer.add_callback(TokenRecorder(trainer, 1, 2))
    trainer.train()
    assert set(vars(trainer)) - KNOWN == set()
    assert {type(callback).__name__ for callback in trainer.callback_handler.callbacks} - KNOWN == set()


def test_what_is_refused(make_trainer, tmp_path):
    from trl import BEMACallback

    options = {"save_strategy": "steps", "save_steps": 2}
    make_trainer(**options).train()
    trainer = make_trainer(callbacks=[BEMACallback()], **options)
    with pytest.raises(CheckpointError, match="BEMACallback remembers what no checkpoint has"):
        trainer.train(resume_from_checkpoint=True)
    trainer = make_trainer(**options)
    trainer.args.optim = "galore_adamw_layerwise"
    with pytest.raises(
        CheckpointError, match="optim='galore_adamw_layerwise' keeps its state where no checkpoint has"
    ):
        trainer.train(resume_from_checkpoint=True)
