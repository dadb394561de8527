"""The fast way into a data set against the strict one on generated files: the same rows, or the same error."""

import csv
import io
import json
import logging
import re

import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from htpo_trl.data import blocks, columns, load
from htpo_trl.data.benchmarks import as_answer, as_text
from htpo_trl.data.blocks import IrregularError, tables_of
from htpo_trl.data.files import rows_of
from htpo_trl.data.prompts import PromptArguments
from htpo_trl.utils import UsageError

from ..hub_files import write_jsonl


PROBLEMS = (
    "A",
    "B  b",
    "B b",
    " B b\n",
    "C\u3000c",
    "C c",
    "é",
    "\u00a0D",
    "D",
    "{problem}",
    '"',
    "a,b",
    "😀",
    "x\x1fy",
    "x y",
)
GOLDS = (
    *(
        "1",
        "$1$",
        "1.",
        " 1",
        "x^2",
        "\\frac{1}{2}",
        "#### 3",
        "a\n#### 3",
        "\\boxed{7}",
        "Answer: 7",
        "['4', '5']",
        "4, 5",
    ),
    *("1e5", "\\text{ cm}", "²", "[5]", "5", "e", "2e", "We get 18.", "", " "),
)
VALUES = st.one_of(
    *(st.sampled_from(GOLDS), st.integers(-9, 9), st.sampled_from((0.5, 2.0, 1e300, -0.0, 1e15, 10**20, 10**400))),
    *(
        st.none(),
        st.booleans(),
        st.lists(st.sampled_from(GOLDS[:8]), max_size=2),
        st.lists(st.integers(0, 9), max_size=2),
    ),
    *(st.just({"a": 1}), st.just("\ud800")),
)
PLAIN = st.sampled_from(GOLDS[:8])
SAME = st.sampled_from((st.sampled_from(GOLDS), PLAIN, st.integers(0, 9), st.floats(-9, 9), VALUES))


def expected(path, prompts):
    """What the loader said before it read by columns: a dictionary of columns, or the text of the error."""
    count, found = 0, {}
    try:
        for place, row in rows_of(path):
            count += 1
            values = []
            for column, read in (("problem", as_text), ("solution", as_answer)):
                if column not in row:
                    return f"{place}: no column {column!r}, only {', '.join(map(repr, row))}. Add it, or name"
                try:
                    values.append(read(row[column]))
                    values[-1].encode()
                except UnicodeEncodeError:
                    return f"{place}, column {column!r}: the value "
                except ValueError as error:
                    return f"{place}, column {column!r}: the value {error}. Correct or remove it."
            found.setdefault(" ".join(values[0].split()), (values[0], set()))[1].add(values[1])
    except ValueError as error:
        return str(error)
    kept = [(problem, *answers) for problem, answers in found.values() if len(answers) == 1]
    if not kept:
        return f"{path}: no problem in {count} rows{f', of which {len(found)} have' if count else '. Add'}"
    return [{"prompt": prompts.prompt(p), "solution": s, "problem": p} for p, s in kept]


def check(path, size, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", size)
        patch.setattr(columns, "IN_MEMORY", size)
        check_once(path, **options)


def check_once(path, **options):
    prompts = PromptArguments(**options)
    want = expected(path, prompts)
    try:
        found = load(path, prompts).to_list()
    except ValueError as error:
        found = str(error)
    assert found == want or (isinstance(want, str) and isinstance(found, str) and found.startswith(want))


@st.composite
def rows(draw):
    golds = draw(draw(st.just(SAME)))
    names = draw(st.sampled_from((("problem", "solution"), ("solution", "x", "problem"))))
    values = {"problem": st.sampled_from(PROBLEMS), "solution": golds, "x": VALUES}
    found = [{name: draw(values[name]) for name in names} for _ in range(draw(st.integers(0, 6)))]
    if found and draw(st.integers(0, 9)) == 0:
        found[-1].pop(draw(st.sampled_from(names)))
    return found


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("htpo_trl").setLevel(logging.ERROR)
    yield
    logging.getLogger("htpo_trl").setLevel(logging.NOTSET)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("loading")


SIZES = st.sampled_from((7, 50, 1 << 20))
OPTIONS = st.sampled_from(
    ({}, {"chat": False}, {"system_prompt": "Be {problem}."}, {"template": "{problem} or {problem}", "chat": False})
)


@settings(max_examples=120, deadline=None)
@given(
    SIZES,
    rows(),
    OPTIONS,
    st.booleans(),
    st.sampled_from(("\n", "\r\n", "\n\n", "\n \n")),
    st.booleans(),
    st.booleans(),
    st.one_of(
        st.none(),
        st.sampled_from(
            (
                '{"problem": "P", "problem": "Q", "solution": "1"}',
                "null",
                "1",
                "[]",
                "{",
                '{"problem": "P"}{"solution": "1"}',
                '{"problem": "P", "solution": NaN}',
                '{"problem": "P", "solution": "1",}',
                '{"problem": "P",\n"solution": "1"}',
                '{"problem": "\\ud800", "solution": "1"}',
                "\x0c",
                '{"problem": "P", "solution": ' + "9" * 400 + "}",
            )
        ),
    ),
)
def test_lines_of_json(folder, size, rows, options, is_ascii, end, has_mark, is_ended, odd):
    lines = [json.dumps(row, ensure_ascii=is_ascii) for row in rows]
    lines += [odd] * (odd is not None)
    text = "\ufeff" * has_mark + end.join(lines) + end * is_ended
    path = folder / "rows.jsonl"
    path.write_bytes(text.encode(errors="surrogatepass"))
    check(path, size, **options)


FIELDS = st.sampled_from((*PROBLEMS, *GOLDS, '""', '"a"', "a\r\nb", 'x"y', "\r"))
RAW = st.lists(st.sampled_from(('"', ",", "\n", "\r\n", "a", "b", " ", '""', "P,1\n", '"P",1\n')), max_size=12).map(
    "".join
)


@settings(max_examples=150, deadline=None)
@given(
    SIZES,
    st.lists(st.tuples(FIELDS, FIELDS), max_size=5),
    RAW,
    st.booleans(),
    st.sampled_from(("\n", "\r\n")),
    OPTIONS,
)
def test_csv(folder, size, rows, raw, has_mark, end, options):
    text = io.StringIO()
    csv.writer(text, lineterminator=end).writerows([("problem", "solution"), *rows])
    path = folder / "rows.csv"
    path.write_bytes(("\ufeff" * has_mark + text.getvalue() + raw).encode())
    check(path, size, **options)


@settings(max_examples=60, deadline=None)
@given(SIZES, rows(), OPTIONS, st.sampled_from((None, pa.large_string(), pa.dictionary(pa.int32(), pa.string()))))
def test_parquet(folder, size, rows, options, kind):
    path = folder / "rows.parquet"
    try:
        table = pa.Table.from_pylist(rows)
        if kind:
            table = table.cast(pa.schema([(name, kind) for name in table.column_names]))
        pa.parquet.write_table(table, path)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return  # no such file can be
    check(path, size, **options)


def fast(path, columns=("problem", "solution")):
    return [row for batch in tables_of(path, columns) for row in batch.to_pylist()]


@given(
    st.lists(
        st.sampled_from(("", " ", "  ", "a", "ab", "a b", "a  b", " a", "b ", "a\n", "é", "a~", "\x7f")), max_size=5
    )
)
@settings(max_examples=120)
def test_uneven_texts_are_found_in_parts_of_a_column(texts):
    """Those whose key is another text: of anything but plain characters with single spaces between them."""
    expected = [not text or " ".join(re.findall("[!-~]+", text)) != text for text in texts]
    column = pa.array(texts, pa.string())
    for start in range(len(texts) + 1):
        assert columns._uneven(column[start:]).to_pylist() == expected[start:]
        assert columns._uneven(column[:start]).to_pylist() == expected[:start]


def test_plain_files_go_the_fast_way(tmp_path):
    rows = [{"problem": f'Is "{i}", é,\nso?', "solution": str(i)} for i in range(20_000)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["problem", "solution"])
        writer.writeheader()
        writer.writerows(rows)
    Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    for suffix in (".jsonl", ".csv", ".parquet"):
        assert fast(tmp_path / f"a{suffix}") == rows
        dataset = load(tmp_path / f"a{suffix}", template="none", chat=False)
        assert dataset["solution"][:] == [row["solution"] for row in rows]
        assert dataset["prompt"][19_999] == rows[-1]["problem"]


@pytest.mark.parametrize("line", ["null", "1", '{"a": 1}{"a": 2}', '{"a": 1}\n{"a": 2}}', '{"b": 2}', '{"a": "2"}'])
def test_lines_that_are_not_for_the_fast_way(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"a": 1}}\n{line}\n')
    with pytest.raises(IrregularError):
        fast(path, None)


def test_a_disk_that_is_full_is_told(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", *({"problem": f"P{i} " + "x" * 99, "solution": "1"} for i in range(500)))
    monkeypatch.setattr(columns, "IN_MEMORY", 0)
    monkeypatch.setattr(columns.tempfile, "TemporaryFile", lambda: open("/dev/full", "r+b", buffering=0))  # noqa: SIM115
    with pytest.raises(UsageError, match=r"could not be written: No space left .* set TMPDIR to where there is more"):
        load(path)
