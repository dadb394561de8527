"""
How `htpo eval` is spread: over processes, over GPUs, over engines of vLLM. What cannot work is one line, in the plan
as in the run. No vLLM and no GPU is here: the number of GPUs is told, and an engine says what it was started with.
"""

import json
import os
import sys
from types import SimpleNamespace

import pytest
import torch

from htpo_trl.cli import evaluation, main
from htpo_trl.evaluation import load_generator
from htpo_trl.evaluation.parallel import check_devices, joined, own_device
from htpo_trl.scripts.evaluate import check_launched
from htpo_trl.utils import UsageError


@pytest.fixture(scope="module")
def here(place):
    rows = [{"problem": f"{i} + 1", "solution": str(i + 1)} for i in range(5)]
    (place / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (place / "adapter").mkdir()
    (place / "adapter" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "model"}))
    return place


@pytest.fixture
def with_vllm(monkeypatch):
    """As where it is installed."""
    for module in ("htpo_trl.evaluation.generation", "htpo_trl.cli.evaluation"):
        monkeypatch.setattr(f"{module}.find_spec", lambda name: name == "vllm")


@pytest.fixture
def launched(monkeypatch):
    """The arguments of accelerate that a command would start processes by."""
    found = []
    monkeypatch.setattr(evaluation, "launch", lambda accelerate, command: found.append(accelerate))
    return found


EVAL = ("eval", "--model", "model", "--benchmarks", "sums.jsonl", "--no_chat")


@pytest.mark.parametrize("plan", [[], ["--dry_run"]], ids=["run", "plan"])
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--num_processes", "2", "--accelerate_config", "zero3"], "DeepSpeed ZeRO-3 divides the weights"),
        (["--accelerate_config", "fsdp2"], "FSDP divides the weights of a training"),
        (["--num_processes", "0"], "num_processes=0 must be at least 1."),
        (["--data_parallel_size", "2", "--backend", "transformers"], "Set --vllm, or --num_processes 2."),
        (["--vllm", "--data_parallel_size", "2", "--num_processes", "4"], "data_parallel_size=2 is num_processes=4."),
        (["--vllm", "--data_parallel_size", "0"], "data_parallel_size=0 must be at least 1."),
        (["--vllm", "--backend", "transformers"], "vllm=True and backend='transformers' are two engines."),
        (["--backend", "transformers", "--tensor_parallel_size", "2"], "leave out tensor_parallel_size=2."),
        (
            ["--vllm", "--tensor_parallel_size", "3"],
            "tensor_parallel_size=3 must divide the model's 4 attention heads.",
        ),
        (["--vllm", "--vllm_options", '{"tensor_parallel_size": 0}'], "tensor_parallel_size=0 must be at least 1."),
        (
            ["--vllm", "--tensor_parallel_size", "2", "--vllm_options", '{"tensor_parallel_size": 4}'],
            "tensor_parallel_size=2 is 4 in vllm_options. Set it once.",
        ),
        (["--vllm", "--vllm_options", '{"data_parallel_size": 2}'], "Set the option of that name instead"),
        (["--vllm", "--model", "adapter"], "backend='vllm' takes a whole model, and 'adapter' is a LoRA adapter"),
        (
            ["--vllm", "--data_parallel_size", "3", "--tensor_parallel_size", "2"],
            "num_processes=3 on a machine, with 2 GPUs each (tensor_parallel_size), need 6 GPUs; there are 4.",
        ),
        (["--num_processes", "8"], "with a GPU each, need 8 GPUs; there are 4. Set num_processes=4."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_work_is_a_line(here, with_vllm, launched, monkeypatch, capsys, argv, message, plan):
    monkeypatch.chdir(here)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=None))
    with pytest.raises(SystemExit) as ended:
        main([*EVAL, *argv, *plan])
    error = capsys.readouterr().err
    assert (ended.value.code, error.count("\n"), launched) == (2, 1, [])
    assert error.startswith("htpo eval: ")
    assert message in error


@pytest.mark.parametrize(
    ("argv", "spread"),
    [
        (["--num_processes", "2"], "transformers; a copy of the model in each of 2 processes on 1 machine"),
        (["--accelerate_config", "ddp-cpu"], "transformers; a copy of the model in each of 2 processes on 1 machine"),
        ([], "transformers; one process on 1 machine"),
        (
            ["--num_processes", "4", "--num_machines", "2", "--vllm", "--tensor_parallel_size", "2"],
            "vLLM, an engine over 2 GPUs; a copy of the model in each of 4 processes on 2 machines",
        ),
        (["--vllm", "--data_parallel_size", "2"], "vLLM, an engine over 1 GPU; a copy of the model in each of 2"),
    ],
)
def test_the_plan_tells_how_it_is_spread(here, monkeypatch, capsys, launched, argv, spread):
    monkeypatch.chdir(here)
    before = {*here.rglob("*")}
    main([*EVAL, "--num_samples", "3", "--batch_size", "4", "--dry_run", *argv])
    plan = capsys.readouterr().out
    assert spread in plan
    assert f"sums: 5 problems, 15 samples, in {2 if '2 pro' in plan else 1 if '4 pro' in plan else 4} rounds" in plan
    assert ("pip install 'htpo_trl[vllm]'" in plan) == ("--vllm" in argv)  # which is not here
    assert launched == []
    assert {path for path in here.rglob("*") if "__pycache__" not in path.parts} <= before


def test_engines_are_processes_that_are_started(here, with_vllm, launched, monkeypatch):
    monkeypatch.chdir(here)
    main([*EVAL, "--vllm", "--data_parallel_size", "2"])
    (accelerate,) = launched
    assert accelerate.num_processes == 2
    assert accelerate.training_script == "htpo_trl.scripts.evaluate"
    assert accelerate.training_script_args == [*EVAL[1:], "--vllm", "--data_parallel_size", "2"]


def test_a_launcher_of_ones_own_must_start_as_many():
    args = SimpleNamespace(data_parallel_size=4)
    check_launched(args, {"WORLD_SIZE": "4"})
    with pytest.raises(UsageError, match="data_parallel_size=4 needs as many processes, and there are 2"):
        check_launched(args, {"WORLD_SIZE": "2"})
    with pytest.raises(UsageError, match="DeepSpeed divides the weights"):
        check_launched(args, {"WORLD_SIZE": "4", "ACCELERATE_USE_DEEPSPEED": "true"})


RANK = {"RANK": "5", "WORLD_SIZE": "6", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": "29500"}


@pytest.fixture
def rank(monkeypatch):
    """The second process of the third machine, each of which has four GPUs."""
    for name, value in (RANK | {"TORCHELASTIC_USE_AGENT_STORE": "True"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


def test_the_device_of_a_rank(rank, monkeypatch):
    assert own_device() == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert own_device() == "cuda:1"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert own_device() == "cpu"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "False")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "5")
    with pytest.raises(UsageError, match="need 5 GPUs; there are 4"):
        own_device()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert own_device() is None  # over all that there are


@pytest.mark.parametrize(
    ("visible", "own"), [(None, "2,3"), ("7,6,5,4", "5,4"), ("GPU-a,GPU-b,GPU-c,GPU-d", "GPU-c,GPU-d")]
)
def test_an_engine_sees_its_own_gpus_and_no_launcher(rank, with_vllm, monkeypatch, tiny_chat_model, visible, own):
    """It is started with what the process's environment is then; a process group of its own is what vLLM makes."""
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    seen = []

    class LLM:
        def __init__(self, model, *, dtype="auto", tensor_parallel_size=1, **kwargs):
            assert kwargs == {"max_model_len": 64}
            seen.append((tensor_parallel_size, dict(os.environ)))
            self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(model=model))

        def get_tokenizer(self):
            return "tokenizer"

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=LLM))
    options = {"tensor_parallel_size": 2, "max_model_len": 64}
    load_generator(str(tiny_chat_model), backend="vllm", vllm_options=options)
    ((size, environment),) = seen
    assert (size, environment["CUDA_VISIBLE_DEVICES"]) == (2, own)
    assert not {name for name in environment if name in RANK or name.startswith("TORCHELASTIC")}
    assert {name: os.environ[name] for name in RANK} == RANK  # afterwards it is one of several again

    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    with pytest.raises(UsageError, match="VLLM_ENABLE_V1_MULTIPROCESSING=0 puts vLLM's engine into this process"):
        load_generator(str(tiny_chat_model), backend="vllm", vllm_options=options)


def test_alone_nothing_is_joined(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    before = torch.distributed.is_initialized()
    with joined() as processes:
        assert (processes.num_processes, processes.process_index) == (1, 0)
        assert processes.gather([1, 2]) == [1, 2]
        assert processes.share("value") == "value"
    assert torch.distributed.is_initialized() == before


def test_a_machine_without_gpus_cannot_tell(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    check_devices(8, 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    check_devices(1, 1)
    with pytest.raises(UsageError, match=r"need 8 GPUs; there are 1\. .*num_processes=1 and a smaller"):
        check_devices(2, 4)
