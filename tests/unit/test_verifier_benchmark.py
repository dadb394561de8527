"""The parts of the verifier's benchmark can be measured alone."""

import json

import pytest

from benchmarks import verifier


MEASURED = json.loads(verifier.RESULTS.read_text())
# Those that have a table, in its order, and have been measured.
PARTS = [part for part in ("golds", "cases", "wrong", "throughput", "hostile") if part in MEASURED]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_has_its_table_without_the_others(part, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(verifier, part, lambda data: MEASURED[part])
    monkeypatch.setattr(verifier, "FILES", [])  # the golds' files are not part of the project
    verifier.main([str(tmp_path), "--parts", part, "--output", str(tmp_path / "new.json")])
    assert json.loads((tmp_path / "new.json").read_text()).keys() == {"versions", part}
    assert capsys.readouterr().out.strip() == verifier.tables(MEASURED)[PARTS.index(part)]


def test_a_folder_that_is_not_there_is_told_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(verifier, "throughput", lambda data: pytest.fail("measured"))
    with pytest.raises(SystemExit):
        verifier.main([str(tmp_path), "--parts", "throughput", "--output", str(tmp_path / "none" / "new.json")])
    assert "there is no such folder" in capsys.readouterr().err
