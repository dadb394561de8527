"""What a part of `htpo check` is started with, and what of its output is published."""

import re
import sys
import tempfile
from pathlib import Path

import pytest

import htpo_trl
from htpo_trl.check import run
from htpo_trl.check.parts import PARTS


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


def test_chosen():
    names = list(PARTS)
    assert run.chosen(None, []) == names
    assert run.chosen(["resume", "versions"], []) == ["versions", "resume"]
    assert run.chosen(None, ["versions"]) == names[1:]


def test_the_page_has_every_part():
    page = (Path(__file__).parents[2] / "docs/command_line.md").read_text()
    table = page.split("| part | what is compared |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE) == list(PARTS)
