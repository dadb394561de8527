"""The page of a report as HTML: what its sections are made of, and `page.html.jinja`, which escapes every text."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined


class HtmlTable(NamedTuple):
    """Header and rows of text, the first `text_columns` to the left, numbers to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1


class Picture(NamedTuple):
    """A PNG with what it shows, in words."""

    png: bytes
    alt: str


Block = str | HtmlTable | Picture


class Section(NamedTuple):
    """A part of the page: paragraphs, tables and pictures under a heading that the contents link to."""

    anchor: str
    heading: str
    content: Sequence[Block]


def render(title: str, sections: Sequence[Section]) -> str:
    """The page, self-contained: no script, nothing from the network."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    return environment.get_template("page.html.jinja").render(title=title, sections=sections)
