"""
What stands for vLLM where it is not installed: TRL's own generation and weight sync on top of a transformers model.

It has vLLM's names and takes no others; asleep it has neither weights nor cache, and says so where they are used.
scripts/vllm_cpu.py runs vLLM itself.
"""

import sys
import threading
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import torch
from torch import distributed
from transformers import AutoModelForCausalLM, TopPLogitsWarper
from trl.generation import vllm_generation


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    temperature: float
    top_p: float
    max_tokens: int
    n: int = 1
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    logprobs: int | None = None
    seed: int | None = None
    stop_token_ids: tuple = ()
    ignore_eos: bool = False
    detokenize: bool = True

    def __post_init__(self):
        assert (self.n, self.top_k, self.min_p, self.repetition_penalty) == (1, 0, 0.0, 1.0)


class LLM:
    """`requests` keeps what was asked for, `syncs` how often each weight was loaded."""

    def __init__(self, model, enable_sleep_mode=False, max_model_len=None, tensor_parallel_size=1, **options):
        self.model = AutoModelForCausalLM.from_pretrained(model).eval()
        self.parameters = dict(self.model.named_parameters())
        self.size, self.requests, self.syncs, self.cached, self.asleep = tensor_parallel_size, [], 0, set(), set()
        self.llm_engine = SimpleNamespace(
            model_config=SimpleNamespace(max_model_len=max_model_len or 64),
            model_executor=SimpleNamespace(driver_worker=SimpleNamespace(model_runner=SimpleNamespace(model=self))),
        )

    def load_weights(self, weights):
        assert "weights" not in self.asleep
        for name, tensor in weights:
            self.parameters[name].data.copy_(tensor)
        self.syncs += 1

    def sleep(self, level):
        assert level == 2
        assert not self.asleep
        for parameter in self.parameters.values():
            parameter.data.fill_(torch.nan)
        self.cached, self.asleep = set(), {"weights", "kv_cache"}

    def wake_up(self, tags):
        self.asleep -= {*tags}

    def reset_prefix_cache(self):
        self.cached = set()

    def generate(self, prompts, sampling_params, use_tqdm=True):
        assert not self.asleep
        if not isinstance(sampling_params, list):
            sampling_params = [sampling_params] * len(prompts)
        ids = [prompt["prompt_token_ids"] for prompt in prompts]
        if self.size > 1:  # each rank computes a part of every token
            asked = [None] * self.size
            distributed.all_gather_object(asked, (ids, sampling_params))
            assert asked[0] == asked[1]
        self.cached |= {tuple(prompt) for prompt in ids}
        self.requests += sampling_params
        return [self._complete(*each) for each in zip(ids, sampling_params, strict=True)]

    @torch.no_grad()
    def _complete(self, prompt, params):
        generator = None if params.seed is None else torch.Generator().manual_seed(params.seed)
        stops = {*params.stop_token_ids, *(() if params.ignore_eos else (self.model.config.eos_token_id,))}
        tokens, logprobs = [], []
        while len(tokens) < params.max_tokens and not stops & {*tokens[-1:]}:
            logits = self.model(torch.tensor([[*prompt, *tokens]])).logits[:, -1] / (params.temperature or 1)
            logits = TopPLogitsWarper(params.top_p)(None, logits) if params.top_p < 1 else logits
            probabilities = logits.softmax(dim=-1)[0]
            sampled = torch.multinomial(probabilities, 1, generator=generator) if params.temperature else None
            tokens.append(int(probabilities.argmax() if sampled is None else sampled))
            logprobs.append({tokens[-1]: SimpleNamespace(logprob=probabilities[tokens[-1]].log().item(), rank=1)})
        completion = SimpleNamespace(token_ids=tokens, logprobs=None if params.logprobs is None else logprobs)
        return SimpleNamespace(prompt_token_ids=prompt, outputs=[completion])


class Client:
    """TRL's client of a server, and the server."""

    model = None  # its directory
    lock = threading.Lock()

    def __init__(self, base_url, group_port, connection_timeout):
        self.llm = LLM(self.model)
        self.reset_prefix_cache = self.llm.reset_prefix_cache

    def init_communicator(self, device):
        pass

    def get_server_info(self):
        return {"model_config": {"logprobs_mode": "processed_logprobs"}}

    def update_named_params(self, metadata, named_params):
        self.llm.load_weights(named_params)

    def update_named_param(self, name, weights):  # of older versions of TRL
        self.llm.load_weights([(name, weights)])

    def generate(self, prompts, n=1, structured_outputs_regex=None, generation_kwargs=None, **options):
        assert (options.pop("features", None), options.pop("images", None)) == (None, None)
        params = SamplingParams(**options | (generation_kwargs or {}))
        ids = [{"prompt_token_ids": prompt} for prompt in prompts for _ in range(n)]
        with self.lock:
            completions = [output.outputs[0] for output in self.llm.generate(ids, params)]
        logprobs = [
            [[step[token].logprob] for token, step in zip(c.token_ids, c.logprobs or [], strict=False)]
            for c in completions
        ]
        return {"prompt_ids": prompts, "completion_ids": [c.token_ids for c in completions], "logprobs": logprobs}


def stand_in(set_attribute, set_item, directory):
    """By the functions of pytest's `monkeypatch`, or `setattr` and `dict.__setitem__` in a process of its own."""
    module = ModuleType("vllm")
    module.__spec__, module.SamplingParams = ModuleSpec("vllm", None), SamplingParams
    set_item(sys.modules, "vllm", module)
    set_attribute(Client, "model", directory)
    replaced = {"LLM": LLM, "SamplingParams": SamplingParams, "VLLMClient": Client, "is_vllm_available": lambda: True}
    for name, value in replaced.items():
        set_attribute(vllm_generation, name, value, **({} if hasattr(vllm_generation, name) else {"raising": False}))
