"""What a part of `htpo check` is started with, and what of its output is published."""

import math
import re
import sys
import tempfile
from pathlib import Path

import pytest

import htpo_trl
from htpo_trl.check import run
from htpo_trl.check.parts import PARTS
from htpo_trl.cli.commands import main
from htpo_trl.utils import UsageError


class TestEnvironment:
    def test_no_launcher_no_network(self, monkeypatch):
        launched = {
            **{"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a"},
            **{
                "MASTER_PORT": "1",
                "ACCELERATE_USE_DEEPSPEED": "true",
                "TORCHELASTIC_RUN_ID": "x",
                "FSDP_VERSION": "2",
            },
            "GROUP_RANK": "0",
        }
        for name, value in (launched | {"HF_HUB_OFFLINE": "0", "CARGO_HOME": "/c"}).items():
            monkeypatch.setenv(name, value)
        found = run._environment("auto", all_devices=False)
        assert not launched.keys() & found.keys()
        assert found["HF_HUB_OFFLINE"] == found["HF_HUB_DISABLE_TELEMETRY"] == "1"
        assert found["CARGO_HOME"] == "/c"

    @pytest.mark.parametrize(
        ("device", "all_devices", "visible", "expected"),
        [
            ("auto", False, None, "0"),
            ("cuda", False, "3,5", "3"),
            ("cuda", False, "", ""),
            ("auto", True, "3,5", "3,5"),
            ("auto", True, None, None),
            ("cpu", True, "3,5", ""),
        ],
    )
    def test_devices(self, monkeypatch, device, all_devices, visible, expected):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert run._environment(device, all_devices).get("CUDA_VISIBLE_DEVICES") == expected

    def test_places_of_modules_stay_where_they_are(self, monkeypatch):
        """The part runs in another directory."""
        monkeypatch.setenv("PYTHONPATH", "mine:/theirs")
        assert run._environment("cpu", True)["PYTHONPATH"] == f"{Path.cwd()}/mine:/theirs"


def test_what_is_published(monkeypatch, tmp_path):
    monkeypatch.setattr(run.getpass, "getuser", lambda: "alice")
    monkeypatch.setattr(run.socket, "gethostname", lambda: "login-7")
    monkeypatch.chdir(tmp_path)
    package = Path(htpo_trl.__file__).parent
    text = {
        "a": [f"{package}/trainer.py", f"{sys.prefix}/lib/torch.py", f"{tmp_path}/x", f"{tempfile.gettempdir()}/y"],
        "b": [
            "/home/bob/model",
            "for alice on login-7",
            "malice",
            f"{Path.home()}/z",
            "hf_abcdefghij0123456789",
            3,
            None,
        ],
    }
    assert run._public(text) == {
        "a": ["htpo_trl/trainer.py", "<environment>/lib/torch.py", "./x", "<tmp>/y"],
        "b": ["~/model", "for <user> on <host>", "malice", "~/z", "<redacted>", 3, None],
    }
    monkeypatch.setattr(run.getpass, "getuser", lambda: (_ for _ in ()).throw(KeyError("uid")))  # of a container
    assert run._public("for alice on login-7") == "for alice on <host>"


@pytest.mark.parametrize(
    ("text", "published"),
    [
        ('File "/srv/secret-plan/lib/peft/__init__.py", line 1', 'File "<path>/__init__.py", line 1'),
        ("libfoo.so: in (/srv/secret-plan/lib/libfoo.so.1)", "libfoo.so: in (<path>/libfoo.so.1)"),
        ("HF_HOME=/data/secret-plan", "HF_HOME=<path>"),
        ("/mine/a secret plan/x.py", "<path>/x.py"),
        (
            "/usr/bin/ld: 3 s/step, 1/2, https://pytorch.org/docs/x",
            "/usr/bin/ld: 3 s/step, 1/2, https://pytorch.org/docs/x",
        ),
    ],
)
def test_places_of_this_machine_are_not_published(monkeypatch, text, published):
    """Wherever modules, caches and libraries lie."""
    monkeypatch.syspath_prepend("/mine/a secret plan")
    assert run._public(text) == published


def test_a_user_without_a_home(monkeypatch):
    """And without a name: of a container, with HOME unset."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    assert run._public("/home/bob/model") == "~/model"


class TestRefusals:
    @pytest.mark.parametrize("deadline", [0, -1, math.nan, math.inf])
    def test_deadline(self, tmp_path, deadline):
        with pytest.raises(UsageError, match=r"^--deadline=\S+ must be finite and above 0\.$"):
            run.run_check(tmp_path / "a.json", ["versions"], deadline=deadline)

    @pytest.mark.parametrize("is_absolute", [False, True])
    def test_a_working_directory_that_was_removed(self, tmp_path, monkeypatch, is_absolute):
        (gone := tmp_path / "gone").mkdir()
        monkeypatch.chdir(gone)
        gone.rmdir()
        with pytest.raises(UsageError, match="the working directory was removed"):
            run.run_check(tmp_path / "a.json" if is_absolute else Path("a.json"), ["versions"])

    def test_no_place_for_temporary_files(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "none")])
        with pytest.raises(SystemExit) as ended:
            main(["check", "--parts", "versions", "--output", str(tmp_path / "a.json")])
        assert ended.value.code == 2
        assert "No usable temporary directory found" in capsys.readouterr().err


def test_chosen():
    names = list(PARTS)
    assert run.chosen(None, []) == names
    assert run.chosen(["resume", "versions"], []) == ["versions", "resume"]
    assert run.chosen(None, ["versions"]) == names[1:]


def test_the_page_has_every_part():
    page = (Path(__file__).parents[2] / "docs/command_line.md").read_text()
    table = page.split("| part | what is compared |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE) == list(PARTS)
