"""What is read from a run's directory: which of the files its log is from, what kind it is, where its gaps are."""

import json

import pytest

from htpo_trl.report.estimates import band
from htpo_trl.report.runs import RunError, read_run


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


@pytest.fixture
def logged(tmp_path):
    """The bands of a run with these rows: each has a loss; a reward, where a batch was generated since the last."""

    def logged(rows, every=4, without=()):
        log, last = [], 0
        for step in rows:
            row = {"step": step, "loss": 1.0} | ({} if step in without else {"htpo/entropy/hard_wrong_high": 2.0})
            if any(each % every == 1 or every == 1 for each in range(last + 1, step + 1)):
                row |= {"reward": 0.5, "htpo/accuracy": 0.5}
            log.append(row)
            last = step
        (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": last, "log_history": log}))
        run = read_run(tmp_path)
        return {name: band([run.series(name)]) for name in ("reward", "htpo/entropy/hard_wrong_high", "loss")}

    return logged


@pytest.mark.parametrize(
    ("rows", "every"),
    [
        (range(1, 149), 4),
        (range(1, 131), 2),
        (range(1, 401), 7),
        (range(3, 120, 3), 4),  # rewards three steps apart, and once in a while six
        (range(10, 161, 10), 64),
        ([*range(1, 100), *range(100, 1000, 10)], 4),  # resumed with another logging_steps
        ([*range(10, 200, 10), *range(201, 260)], 4),
        ([1, *range(10, 161, 10)], 4),  # logging_first_step
    ],
)
def test_rare_logging_is_no_gap(logged, rows, every):
    for name, points in logged(rows, every).items():
        assert points["mean"].notna().all(), name
        assert len(points) <= 101


def test_a_row_that_lacks_a_metric_is_a_gap(logged):
    """A group without tokens has no entropy; there, and not where no batch was generated."""
    found = logged(range(1, 13), without=(5, 6, 9))
    entropy = found["htpo/entropy/hard_wrong_high"]
    assert entropy.index[entropy["mean"].isna()].tolist() == [5, 6, 9]
    assert found["reward"].index.tolist() == [1, 5, 9]
    wide = logged(range(1, 201), without=range(80, 101))["htpo/entropy/hard_wrong_high"]  # points are means of four
    assert wide.index[wide["mean"].isna()].tolist() == [84, 88, 92, 96, 100]


def test_seeds_that_log_at_other_steps_are_joined_where_both_did(tmp_path):
    runs = []
    for name, rows in (("a", range(1, 41)), ("b", range(10, 31, 10))):
        (tmp_path / name).mkdir()
        log = [{"step": step, "loss": float(step), "reward": 1.0} for step in rows]
        state = {"global_step": log[-1]["step"], "log_history": log}
        (tmp_path / name / "trainer_state.json").write_text(json.dumps(state))
        runs.append(read_run(tmp_path / name))
    points = band([run.series("loss") for run in runs])
    assert points["mean"].dropna().to_dict() == {10: 10.0, 20: 20.0, 30: 30.0}
    assert points["mean"].loc[:30].notna().all()  # a line goes from one to the next
    assert points["mean"].loc[31:].isna().all()  # the other has ended


class TestKinds:
    def settings(self, directory, **sections):
        (directory / "settings.json").write_text(json.dumps({"versions": {"trl": "1.16.0"}, **sections}))

    def test_runs_in_python_have_options_and_a_kind(self, tmp_path, write_state):
        write_state(".", 8, train_runtime=3.0)
        self.settings(
            tmp_path, HTPOConfig={"learning_rate": 1e-6, "seed": 3}, run={"data": "8 rows", "rewards": ["f"]}
        )
        run = read_run(tmp_path)
        assert (run.source, run.seed, run.notes) == ("HTPO trainer", 3, [])
        assert run.options == {"learning_rate": 1e-6, "seed": 3, "data": "8 rows", "rewards": ["f"]}
        self.settings(tmp_path, HTPOConfig={}, HTPOScriptArguments={"dataset_name": "gsm8k"})
        assert read_run(tmp_path).source == "htpo train"

    def test_a_run_that_was_stopped_early_did_finish(self, tmp_path, write_state):
        write_state("checkpoint-6", 6)
        file = tmp_path / "checkpoint-6" / "trainer_state.json"
        assert "did not finish" in read_run(tmp_path).notes[0]
        control = {"TrainerControl": {"args": {"should_training_stop": True}, "attributes": {}}}
        file.write_text(json.dumps(json.loads(file.read_text()) | {"max_steps": 12, "stateful_callbacks": control}))
        assert read_run(tmp_path).notes == []

    def test_one_that_goes_on_is_not_said_to_have_died(self, tmp_path):
        self.settings(tmp_path, HTPOConfig={"learning_rate": 1e-6})
        run = read_run(tmp_path)
        assert run.notes == ["no trainer_state.json, hence no log: the run has neither saved a checkpoint nor ended"]

    def test_what_was_resumed_with_other_settings_is_told(self, tmp_path, write_state):
        write_state(".", 8)
        resumes = [
            {"from": "out/checkpoint-2", "step": 2, "changed": {}},
            {"from": "out/checkpoint-4", "step": 4, "changed": {"learning_rate": [1e-6, 2e-6], "seed": [0, 1]}},
        ]
        self.settings(tmp_path, HTPOConfig={"learning_rate": 2e-6}, resumes=resumes)
        run = read_run(tmp_path)
        assert run.notes == ["resumed at step 4 with other settings: learning_rate 1e-06 → 2e-06; seed 0 → 1"]
        assert run.options == {"learning_rate": 2e-6}
        self.settings(tmp_path, resumes=[{"step": 3, "changed": [1]}])
        with pytest.raises(RunError, match=r"settings\.json: expected what was resumed"):
            read_run(tmp_path)
