"""The notebooks: each runs from top to bottom in its reduced setting, and is one with its text form."""

import os
import re
import sys
from pathlib import Path

import jupytext
import nbclient
import nbformat
import pytest
from ipykernel.kernelapp import launch_new_instance
from jupyter_client import AsyncKernelManager

from ..forks import Forks


ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))
REPOSITORY = re.search(r'Repository = "https://github\.com/(.*)"', (ROOT / "pyproject.toml").read_text())[1]

PICTURES = {"01_quickstart_laptop": 2, "02_lora_colab": 0, "03_your_own_objective": 1, "04_reading_a_run": 6}


def cells(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_there_are_four_pairs():
    assert [path.stem[:2] for path in SOURCES] == ["01", "02", "03", "04"]
    assert {path.stem for path in SOURCES} == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_pair_agrees_and_holds_no_output(source):
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(notebook)
    assert cells(notebook) == cells(jupytext.read(source)), "run: jupytext --sync notebooks/*.py"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert "pip" in code[0].source
    assert f"git+https://github.com/{REPOSITORY}" in code[0].source
    badge = f"(https://colab.research.google.com/github/{REPOSITORY}/blob/main/notebooks/{source.stem}.ipynb)"
    assert badge in notebook.cells[0].source
    assert "PUSH_TO_HUB = False" in source.read_text()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """One for all, as in a clone of the repository: the last notebook reads the runs of the first."""
    return tmp_path_factory.mktemp("notebooks")


def run_kernel(directory, connection_file):
    os.chdir(directory)
    launch_new_instance(argv=["-f", connection_file])


class Kernel(AsyncKernelManager):
    """A kernel that need not import what the notebooks import."""

    has_kernel = True

    def __init__(self, directory):
        super().__init__()
        self.write_connection_file()
        self.forks = Forks(run_kernel, directory, self.connection_file, output=directory / "output.txt")

    async def _async_is_alive(self):
        return not self.forks.ended()

    async def shutdown_kernel(self, *args, **kwargs):
        self.forks.kill()

    is_alive = _async_is_alive


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_it_runs_from_top_to_bottom(source, directory, monkeypatch):
    for name, value in {"HTPO_REDUCED": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)
    # The commands that a cell calls are those of the interpreter of the tests.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    kernel = Kernel(directory)
    try:
        nbclient.NotebookClient(notebook, kernel, timeout=600).execute()
    finally:
        kernel.forks.kill()
        kernel.cleanup_resources()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    pictures = [output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == PICTURES[source.stem]
