"""Tables and functions of the user's own, named by file or module; tables that are a preset no longer."""

import json

import pytest

from htpo_trl.objective import PRESETS, Clip, Table, get_table
from htpo_trl.objective.selections import Detach
from htpo_trl.objects import import_object
from htpo_trl.utils import UsageError


OWN = """
from beside import share
from htpo_trl.objective import GROUPS, Clip, Detach, Table

MINE = Table("mine", tuple(Detach(share) if group == "easy_wrong_low" else Clip() for group in GROUPS))
made = []
NOT_A_TABLE = 3
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Of one's own, two directories below; one of them is called as an installed module is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "json.py").write_text(OWN)
    (tmp_path / "own" / "beside.py").write_text("share = 0.625\n")
    (tmp_path / "tables_here.py").write_text(OWN.replace("from beside import share", "share = 0.25"))
    (tmp_path / "broken_here.py").write_text("import no_such_dependency\n")
    return tmp_path


def test_a_table_by_its_file(files, make_config):
    table = make_config(objective="own/json.py:MINE").table
    assert table.rows[6] == Detach(0.625)
    assert json.loads("[1]") == [1]  # the module of that name is still Python's
    assert import_object("own/json.py:made", "objective") is import_object(f"{files}/own/json.py:made", "objective")


@pytest.mark.parametrize("name", ["tables_here:MINE", "tables_here.MINE"])
def test_a_table_by_its_module(files, name):
    assert get_table(name, {"easy_wrong_low": "clip"}) == Table("mine*", (Clip(),) * 8)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own/none.py:MINE", r"objective: 'own/none.py:MINE': there is no file 'own/none.py' in "),
        ("no_module:MINE", r"objective: 'no_module:MINE' cannot be imported: No module named 'no_module' in .*file"),
        (
            "own/json.py:MNE",
            r"objective: 'own/json.py:MNE' cannot be imported: there is no 'MNE' in it. Did you mean 'MINE'\?",
        ),
        (
            "tables_here.MINES.x",
            r"objective: 'tables_here.MINES.x' cannot be imported: there is no 'MINES' in it. Did you mean 'MINE'\?",
        ),
        ("own.tables.X", r"objective: 'own.tables.X' cannot be imported: there is no 'tables' in it. Correct it"),
        ("tables_here:", r"objective: 'tables_here:' names nothing. Write file.py:name"),
        ("tables_here:NOT_A_TABLE", r"objective='tables_here:NOT_A_TABLE' is a `int`; name a `Table`"),
        ("htpoo", r"Unknown objective 'htpoo'. Did you mean 'htpo'\? The presets are .*, as in mine.py:TABLE"),
    ],
)
def test_what_is_not_there(files, name, message):
    with pytest.raises(UsageError, match=message):
        get_table(name)


def test_what_is_in_a_class(files):
    assert import_object("tables_here.MINE.name", "objective") == import_object("own/json.py:MINE.name", "x") == "mine"


def test_an_error_within_the_users_module_is_theirs(files):
    for name in ("broken_here:X", "broken_here.X.y", "broken_here.py:X"):
        with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
            import_object(name, "objective")


def test_replaced_rows_are_no_longer_the_preset():
    assert get_table("dapo", {"easy_wrong_low": {"rule": "detach", "share": 0.5}}).name == "dapo*"
    assert get_table("dapo", {"easy_wrong_low": "clip"}) is not None
    assert get_table("dapo", {"easy_wrong_low": "clip"}).name == "dapo"
    twice = get_table("htpo", {"hard_correct_low": "clip"}).replace({"hard_correct_high": "clip"})
    assert str(twice).splitlines()[0] == "htpo*"
    assert {table.name for table in PRESETS.values()} == {*PRESETS}


def test_a_share_is_of_the_group():
    assert str(Detach(0.625)) == "J_PPO; the lowest-entropy 62.5% of the group detached"
    assert str(Detach(1.0)) == "detached"
