"""Selections and options of rules: how they read, and what is refused."""

import math
import re

import pytest

from htpo_trl.objective import Clip, Detach, Named, Penalty, Scale, parse_rule
from htpo_trl.objective.rules import Mix, effects_of


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Detach(1.0), "detached"),
        (Detach(0.5, "random"), "J_PPO; the random 50% of the group detached"),
        (
            Detach(0.5, "highest", by="drift", over="batch", above=0.1, below=2.0),
            "J_PPO; the highest-drift 50% of the group in the batch with drift above 0.1 and below 2 detached",
        ),
        (Detach(1.0, where="unclipped"), "J_PPO; the lowest-entropy 100% of the group that has a gradient detached"),
        (Detach(1.0, where="positive"), "J_PPO; the lowest-entropy 100% of the group where Â > 0 detached"),
        (
            Detach(0.25, by="surprisal", where="negative"),
            "J_PPO; the lowest-surprisal 25% of the group where Â < 0 detached",
        ),
        (Scale(factor=2.0), "Â·2"),
        (Scale(factor=1.00000001), "Â·1.00000001"),
        (Scale(factor=0.5, entropy_below=0.3), "Â·0.5 while the mean entropy is below 0.3"),
        (Scale(0.1, "highest", factor=3.0), "Â·3 for the highest-entropy 10% of the group"),
        (Penalty(beta=0.5), "-0.5·|log r| for all"),
        (
            Penalty(0.1, "highest", "covariance", beta=1.0),
            "-1·|log r| for the highest-covariance 10% of the group",
        ),
        (Clip(0.1, 0.3, "none"), "J_PPO with ε_lo 0.1, ε_hi 0.3, dual clip none"),
        (Clip(delta=5.0), "J_PPO with dual clip 5"),
        (Mix((Named("cispo"), Scale(factor=2.0))), "cispo: w = min(r, 1+ε_hi); Â·2"),
        (
            Named("sapo", {"tau_neg": 2, "tau_pos": 0.5}),
            "sapo (tau_pos 0.5, tau_neg 2): w = 4·s·(1-s)·r, s = sigmoid(τ·(r-1))",
        ),
    ],
)
def test_rules_read_like_what_they_do(rule, text):
    assert str(rule) == text


def test_a_representation_holds_what_was_given():
    assert repr(Detach(0.1)) == "Detach(share=0.1, which='lowest')"
    assert repr(Detach(1.0, "random", by="drift")) == "Detach(share=1.0, which='random', by='drift')"
    assert repr(Scale(factor=2.0)) == "Scale(share=1.0, which='lowest', factor=2.0)"
    assert repr(Clip()) == "Clip()"


@pytest.mark.parametrize("kind", [Detach, lambda **k: Scale(factor=1.0, **k), lambda **k: Penalty(beta=1.0, **k)])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, "share=0.0 must lie in (0, 1]; use the rule `clip` to change nothing."),
        ({"share": 1.01}, "share=1.01 must lie in (0, 1]; use the rule `clip` to change nothing."),
        ({"share": True}, "share=True must be a number."),
        ({"share": "half"}, "share='half' must be a number."),
        ({"share": math.nan}, "share=nan must be a number."),
        ({"which": "middle"}, "which='middle' is not one of 'lowest', 'highest', 'random'."),
        ({"by": "length"}, "by='length' is not one of 'entropy', 'surprisal', 'covariance', 'drift'."),
        ({"over": "group"}, "over='group' is not one of 'response', 'batch'."),
        ({"rounded": "half"}, "rounded='half' is not one of 'down', 'up'."),
        ({"where": "never"}, "where='never' is not one of 'all', 'positive', 'negative', 'unclipped'."),
        ({"at_least": -1}, "at_least=-1 must be a number of tokens."),
        ({"at_least": 1.0}, "at_least=1.0 must be a number of tokens."),
        ({"above": "a"}, "above='a' must be a number."),
        ({"below": math.nan}, "below=nan must be a number."),
        ({"above": 0.5, "below": 0.5}, "above=0.5 and below=0.5 leave no token; swap them."),
    ],
)
def test_bad_selections_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=rf"^\w+: {re.escape(message)}$") as raised:
        kind(**{"share": 0.5, **options})
    assert str(raised.value).split(":")[0] in ("Detach", "Scale", "Penalty")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scale(factor=-1), "Scale: factor=-1 must be a number of at least 0."),
        (lambda: Scale(factor=math.inf), "Scale: factor=inf must be finite."),
        (lambda: Penalty(beta=math.inf), "Penalty: beta=inf must be finite."),
        (lambda: Scale(factor="x"), "Scale: factor='x' must be a number of at least 0."),
        (lambda: Scale(factor=1, entropy_below="x"), "Scale: entropy_below='x' must be a number."),
        (lambda: Penalty(beta=-0.1), "Penalty: beta=-0.1 must be a number of at least 0."),
        (lambda: Clip(epsilon_low=-0.1), "Clip: epsilon_low=-0.1 must be a number of at least 0."),
        (lambda: Clip(epsilon_high="x"), "Clip: epsilon_high='x' must be a number of at least 0."),
        (lambda: Clip(delta=-1.0), "Clip: delta=-1.0 must be a number of at least 0."),
        (lambda: Named("sapo", {"tau": 1}), "Rule 'sapo' has no option tau; it takes tau_pos, tau_neg."),
        (lambda: Named("cispo", {"cap": 1}), "Rule 'cispo' has no option cap; it takes none."),
        (lambda: Named("fipo", {"half_life": -1}), "fipo: half_life=-1 must be a number of at least 0."),
        (lambda: Named("verdict", {"negative": "x"}), "verdict: negative='x' must be a number."),
        (
            lambda: parse_rule(["cispo", "sapo"]),
            "A row has one gate, not 2: cispo: w = min(r, 1+ε_hi); sapo: w = 4·s·(1-s)·r, s = sigmoid(τ·(r-1)). "
            "Leave all but one out.",
        ),
        (
            lambda: Mix((Named("cispo"),)),
            "A row that is a list holds at least two rules; write a single one without the list.",
        ),
    ],
)
def test_bad_rules_are_refused(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


def test_effects_of_rules():
    assert effects_of(parse_rule("clip")) == set()
    assert effects_of(parse_rule({"rule": "clip", "delta": "none"})) == {"gate_keeps", "gate_drops", "gate_weighs"}
    row = parse_rule(["ar", {"rule": "detach", "share": 0.1, "which": "random"}, {"rule": "penalty", "beta": 1}])
    assert effects_of(row) == {"scaled", "detach_random", "penalised"}
    assert effects_of(parse_rule({"rule": "keep_gradient", "above": 1.0, "inside": 2.0})) == {
        "keep_above",
        "keep_inside",
    }
    assert effects_of(parse_rule({"rule": "scale", "factor": 2.0})) == {"scaled"}
