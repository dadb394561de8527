"""Run directories, results, records and checkpoints of strangers: one line that names the file, in bounded time."""

import json
import os
import re

import pyarrow as pa
import pytest
from pyarrow import parquet

from htpo_trl import cli
from htpo_trl.evaluation import compare
from htpo_trl.evaluation.results import read, resume
from htpo_trl.evaluation.weights import digest_of_files
from htpo_trl.output.directory import check_free
from htpo_trl.output.lock import LOCK, held
from htpo_trl.report import RunError, write_report
from htpo_trl.report.runs import read_run, read_sets
from htpo_trl.tokens import read_record
from htpo_trl.tokens.record import SCHEMA, RecordSettings
from htpo_trl.training import checkpoint
from htpo_trl.training.model_files import check_weight_files
from htpo_trl.utils import UsageError

from ..bounds import bounds
from ..token_records import completion_row, write


def settings_of(**values):
    return {"settings": {"model": "m", "n_problems": 1, "sampling": {"num_samples": 2}} | values}


ROW = {"problem": "p", "sample": 0, "tokens": 3, "truncated": False, "verdict": "correct", "answer": "1"}


@pytest.fixture
def evaluation(tmp_path):
    """Writes the two files of a benchmark, given as text, or as what JSON is to hold."""

    def write_files(settings, *rows):
        (tmp_path / "bench.json").write_text(settings if isinstance(settings, str) else json.dumps(settings))
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / "bench.jsonl").write_text("".join(line + "\n" for line in lines))
        return tmp_path / "bench.jsonl"

    return write_files


@pytest.mark.parametrize(
    ("settings", "rows", "message"),
    [
        (
            settings_of(n_problems=0, sampling={"num_samples": 10**18}),
            [],
            r"bench\.json is damaged .*0 samples or problems",
        ),
        (settings_of(sampling={"num_samples": 0}), [], r"bench\.json is damaged .*0 samples"),
        (settings_of(sampling={"num_samples": 10**400}), [], r"bench\.json is damaged"),
        (settings_of(sampling={"num_samples": 10**15}), [], r"bench\.jsonl holds 0 of 10{15} samples"),
        (settings_of(sampling={"num_samples": True}), [ROW], r"bench\.json is damaged"),
        (settings_of(sampling=[2]), [], r"bench\.json is damaged"),
        ('{"settings": {"n_problems": 1, "n_problems": 2}}', [], r"bench\.json.*'n_problems' is given twice"),
        ("[" * 10**6, [], r"bench\.json.*nested"),
        (settings_of(n_problems=2), [ROW, ROW | {"sample": 1}, ROW | {"sample": 2}], "holds 3 of 4 samples"),
        (
            settings_of(n_problems=2),
            [ROW, ROW | {"sample": 1}, ROW | {"sample": 2}, ROW | {"problem": "q"}],
            r"bench\.jsonl holds 3 samples of problem p, not 2",
        ),
        (settings_of(), [ROW | {"verdict": 3}], r"bench\.jsonl, line 1: verdict=3 is none that an evaluation writes"),
        (settings_of(), [ROW, ROW | {"verdict": "Correct"}], "line 2: verdict='Correct' is none"),
        (settings_of(), [ROW | {"verdict": ["correct"]}], "line 1: verdict="),
        (settings_of(), [ROW | {"problem": ["p"]}], "line 1: problem="),
        (settings_of(), [ROW | {"sample": 10**400}], "line 1: sample=1000"),
        (settings_of(), [ROW | {"tokens": 10**400}], "line 1: tokens=1000"),
        (settings_of(), [ROW | {"tokens": "3"}], "line 1: tokens='3'"),
        (settings_of(), [ROW | {"truncated": 1}], "line 1: truncated=1"),
        (settings_of(), [ROW | {"answer": {"a": 1}}], "line 1: answer="),
    ],
)
def test_results_are_checked_before_use(evaluation, settings, rows, message):
    file = evaluation(settings, *rows)
    for use in (read, lambda path: read_run(path.parent), lambda path: compare(path, path)):
        with bounds(), pytest.raises(UsageError, match=message) as error:
            use(file)
        assert len(str(error.value)) < 700


def test_an_evaluation_that_goes_on_reads_no_endless_line(tmp_path):
    settings = settings_of()["settings"]
    (tmp_path / "bench.json").write_text(json.dumps({"settings": settings}))
    for content, message in (
        (b"[" * 100_000 + b"\n", "line 1: no sample can be read"),
        (b"\xff\n", "line 1: no sample"),
    ):
        (tmp_path / "bench.jsonl").write_bytes(content)
        with bounds(), pytest.raises(UsageError, match=message):
            resume(tmp_path / "bench.jsonl", settings, [("p", 0), ("p", 1)], 1)
    with (tmp_path / "bench.jsonl").open("wb") as file:
        file.truncate(2**33)
    with bounds(), pytest.raises(UsageError, match="line 1: no sample can be read"):
        resume(tmp_path / "bench.jsonl", settings, [("p", 0), ("p", 1)], 1)


def state(*rows, **values):
    return {"global_step": 2, "log_history": [{"step": 1, "loss": 1.0}, *rows]} | values


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("settings.json", {"versions": 3}, "expected versions in braces"),
        ("settings.json", [1], "expected an object in braces"),
        ("settings.json", '{"seed": 1, "seed": 2}', "'seed' is given twice"),
        ("settings.json", '{"a":' * 20_000, "nested more than"),
        ("settings.json", '{"a": "\\ud800"}', "half of a surrogate pair"),
        ("settings.json", {"versions": {}, "resumes": 3}, "expected what was resumed"),
        (
            "settings.json",
            {"versions": {}, "resumes": [{"step": 1, "changed": {"a": 1}}]},
            "expected what was resumed",
        ),
        ("trainer_state.json", state(global_step=10**400), "it has no global_step"),
        ("trainer_state.json", state(global_step=True), "it has no global_step"),
        ("trainer_state.json", state(log_history={}), "it has no global_step, or no log_history"),
        ("trainer_state.json", state({"step": 10**400}), "row 2 of the log has no step"),
        ("trainer_state.json", state({"step": -1}), "row 2 of the log has no step"),
        ("trainer_state.json", state({"step": None}), "row 2 of the log has no step"),
        ("trainer_state.json", state({"step": "2"}), "row 2 of the log has no step"),
        ("trainer_state.json", state(3), "row 2 of the log has no step"),
        ("trainer_state.json", state({"step": 2} | dict.fromkeys(map(str, range(10_001)), 1.0)), "row 2 .* metrics"),
        ("checkpoint-2/trainer_state.json", "{", "broken JSON"),
    ],
)
def test_settings_and_logs_are_checked(tmp_path, name, content, message):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with bounds(), pytest.raises(RunError, match=rf"{re.escape(name)}.*{message}") as error:
        read_run(tmp_path)
    assert len(str(error.value)) < 700


@pytest.mark.parametrize(
    "name", ["settings.json", "trainer_state.json", "checkpoint-3/trainer_state.json", "bench.json"]
)
@pytest.mark.parametrize("what", ["pipe", "device", "directory"])
def test_what_is_no_regular_file_is_named(tmp_path, capsys, name, what):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero"), "directory": os.mkdir}[what](path)
    (tmp_path / "bench.jsonl").touch()
    with bounds(5), pytest.raises(SystemExit) as ended:
        cli.main(["report", str(tmp_path), "--output_dir", str(tmp_path / "report")])
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n")) == (2, 1)
    assert path.name.partition(".")[0] in said
    assert not (tmp_path / "report").exists()


def test_odd_names_of_steps_are_none(tmp_path):
    """What `int` would read: 250 digits, other scripts' digits. And a loop of links is no directory."""
    for name in ("step-" + "9" * 200, "step-٣", "step-1_0", "step--1"):
        (tmp_path / "evaluation" / name).mkdir(parents=True)
        (tmp_path / "evaluation" / name / "b.jsonl").write_text("{}")
    (tmp_path / "trainer_state.json").write_text(json.dumps(state()))
    assert read_run(tmp_path).evaluations == {}
    (tmp_path / "loop").symlink_to("loop")
    for name in (tmp_path / "loop", "x" * 300):
        with pytest.raises(RunError, match="is no directory"):
            read_run(name)


def test_a_log_of_odd_values_is_drawn(tmp_path):
    """Whatever JSON holds where a metric is expected is a gap, and names of 100,000 characters are nobody's."""
    odd = [None, True, "x", [1], {"a": 1}, 10**400, -(10**400), float("nan"), float("inf"), 1e299, -1e299]
    rows = [{"step": 2 + i, "loss": value, "reward": value, "x" * 100_000: 1.0} for i, value in enumerate(odd)]
    rows += [{"step": 40, "<b>\x1b/correct": 1.0, "$\\frac{$/wrong": 0.5, "num_tokens": "x", "step_time": None}]
    (tmp_path / "trainer_state.json").write_text(json.dumps(state(*rows)))
    page = write_report([tmp_path], tmp_path / "report").read_text()
    assert "<b>" not in page
    assert "x" * 1000 not in page


def test_a_report_has_room_for_so_many_rewards_and_panels(tmp_path):
    (tmp_path / "trainer_state.json").write_text(
        json.dumps(state({f"r{i}/correct": 1.0 for i in range(51)} | {"step": 2}))
    )
    with bounds(5), pytest.raises(RunError, match="51 reward functions log verdicts: a report has room for 50"):
        write_report([tmp_path], tmp_path / "report")
    other = tmp_path / "other" / "evaluation" / "step-1"
    other.mkdir(parents=True)
    for i in range(200):
        (other / f"b{i}.json").write_text(json.dumps(settings_of(sampling={"num_samples": 1})))
        (other / f"b{i}.jsonl").write_text(json.dumps(ROW) + "\n")
    with bounds(5), pytest.raises(RunError, match="panels are too many for one picture"):
        write_report([other.parents[1]], tmp_path / "report")


class TestRecords:
    @pytest.fixture
    def record(self, tmp_path):
        """Rewrites a record of a step: its settings, its rows, its table or its bytes."""

        def rewrite(settings=(), rows=None, table=None, content=None):
            path = write(tmp_path, [completion_row(["a", "b"])], step=7)
            good = parquet.read_table(path)
            told = json.loads(good.schema.metadata[b"htpo"]) | dict(settings)
            made = good if rows is None else pa.Table.from_pylist(rows(good.to_pylist()), SCHEMA)
            made = made if table is None else table(good)
            parquet.write_table(made.replace_schema_metadata({"htpo": json.dumps(told)}), path)
            if content is not None:
                path.write_bytes(content(path.read_bytes()))
            return tmp_path

        return rewrite

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            ({"rows": lambda rows: []}, "it holds no completion"),
            ({"rows": lambda rows: [rows[0] | {"prompt": None}]}, "a row lacks values"),
            ({"rows": lambda rows: [rows[0] | {"tokens": ["a", None]}]}, "a row lacks values"),
            ({"rows": lambda rows: [rows[0] | {"mask": None}]}, "a row lacks values"),
            ({"rows": lambda rows: [rows[0] | {"groups": [99, 0]}]}, "impossible values"),
            ({"rows": lambda rows: [rows[0] | {"entropies": [1.0]}]}, "unequal lengths"),
            ({"rows": lambda rows: [rows[0] | {"rewards": []}]}, "a row lacks values"),
            ({"table": lambda table: table.drop_columns(["entropies"])}, "other columns"),
            ({"table": lambda table: table.set_column(0, "prompt", pa.array([3]))}, "other columns"),
            ({"table": lambda table: table.append_column("more", pa.array([3]))}, "other columns"),
            ({"content": lambda content: content[:-20]}, "cannot be read as a record"),
            ({"content": lambda content: content[:100]}, "cannot be read as a record"),
            ({"content": lambda content: b""}, "cannot be read as a record"),
            ({"content": lambda content: b"{}" * 50}, "cannot be read as a record"),
            (
                {"settings": {"step": '</title><meta http-equiv="refresh" content="0;url=http://x">'}},
                "'step' expected int",
            ),
            ({"settings": {"step": True}}, "'step' expected int"),
            ({"settings": {"step": 3}}, "it is of step 3, and was renamed"),
            ({"settings": {"step": 10**400}}, "step=1000"),
            ({"settings": {"completions_in_step": -1}}, "completions_in_step=-1 must lie in"),
            ({"settings": {"epsilon_low": 10**400}}, "epsilon_low=1000"),
            ({"settings": {"epsilon_high": float("nan")}}, "epsilon_high=nan must lie in"),
            ({"settings": {"delta": "<b>"}}, "delta"),
            ({"settings": {"top_entropy_share": 7}}, "top_entropy_share=7 must lie in"),
            ({"settings": {"versions": {"trl": 3}}}, "versions"),
            ({"settings": {"reward_funcs": "abc"}}, "reward_funcs"),
            ({"settings": {"reward_funcs": [3]}}, "reward_funcs"),
            ({"settings": {"table": None}}, "cannot be read as a record"),
            ({"settings": {"table": {"name": 3, "rows": []}}}, "cannot be read as a record"),
            ({"settings": {"table": {"name": "x", "rows": "clip"}}}, "table.rows"),
            ({"settings": {"version": 2}}, "it is of version 2"),
            ({"settings": {"version": {}}}, "it is of version"),
            ({"settings": {"unknown": 2}}, "unknown"),
        ],
    )
    def test_damage_is_named(self, record, damage, message):
        with bounds(), pytest.raises(UsageError, match=rf"(?s)step-000007\.parquet.*{message}") as error:
            read_record(record(**damage))
        assert len(str(error.value)) < 900
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("column", ["prompt", "tokens"])
    def test_a_small_file_of_long_texts(self, tmp_path, column):
        """Dictionaries, runs and compression: some kilobytes stand for gigabytes of text."""
        n, text = 2000, "x" * 1_000_000
        row = completion_row(["a"])
        rows = pa.Table.from_pylist([row] * n, SCHEMA)
        texts = pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int32()), pa.array([text]))
        if column == "tokens":
            texts = pa.ListArray.from_arrays(pa.array(range(n + 1), pa.int32()), texts)
        rows = rows.set_column(rows.column_names.index(column), column, texts)
        told = RecordSettings.from_json(
            parquet.read_schema(write(tmp_path, [row], step=7)).metadata[b"htpo"]
        ).to_json()
        (tmp_path / "tokens").mkdir(exist_ok=True)
        path = tmp_path / "tokens" / "step-000007.parquet"
        parquet.write_table(rows.replace_schema_metadata({"htpo": told}), path, compression="zstd", store_schema=False)
        assert path.stat().st_size < 200_000
        with (
            bounds(2),
            pytest.raises(UsageError, match=r"2,000,0\d\d,\d\d\d bytes of text|2,00\d,\d\d\d,\d\d\d bytes of text"),
        ):
            read_record(tmp_path)

    def test_other_files_beside_records_are_none(self, tmp_path):
        write(tmp_path, [completion_row(["a"])], step=7)
        for name in ("step-abc.parquet", "step-٣.parquet", "step-" + "9" * 200 + ".parquet", "step-.parquet"):
            (tmp_path / "tokens" / name).touch()
        assert read_record(tmp_path).settings.step == 7
        os.mkfifo(tmp_path / "tokens" / "step-000009.parquet")
        with bounds(), pytest.raises(UsageError, match=r"step-000009\.parquet is a pipe"):
            read_record(tmp_path)


def test_checkpoints_and_models(tmp_path):
    directory = tmp_path / "checkpoint-1"
    directory.mkdir()
    seal = directory / "htpo_checkpoint.json"
    for content in ('{"files": [1]}', '{"files": 3}', "[]", "[" * 10**5, '{"files": {"a": 1, "a": 2}}', "\xff"):
        seal.write_text(content, encoding="latin-1")
        with bounds(), pytest.raises(checkpoint.CheckpointError, match=r"htpo_checkpoint\.json is damaged"):
            checkpoint.check(directory)
    os.mkfifo(state_file := checkpoint.state_file(directory, 0))
    with bounds(), pytest.raises(checkpoint.CheckpointError, match=r"htpo_state_0.safetensors is missing or damaged"):
        checkpoint.load_state(state_file, "HTPOTrainer")
    with bounds(), pytest.raises(UsageError, match=r"htpo_state_0\.safetensors is no regular file"):
        check_weight_files(directory, "model")
    (directory / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(directory)}))
    with bounds(5):
        assert digest_of_files(directory)


def test_a_directory_that_a_run_is_to_write_to(tmp_path):
    (tmp_path / "settings.json").symlink_to("/dev/zero")
    with bounds(), pytest.raises(UsageError, match="holds files that are not a run's"):
        check_free(tmp_path)
    (tmp_path / LOCK).write_text("[" * 60_000)
    (tmp_path / "settings.json").unlink()
    with bounds(), held(tmp_path, "a test"):
        pass
    (tmp_path / "settings.json").write_text(json.dumps({"versions": {}, "resumes": [3]}))
    (tmp_path / "checkpoint-3").mkdir()
    with bounds(), pytest.raises(UsageError, match="went on from"):
        check_free(tmp_path, "true")


def test_maj_of_many_samples_is_quick(tmp_path):
    """Of 1,024 samples whose wrong answers all differ, which took 18 s a problem."""
    n = 1024
    (tmp_path / "b.json").write_text(json.dumps(settings_of(n_problems=4, sampling={"num_samples": n})))
    rows = [
        ROW | {"problem": str(p), "sample": i, "verdict": "correct" if i < 50 + p else "wrong", "answer": str(i)}
        for p in range(4)
        for i in range(n)
    ]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (evaluation,) = read_sets([tmp_path])[0].runs[0].evaluations["b"].values()
    with bounds(5, 500):
        table = evaluation.scores(True)
    assert table[f"maj@{n}"].tolist() == [1.0] * 4
    assert list(table)[-1] == f"maj@{n}"
