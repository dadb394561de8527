"""
Passwords, tokens and keys are in nothing that is written or shown: settings, `training_args.bin`, trackers, cards,
plans, messages, logs. This is the one place that knows them: by name, by form, or by a variable of the environment.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any


#: What stands in the place of a secret.
REDACTED = "<redacted>"
# Of `<word>_token`, those that are a part of a text or count such parts: `eos_token`, `per_token`.
_OF_TEXT = {
    *("eos", "bos", "pad", "unk", "sep", "cls", "mask", "image", "video", "audio", "vision", "speech", "tool", "turn"),
    *("stop", "start", "end", "begin", "special", "added", "think", "thinking", "decoder", "forced", "placeholder"),
    *("prompt", "completion", "generated", "text", "byte", "input", "output", "extra", "newline", "control", "query"),
    *("first", "last", "next", "previous", "current", "new", "per", "each", "every", "one", "by", "of", "to", "the"),
    *(
        "answer",
        "response",
        "reward",
        "step",
        "score",
        "label",
        "language",
        "separator",
        "delimiter",
        "blank",
        "dummy",
    ),
    *("num", "n", "max", "min", "mean", "total", "top", "fim", "prefix", "suffix", "middle", "boi", "eoi", "eot"),
}
_SECRET_NAME = re.compile(
    r"passw(or)?d|passphrase|secret|credential|authori[sz]ation|bearer|cookie"
    r"|(api|access|private|signing|encryption|ssh|account|license|service)_?keys?(_|$)"
    r"|(api|access|auth|refresh|session|bearer|hub|hf|github|gitlab|wandb)_?tokens?(_|$)"
    r"|(^|_)(auth|jwt|sig|amz_signature)$"
)
_SECRET_VARIABLE = re.compile(r"_(KEY|PASS|PAT|PWD|CREDS?)$")  # of the environment
_FORMS = re.compile(
    r"(?<![A-Za-z0-9_])(?:"
    r"hf_(?:(?=[A-Za-z]{0,40}\d)[A-Za-z0-9]{10,}|[A-Za-z0-9]{16,})"
    r"|api_org_[A-Za-z0-9]{16,}"
    r"|(?<!-)sk-(?:(?=[A-Za-z_-]{0,40}\d)[\w-]{8,}|[\w-]{16,})"
    r"|gh[pousr]_\w{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|xox[abeprs]-[\w-]{10,}|npm_[A-Za-z0-9]{30,}"
    r"|pypi-[\w-]{40,}|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{30,}|wandb_v1_\w{16,}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*"
    r")"
)
_PRIVATE_KEY = re.compile(r"(-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----)[^-]+")
# The password may hold anything but white space, an @ too; digits and a slash are a port and a path.
_URL = re.compile(
    r"(?<![A-Za-z0-9])([A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s:/@\"'<>]{0,200}):(?!\d{1,5}[/?#])[^\s\"'<>]{1,500}@"
)
_URL_OF_TOKEN = re.compile(r"(?<![A-Za-z0-9])(https?://)[^\s:/@\"'<>]{8,200}@", re.IGNORECASE)
_NAMED = re.compile(
    r"(?<![\w-])-{0,2}(?=[\w-]{0,80}(?:tok|pass|secret|cred|auth|key|bearer|cookie|jwt|pat|pwd|sig))(?P<name>[\w-]{1,100})"
    r"(?P<between>[\"']?\s{0,2}[=:]\s{0,2}(?:(?:Bearer|Basic|Token)\s{1,2})?)"
    r"(?P<value>'(?:[^'\\\n]|\\.){1,1000}'|\"(?:[^\"\\\n]|\\.){1,1000}\"|(?:(?!&[\w.-]{1,60}=)[^\s\"',;]){1,1000})",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"\b(Bearer|Basic)(\s{1,2})[\w.~+/=-]{12,1000}")
_NO_VALUES = {"none", "null", "true", "false", "str", "int", "bool", "redacted"}


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Whether what goes by this name is a secret: `hub_token`, `X-Api-Key`, `WANDB_API_KEY`, but not `eos_token`."""
    words = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_")
    if _SECRET_NAME.search(words) or (name.isupper() and _SECRET_VARIABLE.search(name)):
        return True
    *before, last = words.split("_")
    return last == "token" and not (before and before[-1] in _OF_TEXT)


def redacted(value: Any, instead: Any = REDACTED, name: str = "") -> Any:
    """
    A copy of dictionaries, lists and text without secrets. Whatever stands under the name of a secret becomes
    `instead`, but for `None` and truth values; other text goes through [`redact_text`]; other objects stay.
    """
    if isinstance(value, dict):
        under = name if is_secret(name) else ""
        return {key: redacted(each, instead, under or str(key)) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        items = [redacted(each, instead, name) for each in value]
        return items if isinstance(value, list) else type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, (str, bytes, int)) and not isinstance(value, bool) and is_secret(name):
        return instead if value != f"<{name.upper()}>" else value  # what transformers' `to_dict` puts there
    return redact_text(value) if isinstance(value, str) else value


def redact_text(text: str) -> str:
    """
    Text without secrets: passwords in addresses, tokens of known forms, what is said to be one (`api_key=...`,
    `"token": "..."`), and what the environment holds as one. Takes time that is linear in the text.
    """
    if len(text) < 4:
        return text
    text = _URL.sub(rf"\1:{REDACTED}@", text)
    text = _URL_OF_TOKEN.sub(rf"\1{REDACTED}@", text)
    text = _PRIVATE_KEY.sub(rf"\1{REDACTED}", text)
    text = _FORMS.sub(REDACTED, text)
    text = _SCHEME.sub(rf"\1\2{REDACTED}", text)
    text = _NAMED.sub(_without_value, text)
    for name, value in os.environ.items():
        if len(value) >= 8 and is_secret(name):
            text = text.replace(value, REDACTED)
    return text


def _without_value(match: re.Match) -> str:
    name, value = match["name"], match["value"]
    quote = value[0] if value[0] in "\"'" else ""
    if not is_secret(name) or value.strip("\"'<>)]}:.").lower() in _NO_VALUES:
        return match[0]
    return f"{match[0].removesuffix(value)}{quote}{REDACTED}{quote}"


def redact_command(words: Sequence[str]) -> list[str]:
    """A command line without secrets; `--hub_token VALUE` is in two words."""
    flags = ["", *words]
    return [
        REDACTED if flag.startswith("-") and "=" not in flag and is_secret(flag.lstrip("-")) else redact_text(word)
        for flag, word in zip(flags, words, strict=False)
    ]


class Discreet:
    """
    A dataclass of options (`repr=False`) that keeps its secrets to itself: they are in no text and no dictionary of
    it. Copies, and those that other processes get, have them.
    """

    _is_published = False  #: set while it is pickled for others to read

    def __getstate__(self) -> dict[str, Any]:
        return {**redacted(self.__dict__, None), "_is_published": False} if self._is_published else {**self.__dict__}

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it, for trackers and `settings.json`: without secrets."""
        return redacted(super().to_dict())  # type: ignore[misc]

    def __repr__(self) -> str:
        values = redacted({field.name: getattr(self, field.name) for field in fields(self)})  # type: ignore[arg-type]
        return f"{type(self).__name__}(\n" + "".join(f"{name}={values[name]},\n" for name in sorted(values)) + ")"

    __str__ = __repr__
