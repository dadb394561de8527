import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from htpo_trl import cli
from htpo_trl.data.countdown import SYMBOLS, is_solution, problems
from htpo_trl.demo import laptop, warm_start
from htpo_trl.evaluation import mean_with_interval
from htpo_trl.objective import GROUPS, PRESETS
from htpo_trl.scripts.arguments import WARM_STARTS, load_recipe
from htpo_trl.tokens import read_record
from htpo_trl.tokens.record import recorded_steps
from htpo_trl.utils import UsageError

from ..distributed_run import ENVIRONMENT
from ..markdown import ROOT, blocks


README = ROOT / "README.md"
PICTURES = ("report/learning.png", "report/budgets.png", "report/shares.png")
EARLIER = ("settings.json", "evaluation/step-160/countdown.json", "report/old.png", "checkpoint-9/model.safetensors")


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    """`make demo`, as the README has it, in its quick setting."""
    root = tmp_path_factory.mktemp("laptop")
    for name in EARLIER:  # of a run that is replaced
        path = root / "htpo-seed0" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"versions": {}}')
    command = ["make", "-o", f"{sys.prefix}/.installed", "demo", f"VENV={sys.prefix}"]
    output = subprocess.run(
        [*command, f"DEMO_ARGS=--quick --threads 1 --output_dir {root}"],
        cwd=ROOT,
        env=ENVIRONMENT | {"MAKEFLAGS": ""},
        check=True,
        capture_output=True,
        text=True,
        timeout=600,
    ).stdout
    return root, output


def test_demo_says_what_it_does_and_leaves_everything(quick_run):
    root, output = quick_run
    for said in (
        "[1/5] Supervised warm start: the package has one",
        "[2/5] Before: held-out problems, 16 samples each\nheld-out        accuracy 0.",
        "[3/5] Reinforcement by htpo",
        "\nsteps 1-1       accuracy 0.",
        "| mean@16 |",
        f"\n- report, curves and tables: {root}/htpo-seed0/report/index.html\n",
        f"\n- token map, each token by its rule, as a page: {root}/htpo-seed0/tokens/step-000004.html\n",
        "htpo compare --config laptop --objectives dapo htpo --output_dir runs/fight\n",
        "one seed, which proves little; `htpo compare --config laptop`, as above, runs the fight: 8 seeds each, some ",
    ):
        assert said in output
    suggested = cli.make_parser().parse_known_args(laptop.COMPARISON.split())[0]
    assert suggested.confirm_seeds == laptop.SEEDS
    run = root / "htpo-seed0"
    assert f"Results go to {run}, in place of those that are there." in output
    assert [name for name in EARLIER if (run / name).exists()] == ["settings.json"], "which is the new one's"
    assert all((run / name).stat().st_size > 10_000 for name in PICTURES)
    page = (run / "report" / "index.html").read_text()
    assert page.count("<img src=") == len(list((run / "report").glob("*.png")))
    # Weights are safetensors; the arguments are what transformers writes beside a model.
    assert {path.name for path in root.rglob("*.bin")} == {"training_args.bin"}
    weights = load_file(run / "model.safetensors")
    assert AutoModelForCausalLM.from_pretrained(run).num_parameters() == 593_728
    assert weights
    assert len(AutoTokenizer.from_pretrained(run)) == 22

    log = json.loads((run / "trainer_state.json").read_text())["log_history"]
    assert [row["step"] for row in log[:4]] == [1, 2, 3, 4]
    assert sum(log[0][f"htpo/share/{group}"] for group in GROUPS) == pytest.approx(1)
    assert list(recorded_steps(run)) == [1, 2, 3, 4]
    assert len(read_record(run).completions) == 16
    assert (run / "tokens" / "step-000004.html").read_text().count("<article") == 16


def test_demo_trains_by_the_recipe(quick_run):
    """All but what the demo's own options say, and the evaluation, which is a phase of its own."""
    run = quick_run[0] / "htpo-seed0"
    _, recipe, _ = load_recipe("laptop")
    sections = json.loads((run / "settings.json").read_text())
    used = {name: value for section in sections.values() for name, value in section.items()}
    changed = {"max_steps": 4, "save_strategy": "no", "output_dir": run.name, "report_to": [], "dtype": "float32"}
    for name, value in recipe.items():
        if not name.startswith("eval_"):
            assert used[name] == changed.get(name, value), name
    assert used["save_strategy"] == "no"
    # The numbers of docs/results.md are of these.
    assert (used["learning_rate"], used["warmup_steps"], used["num_generations"]) == (1e-4, 8, 16)
    assert (used["per_device_train_batch_size"], used["steps_per_generation"]) == (64, 4)
    assert (used["max_completion_length"], used["lr_scheduler_type"]) == (64, "constant_with_warmup")


def test_demo_evaluates_before_and_after(quick_run):
    """Terminal, report and card tell what the samples say, which are judged here once more."""
    root, output = quick_run
    run = root / "htpo-seed0"
    means = {}
    for step in (0, 4):
        rows = [
            json.loads(line) for line in (run / f"evaluation/step-{step}/countdown.jsonl").read_text().splitlines()
        ]
        prompts = {}  # the problems are in the order of the test problems, in each all 16 samples
        for row in rows:
            prompts.setdefault(row["problem"], []).append(row)
        assert [len(samples) for samples in prompts.values()] == [16] * 8
        shares = []
        for problem, samples in zip(problems("test"), prompts.values(), strict=False):
            prompt = f"{','.join(map(str, problem.numbers))}>{problem.target}:"
            verdicts = [is_solution(prompt, row["completion"]) for row in samples]
            assert [row["verdict"] == "correct" for row in samples] == verdicts
            shares.append(sum(verdicts) / 16)
        means[step] = shares
    gain, low, high = mean_with_interval([after - before for before, after in zip(*means.values(), strict=True)])
    before, after = (sum(shares) / 8 for shares in means.values())
    cells = [f"{before:.3f}", f"{after:.3f}", f"{gain:+.3f}", f"{low:+.3f} to {high:+.3f}"]
    (line,) = [line for line in output.splitlines() if "| mean@16 |" in line and "+" in line]
    assert [cell.strip() for cell in line.split("|")][4:8] == cells
    page = (run / "report" / "index.html").read_text()
    assert f"<td>{gain:+.3f} [{low:+.3f}, {high:+.3f}]</td>" in page
    assert "step 4 |" in (run / "README.md").read_text()


def test_readme_demo_commands(quick_run, tmp_path, monkeypatch):
    """As they stand, in the quick setting."""
    root, _ = quick_run
    monkeypatch.chdir(tmp_path)
    arguments = [command.split("htpo demo")[1].split() for command in commands(README) if "htpo demo" in command]
    assert arguments == [["--objective", "dapo"]]
    quick = ["--quick", "--threads", "1", "--output_dir", str(root)]
    for each in arguments:
        command = [str(Path(sys.prefix) / "bin" / "htpo"), "demo", *each, *quick]
        subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, timeout=600)
    for line in commands(README):
        if "htpo report" in line or "htpo tokens" in line:
            cli.main(line.replace("runs/laptop", str(root)).split()[1:])
    assert "dapo-seed0" in (tmp_path / "report" / "index.html").read_text()
    pages = root / "htpo-seed0" / "tokens"
    assert "versus high-entropy-only" in (pages / "step-000004-versus-high-entropy-only.html").read_text()
    assert "versus" not in (pages / "step-000004.html").read_text()  # which the demo wrote
    log = json.loads((root / "dapo-seed0" / "trainer_state.json").read_text())["log_history"]
    assert all(row[f"htpo/special/{effect}"] == 0 for row in log[:4] for effect in PRESETS["htpo"].effects)


@pytest.mark.parametrize(
    ("accuracies", "starts"), [([1.0], 1), ([0.2, 0.23], 2), ([0.0, 0.1, 0.3], 3), ([0.0] * 3, 3)]
)
def test_weak_warm_start_goes_on_or_stops_with_the_mend(tmp_path, monkeypatch, accuracies, starts):
    """Real warm starts of two steps, given accuracies."""
    left, began = iter(accuracies), []

    def counted(directory, seed, steps, model):
        began.append((seed, steps))
        parameters = None if model is None else model.state_dict()["model.norm.weight"].clone()
        if parameters is not None:  # the extension goes on from what the last stage saved
            assert torch.equal(parameters, load_file(directory / "model.safetensors")["model.norm.weight"])
        return warm_start.warm_start(directory, seed, steps, model)

    monkeypatch.setattr(laptop, "warm_start", counted)
    summary = {"metrics": {"mean@16": {}}}
    monkeypatch.setattr(
        laptop, "measure", lambda *arguments: summary["metrics"]["mean@16"].update(mean=next(left)) or summary
    )
    config = laptop.LaptopConfig(warm_start="fresh", warm_start_steps=2, output_dir=str(tmp_path), threads=1)
    if accuracies[-1] > 0.22:
        assert len(laptop.prepare(config, tmp_path)) == 1 + starts  # the losses of all steps
    else:
        with pytest.raises(UsageError, match=r"0\.000, below 0\.22.*--warm_start_steps"):
            laptop.prepare(config, tmp_path)
    assert began == [(0, 2), (1000, 1), (2000, 1)][:starts]


def test_a_warm_start_is_used_again_for_its_own_steps_and_seed_alone(tmp_path, monkeypatch):
    began = []

    def build(*configs):
        raise InterruptedError("what comes after the warm start is left out")

    monkeypatch.setattr(
        laptop, "prepare", lambda config, directory: directory.mkdir(exist_ok=True) or began.append(config)
    )
    monkeypatch.setattr(laptop, "build", build)
    settings = [(0, 3), (0, 3), (0, 5), (1, 5), (0, 5)]
    options = {"warm_start": "fresh", "output_dir": str(tmp_path), "threads": 1}
    for seed, steps in settings:
        with pytest.raises(InterruptedError):
            laptop.run(laptop.LaptopConfig(seed=seed, warm_start_steps=steps, **options))
    assert [(config.seed, config.warm_start_steps) for config in began] == [(0, 3), (0, 5), (1, 5)]


def test_the_packaged_warm_start_solves_what_its_record_says(tmp_path):
    """With four samples of each problem; the interval is over problems."""
    directory = WARM_STARTS / "laptop-warm-start"
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    summary = laptop.measure((model, AutoTokenizer.from_pretrained(directory)), "validation", 4, tmp_path, quick=False)
    record = json.loads((directory / "warm_start.json").read_text())["validation"]
    assert summary["problems"] == record["problems"] == len(problems("validation"))
    assert summary["metrics"]["mean@4"]["low"] < record["metrics"]["mean@16"]["mean"]
    assert summary["metrics"]["mean@4"]["high"] > record["metrics"]["mean@16"]["mean"]
    assert record["metrics"]["mean@16"]["mean"] > laptop.MIN_WARM_START_ACCURACY


def test_a_fresh_warm_start_of_its_seed_begins_as_the_packaged_one(tmp_path, monkeypatch):
    class Short(warm_start.Progress):
        def on_step_end(self, args, state, control, **kwargs):
            super().on_step_end(args, state, control, **kwargs)
            control.should_training_stop = state.global_step == 15

    monkeypatch.setattr(warm_start, "Progress", Short)
    record = json.loads((WARM_STARTS / "laptop-warm-start" / "warm_start.json").read_text())
    losses = warm_start.warm_start(tmp_path, record["seed"], record["steps"])
    assert losses == pytest.approx(record["losses"][:15], abs=2e-3)  # another order of sums; another seed: 0.05


def test_the_warm_start_learns_searches_and_not_prompts():
    """A row holds several, each a prompt up to the colon and a search from there to the end, and padding."""
    tokenizer = warm_start.build_tokenizer()
    for row in warm_start._packed_searches(tokenizer, seed=0, steps=1):
        text = "".join(tokenizer.convert_ids_to_tokens(row["input_ids"])).replace("<pad>", "_").replace("<eos>", "$")
        searches = re.findall(r"[^:$]+:[^:$]+\$", text)
        assert "".join(searches) + "_" * text.count("_") == text
        learned = [
            (i, is_learned) for s in searches for i, is_learned in enumerate([c > s.index(":") for c in range(len(s))])
        ]
        for token, label, position, (place, is_learned) in zip(
            row["input_ids"], row["labels"], row["position_ids"], learned, strict=False
        ):
            assert (label, position) == (token if is_learned else -100, place)
        assert set(row["labels"][len(learned) :]) <= {-100}


def test_tokenizer_round_trip_and_unknown():
    tokenizer = warm_start.build_tokenizer()
    assert tokenizer.decode(tokenizer(SYMBOLS).input_ids) == SYMBOLS
    assert tokenizer("5a").input_ids[1] == tokenizer.unk_token_id


def test_evaluation_leaves_the_random_state(tmp_path):
    torch.manual_seed(0)
    model = warm_start.build_model(), warm_start.build_tokenizer()
    state = torch.get_rng_state()
    summaries = [laptop.measure(model, "test", 2, tmp_path / name, quick=True) for name in "ab"]
    assert summaries[0] == summaries[1]
    assert summaries[0]["problems"] == 8
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("options", [{"steps": 0}, {"warm_start_steps": 0}, {"threads": 0}])
def test_bad_settings_are_refused(options):
    with pytest.raises(ValueError, match="must be at least 1"):
        laptop.LaptopConfig(**options)


def commands(document):
    lines = [line.split("#")[0].strip() for block in blocks(document, "bash") for line in block.splitlines()]
    return [line for line in lines if line]


def test_every_readme_command_is_run_by_a_test():
    tested = {
        "make test": "CI runs it, and it runs this test",
        "make demo": "quick_run",
        "make check": "test_check.py",
        ".venv/bin/htpo demo --objective dapo": "test_readme_demo_commands",
        ".venv/bin/htpo tokens": "test_readme_demo_commands",
        ".venv/bin/htpo report": "test_readme_demo_commands",
        "pip install 'htpo_trl": "test_docs_code.py: test_commands_are_known",
        **dict.fromkeys(("htpo recipes", "htpo train", "htpo eval"), "test_command_line.py: test_documented_commands"),
    }
    for command in commands(README):
        assert any(command.startswith(known) for known in tested), f"no test runs `{command}`"
