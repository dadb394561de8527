"""Numbers of every configuration are held to ranges: all of them, those that TRL and transformers own too."""

import dataclasses
import inspect
import math
import re

import pytest
from trl import ModelConfig

from htpo_trl import HTPOConfig, config
from htpo_trl.demo.laptop import LaptopConfig
from htpo_trl.evaluation.sampling import Sampling
from htpo_trl.scripts.arguments import MODEL_RANGES, HTPOScriptArguments
from htpo_trl.utils import UsageError, check_numbers
from htpo_trl.verifier import VerifierConfig


# Any finite number makes sense of these.
UNBOUNDED = {"correctness_threshold", "reward_weights", "entropy_coef", "entropy_coef_min", "entropy_coef_max"}
# Their fitting values are those of others, which a contradiction would be named of.
TOGETHER = {"delta", "vllm_importance_sampling_clip_min", "top_entropy_quantile", "dataloader_prefetch_factor"}


def kinds(cls):
    """Name → the types of a field, as written in the class's source or its bases'."""
    written = {}
    for base in reversed(cls.__mro__):
        written |= {name: str(kind) for name, kind in inspect.get_annotations(base).items()}
    return {field.name: {*re.findall(r"\w+", written[field.name])} for field in dataclasses.fields(cls)}


def numeric(cls):
    return {name: found for name, found in kinds(cls).items() if found & {"int", "float"}}


def values(within):
    """Numbers that are in a range, and such that are not."""
    other, _, interval = within.rpartition(" or ")
    low, high = map(float, interval[1:-1].split(","))
    good = [low + 1] if high == math.inf else [(low + high) / 2]
    good += [low] * (interval[0] == "[") + [high] * (interval[-1] == "]") + ([float(other)] if other else [])
    bad = [low - 1, math.nan] + [low] * (interval[0] == "(") + [high + 1] * (high < math.inf)
    return good, bad + [math.inf] * (interval[-1] == ")" and high == math.inf) + [-math.inf]


@pytest.fixture
def build(cpu_arguments):
    """Class → a function that builds it with an option, given where it needs others."""
    return {
        HTPOConfig: lambda **option: HTPOConfig(**cpu_arguments | option),
        HTPOScriptArguments: HTPOScriptArguments,
        Sampling: Sampling,
        LaptopConfig: LaptopConfig,
        VerifierConfig: VerifierConfig,
    }


def refused(build, name, value):
    """Whether a value is refused for its range, not for what another option contradicts."""
    try:
        build(**{name: value})
    except UsageError as error:
        return str(error).startswith(f"{name}={value!r} must ")
    return False


RANGES = {
    HTPOConfig: config.RANGES,
    HTPOScriptArguments: HTPOScriptArguments.RANGES,
    Sampling: Sampling.RANGES,
    LaptopConfig: LaptopConfig.RANGES,
    VerifierConfig: VerifierConfig.RANGES,
}
CASES = [(cls, name) for cls in RANGES for name in numeric(cls)]


@pytest.mark.parametrize(("cls", "name"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_every_number_is_held_to_its_range(build, cls, name):
    """A new field of TRL or transformers that nobody has thought about fails here."""
    ranges = [within for within, names in RANGES[cls].items() if name in names]
    assert len(ranges) == (name not in UNBOUNDED), "one range, or any finite number"
    is_list, is_whole = "list" in kinds(cls)[name], "float" not in kinds(cls)[name]
    good, bad = values(ranges[0]) if ranges else ([0.5], [math.nan, math.inf])
    for value in bad:
        given = [value] if is_list else value
        with pytest.raises(UsageError, match=rf"^{name}={re.escape(repr(given))} must (be|lie in) "):
            build[cls](**{name: given})
    if is_whole:
        with pytest.raises(UsageError, match=rf"^{name}=1.5 must (be a whole number|lie in|be at least|be -1 or)"):
            build[cls](**{name: 1.5})
    if "str" not in kinds(cls)[name]:
        with pytest.raises(UsageError, match=rf"^{name}='x1' must be a number"):
            build[cls](**{name: "x1"})
    for value in good if name not in TOGETHER else ():
        number = int(value) if is_whole and math.isfinite(value) else value
        assert not refused(build[cls], name, number)


def test_numbers_of_trls_model_config_have_their_ranges():
    """It is TRL's own: the command line checks it."""
    known = {name for names in MODEL_RANGES.values() for name in names}
    assert set(numeric(ModelConfig)) == known
    for name, value in {"lora_r": 0, "lora_alpha": -1, "lora_dropout": 1.0}.items():
        with pytest.raises(UsageError, match=f"^{name}={value} must "):
            check_numbers(ModelConfig(**{name: value}), MODEL_RANGES)
