"""The part of `htpo check` that looks at vLLM, with what stands for the engine; scripts/test_vllm_cpu.sh has vLLM."""

from itertools import islice

import pytest
from trl.generation.vllm_generation import VLLMGeneration

from htpo_trl.check import engine as part
from htpo_trl.check.parts import CannotRunError, Machine

from .. import engine


@pytest.fixture
def machine(tmp_path, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):  # which TRL sets for vLLM
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    engine.stand_in(monkeypatch.setattr, monkeypatch.setitem, None)
    monkeypatch.setattr(part, "_prepare", lambda device: None)
    return Machine("cpu", tmp_path)


def test_a_policy_that_arrives(machine):
    findings = [*part.find(machine)]
    assert [finding.ok for finding in findings] == [True] * 4
    # And in an engine that sleeps, which this one does on a CPU, too.
    findings = [*part._find(Machine("cpu", machine.directory / "asleep"), sleeps=True)]
    assert [finding.ok for finding in findings] == [True] * 2


def test_one_that_does_not(machine, monkeypatch):
    monkeypatch.setattr(VLLMGeneration, "sync_weights", lambda self: None)
    assert [finding.ok for finding in islice(part.find(machine), 2)] == [False] * 2


def test_a_control_that_sees_nothing(machine, monkeypatch):
    """Where TRL sent the weights by another way, it would be no control."""
    generate = VLLMGeneration.generate

    def generate_from_its_own(self, *args, **kwargs):
        self.llm.load_weights(self.model.named_parameters())
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(VLLMGeneration, "generate", generate_from_its_own)
    *_, control, _ = part.find(machine)
    assert control.ok is False
    assert control.found.endswith(": the check could not see it")


def test_where_it_cannot_run(machine, monkeypatch):
    with pytest.raises(CannotRunError, match="vLLM sleeps on GPUs alone"):
        next(part.find_sleeping(machine))
    monkeypatch.setattr(part, "find_spec", lambda name: None)
    for find in (part.find, part.find_sleeping):
        with pytest.raises(CannotRunError, match=r"vLLM is not installed: pip install 'htpo_trl\[vllm\]'"):
            next(find(machine))
