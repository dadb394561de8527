from .rules import Clip, Detach, KeepGradient, Rule, parse_rule, rule_spec
from .transform import EFFECTS, GROUPS, PRESETS, Control, Table, control, get_table

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
    "get_table",
    "parse_rule",
    "rule_spec",
]
