"""The `htpo` command as a user types it: help, errors, and real runs in one process and in two."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from htpo_trl.cli import main
from htpo_trl.scripts import evaluate, htpo
from htpo_trl.scripts.arguments import ACCELERATE_CONFIGS, RECIPES, names, read
from htpo_trl.training.checkpoint import check

from .. import slurm
from ..distributed_run import (
    CAN_RESUME,
    ENVIRONMENT,
    PORT,
    ROUND_OFF,
    TORCHRUN,
    Run,
    missing_for_zero3,
    run_command,
)


ACCELERATE = ("accelerate.commands.launch", f"--main_process_port={PORT}")
HTPO = (sys.executable, "-c", "from htpo_trl.cli import main; main()")
TWO_PROCESSES = ("ddp-cpu", "zero3-cpu")  # on two machines, and by Slurm: zero2-cpu


def command(place, *argv, launcher=HTPO):
    """Run the command in a process of its own."""
    return run_command([*launcher, *map(str, argv)], place)


def succeed(place, *argv, launcher=HTPO):
    done = command(place, *argv, launcher=launcher)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done


@pytest.mark.parametrize(
    "argv", [[], ["train"], ["eval"], ["demo"], ["recipes"], ["recipes", "copy"], ["objectives"], ["check"], ["env"]]
)
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


def test_the_module_is_the_command(tmp_path):
    """`python -m htpo_trl` where the environment's scripts are not on the path."""
    module = (sys.executable, "-m", "htpo_trl")
    for argv in (["--help"], ["recipes", "show", "laptop"], ["tokens", "--run", "absent"], ["frobnicate"]):
        by_module, by_command = command(tmp_path, *argv, launcher=module), command(tmp_path, *argv)
        assert by_module.returncode == by_command.returncode == (0 if argv[0] in ("--help", "recipes") else 2)
        assert (by_module.stdout, by_module.stderr) == (by_command.stdout, by_command.stderr)
        assert (by_module.stdout or by_module.stderr).startswith(("usage: htpo", "# The laptop", "htpo"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "htpo: the following arguments are required: command"),
        (["tokens"], "htpo tokens: the following arguments are required: --run"),
        (["tokens", "--run", "absent"], "htpo tokens: absent has no recorded tokens."),
        (["tokens", "--run", "r", "--output", "recipe.yaml"], "htpo tokens: --output recipe.yaml must name a page"),
        (
            ["tokens", "--run", "r", "--output", "r.html", "--terminal"],
            "htpo tokens: --output r.html must name a page",
        ),
        (["report", "absent"], "htpo report: "),
        (["report", "run", "--outputdir", "there"], "htpo report: '--outputdir' is not an option."),
        (["demo", "--steps", "0"], "htpo demo: steps=0 must be at least 1."),
        (["demo", "--objective", "htpq"], "htpo demo: argument --objective: invalid choice: 'htpq'"),
        (["objectives"], "htpo objectives: the following arguments are required: action"),
        (["objectives", "show", "cispp"], "htpo objectives: Unknown objective 'cispp'. Did you mean 'cispo'?"),
        (["recipes", "show", "lapto"], "htpo recipes: Did you mean 'laptop'?"),
        (["train", "--config", "laptop", "--num_processes", "two"], "htpo train: argument --num_processes"),
        (
            ["train", "--config", "laptop", "--num_machines", "2", "--num_processes", "2"],
            "htpo train: num_machines=2: set main_process_ip and",
        ),
        (["train", "--config", "laptop", "--use_deepspeed", "--multi_gpu"], "htpo train: You can only use one of"),
        (["train", "--dry_run"], "htpo train: Set model_name_or_path"),
        (["train", "--dry_run", "true"], "htpo train: Set model_name_or_path"),
        (["train", "--dry_run", "plan"], "htpo train: argument --dry_run/--dry-run: invalid choice: 'plan'"),
        (["eval"], "htpo eval: Set --model and --benchmarks."),
        (["eval", "--modle", "m"], "htpo eval: command line: 'modle' is not an option. Did you mean 'model'?"),
        (["eval", "--model", "m", "--benchmarks", "b.csv", "--top_p", "2"], "htpo eval: top_p=2.0 must lie in"),
        (["eval", "--model", "m", "--benchmarks", "absent.csv"], "htpo eval: There is no file 'absent.csv'"),
    ],
)
def test_every_command_fails_by_one_line(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(argv)
    error = capsys.readouterr().err
    assert (ended.value.code, error.count("\n")) == (2, 1)
    assert error.startswith(message)


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
    assert settings["versions"]["device"].startswith("cpu, threads: ")


@pytest.fixture(scope="module")
def stopped(place):
    """
    Runs of two processes, stopped after three steps. They share the machine.

    Returns:
        `dict[str, tuple[list, CompletedProcess]]`: configuration → the options, and what became of it.
    """

    def run(config):
        argv = ["--config", "recipe.yaml", "--output_dir", config]
        argv += ["--per_device_train_batch_size", 6, "--gradient_accumulation_steps", 2, "--steps_per_generation", 2]
        return argv, succeed(place, "train", "--accelerate_config", config, *argv, "--max_steps", 3)

    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(TWO_PROCESSES, pool.map(run, TWO_PROCESSES), strict=True))


needs_deepspeed = pytest.mark.skipif(bool(missing_for_zero3()), reason=missing_for_zero3())


@needs_deepspeed
@pytest.mark.parametrize("config", TWO_PROCESSES)
def test_two_processes_stopped_and_resumed_are_one(place, single, stopped, config, compare):
    """The first start of DeepSpeed on a machine compiles for about a minute."""
    if config == "ddp-cpu" and not CAN_RESUME:
        pytest.skip("this transformers cannot resume on several CPU processes")
    argv, _ = stopped[config]
    file = ACCELERATE_CONFIGS / f"{config}.yaml"
    launcher = {
        "ddp-cpu": (sys.executable, "-m", *TORCHRUN, "-m", "htpo_trl.scripts.htpo"),
        "zero3-cpu": (sys.executable, "-m", *ACCELERATE, f"--config_file={file}", "-m", "htpo_trl.scripts.htpo"),
    }[config]
    succeed(place, *argv, "--resume_from_checkpoint", "true", launcher=launcher)
    name = {"ddp-cpu": "DDP", "zero3-cpu": "ZeRO-3"}[config]
    one, two = (final(place / which, place / "single") for which in ("single", config))
    varies = "`htpo train`, stopped and resumed"
    assert compare(f"1 process = 2 processes, {name}", varies, one, two) < ROUND_OFF
    # Each is what it says: optimizer states, and in ZeRO-3 weights, lie in parts.
    parts = {path.name.split("_mp_")[0] for path in (place / config).rglob("checkpoint-6/global_step*/*.pt")}
    assert any("optim" in path.name for path in (place / config).rglob("*_optim_states.pt")) == (config != "ddp-cpu")
    assert ("zero_pp_rank_1" in parts) == (config == "zero3-cpu")
    model = AutoModelForCausalLM.from_pretrained(place / config)
    tokenizer = AutoTokenizer.from_pretrained(place / config)
    assert model.generate(**tokenizer("12", return_tensors="pt"), max_new_tokens=2).shape[1] > 2


@needs_deepspeed
def test_two_runs_share_a_machine(stopped):
    """Each of two processes, started at once: neither waits at a port that the other has."""
    for config in TWO_PROCESSES:
        assert "is already in use" not in stopped[config][1].stderr


# As Slurm before the time is up, in the third of six steps; goes on when the run knows.
WARNED = """
import os, signal, time

from judge import even_digits


def warned(completions, trainer_state, **kwargs):
    if os.environ.get("WARN") and trainer_state.global_step == 2 and os.environ["RANK"] == "1":
        os.kill(int(os.environ["BATCH"]), signal.SIGUSR1)
        while not signal.getsignal(signal.SIGUSR1).__self__.received:
            time.sleep(0.01)
    return even_digits(completions)
"""


@needs_deepspeed
def test_two_machines_by_slurm_stopped_and_requeued_are_one_process(place, single, compare):
    """ZeRO-2; the job's second start is the same command."""
    (place / "slurm_judge.py").write_text(WARNED)
    bin = slurm.install(place / "bin")
    argv = ["--config", "recipe.yaml", "--accelerate_config", "zero2-cpu", "--output_dir", "zero2-cpu"]
    argv += ["--per_device_train_batch_size", 6, "--gradient_accumulation_steps", 2, "--steps_per_generation", 2]
    argv += ["--reward_funcs", "slurm_judge.warned", "--save_strategy", "no"]
    out, error = (job := slurm.sbatch(bin, place, *argv, WARN="yes")).communicate(timeout=300)
    assert job.returncode == 0, error[-6000:]
    assert "Stopped by SIGUSR1. The run is saved at step 3." in out
    assert (place / "requeued").read_text() == "requeued\n"
    out, error = (job := slurm.sbatch(bin, place, *argv)).communicate(timeout=300)
    assert job.returncode == 0, error[-6000:]
    assert "step 3/6" not in out
    assert (place / "requeued").read_text() == "requeued\n"
    one, two = (final(place / which, place / "single") for which in ("single", "zero2-cpu"))
    assert compare("1 process = 2 processes, ZeRO-2", "`htpo train`, stopped and resumed", one, two) < ROUND_OFF
    assert len([*(place / "zero2-cpu").glob("checkpoint-3/global_step3/*_optim_states.pt")]) == 2


@pytest.mark.parametrize(("config", "signum"), [("single", signal.SIGHUP), ("ddp-cpu", signal.SIGUSR1)])
def test_signals_to_the_command(place, config, signum):
    """A closed terminal on one process, a scheduler's warning to the launcher of two: both end with a checkpoint."""
    argv = ["train", "--config", "recipe.yaml", "--accelerate_config", config, "--max_steps", "1000000"]
    argv += ["--output_dir", f"stopped-{config}", "--save_strategy", "no", "--reward_funcs", "judge.told"]
    process = subprocess.Popen(
        ["env", "--default-signal", *HTPO, *argv], cwd=place, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert any(line == "judging\n" for line in process.stdout)
        os.kill(process.pid, signum)
        last = process.stdout.read().splitlines()[-1]
        assert process.wait(timeout=120) == 128 + signum
    finally:
        process.kill()
    assert last.startswith(f"Stopped by {signum.name}. The run is saved at step ")
    check(place / last.partition("To go on from there: --resume_from_checkpoint ")[2])


def train_here(place, monkeypatch, *argv):
    """The script in this process."""
    monkeypatch.chdir(place)
    arguments = read(["--config", "recipe.yaml", *map(str, argv)], htpo.TITLES)
    configs = htpo.parse(arguments.script, arguments.defaults)
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
        *("--chat_template_kwargs", '{"enable_thinking": false}'),
    )
    logged = [row["eval_test/mean@2"] for row in trainer.state.log_history if "eval_test/mean@2" in row]
    assert len(logged) == 2
    (summary,) = (place / "bench" / "evaluation").glob("step-2/test.json")
    sampling = json.loads(summary.read_text())["settings"]["sampling"]
    assert (sampling["max_new_tokens"], sampling["chat_template_kwargs"]) == (5, {"enable_thinking": False})
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
    evaluate.main([*argv, "--output_dir", "evaluated", "--chat_template_kwargs", '{"enable_thinking": false}'])
    sampling = json.loads((place / "evaluated" / "sums.json").read_text())["settings"]["sampling"]
    assert sampling["chat_template_kwargs"] == {"enable_thinking": False}
    evaluate.main([*argv, "--output_dir", "again", "--seed", "3", "--against", "evaluated"])
    out = capsys.readouterr().out
    compared = [line.split("|")[4:7] for line in out.splitlines() if "| mean@2 " in line][-1]
    summaries = [json.loads((place / name / "sums.json").read_text())["summary"] for name in ("evaluated", "again")]
    first, second = (summary["metrics"]["mean@2"]["mean"] for summary in summaries)
    assert first != second
    assert [cell.strip() for cell in compared] == [f"{first:.3f}", f"{second:.3f}", f"{second - first:+.3f}"]
    assert "95% interval" in out
    for wrong, message in (
        (["--backend", "vllm"], "pip install 'htpo_trl[vllm]'"),
        (["--ks", "4"], "ks=[4] must lie in 1..num_samples=2"),
        (["--against", "nothing"], "against='nothing': there is no nothing/sums.jsonl."),
        (["--output_dir", "again", "--seed", "2"], "again/sums.json"),  # holds samples of another seed
    ):
        with pytest.raises(SystemExit) as error:
            evaluate.main([*argv, *wrong])
        assert error.value.code == 2
        assert message in capsys.readouterr().err
