import json

import pytest

from htpo_trl.evaluation.results import ResultsError, check_ks, read, resume
from htpo_trl.utils import UsageError


SETTINGS = {"benchmark": "sums", "n_problems": 2, "sampling": {"num_samples": 2}}
KEYS = [("a", 0), ("a", 1), ("b", 0), ("b", 1)]


@pytest.fixture
def file(tmp_path):
    """A finished result file."""
    path = tmp_path / "sums.jsonl"
    path.with_suffix(".json").write_text(json.dumps({"settings": SETTINGS}))
    rows = [
        {"problem": p, "sample": s, "completion": "é" * 9, "tokens": 9, "truncated": False, "verdict": "wrong"}
        for p, s in KEYS
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def test_budgets_are_a_list():
    with pytest.raises(UsageError, match=r"ks=2 must be a list of numbers: ks=\[2\]"):
        check_ks(4, 2)
    assert check_ks(4, [2]) == [2]


def test_rows_are_read_without_their_completions(file):
    results = read(file)
    assert results.settings == SETTINGS
    assert [(p, row["sample"]) for p, rows in results.problems.items() for row in rows] == KEYS
    assert set(results.problems["b"][1]) == {"problem", "sample", "tokens", "truncated", "verdict"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"problem": "b", "sam', r"sums\.jsonl, line 3: broken JSON"),
        ('["b"]', r"sums\.jsonl, line 3: expected an object"),
        ('{"problem": "b"}', r"sums\.jsonl, line 3: no 'verdict', only problem"),
        (
            '{"problem": "a", "sample": 1, "verdict": "wrong", "tokens": 9, "truncated": false}',
            "line 3: sample 1 of problem a is there twice",
        ),
    ],
)
def test_a_broken_line_is_named(file, line, message):
    """By those who read it, and by the evaluation that goes on; after the mend that is named both are content."""
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:2], line, lines[3]]) + "\n")
    with pytest.raises(ResultsError, match=message + ".* Delete that line and all after it"):
        read(file)
    with pytest.raises(
        ResultsError, match=r"sums\.jsonl, line 3: (no sample|not sample 0 of problem b).*Delete that line"
    ):
        resume(file, SETTINGS, KEYS, batch_size=1)
    file.write_text("\n".join(lines[:2]) + "\n")
    assert resume(file, SETTINGS, KEYS, batch_size=1) == 2
    file.write_text("\n".join(lines) + "\n")
    assert len(read(file).problems) == 2


def test_doubled_lines_are_not_said_to_be_incomplete(file):
    file.write_bytes(file.read_bytes() * 2)
    with pytest.raises(ResultsError, match=r"sums\.jsonl, line 5: sample 0 of problem a is there twice"):
        read(file)
    assert resume(file, SETTINGS, KEYS, batch_size=3) == 4  # cuts them off
    assert len(read(file).problems) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"settings": 3}', '{"settings": {"n_problems": 2}}'])
def test_damaged_settings_are_named(file, content):
    file.with_suffix(".json").write_text(content)
    for use in (read, lambda file: resume(file, SETTINGS, KEYS, batch_size=3)):
        with pytest.raises(
            ResultsError, match=r"sums\.json is damaged .*sums\.jsonl\. Remove both, and evaluate again"
        ):
            use(file)
    file.with_suffix(".json").unlink()
    with pytest.raises(ResultsError, match=r"sums\.jsonl has no sums\.json beside it"):
        read(file)


def test_what_is_kept_on_resuming(file):
    whole = file.read_bytes()
    assert resume(file, SETTINGS, KEYS, batch_size=3) == 4
    assert file.read_bytes() == whole
    file.write_bytes(whole[:-4])
    assert resume(file, SETTINGS, KEYS, batch_size=2) == 2
    assert file.read_bytes() == b"".join(whole.splitlines(keepends=True)[:2])
    with pytest.raises(ResultsError, match=r"sampling\.num_samples=2 there, 4 now; seed=None there, 1 now"):
        resume(file, SETTINGS | {"seed": 1, "sampling": {"num_samples": 4}}, KEYS, batch_size=2)
