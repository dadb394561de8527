import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from htpo_trl import HTPOTrainer
from htpo_trl.checkpoint import SEAL, check

from .conftest import even_digits, tiny_model
from .distributed_run import ROOT
from .hub_server import TOKEN, HubServer


TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}
MODEL = {"config.json", "generation_config.json", "model.safetensors"} | TOKENIZER
ERRORS = {("create", "tester/intruder"): 401, ("create", "others/model"): 403, ("commit", "tester/broken"): 500}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The server after the runs of `hub_run`, with their directory, outcome, and all that they printed."""
    directory = tmp_path_factory.mktemp("hub")
    environment = os.environ | {
        "HF_HOME": str(directory / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",  # whose storage is another protocol; this one is LFS
        "HF_HUB_VERBOSITY": "debug",
        "TRANSFORMERS_VERBOSITY": "debug",
    }
    environment.pop("HF_TOKEN", None)
    with HubServer(ERRORS) as server:
        run = subprocess.run(
            [sys.executable, "-m", "tests.hub_run", str(directory)],
            cwd=ROOT,
            env=environment | {"HF_ENDPOINT": server.endpoint},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
            check=False,
        )
        assert run.returncode == 0, run.stdout.decode()[-4000:]
        outcome = json.loads((directory / "outcome.json").read_text())
        yield SimpleNamespace(server=server, directory=directory, printed=run.stdout, **outcome)


def test_what_is_uploaded(hub):
    files = hub.server.repos["tester/model"].files
    evaluation = {f"evaluation/step-{step}/digits.{kind}" for step in (0, 1, 2) for kind in ("json", "jsonl")}
    top = {name for name in files if not name.startswith("last-checkpoint/")}
    assert top == MODEL | evaluation | {"README.md", "training_args.bin"}
    assert hub.server.repos["tester/model"].commits[-1][0] == "End of training"
    assert not hub.server.unauthorized
    card = ModelCard(files["README.md"].decode())
    assert card.data.datasets == "tester/data"
    assert card.data.eval_results[0].dataset_name == "digits"
