"""Which of the files in a run's directory its log is read from."""

import json

import pytest

from htpo_trl.report.runs import read_run


@pytest.fixture
def write_state(tmp_path):
    def write(directory, step, **last):
        log = [{"step": i, "loss": i / 10} for i in range(1, step + 1)]
        (tmp_path / directory).mkdir(exist_ok=True)
        (tmp_path / directory / "trainer_state.json").write_text(
            json.dumps({"global_step": step, "log_history": [*log, *([{"step": step, **last}] if last else [])]})
        )

    return write


def test_a_finished_run_is_read_from_its_own_state(tmp_path, write_state):
    """Its last checkpoint is of the same step, and was written before the run's last row."""
    write_state("checkpoint-4", 4)
    write_state("checkpoint-8", 8)
    write_state(".", 8, train_runtime=3.0)
    run = read_run(tmp_path)
    assert run.notes == []
    assert run.series("train_runtime").to_dict() == {8: 3.0}
    assert run.steps == 8


def test_a_run_that_went_on_is_read_from_its_newest_checkpoint(tmp_path, write_state):
    """Finished at step 8, then resumed with more steps, and killed."""
    write_state(".", 8, train_runtime=3.0)
    write_state("checkpoint-8", 8)
    write_state("checkpoint-12", 12)  # comes before checkpoint-8 by name
    run = read_run(tmp_path)
    assert run.notes == ["the log ends with checkpoint-12, the run's newest checkpoint: the run did not finish"]
    assert run.series("train_runtime").to_dict() == {}
    assert run.steps == 12
