"""The documents of the repository as their readers' tools parse them."""

import re
from pathlib import Path

from markdown_it import MarkdownIt


ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").rglob("*.md"))
DOCUMENTS = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")), *DOCS]


def name(document):
    return str(document.relative_to(ROOT))


def tokens(document):
    return MarkdownIt("commonmark").enable("table").parse(document.read_text())


def blocks(document, language):
    """The fenced blocks in a language."""
    return [token.content for token in tokens(document) if token.type == "fence" and token.info == language]


def headings(document):
    """The text of each heading, with its marks."""
    parsed = tokens(document)
    return [parsed[i + 1].content for i, token in enumerate(parsed) if token.type == "heading_open"]


def anchors(document):
    """As GitHub and MyST make them."""
    texts = [re.sub(r"\[(.*?)\]\(.*?\)|`", r"\1", text) for text in headings(document)]
    return {re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-") for text in texts}


def links(document):
    """The targets of links and images."""
    children = [child for token in tokens(document) for child in token.children or []]
    return [
        child.attrGet("href") or child.attrGet("src") for child in children if child.type in ("link_open", "image")
    ]


def tables(document):
    """Each table as rows of cells."""
    found, row = [], []
    for token, following in zip(parsed := tokens(document), parsed[1:], strict=False):
        if token.type == "table_open":
            found.append([])
        elif token.type in ("th_open", "td_open"):
            row.append(following.content)
        elif token.type == "tr_close":
            found[-1].append(row)
            row = []
    return found
