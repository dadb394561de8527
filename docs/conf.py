"""The documentation site. `make docs` writes it to docs/_build/html, without the network."""

import sys
import tomllib
from pathlib import Path


HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]

project = PROJECT["name"]
release = version = PROJECT["version"]
author = copyright = f"the contributors of {project}"
repository = PROJECT["urls"]["Repository"]

extensions = ["myst_nb", "sphinx.ext.viewcode", "docstrings", "links"]
exclude_patterns = ["_build"]
nitpicky = True
# Other packages have no inventory here, since nothing is downloaded. Ours must resolve.
OTHERS = (
    *("accelerate", "datasets", "jaxtyping", "numpy", "pandas", "peft", "pyarrow", "torch", "transformers", "trl"),
    *("argparse", "collections", "fractions", "multiprocessing", "pathlib", "random", "signal", "socket", "types"),
)
nitpick_ignore_regex = [("py:.*", rf"({'|'.join(OTHERS)})\..*")]
nitpick_ignore = [("py:class", name) for name in ("Dataset", "DatasetDict", "Tensor")]  # as annotations name them

myst_enable_extensions = ["alert", "deflist", "fieldlist"]
myst_heading_anchors = 3
nb_execution_mode = "off"
smartquotes = False

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = project
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"source_repository": repository, "source_branch": "main", "source_directory": "docs/"}
pygments_dark_style = "github-dark"
