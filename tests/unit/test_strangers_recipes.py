"""Recipes and configurations of strangers: one line and exit code 2, from plan, run and evaluation alike."""

import os

import pytest

from htpo_trl import cli
from htpo_trl.cli.launch import launch_arguments, parallelism
from htpo_trl.scripts import arguments, htpo

from ..bounds import bounds
from .test_reading import bomb


COMMANDS = (["train", "--dry_run"], ["train"], ["eval", "--model", "m", "--benchmarks", "b"])


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """What the commands import takes more than what is measured here."""
    plan = ["train", "--dry_run", "--config", "smollm2-135m-cpu", "--max_steps"]
    for command in (*([*each, "--no_such_option"] for each in COMMANDS), [*plan, "x"], [*plan, "-3"]):
        with pytest.raises(SystemExit):
            cli.main(command)


def refused(capsys, *argv):
    """What a command says to it."""
    with bounds(4, 300), pytest.raises(SystemExit) as ended:
        cli.main([*argv])
    said = capsys.readouterr()
    assert (ended.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert len(said.err) < 5000
    return said.err.split(": ", 1)[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bomb("[x]", "[{}]") + "\nenv: *a10", "r.yaml, line 5: more than 10,000"),
        ("a: " + "[" * 5000, "r.yaml, line 1: nested more than 32 levels deep"),
        ("env: [a, b]", "env=['a', 'b'] must map environment variables to values"),
        ("env: {'A=B': 1}", "env: 'A=B' is no name of a variable"),
        ("env: {'': 1}", "env: '' is no name of a variable"),
        ("env: {A B: 1}", "env: 'A B' is no name of a variable"),
        ("env: {1A: 1}", "env: '1A' is no name of a variable"),
        ("env: {É: 1}", "env: 'É' is no name of a variable"),
        ("env: {A: [1]}", "env: A=[1] must be one value"),
        ("env: {A: {B: 1}}", "env: A={'B': 1} must be one value"),
        ("env: {A: }", "env: A=None must be one value"),
        ('env: {A: "x\\0y"}', "r.yaml, line 1: 'x\\x00y' holds what is no text"),
        ("env: {1: 2}", "r.yaml, line 1: the key '1' is no text: put it in quotes"),
        ("seed: 1\nseed: 2", "r.yaml, line 2: 'seed' is given in line 1 too"),
        ("", "r.yaml must map options to values"),
        ("- a", "r.yaml must map options to values"),
        ("just text", "r.yaml must map options to values"),
        (b"\x7fELF\x02\x01\x01\x00", "r.yaml is not YAML: unacceptable character"),
        (b"\x89PNG\r\n\x1a\n", "r.yaml is not in UTF-8"),
        (b"x" * 200_000, "r.yaml has 200,000 bytes, of which at most 100,000 are read"),
        ("chat: \x1b[2J", "r.yaml is not YAML: unacceptable character"),
        ('"\\e[2J": 1', r"'\x1b[2J' is not an option"),
    ],
)
def test_each_is_one_line(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    is_read = "is not an option" not in message
    with bounds(), pytest.raises(arguments.UsageError) as error:
        arguments.load_recipe("r.yaml") if is_read else arguments.read(["--config", "r.yaml"], htpo.TITLES)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["env: [a, b]", "a: &a [*a]", b"\xff", "1: 2"])
def test_of_all_commands(tmp_path, monkeypatch, capsys, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert len({refused(capsys, *command, "--config", "r.yaml") for command in COMMANDS}) == 1


@pytest.mark.parametrize("what", ["pipe", "device", "directory", "nothing", "long", "loop"])
def test_what_is_no_file(tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    name = "r.yaml" if what != "long" else "r" * 5000
    if what in ("pipe", "device", "directory", "loop"):
        makers = {"pipe": os.mkfifo, "directory": os.mkdir, "device": lambda name: os.symlink("/dev/zero", name)}
        (makers | {"loop": lambda name: os.symlink(name, name)})[what](name)
    with bounds(), pytest.raises(arguments.UsageError, match="is neither a file nor a recipe of the package"):
        arguments.load_recipe(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("distributed_type: 'NO'\nnum_processes: [1]", r"num_processes=\[1\] must be a whole number"),
        ("distributed_type: 'NO'\nnum_processes: two", "num_processes='two' must be a whole number"),
        ("distributed_type: 'NO'\nnum_processes: 1.5", "num_processes=1.5 must be a whole number"),
        ("distributed_type: 'NO'\nmain_process_port: x", "main_process_port='x' must be a whole number"),
        ("distributed_type: [1]", "it has no distributed_type"),
        ("distributed_type: 3", "it has no distributed_type"),
        ("distributed_type: MULTI_GPU\ngpu_ids: 3", "accelerate cannot use its values"),
        ("distributed_type: nonsense", "is not a valid"),
        ("distributed_type: 'NO'\nfsdp_config: 3\nunknown: 4", "unknown keys"),
        (
            "distributed_type: DEEPSPEED\nnum_processes: 1\ndeepspeed_config: {zero_stage: [3]}",
            "accelerate cannot use its",
        ),
        ("distributed_type: 'NO'\ncompute_environment: x", "a\\.yaml had unknown keys"),
        ("distributed_type: 'NO'\n" + bomb("[x]", "[{}]"), "line 6: more than 10,000 values"),
        (
            "distributed_type: 'NO'\nnum_processes: 1\nnum_processes: 2",
            "line 3: 'num_processes' is given in line 2 too",
        ),
        ("{}", "it has no distributed_type"),
        ("[]", "is no configuration of accelerate"),
        ("", "is no configuration of accelerate"),
    ],
)
def test_configurations_of_accelerate(tmp_path, monkeypatch, capsys, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(content)
    with bounds(), pytest.raises(arguments.UsageError, match=rf"a\.yaml.*({message})"):
        parallelism(launch_arguments(["--accelerate_config", "a.yaml"]))
    if content.endswith("two"):
        asked = ["--config", "smollm2-135m-cpu", "--accelerate_config", "a.yaml"]
        assert refused(capsys, "train", *asked) == refused(capsys, "train", "--dry_run", *asked)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[" * 5000, "nested more than 32 levels deep"),
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ('{"a": ' + "9" * 5000 + "}", "Exceeds the limit"),
        ('{"a": "\\ud800"}', "half of a surrogate pair"),
        ("{a: 1}", "Expecting property name"),
    ],
)
@pytest.mark.parametrize(
    "option", ["dataset_options", "objective_overrides", "model_init_kwargs", "generation_kwargs"]
)
def test_mappings_on_the_command_line(capsys, option, value, message):
    said = refused(capsys, "train", "--dry_run", "--config", "smollm2-135m-cpu", f"--{option}", value)
    assert option in said
    assert message in said


@pytest.mark.parametrize("option", ["seed", "max_steps", "max_completion_length", "learning_rate", "save_steps"])
def test_numbers_beyond_any_float(capsys, option):
    said = refused(capsys, "train", "--dry_run", "--config", "smollm2-135m-cpu", f"--{option}", "1" + "0" * 400)
    assert option in said


@pytest.mark.parametrize(
    ("option", "name"),
    [
        *((option, "x" * 5000) for option in ("model_name_or_path", "dataset_name", "output_dir")),
        *((option, f"./{'y' * 300}.py:f") for option in ("reward_funcs", "objective", "resume_from_checkpoint")),
    ],
)
def test_names_that_no_file_can_have(capsys, option, name):
    said = refused(capsys, "train", "--dry_run", "--config", "smollm2-135m-cpu", f"--{option}", name)
    assert option in said or "dataset" in option


def test_a_long_line_keeps_its_ends(capsys):
    with pytest.raises(SystemExit), arguments.mendable("htpo train"):
        raise arguments.UsageError(f"begin {'x' * 100_000} end")
    said = capsys.readouterr().err
    assert len(said) < 5000
    assert said.startswith("htpo train: begin xxx")
    assert said.endswith("xxx end\n")
