"""Advantages of groups that straddle two processes, by every estimator: the run of one process."""

import pytest

from htpo_trl.advantages import ESTIMATORS

from ..distributed_run import ARGUMENTS, ROUND_OFF, build, launch, launched, records, run_of, trained


OTHERS = [name for name in ESTIMATORS if name != "grpo"]


def job(name, processes):
    """24 rows a batch: three groups of 8, of which the middle one straddles two processes."""
    arguments = {
        **{"advantage": name, "num_generations": 8, "max_steps": 2},
        "per_device_train_batch_size": 24 // processes // processes,
        **dict.fromkeys(["gradient_accumulation_steps", "steps_per_generation"], processes),
    }
    return {"arguments": ARGUMENTS | arguments, "forced": True}


@pytest.fixture(scope="module")
def directory(directory):
    launch(directory, {name: job(name, 2) for name in OTHERS})
    return directory


@pytest.mark.parametrize("name", OTHERS)
def test_two_processes_are_one(directory, compare, name):
    trainer = build(directory, **job(name, 1))
    trainer.train()
    (one,), (first, second) = trainer.labels, records(directory, name)
    # To the bit: both processes compute those of all responses, from the same gathered rewards.
    assert first["labels"][0]["advantages"] + second["labels"][0]["advantages"] == one["advantages"]
    assert first["parameters"] == second["parameters"]
    two = launched(directory, name)
    # Gradients differ by round-off, and where they are small the first steps of AdamW make more of it.
    assert compare("1 process = 2 processes, DDP", name, run_of(trainer), two) < 10 * ROUND_OFF
    # Negative control: of GRPO's advantages it is another run.
    assert compare("", "grpo", trained(directory, **job("grpo", 1)), two, holds=False) > 1e-3
