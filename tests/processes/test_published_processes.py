"""Published objectives on one process and on two of two micro-batches each: docs/invariance.md says what is equal."""

import re
from pathlib import Path

import pytest

from htpo_trl.objective import PRESETS
from htpo_trl.objective.rules import parts_of

from ..distributed_run import ARGUMENTS, ROUND_OFF, launch, launched, records, trained


# Their statistics are of a loss call, that is of a micro-batch on a process.
OF_LOSS_CALL = {"clip-cov", "kl-cov", "stare", "hapo-released"}
SCALED = {"rule": "scale", "share": 0.1, "which": "highest", "by": "surprisal", "over": "batch", "factor": 1.5}
DRAWN = {"rule": "detach", "share": 0.2, "which": "random", "by": "covariance", "over": "batch"}
# What they need in order to act on so few tokens.
OVERRIDES = {
    "htpo": ARGUMENTS["objective_overrides"],
    "stare": {"all": SCALED | {"where": "positive", "entropy_below": 9.0}},
    "clip-cov": {"all": [{"rule": "clip", "delta": "none"}, DRAWN | {"where": "unclipped"}]},
}


def job(objective, processes):
    """Two optimizer steps, the second off-policy, of three groups of 8, of which one straddles the processes."""
    arguments = {
        "objective": objective,
        "objective_overrides": OVERRIDES.get(objective),
        **{"num_generations": 8, "per_device_train_batch_size": 24 // processes**2, "max_steps": 2},
        **{"gradient_accumulation_steps": processes, "steps_per_generation": processes},
        "learning_rate": 3e-3,  # Adam's first steps make their length of round-off where no gradient is
    }
    return {"arguments": ARGUMENTS | arguments, "forced": True}


@pytest.fixture(scope="module")
def directory(directory):
    launch(directory, {objective: job(objective, 2) for objective in PRESETS})
    return directory


@pytest.mark.parametrize("objective", PRESETS)
def test_two_processes(directory, compare, objective):
    one, two = trained(directory, **job(objective, 1)), launched(directory, objective)
    holds = objective not in OF_LOSS_CALL
    difference = compare("1 process = 2 processes, DDP, published objectives", objective, one, two, holds)
    assert difference < ROUND_OFF if holds else difference > 1e-4
    first, second = records(directory, objective)
    assert first["parameters"] == second["parameters"]


def test_the_page_names_those_that_depend_on_the_loss_call():
    page = (Path(__file__).parents[2] / "docs" / "invariance.md").read_text()
    (row,) = re.findall(r"^\| statistics of a loss call \|(.*)$", page, re.MULTILINE)
    assert set(re.findall(r"`([\w-]+)`", row)) == OF_LOSS_CALL
    parts = {name: [part for row in table.rows for part in parts_of(row)] for name, table in PRESETS.items()}
    of_batch = {name for name, each in parts.items() if any(getattr(part, "over", "") == "batch" for part in each)}
    assert of_batch == OF_LOSS_CALL - {"hapo-released"}  # a gate, of which only the code tells
