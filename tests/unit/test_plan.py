"""Plans of runs: every recipe's, what they say of batches, memory and mistakes, and how a run is spread."""

import re
from pathlib import Path

import pytest
import torch
from accelerate.commands.config import config_args
from transformers import AutoModelForCausalLM

from htpo_trl.cli.launch import Parallelism, launch_arguments, parallelism
from htpo_trl.cli.memory import Sizes, estimate, sizes
from htpo_trl.cli.plan import plan_run
from htpo_trl.scripts import htpo, packages
from htpo_trl.scripts.arguments import ACCELERATE_CONFIGS, RECIPES, WARM_STARTS, load_recipe, names, read
from htpo_trl.utils import UsageError

from ..hub_files import write_jsonl


ROOT = Path(__file__).parents[2]


def write_tasks(directory):
    """The data of two tasks, which their recipe does not bring."""
    rows = [{"prompt": "1 + 1?", "solution": "2"}, {"prompt": "2,5,9>43:"}] * 16
    return write_jsonl(directory / "tasks.jsonl", *rows)


@pytest.mark.parametrize("name", names(RECIPES))
@pytest.mark.parametrize("objective", ["htpo", "dapo"])
def test_recipes_are_planned(name, objective, monkeypatch, tmp_path):
    """Every recipe opens with its command, and all of its options hold."""
    text = load_recipe(name)[0].read_text()
    assert f"htpo train --config {name}" in text
    for word in ("Hardware:", "Time", "xpect", "--objective dapo"):
        assert word in text.split("\nmodel_name_or_path")[0]
    processes = {"paper/qwen3-8b-base": 32, "qwen3-4b-full-1node": 8}.get(name, 1)
    monkeypatch.chdir(tmp_path)
    if name == "two-tasks-qwen3-0.6b":
        write_tasks(tmp_path)
    before = {*tmp_path.rglob("*")}
    arguments = read(["--config", name, "--objective", objective], htpo.TITLES, {})
    planned = plan_run(arguments, Parallelism(processes, 1, 3 if processes > 1 else 0))
    assert "Of 4 optimizer steps on a generation batch the first is on-policy, 3 are off-policy." in planned
    assert ("3 groups keep gradients" in planned) == (objective == "htpo")
    is_packaged = (WARM_STARTS / load_recipe(name)[1]["model_name_or_path"]).exists()
    assert ("is not on this machine" in planned) == (not is_packaged)
    assert ("of them trained; per device" in planned) == is_packaged
    if name.startswith("paper"):
        assert "2048 responses = 128 prompts x 16" in planned
        assert "512 responses = 1 a device x 32 x 16 accumulated" in planned
    if name == "two-tasks-qwen3-0.6b":
        assert "1 math_reward + 1 countdown_reward; correct: math_reward, else countdown_reward above 0.5" in planned
        assert "tasks.jsonl: 32 problems" in planned
    assert {*tmp_path.rglob("*")} == before, "a plan leaves nothing behind"


class TestPlan:
    def plan(self, place, monkeypatch, *argv, processes=1):
        monkeypatch.chdir(place)
        found = read(["--config", "recipe.yaml", *argv], htpo.TITLES)
        return plan_run(found, Parallelism(processes))

    def test_of_local_data(self, place, monkeypatch):
        text = self.plan(place, monkeypatch)
        assert "prompts.jsonl: 63 problems, 21.0 generation batches an epoch" in text
        assert "2 optimizer steps on a generation batch the first is on-policy, 1 are off-policy" in text

    def test_a_generation_batch_serves_every_iteration(self, place, monkeypatch):
        options = ("--steps_per_generation", "4", "--gradient_accumulation_steps", "2", "--num_iterations", "3")
        assert "optimizer steps   6 a generation batch" in self.plan(place, monkeypatch, *options)

    def test_another_estimator_is_named(self, place, monkeypatch):
        options = ("--advantage", "a-grae", "--advantage_kwargs", '{"alpha": 0.5}')
        assert "\n  advantage   a-grae (alpha=0.5, epsilon=1e-06)\n" in self.plan(place, monkeypatch, *options)
        assert "advantage" not in self.plan(place, monkeypatch)

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
            (["--advantage", "hapi"], 1, "Did you mean 'hapo'"),
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
        with pytest.raises((ValueError, OSError), match=message):
            self.plan(place, monkeypatch, *argv, processes=processes)


class TestMissingPackages:
    @pytest.fixture
    def bare(self, monkeypatch):
        """A machine where only what is always there is installed."""
        monkeypatch.setattr(packages, "find_spec", lambda name: None)

    @pytest.mark.usefixtures("bare")
    @pytest.mark.parametrize(
        ("argv", "spread", "expected"),
        [
            ([], Parallelism(8, 1, 3), "'htpo_trl[deepspeed]'"),
            (["--use_vllm", "--report_to", "wandb"], Parallelism(), "'htpo_trl[vllm]' 'htpo_trl[wandb]'"),
            (["--report_to", "mlflow"], Parallelism(), "'mlflow'"),
            (
                ["--optim", "paged_adamw_8bit", "--attn_implementation", "flash_attention_2"],
                Parallelism(),
                "'bitsandbytes' 'flash-attn'",
            ),
        ],
    )
    def test_are_listed_with_the_command(self, place, monkeypatch, argv, spread, expected):
        monkeypatch.chdir(place)
        argv = ["--config", "recipe.yaml", "--per_device_train_batch_size", "8", *argv]
        text = plan_run(read(argv, htpo.TITLES), spread)
        assert f"Missing here:\n  pip install {expected}\n" in text

    def test_a_run_under_deepspeed_needs_it(self, place, monkeypatch):
        """As accelerate launches it, whose configuration the script does not see."""
        monkeypatch.chdir(place)
        found = read(["--config", "recipe.yaml"], htpo.TITLES)
        configs = htpo.parse(found.script, found.defaults)
        monkeypatch.setattr(packages, "find_spec", lambda name: None)
        assert packages.missing_packages(*configs[1:]) == []
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
        assert packages.missing_packages(*configs[1:]) == ["htpo_trl[deepspeed]"]


class TestMemory:
    def test_states_are_what_a_model_and_adamw_hold(self, place):
        model = AutoModelForCausalLM.from_pretrained(place / "model")
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.tensor([[3, 4]]), labels=torch.tensor([[3, 4]])).loss.backward()
        optimizer.step()
        held = [t for state in optimizer.state.values() for t in state.values() if t.dim()]
        numbers = {"dtype": "float32", "mixed_precision": False, "quantized_bits": None}
        size = sizes(str(place / "model"))
        parts = estimate(size, Parallelism(), **numbers)
        assert parts["weights"] == sum(p.nbytes for p in model.parameters())
        assert parts["gradients"] == sum(p.grad.nbytes for p in model.parameters())
        assert parts["optimizer states"] == sum(t.nbytes for t in held)
        # ZeRO divides: arXiv 1910.02054, figure 1, for 7.5 billion parameters on 64 devices.
        big = size._replace(parameters=7_500_000_000, trainable=7_500_000_000)
        for stage, gigabytes in ((0, 120), (1, 31.4), (2, 16.6), (3, 1.9)):
            spread = Parallelism(64 if stage else 1, zero_stage=stage or 1)
            parts = estimate(big, spread, **numbers | {"dtype": "bfloat16", "mixed_precision": True})
            assert sum(parts.values()) / 1e9 == pytest.approx(gigabytes, abs=0.06)

    def test_quantized_weights_and_adapters(self):
        """QLoRA: half a byte for a weight of a linear layer; adapters, their gradients and states are float32."""
        size = Sizes(parameters=1000, in_linear_layers=800, trainable=10)
        parts = estimate(size, Parallelism(), dtype="bfloat16", mixed_precision=True, quantized_bits=4)
        assert parts == {"weights": 2 * 200 + 400, "gradients": 40, "optimizer states": 80}

    def test_a_model_that_is_not_here_is_not_estimated(self, place, monkeypatch):
        monkeypatch.chdir(place)
        found = read(["--config", "recipe.yaml", "--model_name_or_path", "org/absent"], htpo.TITLES)
        assert "  not estimated: org/absent is not on this machine\n" in plan_run(found, Parallelism())

    def test_of_a_local_model(self, place, monkeypatch):
        monkeypatch.chdir(place)
        text = plan_run(read(["--config", "recipe.yaml"], htpo.TITLES), Parallelism(4, 1, 2))
        n = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained("model").parameters())
        assert f"{n:,} parameters, {n:,} of them trained" in text
        assert f"weights           {4 * n / 2**20:7.2f} MiB" in text
        assert f"gradients         {n / 2**20:7.2f} MiB" in text
        assert f"together          {7 * n / 2**20:7.2f} MiB" in text
        # 24 responses of 12 tokens; keys and values of 2 heads of 16 in one layer, in float32.
        assert f"generation        {24 * 12 * 2 * 2 * 16 * 4 / 2**20:7.2f} MiB more, the cache of 24 responses" in text
        assert "fits in 16 GB, activations, prompts and libraries aside" in text


class TestParallelism:
    @pytest.mark.parametrize(
        ("argv", "expected"),
        [
            (["--accelerate_config", "single"], Parallelism()),
            (["--accelerate_config=ddp"], Parallelism(8)),
            (["--accelerate_config", "zero2", "--num_processes", "4"], Parallelism(4, 1, 2)),
            (["--accelerate_config", "zero3-offload"], Parallelism(8, 1, 3, offload=True)),
            (["--accelerate_config", "fsdp2"], Parallelism(8, fsdp=True)),
            (["--accelerate_config", "ddp", "--accelerate_config", "single"], Parallelism()),  # the last one wins
            (["--accelerate_config", "zero3", "--num_machines", "4", "--num_processes", "32"], Parallelism(32, 4, 3)),
            (["--use_deepspeed", "--zero_stage", "1", "--num_processes", "2"], Parallelism(2, 1, 1)),
        ],
    )
    def test_is_what_accelerate_will_do(self, argv, expected):
        assert parallelism(launch_arguments(argv)) == expected

    def test_of_the_users_own_configuration(self, monkeypatch, tmp_path):
        """That `accelerate config` has written, where nothing else is named."""
        file = str(ACCELERATE_CONFIGS / "zero2.yaml")
        monkeypatch.setattr(config_args, "default_config_file", file)
        assert parallelism(launch_arguments([])) == Parallelism(8, 1, 2)
        assert parallelism(launch_arguments(["--accelerate_config", "ddp-cpu"])) == Parallelism(2)

    @pytest.mark.parametrize(
        ("argv", "port"),
        [
            ([], 0),  # accelerate's sign for a free one
            (["--main_process_port", "29511"], 29511),
            (["--num_machines", "2", "--num_processes", "2"], None),  # all machines must name the same
        ],
    )
    def test_runs_share_a_machine(self, argv, port):
        assert launch_arguments(["--accelerate_config", "ddp-cpu", *argv]).main_process_port == port

    def test_a_port_of_the_configuration_is_kept(self, tmp_path):
        content = (ACCELERATE_CONFIGS / "ddp-cpu.yaml").read_text()
        (tmp_path / "mine.yaml").write_text(f"{content}\nmain_process_port: 29512\n")
        assert launch_arguments(["--config_file", str(tmp_path / "mine.yaml")]).main_process_port is None

    def test_mistakes(self, tmp_path):
        with pytest.raises(UsageError, match="Did you mean 'zero2'"):
            launch_arguments(["--accelerate_config", "zerro2"])
        (tmp_path / "list.yaml").write_text("- a")
        with pytest.raises(UsageError, match=r"list.yaml is no configuration of accelerate"):
            launch_arguments(["--accelerate_config", str(tmp_path / "list.yaml")])
        for argv, message in (
            (["--num_processes", "0"], "num_processes=0 must be at least 1"),
            (["--num_processes", "2", "--num_machines=-1"], "num_machines=-1 must be at least 1"),
            (["--use_deepspeed", "--zero_stage", "9"], "zero_stage=9 must be from 0 to 3"),
        ):
            with pytest.raises(UsageError, match=message):
                parallelism(launch_arguments(argv))
        (tmp_path / "recipe.yaml").write_text("learning_rate: 1.0e-6")
        with pytest.raises(UsageError, match=r"it has no distributed_type. A recipe goes to --config"):
            launch_arguments(["--accelerate_config", str(tmp_path / "recipe.yaml")])
        with pytest.raises(UsageError, match=r"argument --num_processes.*'two'"):
            launch_arguments(["--num_processes", "two"])
        with pytest.raises(ValueError, match="You can only use one of"):
            parallelism(launch_arguments(["--use_deepspeed", "--multi_gpu"]))
        for option in ("num_processes", "num_machines"):
            with pytest.raises(UsageError, match=f"{option}=0 must be at least 1"):
                parallelism(launch_arguments([f"--{option}", "0"]))


def test_packaged_configurations_are_accelerates():
    from accelerate.commands.config.config_args import load_config_from_file

    for name in names(ACCELERATE_CONFIGS):
        config = load_config_from_file(str(ACCELERATE_CONFIGS / f"{name}.yaml"))
        assert config.num_processes == (1 if name == "single" else 2 if name.endswith("-cpu") else 8)


def test_recipes_table_has_what_the_plans_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tasks(tmp_path)
    text = (ROOT / "docs" / "recipes.md").read_text()
    for name in names(RECIPES):
        processes = {"paper/qwen3-8b-base": 32, "qwen3-4b-full-1node": 8}.get(name, 1)
        found = re.search(
            r"batch +\d+ responses = (\d+ prompts x \d+).*step +(\d+) ",
            plan_run(read(["--config", name], htpo.TITLES), Parallelism(processes)),
            re.DOTALL,
        )
        assert re.search(rf"\| `{name}` \|.* = {found[1].replace(' prompts', '')} \| {found[2]} \|", text)
