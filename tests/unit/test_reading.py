"""Files of strangers are read within bounds, and what is beyond them is one line: file, line, what is wrong."""

import json
import os
import re

import pytest
from markdown_it import MarkdownIt

from htpo_trl.output.reading import MAX_YAML_BYTES, parse_json, read_bytes, read_json, read_yaml
from htpo_trl.output.terminal import printable
from htpo_trl.utils import UsageError, markdown_table

from ..bounds import bounds


def bomb(first, row):
    """Ten levels, each of ten of the one before."""
    lines = [f"a0: &a0 {first}", *(f"a{i}: &a{i} {row.format(','.join([f'*a{i - 1}'] * 10))}" for i in range(1, 11))]
    return "\n".join(lines)


CHAIN = "\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 200))])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb("[x]", "[{}]"), "line 5: more than 10,000 values, those of aliases wherever they stand"),
        (bomb("{x: 1}", "{{<<: [{}]}}"), "line 5: more than 10,000 values"),
        (bomb("x", "[{}]"), "line 5: more than 10,000 values"),
        ("\n".join(["- x"] * 20_000), "line 9999: more than 10,000 values|line 10000: more than"),
        (CHAIN, "line 31: nested more than 32 levels deep"),
        ("a:\n  b: &a [*a]", r"line 2: \*a stands within what it stands for"),
        ("a: " + "[" * 5000 + "]" * 5000, "line 1: nested more than 32 levels deep"),
        ("a: " + "{a: " * 5000, "line 1: nested more than 32 levels deep"),
        ("- " * 20_000, "line 1: nested more than 32"),
        ("? " * 20_000, "line 1: nested more than 32"),
        ("a: 1\nb: 2\na: 3", "line 3: 'a' is given in line 1 too"),
        ("a:\n  b: 1\n  'b': 2", "line 3: 'b' is given in line 2 too"),
        ("a: &x {b: 1}\nc: {<<: *x, <<: *x}", "line 2: '<<' is given in line 2 too"),
        ("a: 1\n2: 3", "line 2: the key '2' is no text: put it in quotes"),
        ("~: 3", "line 1: the key '~' is no text"),
        ("a: {null: 3}", "line 1: the key 'null' is no text"),
        ("1.5: 3", "line 1: the key '1.5' is no text"),
        ("? [a, b]\n: 3", "line 1: the key a sequence is no text"),
        ("{a: 1}: 3", "line 1: the key a mapping is no text"),
        ('a: "x\\0y"', r"line 1: 'x\\x00y' holds what is no text"),
        ('a: "\\ud800"', "line 1: .* holds what is no text"),
        ('"\\0": 1', "line 1: .* holds what is no text"),
        ("a: " + "9" * 5000, r"line 1: the number 99999999999999999999\.\.\. has 5000 digits"),
        ("a: !!binary aGVsbG8=", "line 1: the tag tag:yaml.org,2002:binary is not read"),
        ("a: !!python/object/apply:os.system [ls]", "line 1: the tag .*os.system is not read"),
        ("a: !!timestamp x", "line 1: the tag"),
        ("a: !!int ''", "line 1: the tag"),
        ("a: !!set {b, c}", "line 1: the tag"),
        ("a: *b", "is not YAML: found undefined alias 'b' .*line 1, column 4"),
        ("a: 1\n---\nb: 2", "is not YAML: expected a single document"),
        ("a: [", "is not YAML: .*line 1, column 5"),
        ("a: \x00", "is not YAML: .*special characters are not allowed"),
        ("#" * (MAX_YAML_BYTES + 1), "has 100,001 bytes, of which at most 100,000 are read"),
    ],
)
def test_yaml_is_bounded_and_strict(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(text)
    with bounds(), pytest.raises(UsageError, match=rf"(?s)r\.yaml,? ({message})") as error:
        read_yaml(tmp_path / "r.yaml")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: &x {b: 1, c: [2, 3]}\nd: {<<: *x, b: 4}\ne: [*x, *x]", None),
        ("x: &x {<<: &c {X: 2}, X: 1}\ny: {<<: *x}", {"x": {"X": 1}, "y": {"X": 1}}),
        ("a: 2026-11-28", {"a": "2026-11-28"}),
        ("a: 2020-99-99", {"a": "2020-99-99"}),
        ("a: !!str 12\nb: =", {"a": "12", "b": "="}),
        ("'1': 2\n'null': [~, yes, 1.0e-6, 0x10]", {"1": 2, "null": [None, True, 1e-6, 16]}),
        ("\ufeffa: é", {"a": "é"}),
        ("", None),
    ],
)
def test_what_yaml_may_hold(tmp_path, text, value):
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    shared = {"b": 1, "c": [2, 3]}
    if text.startswith("a: &x"):
        value = {"a": shared, "d": shared | {"b": 4}, "e": [shared, shared]}
    assert read_yaml(tmp_path / "r.yaml") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 60_000, "nested more than 32 levels deep"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested more than 32 levels deep"),
        ("[" * 40 + "]" * 40, "nested more than 32 levels deep"),
        ("[" + "[]," * 400_000 + "0]", "more than 65,536 values"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' is given twice"),
        ('{"a": [{"b": 1, "b": 1}]}', "'b' is given twice"),
        ('["\\ud83d"]', "half of a surrogate pair"),
        ("[" + "9" * 5000 + "]", "Exceeds the limit"),
        ('{"a": 1', "Expecting ',' delimiter"),
        ("", "Expecting value"),
    ],
)
def test_json_is_bounded_and_strict(text, message):
    with bounds(), pytest.raises(ValueError, match=message):
        parse_json(text, 2**20)


def test_what_json_may_hold():
    assert parse_json('["\\ud83d\\ude00", NaN, -Infinity, 1e400, 12345678901234567890]')[0] == "😀"
    assert parse_json("[" * 32 + "]" * 32) is not None
    assert parse_json(json.dumps([{"a": 1}] * 10_000)) == [{"a": 1}] * 10_000


@pytest.fixture
def odd_files(tmp_path):
    """What may stand where a file is expected."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    (tmp_path / "zeros").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nothing")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "system").symlink_to("/proc/self/status")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pipe", "is a pipe where a file is expected"),
        ("directory", "is a directory where a file is expected"),
        ("zeros", "is a device where a file is expected"),
        ("loop", "cannot be read: Too many levels of symbolic links"),
        ("gone", "cannot be read: No such file"),
        ("sparse", "has 1,099,511,627,776 bytes, of which at most"),
        ("system", "grows while it is read"),
        ("binary", "is not in UTF-8: .*Save it in UTF-8"),
        ("x" * 300, "cannot be read: File name too long"),
    ],
)
def test_what_is_no_regular_file_of_text(odd_files, name, message):
    for use in (read_json, read_yaml):
        with bounds(), pytest.raises(UsageError, match=f"{name}.*{message}"):
            use(odd_files / name)


def test_a_file_at_the_bound_is_read(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 100)
    assert read_bytes(tmp_path / "file", 100) == b"x" * 100
    with pytest.raises(UsageError, match="has 100 bytes, of which at most 99"):
        read_bytes(tmp_path / "file", 99)


def test_no_control_character_reaches_a_terminal():
    hostile = "a\x1b]0;hacked\x07\x9b2J\rb\u202ec\u2028d\x00\x7f\ud800é\t\n"
    shown = r"a\x1b]0;hacked\x07\x9b2J\rb\u202ec\u2028d\x00\x7f\ud800é" + "\t\n"
    assert printable(hostile) == shown
    assert str(UsageError(hostile)) == shown
    assert printable(printable(hostile)) == shown
    table = markdown_table(["\x1b[1m", "b"], [["x\x9b", "\x1b[31m"]])
    assert re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", table) == []
    assert len({len(line) for line in table.split("\n")}) == 1  # aligned as they are shown


def test_narrow_columns_make_a_table_of_markdown():
    html = MarkdownIt().enable("table").render(markdown_table(["a", "b", "p", ""], [["1", "2", "–", "3"]]))
    assert html.count("<td") == 4
