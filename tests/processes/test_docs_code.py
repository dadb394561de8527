"""
Every block of code in README and docs is run or checked, by its language: `python` is run, `yaml` is parsed by the
command, of `bash` the lines that call `htpo` are parsed in `test_arguments.py` and all others must be known here,
`text` is output, what the Python block right before it prints.
"""

import contextlib
import io
import json
import re
import shlex
import shutil
import tomllib
from importlib.metadata import metadata
from importlib.util import find_spec
from unittest.mock import patch

import datasets
import pytest
from accelerate.commands.launch import launch_command_parser
from transformers import TrainerCallback

from htpo_trl import HTPOConfig, HTPOTrainer, advantages, objective
from htpo_trl.cli.launch import launch_arguments
from htpo_trl.evaluation import Sampling
from htpo_trl.objective import gates
from htpo_trl.rewards import math_reward
from htpo_trl.scripts import htpo
from htpo_trl.scripts.arguments import read

from ..hub_files import ROWS, write_jsonl
from ..markdown import DOCUMENTS, ROOT, blocks, name, tokens


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LANGUAGES = {"python", "pycon", "yaml", "bash", "text", "bibtex"}
MODEL = "Qwen/Qwen3-0.6B"
CHAT = [{"prompt": [{"role": "user", "content": f"{i} + 2"}], "solution": f"${i + 2}$"} for i in range(8)]
CPU = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True}


def with_block(language):
    return pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(d, language)], ids=name)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_block_has_a_language(document):
    for token in tokens(document):
        assert token.type != "code_block", f"indented code, which no test sees: {token.content}"
        if token.type == "fence" and not token.info.startswith("{"):  # a directive of the site
            assert token.info in LANGUAGES, token.content


@pytest.fixture
def offline(hub, tiny_chat_model, tmp_path, monkeypatch):
    """What the pages name, on this machine, and shorter: data sets where `load_dataset` looks first, a model, runs."""
    for each in ("dapo-math-17k", "aime24", "gsm8k-train"):
        hub(each, ROWS[each][0])
    write_jsonl(tmp_path / "trl-lib/DeepMath-103K/train.jsonl", *CHAT)
    (tmp_path / "exercises.csv").write_text("question,answer\n" + "".join(f"{i} + 2,{i + 2}\n" for i in range(50)))
    shutil.copytree(tiny_chat_model, tmp_path / "runs/trained")
    shutil.copytree(ROOT / "benchmarks/fights/laptop", tmp_path / "runs/fight", ignore=lambda *_: ["runs"])
    for run in ("dapo-seed0", "htpo-seed0"):
        (tmp_path / "runs" / run).mkdir()
        state = {"global_step": 2, "log_history": [{"step": 1, "reward": 0.1}, {"step": 2, "reward": 0.2}]}
        (tmp_path / "runs" / run / "trainer_state.json").write_text(json.dumps(state))

    def shorten(cls, **changed):
        init = cls.__init__
        monkeypatch.setattr(cls, "__init__", lambda self, *args, **kwargs: init(self, *args, **{**kwargs, **changed}))

    shorten(HTPOConfig, **CPU, max_completion_length=8, max_steps=1, logging_steps=1)
    shorten(Sampling, max_new_tokens=2)
    # A page adds its own to the tables that the configuration reads.
    with patch.dict(objective.PRESETS), patch.dict(gates.FUNCTIONS), patch.dict(advantages.ESTIMATORS):
        yield {MODEL: str(tiny_chat_model)}


def halfway(model, data):
    """A trainer with a step behind it, a checkpoint, and another step to go."""

    class StopAfterOne(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = True

    trainer = HTPOTrainer(model, math_reward, HTPOConfig("runs/halfway", save_steps=1), train_dataset=data)
    trainer.args.max_steps = 2
    trainer.add_callback(StopAfterOne())
    trainer.train()
    trainer.remove_callback(StopAfterOne)
    return trainer


def printing(document):
    """Each Python block with the block of text right after it, if any."""
    fences = tokens(document)
    for token, following in zip(fences, [*fences[1:], None], strict=True):
        if token.type == "fence" and token.info == "python":
            yield token.content, following.content if following and following.info == "text" else None


@with_block("python")
def test_python_runs(document, offline):
    """All blocks of a page, in their order, in one namespace: what they leave out is the reader's."""
    source = blocks(document, "python")
    namespace = {"HTPOConfig": HTPOConfig, "train_dataset": datasets.Dataset.from_list(CHAT)}
    if "trainer" in "".join(source) and "HTPOTrainer(" not in "".join(source):
        namespace["trainer"] = halfway(offline[MODEL], namespace["train_dataset"])
    for block, output in printing(document):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(block.replace(MODEL, offline[MODEL]), name(document), "exec"), namespace)
        assert output in (None, printed.getvalue())
    if trainer := namespace.get("trainer"):
        assert trainer.state.global_step == trainer.args.max_steps
        assert any("htpo/share/hard_wrong_low" in row for row in trainer.state.log_history)


@with_block("yaml")
def test_yaml_is_a_recipe(document, tmp_path):
    """Each key is an option of `htpo train` or of accelerate's launcher, each value of its type."""
    launcher = vars(launch_command_parser().parse_args(["script"]))
    for block in blocks(document, "yaml"):
        (tmp_path / "recipe.yaml").write_text(block)
        found = read(["--config", str(tmp_path / "recipe.yaml")], htpo.TITLES, launcher)
        launch_arguments(found.launch)
        _, training, _ = htpo.parse([*found.script, "--use_cpu=true", "--bf16=false"], found.defaults)
        assert training.table


def is_extra(package, extras):
    known = (
        PROJECT["optional-dependencies"]
        if package in (".", "htpo_trl")
        else metadata(package).get_all("Provides-Extra")
    )
    return {*extras.split(",")} <= {*known}


def trains(script, options):
    """Whether a job script is there, and takes these options as `htpo train` does."""
    found = read(shlex.split(options), htpo.TITLES, vars(launch_command_parser().parse_args(["script"])))
    return (ROOT / script).is_file() and launch_arguments(found.launch)


# Commands that are not `htpo`: pattern → whether what it names is there.
COMMANDS = {
    r"make ([\w-]+)": lambda target: re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE),
    r"pip install (?:-e )?'([\w.]+)\[([\w,]+)\]'": is_extra,
    r"pip install '(\w+)\[([\w,]+)\] @ git\+(\S+)'": lambda package, extras, url: (
        is_extra(package, extras) and url == PROJECT["urls"]["Repository"]
    ),
    r"python (?:-m )?([\w./]+)(?: .*)?": lambda path: (ROOT / path).is_file() or find_spec(path),
    r"bash (scripts/\w+\.sh)": lambda path: (ROOT / path).is_file(),
    r"sbatch (?:--nodes=\d+ )?(examples/\w+\.sh) (.*)": trains,
    r"kubectl apply -f (\S+)": lambda path: (ROOT / path).is_file(),
    r"git clone (\S+)": lambda url: url == PROJECT["urls"]["Repository"],
    r"cd (\w+)": lambda directory: PROJECT["urls"]["Repository"].endswith(f"/{directory}"),
    r"VLLM_SERVER_DEV_MODE=1 vllm serve .*": lambda: True,  # as TRL documents it; needs a GPU
}


@with_block("bash")
def test_commands_are_known(document):
    for block in blocks(document, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"\s+#.*|^#.*", "", line).strip()
            if not command or re.match(
                r"(\.venv/bin/|srun )?htpo |(accelerate|torchrun) .* -m htpo_trl\.scripts\.(htpo|evaluate) ", command
            ):
                continue
            matches = {pattern: re.fullmatch(pattern, command) for pattern in COMMANDS}
            found = [check(*matches[pattern].groups()) for pattern, check in COMMANDS.items() if matches[pattern]]
            assert found, f"no test knows `{command}`"
            assert all(found), f"`{command}` names what is not there"
