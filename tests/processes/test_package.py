import importlib.metadata
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import htpo_trl


ROOT = Path(__file__).parents[2]


def run_python(code, **kwargs):
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, **kwargs).stdout


def test_exported_names():
    assert htpo_trl.__all__ == ["HTPOConfig", "HTPOTrainer", "__version__"]
    assert all(getattr(htpo_trl, name) for name in htpo_trl.__all__)
    assert htpo_trl.__version__ == importlib.metadata.version("htpo_trl")
    with pytest.raises(AttributeError, match="GRPOTrainer"):
        _ = htpo_trl.GRPOTrainer


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import htpo_trl", {"torch", "trl", "transformers", "datasets"}),
        (
            "import htpo_trl.cli; htpo_trl.cli.make_parser().format_help()",
            {"torch", "trl", "transformers", "datasets"},
        ),
        ("import htpo_trl.data", {"torch", "trl", "transformers", "datasets", "reasoning_gym"}),
        ("import htpo_trl.objective", {"trl", "transformers", "datasets", "accelerate"}),
        ("import htpo_trl.report", {"torch", "trl", "transformers", "matplotlib", "pandas"}),
        ("from htpo_trl.report import write_report", {"torch", "trl", "transformers", "matplotlib"}),
    ],
)
def test_imports_cost_no_more_than_they_need(statement, absent):
    loaded = run_python(f"{statement}; import sys; print(*(m for m in sys.modules if '.' not in m))").split()
    assert not absent & set(loaded)


def test_wheel_holds_the_package_and_no_tests(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", str(tmp_path)]
    # From a copy of what git knows: a build leaves files behind.
    source = tmp_path / "source"
    source.mkdir()
    files = ["htpo_trl", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"]
    subprocess.run(["cp", "-r", *files, str(source)], cwd=ROOT, check=True)
    subprocess.run([*build, str(source)], check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    top = {name.split("/")[0] for name in names}
    assert top == {"htpo_trl", f"htpo_trl-{htpo_trl.__version__}.dist-info"}
    assert "htpo_trl/py.typed" in names
    assert {f"htpo_trl/{p.name}" for p in (ROOT / "htpo_trl").glob("*.py")} <= set(names)
    assert {f"htpo_trl/report/{p.name}" for p in (ROOT / "htpo_trl" / "report").glob("*.*")} <= set(names)
    assert f"htpo_trl-{htpo_trl.__version__}.dist-info/licenses/LICENSE" in names
    where = run_python(
        "import htpo_trl; from htpo_trl.objective import PRESETS; print(htpo_trl.__file__)",
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )
    assert str(tmp_path / "site") in where
