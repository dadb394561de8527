from .presets import PRESETS, get_table
from .rules import Clip, KeepGradient, Mix, Named, Rule, parse_rule, rule_spec
from .selections import Detach, Penalty, Scale
from .table import EFFECTS, GROUPS, Table
from .transform import Control, control, effective_weight, token_sums

__all__ = [
    "EFFECTS",
    "GROUPS",
    "PRESETS",
    "Clip",
    "Control",
    "Detach",
    "KeepGradient",
    "Mix",
    "Named",
    "Penalty",
    "Rule",
    "Scale",
    "Table",
    "control",
    "effective_weight",
    "get_table",
    "parse_rule",
    "rule_spec",
    "token_sums",
]
