"""Arms, plans and results of `htpo compare`, and what its command refuses, in one line and before anything runs."""

import hashlib
import json
import multiprocessing
import os
import re
import signal
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
import yaml

from htpo_trl.cli import main
from htpo_trl.compare.arms import read_arms
from htpo_trl.compare.digests import code_of, digest_of_code
from htpo_trl.compare.plan import Run, differences, make_plan, runs_of, settle, tokens_of, written
from htpo_trl.compare.results import Common, _thinned, keep_failed
from htpo_trl.compare.runs import _error_of, _Phase, _Process, check_jobs, share_cores
from htpo_trl.data.names import evaluation_problems, hub_id
from htpo_trl.data.prompts import PromptArguments
from htpo_trl.scripts.arguments import WARM_STARTS
from htpo_trl.scripts.htpo import model_init_kwargs, parse, prepare, read_options
from htpo_trl.scripts.reward_names import reward_functions
from htpo_trl.training.settings import fingerprint
from htpo_trl.utils import UsageError


ROOT = Path(__file__).parents[2]
PLAN = {
    "arms": {"dapo": {"options": {"objective": "dapo"}}, "htpo": {"options": {"objective": "htpo"}}},
    "learning_rates": [5e-5, 1e-4],
    "tuning_seeds": [0, 1],
    "confirmation_seeds": [1000, 1001],
    "tuning_samples": 2,
    "samples": 8,
    "problems": {"validation": {"names": ["countdown:validation"]}, "test": {"names": ["countdown:test", "gcd"]}},
    "options": {"model_revision": "main"},
}


def test_arms_are_the_product():
    arms = read_arms(
        ["dapo", "mine.py:TABLE"], ["epsilon_high=0.2,0.28", 'objective_overrides={"high": "clip", "low": "cispo"},{}']
    )
    assert len(arms) == 8
    first = {"objective": "dapo", "epsilon_high": "0.2", "objective_overrides": '{"high": "clip", "low": "cispo"}'}
    assert next(iter(arms.values())) == first
    names = [*read_arms(["dapo", "mine.py:TABLE", "other.py:TABLE"], None)]
    assert names[:2] == ["dapo", "TABLE"]
    assert len({*names}) == 3
    for name in [*arms, *names]:
        assert len(name) <= 60
        assert all(c.isalnum() or c in "-_.+" for c in name), name
    assert [*read_arms(None, ["epsilon_high=0.2,0.28"])] == ["epsilon_high-0.2", "epsilon_high-0.28"]


@pytest.mark.parametrize(
    ("objectives", "vary", "said"),
    [
        (["dapo"], None, "There is nothing to compare"),
        (None, None, "There is nothing to compare"),
        (["dapo", "dapo"], None, "name one value twice"),
        (["dapo"], ["epsilon_hihg=0.2,0.3"], "Did you mean 'epsilon_high'?"),
        (["dapo"], ["epsilon_high=0.2"], "must name two values or more"),
        (["dapo"], ["epsilon_high"], "must name two values or more"),
        (["dapo"], ["epsilon=0.1,0.2", "epsilon=0.3,0.4"], "epsilon is varied twice"),
        (["dapo"], ["learning_rate=1e-4,1e-5"], "Name it in --learning_rates"),
        (["dapo"], ["seed=1,2"], "Say how many by --seeds"),
        (["dapo"], ["dataset_name=a,b"], "'dataset_name' is no option of HTPOConfig to vary"),
        (["dapo"], ["model_name_or_path=a,b"], "is no option of HTPOConfig to vary"),
        (["dapo"], ["output_dir=a,b"], "is no option of HTPOConfig to vary"),
    ],
)
def test_arms_that_are_none(objectives, vary, said):
    with pytest.raises(UsageError, match=r"^[^\n]+$") as refused:
        read_arms(objectives, vary)
    assert said in str(refused.value)


def test_runs_and_their_options():
    """Every arm has the same budget, and tuning shares neither a seed nor a problem with the confirmation."""
    tuning = runs_of(PLAN, "tuning")
    assert [run.name for run in tuning[:4]] == [
        *("tuning-dapo-lr5e-05-seed0", "tuning-dapo-lr0.0001-seed0", "tuning-htpo-lr5e-05-seed0"),
        "tuning-htpo-lr0.0001-seed0",
    ]
    confirmation = runs_of(PLAN, "confirmation", {"dapo": 1e-4, "htpo": 5e-5})
    assert [(run.name, run.learning_rate) for run in confirmation] == [
        ("confirmation-dapo-seed1000", 1e-4),
        ("confirmation-htpo-seed1000", 5e-5),
        ("confirmation-dapo-seed1001", 1e-4),
        ("confirmation-htpo-seed1001", 5e-5),
    ]
    assert not {run.seed for run in tuning} & {run.seed for run in confirmation}
    one, other = (tokens_of(PLAN, run, "here", False) for run in (tuning[0], tuning[2]))
    names = {f"--run_name={run.name}" for run in (tuning[0], tuning[2])}
    assert {*one} ^ {*other} == {"--objective=dapo", "--objective=htpo"} | names
    assert " --eval_benchmarks countdown:validation --" in " ".join(one)
    later = tokens_of(PLAN, confirmation[0], "here", True)
    assert " --eval_benchmarks countdown:test gcd --eval_num_samples=8 --eval_before_training=true" in " ".join(later)


def test_a_plan_is_settled_once(tmp_path):
    digest = settle(PLAN, tmp_path)
    content = (tmp_path / "plan.json").read_bytes()
    assert settle(PLAN, tmp_path) == digest
    other = PLAN | {"samples": 16, "learning_rates": [1e-4]}
    with pytest.raises(UsageError, match=r"samples 8 there, 16 here") as refused:
        settle(other, tmp_path)
    assert "learning_rates [5e-05, 0.0001] there, [0.0001] here" in str(refused.value)
    reordered = PLAN | {"arms": dict(reversed(PLAN["arms"].items()))}  # another baseline
    with pytest.raises(UsageError, match="the order of the arms"):
        settle(reordered, tmp_path)
    assert (tmp_path / "plan.json").read_bytes() == content
    assert differences({"a": {"b": 1}}, {"a": {"b": 1}}) == []


def test_results_of_another_plan_are_refused(tmp_path):
    (tmp_path / "results").mkdir()
    common = Common(PLAN, "1" * 64, tmp_path, [], False, 1, True)
    path = tmp_path / "results" / "tuning-dapo-lr0.0001-seed0.json"
    result = {"schema": 1, "plan": "1" * 64, "name": path.stem, "phase": "tuning", "arm": "dapo", "seed": 0}
    result |= {"learning_rate": 1e-4, "status": "failed"}
    path.write_text(json.dumps(result))
    assert common.results() == {path.stem: result}
    for change, said in (
        ({"plan": "0" * 64}, "-seed0.json is of another plan, 000000000000 and not 111"),
        ({"name": "tuning-dapo-lr0.0001-seed1"}, "-seed0.json is the result of tuning-dapo-lr0.0001-seed1"),
        ({"plan": 3}, "plan is 3, of the wrong kind"),
        ({"arm": ["dapo"]}, "arm is \\['dapo'\\], of the wrong kind"),
        ({"touched": {"keep_below": "much"}}, "touched has 'much', of the wrong kind"),
        ({"seconds": "long"}, "seconds is 'long', of the wrong kind"),
        ({"schema": 2}, "schema 2, and not 1"),
    ):
        path.write_text(json.dumps(result | change))
        with pytest.raises(UsageError, match=f"^[^\n]*{said}[^\n]*$"):
            common.results()


def test_a_run_that_was_killed_says_by_what(tmp_path):
    """And not the last that it happened to print."""
    killed = _Process.__new__(_Process)
    killed.log = tmp_path / "run.log"
    killed.log.write_text("$ htpo train --config recipe.yaml\nstep 3/160  reward 0.5\n")
    killed.process = multiprocessing.get_context("spawn").Process(target=signal.raise_signal, args=(signal.SIGKILL,))
    killed.process.start()
    killed.join()
    assert killed.last_line() == "ended by SIGKILL, as when memory runs out"


def test_the_error_of_several_processes():
    """Not the launcher's last line, which tells only whose it is."""
    log = """$ htpo train --seed=0
RuntimeError: of an earlier start
$ htpo train --seed=0
[rank0]:   File "trainer.py", line 1
[rank0]: RuntimeError: A reward failed on another process
There is no whole step.
htpo train: rank 1 failed first, with exit code 1.
"""
    assert _error_of(log) == "[rank0]: RuntimeError: A reward failed on another process"
    assert _error_of("$ htpo train\nStarted.\nhtpo train: rank 1 failed first.") == "htpo train: rank 1 failed first."
    assert _error_of("") == "it said nothing"


@pytest.mark.parametrize(
    ("jobs", "is_launched", "vllm_mode", "said"),
    [
        (2, False, "colocate", ""),
        (1, True, "server", ""),
        (2, False, "server", "--jobs 2: a vLLM server has the weights of one run. Set --jobs 1."),
        (3, False, "colocate", "--jobs 3: a GPU for each run, and 2 here. Set --jobs 2."),
        (2, True, "colocate", "--jobs 2: the launcher spreads each run over the GPUs. Set --jobs 1."),
    ],
)
def test_runs_would_take_each_others_memory(jobs, is_launched, vllm_mode, said, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    plan = {"options": {"use_vllm": True, "vllm_mode": vllm_mode}}
    common = Common(plan, "", None, [], is_launched, jobs, use_cpu=False)
    with pytest.raises(UsageError, match=re.escape(said)) if said else nullcontext():
        check_jobs(common)
    check_jobs(common._replace(use_cpu=True, plan={"options": {"use_vllm": False, "vllm_mode": "server"}}))


@pytest.mark.parametrize(
    ("cores", "jobs", "set_to", "threads"), [(8, 3, "", "2"), (2, 4, None, "1"), (8, 3, "5", "5")]
)
@pytest.mark.parametrize("is_macos", [False, True])
def test_runs_share_the_cores(cores, jobs, set_to, threads, is_macos, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: cores if is_macos else 99)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {*range(cores)})
    if is_macos:
        monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setenv("OMP_NUM_THREADS", set_to or "")
    if set_to is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    share_cores(jobs)
    assert os.environ["OMP_NUM_THREADS"] == threads


def test_what_fails_two_arms_alike_is_no_result(tmp_path):
    """A full disk, say: the command stops, and the first of them has no result. A repeated failure of one arm has."""
    plan = PLAN | {"problems": PLAN["problems"]}
    common = Common(plan, "0" * 64, tmp_path, [], False, 1, True)
    phase = _Phase(common, runs_of(plan, "tuning"))
    dapo, other, htpo = (Run("tuning", arm, 5e-5, seed) for arm, seed in (("dapo", 0), ("dapo", 1), ("htpo", 0)))
    phase._check_outage(dapo, "OSError: [Errno 28] No space left at 0x7f12")
    phase._check_outage(other, "OSError: [Errno 28] No space left at 0x8a12")
    phase._check_outage(htpo, "ValueError: NaN")
    results = [tmp_path / "results" / f"{run.name}.json" for run in (dapo, other)]
    for path, run in zip(results, (dapo, other), strict=True):
        keep_failed(common, run, "OSError")
        assert path.exists()
    with pytest.raises(UsageError, match="tuning-dapo-lr5e-05-seed0 and tuning-htpo-lr5e-05-seed0 failed alike"):
        phase._check_outage(htpo, "OSError: [Errno 28] No space left at 0x9c12")
    assert not any(path.exists() for path in results)


def test_a_long_log_is_thinned():
    import pandas as pd

    assert _thinned(pd.Series({1: 0.5, 3: 1.5})) == {"1": 0.5, "3": 1.5}
    thinned = _thinned(pd.Series(dict.fromkeys(range(1, 161), 2.0) | {160: 5.0}))
    assert len(thinned) == 50
    assert [*thinned][-1] == "160"
    assert thinned["160"] == 3.0  # of 158, 159 and 160
    assert thinned["4"] == 2.0


def test_a_benchmark_may_name_its_split():
    found = evaluation_problems(["countdown:validation", "countdown:test"], PromptArguments())
    assert [*found] == ["countdown-validation", "countdown-test"]
    assert found["countdown-test"][:] == evaluation_problems(["countdown"], PromptArguments())["countdown"][:]
    assert not {*found["countdown-validation"]["problem"]} & {*found["countdown-test"]["problem"]}
    assert (hub_id("owner/name:dev"), hub_id("countdown:test"), hub_id("math500")) == (
        *("owner/name", None),
        "HuggingFaceH4/MATH-500",
    )
    with pytest.raises(UsageError, match="math500 has no splits"):
        evaluation_problems(["math500:test"], PromptArguments())
    with pytest.raises(UsageError, match="'countdown:' names no split behind its colon"):
        evaluation_problems(["countdown:"], PromptArguments())
    with pytest.raises(UsageError, match="split='dev' of countdown is none of"):
        evaluation_problems(["countdown:dev"], PromptArguments())


ARGS = {
    **{"objectives": ["dapo", "htpo"], "vary": None, "learning_rates": None, "validation": None, "seeds": None},
    **{"test": ["countdown"], "samples": 4, "tuning_samples": None, "confirm_seeds": 1},
}
RECIPE = {
    **{"model_name_or_path": "model", "dtype": "float32", "dataset_name": "countdown", "use_cpu": True, "bf16": False},
    **{
        "reward_funcs": "countdown_reward",
        "max_completion_length": 8,
        "max_steps": 2,
        "gradient_checkpointing": False,
    },
    **{"num_generations": 4, "per_device_train_batch_size": 8, "report_to": "none"},
}


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys, make_model, tokenizer):
    """The line on which a command ends; nothing has run, and nothing was written, by then."""
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    monkeypatch.chdir(tmp_path)

    def refused(*options, objectives=("--objectives", "dapo", "htpo")):
        command = ["compare", "--config", "recipe.yaml", *objectives, "--output_dir", "fight"]
        with pytest.raises(SystemExit) as ended:
            main([*command, *map(str, options)])
        assert ended.value.code == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("htpo compare")]
        assert not (tmp_path / "fight").exists()
        return line

    return refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--seed", 3), "--seed is set for each run of a fight. Say how many by --seeds"),
        (("--eval-benchmarks=aime24",), "--eval_benchmarks is set for each run of a fight"),
        (("--no_eval_before_training",), "--eval_before_training is set for each run"),
        (("--seeds", 0), "--seeds 0 must lie in 1..1000"),
        (("--seeds", 1001), "--seeds 1001 must lie in 1..1000"),
        (("--jobs", 0), "--jobs 0 must lie in 1.."),
        (("--seeds", 3), "--seeds 3: one rate is not tuned. Name several --learning_rates"),
        (("--tuning_samples", 8, "--learning_rates", "1e-4"), "--tuning_samples 8: one rate is not tuned"),
        (("--learning_rates", "1e-4", "0.0001"), "name one rate twice"),
        (("--learning_rates", "1e-4", "-1"), "must lie between 0 and 1"),
        (("--learning_rates", "fast"), "invalid float value: 'fast'"),
        (("--max_setps", 3), "'max_setps' is not an option. Did you mean 'max_steps'?"),
        (("--objectives", "dapo", "htop", "--test", "countdown"), "Did you mean 'htpo'?"),
        ((), "there are none: name them by --test NAME"),
        (("--test", "aime24:x"), "aime24 has no splits"),
        (
            ("--test", "gcd", "--learning_rates", "1e-4", "1e-3", "--dataset_name", "lcm"),
            "name them by --validation NAME, or hold a part of the training data out by --test_split_size 0.1",
        ),
        (("--test", "countdown:train"), "All 1029 training problems are in what the run is evaluated on"),
        (("--test", "8-15.jsonl"), "'training' (9 problems) and 'test' (8) share 1, such as '08'"),
        (("--test", "9-15.jsonl", "15-18.jsonl"), "'test 9-15.jsonl' (7 problems) and 'test 15-18.jsonl' (4) share 1"),
        (
            ("--test", "9-15.jsonl", "--validation", "8-12.jsonl", "--learning_rates", "1e-4", "1e-3"),
            "'training' (9 problems) and 'validation' (5) share 1, such as '08'",
        ),
        (
            ("--test", "9-15.jsonl", "--validation", "14-20.jsonl", "--learning_rates", "1e-4", "1e-3"),
            "'test' (7 problems) and 'validation' (7) share 2, such as '14'",
        ),
        (
            ("--test", "countdown", "--validation", "countdown:test", "--learning_rates", "1e-4", "1e-3"),
            "--validation and --test are both countdown:test",
        ),
        (("--test", "countdown", "--dataset_streaming"), "dataset_streaming=True: a plan has all the training"),
        (
            ("--test", "countdown", "--vary", "max_completion_length=8,16"),
            "--vary max_completion_length: arms would differ in what the test asks, or in who judges it. "
            "Set --eval_max_new_tokens, for all arms alike.",
        ),
        (("--test", "countdown", "--vary", "correctness_threshold=0.3,0.9"), "Set --eval_judge, for all arms alike."),
        (
            ("--test", "countdown", "--num_machines", 2, "--num_processes", 2, "--main_process_ip", "10.0.0.1"),
            "num_machines=2: a fight runs on one machine.",
        ),
        (("--test", "countdown", "--num_generations", 5), "must hold whole groups of num_generations=5"),
        (("--test", "countdown", "--vary", "loss_type=dapo,sapo"), "loss_type='sapo'"),
        (("--test", "countdown", "--samples", 0), "--samples 0 must lie in"),
    ],
)
def test_one_line_before_anything_runs(refused, options, said, tmp_path):
    for name in [each for each in options if str(each).endswith(".jsonl")]:
        first, last = map(int, name.removesuffix(".jsonl").split("-"))
        for file, rows in ((name, range(first, last + 1)), ("train.jsonl", range(9))):
            (tmp_path / file).write_text("\n".join(json.dumps({"prompt": f"{i:02d}", "solution": "1"}) for i in rows))
        options = (*options, "--dataset_name", "train.jsonl", "--reward_funcs", "last_number_reward")
    assert said in refused(*options)


def test_a_model_of_the_hub_stays_at_its_commit(refused, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hub, commits = tmp_path / "models--org--name", [40 * "a", 40 * "b"]
    for commit in commits:
        copytree(WARM_STARTS / "laptop-warm-start", hub / "snapshots" / commit)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text(commits[0])

    def plan_of(name, *more):
        tokens = ["--config", "recipe.yaml", f"--model_name_or_path={name}", *more]
        return make_plan(Namespace(**ARGS), read_options(tokens))

    first = plan_of("org/name")
    assert first["model"] == {"name": "org/name", "digest": commits[0]}
    run = runs_of(first, "confirmation", dict.fromkeys(first["arms"], 1e-4))[0]
    assert f"--model_revision={commits[0]}" in tokens_of(first, run, tmp_path, False)
    (hub / "refs" / "main").write_text(commits[1])  # its owner pushes
    moved = {each.partition(" ")[0] for each in differences(first, plan_of("org/name"))}
    assert moved == {"model.digest", "options.model_init_kwargs.revision", "options.model_revision"}
    assert plan_of("org/name", f"--model_revision={commits[0]}") == first
    with pytest.raises(UsageError, match=r"^model_name_or_path='org/other' cannot be loaded from the Hub: "):
        plan_of("org/other")


def test_the_plan_is_that_of_a_gpu(refused):
    """It is made without a look for one, and what a run there writes must be what it says."""
    plan = make_plan(Namespace(**ARGS), arguments := read_options(["--config", "recipe.yaml"]))
    run = runs_of(plan, "confirmation", dict.fromkeys(plan["arms"], 1e-4))[0]
    tokens = [*arguments.script, *tokens_of(plan, run, "here", False), "--use_cpu=false"]
    configs = parse(tokens, arguments.defaults)
    assert configs[1].dataloader_pin_memory
    configs[1].model_init_kwargs = model_init_kwargs(*configs[1:])
    assert written(configs) == plan["options"]


def test_code_is_the_package_and_what_a_reward_imports(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reward_beside.py").write_text("SCORE = 1.0\n")
    source = "import json\nimport reward_beside\n\n\ndef even(completions, **kwargs):\n    return []\n"
    (tmp_path / "mine.py").write_text(source)
    even = reward_functions(["mine.py:even"])
    found = code_of([*even, *reward_functions(["countdown_reward"]), None])
    assert [*found] == ["htpo_trl", "mine.py", "reward_beside.py"]
    assert found["reward_beside.py"] == hashlib.sha256(b"SCORE = 1.0\n").hexdigest()
    package = tmp_path / "package"
    copytree(ROOT / "htpo_trl", package, ignore=ignore_patterns("__pycache__"))
    monkeypatch.setattr("htpo_trl.compare.digests._PACKAGE", package)
    assert digest_of_code("htpo_trl") == found["htpo_trl"]
    with (package / "objective" / "rules.py").open("a") as file:
        file.write("\n")
    assert digest_of_code("htpo_trl") != found["htpo_trl"]


def test_without_objectives_the_recipes_is_compared_with_dapo(refused, tmp_path, capsys):
    """And there is nothing to compare where that is dapo itself."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "plan.json").write_text("{}")
    with pytest.raises(SystemExit):  # nothing runs, as the plan is another
        main(["compare", "--config", "recipe.yaml", "--test", "countdown:test", "--output_dir", "other"])
    told = capsys.readouterr()
    assert "other/plan.json is the plan of another fight" in told.err
    assert "baseline    dapo: objective=dapo\n  arm         htpo: objective=htpo\n  model" in told.out
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"objective": "dapo"}))
    assert "There is nothing to compare" in refused("--test", "countdown:test", objectives=())


def test_a_fight_begins_in_a_directory_of_its_own(refused):
    """Or the model that it starts from, say, would not be the same when it goes on."""
    assert "holds config.json: a fight begins" in refused("--test", "countdown:test", "--output_dir", "model")


@pytest.mark.filterwarnings("ignore:test_split_size")  # of a confirmation run
def test_what_is_held_out_chooses_the_rates(refused, tmp_path):
    """Runs of both phases hold the same part out, and train on the same rest; a recipe's own wishes give way."""
    own = {"test_split_size": 0.25, "push_to_hub": True, "hub_token": "a-token"}
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps({"prompt": f"{i:02d}"}) for i in range(40)))
    (tmp_path / "test.jsonl").write_text("\n".join(json.dumps({"prompt": f"{i:02d}"}) for i in range(50, 55)))
    (tmp_path / "mine.py").write_text("def even(completions, **kwargs):\n    return [1.0 for _ in completions]\n")
    recipe = RECIPE | own | {"dataset_name": "train.jsonl", "reward_funcs": "mine.py:even"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    args = ARGS | {"learning_rates": [1e-4, 1e-3], "test": ["test.jsonl", "gcd"], "tuning_samples": 2, "seeds": 1}
    arguments = read_options(["--config", "recipe.yaml"])
    plan = make_plan(Namespace(**args), arguments)
    names, counts = ({part: each[key] for part, each in plan["problems"].items()} for key in ("names", "count"))
    assert names == {"training": ["train.jsonl"], "test": ["test.jsonl", "gcd"], "validation": ["test"]}
    assert counts["training"] + counts["validation"] == 40
    assert counts["validation"] in range(4, 17)
    for phase in ("tuning", "confirmation"):
        run = runs_of(plan, phase)[0]
        configs = parse([*arguments.script, *tokens_of(plan, run, "here", False)], arguments.defaults)
        parts = prepare(*configs, is_plan=True)
        assert fingerprint(parts.train) == plan["problems"]["training"]["digests"][0]
        assert not configs[1].push_to_hub
    assert {name: plan["code"][name] for name in plan["code"] if name != "htpo_trl"} == {
        "mine.py": hashlib.sha256((tmp_path / "mine.py").read_bytes()).hexdigest()
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"data_seed": 7}))
    assert "data_seed=7: leave it out of the recipe" in refused("--test", "test.jsonl")
