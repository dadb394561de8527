"""
Completions for evaluation, by transformers or by vLLM. Each depends on its prompt and its seed alone, not on its batch
or on what came before (but for round-off, which differs between shapes of batches).
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    ProcessorMixin,
    TopPLogitsWarper,
)

from ..utils import MissingPackageError, UsageError
from .parallel import check_engine, engine_alone, own_device
from .sampling import Sampling
from .weights import digest_of_files, digest_of_parameters


#: What weights can be loaded in: as they were saved, or one of these; TRL's choices.
DTYPES = ("auto", "bfloat16", "float16", "float32")


class Generation(NamedTuple):
    """One sample of a model."""

    text: str  #: without special tokens
    tokens: int  #: the end-of-sequence token included
    truncated: bool  #: by max_new_tokens


class Generator(Protocol):
    """What [`evaluate`] needs of a model; write one to evaluate behind another engine."""

    name: str  # of backend and model: results are resumed by the same alone
    tokenizer: Any

    @property
    def weights(self) -> str | None:
        """A digest of the weights, likewise; `None` where it cannot be told."""

    def generate(self, prompts: Sequence[list[int]], seeds: Sequence[int], sampling: Sampling) -> list[Generation]:
        """A completion of each prompt, given as tokens, that depends on it and on its seed alone."""


def load_generator(
    model: Any, *, backend: str = "auto", dtype: str = "auto", vllm_options: Mapping[str, Any] | None = None
) -> Generator:
    """
    The generator for a model: the one place where evaluation loads weights.

    Args:
        model (`str`, `Path`, `tuple` or [`Generator`]):
            Id on the Hub, or directory, of a model (with transformers, of a LoRA adapter too); a pair (model,
            tokenizer) of transformers; or a generator, which is returned as it is.
        backend (`str`, *optional*, defaults to `"auto"`):
            Of a model that is to be loaded: `"vllm"`, `"transformers"`, or the first of them that is installed.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Of its weights: `"bfloat16"`, `"float32"`, ..., or as they were saved.
        vllm_options (`Mapping`, *optional*):
            Options of `vllm.LLM`, such as `{"tensor_parallel_size": 4}`.

    In one of several processes that a launcher has started, the model goes to the GPU of its rank; an engine of vLLM
    to as many GPUs as its parallel sizes say, those of rank 0 first.

    Raises:
        UsageError: if the backend is unknown, takes no `vllm_options`, or is not installed; if there are too few GPUs.
        TypeError: if `model` is none of these.
    """
    engine = choose_backend(str(model) if isinstance(model, str | Path) else "", backend, dtype, vllm_options)
    if isinstance(model, tuple):
        return TransformersGenerator(*model)
    if not isinstance(model, str | Path):
        if not hasattr(model, "generate") or isinstance(model, torch.nn.Module):
            raise TypeError(
                f"model is a `{type(model).__name__}`; pass a name or path, a pair (model, tokenizer), or a generator "
                "such as `VLLMGenerator(LLM(...))`."
            )
        return model
    weights = digest_of_files(model)
    if engine == "vllm":
        if not find_spec("vllm"):
            raise MissingPackageError("backend='vllm' needs vLLM: pip install 'htpo_trl[vllm]'")
        options = vllm_options or {}
        with engine_alone(options):
            from vllm import LLM  # type: ignore[import-not-found]

            return VLLMGenerator(LLM(str(model), dtype=dtype, **options), weights)
    places = {"": device} if (device := own_device()) else "auto"
    try:
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, device_map=places, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError, SafetensorError) as error:
        raise UsageError(f"model={str(model)!r} cannot be loaded: {error}") from error
    return TransformersGenerator(loaded, tokenizer, weights or digest_of_files(model))  # of the Hub it is cached now


def choose_backend(
    model: str, backend: str = "auto", dtype: str = "auto", vllm_options: Mapping[str, Any] | None = None
) -> str:
    """What generates for a model of this name: `"vllm"` or `"transformers"`. Raises as [`load_generator`]."""
    if backend not in ("auto", "vllm", "transformers"):
        raise UsageError(f"backend={backend!r} is none of 'auto', 'vllm' and 'transformers'.")
    if dtype not in DTYPES:
        raise UsageError(f"dtype={dtype!r} is none of {', '.join(DTYPES)}.")
    is_adapter = bool(model) and Path(model, "adapter_config.json").is_file()
    if backend == "vllm" and is_adapter:
        raise UsageError(
            f"backend='vllm' takes a whole model, and {model!r} is a LoRA adapter: merge it, or set "
            "backend='transformers'."
        )
    if backend == "auto":
        backend = "vllm" if find_spec("vllm") and not is_adapter else "transformers"
    if backend == "vllm":
        check_engine(vllm_options or {}, _attention_heads(model) if vllm_options else None)
    elif vllm_options:
        given = ", ".join(f"{name}={value!r}" for name, value in vllm_options.items())
        raise UsageError(f"vllm_options are of backend='vllm', but this is 'transformers': leave out {given}.")
    return backend


def _attention_heads(model: str) -> int | None:
    """`None` where the model's configuration is not here."""
    try:
        config = AutoConfig.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError):  # of what cannot be loaded the loading tells
        return None
    return getattr(config.get_text_config(), "num_attention_heads", None)


class TransformersGenerator:
    """Generates by a transformers model, loaded and on its device. `weights` is told where they are as in files."""

    def __init__(self, model: Any, tokenizer: Any, weights: str | None = None) -> None:
        tokenizer = tokenizer.tokenizer if isinstance(tokenizer, ProcessorMixin) else tokenizer
        self.model, self.tokenizer, self._weights = model, tokenizer, weights
        self.name = f"transformers {model.config._name_or_path}".rstrip()
        eos = model.generation_config.eos_token_id
        # A chat model may end its turn by a token that is not its tokenizer's end of text, or the reverse.
        self.eos = sorted({*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id} - {None})
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos[0]

    @property
    def weights(self) -> str | None:
        """Of a model in memory they may have been trained since it was last asked."""
        return self._weights or digest_of_parameters(self.model)

    def generate(self, prompts: Sequence[list[int]], seeds: Sequence[int], sampling: Sampling) -> list[Generation]:
        """As a batch, in evaluation mode; see [`Generator`]."""
        device = self.model.device
        length = max(map(len, prompts))
        ids = torch.tensor([[self.pad] * (length - len(p)) + p for p in prompts], device=device)
        mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts], device=device)
        processors = [_SeededSampler(seeds, sampling, length, device)] if sampling.temperature else None
        training = self.model.training
        self.model.eval()
        try:
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                **self.pictures(prompts, length),
                logits_processor=processors,
                # Whatever is left out here comes from the model's own generation config, which may penalise
                # repetitions; the sampling is that of the processor alone.
                generation_config=GenerationConfig(
                    do_sample=False,
                    max_new_tokens=sampling.max_new_tokens,
                    eos_token_id=self.eos,
                    pad_token_id=self.pad,
                    num_beams=1,
                    min_length=0,
                    repetition_penalty=1.0,
                    no_repeat_ngram_size=0,
                    use_cache=True,
                ),
            )
        finally:
            self.model.train(training)
        return [self._completion(row) for row in output[:, length:].tolist()]

    def pictures(self, prompts: Sequence[list[int]], length: int) -> dict[str, Any]:
        """What a model that sees takes beside the tokens of the prompts, padded to a length: here, nothing."""
        return {}

    def _completion(self, ids: list[int]) -> Generation:
        end = next((i for i, token in enumerate(ids) if token in self.eos), None)
        ids = ids if end is None else ids[: end + 1]
        return Generation(self.tokenizer.decode(ids, skip_special_tokens=True), len(ids), end is None)


class _SeededSampler(LogitsProcessor):
    """
    Samples the next token of each row by inverse transform: one uniform number per row and step, from the row's own
    seed. It leaves the sampled token as the only one, for greedy search to take; no global random state is touched.
    """

    def __init__(self, seeds: Sequence[int], sampling: Sampling, prompt_length: int, device: torch.device) -> None:
        uniforms = np.stack([np.random.default_rng(seed).random(sampling.max_new_tokens) for seed in seeds])
        self.uniforms = torch.from_numpy(uniforms).to(device)  # (B, T), float64
        self.temperature, self.prompt_length = sampling.temperature, prompt_length
        self.top_p = TopPLogitsWarper(sampling.top_p) if sampling.top_p < 1 else None

    def __call__(self, input_ids, scores):
        logits = scores.float() / self.temperature
        if self.top_p is not None:
            logits = self.top_p(input_ids, logits)
        cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)  # (B, V)
        step = input_ids.shape[1] - self.prompt_length
        at = self.uniforms[:, step, None] * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, at, right=True).clamp_(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)


class VLLMGenerator:
    """Generates by a `vllm.LLM`, e.g. `VLLMGenerator(LLM("Qwen/Qwen3-8B", tensor_parallel_size=4))`."""

    def __init__(self, llm: Any, weights: str | None = None) -> None:
        self.llm, self.tokenizer = llm, llm.get_tokenizer()
        model = llm.llm_engine.model_config.model
        self.name, self.weights = f"vllm {model}", weights or digest_of_files(model)

    def generate(self, prompts: Sequence[list[int]], seeds: Sequence[int], sampling: Sampling) -> list[Generation]:
        """One request for each prompt; see [`Generator`]."""
        from vllm import SamplingParams

        options = {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_new_tokens}
        parameters = [SamplingParams(**options, seed=seed) for seed in seeds]
        requests = [{"prompt_token_ids": ids} for ids in prompts]
        outputs = [request.outputs[0] for request in self.llm.generate(requests, parameters, use_tqdm=False)]
        return [Generation(o.text, len(o.token_ids), o.finish_reason == "length") for o in outputs]
