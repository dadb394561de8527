"""A self-contained HTML page: no script, nothing from the network. Every text is escaped here, and only here."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from string import Template
from typing import NamedTuple


class Table(NamedTuple):
    """Header and rows of text, the first `text_columns` to the left, numbers to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1


class Picture(NamedTuple):
    """A PNG with what it shows, in words."""

    png: bytes
    alt: str


Block = str | Table | Picture


class Section(NamedTuple):
    """A part of the page: paragraphs, tables and pictures under a heading that the contents link to."""

    anchor: str
    heading: str
    content: Sequence[Block]


_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark;
  --text: #1b1b1b; --page: #ffffff; --line: #d4d4d4; --pale: #f3f4f6; --link: #0b57a4; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e8e8e8; --page: #17181a; --line: #45474b; --pale: #232528; --link: #8ab8f0; }
}
body { margin: 0 auto; max-width: 70rem; padding: 1rem 1.5rem 4rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
a { color: var(--link); }
p { max-width: 50rem; }
nav ul { columns: 3 16rem; padding-left: 1.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .7rem; text-align: right; vertical-align: top; }
th { background: var(--pale); } .text { text-align: left; max-width: 26rem; }
td:not(.text) { white-space: nowrap; }
img { display: block; max-width: 100%; background: #ffffff; border: 1px solid var(--line); border-radius: 4px; }
@media print {
  :root { --text: #000000; --page: #ffffff; --line: #999999; --pale: #eeeeee; --link: #000000; }
  body { max-width: none; padding: 0; font-size: .8rem; } nav { display: none; }
  img, tr { break-inside: avoid; } h2 { break-after: avoid; } .scroll { overflow: visible; }
}
</style>
</head>
<body>
<h1>$title</h1>
<nav aria-label="Contents"><ul>
$contents
</ul></nav>
$sections
</body>
</html>
""")


def render(title: str, sections: Iterable[Section]) -> str:
    """The page as HTML."""
    sections = list(sections)
    contents = [f'<li><a href="#{escape(s.anchor)}">{escape(s.heading)}</a></li>' for s in sections]
    bodies = [
        f'<section>\n<h2 id="{escape(s.anchor)}">{escape(s.heading)}</h2>\n'
        + "\n".join(map(_block, s.content))
        + "\n</section>"
        for s in sections
    ]
    return _PAGE.substitute(title=escape(title), contents="\n".join(contents), sections="\n".join(bodies))


def _block(block: Block) -> str:
    if isinstance(block, str):
        return f"<p>{escape(block)}</p>"
    if isinstance(block, Picture):
        data = base64.b64encode(block.png).decode()
        return f'<img src="data:image/png;base64,{data}" alt="{escape(block.alt)}">'
    head = _row("th", block.header, block.text_columns)
    body = "\n".join(_row("td", row, block.text_columns) for row in block.rows)
    return f'<div class="scroll"><table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _row(tag: str, cells: Sequence[str], text_columns: int) -> str:
    scope = ' scope="col"' if tag == "th" else ""
    return (
        "<tr>"
        + "".join(
            f"<{tag}{scope}{' class=text' if i < text_columns else ''}>{escape(cell)}</{tag}>"
            for i, cell in enumerate(cells)
        )
        + "</tr>"
    )
