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
        outputs = {}
        for length in {*map(len, ids)}:  # without padding
            rows = [i for i, prompt in enumerate(ids) if len(prompt) == length]
            completions = self._complete([ids[i] for i in rows], [sampling_params[i] for i in rows])
            outputs |= dict(zip(rows, completions, strict=True))
        return [SimpleNamespace(prompt_token_ids=prompt, outputs=[outputs[i]]) for i, prompt in enumerate(ids)]

    @torch.no_grad()
    def _complete(self, prompts, params):
        tokens, logprobs = [[[] for _ in prompts] for _ in range(2)]
        generators = [(p.seed is not None and torch.Generator().manual_seed(p.seed)) or None for p in params]
        eos = {self.model.config.eos_token_id}
        stops = [{*p.stop_token_ids} | (set() if p.ignore_eos else eos) for p in params]
        ids = torch.tensor(prompts)
        for _ in range(max(p.max_tokens for p in params)):
            logits = self.model(ids).logits[:, -1]
            following = [0] * len(prompts)
            for i, p in enumerate(params):
                if len(tokens[i]) == p.max_tokens or stops[i] & {*tokens[i][-1:]}:
                    continue
                row = logits[i : i + 1] / (p.temperature or 1)
                row = TopPLogitsWarper(p.top_p)(None, row) if p.top_p < 1 else row
                chances = row.softmax(dim=-1)[0]
                sampled = torch.multinomial(chances, 1, generator=generators[i]) if p.temperature else chances.argmax()
                following[i] = token = int(sampled)
                tokens[i].append(token)
                logprobs[i].append({token: SimpleNamespace(logprob=chances[token].log().item(), rank=1)})
            ids = torch.cat([ids, torch.tensor(following)[:, None]], dim=1)
        return [
            SimpleNamespace(token_ids=row, logprobs=None if p.logprobs is None else each)
            for row, each, p in zip(tokens, logprobs, params, strict=True)
        ]


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
