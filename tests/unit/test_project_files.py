"""Citation, security, hooks, workflows and forms: they parse, name what exists, and agree with the metadata."""

import contextlib
import re
import shlex
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from htpo_trl import HTPOTrainer
from htpo_trl.cli import make_parser
from htpo_trl.cli.commands import COMMANDS
from htpo_trl.demo.laptop import LaptopConfig
from htpo_trl.scripts.arguments import parser_of


ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
REPOSITORY = PROJECT["urls"]["Repository"]
REPORTING = f"{REPOSITORY}/security/advisories/new"
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#")
PYTHONS = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
# Target → its recipe.
RULES = re.findall(r"^([a-z-]+):(?!=).*\n((?:\t.*\n)*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
MAKE = {target: [line.strip("\t@") for line in recipe.splitlines()] for target, recipe in RULES}


def load(path):
    return yaml.safe_load(path.read_text())


WORKFLOWS = {path.stem: load(path) for path in (GITHUB / "workflows").glob("*.yml")}
JOBS = {f"{name}/{job}": content for name, flow in WORKFLOWS.items() for job, content in flow["jobs"].items()}
FORMS = {path.stem: load(path) for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml")}
CONTACT = FORMS.pop("config")


def steps(job, kind):
    return [step[kind] for step in JOBS[job].get("steps", ()) if kind in step]


def named_in_text():
    """The commands of this project that the texts name, between backticks."""
    paths = [ROOT / "SECURITY.md", ROOT / ".pre-commit-config.yaml", *(p for p in GITHUB.rglob("*") if p.is_file())]
    return {code for path in paths for code in re.findall(r"`((?:make|htpo) .*?)`", path.read_text())}


class TestCitation:
    CITATION = load(ROOT / "CITATION.cff")

    def test_is_of_this_package(self):
        cited = self.CITATION
        assert (cited["cff-version"], cited["type"]) == ("1.2.0", "software")
        assert cited["message"]
        assert [author["name"] for author in cited["authors"]]
        metadata = {key: PROJECT[key] for key in ("version", "license", "keywords")}
        assert {key: cited[key] for key in metadata} == metadata
        assert (cited["title"], cited["repository-code"]) == (PROJECT["name"], REPOSITORY)

    def test_names_the_paper_as_model_cards_do(self):
        (paper,) = self.CITATION["references"]
        id_ = HTPOTrainer._paper["id"]
        assert (paper["title"], paper["url"]) == (HTPOTrainer._paper["title"], f"https://arxiv.org/abs/{id_}")
        assert paper["identifiers"] == [{"type": "other", "value": f"arXiv:{id_}"}]
        bibtex = HTPOTrainer._paper["citation"]
        authors = re.search(r"author\s*= \{(.*)\}", bibtex)[1].split(" and ")
        assert [f"{author['given-names']} {author['family-names']}" for author in paper["authors"]] == authors
        assert f"{paper['year']}" == re.search(r"year\s*= (\d+)", bibtex)[1]


class TestMetadata:
    def test_one_set_of_python_versions(self):
        oldest = PYTHONS[0]
        assert PROJECT["requires-python"] == f">={oldest}"
        assert PYPROJECT["tool"]["mypy"]["python_version"] == oldest
        assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
        tests = JOBS["tests/tests"]
        matrix = tests["strategy"]["matrix"]
        assert matrix["python"] == PYTHONS
        # A version that no classifier names is tried, and may fail.
        assert all(extra["experimental"] and extra["python"] not in PYTHONS for extra in matrix["include"])
        assert tests["continue-on-error"] == "${{ matrix.experimental == true }}"
        assert tests["container"]["image"] == "python:${{ matrix.python }}-bookworm"
        others = [
            step["with"]["python-version"]
            for job in JOBS.values()
            for step in job.get("steps", ())
            if "with" in step and step["uses"].startswith("actions/setup-python")
        ]
        assert others
        assert {*others} <= {*PYTHONS}

    def test_what_is_tested_is_what_the_metadata_admits(self):
        pinned = {name.lower().replace("_", "-") for name in PINS}
        assert {"ruff", "mypy"} <= pinned
        extras = PROJECT["optional-dependencies"].values()
        for requirement in map(Requirement, [*PROJECT["dependencies"], *(each for extra in extras for each in extra)]):
            pin = next((PINS[name] for name in PINS if name.lower() == requirement.name.lower()), None)
            assert pin is None or requirement.specifier.contains(pin), requirement


class TestPreCommit:
    HOOKS = load(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"]

    def test_does_what_make_lint_does(self):
        assert [hook["entry"] for hook in self.HOOKS] == [line.replace("$(VENV)", ".venv") for line in MAKE["lint"]]
        # The same tools on the same files: not an environment of pre-commit's, nor the changed files alone.
        assert all((hook["language"], hook["pass_filenames"]) == ("system", False) for hook in self.HOOKS)

    @pytest.mark.parametrize("path", ["htpo_trl/trainer.py", "htpo_trl/cli/__init__.pyi", "pyproject.toml"])
    def test_runs_when_its_result_can_change(self, path):
        assert all(re.search(hook["files"], path) for hook in self.HOOKS)


class TestWorkflows:
    @pytest.mark.parametrize(
        ("job", "commands"),
        [
            ("tests/tests", ["make lint", "make test"]),
            ("docs/docs", ["make docs"]),
            ("release/build", ["python -m build", "python -m twine check --strict dist/*"]),
            ("release/install", ["empty/bin/htpo --help", "empty/bin/htpo demo --quick --output_dir runs"]),
        ],
    )
    def test_does_its_work(self, job, commands):
        assert [command for command in steps(job, "run") if command in commands] == commands

    def test_release_is_built_once_tried_and_tested(self):
        jobs = WORKFLOWS["release"]["jobs"]
        publish = jobs["publish"]
        assert {*publish["needs"]} == {"build", "install", "tests"} == {*jobs} - {"publish"}
        assert publish["if"] == jobs["tests"]["if"] == "startsWith(github.ref, 'refs/tags/v')"
        assert steps("release/publish", "uses")[-1].startswith("pypa/gh-action-pypi-publish@")
        assert len(steps("release/publish", "uses")) == 2  # nothing that could change what was tried
        assert not steps("release/publish", "run")
        (checked,) = [run for run in steps("release/build", "run") if "GITHUB_REF_NAME" in run]
        assert f"dist/{PROJECT['name']}-${{GITHUB_REF_NAME#v}}.tar.gz" in checked  # the tag is the version

    def test_may_do_no_more_than_it_must(self):
        for flow in WORKFLOWS.values():
            assert flow["permissions"] == {"contents": "read"}
        granted = {name: job["permissions"] for name, job in JOBS.items() if "permissions" in job}
        assert granted == {"release/publish": {"id-token": "write"}}  # trusted publishing
        for job in JOBS.values():
            for step in job.get("steps", ()):
                if step.get("uses", "").startswith("actions/checkout"):
                    assert step["with"] == {"persist-credentials": False}

    @pytest.mark.parametrize("job", JOBS)
    def test_uses_what_exists(self, job):
        if "uses" in JOBS[job]:
            called = JOBS[job]["uses"]
            assert (ROOT / called).is_file()
            assert "workflow_call" in WORKFLOWS[Path(called).stem][True]  # YAML 1.1 reads the key `on` so
            return
        assert JOBS[job]["timeout-minutes"]
        for used in steps(job, "uses"):
            assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", used), used
        for run in steps(job, "run"):
            for command in re.split(r" && |\n", run):
                check_command(command, steps(job, "run"))


@pytest.mark.parametrize("command", sorted(named_in_text()))
def test_commands_of_the_texts_exist(command):
    check_command(command)


def check_command(command, job=()):
    """Make has the target, `htpo` the sub-command and its options; Python has the module, or `job` installs it."""
    program, *words = shlex.split(command)
    name = Path(program).name
    if name == "make":
        assert {*words} <= MAKE.keys(), command
    elif name == "htpo":
        with contextlib.suppress(SystemExit) if "--help" in words else contextlib.nullcontext():
            arguments, options = make_parser().parse_known_args(words)
            assert not options or COMMANDS[arguments.command].titles, command
            if arguments.command == "demo":
                LaptopConfig(**vars(parser_of(LaptopConfig).parse_args(options)))
    elif name == "python":
        assert words[0] == "-m"
        installed = re.findall(r"(\w+)==", "\n".join(job))
        assert words[1] in installed or find_spec(words[1]), command
    else:
        assert name in {"apt-get", "git", "test"}, command


class TestIssueForms:
    def test_bug_report_asks_for_what_is_needed(self):
        asked = {field["id"]: field for field in FORMS["bug"]["body"]}
        assert "`htpo check`" in asked["environment"]["attributes"]["description"]
        required = {name for name, field in asked.items() if field["validations"]["required"]}
        assert {"environment", "command", "happened"} <= required

    @pytest.mark.parametrize("form", FORMS)
    def test_is_a_form(self, form):
        assert {"name", "description", "body"} <= FORMS[form].keys()
        assert all(field["attributes"]["label"] for field in FORMS[form]["body"])
        names = [field["id"] for field in FORMS[form]["body"]]
        assert len({*names}) == len(names)

    def test_contacts_are_of_this_repository(self):
        urls = [link["url"] for link in CONTACT["contact_links"]]
        assert REPORTING in urls
        for url in urls:
            assert url.startswith(REPOSITORY)
            page = url.partition("/blob/main/")[2]
            assert not page or (ROOT / page).is_file()


def test_vulnerabilities_are_reported_in_private():
    text = (ROOT / "SECURITY.md").read_text()
    assert f"]({REPORTING})" in text
    assert "](docs/security.md)" in text
    # The threat model in ten lines.
    assert re.findall(r"^(\d+)\. ", text, re.MULTILINE) == [str(n) for n in range(1, 11)]
