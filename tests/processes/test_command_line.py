"""The `htpo` command as a user types it: help, errors, recipes, plans, and real runs in one process and in two."""

import ast
import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.launch import launch_command_parser
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    HfArgumentParser,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from htpo_trl import HTPOTrainer
from htpo_trl.cli import make_parser
from htpo_trl.cli.launch import Layout, _accelerate_config
from htpo_trl.cli.memory import SHAPES, estimate, sizes
from htpo_trl.cli.plan import plan
from htpo_trl.data.names import PromptArguments, dataset, is_ours, mixture
from htpo_trl.scripts import evaluate, htpo
from htpo_trl.scripts.arguments import ACCELERATE_CONFIGS, RECIPES, UsageError, load_recipe, names, read
from htpo_trl.scripts.flags import is_true_by_default
from htpo_trl.scripts.reward_names import reward_functions
from htpo_trl.training.checkpoint import check

from ..distributed_run import CAN_RESUME, ENVIRONMENT, PORT, TORCHRUN, Run, run_command
from ..markdown import DOCUMENTS, blocks
from .test_invariance import ARGUMENTS, ROUND_OFF, missing_for_zero3


ROOT = Path(__file__).parents[2]
ACCELERATE = ("accelerate.commands.launch", f"--main_process_port={PORT}")
HTPO = (sys.executable, "-c", "from htpo_trl.cli import main; main()")
# Completions that depend on the prompt and the place in its group alone, not on process or model.
JUDGE = """
import random

from htpo_trl import HTPOTrainer

generate = HTPOTrainer._generate_single_turn


def forced(self, prompt_ids, *args, **kwargs):
    generate(self, prompt_ids, *args, **kwargs)
    first = self.accelerator.process_index * len(prompt_ids)
    return [completion(self, ids, row % self.num_generations) for row, ids in enumerate(prompt_ids, first)], None


def completion(self, prompt_ids, place):
    generator = random.Random(f"{prompt_ids} {place}")
    digits = generator.choices("0123456789", k=generator.randrange(self.max_completion_length + 1))
    ids = [*self.processing_class.convert_tokens_to_ids(digits), self.processing_class.eos_token_id]
    return ids[: self.max_completion_length]


def even_digits(completions, **kwargs):
    return [float(sum(c in "02468" for c in text) * 2 > len(text)) for text in completions]


def told(completions, **kwargs):
    print("judging", flush=True)
    return even_digits(completions)


HTPOTrainer._generate_single_turn = forced
"""
RECIPE = {
    **{"model_name_or_path": "model", "dtype": "float32", "output_dir": "out"},
    **{"dataset_name": "prompts.jsonl", "reward_funcs": "judge.even_digits"},
    **{"max_completion_length": 12, "learning_rate": 1e-3, "lr_scheduler_type": "constant", "report_to": "none"},
    **{"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True, "logging_steps": 1},
    **{"num_generations": 8, "per_device_train_batch_size": 24, "steps_per_generation": 1, "save_steps": 3},
    **ARGUMENTS,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizer):
    """A working directory with a model, data, a reward function and a recipe."""
    path = tmp_path_factory.mktemp("place")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=13,
        # The feed-forward layer has more than the 100,000 elements up to which ZeRO-3 keeps a parameter whole.
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        initializer_range=0.1,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    Qwen3ForCausalLM(config).save_pretrained(path / "model")
    tokenizer.save_pretrained(path / "model")
    (path / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": f"{i:02d}"}) for i in range(70) if i % 11))
    (path / "judge.py").write_text(JUDGE)
    (path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    with pytest.MonkeyPatch.context() as patch:  # what `judge` does to this process, where it is imported in it
        patch.setattr(HTPOTrainer, "_generate_single_turn", HTPOTrainer._generate_single_turn)
        patch.setattr(sys, "path", [*sys.path])
        yield path
    sys.modules.pop("judge", None)


def command(place, *argv, launcher=HTPO):
    """Run the command in a process of its own."""
    return run_command([*launcher, *map(str, argv)], place)


def succeed(place, *argv, launcher=HTPO):
    done = command(place, *argv, launcher=launcher)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done


@pytest.mark.parametrize("argv", [[], ["train"], ["eval"], ["demo"], ["recipes"], ["recipes", "copy"], ["env"]])
def test_help_imports_nothing_slow(argv):
    """Which is why it is there in a fraction of a second."""
    code = (
        "import atexit, sys; from htpo_trl.cli import main\n"
        "atexit.register(lambda: print('LOADED', *(m for m in sys.modules if '.' not in m)))\n"
        f"main({[*argv, '--help']})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    text, _, loaded = done.stdout.partition("LOADED")
    assert "usage: htpo" in text
    assert not {"torch", "trl", "transformers", "accelerate", "datasets"} & set(loaded.split())


@pytest.mark.parametrize(
    ("script", "parser"),
    [(htpo, htpo.make_parser()), (evaluate, HfArgumentParser(evaluate.EvalArguments, add_help=False))],
)
def test_flags_are_those_of_the_parser(script, parser):
    """What was read from the source is what the classes have, base classes' first as in the parser."""
    flags = script.flags()
    actions = {action.dest: action for action in parser._actions}
    defaults = {f.name: f.default for cls in parser.dataclass_types for f in dataclasses.fields(cls) if f.init}
    made = {f.name: f.default_factory for cls in parser.dataclass_types for f in dataclasses.fields(cls)}
    assert set(flags) == set(actions) == set(defaults)
    assert {flag.owner for flag in flags.values()} <= set(script.TITLES), "a class without a title is not in the help"
    for name, flag in flags.items():
        assert flag.help == " ".join((actions[name].help or "").split())
        default = made[name]() if defaults[name] is dataclasses.MISSING else defaults[name]
        if flag.default != "default_optim":
            assert ast.literal_eval(flag.default) == default
        assert is_true_by_default(flag) == any(f"--no_{name}" in a.option_strings for a in parser._actions)


class TestArguments:
    FLAGS = htpo.flags()

    def read(self, *argv):
        return read(argv, self.FLAGS, {"num_processes": 1, "num_machines": 1})

    def test_command_line_wins_over_recipe(self, place, monkeypatch):
        monkeypatch.chdir(place)
        found = self.read("--config", "recipe.yaml", "--learning-rate", "2e-6", "--num_processes=2", "--no_chat")
        assert found.launch == ["--num_processes=2"]
        assert found.own == ["--config", "recipe.yaml", "--learning-rate", "2e-6", "--no_chat"]
        script, training, model, _ = htpo.parse(found.script, found.defaults, "htpo train")
        assert (training.learning_rate, script.chat, model.dtype) == (2e-6, False, "float32")
        assert script.reward_funcs == ["judge.even_digits"]
        assert training.objective_overrides == ARGUMENTS["objective_overrides"]

    def test_null_and_nested_values_of_a_recipe(self, tmp_path):
        recipe = {"delta": None, "datasets": [{"path": "a.jsonl", "fraction": 0.5}], "use_cpu": True, "bf16": False}
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe | {"env": {"HTPO_TEST": 7}, "num_processes": 3}))
        found = self.read("--config", str(tmp_path / "r.yaml"))
        assert found.launch == ["--num_processes=3"]
        _, training, _, mixture_args = htpo.parse(found.script, found.defaults, "htpo train")
        assert training.delta is None
        assert mixture_args.datasets[0].fraction == 0.5
        again = self.read("--config", str(tmp_path / "r.yaml"), "--delta", "9")
        assert htpo.parse(again.script, again.defaults, "htpo train")[1].delta == 9.0

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["--lerning_rate", "1"], "'lerning_rate' is not an option. Did you mean 'learning_rate'?"),
            (["--learning", "1"], "'learning' is not an option"),  # no abbreviations
            (["--num_proceses", "2"], "Did you mean 'num_processes'?"),
            (["--config", "smolm2-135m-cpu"], "Did you mean 'smollm2-135m-cpu'?"),
            (["--config"], "--config takes one value"),
            (["recipe.yaml"], "'recipe.yaml' stands before any option"),
        ],
    )
    def test_mistakes(self, argv, message):
        with pytest.raises(UsageError, match=message.replace("?", r"\?")):
            self.read(*argv)

    @pytest.mark.parametrize(
        ("text", "message"),
        [("a: [", "is not YAML"), ("- a", "must map options"), ("objektive: dapo", "Did you mean 'objective'")],
    )
    def test_broken_recipes(self, tmp_path, text, message):
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(UsageError, match=message):
            self.read("--config", str(tmp_path / "r.yaml"))

    def test_wrong_types_in_a_recipe(self, tmp_path, capsys):
        (tmp_path / "r.yaml").write_text("num_generations: many")
        found = self.read("--config", str(tmp_path / "r.yaml"))
        with pytest.raises(SystemExit):
            htpo.parse(found.script, found.defaults, "htpo train")
        assert "argument --num_generations" in capsys.readouterr().err


@pytest.mark.parametrize("name", names(RECIPES))
@pytest.mark.parametrize("objective", ["htpo", "dapo"])
def test_recipes_are_planned(name, objective, monkeypatch, tmp_path):
    """Every recipe opens with its command, and all of its options hold."""
    text = load_recipe(name)[0].read_text()
    assert f"htpo train --config {name}" in text
    for word in ("Hardware:", "Time", "xpect", "--objective dapo"):
        assert word in text.split("\nmodel_name_or_path")[0]
    processes = {"paper/qwen3-8b-base": 32, "qwen3-4b-full-1node": 8}.get(name, 1)
    if name == "laptop":  # whose model `htpo demo` makes
        monkeypatch.setitem(SHAPES, "runs/laptop/warm_start-seed0", SHAPES["Qwen/Qwen3-0.6B"])
    monkeypatch.chdir(tmp_path)
    arguments = read(["--config", name, "--objective", objective], htpo.flags(), {})
    planned = plan(arguments, Layout(processes, 1, 3 if processes > 1 else 0, False, False))
    assert "Of 4 optimizer steps on a generation batch the first is on-policy, 3 are off-policy." in planned
    assert ("3 groups keep gradients" in planned) == (objective == "htpo")
    assert "together" in planned
    if name.startswith("paper"):
        assert "2048 responses = 128 prompts x 16" in planned
        assert "512 responses = 1 a device x 32 x 16 accumulated" in planned
    assert not list(tmp_path.iterdir()), "a plan leaves nothing behind"


class TestPlan:
    def plan(self, place, monkeypatch, *argv, processes=1):
        monkeypatch.chdir(place)
        found = read(["--config", "recipe.yaml", *argv], htpo.flags(), {})
        return plan(found, Layout(processes, 1, 0, False, False))

    def test_of_local_data(self, place, monkeypatch):
        text = self.plan(place, monkeypatch)
        assert "prompts.jsonl: 63 problems, 21.0 generation batches an epoch" in text
        assert "2 optimizer steps on a generation batch the first is on-policy, 1 are off-policy" in text

    def test_on_policy_runs_are_told(self, place, monkeypatch):
        text = self.plan(place, monkeypatch, "--num_iterations", "1")
        assert "Every importance ratio is 1" in text

    @pytest.mark.parametrize(
        ("argv", "processes", "message"),
        [
            (["--per_device_train_batch_size", "5"], 1, r"per_device_train_batch_size=8 \(or a multiple of 8\)"),
            (["--num_generations", "7"], 1, "num_generations=6 or 8"),
            (["--reward_funcs", "math_rewart"], 1, "Did you mean 'math_reward'"),
            (["--reward_funcs", "judge.odd_digits"], 1, "'judge.odd_digits' cannot be imported"),
            (["--dataset_name", "absent.jsonl"], 1, "no file 'absent.jsonl'"),
            (["--problem_column", "question"], 1, "no column 'question', only 'prompt'"),
            (["--reward_weights", "1", "2"], 1, "one number for each"),
            (["--eval_strategy", "steps"], 1, "needs data: set test_split_size"),
            (["--eval_benchmarks", "test"], 1, "set it, e.g. to 0.05"),
            (["--per_device_train_batch_size", "64"], 8, "63 problems are fewer than the 64 prompts"),
            (["--objective", "htpq"], 1, "htpq"),
            (["--reward_funcs", "get_soft_overlong_punishment"], 1, "soft_punish_cache=4096 must lie between"),
            (["--dataset_config", "main"], 1, "dataset_config='main' is for data sets of the Hub"),
            (["--dataset_options", "{"], 1, "is not JSON"),
            (["--dataset_options", '{"size": 3}'], 1, "are for procedural tasks, which prompts.jsonl is not"),
            (
                ["--reward_funcs", "math_reward"],
                1,
                "'math_reward' needs the column 'solution'; the data has only prompt",
            ),
            (["--dataset_path", "prompts.jsonl"], 1, "is a copy of one of dapo-math-17k"),
            (["--dataset_train_split", "train"], 1, "split='train' is for data sets of the Hub"),
        ],
    )
    def test_what_a_run_would_refuse(self, place, monkeypatch, argv, processes, message):
        with pytest.raises(ValueError, match=message):
            self.plan(place, monkeypatch, *argv, processes=processes)


class TestMemory:
    def test_states_are_what_a_model_and_adamw_hold(self, place):
        model = AutoModelForCausalLM.from_pretrained(place / "model")
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.tensor([[3, 4]]), labels=torch.tensor([[3, 4]])).loss.backward()
        optimizer.step()
        held = [t for state in optimizer.state.values() for t in state.values() if t.dim()]
        layout = {"processes": 1, "zero_stage": 0, "fsdp": False, "offload": False}
        shape = {"micro_batch": 1, "sequence_length": 2, "completion_length": 1, "generated_at_once": 1}
        numbers = {"dtype": "float32", "mixed_precision": False, "quantized_bits": None}
        size = sizes(str(place / "model"))
        parts = estimate(size, **numbers, **layout, **shape, gradient_checkpointing=False)
        assert parts["weights"] == sum(p.nbytes for p in model.parameters())
        assert parts["gradients"] == sum(p.grad.nbytes for p in model.parameters())
        assert parts["optimizer states"] == sum(t.nbytes for t in held)
        cache = model(torch.tensor([[3, 4]])).past_key_values
        assert parts["KV cache of generation (not at the same time)"] == sum(
            tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values)
        )
        # ZeRO divides: arXiv 1910.02054, figure 1, for 7.5 billion parameters on 64 devices.
        big = size._replace(parameters=7_500_000_000, trainable=7_500_000_000)
        for stage, gigabytes in ((0, 120), (1, 31.4), (2, 16.6), (3, 1.9)):
            settings = numbers | {"dtype": "bfloat16", "mixed_precision": True} | layout
            settings |= {"processes": 64, "zero_stage": stage or 1}
            if not stage:
                settings["processes"] = 1
            parts = estimate(big, **settings, **shape, gradient_checkpointing=True)
            held_bytes = sum(parts[name] for name in ("weights", "gradients", "optimizer states"))
            assert held_bytes / 1e9 == pytest.approx(gigabytes, abs=0.06)

    @pytest.mark.parametrize("name", ["HuggingFaceTB/SmolLM2-135M-Instruct", "Qwen/Qwen3-0.6B"])
    @pytest.mark.parametrize(("dtype", "autocast", "lora"), [("float32", 0, 0), ("float32", 1, 0), ("bfloat16", 0, 1)])
    def test_activations_are_what_the_backward_pass_keeps(self, name, dtype, autocast, lora):
        shape = {"model_type": "qwen3"} | SHAPES[name] | {"num_hidden_layers": 2, "vocab_size": 16}
        config = AutoConfig.for_model(**shape)
        model = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype))
        size = sizes(name)._replace(layers=2, vocabulary=16)
        if lora:
            model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
            size = size._replace(trainable=1)
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept = {}

        def pack(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bool(autocast)):
            model(torch.randint(2, 16, (2, 48)), logits_to_keep=1)
        parts = estimate(
            size,
            dtype=dtype,
            mixed_precision=bool(autocast),
            quantized_bits=None,
            processes=1,
            zero_stage=0,
            fsdp=False,
            offload=False,
            micro_batch=2,
            sequence_length=48,
            completion_length=1,
            gradient_checkpointing=False,
            generated_at_once=0,
        )
        measured = sum(nbytes for pointer, nbytes in kept.items() if pointer not in weights)
        if autocast:  # casts of the weights, which are counted by themselves
            measured -= parts["half-precision copies"] * 2 / sizes(name).layers
        assert parts["activations"] == pytest.approx(measured, rel=0.25)

    def test_known_shapes(self):
        """Parameter counts of the model cards."""
        known = {"Qwen/Qwen3-0.6B": 0.6, "Qwen/Qwen3-1.7B": 1.7, "Qwen/Qwen3-4B-Base": 4.0, "Qwen/Qwen3-8B-Base": 8.2}
        known["HuggingFaceTB/SmolLM2-135M-Instruct"] = 0.135
        assert set(known) == set(SHAPES)
        for name, billions in known.items():
            assert sizes(name).parameters / 1e9 == pytest.approx(billions, rel=0.02)


class TestResolve:
    def test_mixture_has_the_shares_it_is_told(self, tmp_path):
        from trl.scripts.utils import DatasetConfig

        for name, n in (("a", 100), ("b", 30)):
            rows = [json.dumps({"problem": f"{name}{i}", "solution": i}) for i in range(n)]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
        paths = [str(tmp_path / f"{name}.jsonl") for name in "ab"]
        entries = [DatasetConfig(path=p, fraction=f) for p, f in zip(paths, (0.25, 0.75), strict=True)]
        both = mixture(entries, PromptArguments(template="none", chat=False))
        counts = [sum(problem.startswith(name) for problem in both["problem"]) for name in "ab"]
        assert counts == [10, 30]
        assert len(mixture([DatasetConfig(path=p) for p in paths], PromptArguments())) == 130
        with pytest.raises(ValueError, match="given for all or for none"):
            mixture([DatasetConfig(path=paths[0], fraction=1.0), DatasetConfig(path=paths[1])], PromptArguments())

    def test_own_columns_and_procedural_tasks(self, tmp_path):
        (tmp_path / "own.csv").write_text("question,answer\n1 + 1,2\n")
        rows = dataset(str(tmp_path / "own.csv"), PromptArguments(problem_column="question", solution_column="answer"))
        assert rows[0]["solution"] == "2"
        task = dataset("chain_sum", PromptArguments(dataset_options='{"size": 5, "max_terms": 2}'))
        assert 1 <= len(task) <= 5

    def test_hub_data_set_in_trls_format_is_taken_as_it_is(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        folder = tmp_path / "org" / "set"
        folder.mkdir(parents=True)
        (folder / "train.jsonl").write_text('{"prompt": "p", "extra": 1}\n')
        assert dataset("org/set", PromptArguments(), split="train")[0] == {"prompt": "p", "extra": 1}
        with pytest.raises(ValueError, match="no column 'question', only prompt, extra"):
            dataset("org/set", PromptArguments(problem_column="question"), split="train")

    def test_last_number(self):
        (reward,) = reward_functions(["last_number_reward"])
        texts = ["3 + 4 = 7.", "7", "17", "-7", "7.5", "7 or 8", "", [{"role": "assistant", "content": "so 7"}]]
        assert reward(texts, ["7"] * len(texts)) == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]


def final(directory: Path, like: Path) -> Run:
    """What a run ended with, and its log. The weights are those that `like` has: ZeRO-2 saves tied ones twice."""
    log = json.loads((directory / "trainer_state.json").read_text())["log_history"]
    steps = [row for row in log if "grad_norm" in row]
    names, weights = (load_file(path / "model.safetensors") for path in (like, directory))
    return Run(
        torch.tensor([row["loss"] for row in steps]),
        torch.tensor([row["grad_norm"] for row in steps]),
        torch.cat([weights[name].flatten() for name in sorted(names)]),
    )


@pytest.fixture(scope="module")
def single(place):
    return succeed(place, "train", "--config", "recipe.yaml", "--output_dir", "single")


def test_one_process(place, single):
    assert "Model saved to single." in single.stdout
    assert (place / "single" / "README.md").exists()
    settings = json.loads((place / "single" / "settings.json").read_text())
    assert settings["HTPOConfig"]["objective"] == "htpo"
    assert settings["versions"]["trl"]


@pytest.mark.skipif(bool(missing_for_zero3()), reason=missing_for_zero3())
@pytest.mark.parametrize("config", ["ddp-cpu", "zero2-cpu", "zero3-cpu"])
def test_two_processes_stopped_and_resumed_are_one(place, single, config, compare):
    """The first start of DeepSpeed on a machine compiles for about a minute."""
    if config == "ddp-cpu" and not CAN_RESUME:
        pytest.skip("this transformers cannot resume on several CPU processes")
    argv = ["--config", "recipe.yaml", "--output_dir", config]
    argv += ["--per_device_train_batch_size", 6, "--gradient_accumulation_steps", 2, "--steps_per_generation", 2]
    succeed(place, "train", "--accelerate_config", config, *argv, "--max_steps", 3)
    file = ACCELERATE_CONFIGS / f"{config}.yaml"
    launcher = {
        "ddp-cpu": (sys.executable, "-m", *TORCHRUN, "-m", "htpo_trl.scripts.htpo"),
        "zero2-cpu": (sys.executable, "-m", *ACCELERATE, f"--config_file={file}", "-m", "htpo_trl.scripts.htpo"),
        "zero3-cpu": (*HTPO, "train", "--accelerate_config", config),
    }[config]
    succeed(place, *argv, "--resume_from_checkpoint", "true", launcher=launcher)
    name = {"ddp-cpu": "DDP", "zero2-cpu": "ZeRO-2", "zero3-cpu": "ZeRO-3"}[config]
    one, two = (final(place / which, place / "single") for which in ("single", config))
    varies = "`htpo train`, stopped and resumed"
    assert compare(f"1 process = 2 processes, {name}", varies, one, two) < ROUND_OFF
    # Each is what it says: optimizer states, and in ZeRO-3 weights, lie in parts.
    parts = {path.name.split("_mp_")[0] for path in (place / config).rglob("checkpoint-6/global_step*/*.pt")}
    assert any("optim" in path.name for path in (place / config).rglob("*_optim_states.pt")) == (config != "ddp-cpu")
    assert ("zero_pp_rank_1" in parts) == (config == "zero3-cpu") or config == "zero2-cpu"
    model = AutoModelForCausalLM.from_pretrained(place / config)
    tokenizer = AutoTokenizer.from_pretrained(place / config)
    assert model.generate(**tokenizer("12", return_tensors="pt"), max_new_tokens=2).shape[1] > 2


@pytest.mark.parametrize(("config", "signum"), [("single", signal.SIGTERM), ("ddp-cpu", signal.SIGINT)])
def test_signals_to_the_command(place, config, signum):
    """`kill PID` of one process, Ctrl-C in a terminal with two: both end with a checkpoint and the signal's code."""
    argv = ["train", "--config", "recipe.yaml", "--accelerate_config", config, "--max_steps", "1000000"]
    argv += ["--output_dir", f"stopped-{config}", "--save_strategy", "no", "--reward_funcs", "judge.told"]
    process = subprocess.Popen(
        [*HTPO, *argv], cwd=place, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert any(line == "judging\n" for line in process.stdout)
        os.kill(process.pid, signum) if config == "single" else os.killpg(process.pid, signum)
        last = process.stdout.read().splitlines()[-1]
        assert process.wait(timeout=120) == 128 + signum
    finally:
        process.kill()
    assert last.startswith(f"Stopped by {signum.name}. The run is saved at step ")
    check(place / last.partition("resume_from_checkpoint=")[2])


def train_here(place, monkeypatch, *argv):
    """The script in this process."""
    monkeypatch.chdir(place)
    arguments = read(["--config", "recipe.yaml", *map(str, argv)], htpo.flags(), {})
    configs = htpo.parse(arguments.script, arguments.defaults, "htpo train")
    trainer = htpo.build(*configs)
    htpo.train(trainer, None)
    return trainer


def test_lora(place, monkeypatch):
    before = load_file(place / "model" / "model.safetensors")
    trainer = train_here(
        place, monkeypatch, "--use_peft", "--lora_r", 4, "--lora_target_modules", "all-linear", "--output_dir", "lora"
    )
    # 4 × (in + out) for q, k, v, o, gate, up, down
    expected = 4 * ((256 + 64) + 2 * (256 + 32) + (64 + 256) + 2 * (256 + 512) + (512 + 256))
    adapter = load_file(place / "lora" / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in adapter.values()) == expected
    assert not (place / "lora" / "model.safetensors").exists()
    base = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): parameter
        for name, parameter in trainer.model.named_parameters()
        if "lora_" not in name
    }
    assert all(torch.equal(base[name], before[name]) for name in before), "base weights were touched"
    ids = torch.tensor([[3, 4, 5]])
    reloaded = AutoPeftModelForCausalLM.from_pretrained(place / "lora").eval()
    trained = trainer.model.eval()(ids).logits
    assert torch.equal(reloaded(ids).logits, trained)
    merged = reloaded.merge_and_unload()
    torch.testing.assert_close(merged(ids).logits, trained, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(AutoModelForCausalLM.from_pretrained(place / "model")(ids).logits, trained, atol=1e-2)


def test_benchmarks_and_options_reach_the_trainer(place, monkeypatch):
    rows = [{"prompt": f"{i:02d}", "problem": str(i), "solution": str(i)} for i in range(40)]
    (place / "held.jsonl").write_text("\n".join(map(json.dumps, rows)))
    trainer = train_here(
        *(place, monkeypatch, "--output_dir", "bench", "--dataset_name", "held.jsonl", "--test_split_size", 0.3),
        *("--eval_benchmarks", "test", "--eval_judge", "judge.even_digits", "--eval_steps", 2, "--max_steps", 2),
        *("--eval_num_samples", 2, "--eval_max_new_tokens", 5, "--correctness_reward", "even_digits"),
    )
    logged = [row["eval_test/mean@2"] for row in trainer.state.log_history if "eval_test/mean@2" in row]
    assert len(logged) == 2
    (summary,) = (place / "bench" / "evaluation").glob("step-2/test.json")
    assert json.loads(summary.read_text())["settings"]["sampling"]["max_new_tokens"] == 5
    held_out = {json.loads(line)["problem"] for line in summary.with_suffix(".jsonl").read_text().splitlines()}
    assert len(held_out) + len(trainer.train_dataset) == 40


class TestExitCodes:
    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["--use_cpu", "false", "--bf16", "true"], "On a CPU: --use_cpu true --bf16 false."),
            (["--model_name_or_path", "runs/x/warm_start"], "'runs/x/warm_start' is no directory here"),
            (["--dataset_name", "gsm8k"], "Download openai/gsm8k elsewhere"),
        ],
    )
    def test_first_mistakes(self, place, monkeypatch, capsys, argv, message):
        monkeypatch.chdir(place)
        with pytest.raises(SystemExit) as ended:
            htpo.main(["--config", "recipe.yaml", *argv])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err

    def test_wrong_option(self, place):
        done = command(place, "train", "--config", "recipe.yaml", "--objektive", "dapo")
        assert (done.returncode, done.stderr) == (
            2,
            "htpo train: command line: 'objektive' is not an option. Did you mean 'objective'?\n",
        )

    def test_what_only_the_run_can_know(self, place):
        done = command(place, "train", "--config", "recipe.yaml", "--use_vllm")
        assert done.returncode == 2
        assert done.stderr.endswith("htpo train: Packages are missing: pip install 'htpo_trl[vllm]'\n")

    def test_a_plan_by_the_command(self, place):
        done = succeed(place, "train", "--config", "recipe.yaml", "--accelerate_config", "ddp-cpu", "--dry_run")
        assert "processes         2 on 1 machine" in done.stdout
        assert "generation batch  48 responses" in done.stdout


def test_recipes_command(tmp_path, capsys, monkeypatch):
    from htpo_trl.cli import main

    monkeypatch.chdir(tmp_path)
    main(["recipes", "list"])
    listed = capsys.readouterr().out
    assert all(name in listed for name in names(RECIPES))
    main(["recipes", "copy", "laptop"])
    main(["recipes", "show", "laptop"])
    assert (tmp_path / "laptop.yaml").read_text() in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["recipes", "copy", "laptop"])
    assert "laptop.yaml exists" in capsys.readouterr().err
    main(["env"])
    assert "- torch: 2." in capsys.readouterr().out


def test_evaluate(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    rows = [{"problem": f"{i:02d}", "solution": str(i)} for i in range(6)]
    (place / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    argv = ["--model", "model", "--benchmarks", "sums.jsonl", "--num_samples", "2", "--max_new_tokens", "4"]
    argv += ["--template", "none", "--no_chat", "--judge", "judge.even_digits", "--dtype", "float32"]
    evaluate.main([*argv, "--output_dir", "evaluated"])
    evaluate.main([*argv, "--output_dir", "again", "--seed", "1", "--against", "evaluated"])
    out = capsys.readouterr().out
    assert "mean@2" in out
    assert "95% interval" in out
    with pytest.raises(SystemExit) as error:
        evaluate.main([*argv, "--backend", "vllm"])
    assert error.value.code == 2
    assert "pip install 'htpo_trl[vllm]'" in capsys.readouterr().err


def test_packaged_configurations_are_accelerates():
    from accelerate.commands.config.config_args import load_config_from_file

    for name in names(ACCELERATE_CONFIGS):
        config = load_config_from_file(str(ACCELERATE_CONFIGS / f"{name}.yaml"))
        assert config.num_processes == (1 if name == "single" else 2 if name.endswith("-cpu") else 8)


def documented_commands():
    """Every line of a shell block in README, docs and the recipes' headers that calls `htpo`."""
    for document in DOCUMENTS:
        for block in blocks(document, "bash"):
            lines = block.replace("\\\n", " ")
            yield from re.findall(r"^(?:\.venv/bin/)?(htpo .*|.* -m htpo_trl\.scripts\.htpo .*)$", lines, re.MULTILINE)
    for name in names(RECIPES):
        header = load_recipe(name)[0].read_text().split("\nmodel_name_or_path")[0]
        yield from re.findall(r"(htpo (?:train|eval) .*)", re.sub(r"\\\n#\s*", "", header).replace("HOST", "h"))


@pytest.mark.parametrize("line", sorted({*documented_commands()}))
def test_documented_commands(line):
    """Each is understood, recipe, configuration of accelerate and data sets included; what they do is tested above."""
    argv = shlex.split(line.split("(")[0], comments=True)
    launcher = vars(launch_command_parser().parse_args(["script"]))
    if "htpo_trl.scripts.htpo" in argv:
        arguments = read(argv[argv.index("htpo_trl.scripts.htpo") + 1 :], htpo.flags())
    elif argv[1] == "eval":
        found = read(argv[2:], evaluate.flags())
        benchmarks = found.script[found.script.index("--benchmarks") + 1 :]
        benchmarks = benchmarks[: next((i for i, b in enumerate(benchmarks) if b.startswith("--")), None)]
        assert all(is_ours(name) for name in benchmarks)
        return
    elif argv[1] == "train":
        arguments = read([token for token in argv[2:] if token != "--dry_run"], htpo.flags(), launcher)
        _accelerate_config(arguments.launch)
    else:
        make_parser().parse_args(argv[1:])
        return
    values = vars(htpo.make_parser().parse_args(arguments.script))
    assert values["model_name_or_path"]


def test_recipes_table_has_what_the_plans_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "recipes.md").read_text()
    for name in names(RECIPES):
        if name != "laptop":  # whose model is made by `htpo demo`
            processes = {"paper/qwen3-8b-base": 32, "qwen3-4b-full-1node": 8}.get(name, 1)
            layout = Layout(processes, 1, 3 if processes > 1 else 0, False, False)
            found = re.search(
                r"batch +\d+ responses = (\d+ prompts x \d+).*step +(\d+) .*together +([\d.]+) GiB",
                plan(read(["--config", name], htpo.flags()), layout),
                re.DOTALL,
            )
            assert re.search(
                rf"\| `{name}` \|.* = {found[1].replace(' prompts', '')} \| {found[2]} \|.*\| {found[3]} \|", text
            )
