"""The golds of a run, or of an evaluation, tried before it by its first process."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..data.names import golds_of_file, result_names
from ..data.prompts import PromptArguments
from ..data.trial import try_golds
from ..utils import main_process_decides
from ..verifier import VerifierConfig
from .arguments import HTPOScriptArguments


def try_golds_of_run(
    script: HTPOScriptArguments, rewards: Sequence[Any], judge: Any, train: Any, benchmarks: Mapping[str, Any]
) -> None:
    """Try the golds of a run where the verifier is the judge: for a reward of the user's own they may be anything."""
    from ..evaluation.judges import MATH_REWARDS
    from ..training.checks import reward_name

    sets: list[tuple[str, Any, str | Path | None]] = []
    if {*map(reward_name, rewards)} & {*MATH_REWARDS}:
        sets.append((script.dataset_name or "", train, script.dataset_path))
    if judge is None:
        names = result_names(script.eval_benchmarks or [], "eval_benchmarks")
        sets += [(name, benchmarks[label], None) for name, label in names.items()]
    try_golds_of(sets, script, script.verifier_config(), script.allow_unmatched_golds)


def try_golds_of(
    sets: Iterable[tuple[str, Any, str | Path | None]],
    prompts: PromptArguments,
    config: VerifierConfig,
    allow_unmatched: bool,
) -> None:
    """
    Try the golds of data sets, each by its name, its rows, and the path of its copy. The first process tries, for no
    longer than this call; all processes are told.
    """
    main_process_decides(lambda: try_here(sets, prompts, config, allow_unmatched))


def try_here(
    sets: Iterable[tuple[str, Any, str | Path | None]],
    prompts: PromptArguments,
    config: VerifierConfig,
    allow_unmatched: bool,
) -> None:
    """[`try_golds_of`] in this process alone."""
    for name, dataset, path in sets:
        places = partial(golds_of_file, name, prompts, path)
        if line := try_golds(name, dataset, config, allow_unmatched, places):
            print(line, flush=True)
