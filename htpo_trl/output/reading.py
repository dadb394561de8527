"""
Files that may be a stranger's, read within bounds of kind, size, number of values and depth: what is no regular file,
or is beyond a bound, is one line that names the file. Nothing here believes a file that says how much it holds.
"""

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import yaml

from ..utils import UsageError


#: Bytes that are read of a file of settings,
MAX_BYTES = 16 * 2**20
#: of the log of a long run,
MAX_LOG_BYTES = 256 * 2**20
#: and of YAML, which a person has written.
MAX_YAML_BYTES = 100_000
#: Values in YAML, those of an alias counted wherever it stands.
MAX_YAML_VALUES = 10_000
#: Levels of lists and mappings in each other.
MAX_DEPTH = 32
_BYTES_PER_VALUE = 16  # on average, in a file as large as it may be: a value takes up to 100 bytes of memory
_KINDS = {stat.S_IFDIR: "directory", stat.S_IFIFO: "pipe", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


def read_bytes(path: str | Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a regular file, or a [`UsageError`] that names it."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                kind = _KINDS.get(stat.S_IFMT(status.st_mode), "socket")
                raise UsageError(f"{path} is a {kind} where a file is expected. Remove it, or name another file.")
            if status.st_size > limit:
                raise UsageError(
                    f"{path} has {status.st_size:,} bytes, of which at most {limit:,} are read: it is damaged, or not "
                    "what its name says. Name another file."
                )
            content = file.read(status.st_size + 1)
    except IsADirectoryError:
        raise UsageError(f"{path} is a directory where a file is expected. Remove it, or name another file.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from None
    if len(content) > status.st_size:
        raise UsageError(f"{path} grows while it is read. Try again when it is complete.")
    return content


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # for the other end of a pipe


def read_text(path: str | Path, limit: int = MAX_BYTES) -> str:
    """[`read_bytes`] of text in UTF-8."""
    try:
        return str(read_bytes(path, limit), "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not in UTF-8: {error}. Save it in UTF-8.") from None


def read_json(path: str | Path, limit: int = MAX_BYTES) -> dict[str, Any]:
    """The object in a JSON file, or a [`UsageError`] that names the file."""
    try:
        content = parse_json(read_text(path, limit), limit)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{path}: broken JSON, {error}.") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected an object in braces, found {content!r:.60}.")
    return content


def parse_json(text: str, limit: int = MAX_BYTES) -> Any:
    """
    JSON of text up to `limit` characters; a `ValueError` where it is broken, too deep, has too many values, a key
    twice, or what is no character.
    """
    n = sum(map(text.count, ",[{"))  # more than the values, where text holds some
    if n > limit // _BYTES_PER_VALUE:
        raise ValueError(f"more than {limit // _BYTES_PER_VALUE:,} values")
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep") from None
    level, depth = [value], 0
    while level := [each for parent in level for each in _children(parent) if isinstance(each, (dict, list))]:
        if (depth := depth + 1) >= MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    if re.search(r"\\u[dD][89a-fA-F]", text):  # one alone can be neither written nor printed
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair, which is no character") from None
    return value


def _children(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in found if names.count(name) > 1)!r} is given twice")
    return found


def read_yaml(path: str | Path) -> Any:
    """What a YAML file holds: text, numbers, bools, lists and mappings; a [`UsageError`] names file and line."""
    try:
        return yaml.load(read_text(path, MAX_YAML_BYTES), _Loader)
    except UsageError:
        raise
    except _RefusedError as error:
        raise UsageError(f"{path}, {error}.") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None


class _RefusedError(ValueError):
    """What YAML may hold and a file of options may not."""

    def __init__(self, place: Any, problem: str) -> None:
        super().__init__(f"line {place.start_mark.line + 1}: {problem}")


class _Loader(yaml.SafeLoader):
    """
    Bounded, since ten lines of aliases stand for 10¹⁰ values; and strict: of a key that is given twice, YAML's own
    loader takes the last in silence.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._n = self._depth = self._deepest = 0
        self._anchors: dict[str, tuple[int, int]] = {}  # values and levels that an alias stands for

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        is_alias = isinstance(event, yaml.AliasEvent)
        if is_alias and event.anchor not in self._anchors and event.anchor in self.anchors:
            raise _RefusedError(event, f"*{event.anchor} stands within what it stands for")
        if not is_alias and event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            raise _RefusedError(event, f"the tag {event.tag} is not read: write the value alone")
        n, levels = self._anchors.get(event.anchor, (1, 0)) if is_alias else (1, 0)
        before, above = self._n, self._deepest
        self._n += n
        self._depth += 1
        self._deepest = self._depth + levels
        if self._n > MAX_YAML_VALUES:
            raise _RefusedError(event, f"more than {MAX_YAML_VALUES:,} values, those of aliases wherever they stand")
        if self._deepest > MAX_DEPTH:
            raise _RefusedError(event, f"nested more than {MAX_DEPTH} levels deep")
        node = super().compose_node(parent, index)
        if event.anchor and not is_alias:
            self._anchors[event.anchor] = self._n - before, self._deepest - self._depth
        self._depth -= 1
        self._deepest = max(self._deepest, above)
        return node

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if re.search("[\0\ud800-\udfff]", value):
            raise _RefusedError(node, f"{value!r:.60} holds what is no text: a null byte, or half of a surrogate pair")
        if node.tag.endswith(":int") and len(value) > 400:
            raise _RefusedError(node, f"the number {value:.20}... has {len(value)} digits")
        return value

    def compose_mapping_node(self, anchor: Any) -> Any:
        node, lines = super().compose_mapping_node(anchor), dict[str, int]()
        for key, _ in node.value:
            is_text = key.tag.rpartition(":")[2] in ("str", "merge")
            if not isinstance(key, yaml.ScalarNode) or not is_text:
                what = f"{key.value!r:.60}" if isinstance(key, yaml.ScalarNode) else f"a {key.id}"
                raise _RefusedError(key, f"the key {what} is no text: put it in quotes")
            if key.value in lines:
                raise _RefusedError(key, f"{key.value!r:.60} is given in line {lines[key.value]} too")
            lines[key.value] = key.start_mark.line + 1
        return node


# Dates are text here, as they are written.
_Loader.yaml_implicit_resolvers = {
    first: [each for each in resolvers if not each[0].endswith((":timestamp", ":value"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
