"""The token map, read from hand-made records; in a real browser, from files."""

import io
import math
import os
import random
import re
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import sync_playwright
from rich.console import Console

from htpo_trl import cli
from htpo_trl.objective import EFFECTS, GROUPS, PRESETS, control, effective_weight
from htpo_trl.palette import contrast, group_colour, ink
from htpo_trl.tokens import record as token_record
from htpo_trl.tokens.page import DARK, LIGHT
from htpo_trl.tokens.token_map import print_token_map, write_token_map
from htpo_trl.tokens.view import visible

from ..reference import reference
from ..unit.test_objective import cases, ppo_clip, tensors


# Were one of them not text, it would call a dialog, set `window.hacked`, ask the network or move the cursor.
HOSTILE = (
    "<script>hacked = 1</script>",
    "</script><script>hacked = 1; alert(1)</script>",
    "<img src=x onerror=hacked=1>",
    "</script ",  # ends a script without the next token's help
    '"><svg onload=hacked=1>',
    "${hacked=1}`'\\",
    "<!--<script>",
    "\u2028hacked = 1\u2029",
    "&lt;b&gt;&amp;",
    "\x1b[2J\x1b]0;hacked\x07",
    "\u202edekcah",
    "[bold red]x[/]",
)


def row(tokens, hard=True, correct=True, judged=True, seed=0, n_masked=0, prompt="1 + 1", table="htpo"):
    """A completion as the recorder writes it, with random numbers."""
    generator = torch.Generator().manual_seed(seed)
    n = len(tokens)
    logps = -2 * torch.rand(1, n, generator=generator)
    given = {
        "per_token_logps": logps,
        "old_per_token_logps": logps - 0.4 * torch.randn(1, n, generator=generator),
        "entropies": torch.rand(1, n, generator=generator),
        "advantages": torch.full((1, n), 1.5 if correct else -0.5),
        "mask": torch.arange(n).unsqueeze(0) < n - n_masked,
    }
    labels = {"is_hard": hard, "is_correct": correct, "is_judged": judged}
    result = control(**given, **{name: torch.tensor([label]) for name, label in labels.items()}, table=table)
    columns = given | {
        "token_ids": torch.arange(n).unsqueeze(0),
        "effective_advantages": result.advantages,
        "effective_old_per_token_logps": result.old_per_token_logps,
        "groups": result.groups,
        "effects": result.effects,
    }
    return {
        "prompt": prompt,
        "tokens": list(tokens),
        **{name: column[0].tolist() for name, column in columns.items()},
        **labels,
        "rewards": [float(correct) if judged else None],
    }


def write_record(run, rows, step=7, table="htpo", reward="math_reward"):
    settings = token_record.Settings(
        step, 2 * len(rows), PRESETS[table], 0.2, 0.28, 10.0, 0.2, [reward], {"htpo_trl": "0.1", "trl": "1.16"}
    )
    return token_record.write(run, settings, rows)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """All kinds of completions."""
    path = tmp_path_factory.mktemp("run") / "some <run>"
    words = [" the", " sum", "\n", "=", " 12", "\t", "", "  ", "é", "x"]
    rows = [
        row(words * 22, seed=1),
        row(words * 18, correct=False, seed=2, n_masked=15),
        row(words * 26, hard=False, seed=3),
        row(words * 3, hard=False, correct=False, seed=4),
        row(words, judged=False, seed=5),
    ]
    write_record(path, rows)
    write_record(path, [row(HOSTILE, prompt="".join(HOSTILE))], step=3, reward=HOSTILE[2])
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
    settings = token_record.Settings(1, 2, table, 0.2, 0.28, None, 0.2, ["a"], {"trl": "1"})
    assert token_record.Settings.from_json(settings.to_json()) == settings


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
    record = token_record.read(run)
    n_high = sum(int(np.isin(completion.values["groups"], (1, 3, 5, 7)).sum()) for completion in record.completions)
    assert plain.count("‹") == n_high
    assert plain.count("~") == 2 * (15 + 10)
    n_kept = sum(int((completion.values["effects"] == 5).sum()) for completion in record.completions)
    assert n_kept > 0
    assert plain.count("↑") == n_kept + 1  # and the key
    for name in PRESETS["gppo"].rows:
        assert str(name) in printed(run, versus="gppo")


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


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        if os.environ.get("CI") == "true":
            pytest.fail("The page is tested in Chromium, which is not on PATH: apt-get install chromium.")
        pytest.skip("no chromium on PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens a page from its file, and fails where it asks the network, shows a dialog or reports an error."""
    contexts, wrong = [], []

    def open_page(path, **options):
        contexts.append(browser.new_context(viewport={"width": 1300, "height": 900}, offline=True, **options))
        page = contexts[-1].new_page()
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text))
        page.on("request", lambda request: None if request.url == path.as_uri() else wrong.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("main .t")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


@pytest.mark.parametrize("bypass_csp", [False, True], ids=["with policy", "escaping alone"])
def test_hostile_text_is_text(open_page, run, tmp_path, bypass_csp):
    path = write_token_map(run, 3, output=tmp_path / "hostile.html")
    (content,) = re.findall(r'id="data">(.*)</script>', path.read_text())
    assert not {"<", ">", "&", "\u2028", "\u2029"} & set(content)
    page = open_page(path, bypass_csp=bypass_csp)
    assert page.locator("main .t").all_text_contents() == [visible(text) for text in HOSTILE]
    assert page.locator("pre").text_content() == visible("".join(HOSTILE))
    assert HOSTILE[2] in page.locator("h2").text_content()
    assert page.title() == "Tokens of some <run>, step 3"
    for i, text in enumerate(HOSTILE):
        page.locator("main .t").nth(i).hover()
        assert page.locator("#tip code").text_content() == visible(text)
    assert page.evaluate("document.querySelectorAll('img, svg, main script').length") == 0
    assert page.evaluate("typeof hacked") == "undefined"


def test_policy_refuses_other_scripts(browser, run, tmp_path):
    """What escaping should ever let through would not run."""
    path = write_token_map(run, 3, output=tmp_path / "page.html")
    path.write_text(path.read_text().replace("<main", "<script>hacked = 1</script><main", 1))
    page, said = browser.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.goto(path.as_uri())
    page.wait_for_selector("main .t")
    assert page.evaluate("typeof hacked") == "undefined"
    assert len(said) == 1
    assert "Content Security Policy" in said[0]
    page.close()


def test_hover_shows_what_was_recorded(open_page, run, tmp_path):
    page = open_page(write_token_map(run, output=tmp_path / "page.html"))
    record = token_record.read(run)
    completions = sorted(record.completions, key=lambda c: -np.count_nonzero(c.values["effects"]))
    tip = page.locator("#tip")
    assert tip.is_hidden()
    seen = set()
    for number, completion in enumerate(completions):
        weights = record.outcome(completion).weights
        values = completion.values
        tokens = page.locator("article").nth(number).locator(".t")
        page.locator("article").nth(number).scroll_into_view_if_needed()
        assert tokens.count() == len(completion.tokens)
        interesting = {int(effect): i for i, effect in enumerate(values["effects"])} | {-1: len(weights) - 1}
        for i in interesting.values():
            tokens.nth(i).hover()
            shown = dict(
                zip(tip.locator("th").all_text_contents(), tip.locator("td").all_text_contents(), strict=True)
            )
            group, effect = values["groups"][i], values["effects"][i]
            assert shown["token"] == f"{i + 1} of {len(weights)}, id {values['token_ids'][i]}"
            assert shown["entropy H"] == f"{values['entropies'][i]:.4f} nats"
            assert float(shown["ratio r"]) == pytest.approx(completion.ratio[i], abs=6e-5)
            assert float(shown["advantage Â"]) == pytest.approx(values["advantages"][i], abs=6e-5)
            assert shown["group"] == (GROUPS[group].replace("_", " · ") if group >= 0 else "none")
            assert shown["objective"] == (str(PRESETS["htpo"].rows[group]) if group >= 0 else "J_PPO")
            if math.isnan(weights[i]):
                assert (shown["applied"], shown["effective weight"]) == ("not trained on", "none")
            else:
                assert float(shown["effective weight"]) == pytest.approx(weights[i], abs=6e-5)
                clipped = bool(weights[i] == 0 and not effect)
                name = EFFECTS[effect - 1].replace("_", " ") if effect else "J_PPO" + ", clipped" * clipped
                assert shown["applied"].removeprefix("no verdict: ") == name
            seen.add(shown["applied"])
    assert {"detach lowest", "detach highest", "keep below", "keep above", "not trained on", "J_PPO"} <= seen
    page.mouse.move(1, 1)
    assert tip.is_hidden()


def test_keyboard(open_page, run, tmp_path):
    page = open_page(write_token_map(run, output=tmp_path / "page.html"))
    page.locator("#changed").focus()
    for _ in range(4):  # the button, the prompt, the tokens
        if page.evaluate("document.activeElement.className") != "tokens":
            page.keyboard.press("Tab")
    for key, place in (("", 1), ("ArrowRight", 2), ("End", 220), ("ArrowLeft", 219), ("Home", 1)):
        if key:
            page.keyboard.press(key)
        assert page.locator("#tip td").first.text_content().startswith(f"{place} of ")
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()
    legend = page.locator(".legend button").first
    legend.focus()
    page.keyboard.press("Enter")
    assert legend.get_attribute("aria-pressed") == "true"


def test_filters(open_page, run, tmp_path):
    page = open_page(write_token_map(run, output=tmp_path / "page.html"))
    record = token_record.read(run)
    output = page.locator("output")

    def kinds():
        return sorted(text.split(" · Â")[0] for text in page.locator("h2 span:visible").all_text_contents())

    def bright():
        """Tokens in sight that are not dimmed."""
        return page.evaluate("""
            [...document.querySelectorAll("main .t")]
                .filter((t) => t.offsetParent && getComputedStyle(t).opacity == 1).length
        """)

    groups = np.concatenate([completion.values["groups"] for completion in record.completions])
    effects = np.concatenate([completion.values["effects"] for completion in record.completions])
    everything = kinds()
    assert len(everything) == 5
    page.select_option("#difficulty", "easy")
    assert kinds() == ["easy · correct", "easy · wrong"]
    page.select_option("#correctness", "correct")
    assert kinds() == ["easy · correct"]
    assert output.text_content().startswith("1 of 5 completions, tokens in groups: 260")
    page.select_option("#difficulty", "")
    page.select_option("#correctness", "not judged")
    assert kinds() == ["hard · not judged"]
    page.locator("form button").click()
    assert kinds() == everything

    page.locator(".legend tr[data-group='1']").click()
    n = int((groups == 1).sum())
    assert kinds() == ["hard · correct"]
    assert output.text_content() == f"1 of 5 completions, tokens in groups: {n}"
    assert bright() == n
    page.check("#changed")
    n = int(((groups == 1) & (effects > 0)).sum())
    assert output.text_content() == f"1 of 5 completions, tokens in groups: {n}"
    assert bright() == n
    page.locator(".legend tr[data-group='1']").click()
    page.uncheck("#changed")
    assert kinds() == everything


def test_legend_is_the_objective_table(open_page, run, tmp_path):
    page = open_page(write_token_map(run, output=tmp_path / "page.html"))
    record = token_record.read(run)
    groups, effects, mask = (
        np.concatenate([completion.values[name] for completion in record.completions])
        for name in ("groups", "effects", "mask")
    )
    for i, (group, rule) in enumerate(zip(GROUPS, PRESETS["htpo"].rows, strict=True)):
        line = page.locator(f".legend tr[data-group='{i}'] td").all_text_contents()
        share = (groups == i).sum() / mask.sum()
        changed = int(((groups == i) & (effects > 0)).sum())
        assert line == [str(i + 1), group.replace("_", " · "), str(rule), f"{share:.1%}", str(changed)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_side_by_side(open_page, run, tmp_path, scheme):
    path = write_token_map(run, versus="gppo", output=tmp_path / "page.html")
    page = open_page(path, color_scheme=scheme)
    assert page.locator(".legend caption").all_text_contents() == ["htpo", "gppo"]
    record = token_record.read(run)
    completion = max(record.completions, key=lambda c: np.count_nonzero(c.values["effects"]))
    recorded, other = record.outcome(completion), record.outcome(completion, PRESETS["gppo"])
    panes = page.locator("article").first.locator(".tokens")
    differ = int(np.flatnonzero(recorded.weights != other.weights)[0])
    for pane in (0, 1):
        panes.nth(pane).locator(".t").nth(differ).hover()
        here = page.locator(".here")
        assert here.count() == 2
        places = page.evaluate("""
            [...document.querySelectorAll(".here")].map((t) => [...t.parentElement.children].indexOf(t))
        """)
        assert places == [differ, differ]
        weights = page.locator("#tip tr").last.locator("td").all_text_contents()
        assert list(map(float, weights)) == pytest.approx([recorded.weights[differ], other.weights[differ]], abs=6e-5)
    colour = page.evaluate("getComputedStyle(document.querySelector('main .g1')).backgroundColor")
    paper = DARK if scheme == "dark" else LIGHT
    expected = group_colour("hard_correct_high", paper)
    assert colour == f"rgb({', '.join(str(int(expected[i : i + 2], 16)) for i in (1, 3, 5))})"
    same = {"rgb(255, 255, 255)": LIGHT, "rgb(20, 23, 28)": DARK}
    assert same[page.evaluate("getComputedStyle(document.body).backgroundColor")] == paper


def test_two_hundred_long_completions_stay_responsive(open_page, tmp_path):
    """200 completions of 2,000 tokens: painted, with the first tokens, within 3 s; the last ones when scrolled to."""
    words = random.Random(0).choices([" the", " therefore", "=", "\n", " 12", " of", "x"], k=2000)
    rows = [row(words, hard=i % 3 > 0, correct=i % 2 > 0, seed=i) for i in range(200)]
    write_record(tmp_path, rows)
    page = open_page(write_token_map(tmp_path))
    seconds = page.evaluate("performance.now()") / 1000
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000
    assert paint < seconds < 3
    drawn = page.locator("main .t").count()
    assert drawn < 20_000, "completions out of sight are drawn"

    started = page.evaluate("performance.now()")
    page.locator("main .t").nth(100).hover()
    page.wait_for_selector("#tip:visible")
    assert page.evaluate("performance.now()") - started < 1000
    page.select_option("#correctness", "wrong")
    assert page.locator("output").text_content().startswith("100 of 200")
    page.select_option("#correctness", "")
    last = page.locator("article").last
    assert last.locator(".t").count() == 0
    page.keyboard.press("End")
    last.locator(".t").last.wait_for()
    assert last.locator(".t").count() == 2000
    assert page.locator("main .t").count() < 40_000
