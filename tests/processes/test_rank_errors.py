"""What fails on one process of several says so, with its rank: a line for what can be mended, else a traceback."""

import os
import re

import pytest

from htpo_trl.scripts import htpo

from ..forks import Forks


# Imported by every process; its line 4 fails on the second.
JUDGE = """import os

if os.environ["RANK"] == "1":
    tables = {}["absent"]


def lengths(completions, **kwargs):
    return [float(len(text)) for text in completions]
"""


def run(place, data, judge):
    os.chdir(place)
    options = ["--config", "recipe.yaml", "--reward_funcs", judge, "--per_device_train_batch_size", "8"]
    htpo.main([*options, "--dataset_name", data[int(os.environ["RANK"])]])


@pytest.mark.parametrize(
    ("data", "judge", "code", "words"),
    [
        # A file that the second machine does not have, say.
        (
            ["prompts.jsonl", "absent.jsonl"],
            "judge.even_digits",
            2,
            r"^htpo train, rank \d: Rank 1 on .* dataset_name is 'prompts.jsonl' there and 'absent.jsonl' here",
        ),
        (["prompts.jsonl", "prompts.jsonl"], "second.lengths", 1, r'(?s)second.py", line 4, .*KeyError: \'absent\''),
    ],
)
def test_the_second_of_two_processes_fails_alone(place, tmp_path, data, judge, code, words):
    (place / "second.py").write_text(JUDGE)
    forks = Forks(run, place, data, judge, output=tmp_path / "output.txt", n_processes=2)
    assert forks.join()[1] == code
    output = forks.output.read_text()
    assert re.search(words, output, re.MULTILINE)
    # Both refuse to go on, and without a launcher neither knows what the other has said.
    assert output.count("htpo train, rank") == (2 if code == 2 else 0)
