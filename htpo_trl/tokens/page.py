"""The token map as an HTML page; `token_page.css` and `token_page.js` beside this file become parts of it."""

import base64
import hashlib
import html
import json
from pathlib import Path
from typing import Any

import numpy as np

from ..objective.table import EFFECTS, GROUPS
from ..palette import group_colour, group_label, ink
from .view import View, changes, counts, kind, visible


LIGHT, DARK = "#ffffff", "#14171c"  # paper of the page


def page(view: View, run: str) -> str:
    """The HTML of a view on the run of this name. It needs no network, and its policy lets it have none."""
    style = _colours() + Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    script = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'"
    two = " two" if len(view.tables) > 1 else ""
    legends = "".join(_legend(view, i) for i in range(len(view.tables)))
    articles = "".join(_article(view, i) for i in range(len(view.rows)))
    options = {"difficulty": ["hard", "easy"], "correctness": ["correct", "wrong", "not judged"]}
    selects = "".join(
        f'<label>{name} <select id="{name}"><option value="">all</option>'
        + "".join(f"<option>{option}</option>" for option in values)
        + "</select></label>\n"
        for name, values in options.items()
    )
    marks = " ".join(f'<span class="t e{i}">{e.replace("_", " ")}</span>' for i, e in enumerate(EFFECTS, 1))
    versions = ", ".join(f"{k} {v}" for k, v in view.record.settings.versions.items() if k in ("htpo_trl", "trl"))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width">
<title>Tokens of {html.escape(run)}, step {view.record.settings.step}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{html.escape(view.headline)} <small>{html.escape(run)}</small></h1>
<p>{html.escape(view.facts)}.</p>
<div class="legends{two}">{legends}</div>
<p class="key">Strong colour: high entropy; weak: low. Hatched:
<span class="t none">not trained on, or no verdict</span>. Changed by a rule: {marks}.
Hover over a token, or put the focus on a completion and use the arrow keys. Effective weight: the derivative of the
token's objective by log π; training raises the probability where it is positive, lowers it where it is negative.</p>
</header>
<form aria-label="Filters">
{selects}<label><input type="checkbox" id="changed"> only tokens that a rule changed</label>
<button type="button">Show all</button>
<output aria-live="polite"></output>
</form>
<main class="{two.strip()}">{articles}</main>
<div id="tip" role="status" hidden></div>
<footer>{html.escape(versions)}</footer>
<script type="application/json" id="data">{_json(_payload(view))}</script>
<script>{script}</script>
</body>
</html>
"""


def _legend(view: View, i: int) -> str:
    rows = "".join(
        f'<tr data-group="{group}"><td>{group + 1}</td>'
        f'<td><button type="button" class="g{group}" aria-pressed="false">{group_label(GROUPS[group])}</button></td>'
        f"<td>{html.escape(str(rule))}</td><td>{n / view.n_tokens:.1%}</td><td>{changed:,}</td></tr>"
        for group, (rule, n, changed) in enumerate(zip(view.tables[i].rows, *view.counts(i), strict=True))
    )
    return (
        f'<table class="legend"><caption>{html.escape(view.names[i])}</caption><thead><tr><th>#</th><th>group</th>'
        f"<th>objective</th><th>tokens</th><th>changed</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _article(view: View, i: int) -> str:
    completion, outcomes = view.rows[i]
    panes = "".join(
        f"<div><h3>{name} <span>{changes(outcome)}</span></h3>"
        f'<div class="tokens" tabindex="0" role="group" aria-label="completion {i + 1}, {name}"></div></div>'
        for name, outcome in zip(map(html.escape, view.names), outcomes, strict=True)
    )
    return (
        f'<article data-place="{i}"><h2>#{i + 1} <span>{html.escape(view.summary(completion))}</span></h2>'
        f'<details><summary>prompt</summary><pre></pre></details><div class="panes">{panes}</div></article>'
    )


def _payload(view: View) -> dict[str, Any]:
    """What the script reads; columns of numbers are base64 of little-endian arrays."""
    return {
        "groups": list(map(group_label, GROUPS)),
        "effects": [effect.replace("_", " ") for effect in EFFECTS],
        "objectives": [
            {"name": name, "rules": list(map(str, table.rows))}
            for name, table in zip(view.names, view.tables, strict=True)
        ],
        "completions": [
            {
                **dict(zip(("difficulty", "correctness"), kind(completion), strict=True)),
                "prompt": visible(completion.prompt),
                "tokens": list(map(visible, completion.tokens)),
                "ids": _base64(completion.values["token_ids"], "<i4"),
                "entropy": _base64(completion.values["entropies"], "<f4"),
                "ratio": _base64(completion.ratio, "<f4"),
                "advantage": _base64(completion.values["advantages"], "<f4"),
                "outcomes": [
                    {
                        "groups": _base64(outcome.groups, "i1"),
                        "effects": _base64(outcome.effects, "i1"),
                        "weights": _base64(outcome.weights, "<f4"),
                        "counts": [column.tolist() for column in counts(outcome)],
                    }
                    for outcome in outcomes
                ],
            }
            for completion, outcomes in view.rows
        ],
    }


def _base64(column: np.ndarray, dtype: str) -> str:
    return base64.b64encode(column.astype(dtype).tobytes()).decode()


def _json(content: Any) -> str:
    """JSON that holds no markup: as it stands in a `script` element, no text in it can end that element."""
    text = json.dumps(content, separators=(",", ":"))  # ASCII
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def _colours() -> str:
    def rules(paper: str, indent: str) -> str:
        colours = [group_colour(group, paper) for group in GROUPS]
        return "".join(f"{indent}.g{i} {{ background: {c}; color: {ink(c)}; }}\n" for i, c in enumerate(colours))

    others = "".join(f'[data-group="{i}"] .t:not(.g{i}),\n' for i in range(len(GROUPS)))
    return f"""
:root {{ --paper: {LIGHT}; --ink: #1a1a1a; --soft: #595959; --line: #d0d0d0; --hatch: #dddddd; }}
{rules(LIGHT, "")}@media (prefers-color-scheme: dark) {{
  :root {{ --paper: {DARK}; --ink: #e8e8e8; --soft: #a8a8a8; --line: #3a3f47; --hatch: #2c3138; }}
{rules(DARK, "  ")}}}
{others}.only-changed .t.e0 {{ opacity: 0.22; }}
"""
