"""What is left of an error of a reward function, in a process that goes on."""

import pytest
import torch

from ..tiny import even_digits


def test_an_error_ends_one_training_and_not_the_next(make_trainer):
    """As in a notebook, where the cause is mended and training is started again."""
    failures = [ValueError("the judge is not there")]

    def judge(completions, **kwargs):
        if failures:
            raise failures.pop()
        return even_digits(completions)

    trainer = make_trainer(reward_funcs=judge)
    with pytest.raises(ValueError, match="the judge is not there"):
        trainer.train()
    trainer.train()
    assert trainer.state.global_step == 4


@pytest.mark.parametrize("infinite", [float("inf"), -torch.inf, torch.tensor(torch.inf)])
def test_an_infinite_reward_is_an_error(make_trainer, infinite):
    """Its advantages are NaN, and after one step so are the weights; NaN itself is a row without a verdict."""
    trainer = make_trainer(reward_funcs=lambda completions, **kwargs: [0.0, infinite] * (len(completions) // 2))
    with pytest.raises(ValueError, match="Rewards must be finite, not ") as raised:
        trainer.train()
    assert "on row 1 of a batch of 32" in raised.value.__notes__[0]
    make_trainer(reward_funcs=lambda completions, **kwargs: [0.0, torch.nan] * (len(completions) // 2)).train()
