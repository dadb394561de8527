"""Links of the pages to files of the repository: relative on GitHub, on the site they lead there."""

import os
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform


# Files beside `docs/` that are pages of the site too.
PAGES = {"README.md": "index", "CONTRIBUTING.md": "contributing", "CHANGELOG.md": "changelog"}


class RepositoryLinks(SphinxTransform):
    """What MyST takes for a download (a file) or a reference (a folder, a page), outside `docs/`."""

    default_priority = 5

    def apply(self, **kwargs) -> None:
        folder = Path(self.env.doc2path(self.env.docname)).parent
        links = [
            n for kind in (addnodes.download_reference, addnodes.pending_xref) for n in self.document.findall(kind)
        ]
        for node in links:
            target, _, anchor = node["reftarget"].partition("#")
            if node["refdomain"] == "doc":  # Markdown: its name without suffix
                target, anchor = f"{target}.md", node["reftargetid"]
            path = Path(os.path.normpath(folder / target))
            if node["reftype"] != "myst" or not path.exists() or path.is_relative_to(self.app.srcdir):
                continue
            name = path.relative_to(Path(self.app.srcdir).parent).as_posix()
            if name in PAGES:
                link = addnodes.pending_xref("", *node.children, **node.attributes)
                link.attributes |= {"refdomain": "doc", "reftarget": PAGES[name], "reftargetid": anchor or None}
            else:
                url = f"{self.config.repository}/{'tree' if path.is_dir() else 'blob'}/main/{name}"
                link = nodes.reference("", "", *node.children, refuri=f"{url}#{anchor}" if anchor else url)
            node.replace_self(link)


def setup(app: Sphinx) -> dict[str, bool]:
    """Entry point of the extension."""
    app.add_config_value("repository", "", "env")
    app.add_transform(RepositoryLinks)
    return {"parallel_read_safe": True}
