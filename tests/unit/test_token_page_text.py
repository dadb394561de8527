"""
That the token map shows what a record says as text, whoever made the record: in the page as a parser of HTML reads it,
and in the terminal. `processes/test_token_map.py` opens pages in a browser.
"""

import io
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from rich.console import Console

from htpo_trl.objective import PRESETS
from htpo_trl.tokens import RecordSettings, print_token_map, write_token_map
from htpo_trl.tokens.record import write_record

from ..token_records import completion_row


MARKUP = "</title><img src=x onerror=alert(1)> {}"


class Elements(HTMLParser):
    """Elements and attributes of a page by name, and all text that stands in each kind of element."""

    def __init__(self, html):
        super().__init__()
        self.names, self.texts, self.open = set(), {}, []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.names |= {tag, *(name for name, _ in attributes)}
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts[tag] = self.texts.get(tag, "") + data


@pytest.fixture
def record(tmp_path):
    """A record each of whose names is made by `mark`, in a directory whose name is."""

    def record(mark, directory="run"):
        table = replace(PRESETS["htpo"], name=mark.format("objective"))
        versions = {"trl": mark.format("version")}
        settings = RecordSettings(1, 1, table, 0.2, 0.28, 10.0, 0.2, [mark.format("reward")], versions)
        write_record(tmp_path / directory, settings, [completion_row(["1", "2"])])
        return tmp_path / directory

    return record


def test_names_are_text_on_the_page(record, tmp_path):
    run = record(MARKUP, directory="<img src=x onerror=alert(1)> run")
    other = replace(PRESETS["dapo"], name=MARKUP.format("other"))
    page = Elements(write_token_map(run, versus=other, output=tmp_path / "page.html").read_text())
    assert not {"img", "src", "onerror"} & page.names
    shown = {"title": [run.name], "h1": [run.name], "caption": [], "h3": [], "h2": [MARKUP.format("reward")]}
    for tag in ("h1", "caption", "h3"):
        shown[tag] += [MARKUP.format("objective"), MARKUP.format("other")]
    shown["footer"] = [MARKUP.format("version")]
    assert {tag: [text in page.texts[tag] for text in texts] for tag, texts in shown.items()} == {
        tag: [True] * len(texts) for tag, texts in shown.items()
    }


def test_names_move_no_cursor(record):
    """They reach the terminal as tokens do: escape sequences and marks of direction are written out."""
    console = Console(file=io.StringIO(), width=300, highlight=False, no_color=True)
    print_token_map(record("\x1b]0;{}\x07\u202e"), console=console)
    text = console.file.getvalue()
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert text.count("␛]0;objective␇⟨U+202E⟩") == 3  # headline, legend, completion
    assert text.count("␛]0;reward␇⟨U+202E⟩") == 1
