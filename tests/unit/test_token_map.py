"""The token map's numbers, texts and files; what a browser makes of the page is in tests/processes."""

import base64
import hashlib
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from rich.console import Console

from htpo_trl import cli, tokens
from htpo_trl.check.reference import reference
from htpo_trl.objective import EFFECTS, GROUPS, PRESETS, control, effective_weight
from htpo_trl.palette import group_colour, ink
from htpo_trl.tokens import RecordSettings, print_token_map, read_record, write_token_map
from htpo_trl.tokens.record import recorded_steps
from htpo_trl.tokens.view import _MARKS, DARK, LIGHT, visible

from ..token_records import completion_row, write, write_all
from .test_objective import cases, ppo_clip, tensors


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "some <run>"
    write_all(path)
    return path


@given(
    st.lists(st.tuples(*[st.floats(-3, 0)] * 2, st.floats(-2, 2)), min_size=1, max_size=8),
    st.floats(0, 0.9),
    st.floats(0, 0.9),
    st.sampled_from([None, 1.1, 2.0, 10.0]),
)
def test_effective_weight_is_the_derivative(values, low, high, delta):
    """Of TRL's PPO-clip by autograd, whatever is larger: the dual clip or the clip range."""
    logps, old, advantages = torch.tensor(values, dtype=torch.float64).T
    logps.requires_grad_()
    mask = torch.ones_like(logps, dtype=torch.bool)
    loss = ppo_clip(logps, old, advantages, mask, low, high, math.inf if delta is None else delta)
    (gradient,) = torch.autograd.grad(-loss * len(values), logps)
    weight = effective_weight(logps.detach(), old, advantages, low, high, delta)
    torch.testing.assert_close(weight, gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("preset", ["htpo", "dapo", "high-entropy-only", "gppo", "aspo"])
@given(case=cases)
def test_effective_weight_of_each_objective(preset, case):
    """Â where the gradient is whole, 0 where it is clipped or detached, w·Â where it is kept: from the definitions."""
    inputs = tensors(case)
    result = control(**inputs, table=preset)
    weight = effective_weight(
        inputs["per_token_logps"], result.old_per_token_logps, result.advantages, 0.2, 0.28, 10.0
    )
    _, slopes, _ = reference(case, preset)
    mask = inputs["mask"]
    expected = -torch.tensor(slopes, dtype=torch.float64) * mask.sum()
    torch.testing.assert_close(weight[mask], expected[mask], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("table", PRESETS.values(), ids=str)
def test_settings_round_trip(table):
    settings = RecordSettings(1, 2, table, 0.2, 0.28, None, 0.2, ["a"], {"trl": "1"})
    assert RecordSettings.from_json(settings.to_json()) == settings


def contrast(first, second):
    """Contrast ratio of two colours, 1 to 21, as WCAG 2.2 defines it; text needs 4.5."""
    c = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in (first, second)])
    luminance = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
    return (luminance.max() + 0.05) / (luminance.min() + 0.05)


@pytest.mark.parametrize("background", ["#757575", "#767676", "#0000ff", "#ff0000", "#00ff00", "#949494"])
def test_ink_is_what_contrasts_more(background):
    assert ink(background) == max("#000000", "#ffffff", key=lambda colour: contrast(colour, background))


@pytest.mark.parametrize("paper", [LIGHT, DARK])
def test_text_is_legible_on_every_colour(paper):
    colours = [group_colour(group, paper) for group in GROUPS]
    assert all(contrast(colour, ink(colour)) >= 4.5 for colour in colours)
    assert len(set(colours)) == 8
    for low, high in zip(colours[::2], colours[1::2], strict=True):  # told apart without hue
        assert contrast(low, high) > 1.5
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)  # known values of WCAG


def test_visible():
    assert visible("a b") == "a b"
    assert visible(" 漢é🙂<b>") == " 漢é🙂<b>"
    assert visible("a\n\t") == "a↵\n⇥\t"
    assert visible("") == "◌"
    assert visible("\x00\x1b\r\x7f\x9b\u202e\u2028\u200b\u00a0") == (
        "␀␛␍⟨U+007F⟩⟨U+009B⟩⟨U+202E⟩⟨U+2028⟩⟨U+200B⟩⟨U+00A0⟩"
    )


def printed(run, step=None, versus=None, **options):
    console = Console(file=io.StringIO(), width=300, highlight=False, **options)
    print_token_map(run, step, versus, console=console)
    return console.file.getvalue()


def test_terminal(run):
    coloured = printed(run, force_terminal=True, color_system="truecolor")
    colour = "".join(f"{int(group_colour('hard_correct_high')[i : i + 2], 16)};" for i in (1, 3, 5))
    assert f"48;2;{colour[:-1]}m" in coloured
    plain = printed(run, no_color=True)
    assert "\x1b" not in plain
    assert "hard · correct · Â +1.500 · 220 tokens · math_reward 1" in plain
    assert "not judged · Â +1.500 · 10 tokens · math_reward none" in plain
    record = read_record(run)
    n_high = sum(int(np.isin(completion.values["groups"], (1, 3, 5, 7)).sum()) for completion in record.completions)
    assert plain.count("‹") == n_high
    assert plain.count("~") == 2 * (15 + 10)
    n_kept = sum(int((completion.values["effects"] == 5).sum()) for completion in record.completions)
    assert n_kept > 0
    assert plain.count("↑") == n_kept + 1  # and the key
    for name in PRESETS["gppo"].rows:
        assert str(name) in printed(run, versus="gppo")


def test_every_effect_has_a_mark_of_its_own():
    """Without colour: in the terminal a character, on the page a frame with a line or bars of its own."""
    assert list(_MARKS) == list(EFFECTS)
    assert len(set(_MARKS.values())) == len(EFFECTS)
    style = Path(tokens.__file__).with_name("page.css.jinja").read_text()
    looks: dict[str, dict[str, str]] = {f"e{code}": {} for code in range(1, 1 + len(EFFECTS))}
    for names, body in re.findall(r"^(\.e\d+(?:, \.e\d+)*) \{ (.*) \}$", style, re.MULTILINE):
        for name in names.split(", "):
            looks[name.removeprefix(".")] |= dict(line.split(": ") for line in body.rstrip(";").split("; "))
    assert all("var(--ink)" in look["box-shadow"] for look in looks.values())
    assert len({json.dumps(look, sort_keys=True) for look in looks.values()}) == len(EFFECTS)


def test_two_published_objectives_side_by_side(tmp_path):
    """Of a response whose ratios drift apart, CISPO weighs tokens by themselves, GSPO all of them by their mean."""
    write(tmp_path, [completion_row("abcdefgh" * 4, seed=6, table="cispo")], table="cispo")
    record = read_record(tmp_path)
    (completion,), (cispo,) = record.completions, map(record.outcome, record.completions)
    ratio, gspo = completion.ratio, record.outcome(completion, PRESETS["gspo"])
    assert cispo.weights == pytest.approx(1.5 * np.minimum(ratio, 1.28), rel=1e-5)
    mean = np.exp(np.log(ratio).mean())
    assert gspo.weights == pytest.approx(np.full(32, 1.5 * mean * (mean <= 1.28)), rel=1e-5)
    text = printed(tmp_path, versus="gspo", no_color=True)
    legend = "⊕ gate keeps, ⊖ gate drops, ⊙ gate weighs"
    assert f"Changed by a rule: {legend}\n" in text
    kept = int((ratio > 1.28).sum())
    assert 0 < kept < 32
    assert text.split("gspo, tokens changed by a rule")[0].count("⊕") == 1 + kept
    page = write_token_map(tmp_path, versus="gspo").read_text()
    assert re.findall(r'class="t (e\d+)">([^<]*)<', page) == [
        ("e7", "gate keeps"), ("e8", "gate drops"), ("e9", "gate weighs")
    ]  # fmt: skip
    assert "cispo versus gspo" in page


def test_what_rules_changed_most_comes_first(tmp_path):
    write(tmp_path, [completion_row("a" * n, seed=n) for n in (3, 40, 1, 90)])
    text = printed(tmp_path, no_color=True)
    changed = [int(n) for n in re.findall(r"^htpo, tokens changed by a rule: (\d+)$", text, re.MULTILINE)]
    assert re.findall(r"(\d+) tokens ·", text)[:2] == ["90", "40"]
    assert changed[0] > changed[1] > 0
    assert changed == sorted(changed, reverse=True)


def test_hostile_text_does_not_reach_the_terminal(run):
    text = printed(run, step=3, no_color=True)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "␛[2J␛]0;hacked␇" in text
    assert "[bold red]x[/]" in text  # no markup of rich's


def test_command(run, tmp_path, capsys, monkeypatch):
    cli.main(["tokens", "--run", str(run)])
    assert capsys.readouterr().out.strip() == str(run / "tokens" / "step-000007.html")
    assert (run / "tokens" / "step-000007.html").exists()
    page = tmp_path / "pages" / "map.html"
    cli.main(["tokens", "--run", str(run), "--step", "3", "--versus", "dapo", "--output", str(page)])
    assert "Step 3, htpo versus dapo" in page.read_text()
    plain = (run / "tokens" / "step-000007.html").read_bytes()
    (tmp_path / "own.py").write_text(
        "from htpo_trl.objective import PRESETS\nMINE = PRESETS['gppo'].replace({'easy_wrong_low': 'clip'})"
    )
    for versus, name in (("dapo", "dapo"), (f"{tmp_path}/own.py:MINE", "gppo-")):  # pages of their own
        cli.main(["tokens", "--run", str(run), "--versus", versus])
        assert (run / "tokens" / f"step-000007-versus-{name}.html").exists()
    assert (run / "tokens" / "step-000007.html").read_bytes() == plain
    with pytest.raises(SystemExit):
        cli.main(["tokens", "--run", str(run), "--versus", "dapoo"])
    assert "htpo tokens: Unknown objective 'dapoo'. Did you mean 'dapo'?" in capsys.readouterr().err
    monkeypatch.setenv("NO_COLOR", "1")
    capsys.readouterr()
    cli.main(["tokens", "--run", str(run), "--terminal"])
    assert "Step 7, htpo: 5 of the step's 10 completions" in capsys.readouterr().out
    for options, message in (
        ([str(run), "--step", "4"], r"step=4 was not recorded in .*; there are 3, 7\."),
        ([str(tmp_path)], r"no recorded tokens\. Train with --record_tokens_steps"),
    ):
        with pytest.raises(SystemExit) as caught:
            cli.main(["tokens", "--run", *options])
        assert caught.value.code == 2
        assert re.search(message, capsys.readouterr().err)


@pytest.fixture
def edit(tmp_path):
    """A run with one record, of which another hand changes the settings and the rows."""

    def edit(settings=None, **columns):
        rows = [completion_row("abc", seed=1), completion_row("de", seed=2)]
        file = write(tmp_path, [{**row, **columns} if i else row for i, row in enumerate(rows)])
        if settings is not None:
            table = parquet.read_table(file)
            content = json.loads(table.schema.metadata[b"htpo"])
            for name, value in settings.items():
                where = content["table"] if name.startswith("table.") else content
                where.pop(name.removeprefix("table."))
                where |= {} if value is ... else {name.removeprefix("table."): value}
            parquet.write_table(table.replace_schema_metadata({"htpo": json.dumps(content)}), file)
        return tmp_path

    return edit


def test_version_of_the_record(edit):
    (file,) = recorded_steps(edit()).values()
    assert json.loads(parquet.read_schema(file).metadata[b"htpo"])["version"] == 1
    assert read_record(edit({"version": ...})).settings == read_record(edit()).settings
    for version in (2, 10**9):
        with pytest.raises(
            ValueError, match=rf"step-000007.parquet .*version {version}, .* pip install --upgrade"
        ) as e:
            read_record(edit({"version": version}))
        assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step", "7"),
        ("step", True),
        ("step", ...),
        ("completions_in_step", 1.5),
        ("epsilon_low", "0.2"),
        ("epsilon_high", None),
        ("delta", [10]),
        ("top_entropy_share", "all\nof\nit"),
        ("reward_funcs", "math_reward"),
        ("reward_funcs", [5]),
        ("versions", ["trl"]),
        ("versions", {"trl": 1.16}),
        ("table", ...),
        ("table", "htpo"),
        ("table.name", {}),
        ("table.rows", ["clip"]),
        ("table.rows", [{"rule": "detach", "share": "0.1"}] * 8),
        ("table.rows", 8),
        ("table.selection", "mine"),
        ("version", "one"),
    ],
)
def test_settings_of_a_stranger_are_checked(edit, name, value):
    assert read_record(edit({})).settings.step == 7
    with pytest.raises(ValueError, match=r"step-000007\.parquet cannot be read as a record of tokens: ") as caught:
        read_record(edit({name: value}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "columns",
    [
        {"prompt": None},
        {"is_hard": None},
        {"tokens": None},
        {"tokens": ["d", None]},
        {"tokens": ["d"]},
        {"entropies": [0.5]},
        {"mask": [True, None]},
        {"groups": [0, 8]},
        {"groups": [-2, 0]},
        {"effects": [0, 6]},
        {"effects": [-1, 0]},
        {"rewards": []},
        {"rewards": [1.0, 1.0]},
    ],
    ids=str,
)
def test_rows_of_a_stranger_are_checked(edit, columns):
    with pytest.raises(ValueError, match=r"step-000007\.parquet cannot .*: a row .*it was edited\.$"):
        read_record(edit(**columns))


def test_policy_of_the_page(run, tmp_path):
    """Only this style and this script; no network, no form that is sent, no other base of links."""
    page = write_token_map(run, output=tmp_path / "page.html").read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*)"', page)
    directives = dict(directive.strip().split(" ", 1) for directive in policy.split(";"))
    sources = {}
    for kind in ("style", "script"):
        (source,) = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = hashlib.sha256(source.encode()).digest()
        sources[f"{kind}-src"] = f"'sha256-{base64.b64encode(digest).decode()}'"
    assert directives == {"default-src": "'none'", "form-action": "'none'", "base-uri": "'none'", **sources}
