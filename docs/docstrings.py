"""
Docstrings of the package as Sphinx shows them.

They are Markdown in Hugging Face's grammar, which reads well in an editor: fences, tables, lists, links such as
[`~trl.GRPOTrainer`], and `Args:` with types between backticks. So they are parsed as Markdown, by the parser of the
pages: `to_myst` turns the grammar into MyST, and the directive `myst` gives it to that parser.
"""

import dataclasses
import inspect
import re
import textwrap

from docutils import nodes
from docutils.utils import new_document
from myst_parser.parsers.sphinx_ import MystParser
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


SECTIONS = {"Args:": "Parameters", "Returns:": "Returns", "Raises:": "Raises"}
PARAMETERS = re.compile(r"([\w*]+(?:, [\w*]+)*)(?: \((.+)\))?:")
REFERENCE = re.compile(r"\[`(~?)([\w.]+)`\]")


def to_myst(docstring: str) -> str:
    """MyST of a docstring that `inspect.cleandoc` has cleaned."""
    result: list[str] = []
    lines = docstring.splitlines()
    while lines:
        line = lines.pop(0)
        if line.startswith("```"):
            end = lines.index("```") + 1
            result += [line, *lines[:end]]
            del lines[:end]
        elif line.startswith(">>> "):
            end = next((i for i, other in enumerate(lines) if not other), len(lines))
            result += ["```pycon", line, *lines[:end], "```"]
            del lines[:end]
        elif line in SECTIONS:
            end = next((i for i, other in enumerate(lines) if other and not other.startswith(" ")), len(lines))
            body = _section(line, textwrap.dedent("\n".join(lines[:end])).strip())
            del lines[:end]
            result += [f":{SECTIONS[line]}:", textwrap.indent(body, "    "), ""]
        else:
            result.append("**Example**" if line == "Example:" else _references(line))
    return "\n".join(result)


def from_fields(cls: type) -> str:
    """Args of a dataclass whose fields say in their metadata what they are: of those that are its own."""
    lines = []
    for field in dataclasses.fields(cls):
        if field.name in cls.__annotations__ and "help" in field.metadata:
            made = field.default_factory is not dataclasses.MISSING
            default = field.default_factory() if made else field.default
            defaults = "" if default is None else f", defaults to `{default!r}`"
            kind = inspect.formatannotation(cls.__annotations__[field.name])
            lines += [f"    {field.name} (`{kind}`, *optional*{defaults}):", f"        {field.metadata['help']}"]
    return "\n".join(["", "", "Args:", *lines]) if lines else ""


def _section(title: str, body: str) -> str:
    if title == "Returns:":
        return _references(body)
    entries = re.split(r"\n(?=\S)", body)  # what is said of an entry is indented
    if title == "Args:":
        return "\n\n".join(map(_parameter, entries))
    named = (re.sub(r"^`?(\w+)`?:", r"[`\1`]:", " ".join(entry.split())) for entry in entries)
    return "\n".join(f"- {_references(entry)}" for entry in named)


def _parameter(entry: str) -> str:
    """An entry of a definition list."""
    head, _, body = entry.partition("\n")
    match = PARAMETERS.fullmatch(head)
    if match is None:
        raise ValueError(f"Not `name (type):` in Args: {head!r}")
    term = ", ".join(f"`{name}`" for name in match[1].split(", "))
    if match[2]:
        term += f" ({_references(match[2])})"
    return f"{term}\n:   {textwrap.indent(_references(textwrap.dedent(body).strip()), '    ').lstrip()}"


def _references(text: str) -> str:
    """[`Table`], one of ours, or [`~trl.GRPOTrainer`], whose module is named, as roles."""
    return REFERENCE.sub(lambda m: f"{{py:obj}}`{m[1] if '.' in m[2] else '~.'}{m[2]}`", text)


class Myst(SphinxDirective):
    """Its content is MyST, where all around it is reStructuredText."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        document = new_document(self.get_source_info()[0], self.state.document.settings)
        document.reporter = self.state.document.reporter
        MystParser().parse("\n".join(self.content), document)
        return document.children


def process_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Hook of autodoc, which calls it for inherited members too, before it leaves them out."""
    if not (getattr(obj, "__module__", None) or "htpo_trl").startswith("htpo_trl"):
        return
    text = inspect.cleandoc("\n".join(lines))
    if re.fullmatch(r"Alias for field number \d+", text):  # Python's, of every field of a named tuple
        text = ""
    if inspect.isclass(obj) and dataclasses.is_dataclass(obj) and not re.search(r"^Args:$", text, re.MULTILINE):
        text += from_fields(obj)
    lines[:] = [".. myst::", "", *textwrap.indent(to_myst(text), "   ").splitlines(), ""] if text else []


def process_signature(app: Sphinx, what: str, name: str, obj: object, *_) -> tuple[str, None] | None:
    """Of a configuration class: its own fields, not the 300 of TRL below it; of a protocol, none."""
    if getattr(obj, "_is_protocol", False):
        return "", None
    if not (inspect.isclass(obj) and any(map(dataclasses.is_dataclass, obj.__mro__[1:]))):
        return None
    fields = [field for field in dataclasses.fields(obj) if field.name in obj.__annotations__]
    made = {f.name: f.default_factory() for f in fields if f.default_factory is not dataclasses.MISSING}
    own = [f"{field.name}={made.get(field.name, field.default)!r}" for field in fields]
    return f"({', '.join([*own, '**kwargs'])})", None


def hide_value(app: Sphinx, domain: str, kind: str, content: addnodes.desc_content) -> None:
    """Of a constant, but where it is a number or a word: tables and folders are for the source."""
    values = content.parent.findall(addnodes.desc_annotation) if kind == "data" else ()
    for node in [node for node in values if node.astext().startswith(" = ")]:
        if not re.fullmatch(r" = ([\d.]+|'[^']{1,40}')", node.astext()):
            node.parent.remove(node)


def setup(app: Sphinx) -> dict[str, bool]:
    """Entry point of the extension."""
    app.setup_extension("sphinx.ext.autodoc")
    app.add_directive("myst", Myst)
    app.connect("autodoc-process-docstring", process_docstring)
    app.connect("autodoc-process-signature", process_signature)
    app.connect("object-description-transform", hide_value)
    return {"parallel_read_safe": True}
