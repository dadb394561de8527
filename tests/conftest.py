import gc
import os
import signal
import string
import sys
import warnings

import pytest
from hypothesis import settings


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

# Before torch and TRL are imported, which is done where they are used: the process that divides the tests among others
# needs neither.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("htpo", deadline=None, derandomize=True)
settings.load_profile("htpo")
gc.disable()  # until the tests begin: to collect them makes no garbage


@pytest.fixture(scope="module", autouse=True)
def freeze_imports():
    """
    Accelerate collects garbage after each run, and would look through all that was imported. Frozen, that takes no
    part, so that a tiny run takes a quarter of the time.
    """
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def leave_nothing(tmp_path_factory):
    """What a test imports from its own files, and what it does to the process, is not there for the next one."""
    directory, path, modules = os.getcwd(), [*sys.path], {*sys.modules}
    verifier = "htpo_trl.verifier.client"  # whose configuration is the process's
    limits = sys.modules[verifier].configuration() if verifier in sys.modules else None
    handlers = {signum: handler for signum in SIGNALS if (handler := signal.getsignal(signum)) is not None}
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)
    if client := sys.modules.get(verifier):
        limits = limits or client.VerifierConfig()
        if client.configuration() != limits:
            client.configure(limits)
    os.chdir(directory)
    sys.path[:] = path
    root = str(tmp_path_factory.getbasetemp())
    for name in {*sys.modules} - modules:
        module = vars(sys.modules[name])
        if any(str(place).startswith(root) for place in (module.get("__file__"), *module.get("__path__", ()))):
            del sys.modules[name]


@pytest.fixture(scope="session")
def tokenizer():
    from htpo_trl.demo.warm_start import build_tokenizer

    return build_tokenizer(string.digits)


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizer):
    """A working directory for the command line: a model, data, a reward function and a recipe."""
    from .place import make_place

    with make_place(tmp_path_factory.mktemp("place"), tokenizer) as path:
        yield path


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Publishes data sets where `load_dataset` looks before it asks the Hub, see `publisher`."""
    from .hub_files import publisher

    return publisher(tmp_path, monkeypatch)


@pytest.fixture
def make_model():
    from .tiny import tiny_model

    return tiny_model


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def tiny_chat_model(tmp_path):
    """A Llama that chats in single characters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from htpo_trl.demo.warm_start import build_tokenizer

    tokenizer = build_tokenizer(string.printable)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}>{% endfor %}"
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
        )
    )
    directory = tmp_path / "tiny"
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def dataset():
    from datasets import Dataset

    return Dataset.from_dict({"prompt": [f"{i:02d}" for i in range(64)]})


@pytest.fixture
def cpu_arguments(tmp_path):
    from .tiny import CPU_ARGUMENTS

    return {"output_dir": str(tmp_path / "run"), **CPU_ARGUMENTS}


@pytest.fixture
def make_config(cpu_arguments):
    from htpo_trl import HTPOConfig

    return lambda **kwargs: HTPOConfig(**{**cpu_arguments, **kwargs})


@pytest.fixture
def reward():
    from .tiny import even_digits

    return even_digits


@pytest.fixture
def make_trainer(make_model, tokenizer, dataset, make_config, reward):
    from htpo_trl import HTPOTrainer

    def make(cls=HTPOTrainer, reward_funcs=None, config=None, model=None, train_dataset=dataset, **kwargs):
        keywords = {name: kwargs.pop(name) for name in ("eval_dataset", "peft_config", "callbacks") if name in kwargs}
        return cls(
            model if model is not None else make_model(),
            reward_funcs or reward,
            config or make_config(**kwargs),
            train_dataset,
            processing_class=tokenizer,
            **keywords,
        )

    return make


@pytest.fixture
def batch():
    """Inputs of a loss: 6 responses of up to 30 tokens, sampled by a policy that has moved away since."""
    import torch

    generator = torch.Generator().manual_seed(0)
    n_rows, n_prompt, n_completion = 6, 3, 30
    lengths = torch.tensor([30, 17, 5, 1, 0, 23])
    completion_mask = (torch.arange(n_completion) < lengths.unsqueeze(1)).long()
    correct = torch.tensor([True, True, False, True, False, False])
    return {
        "prompt_ids": torch.randint(3, 13, (n_rows, n_prompt), generator=generator),
        "prompt_mask": torch.ones(n_rows, n_prompt, dtype=torch.long),
        "completion_ids": torch.randint(3, 13, (n_rows, n_completion), generator=generator),
        "completion_mask": completion_mask,
        "advantages": torch.where(correct, 1.0, -1.0) * torch.rand(n_rows, generator=generator),
        "old_per_token_logps": -2.5 + 0.6 * torch.randn(n_rows, n_completion, generator=generator),
        "num_items_in_batch": lengths.sum(),
        "is_hard": torch.tensor([True, False, True, True, False, False]),
        "is_correct": correct,
        "is_judged": torch.ones(n_rows, dtype=torch.bool),
    }


@pytest.fixture
def compare(record_property):
    """Measures how far two runs, or two losses, are apart; `benchmarks/invariance.py` collects what it measured."""
    import torch

    from .distributed_run import Run

    def compare(group, varies, expected, actual, holds=True):
        """The largest difference of two runs, or of two pairs of loss and gradients, relative to the largest value."""
        parts = Run._fields if isinstance(expected, Run) else ("loss", "gradient")
        row = {"class": group, "varies": varies, "holds": holds}
        largest = 0.0
        for part, *values in zip(parts, expected, actual, strict=True):
            a, b = (torch.cat([v.flatten() for v in value]) if isinstance(value, list) else value for value in values)
            difference = (a.double() - b.double()).abs()
            row[part] = {"max": difference.max().item(), "mean": difference.mean().item()}
            largest = max(largest, difference.max().item() / max(a.abs().max().item(), 1.0))
        record_property("invariance", row)
        return largest

    return compare


def _running(**limits):
    from htpo_trl.verifier import Verifier, VerifierConfig

    from .hostile import FOR_WORKERS

    with Verifier(VerifierConfig(**limits)) as verifier:
        verifier.judge_answers(["x"], [FOR_WORKERS])
        yield verifier


@pytest.fixture(scope="session")
def verifier():
    """A verifier that is up."""
    yield from _running(deadline=3.0)


@pytest.fixture(scope="session")
def quick_verifier():
    """One for answers that hang, many at once."""
    yield from _running(workers=16, deadline=1.0)


@pytest.fixture(scope="session")
def patient_verifier():
    """One for many answers that do not hang, on whatever machine."""
    yield from _running(workers=2, deadline=30.0)


@pytest.fixture
def warned(make_config):
    """The config of some options, and what its warnings say of objectives."""

    def make(**options):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            config = make_config(**options)
        texts = [str(each.message) for each in caught]
        return config, [text for text in texts if "objective=" in text or "loss_type=" in text]

    return make
