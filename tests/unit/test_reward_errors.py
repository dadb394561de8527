"""What is left of an error of a reward function, in a process that goes on."""

import pytest

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
