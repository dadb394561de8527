"""The requests that go to vLLM, and what is made of its replies; scripts/vllm_cpu.py runs vLLM itself."""

import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import pytest

from htpo_trl.evaluation import Sampling, VLLMGenerator
from htpo_trl.evaluation.generation import Generation


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """With vLLM's names."""

    temperature: float
    top_p: float
    max_tokens: int
    seed: int


class LLM:
    """Stands for `vllm.LLM`; a completion tells the prompt and the seed that it is of, and some are cut off."""

    def __init__(self, tokenizer):
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(model="Qwen/Qwen3-8B"))
        self.get_tokenizer = lambda: tokenizer
        self.parameters: list[SamplingParams] = []

    def generate(self, requests, parameters, use_tqdm=True):
        assert len(requests) == len(parameters)
        self.parameters += parameters
        return [
            SimpleNamespace(outputs=[self._output(request["prompt_token_ids"], p)])
            for request, p in zip(requests, parameters, strict=True)
        ]

    @staticmethod
    def _output(prompt, parameters):
        is_cut = parameters.seed % 2 == 1
        return SimpleNamespace(
            text=f"{prompt} {parameters.seed}",
            token_ids=range(parameters.max_tokens if is_cut else 3),
            finish_reason="length" if is_cut else "stop",
        )


@pytest.fixture
def llm(monkeypatch, tokenizer):
    module = ModuleType("vllm")
    module.SamplingParams = SamplingParams
    monkeypatch.setitem(sys.modules, "vllm", module)
    return LLM(tokenizer)


def test_every_request_has_its_own_seed(llm, tokenizer):
    generator = VLLMGenerator(llm)
    sampling = Sampling(num_samples=2, temperature=0.8, top_p=0.9, max_new_tokens=7)
    completions = generator.generate([[5, 6], [5, 6], [8]], [10, 13, 2**63 - 1], sampling)
    assert llm.parameters == [
        SamplingParams(temperature=0.8, top_p=0.9, max_tokens=7, seed=seed) for seed in (10, 13, 2**63 - 1)
    ]
    assert completions == [
        Generation("[5, 6] 10", 3, False),
        Generation("[5, 6] 13", 7, True),
        Generation(f"[8] {2**63 - 1}", 7, True),
    ]
    assert (generator.name, generator.tokenizer) == ("vllm Qwen/Qwen3-8B", tokenizer)
