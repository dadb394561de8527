"""
Options of generation by which tokens are sampled from another distribution than the one that training computes: of the
ratio π_old/μ, the denominator then belongs to fewer tokens than the numerator. Training divides logits by
`temperature`, as sampling does; of all else it knows nothing.
"""

import math
from typing import Any


#: Options under which a sampled token keeps a share of its probability → their values that change nothing.
TRUNCATING: dict[str, tuple] = {
    **{"top_p": (1.0,), "top_k": (0, -1), "min_p": (0.0,), "top_h": (), "typical_p": (1.0,)},
    **{"epsilon_cutoff": (0.0,), "eta_cutoff": (0.0,)},
}
#: Options that raise or lower single tokens, of transformers and of vLLM, likewise.
RESHAPING: dict[str, tuple] = {
    **{"repetition_penalty": (1.0,), "encoder_repetition_penalty": (1.0,), "presence_penalty": (0.0,)},
    **{"frequency_penalty": (0.0,), "no_repeat_ngram_size": (0,), "encoder_no_repeat_ngram_size": (0,)},
    **{"min_length": (0,), "min_new_tokens": (0,), "min_tokens": (0,), "guidance_scale": (1.0,), "num_beams": (1,)},
    **{"do_sample": (True,), "bad_words_ids": ([],), "bad_words": ([],), "suppress_tokens": ([],)},
    **{"begin_suppress_tokens": ([],), "sequence_bias": (), "logit_bias": ({},), "allowed_token_ids": ()},
    **{"exponential_decay_length_penalty": (), "structured_outputs": ({},)},
}


def reshaped(args: Any, defaults: Any = None) -> dict[str, Any]:
    """
    The options by which the sampling distribution is not that of training, with their values.

    Args:
        args ([`HTPOConfig`]):
            Its `generation_kwargs` go before its own options.
        defaults (`GenerationConfig`, *optional*):
            The model's, from which transformers' `generate` takes what TRL leaves open. vLLM, to which TRL gives every
            option, takes none; a server fills in penalties of its own.
    """
    given: dict[str, Any] = args.generation_kwargs or {}
    found = {}
    for name, neutral in (TRUNCATING | RESHAPING).items():
        value = given.get(name, getattr(args, name, None))
        if value is None and not args.use_vllm:
            value = getattr(defaults, name, None)
        if value is not None and value not in neutral:
            found[name] = value
    if given.get("temperature", args.temperature) != args.temperature:
        found["temperature"] = given["temperature"]
    if args.use_vllm and args.vllm_structured_outputs_regex is not None:
        found["vllm_structured_outputs_regex"] = args.vllm_structured_outputs_regex
    return found


def told(args: Any, defaults: Any = None) -> str:
    """What a user should know of [`reshaped`] options, with their mend, in one line; nothing where there are none."""
    found = reshaped(args, defaults)
    if not found:
        return ""
    given: dict[str, Any] = args.generation_kwargs or {}
    sources = {
        name: " (in generation_kwargs)"
        if name in given
        else ""
        if getattr(args, name, None) is not None
        else " (in the model's generation_config.json)"
        for name in found
    }
    values = ", ".join(f"{name}={value!r}{sources[name]}" for name, value in found.items())
    mends = [_mend(args, name) for name in found if name not in given]
    taken_out = [name for name in found if name in given]
    if taken_out:
        mends.append(f"take {', '.join(taken_out)} out of generation_kwargs")
    if "temperature" in found:
        mends[-1] += f" and set the option temperature={found['temperature']!r}"
    mend = "; ".join(mends)
    sharper = ""
    if found.keys() & TRUNCATING.keys():
        sharper = " For likelier tokens lower temperature, by which training divides too."
    return (
        f"{values}: responses are sampled from another distribution than π_old, which training computes. "
        f"{_consequence(args, found)} {mend[0].upper()}{mend[1:]}.{sharper} See 'Truncated sampling' in docs/vllm.md."
    )


def _mend(args: Any, name: str) -> str:
    neutral = (TRUNCATING | RESHAPING).get(name, ())
    if not neutral:
        return f"leave {name} out"
    return (
        f"set {name}={neutral[0]!r}" if hasattr(args, name) else f"set generation_kwargs={{{name!r}: {neutral[0]!r}}}"
    )


def _consequence(args: Any, found: dict[str, Any]) -> str:
    """What is off, and by how much."""
    top_p, length = float(found.get("top_p", 1)), args.max_completion_length
    only_truncated = found.keys() <= TRUNCATING.keys()
    if not (args.use_vllm and args.vllm_importance_sampling_correction):
        off = "The gradient is not of the policy that sampled"
        if found.keys() == {"top_p"}:
            off += f": a token was up to {-math.log(top_p):.3f} nats likelier than log π_old says"
        return f"{off}, and no correction makes up for it."
    mode, most = args.vllm_importance_sampling_mode, args.vllm_importance_sampling_clip_max
    if mode.startswith("token"):
        bound = (
            f" at least {top_p}" if found.keys() == {"top_p"} else " below 1" if only_truncated else " other than 1"
        )
        return f"The correction for vLLM multiplies such tokens by ρ = π_old/μ,{bound}."
    if not only_truncated:
        limit = f"; above vllm_importance_sampling_clip_max={most:g} it is dropped" * (most is not None)
        what = "ρ = π_old/μ, the product over its tokens, whichever way it goes"
        return f"The correction for vLLM multiplies a whole response by {what}{limit}."
    worst = ""
    if found.keys() == {"top_p"}:
        tokens = math.ceil(math.log(0.01) / math.log(top_p))
        worst = f": down by up to {-math.log(top_p):.3f} nats a token, below 0.01 after {tokens} such tokens"
        worst += f", at worst {top_p**length:.0e} at max_completion_length={length}"
    return (
        "The correction for vLLM multiplies a whole response by ρ = π_old/μ, the product over its tokens of "
        f"the probability that was kept{worst}. Long responses then teach nothing."
    )
