"""
Published objectives, written a second time: Python loops over tokens, from the formulas of their authors' code.

Nothing is shared with `htpo_trl`, and nothing goes through effective advantages: the result is C = dJ/dlogπ of each
token. A table is eight rows in their written form, as recipes hold them: a list of dictionaries each.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from htpo_trl.check.reference import reference as paper


@dataclass
class Token:
    """One token that is trained on, and what the loops find out about it."""

    row: int
    column: int
    logp: float
    logq: float
    h: float
    a: float
    correct: bool
    judged: bool
    group: int | None = None

    def __post_init__(self):
        self.log_ratio = self.logp - self.logq
        self.r = math.exp(self.log_ratio)
        self.p, self.q = math.exp(min(self.logp, 0)), math.exp(min(self.logq, 0))


@dataclass
class Settings:
    low: float = 0.2
    high: float = 0.28
    delta: float = 10.0


def ppo(r, a, low, high, delta):
    """The weight of PPO-clip with dual clip."""
    if a > 0:
        return r if r <= 1 + high else 0.0
    return r if 1 - low <= r <= delta else 0.0


def sapo(token, tokens, s, tau_pos=1.0, tau_neg=1.05):
    x = (tau_pos if token.a > 0 else tau_neg) * (token.r - 1)
    return 4 * token.r / (2 + math.exp(min(x, 700)) + math.exp(-x))


def dppo_tv(token, tokens, s, threshold_low=0.15, threshold_high=0.15, cap=20.0):
    moved = token.p - token.q
    keep = moved <= threshold_high if token.a > 0 else moved >= -threshold_low
    return min(token.r, cap) if keep else 0.0


def dppo_kl(token, tokens, s, threshold_low=0.05, threshold_high=0.05, cap=20.0):
    p, q = token.p, token.q
    kl = q * (token.logq - token.logp) + (1 - q) * math.log((1 - q + 1e-8) / (1 - p + 1e-8))
    too_far = (kl > threshold_high and p > q) if token.a > 0 else (kl > threshold_low and p < q)
    return 0.0 if too_far else min(token.r, cap)


def hapo(token, tokens, s, pivot=0.8):
    logs = [math.log(max(t.h, 1e-8)) for t in tokens]
    middle = sorted(logs)[round((len(logs) - 1) * pivot)]
    deviations = [x - middle for x in logs]
    spread = math.sqrt(sum(x * x for x in deviations) / len(logs))
    h = 0.0
    if spread > 0:
        scores = [x / spread for x in deviations]
        mine = scores[next(i for i, t in enumerate(tokens) if t is token)]
        h = mine / max(scores) if mine > 0 else mine / min(scores) if mine < 0 else 0.0
    low = s.low * (1 - h) if h <= 0 else s.low
    high = s.high * (1 + h) if h > 0 else s.high
    inside = 1 - low / 2 < token.r < 1 + high / 2
    return ppo(token.r, token.a, low, high, s.delta) * ((1 + h) if (h > 0) != inside else 1)


def response(token, tokens):
    return [t for t in tokens if t.row == token.row]


def gspo(token, tokens, s):
    mine = response(token, tokens)
    return ppo(math.exp(sum(t.log_ratio for t in mine) / len(mine)), token.a, s.low, s.high, math.inf)


def gmpo(token, tokens, s, clip=0.4):
    def cut(t):
        return min(t.log_ratio, clip) if t.a > 0 else max(t.log_ratio, -clip)

    mine = response(token, tokens)
    mean = sum(map(cut, mine)) / len(mine)
    return math.exp(mean) if cut(token) == token.log_ratio else 0.0


def vespo(token, tokens, s, k_pos=2.0, lambda_pos=3.0, k_neg=3.0, lambda_neg=2.0):
    total = sum(min(max(t.log_ratio, -20), 20) for t in response(token, tokens))
    total = min(max(total, math.log(1e-8)), 20)
    k, strength = (k_pos, lambda_pos) if token.a >= 0 else (k_neg, lambda_neg)
    return math.exp(k * total + strength * (1 - math.exp(total)))


# Gates: the weight of a token.
GATES = {
    "unclipped": lambda token, tokens, s: token.r,
    "tis": lambda token, tokens, s, cap=2.0: min(token.r, cap),
    "cispo": lambda token, tokens, s: min(token.r, 1 + s.high),
    "wapo": lambda token, tokens, s, clip=9.0: token.r if token.a > 0 and token.r <= 1 + clip else 0.0,
    "sapo": sapo,
    "dppo-tv": dppo_tv,
    "dppo-kl": dppo_kl,
    "hapo-released": hapo,
    "gspo": gspo,
    "gmpo": gmpo,
    "vespo": vespo,
}


def verdict(token, tokens, s, positive=0.1, negative=-1.0):
    if not token.judged:
        return token.a
    return positive if token.correct else negative


def ar(token, tokens, s, alpha=0.2):
    return token.a * (alpha * token.q + 1 - alpha)


def fipo(token, tokens, s, half_life=32.0, low=1.0, high=1.2, safety=10.0):
    mine, future = response(token, tokens), 0.0
    if token.a < 0 and sum(t.r > safety for t in mine) > 1:
        return 0.0
    for later in mine:
        if later.column >= token.column and later.r <= safety:
            future += 0.5 ** ((later.column - token.column) / half_life) * later.log_ratio
    factor = min(max(math.exp(min(future, 700)), low), high)
    if token.a < 0 and token.r > safety:
        factor = min(max(factor, 0.8), 1.0)
    return factor * token.a


# Scales: the advantage in the place of the token's.
SCALES = {"verdict": verdict, "ar": ar, "fipo": fipo}


def kept(rule, token, s):
    """KeepGradient: the weight, or None where J_PPO stays."""
    region = "below" if token.r < 1 - s.low else "above" if token.r > 1 + s.high else "inside"
    weight, when = rule.get(region), rule.get("when", "agrees")
    applies = {
        "agrees": token.judged and ((token.a > 0) if token.correct else (token.a < 0)),
        "clipped": (token.a > 0 and region == "above") or (token.a < 0 and region == "below"),
        "positive": token.a > 0,
        "always": token.a != 0,
    }[when]
    if weight is None or not applies:
        return None
    edge = {"below": 1 - s.low, "above": 1 + s.high}
    number = 1 / token.r if weight == "inverse_ratio" else edge[region] if weight == "bound" else weight
    return rule.get("sign", 1) * min(number, rule.get("cap", math.inf))


def weight_of(gate, token, tokens, s):
    options = {name: value for name, value in gate.items() if name != "rule"}
    weight = kept(gate, token, s) if gate["rule"] == "keep_gradient" else None
    if gate["rule"] in GATES:
        weight = GATES[gate["rule"]](token, tokens, s, **options)
    elif weight is None:
        own = options if gate["rule"] == "clip" else {}
        dual = own.get("delta", s.delta)
        low, high = own.get("epsilon_low", s.low), own.get("epsilon_high", s.high)
        weight = ppo(token.r, token.a, low, high, math.inf if dual == "none" else dual)
    return weight


def chosen(rule, group, tokens, s, gate, draw=None):
    """
    The tokens of `group`, whose row has this gate, that a selection chooses; `tokens` are those of the loss call. A
    random one fills `draw`: by row, or None over the batch, the tokens that could be drawn, and how many of them are.
    """
    n_all = max(len(tokens), 1)
    mean_a, mean_logp = sum(t.a for t in tokens) / n_all, sum(t.logp for t in tokens) / n_all
    value = {
        "entropy": lambda t: t.h,
        "surprisal": lambda t: -t.logp,
        "covariance": lambda t: (t.a - mean_a) * (t.logp - mean_logp),
        "drift": lambda t: abs(t.log_ratio),
    }[rule.get("by", "entropy")]
    where, found = rule.get("where", "all"), []
    rows = [None] if rule.get("over", "response") == "batch" else sorted({t.row for t in group})
    for row in rows:
        mine = [t for t in group if row is None or t.row == row]
        mine = [
            t for t in mine if where not in ("positive", "negative") or (t.a > 0 if where == "positive" else t.a < 0)
        ]
        exact = Fraction(rule.get("share", 1)).limit_denominator(1000) * len(mine)
        count = max(math.ceil(exact) if rule.get("rounded") == "up" else math.floor(exact), rule.get("at_least", 0))
        candidates = [
            t
            for t in mine
            if (rule.get("above") is None or value(t) > rule["above"])
            and (rule.get("below") is None or value(t) < rule["below"])
            and not (where == "unclipped" and t.a != 0 and weight_of(gate, t, tokens, s) == 0)
        ]
        if rule.get("which", "lowest") == "random":
            draw[row] = (candidates, min(count, len(candidates)))
        else:
            sign = -1 if rule.get("which", "lowest") == "highest" else 1
            found += sorted(candidates, key=lambda t: (sign * value(t), t.row, t.column))[:count]
    return found


def reference(case, table, *, low=0.2, high=0.28, delta=10.0, top=(1, 5), quantile=False):
    """
    C = dJ/dlogπ of every cell as nested lists, 0 where masked. `case` holds nested lists; `table` is eight rows, each
    a list of rules. No rule may draw at random.
    """
    s, tokens = Settings(low, high, delta), []
    groups = paper({**case, "is_judged": [True] * len(case["mask"])}, "dapo", top)[2]
    by_entropy_alone = all(row == table[i % 2] for i, row in enumerate(table)) and not any(
        len(row) == 1 and row[0]["rule"] == "keep_gradient" and row[0].get("when", "agrees") == "agrees"
        for row in table
    )
    for i, row in enumerate(case["mask"]):
        for j, trained in enumerate(row):
            if trained:
                a = case["advantages"][i]
                judged = case.get("is_judged", [True] * len(case["mask"]))[i]
                values = (case[name][i][j] for name in ("per_token_logps", "old_per_token_logps", "entropies"))
                token = Token(i, j, *values, a[j] if isinstance(a, list) else a, case["is_correct"][i], judged)
                if judged or by_entropy_alone:
                    hard, correct, is_high = groups[i][j]
                    if quantile:
                        is_high = token.h > linear_quantile(
                            [h for h, m in zip(case["entropies"][i], row, strict=True) if m], top
                        )
                    token.group = 4 * (not hard) + 2 * (not correct) + is_high
                tokens.append(token)

    result = [[0.0] * len(row) for row in case["mask"]]
    uniform = all(row == table[0] for row in table) and not is_htpos_own(table[0])
    given = [t.a for t in tokens]
    for code in [None] if uniform else range(8):
        for token, a in zip(tokens, given, strict=True):
            token.a = a
        group = tokens if uniform else [t for t in tokens if t.group == code]
        for token, c in row_objective(table[code or 0], group, tokens, s):
            result[token.row][token.column] = c
    for token, a in zip(tokens, given, strict=True):
        if token.group is None and not uniform:
            result[token.row][token.column] = a * ppo(token.r, a, low, high, delta)
    return result


def is_htpos_own(row):
    options = set(row[0]) - {"rule", "share", "which"}
    return len(row) == 1 and (
        row[0]["rule"] == "keep_gradient" or (row[0]["rule"] in ("clip", "detach") and not options)
    )


def linear_quantile(values, top):
    """Of 1 - top, interpolated between the order statistics, as torch.nanquantile does."""
    values, place = sorted(values), (1 - Fraction(*top)) * (len(values) - 1)
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + float(place - below) * (values[above] - values[below])


def row_objective(rules, group, tokens, s):
    """C of the tokens of a group. A row's scales change the advantages of these tokens, which later rules see."""
    entropy = sum(t.h for t in tokens) / max(len(tokens), 1)
    gate = next((rule for rule in rules if rule["rule"] in ("clip", "keep_gradient", *GATES)), {"rule": "clip"})
    for rule in rules:
        options = {name: value for name, value in rule.items() if name != "rule"}
        if rule["rule"] == "scale":
            if rule.get("entropy_below") is None or entropy < rule["entropy_below"]:
                for token in chosen(rule, group, tokens, s, gate):
                    token.a *= rule["factor"]
        elif rule["rule"] in SCALES:
            new = [SCALES[rule["rule"]](token, tokens, s, **options) for token in group]
            for token, a in zip(group, new, strict=True):
                token.a = a
    found = [[token, weight_of(gate, token, tokens, s) * token.a] for token in group]
    for rule in rules:
        if rule["rule"] in ("detach", "penalty"):
            taken = {id(t) for t in chosen(rule, group, tokens, s, gate)} if group else set()
            for entry in found:
                if id(entry[0]) in taken:
                    drift = entry[0].log_ratio
                    pull = rule.get("beta", 0) * (drift > 0) - rule.get("beta", 0) * (drift < 0)
                    entry[1] = 0.0 if rule["rule"] == "detach" else entry[1] - pull
    return found
