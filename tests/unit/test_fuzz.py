"""A short run of tests/fuzz.py, and what longer runs of it have found."""

import json
import os

import pytest

from htpo_trl.cli.launch import launch_arguments, parallelism
from htpo_trl.data import load
from htpo_trl.evaluation.results import read
from htpo_trl.training import checkpoint
from htpo_trl.utils import UsageError

from ..bounds import bounds
from ..fuzz import READERS, fuzz


#: Inputs per reader; a nightly run may take more.
EXAMPLES = int(os.environ.get("HTPO_FUZZ_EXAMPLES", "60"))


@pytest.mark.parametrize("reader", READERS)
def test_any_bytes_are_read_or_refused_by_a_line(reader):
    assert fuzz(reader, EXAMPLES).total() >= EXAMPLES


class TestFound:
    @pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "../" * 2000])
    def test_names_in_a_seal_that_no_file_can_have(self, tmp_path, name):
        (tmp_path / "htpo_checkpoint.json").write_text(json.dumps({"files": {name: {}}}))
        with bounds(), pytest.raises(checkpoint.CheckpointError, match="is missing") as error:
            checkpoint.check(tmp_path)
        assert len(str(error.value)) < 900

    def test_a_long_value_in_a_configuration_of_accelerate(self, tmp_path):
        (tmp_path / "a.yaml").write_text(f"distributed_type: {'x' * 50_000}\nnum_processes: 1")
        with bounds(), pytest.raises(UsageError, match=r"a\.yaml: 'xxx") as error:
            parallelism(launch_arguments(["--accelerate_config", str(tmp_path / "a.yaml")]))
        assert len(str(error.value)) < 900

    @pytest.mark.parametrize("gold", [[[]], [None], [{}], [[], [None]]])
    def test_lists_of_odd_values_as_golds(self, tmp_path, gold):
        (tmp_path / "d.jsonl").write_text(json.dumps({"problem": "p", "solution": gold}))
        with bounds(), pytest.raises(UsageError, match=r"d\.jsonl, line 1, column 'solution'"):
            load(str(tmp_path / "d.jsonl"))

    def test_rows_of_results_that_lack_what_is_summarised(self, tmp_path):
        settings = {"n_problems": 1, "sampling": {"num_samples": 1}}
        (tmp_path / "b.json").write_text(json.dumps({"settings": settings}))
        (tmp_path / "b.jsonl").write_text(json.dumps({"problem": "p", "verdict": "correct", "tokens": 1}))
        with bounds(), pytest.raises(UsageError, match=r"b\.jsonl, line 1: no 'truncated'"):
            read(tmp_path / "b.jsonl")
