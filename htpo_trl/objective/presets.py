"""
The published objectives by name. No torch: names and tables are cheap to import.

>>> print(PRESETS["htpo"])  # doctest: +ELLIPSIS
htpo
 1  hard · correct · low   J_PPO; the lowest-entropy 0.6% of the group detached
...
"""

from collections.abc import Mapping
from typing import Any

from ..objects import import_object
from ..utils import UsageError, nearest
from .rules import Clip, KeepGradient, Mix, Named, Part, Rule
from .selections import Detach, Penalty, Scale
from .table import GROUPS, Table


def _preset(name: str, rules: Mapping[str, Rule], **kwargs) -> Table:
    return Table(name, tuple(rules.get(group, Clip()) for group in GROUPS), **kwargs)


def _everywhere(*rules: Part) -> dict[str, Rule]:
    return dict.fromkeys(GROUPS, rules[0] if len(rules) == 1 else Mix(rules))


def _by_level(low: Rule, high: Rule) -> dict[str, Rule]:
    return {group: high if group.endswith("high") else low for group in GROUPS}


_PENALTY = KeepGradient(below="bound")
_RELEASED_PENALTY = KeepGradient(below="bound", when="always", sign=-1)

_NO_DUAL_CLIP = Clip(delta="none")
_COVARIANCE: dict[str, Any] = {"share": 0.0002, "by": "covariance", "over": "batch", "at_least": 1}
_DENOMINATOR = "The authors' denominator counts {}: the gradient here is smaller by their share."

#: Name → objective. Formulas of gates and scales are in `gates.py`.
PRESETS: dict[str, Table] = {
    table.name: table
    for table in (
        _preset(
            "htpo",
            {
                "hard_correct_low": Detach(0.006, "lowest"),
                "hard_correct_high": KeepGradient(above="bound", below="inverse_ratio", cap=10.0),
                "hard_wrong_high": _PENALTY,
                "easy_correct_high": Detach(0.02, "highest"),
                "easy_wrong_high": _PENALTY,
            },
            source="arXiv 2605.08283, Fig. 1b",
        ),
        # The kept gradients have the other sign, and sets are cut by value.
        _preset(
            "htpo-released",
            {
                "hard_correct_low": Detach(0.006, "lowest"),
                "hard_correct_high": KeepGradient(above="bound", below="inverse_ratio", when="always", sign=-1),
                "hard_wrong_high": _RELEASED_PENALTY,
                "easy_correct_high": Detach(0.02, "highest"),
                "easy_wrong_high": _RELEASED_PENALTY,
            },
            selection="released",
            source="github.com/xcyao00/HTPO, as released",
        ),
        _preset("dapo", {}, source="arXiv 2503.14476", note="The baseline: J_PPO everywhere."),
        _preset("none", {}, source="TRL's own loss, whatever its options", note="Changes nothing, as `dapo`."),
        _preset(
            "high-entropy-only",
            {group: Detach(1.0) for group in GROUPS if group.endswith("low")},
            source="arXiv 2506.01939 (80/20)",
            note="The paper ranks entropies over the batch, this within a response.",
        ),
        _preset(
            "gppo",
            _everywhere(KeepGradient(above="bound", below="bound", when="clipped")),
            source="arXiv 2508.07629",
        ),
        # Positive tokens are weighed by 1/r, softly bounded; PPO's clip above the range stays.
        _preset(
            "aspo",
            _everywhere(KeepGradient(inside="inverse_ratio", below="inverse_ratio", cap=10.0, when="positive")),
            source="arXiv 2510.06062",
        ),
        # Gates by the ratio of the token.
        _preset(
            "cispo",
            _everywhere(Named("cispo")),
            source="arXiv 2506.13585",
            note="TRL's epsilon_high is the cap itself: its recommended 5.0 is epsilon_high=4.0 here.",
        ),
        _preset("tis", _everywhere(Named("tis")), source="Ionides 2008, JCGS 17(2)", note="Cap 2 as in TRL for vLLM."),
        _preset("sapo", _everywhere(Named("sapo")), settings=(("loss_type", "grpo"),), source="arXiv 2511.20347"),
        _preset(
            "dppo-tv",
            _everywhere(Named("dppo-tv")),
            source="arXiv 2602.04879",
            note="π_old is the scored old policy, not the sampler. Codes differ in the cap: 3, 10, 20 or none.",
        ),
        _preset("dppo-kl", _everywhere(Named("dppo-kl")), source="arXiv 2602.04879", note="As dppo-tv."),
        _preset(
            "wapo",
            _everywhere(Named("wapo")),
            source="arXiv 2606.16154",
            note='Published with loss_type="dr_grpo", scale_rewards="none", and a mean over groups that have a '
            "positive response.",
        ),
        _preset(
            "archer",
            _by_level(Clip(0.2, 0.2), Clip(0.5, 0.5)),
            selection="quantile",
            source="arXiv 2507.15778",
            note="Without its KL to a reference on low-entropy tokens alone: beta is one number.",
        ),
        # Selections.
        _preset(
            "clip-cov",
            _everywhere(_NO_DUAL_CLIP, Detach(which="random", above=1.0, below=5.0, where="unclipped", **_COVARIANCE)),
            source="arXiv 2505.22617",
            note="The draw is of a generator of its own, by seed, step, micro-batch and process.",
        ),
        _preset(
            "kl-cov",
            _everywhere(Named("unclipped"), Penalty(beta=1.0, which="highest", **_COVARIANCE)),
            source="arXiv 2505.22617",
        ),
        # Scales.
        *(
            _preset(
                name,
                _everywhere(Named("verdict", options), _NO_DUAL_CLIP),
                settings=(("epsilon_high", 0.2),),
                source="arXiv 2506.01347",
                note=note,
            )
            for name, options, note in (
                ("w-reinforce", {}, ""),
                ("psr", {"positive": 1.0, "negative": 0.0}, _DENOMINATOR.format("correct responses alone")),
                ("nsr", {"positive": 0.0, "negative": -1.0}, _DENOMINATOR.format("wrong responses alone")),
            )
        ),
        _preset(
            "stare",
            _everywhere(
                Scale(
                    share=0.1,
                    which="highest",
                    by="surprisal",
                    over="batch",
                    at_least=1,
                    rounded="up",
                    where="positive",
                    factor=1.1,
                    entropy_below=0.3,
                )
            ),
            source="arXiv 2606.19236, variant O1",
            note="The mean entropy is the loss call's, not that of the old policy over the generation batch.",
        ),
        _preset(
            "fipo",
            _everywhere(Named("fipo")),
            source="arXiv 2603.19835",
            note="A response that is removed stays in the denominator.",
        ),
        _preset(
            "ar",
            _everywhere(Named("ar")),
            settings=(("epsilon_high", 0.24),),
            source="arXiv 2505.12929",
            note="Without Lopti, two optimizer steps by probability.",
        ),
        _preset(
            "hapo-released",
            _everywhere(Named("hapo-released")),
            settings=(("epsilon_high", 0.2),),
            source="arXiv 2509.16591, as released",
            note="Released code and description disagree on low-entropy tokens; this is the code.",
        ),
        # Gates by the ratio of the response.
        _preset(
            "gspo",
            _everywhere(Named("gspo")),
            settings=(("epsilon", 3e-4), ("epsilon_high", 4e-4), ("loss_type", "grpo")),
            source="arXiv 2507.18071",
            note="TRL's correction for vLLM by token weighs each token; its own gspo takes the mean of a response.",
        ),
        _preset("gmpo", _everywhere(Named("gmpo")), settings=(("loss_type", "grpo"),), source="arXiv 2507.20673"),
        _preset(
            "vespo",
            _everywhere(Named("vespo")),
            source="arXiv 2602.10693",
            note="TRL's correction for vLLM multiplies it; TRL's own vespo has it within the ratio of the response.",
        ),
    )
}


def get_table(name: str, overrides: Mapping[str, Any] | None = None) -> Table:
    """
    The preset called `name`, or a table of your own by `file.py:TABLE` or `module:TABLE`, with the rows in `overrides`
    replaced.
    """
    if not isinstance(name, str):
        raise UsageError(
            f"objective={name!r:.80} must be a name. A table of your own is named by its file, as in mine.py:TABLE, "
            "or its module; to replace rows of a preset, set objective_overrides."
        )
    if name in PRESETS:
        table = PRESETS[name]
    elif ":" in name or "." in name:
        table = import_object(name, "objective")
        if not isinstance(table, Table):
            raise UsageError(f"objective={name!r} is a `{type(table).__name__}`; name a `Table`, as in mine.py:TABLE.")
    else:
        raise UsageError(
            f"Unknown objective {name!r}. {nearest(name, PRESETS)}The presets are {', '.join(PRESETS)}; a table of "
            "your own is named by its file, as in mine.py:TABLE, or its module, as in package.mine:TABLE."
        )
    try:
        return table.replace(overrides or {})
    except UsageError as error:
        raise UsageError(f"objective_overrides: {error}") from error
