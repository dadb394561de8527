"""Arguments of the commands: flags are the parser's, recipes and command lines are sorted, mistakes are told."""

import ast
import dataclasses
import os
import re
import shlex

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from torch.distributed import TCPStore

from htpo_trl.cli import make_parser
from htpo_trl.cli.launch import launch_arguments
from htpo_trl.compare.arms import read_arms
from htpo_trl.data.names import is_ours
from htpo_trl.demo.laptop import LaptopConfig
from htpo_trl.scripts import evaluate, htpo
from htpo_trl.scripts.arguments import (
    RECIPES,
    UsageError,
    load_recipe,
    mendable,
    names,
    parser_of,
    read,
    set_environment,
)
from htpo_trl.scripts.flags import flags_of
from htpo_trl.training.checkpoint import MEND

from ..markdown import DOCUMENTS, blocks
from ..place import ARGUMENTS


def fields_of(cls):
    """The dataclasses that a class has its fields from."""
    return [base for base in cls.__mro__ if dataclasses.is_dataclass(base)]


@pytest.mark.parametrize(
    ("script", "parser"),
    [(htpo, htpo.make_parser()), (evaluate, evaluate.make_parser())],
)
def test_flags_are_those_of_the_parser(script, parser):
    """What was read from the source is what the classes have."""
    flags = flags_of(script.TITLES)
    actions = {action.dest: action for action in parser._actions}
    defaults = {f.name: f.default for cls in parser.dataclass_types for f in dataclasses.fields(cls) if f.init}
    made = {f.name: f.default_factory for cls in parser.dataclass_types for f in dataclasses.fields(cls)}
    assert set(flags) == set(actions) == set(defaults)
    owners = {path.rpartition(".")[2] for path in script.TITLES}
    assert owners == {cls.__name__ for parsed in parser.dataclass_types for cls in fields_of(parsed)}
    for name, flag in flags.items():
        assert flag.help == " ".join((actions[name].help or "").split())
        default = made[name]() if defaults[name] is dataclasses.MISSING else defaults[name]
        if flag.default != "default_optim":
            assert ast.literal_eval(flag.default) == default
        assert default is not None or "None" in flag.type or "Optional" in flag.type
        assert flag.takes_several or actions[name].nargs not in ("+", "*")
        assert flag.is_true_by_default == any(f"--no_{name}" in a.option_strings for a in parser._actions)


class TestArguments:
    TITLES = htpo.TITLES

    def read(self, *argv):
        return read(argv, self.TITLES, {"num_processes": 1, "num_machines": 1})

    def test_command_line_wins_over_recipe(self, place, monkeypatch):
        monkeypatch.chdir(place)
        found = self.read("--config", "recipe.yaml", "--learning-rate", "2e-6", "--num_processes=2", "--no_chat")
        assert found.launch == ["--num_processes=2"]
        assert found.script[-3:] == ["--learning-rate", "2e-6", "--no_chat"]
        script, training, model = htpo.parse(found.script, found.defaults)
        assert (training.learning_rate, script.chat, model.dtype) == (2e-6, False, "float32")
        assert script.reward_funcs == ["judge.even_digits"]
        assert training.objective_overrides == ARGUMENTS["objective_overrides"]

    def test_null_and_nested_values_of_a_recipe(self, tmp_path):
        overrides = {"hard_correct_low": "clip"}
        recipe = {"delta": None, "objective_overrides": overrides, "use_cpu": True, "bf16": False, "num_processes": 3}
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
        found = self.read("--config", str(tmp_path / "r.yaml"))
        assert found.launch == ["--num_processes=3"]
        _, training, _ = htpo.parse(found.script, found.defaults)
        assert training.delta is None
        assert training.objective_overrides == overrides
        again = self.read("--config", str(tmp_path / "r.yaml"), "--delta", "9")
        assert htpo.parse(again.script, again.defaults)[1].delta == 9.0

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["--lerning_rate", "1"], "'lerning_rate' is not an option. Did you mean 'learning_rate'?"),
            (["--dryrun"], "'dryrun' is not an option. Did you mean 'dry_run'?"),
            (["--learning", "1"], "'learning' is not an option"),  # no abbreviations
            (["--num_proceses", "2"], "Did you mean 'num_processes'?"),
            (["--config", "smolm2-135m-cpu"], "Did you mean 'smollm2-135m-cpu'?"),
            (["--config"], "--config takes one value"),
            (["recipe.yaml"], "'recipe.yaml' stands before any option"),
            (["--config", "laptop", "-seed", "1"], "--config takes one value, and 'laptop' is followed by '-seed'"),
            (["--learning_rate", "1e-6", "2e-6"], "--learning_rate takes one value, and '1e-6' is followed by"),
        ],
    )
    def test_mistakes(self, argv, message):
        with pytest.raises(UsageError, match=message.replace("?", r"\?")):
            self.read(*argv)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a: [", "is not YAML: .*line 1, column 5"),
            ("- a", "must map options"),
            ("on: true", "line 1: the key 'on' is no text: put it in quotes"),  # YAML reads it as true
            ("env: HF_HOME", "must map environment variables"),
            ("objektive: dapo", "Did you mean 'objective'"),
            ("dry_run: true", "'dry_run' is not an option. It stands on the command line alone: --dry_run"),
            ("datasets: [{path: gsm8k}]", "'datasets' is not an option"),
            ("learning_rate: [1, 2]", "--learning_rate takes one value, and '1' is followed by '2'"),
            ("seed: 1\nseed: 2", "line 2: 'seed' is given in line 1 too"),
            ("env: {A: 1, A: 2}", "line 1: 'A' is given in line 1 too"),
            ("optim:", "optim is empty. Give it a value, or leave the line out"),
            ("reward_funcs: {math_reward: 1}", "reward_funcs={'math_reward': 1} must be a value, or a list of some"),
            ("save_strategy: no", "save_strategy is no switch, and YAML reads no, .* Put the value in quotes"),
        ],
    )
    def test_broken_recipes(self, tmp_path, text, message):
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(UsageError, match=f"(?s){message}"):
            self.read("--config", str(tmp_path / "r.yaml"))

    @pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
    def test_a_recipe_in_another_encoding(self, tmp_path, encoding):
        (tmp_path / "r.yaml").write_text("run_name: été", encoding=encoding)
        with pytest.raises(UsageError, match=r"r\.yaml is not in UTF-8: .*Save it in UTF-8\."):
            self.read("--config", str(tmp_path / "r.yaml"))

    def test_what_a_recipe_may_hold(self, tmp_path):
        """Merged keys, a bool for a path, several values, nothing where nothing is a value."""
        text = "env: &a {A: 1}\nmodel_init_kwargs: {<<: *a, A: 2}\nresume_from_checkpoint: true\n"
        (tmp_path / "r.yaml").write_text(f"{text}lora_target_modules: [a, b]\ndelta:\nreport_to: [wandb, trackio]")
        found = self.read("--config", str(tmp_path / "r.yaml"))
        assert found.defaults == {"model_init_kwargs": {"A": 2}, "delta": None}
        assert found.script == shlex.split(
            "--resume_from_checkpoint=True --lora_target_modules a b --report_to wandb trackio"
        )
        assert found.env == {"A": "1"}

    def test_wrong_types_in_a_recipe(self, tmp_path):
        (tmp_path / "r.yaml").write_text("num_generations: many")
        found = self.read("--config", str(tmp_path / "r.yaml"))
        with pytest.raises(UsageError, match=r"argument --num_generations.*'many'"):
            htpo.parse(found.script, found.defaults)

    def test_environment_of_a_recipe_is_set_by_name_and_where_it_is_not_set(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HTPO_TEST_USERS", "mine")
        monkeypatch.delenv("HTPO_TEST_NEW", raising=False)
        env = {"HTPO_TEST_USERS": "recipe's", "HTPO_TEST_NEW": 7}
        (tmp_path / "r.yaml").write_text(yaml.safe_dump({"env": env}))
        found = self.read("--config", str(tmp_path / "r.yaml"))
        assert "HTPO_TEST_NEW" not in os.environ, "reading a recipe sets nothing"
        set_environment(found.env)
        assert (os.environ["HTPO_TEST_USERS"], os.environ.pop("HTPO_TEST_NEW")) == ("mine", "7")


class TestFailures:
    def test_one_line_and_exit_code_2(self, capsys):
        with pytest.raises(SystemExit) as ended, mendable("htpo train", OSError):
            raise OSError("no such\n  model")
        assert (ended.value.code, capsys.readouterr().err) == (2, "htpo train: no such model\n")

    def test_options_as_flags(self, capsys):
        with pytest.raises(SystemExit), mendable("htpo train"):
            raise UsageError(MEND)
        assert capsys.readouterr().err == (
            "htpo train: Resume from another checkpoint (--resume_from_checkpoint true takes the last complete one), "
            "or start from the weights of this one alone by passing its directory as --model_name_or_path, with "
            "another output_dir.\n"
        )

    def test_what_an_error_notes_is_told_too(self, capsys):
        """That a checkpoint was saved, for one."""
        error = UsageError("wrong")
        error.add_note("The run is saved\nat step 3.")
        with pytest.raises(SystemExit), mendable("htpo train"):
            raise error
        assert capsys.readouterr().err == "htpo train: wrong The run is saved at step 3.\n"

    def test_of_many_processes_each_says_its_rank(self, capsys, monkeypatch):
        """Where no launcher's store lets them agree on one that tells."""
        monkeypatch.setenv("WORLD_SIZE", "4")
        for rank in ("0", "3"):
            monkeypatch.setenv("RANK", rank)
            with pytest.raises(SystemExit) as ended, mendable("htpo train"):
                raise UsageError("wrong")
            assert (ended.value.code, capsys.readouterr().err) == (2, f"htpo train, rank {rank}: wrong\n")

    def test_under_a_launcher_one_tells_what_all_fail_on(self, capsys, monkeypatch):
        """And what one fails on that one tells, whichever it is."""
        store = TCPStore("localhost", 0, is_master=True)
        launched = {"MASTER_ADDR": "localhost", "MASTER_PORT": store.port, "WORLD_SIZE": 4}
        for name, value in (launched | {"TORCHELASTIC_USE_AGENT_STORE": "True"}).items():
            monkeypatch.setenv(name, str(value))
        for rank, text in enumerate(("all", "all", "all", "alone")):
            monkeypatch.setenv("RANK", str(rank))
            with pytest.raises(SystemExit) as ended, mendable("htpo train"):
                raise UsageError(text)
            assert ended.value.code == 2
        assert capsys.readouterr().err == "htpo train, rank 0: all\nhtpo train, rank 3: alone\n"

    def test_a_fault_of_the_program_keeps_its_traceback(self):
        with pytest.raises(ValueError, match="a bug"), mendable("htpo demo"):
            raise ValueError("a bug")


def documented_commands():
    """Every line of a shell block in README, docs and the recipes' headers that calls `htpo`."""
    for document in DOCUMENTS:
        for block in blocks(document, "bash"):
            lines = block.replace("\\\n", " ")
            yield from re.findall(r"^(?:\.venv/bin/)?(htpo .*|.* -m htpo_trl\.scripts\.htpo .*)$", lines, re.MULTILINE)
    for name in names(RECIPES):
        header = load_recipe(name)[0].read_text().split("\nmodel_name_or_path")[0]
        yield from re.findall(
            r"(htpo (?:train|eval) .*)",
            re.sub(r"\\\n#\s*", "", header).replace("HOST", "h").replace("rank I", "rank 0"),
        )


@pytest.mark.parametrize("line", sorted({*documented_commands()}))
def test_documented_commands(line):
    """Each is understood, recipe, configuration of accelerate and data sets included; what they do is tested above."""
    argv = shlex.split(line.split("(")[0], comments=True)
    launcher = vars(launch_command_parser().parse_args(["script"]))
    if "htpo_trl.scripts.htpo" in argv:
        arguments = read(argv[argv.index("htpo_trl.scripts.htpo") + 1 :], htpo.TITLES)
    elif argv[1] == "eval":
        found = read([token for token in argv[2:] if token != "--dry_run"], evaluate.TITLES, launcher)
        launch_arguments(found.launch)
        benchmarks = found.script[found.script.index("--benchmarks") + 1 :]
        benchmarks = benchmarks[: next((i for i, b in enumerate(benchmarks) if b.startswith("--")), None)]
        assert all(is_ours(name.partition(":")[0]) for name in benchmarks)
        return
    elif argv[1] == "train":
        arguments = read([token for token in argv[2:] if token != "--dry_run"], htpo.TITLES, launcher)
        launch_arguments(arguments.launch)
    elif argv[1] == "compare":
        args, options = make_parser().parse_known_args(argv[1:])
        read_arms(args.objectives, args.vary)
        arguments = read(options, htpo.TITLES, launcher)
    elif argv[1] == "demo":
        parser_of(LaptopConfig).parse_args(argv[2:])
        return
    else:
        make_parser().parse_args(argv[1:])
        return
    values = vars(htpo.make_parser().parse_args(arguments.script))
    assert values["model_name_or_path"]
