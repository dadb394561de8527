import importlib.metadata
import os
import subprocess
import sys
import tarfile
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


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Directory of sdist and wheel, built from what git knows: builds that went before leave files behind."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    files = [*tracked("htpo_trl"), "setup.cfg", "pyproject.toml", "README.md", "LICENSE"]
    subprocess.run(["cp", "--parents", *files, source], cwd=ROOT, check=True)
    for build in ("build_sdist", "build_wheel"):
        run_python(f"from setuptools import build_meta; build_meta.{build}({str(built)!r})", cwd=source)
    return built


def tracked(directory):
    """The files there that git knows, or would with the next `git add`."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", directory]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {name for name in listed.split("\0") if name and (ROOT / name).is_file()}


def test_wheel_holds_the_package_and_no_tests(distributions, tmp_path):
    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {*archive.namelist()}
        archive.extractall(tmp_path)
    metadata = f"htpo_trl-{htpo_trl.__version__}.dist-info"
    assert {name for name in names if not name.startswith(f"{metadata}/")} == tracked("htpo_trl")
    assert f"{metadata}/licenses/LICENSE" in names
    where = run_python(
        "import htpo_trl; from htpo_trl.objective import PRESETS; print(htpo_trl.__file__)",
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert str(tmp_path) in where


def test_sdist_builds_the_same(distributions):
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if archive.getmember(name).isfile()}
    made = {name for name in names if name == "PKG-INFO" or name.startswith("htpo_trl.egg-info/")}
    assert names - made == tracked("htpo_trl") | {"setup.cfg", "pyproject.toml", "README.md", "LICENSE"}
