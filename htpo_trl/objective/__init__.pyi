from .rules import Clip, Detach, KeepGradient, Rule, parse_rule, rule_spec
from .table import EFFECTS, GROUPS, PRESETS, Table, get_table
from .transform import Control, control, effective_weight, token_sums

__all__ = [
    "EFFECTS",
    "GROUPS",
    "PRESETS",
    "Clip",
    "Control",
    "Detach",
    "KeepGradient",
    "Rule",
    "Table",
    "control",
    "effective_weight",
    "get_table",
    "parse_rule",
    "rule_spec",
    "token_sums",
]
