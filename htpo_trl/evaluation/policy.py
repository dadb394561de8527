"""The policy of a trainer, as evaluation during training samples from it: by transformers, or by training's vLLM."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import distributed
from trl.data_utils import prepare_multimodal_messages
from trl.models import unwrap_model_for_generation

from ..utils import UsageError
from .generation import Generation, TransformersGenerator
from .runner import has_pictures, pictures_of
from .sampling import Sampling


#: What generates: the engine that training generates by, or transformers' `generate` in any case.
BACKENDS = ("auto", "transformers")

_CONNECTIONS = 64  # to a server at a time, as many as TRL's client keeps


class Policy(TransformersGenerator):
    """By transformers, prompts tokenized as for training, with `options` of the chat template."""

    def __init__(self, model: Any, trainer: Any, options: Mapping[str, Any]) -> None:
        super().__init__(model, trainer.processing_class)
        self.trainer, self.options = trainer, options

    def tokenize(self, row: Mapping[str, Any]) -> list[int]:
        """The tokens of a problem's prompt."""
        trainer, conversation, environment = self.trainer, row["prompt"], None
        if getattr(trainer, "environment_factories", None) is not None:
            environment = row.get("environment") if trainer._multi_environment else None
            if environment not in trainer.environment_factories:
                raise UsageError(
                    f"The problem {conversation!r:.60} has environment={environment!r}: name one of "
                    f"environment_factory, {', '.join(trainer.environment_factories)}, in its column 'environment'."
                )
        if pictures := pictures_of(row):
            conversation = prepare_multimodal_messages(conversation, images=pictures)
        prompt = _Prompt(conversation, environment, has_pictures(row))
        prompt += self._tokenize([prompt])[0][0]
        return prompt

    def take_part(self, prompts: Sequence[Any], seeds: Sequence[int], sampling: Sampling) -> None:
        """
        What a process does that has no batch while others have: where parameters are sharded, generation is
        collective, so that it draws one as well.
        """
        self.generate(prompts, seeds, sampling)

    def pictures(self, prompts: Sequence[Any], length: int) -> dict[str, Any]:
        """As TRL hands them to generation."""
        if not any(prompt.has_pictures for prompt in prompts):
            return {}
        inputs = {}
        for name, values in self._tokenize(prompts)[2].items():
            if isinstance(values, list) and isinstance(values[0], list):  # types of the tokens
                values = [[0] * (length - len(row)) + row for row in values]
            inputs[name] = values if isinstance(values, torch.Tensor) else torch.tensor(np.array(values))
        return self.trainer._prepare_input(inputs)

    def _tokenize(self, prompts: Sequence["_Prompt"]) -> tuple:
        trainer, options = self.trainer, self.trainer.chat_template_kwargs
        if getattr(trainer, "environment_factories", None) is not None:
            trainer._batch_environments = [prompt.environment for prompt in prompts]
        trainer.chat_template_kwargs = {**options, **self.options}
        try:
            return trainer._tokenize_prompts([prompt.conversation for prompt in prompts])
        finally:
            trainer.chat_template_kwargs = options


class _Prompt(list[int]):
    """The tokens of a prompt, and what they are made of: pictures are more than their tokens."""

    def __init__(self, conversation: Any, environment: str | None, has_pictures: bool) -> None:
        super().__init__()
        self.conversation, self.environment, self.has_pictures = conversation, environment, has_pictures


class EnginePolicy(Policy):
    """
    By the engine of vLLM that training generates by, colocated or a server. What ends a completion, and its text, are
    as by transformers; of training's options of sampling none is used.
    """

    def __init__(self, trainer: Any, options: Mapping[str, Any]) -> None:
        super().__init__(trainer.accelerator.unwrap_model(trainer.model), trainer, options)
        self.name = self.name.replace("transformers", "vllm", 1)
        self.engine = trainer.vllm_generation

    def generate(self, prompts: Sequence[Any], seeds: Sequence[int], sampling: Sampling) -> list[Generation]:
        """One request for each prompt, along with those of the processes that share the engine."""
        own = [(self._request(prompt), seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        is_server, parts, index = self.engine.mode == "server", [own], 0
        if is_server:
            parts, index = gather_object([own]), self.trainer.accelerator.process_index
        elif self.engine.tensor_parallel_size > 1:
            group = self.engine.tp_group
            parts, index = [[]] * self.engine.tensor_parallel_size, distributed.get_rank(group)
            distributed.all_gather_object(parts, own, group=group)
        requests = [request for part in parts for request in part]
        completions = (self._served if is_server else self._colocated)(requests, sampling)
        first = sum(map(len, parts[:index]))
        return [self._completion(ids) for ids in completions[first : first + len(own)]]

    def take_part(self, prompts: Sequence[Any], seeds: Sequence[int], sampling: Sampling) -> None:
        """Others may need this process for theirs; it asks for nothing."""
        self.generate([], [], sampling)

    def _request(self, prompt: _Prompt) -> dict[str, Any]:
        if not prompt.has_pictures:
            return {"prompt_token_ids": [*prompt]}
        (pictures,) = self._tokenize([prompt])[1]
        return {
            "prompt_token_ids": [*prompt],
            "multi_modal_data": {"image": pictures if len(pictures) > 1 else pictures[0]},
        }

    def _colocated(self, requests: Sequence[tuple[dict[str, Any], int]], sampling: Sampling) -> list[list[int]]:
        from vllm import SamplingParams  # type: ignore[import-not-found]

        if not requests:
            return []
        parameters = [
            SamplingParams(**self._options(seed), **_shared(sampling), detokenize=False) for _, seed in requests
        ]
        outputs = self.engine.llm.generate([request for request, _ in requests], parameters, use_tqdm=False)
        return [[*output.outputs[0].token_ids] for output in outputs]

    def _served(self, requests: Sequence[tuple[dict[str, Any], int]], sampling: Sampling) -> list[list[int]]:
        """By the main process, whose client the server knows; a request has one seed, so that each is its own."""

        def ask(request: tuple[dict[str, Any], int]) -> list[int]:
            prompts, options = [request[0]["prompt_token_ids"]], self._options(request[1])
            reply = self.engine.vllm_client.generate(
                prompts, logprobs=None, generation_kwargs=options, **_shared(sampling)
            )
            return reply["completion_ids"][0]

        completions: list[list[int]] = []
        if self.trainer.accelerator.is_main_process:
            with ThreadPoolExecutor(_CONNECTIONS) as executor:
                completions = [*executor.map(ask, requests)]
        return broadcast_object_list([completions])[0]

    def _options(self, seed: int) -> dict[str, Any]:
        """Of one request; `eos` has the tokens that end a turn, of which vLLM by itself may know others."""
        return {"seed": seed, "stop_token_ids": self.eos, "ignore_eos": True}


def _shared(sampling: Sampling) -> dict[str, Any]:
    """Options of all requests, by vLLM's names."""
    return {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_new_tokens}


def has_engine(trainer: Any, backend: str) -> bool:
    """Whether a trainer's policy is sampled from by its engine. Raises `UsageError` where the backend is unknown."""
    if backend not in BACKENDS:
        raise UsageError(f"backend={backend!r} is none of {', '.join(map(repr, BACKENDS))}.")
    return backend == "auto" and bool(getattr(trainer, "use_vllm", False))


def check_engine_takes(
    trainer: Any, benchmarks: Mapping[str, Iterable[Mapping[str, Any]]], sampling: Sampling
) -> None:
    """Refuse problems that are too long for training's engine, or whose pictures cannot be sent to it."""
    policy = EnginePolicy(trainer, sampling.chat_template_kwargs or {})
    is_server = policy.engine.mode == "server"  # which refuses by itself what is too long
    limit = None if is_server else policy.engine.llm.llm_engine.model_config.max_model_len
    for name, problems in benchmarks.items():
        longest = 0
        for row in problems:
            if is_server and has_pictures(row):
                raise UsageError(
                    f"{name!r} has pictures, which are not sent to a server of vLLM. Leave it out, or evaluate by "
                    "EvaluationCallback(..., backend='transformers')."
                )
            if limit is not None:
                longest = max(longest, len(policy.tokenize(row)))
        if limit is not None and longest + sampling.max_new_tokens > limit:
            raise UsageError(
                f"max_new_tokens={sampling.max_new_tokens} and the longest prompt of {name!r}, {longest} tokens, are "
                f"more than vllm_max_model_length={limit}: set that to at least {longest + sampling.max_new_tokens}, "
                "or fewer max_new_tokens for the evaluation."
            )


@contextmanager
def policy_of(trainer: Any, options: Mapping[str, Any], backend: str) -> Iterator[Policy]:
    """
    Within, the policy with its weights as they are now, which all processes ask for completions together. Training
    then finds model and engine as they were.
    """
    args, accelerator = trainer.args, trainer.accelerator
    if not has_engine(trainer, backend):
        gather = args.ds3_gather_for_generation
        with unwrap_model_for_generation(trainer.model_wrapped, accelerator, gather) as model:
            yield Policy(model, trainer, options)
        if args.gradient_checkpointing:  # TRL has switched it off, and on again with default arguments
            model.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
        return
    engine = trainer.vllm_generation
    policy = EnginePolicy(trainer, options)
    sleeps = engine.mode == "colocate" and engine.enable_sleep_mode
    with _unmerged_exactly(policy.model):
        engine.sync_weights()  # of an engine that sleeps, which wakes up for it
    try:
        if sleeps:
            engine.llm.wake_up(tags=["kv_cache"])
        accelerator.wait_for_everyone()  # or NCCL may hang in an engine over several GPUs: huggingface/trl#3671
        yield policy
    finally:
        # Nothing of the evaluation is left that training's prompts could share, and round-off with it.
        if sleeps:
            engine.llm.sleep(level=2)
            engine._llm_weights_sleeping = True  # by which TRL knows that it must load them
        elif engine.mode == "colocate":
            engine.llm.reset_prefix_cache()
        elif accelerator.is_main_process:
            engine.vllm_client.reset_prefix_cache()


@contextmanager
def _unmerged_exactly(model: torch.nn.Module) -> Iterator[None]:
    """
    TRL merges an adapter into the weights to send them, and takes it out again, which leaves round-off in them; after
    this there is none. Meanwhile a copy of the weights that are merged into lies in the CPU's memory.
    """
    layers = [module.get_base_layer() for module in model.modules() if isinstance(module, BaseTunerLayer)]
    kept = [
        (layer, name, parameter, parameter.detach().to("cpu", copy=True))
        for layer in layers
        for name, parameter in layer.named_parameters(recurse=False)
    ]
    yield
    for layer, name, parameter, values in kept:
        parameter.data.copy_(values)
        setattr(layer, name, parameter)  # quantized weights are replaced
