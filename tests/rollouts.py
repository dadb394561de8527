"""Completions by hand: the `rollout_func` of a trainer."""

import itertools
from collections import defaultdict


def scripted_rollout(completions, logprob=None, is_trained=None):
    """
    Args:
        completions (`dict[str, list[str]]`):
            Prompt → the texts of its group, with "<eos>" where they end.
        logprob (`Callable`, *optional*):
            Text → log-probability that the engine which sampled reports for each of its tokens.
        is_trained (`Callable`, *optional*):
            Text → for each of its tokens whether it is the model's own, and not an environment's.
    """

    def rollout(prompts, trainer):
        tokenizer = trainer.processing_class
        places = defaultdict(itertools.count)
        texts = [completions[prompt][next(places[prompt])] for prompt in prompts]
        ids = [tokenizer(text).input_ids for text in texts]
        output = {"prompt_ids": [tokenizer(prompt).input_ids for prompt in prompts], "completion_ids": ids}
        output["logprobs"] = logprob and [[logprob(t)] * len(i) for t, i in zip(texts, ids, strict=True)]
        return output | ({"env_mask": list(map(is_trained, texts))} if is_trained else {})

    return rollout
