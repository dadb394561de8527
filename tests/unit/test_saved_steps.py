"""Which steps of a run are kept, and which is saved when a run ends early."""

import pytest
import torch
from safetensors.torch import load_file

from htpo_trl.training.checkpoint import last_complete

from ..tiny import even_digits


def test_the_best_checkpoint_is_spared(make_trainer, dataset, tmp_path):
    """Tokens only become more, so that of the fewest the first step is the best."""
    best = {"metric_for_best_model": "num_tokens", "greater_is_better": False, "eval_strategy": "steps"}
    trainer = make_trainer(
        save_strategy="steps",
        save_steps=1,
        save_total_limit=2,
        eval_steps=1,
        eval_dataset=dataset.select(range(2)),
        **best,
    )
    trainer.train()
    assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-4"}
    assert trainer.state.best_model_checkpoint == str(tmp_path / "run" / "checkpoint-1")


@pytest.fixture
def failing(make_trainer):
    """A trainer of two micro-batches a step, and a function that trains till one of those after step 2 fails."""
    batches, failed = [], []

    def judge(completions, trainer_state, **kwargs):
        batches.append(trainer_state.global_step)
        if batches.count(2) == failed[-1]:
            raise KeyError("no such unit")
        return even_digits(completions)

    trainer = make_trainer(reward_funcs=judge, gradient_accumulation_steps=2, steps_per_generation=1)

    def train(micro_batch):
        batches.clear()
        failed.append(micro_batch)
        with pytest.raises(KeyError) as raised:
            trainer.train()
        return raised.value.__notes__[-1]

    return trainer, train


SAVED, NOT_SAVED = "The run is saved at step 2", "no whole step since the start or the last checkpoint"


@pytest.mark.parametrize(("micro_batch", "note"), [(1, SAVED), (2, NOT_SAVED)], ids=["first", "second"])
def test_a_step_is_saved_where_it_is_whole(failing, tmp_path, micro_batch, note):
    """In the second micro-batch, gradients of the next step have been accumulated, which no checkpoint holds."""
    _, train = failing
    assert note in train(micro_batch)
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"] * (micro_batch == 1)


@pytest.mark.parametrize("earlier", [1, 2], ids=["at a whole step", "within accumulation"])
def test_a_training_is_saved_whatever_an_earlier_one_left(failing, tmp_path, earlier):
    """As in a notebook, where training is started again after an error, goes on from the model, and fails again."""
    trainer, train = failing
    train(earlier)
    assert SAVED in train(1)
    saved = load_file(tmp_path / "run" / "checkpoint-2" / "model.safetensors")
    assert last_complete(tmp_path / "run") == str(tmp_path / "run" / "checkpoint-2")
    held = trainer.model.state_dict()
    assert [name for name, weight in saved.items() if not torch.equal(weight, held[name])] == []
