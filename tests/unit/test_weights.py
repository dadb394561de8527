"""The digest of an evaluated model: another one for other weights, the same for the same, however they lie there."""

import os
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model

from htpo_trl.evaluation import weights
from htpo_trl.evaluation.weights import digest_of_files, digest_of_parameters

from ..tiny import tiny_model


@pytest.fixture
def saved(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(file, offset=-1):
    """One bit of a file, whose size and date stay."""
    stat = file.stat()
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "generation_config.json", "chat_template.jinja"])
def test_one_bit_of_what_decides_is_another_model(saved, name):
    (saved / "chat_template.jinja").write_text("{{ messages }}")
    before = digest_of_files(saved)
    change(saved / name)
    assert digest_of_files(saved) != before


def test_a_copy_is_the_same_whatever_else_lies_beside(saved, tmp_path):
    copy = tmp_path / "elsewhere" / "checkpoint-20"
    shutil.copytree(saved, copy)
    os.utime(copy / "model.safetensors", (1, 1))
    for name in ("trainer_state.json", "README.md", "optimizer.pt", "rng_state_0.pth", "htpo_state_0.safetensors"):
        (copy / name).write_bytes(os.urandom(9))
    (copy / "global_step20").mkdir()
    assert digest_of_files(copy) == digest_of_files(saved)


def test_of_large_files_blocks_are_read(saved, monkeypatch):
    monkeypatch.setattr(weights, "READ_WHOLE_UP_TO", 1000)
    monkeypatch.setattr(weights, "STRIDE", 256)
    monkeypatch.setattr(weights, "BLOCK", 64)
    file = saved / "model.safetensors"
    assert file.stat().st_size > 50_000
    assert sum(map(len, weights._blocks(file))) < file.stat().st_size * 0.3
    before = digest_of_files(saved)
    change(file, offset=256 * 20 + 100)  # between two blocks: the price
    assert digest_of_files(saved) == before
    with torch.no_grad():  # a step of training, for which every weight moves
        torch.manual_seed(0)
        for parameter in (model := tiny_model()).parameters():
            parameter += 1e-6 * torch.randn_like(parameter)
    model.save_pretrained(saved)
    assert digest_of_files(saved) != before


def test_an_adapter_is_one_with_its_base(saved, tmp_path, model):
    model.name_or_path = str(saved)
    get_peft_model(model, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    digests = [digest_of_files(tmp_path / "adapter")]
    for file in (saved / "model.safetensors", tmp_path / "adapter" / "adapter_model.safetensors"):
        change(file)
        digests.append(digest_of_files(tmp_path / "adapter"))
    assert len({*digests}) == 3


def test_of_the_hub_it_is_the_commit(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--org--name" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "models--org--name" / "refs").mkdir()
    (tmp_path / "models--org--name" / "refs" / "main").write_text("0123abcd")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert digest_of_files("org/name") == "0123abcd"
    assert digest_of_files("org/other") is None
    assert digest_of_files("no directory/at/all") is None


def test_of_a_model_in_memory_every_bit_counts(model):
    before = digest_of_parameters(model)
    assert digest_of_parameters(tiny_model()) == before
    model.train()
    assert digest_of_parameters(model) == before
    for parameter in (model.model.norm.weight, model.model.layers[1].mlp.up_proj.weight):
        with torch.no_grad():
            last = parameter.view(-1)[-1:]
            last.copy_(torch.nextafter(last, last + 1))
        assert digest_of_parameters(model) != before
        before = digest_of_parameters(model)
    assert digest_of_parameters(model.bfloat16()) != before
