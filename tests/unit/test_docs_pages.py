"""What the pages of the docs say about the code: their defaults and citations are true."""

import ast
import dataclasses
import re
from pathlib import Path

import yaml
from trl import GRPOConfig, ModelConfig

from docs import figure_data
from htpo_trl import HTPOConfig
from htpo_trl.objective.table import SETTINGS
from htpo_trl.scripts.htpo import HTPOScriptArguments


ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAPERS = DOCS / "papers.md"


def test_defaults_are_those_of_the_code():
    classes = (ModelConfig, HTPOScriptArguments, HTPOConfig)
    defaults = {field.name: field.default for cls in classes for field in dataclasses.fields(cls)}
    recipe = yaml.safe_load((ROOT / "htpo_trl/recipes/paper/qwen3-8b-base.yaml").read_text())
    table = (DOCS / "hyperparameters.md").read_text().split("| option | default |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| (.+?) \|$", table, re.MULTILINE)
    assert len(rows) == table.count("\n") - 1
    for option, default, paper in rows:
        assert ast.literal_eval(default) == defaults[option], option
        assert (ast.literal_eval(paper[1:-1]) if paper != "-" else None) == recipe.get(option), option


def test_every_option_of_ours_is_explained():
    ours = set(HTPOConfig.__dataclass_fields__) - set(GRPOConfig.__dataclass_fields__)
    text = (DOCS / "hyperparameters.md").read_text().split("\n## Objective\n")[1]
    assert ours
    assert not {option for option in ours if f"`{option}" not in text}


def test_figures_are_of_the_recipe():
    defaults = {field.name: field.default for field in dataclasses.fields(HTPOConfig)}
    drawn = figure_data.EPSILON_LOW, figure_data.EPSILON_HIGH, figure_data.DELTA
    assert drawn == (SETTINGS["epsilon"], SETTINGS["epsilon_high"], defaults["delta"])


def test_every_citation_is_in_the_paper_index():
    package = ROOT / "htpo_trl"
    sources = {ROOT / "README.md", *package.rglob("*.py"), *package.rglob("*.yaml"), *DOCS.glob("*.md")} - {PAPERS}
    cited = {id_ for path in sources for id_ in re.findall(r"\b[12]\d(?:0\d|1[0-2])\.\d{5}\b", path.read_text())}
    assert {"2605.08283", "2206.14858"} <= cited
    assert cited <= {entry["eprint"] for entry in paper_index().values()}


def test_every_paper_has_its_bibtex():
    for entry in paper_index().values():
        assert set(entry) == {"title", "author", "year", "eprint", "archivePrefix"}
        assert 2000 + int(entry["eprint"][:2]) == int(entry["year"])


def paper_index():
    """The entries of papers.md by BibTeX key: every heading has a link and a BibTeX entry, of the same paper."""
    index = {}
    for text in re.split(r"^### ", PAPERS.read_text(), flags=re.MULTILINE)[1:]:
        (bibtex,) = re.findall(r"```bibtex\n(.*?)```", text, re.DOTALL)
        key, fields = parse_bibtex(bibtex)
        assert key not in index
        index[key] = fields
        id_ = fields["eprint"]
        assert text.split("\n\n")[1] == f"[arXiv {id_}](https://arxiv.org/abs/{id_})"
    return index


def parse_bibtex(text):
    """Key and fields of one entry, whose values are in balanced braces."""
    key, body = re.fullmatch(r"@article\{(\w+),\n(.*)\n\}\n", text, re.DOTALL).groups()
    fields = {}
    for line in body.removesuffix(",").split(",\n"):
        name, value = re.fullmatch(r"\s*(\w+)\s*=\s*\{(.*)\}", line).groups()
        depth = 0
        for character in value:
            depth += (character == "{") - (character == "}")
            assert depth >= 0, line
        assert depth == 0, line
        assert value.strip()
        fields[name] = value
    return key, fields


def test_images_of_the_pages_exist_and_are_described():
    for path in DOCS.glob("*.md"):
        for description, image in re.findall(r"!\[(.*?)\]\((.*?)\)", path.read_text()):
            assert description
            assert (DOCS / image).is_file(), f"{path.name}: {image}"
