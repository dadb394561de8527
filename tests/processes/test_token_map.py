"""The token map in a real browser, from files."""

import math
import random
import re

import numpy as np
import pytest

from htpo_trl.objective import EFFECTS, GROUPS, PRESETS
from htpo_trl.palette import group_colour
from htpo_trl.tokens import read_record, write_token_map
from htpo_trl.tokens.view import DARK, LIGHT, visible

from ..token_records import HOSTILE, completion_row, write, write_all


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "some <run>"
    write_all(path)
    return path


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
    record = read_record(run)
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
    record = read_record(run)
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
    record = read_record(run)
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
    record = read_record(run)
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
    rows = [completion_row(words, hard=i % 3 > 0, correct=i % 2 > 0, seed=i) for i in range(200)]
    write(tmp_path, rows)
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
