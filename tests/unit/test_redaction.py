"""Secrets by name, by form and of the environment, in whatever is nested; and nothing else."""

import copy
import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trl import GRPOConfig, ModelConfig

from htpo_trl import HTPOConfig
from htpo_trl.evaluation import Sampling
from htpo_trl.output.redaction import REDACTED, is_secret, redact_command, redact_text, redacted
from htpo_trl.scripts.arguments import HTPOScriptArguments
from htpo_trl.utils import UsageError


SECRET_NAMES = (
    *("token", "hub_token", "HF_TOKEN", "use_auth_token", "push_to_hub_token", "accessToken", "bot_token"),
    *("api_tokens", "password", "db_passwd", "PGPASSWORD", "passphrase", "client_secret", "secrets", "credentials"),
    *("api_key", "apiKey", "X-Api-Key", "WANDB_API_KEY", "OPENAI_KEY", "AWS_SECRET_ACCESS_KEY", "private_keys"),
    *("Authorization", "Proxy-Authorization", "auth", "Cookie", "GITHUB_PAT", "DB_PASS"),
)
OTHER_NAMES = (
    *("eos_token", "pad_token", "eos_token_id", "max_completion_tokens", "record_tokens_steps", "tokenizer", "tokens"),
    *("num_input_tokens_seen", "kl_per_token", "skip_special_tokens", "image_token", "hf_tokenizer", "token_budget"),
    *("author", "key", "metric_for_best_model", "PWD", "SSH_AUTH_SOCK", "monkey", "group_by_length", "image_key"),
    *("pass@8", "passes"),
)
# Nothing that ordinary text, a name or a mark could hold by chance.
SECRETS = st.text(st.sampled_from("abcXYZ0123456789!$%^*+/?#._~-"), min_size=6, max_size=30).map("Qz7".__add__)
TEXTS = st.sampled_from(["runs/a", "Qwen/Qwen3-0.6B", "http://localhost:8000/v1", "token", "</s>", "sk", "a@b.c", ""])
FORMS = st.sampled_from(["http://user:{}@host:8000/v1", "postgres://:{}@db", "see redis://u:{}@h/0 for more"])


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_secret_names(name):
    assert is_secret(name)
    assert redacted({name: "x", "a": {name: ["x", {"b": 3}]}}) == {
        name: REDACTED,
        "a": {name: [REDACTED, {"b": REDACTED}]},
    }
    assert redacted({name: None, "a": [{name: True}]}) == {name: None, "a": [{name: True}]}


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_other_names(name):
    assert not is_secret(name)
    assert redacted({name: "x"}) == {name: "x"}


def test_the_names_of_options():
    classes = (HTPOConfig, GRPOConfig, ModelConfig, HTPOScriptArguments, Sampling)
    assert {field.name for cls in classes for field in fields(cls) if is_secret(field.name)} == {"hub_token"}


def test_transformers_own_mark_stays():
    assert redacted({"hub_token": "<HUB_TOKEN>", "push_to_hub_token": "<x>"}) == {
        "hub_token": "<HUB_TOKEN>",
        "push_to_hub_token": REDACTED,
    }


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Retrying http://user:p@ss/word@host:8000 ...", "p@ss/word"),
        ("https://ghp_0123456789abcdefghij@github.com/x", "ghp_0123456789abcdefghij"),
        ("https://x.y/file?version=1&access_token=abc123&b=2", "abc123"),
        ("https://a.s3.b/x?X-Amz-Signature=abc123", "abc123"),
        ("401 for hf_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789.", "hf_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"),
        ("sk-proj-abc123def456", "sk-proj-abc123def456"),
        ("model_init_kwargs={'token': 'a, b', 'dtype': 'x'}", "a, b"),
        ('{"api_key": "a\\"b"}', 'a\\"b'),
        ("{'Authorization': 'Bearer abc.def'}", "abc.def"),
        ("Authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("GRPOConfig(hub_token='abc')", "abc"),
        ("HF_TOKEN=abc htpo train", "abc"),
        ("self.token = 'abc'", "abc"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIB\nAbCd\n-----END RSA PRIVATE KEY-----", "MIIB"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl", "eyJzdWIiOiIxMjM0In0"),
    ],
)
def test_secrets_in_text(text, secret):
    assert secret in text
    assert secret not in redact_text(text)
    assert REDACTED in redact_text(text)
    assert redact_text(redact_text(text)) == redact_text(text)
    assert secret not in str(UsageError(text))


@pytest.mark.parametrize(
    "text",
    [
        "--hub_token  str | None = None",
        "def load(token: str | None = None, password=None):",
        "http://localhost:8000/v1/models/a@main",
        "ssh://git@host/x and git@github.com:a/b, a@b.c",
        "eos_token='</s>', max_tokens=100, tokens: 5",
        "hf_transfer, hf_argparser.py, sk-learn, task-sk-x",
        "model_revision=0123456789abcdef0123456789abcdef01234567",
        "The correct answer: 5",
    ],
)
def test_other_text_stays(text):
    assert redact_text(text) == text


def test_what_the_environment_holds(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123")
    assert redact_text("failed: 0123456789abcdef0123!") == f"failed: {REDACTED}!"


def test_command_lines():
    words = ["htpo", "train", "--hub_token", "abc", "--hub_token=abc", "--url", "http://u:abc@h", "--seed", "3"]
    assert "abc" not in " ".join(redact_command(words))
    assert redact_command(words)[-2:] == ["--seed", "3"]
    assert len(redact_command(words)) == len(words)


def test_long_text_takes_linear_time():
    """Model output is printed too. Quadratic search in any of these would take minutes."""
    pieces = ("a", "http://", "a:", "hf_", "eyJ", "token=", "://a:", "token:'", "https://a@", "sk-", '"\\', "x:@", " ")
    for piece in pieces:
        redact_text(piece * (200_000 // len(piece)))


@st.composite
def settings(draw):
    """Nested settings, the same without their secrets, and the secrets."""
    secrets: list[str] = []

    def secret():
        secrets.append(draw(SECRETS))
        return secrets[-1]

    def make(depth):
        kind = draw(st.sampled_from(["text", "number", "named", "form"] + ["dict", "list"] * (depth < 3)))
        if kind == "text":
            return (text := draw(TEXTS)), text
        if kind == "number":
            return (number := draw(st.sampled_from([None, True, 0, 3, 0.5]))), number
        if kind == "named":
            return {(name := draw(st.sampled_from(SECRET_NAMES))): secret()}, {name: REDACTED}
        if kind == "form":
            form = draw(FORMS)
            return form.format(secret()), form.format(REDACTED)
        parts = [make(depth + 1) for _ in range(draw(st.integers(0, 3)))]
        if kind == "list":
            return [a for a, _ in parts], [b for _, b in parts]
        names = draw(st.lists(st.sampled_from(OTHER_NAMES), min_size=len(parts), max_size=len(parts), unique=True))
        return tuple(dict(zip(names, side, strict=True)) for side in (list(zip(*parts, strict=True)) or [(), ()]))

    return (*make(0), secrets)


@given(settings())
def test_no_secret_is_left_and_all_else_is(case):
    value, expected, secrets = case
    before = copy.deepcopy(value)
    assert redacted(value) == expected
    assert value == before
    assert not any(secret in json.dumps(redacted(value)) for secret in secrets)
    assert not any(secret in redact_text(repr(value)) for secret in secrets)


def test_other_objects_and_tuples():
    thing = object()
    assert redacted({"a": thing, "b": ("http://u:p@h", 1)}) == {"a": thing, "b": (f"http://u:{REDACTED}@h", 1)}
    assert redacted({"token": "x", "a": "http://u:p@h"}, None) == {"token": None, "a": f"http://u:{REDACTED}@h"}
