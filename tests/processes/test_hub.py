import io
import json
import pickle
import string
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig

from htpo_trl.demo.warm_start import build_tokenizer
from htpo_trl.training.checkpoint import SEAL, check

from ..distributed_run import ENVIRONMENT, ROOT
from ..hub_run import build
from ..hub_server import TOKEN, HubServer
from ..tiny import tiny_model


TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}
MODEL = {"config.json", "generation_config.json", "model.safetensors"} | TOKENIZER
ERRORS = {("create", "tester/intruder"): 401, ("create", "others/model"): 403, ("commit", "tester/broken"): 500}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The server after the runs of `hub_run`, with their directory, outcome, and all that they printed."""
    directory = tmp_path_factory.mktemp("hub")
    environment = ENVIRONMENT | {
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
    repo = hub.server.repos["tester/model"]
    evaluation = {f"evaluation/step-{step}/digits.{kind}" for step in (0, 1, 2) for kind in ("json", "jsonl")}
    own = {name for name in repo.files if not name.startswith("last-checkpoint/")}
    assert own == MODEL | evaluation | {"README.md", "training_args.bin", "settings.json", "trainer_state.json"}
    assert repo.commits[-1][0] == "End of training"
    assert not repo.private
    assert not hub.server.unauthorized
    card = ModelCard(repo.files["README.md"].decode())
    assert card.data.datasets == "tester/data"
    assert {"trl", "htpo", "grpo"} <= set(card.data.tags)
    assert {result.dataset_name for result in card.data.eval_results} == {"digits"}
    assert 'model="tester/model"' in card.text
    # It was valid: what is not, the server refuses.
    assert '"base_model" with value "/on/this/machine" is not valid' in hub.raised["card"]


def test_what_is_uploaded_can_be_loaded(hub, tmp_path):
    directory = hub.server.repos["tester/model"].write(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(directory)
    trained = AutoModelForCausalLM.from_pretrained(hub.directory / "tester-model" / "checkpoint-2")
    untrained = tiny_model()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, trained.get_parameter(name))
    assert not torch.equal(model.lm_head.weight, untrained.lm_head.weight)
    tokenizers = AutoTokenizer.from_pretrained(directory), build_tokenizer(string.digits)
    assert tokenizers[0]("42")["input_ids"] == tokenizers[1]("42")["input_ids"]


def test_checkpoint_on_the_hub_is_sealed_and_resumes(hub, tmp_path):
    directory = hub.server.repos["tester/model"].write(tmp_path) / "last-checkpoint"
    assert (directory / SEAL).is_file()
    trainer = build(tmp_path, "tester/resumed", max_steps=3)
    with pytest.warns(UserWarning, match="with other settings, which hold from here on: max_steps 2 -> 3"):
        trainer.train(resume_from_checkpoint=str(directory))
    assert [row["step"] for row in trainer.state.log_history if "loss" in row] == [1, 2, 3]


def test_private_adapter(hub, tmp_path):
    repo = hub.server.repos["tester/adapter"]
    assert repo.private
    weights = {"adapter_config.json", "adapter_model.safetensors"}
    assert set(repo.files) == weights | TOKENIZER | {"README.md", "training_args.bin"}
    adapter = PeftModel.from_pretrained(tiny_model(), repo.write(tmp_path))
    assert adapter.peft_config["default"].r == 2


def test_errors_are_clear_and_nothing_is_lost(hub):
    assert "401 Unauthorized" in hub.raised["tester/intruder"]
    assert "The server refuses to create tester/intruder." in hub.raised["tester/intruder"]
    assert "403 Forbidden: The server refuses to create others/model." in hub.raised["others/model"]
    # In the background of a run that goes on, then in the foreground.
    failure = "500 Internal Server Error"
    (warning,) = {message for message in hub.warned if "push" in message}
    assert warning.startswith("A push to tester/broken on the Hub failed")
    assert failure in warning
    assert failure in hub.raised["tester/broken"]
    check(hub.directory / "tester-broken" / "checkpoint-2")
    AutoModelForCausalLM.from_pretrained(hub.directory / "tester-broken")


def test_token_is_nowhere(hub):
    assert b"hub_token=<redacted>" in hub.printed
    places = {"printed": hub.printed, "outcome": (hub.directory / "outcome.json").read_bytes()}
    for name, repo in hub.server.repos.items():
        places |= {f"{name}/{file}": content for file, content in repo.files.items()}
    places |= {str(path): path.read_bytes() for path in hub.directory.rglob("*") if path.is_file()}
    assert [place for place, content in places.items() if TOKEN.encode() in content] == []
    # The training arguments are a pickle, in which TRL and transformers keep it.
    published = hub.server.repos["tester/model"].files["training_args.bin"]
    arguments = torch.load(io.BytesIO(published), weights_only=False)
    assert (arguments.hub_model_id, arguments.hub_token) == ("tester/model", None)
    assert TOKEN.encode() in pickle.dumps(GRPOConfig("run", use_cpu=True, bf16=False, hub_token=TOKEN))


def test_no_path_of_this_machine_is_published(hub):
    for repo in hub.server.repos.values():
        for name, content in repo.files.items():
            assert name.endswith("training_args.bin") or str(hub.directory).encode() not in content, name
