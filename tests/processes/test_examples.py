import importlib
import json
import runpy
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file


EXAMPLES = Path(__file__).parents[2] / "examples"


def run_example(name, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    return runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_smollm2_lora(tiny_chat_model, tmp_path, monkeypatch):
    output = tmp_path / "out"
    run_example("smollm2_lora.py", monkeypatch, "--model", tiny_chat_model, "--output_dir", output, "--steps", 2)
    result = json.loads((output / "result.json").read_text())
    assert result["settings"]["steps_per_generation"] == 4
    assert list(result["reward"]) == ["1"]
    assert all(0 <= row["after"] <= result["samples_per_problem"] for row in result["held_out"])
    assert load_file(output / "adapter_model.safetensors")
    log = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert "htpo/accuracy" in log[0]


def test_smollm2_splits():
    train, held_out = runpy.run_path(str(EXAMPLES / "smollm2_lora.py"))["make_problems"]()
    questions = [{p["prompt"][0]["content"] for p in split} for split in (train, held_out)]
    assert len(questions[0] | questions[1]) == len(train) + len(held_out) == 110
    assert len(held_out) > 20


def test_smollm2_refuses_gguf(tmp_path, monkeypatch, capsys):
    (tmp_path / "model.gguf").write_bytes(b"")
    with pytest.raises(SystemExit):
        run_example("smollm2_lora.py", monkeypatch, "--model", tmp_path)
    assert "--convert_gguf" in capsys.readouterr().err


def test_quickstart_is_trls_with_two_names_changed(tiny_chat_model, tmp_path, monkeypatch):
    """It runs as it stands but for the Hub's model and data, and the defaults' bf16."""
    import datasets

    import htpo_trl.trainer

    prompt = [{"role": "user", "content": "1 + 2"}]
    data = datasets.Dataset.from_dict({"prompt": [prompt] * 8, "solution": ["$3$"] * 8})
    cpu = {"use_cpu": True, "bf16": False, "report_to": "none", "max_steps": 1, "max_completion_length": 8}
    config = htpo_trl.trainer.HTPOConfig
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: data)
    monkeypatch.setattr(config, "__init__", lambda self, *args, init=config.__init__: init(self, *args, **cpu))
    monkeypatch.chdir(tmp_path)
    source = (EXAMPLES / "grpo_quickstart.py").read_text()
    assert "HTPOConfig" not in source
    namespace: dict = {}
    exec(compile(source.replace("Qwen/Qwen2.5-0.5B-Instruct", str(tiny_chat_model)), "example", "exec"), namespace)
    assert namespace["trainer"].state.global_step == 1
    assert "htpo/share/hard_wrong_low" in namespace["trainer"].state.log_history[0]


def test_script_for_vllm_fits_the_package():
    """It runs by hand, in an environment with vLLM; what it imports from here must be there."""
    assert importlib.import_module("scripts.vllm_cpu").RUNS
