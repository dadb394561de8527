"""Pages of strangers' runs in a real browser: nothing of what they hold is more than text."""

import json

import pytest

from htpo_trl.compare import write_compare_report
from htpo_trl.objective import PRESETS
from htpo_trl.report import write_report
from htpo_trl.tokens import RecordSettings, write_token_map
from htpo_trl.tokens.record import write_record

from ..token_records import completion_row
from ..unit.test_compare_report import FAILED, fight, write


ELSEWHERE = "http://elsewhere.example"
# Each would leave the page, take it over, or ask the network, where it is more than text.
ATTACKS = (
    f'</title><meta http-equiv="refresh" content="0;url={ELSEWHERE}">',
    f"</h1><meta http-equiv=refresh content=0;url={ELSEWHERE}>",
    f'"><base href="{ELSEWHERE}/">',
    f"</script><form action={ELSEWHERE}><input autofocus onfocus=form.submit()></form>",
    f"</style><style>@import url({ELSEWHERE});*{{display:none}}</style>",
    f"<iframe src={ELSEWHERE}></iframe><object data={ELSEWHERE}></object>",
    f"<script>location='{ELSEWHERE}'</script>",
    f"<a id=x href=javascript:location='{ELSEWHERE}' autofocus>x</a>",
    "{{ 7 * 7 }}{% for x in y %}${7*7}#{7*7}",
    "\u2028location='x'\u2029<!--<script>",
)


def token_map(path):
    """Of a run whose every text is an attack."""
    run = path / "run <meta http-equiv=refresh content=0>"
    settings = RecordSettings(
        **{"step": 7, "completions_in_step": len(ATTACKS), "epsilon_low": 0.2, "epsilon_high": 0.28, "delta": None},
        table=PRESETS["htpo"].__class__(**vars(PRESETS["htpo"]) | {"name": "".join(ATTACKS)}),
        top_entropy_share=0.2,
        reward_funcs=[ATTACKS[0]],
        versions=dict(zip(("htpo_trl", "trl"), ATTACKS, strict=False)),
    )
    write_record(run, settings, [completion_row(ATTACKS, prompt=attack) for attack in ATTACKS])
    return write_token_map(run, versus="dapo")


def report(path):
    """Of two runs whose every name and value is an attack, but for file names, which hold no slash."""
    names = [attack.replace("/", "⁄") for attack in ATTACKS]
    for i, first in enumerate(names[:2]):
        steps = path / first / "evaluation" / "step-1"
        steps.mkdir(parents=True)
        for name in names:
            sampling = {"num_samples": 1}
            settings = {"benchmark": name, "model": name, "judge": name, "n_problems": 1, "sampling": sampling}
            (steps / f"{name}.json").write_text(json.dumps({"settings": settings}))
            row = {"problem": name, "sample": 0, "tokens": 9, "truncated": False, "verdict": "correct", "answer": name}
            (steps / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
        options = {attack: f"{i} {attack}" for attack in ATTACKS} | {"objective": f"{i} {ATTACKS[0]}", "seed": i}
        resumes = [{"step": ATTACKS[0], "changed": {ATTACKS[1]: [ATTACKS[2], ATTACKS[3]]}}]
        versions = {attack: f"{i} {attack}" for attack in ATTACKS}
        written = {"versions": versions, ATTACKS[0]: options, "resumes": resumes}
        (path / first / "settings.json").write_text(json.dumps(written))
        log = [{"step": step, "loss": 1.0} | {f"{attack}/correct": 0.5 for attack in ATTACKS} for step in (1, 2)]
        state = {"global_step": 2, "log_history": log}
        (path / first / "trainer_state.json").write_text(json.dumps(state))
    return write_report([path / name for name in names[:2]], path / "report")


def comparison(path):
    """Of a fight whose every name and value is an attack, but for numbers."""
    arms = [attack.replace("/", "⁄") for attack in ATTACKS[:3]]
    plan, results = fight(arms=arms)
    named = {"name": ATTACKS[0], "count": 50, "digest": ATTACKS[1]}
    plan |= {"rule": [*ATTACKS], "model": named, "problems": {"test": named, ATTACKS[2]: named}}
    for arm in arms:
        plan["arms"][arm] = {"options": dict.fromkeys(ATTACKS, ATTACKS[3]), "resolved": {}, "table": {}}
    for each in results:
        each |= {"versions": dict.fromkeys(ATTACKS, ATTACKS[4]), "touched": dict.fromkeys(ATTACKS, 0.5)}
    results[-1] |= FAILED | {"error": "".join(ATTACKS)}
    return write_compare_report(write(path, plan, results))


@pytest.fixture(scope="module", params=[token_map, report, comparison], ids=["token map", "report", "comparison"])
def page_file(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("pages"))


@pytest.mark.parametrize("bypass_csp", [False, True], ids=["with policy", "escaping alone"])
def test_the_page_stays_and_asks_for_nothing(browser, page_file, bypass_csp):
    context, asked = browser.new_context(offline=True, bypass_csp=bypass_csp), []
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: asked.append(dialog.message))
    page.goto(page_file.as_uri())
    page.wait_for_load_state("networkidle")
    if "run " in page_file.parts[-3]:
        page.wait_for_selector("main .t")
    elements = (
        "meta[http-equiv=refresh], base, iframe, object, embed, link, a[href^=javascript], main form, main script"
    )
    assert page.evaluate("selector => document.querySelectorAll(selector).length", elements) == 0
    assert page.evaluate("document.querySelectorAll('script[src], img:not([src^=\"data:\"])').length") == 0
    assert page.url == page_file.as_uri()
    assert {url for url in asked if not url.startswith("data:")} == {page_file.as_uri()}
    shown = page.content().replace("&lt;", "<").replace("&gt;", ">")
    assert "</title><meta http-equiv" in shown  # it is there, as text
    assert "7 * 7 }}" in shown
    assert "49" not in page.title()
    context.close()


def test_the_policy_closes_forms_and_base(browser, page_file, tmp_path):
    """What escaping should ever let through: it is planted, and sends nothing."""
    planted = tmp_path / "page.html"
    form = f'<base href="{ELSEWHERE}/"><form id=planted action="{ELSEWHERE}/form" method=post><input name=a></form>'
    planted.write_text(page_file.read_text().replace("</body>", f"{form}</body>"))
    submit = "document.getElementById('planted').submit()"
    page = browser.new_page()
    page.goto(planted.as_uri())
    assert page.evaluate("document.baseURI") == planted.as_uri()
    with page.expect_console_message(lambda message: "form-action" in message.text):
        page.evaluate(submit)
    page.close()
    context = browser.new_context(bypass_csp=True)  # the control: without the policy both happen
    page = context.new_page()
    page.goto(planted.as_uri())
    assert page.evaluate("document.baseURI") == f"{ELSEWHERE}/"
    with page.expect_request(f"{ELSEWHERE}/form"):
        page.evaluate(submit)
    context.close()
