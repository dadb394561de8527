"""Going on by the command line: the words of `resume_from_checkpoint`, and a LoRA checkpoint as the model."""

import json

import pytest

from htpo_trl.cli import main
from htpo_trl.report.runs import read_run
from htpo_trl.scripts import evaluate, htpo


@pytest.fixture
def run(place, monkeypatch):
    monkeypatch.chdir(place)

    def run(*argv):
        htpo.main(["--config", "recipe.yaml", "--max_completion_length", "4", *map(str, argv)])

    return run


def steps(directory):
    log = json.loads((directory / "trainer_state.json").read_text())["log_history"]
    return [row["step"] for row in log if "loss" in row]


def test_words(run, place, capsys):
    """The same recipe starts and goes on."""
    (place / "auto.yaml").write_text((place / "recipe.yaml").read_text() + "\nresume_from_checkpoint: auto\n")
    options = ("--config", "auto.yaml", "--output_dir", "words", "--save_steps", 1)
    run(*options, "--max_steps", 1)
    assert steps(place / "words") == [1]
    with pytest.warns(UserWarning, match="Resumed from words/checkpoint-1 with other settings"):
        run(*options, "--max_steps", 3)
    assert steps(place / "words") == [1, 2, 3]
    told = json.loads((place / "words" / "settings.json").read_text())
    assert [(each["step"], each["changed"]) for each in told["resumes"]] == [(1, {"max_steps": [1, 3]})]
    assert {"HTPOScriptArguments", "HTPOConfig", "ModelConfig", "run", "versions"} < told.keys()
    read = read_run(place / "words")
    assert (read.source, read.notes) == ("htpo train", ["resumed at step 1 with other settings: max_steps 1 → 3"])
    capsys.readouterr()
    for changed, said in (
        (("--objective", "dapo"), "words/checkpoint-3 is of another run: objective 'htpo' -> 'dapo'."),
        ((), "There is nothing left to train: the checkpoint is of step 3"),
        (
            ("--resume_from_checkpoint", "nowhere", "--output_dir", "elsewhere"),
            "resume_from_checkpoint='nowhere' is no directory.",
        ),
    ):
        with pytest.raises(SystemExit) as ended:
            run(*options, "--max_steps", 3, *changed)
        assert ended.value.code == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("htpo train")]
        assert said in line
    plan = ["train", "--config", "auto.yaml", *map(str, options[2:]), "--max_completion_length", "4", "--dry_run"]
    main([*plan, "--max_steps", "4"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*plan, "--max_steps", "4", "--objective", "dapo"])
    assert ended.value.code == 2
    assert "words/checkpoint-3 is of another run: objective 'htpo' -> 'dapo'." in capsys.readouterr().err


def test_a_lora_checkpoint_is_a_model(run, place, capsys):
    lora = ("--use_peft", "--lora_r", 4, "--lora_target_modules", "all-linear")
    run(*lora, "--output_dir", "lora-first", "--max_steps", 2, "--save_steps", 1)
    capsys.readouterr()
    adapter = ("--model_name_or_path", "lora-first/checkpoint-1", "--output_dir", "lora-next", "--max_steps", 1)
    main(["train", "--config", "recipe.yaml", *map(str, adapter), "--dry_run"])
    plan = capsys.readouterr().out
    assert "lora-first/checkpoint-1, an adapter, trained further" in plan
    assert "14,080 of them trained" in plan
    run(*adapter, *lora)
    assert (place / "lora-next" / "adapter_model.safetensors").is_file()
    assert not (place / "lora-next" / "model.safetensors").exists()
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run(*adapter, *lora[:2], 8, "--output_dir", "lora-other")
    assert ended.value.code == 2
    assert "is an adapter, and peft_config asks for another one: r=8, the adapter's is 4" in capsys.readouterr().err
    (place / "sums.jsonl").write_text(
        "\n".join(json.dumps({"problem": f"{i:02d}", "solution": str(i)}) for i in range(4))
    )
    evaluate.main(
        [
            *("--model", "lora-first/checkpoint-1", "--benchmarks", "sums.jsonl", "--num_samples", "2"),
            *("--max_new_tokens", "4", "--template", "none", "--no_chat", "--judge", "judge.even_digits"),
            *("--dtype", "float32", "--output_dir", "lora-evaluated"),
        ]
    )
    assert json.loads((place / "lora-evaluated" / "sums.json").read_text())["summary"]["metrics"]["mean@2"]
