"""The documentation site: it builds without a warning, knows every public name, and what it says of the code is so."""

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import os
import pkgutil
import pydoc
import re
import sys
import tomllib
from importlib.metadata import version
from urllib.parse import urlsplit

import pytest
from accelerate.commands.launch import launch_command_parser
from sphinx.cmd.build import main as sphinx
from sphinx.util.inventory import InventoryFile
from trl import GRPOConfig

import htpo_trl
from htpo_trl import HTPOConfig
from htpo_trl.cli.launch import Parallelism
from htpo_trl.cli.plan import plan_run
from htpo_trl.scripts import htpo
from htpo_trl.scripts.arguments import read
from htpo_trl.scripts.flags import flags_of

from ..forks import Forks
from ..markdown import DOCUMENTS, ROOT, anchors, blocks, headings, links, name, tables


REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
TESTED = re.search(r"^trl==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
pytestmark = pytest.mark.skipif(version("trl") != TESTED, reason=f"the pages describe what there is with TRL {TESTED}")


def build(output):
    options = ["-W", "--keep-going", "-n", "-q", "-d", f"{output}/doctrees"]
    sys.exit(sphinx([*options, f"{ROOT}/docs", f"{output}/html"]))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Built from nothing, as by `make docs`."""
    output = tmp_path_factory.mktemp("site")
    Forks(build, output, output=output / "output.txt").finish()
    return output / "html"


@pytest.fixture(scope="module")
def documented(site):
    """Name → kind of everything in the API reference."""
    with (site / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", os.path.join)
    return {name: kind for kind in inventory if kind.startswith("py:") for name in inventory[kind]}


def public(module):
    """What users may import from a module: `__all__`, or else what it defines."""
    if hasattr(module, "__all__"):
        return [each for each in module.__all__ if not each.startswith("_")]
    names = []
    for node in ast.parse(inspect.getsource(module)).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
        names += [getattr(target, "name", getattr(target, "id", "_")) for target in targets if not is_import(node)]
    return [each for each in names if not each.startswith("_")]


def is_import(node):
    return isinstance(node, ast.Import | ast.ImportFrom)


def test_every_public_name_is_documented(documented):
    """Where it is defined, or where users import it from."""
    objects = {id(found) for each in documented if (found := pydoc.locate(each)) is not None}
    missing = []
    for info in pkgutil.walk_packages(htpo_trl.__path__, "htpo_trl."):
        module = importlib.import_module(info.name)
        for each in public(module):
            value = getattr(module, each)
            # What a package hands on is on the page of the module that it is from.
            can_be_the_same = callable(value) or hasattr(module, "__path__")
            is_known = f"{info.name}.{each}" in documented or (can_be_the_same and id(value) in objects)
            if not is_known and getattr(value, "__module__", "htpo_trl").startswith("htpo_trl"):
                missing.append(f"{info.name}.{each}")
    assert not missing, "no docstring (constants: no comment `#:` above), or their module is on no page of docs/api"
    assert {"htpo_trl.HTPOConfig", "htpo_trl.HTPOTrainer", "htpo_trl.objective.presets.PRESETS"} <= documented.keys()


def test_nothing_is_loaded_from_elsewhere(site):
    for page in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.read_text()):
            if BADGE not in tag:  # of the notebooks
                assert not re.search(r'(?:src|href)="(?:https?:)?//', tag), (page, tag)


def test_links_to_the_repository(site):
    """Relative ones, which GitHub follows, become absolute on the site, or lead to its own pages."""
    page = (site / "invariance.html").read_text()
    assert f'href="{REPOSITORY}/blob/main/tests/processes/test_invariance.py"' in page
    assert 'href="../contributing.html#where-things-are"' in (site / "api/internals.html").read_text()
    assert 'href="compatibility.html"' in (site / "contributing.html").read_text()
    assert "../" not in "".join(re.findall(r"<article.*?</article>", page, re.DOTALL))


class TestDocstrings:
    @pytest.fixture
    def to_myst(self, monkeypatch):
        monkeypatch.syspath_prepend(ROOT / "docs")
        return importlib.import_module("docstrings").to_myst

    def test_sections_and_references(self, to_myst):
        text = inspect.cleandoc(
            """
            See [`Table`] and [`~trl.GRPOTrainer`].

            Args:
                table ([`Table`] or `str`, *optional*, defaults to `"htpo"`):
                    The objective:

                    - or its name.
                first, second (`int`):
                    Two.
                **config:
                    Others.

            Returns:
                [`Control`]: of all.

            Raises:
                ValueError: for another
                    name.

            Example:

            ```python
            Args: [`no`]
            ```
            >>> 1 + 1
            2
            """
        )
        assert to_myst(text) == inspect.cleandoc(
            """
            See {py:obj}`~.Table` and {py:obj}`~trl.GRPOTrainer`.

            :Parameters:
                `table` ({py:obj}`~.Table` or `str`, *optional*, defaults to `"htpo"`)
                :   The objective:

                    - or its name.

                `first`, `second` (`int`)
                :   Two.

                `**config`
                :   Others.

            :Returns:
                {py:obj}`~.Control`: of all.

            :Raises:
                - {py:obj}`~.ValueError`: for another name.

            **Example**

            ```python
            Args: [`no`]
            ```
            ```pycon
            >>> 1 + 1
            2
            ```
            """
        )

    def test_fields_that_say_what_they_are(self, monkeypatch):
        """A dataclass without `Args:` is documented by its own fields' metadata, as its help is."""
        monkeypatch.syspath_prepend(ROOT / "docs")
        docstrings = importlib.import_module("docstrings")

        @dataclasses.dataclass
        class Base:
            inherited: int = dataclasses.field(default=1, metadata={"help": "Not again."})

        @dataclasses.dataclass
        class Options(Base):
            """What there is to choose."""

            name: str | None = dataclasses.field(default=None, metadata={"help": "A name."})
            sizes: list[int] = dataclasses.field(default_factory=lambda: [1, 2], metadata={"help": "Sizes."})
            plain: int = 0

        lines = ["What there is to choose."]
        Options.__module__ = "htpo_trl.options"
        docstrings.process_docstring(None, "class", "Options", Options, None, lines)
        assert [line.strip() for line in lines if line.strip()] == [
            ".. myst::",
            "What there is to choose.",
            ":Parameters:",
            "`name` (`str | None`, *optional*)",
            ":   A name.",
            "`sizes` (`list[int]`, *optional*, defaults to `[1, 2]`)",
            ":   Sizes.",
        ]

    def test_what_is_not_of_the_grammar(self, to_myst):
        with pytest.raises(ValueError, match="Not `name"):
            to_myst("Args:\n    table: a table\n        of rules")

    def test_as_pages(self, site):
        page = (site / "api/trainer.html").read_text()
        assert '<span class="pre">objective_overrides</span>' in page
        assert "Downloaded copy of a set" in (site / "api/command_line.html").read_text()  # from a field's metadata
        assert "per_device_train_batch_size" not in page  # TRL's options are TRL's to document
        assert 'href="#htpo_trl.HTPOTrainer" title="htpo_trl.HTPOTrainer"' in page
        for page in (site / "api").glob("*.html"):
            assert '[<code class="docutils' not in page.read_text(), "a reference that was not converted"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_lead_somewhere(document):
    for target in links(document):
        url = urlsplit(target)
        if url.scheme:
            assert (url.scheme, bool(url.netloc)) == ("https", True), target
            assert "htpo_trl" not in url.path or target.startswith(REPOSITORY), target
            continue
        path = (document.parent / url.path).resolve() if url.path else document
        assert path.is_relative_to(ROOT), target
        assert path.exists(), target
        assert not url.fragment or url.fragment in anchors(path), target


def messages():
    """The texts in the sources, with \\0 for what is filled in."""
    packages = {"trl": ["import_utils"], "transformers": ["training_args"], "datasets": ["load"]}
    files = [*(ROOT / "htpo_trl").rglob("*.py")]
    for package, modules in packages.items():
        directory = importlib.util.find_spec(package).submodule_search_locations[0]
        files += [ROOT / directory / f"{module}.py" for module in modules]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_errors_that_are_explained_exist():
    texts = [*messages()]
    quoted = [heading[1:-1] for heading in headings(ROOT / "docs/troubleshooting.md") if re.fullmatch("`.*`", heading)]
    assert len(quoted) > 20
    for message in quoted:
        pattern = re.compile(".*".join(map(re.escape, message.split("…"))), re.DOTALL)
        assert any(pattern.search(text) for text in texts), f"nothing says {message!r}"


def test_security_claims():
    """What docs/security.md says that the source does not do."""
    for file in (ROOT / "htpo_trl").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("eval", "exec", "compile", "os.system", "torch.load"), file
                assert "shell" not in {keyword.arg for keyword in node.keywords}, file
            elif is_import(node):
                assert not {"pickle", "marshal", "dill", "shelve"} & {alias.name for alias in node.names}, file


class TestMigrating:
    """docs/migrating.md against the classes."""

    def table(self, *header):
        (found,) = (rows for rows in tables(ROOT / "docs/migrating.md") if tuple(rows[0][: len(header)]) == header)
        return found[1:]

    def test_every_default_that_differs(self):
        trl, ours = ({f.name: f.default for f in dataclasses.fields(c)} for c in (GRPOConfig, HTPOConfig))
        differ = {option: (trl[option], ours[option]) for option in trl if trl[option] != ours[option]}
        # In both classes None, and made of another option, or of the objective.
        differ |= {"steps_per_generation": ("1 x", "4 x"), "epsilon_high": (None, None)}
        rows = self.table("option", "`GRPOConfig`", "`HTPOConfig`")
        said = {row[0].strip("`"): tuple(re.match("`(.*?)`", cell)[1] for cell in row[1:3]) for row in rows}
        assert said == {option: tuple(map(str, values)) for option, values in differ.items()}

    def test_options_for_verls_exist(self):
        known = {*flags_of(htpo.TITLES), *vars(launch_command_parser().parse_args(["script"])), "accelerate_config"}
        rows = self.table("verl", "here")
        options = {option for row in rows for option in re.findall("`(.*?)`", row[1])}
        assert len(rows) > 30
        assert not options - known


def test_plan_that_is_shown_is_the_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (shown,) = (block for block in blocks(ROOT / "docs/getting_started.md", "text") if block.startswith("Run:"))
    assert plan_run(read(["--config", "qwen3-0.6b-lora"], htpo.TITLES), Parallelism()).startswith(shown)
