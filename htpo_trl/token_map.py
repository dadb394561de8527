"""
The token map: recorded completions in which every token is coloured by its functional group, as an HTML page or in
the terminal, under the objective they were trained by and, beside it, under another.

Texts come from a model. They reach neither the page's markup nor the terminal as they are: see [`visible`].
"""

import base64
import hashlib
import html
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .objective import EFFECTS, GROUPS, Table, get_table
from .palette import group_colour, group_label, ink
from .token_record import Completion, Outcome, Record, read, steps


LIGHT, DARK = "#ffffff", "#14171c"  # paper of the page
# Beside a token in the terminal. On the page, frames say the same: see token_map.css.
MARKS = dict(zip(EFFECTS, "××↓↔↑", strict=True))


class View(NamedTuple):
    """A record under one or two objectives. Completions in which rules changed most come first."""

    record: Record
    names: list[str]
    tables: list[Table]
    rows: list[tuple[Completion, list[Outcome]]]  # one outcome per table

    @classmethod
    def make(cls, run: str | Path, step: int | None = None, versus: Table | str | None = None) -> "View":
        record = read(run, step)
        trained = record.settings.table
        tables, names = [trained], [trained.name]
        if versus is not None:
            tables.append(get_table(versus) if isinstance(versus, str) else versus)
            names.append(tables[1].name if tables[1].name != trained.name else f"{trained.name}, for comparison")
        rows = [
            (completion, [record.outcome(completion), *(record.outcome(completion, table) for table in tables[1:])])
            for completion in record.completions
        ]
        rows.sort(key=lambda row: -np.count_nonzero(row[1][0].effects))
        return cls(record, names, tables, rows)

    def counts(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of each group, and those of them that a rule changed, under objective `i`; both (8,)."""
        per_completion = [_counts(outcomes[i]) for _, outcomes in self.rows]
        return sum(n for n, _ in per_completion), sum(n for _, n in per_completion)  # type: ignore[return-value]


def write_token_map(
    run: str | Path, step: int | None = None, versus: Table | str | None = None, output: str | Path | None = None
) -> Path:
    """
    Write the token map of a recorded step as one HTML page that needs no network. Returns its path.

    Args:
        run (`str` or `Path`):
            Directory of the run, with records in `tokens/`, see [`~htpo_trl.token_recorder.TokenRecorder`].
        step (`int`, *optional*):
            A recorded optimizer step; by default the last.
        versus ([`~htpo_trl.objective.Table`] or `str`, *optional*):
            Another objective, or the name of its preset, to be shown beside: what it would have made of the same
            tokens, computed from the recorded log-probabilities, entropies and advantages.
        output (`str` or `Path`, *optional*):
            The page; by default beside the record, `tokens/step-<N>.html`.

    Raises:
        FileNotFoundError: if there is no such record.
        ValueError: if it is damaged, or there is no such preset.
    """
    view = View.make(run, step, versus)
    path = Path(output) if output else steps(run)[view.record.settings.step].with_suffix(".html")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_page(view, Path(run).resolve().name), encoding="utf-8")
    return path


def print_token_map(
    run: str | Path, step: int | None = None, versus: Table | str | None = None, console: Any = None
) -> None:
    """
    Print the token map of a recorded step. Without colours, high-entropy tokens stand in ‹› and those that are not
    trained on in ~~; difficulty and correctness are in each headline.

    Args:
        run, step, versus:
            As for [`write_token_map`]; two objectives are shown one below the other.
        console (`rich.console.Console`, *optional*):
            Where to print; by default standard output.
    """
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    view, console = View.make(run, step, versus), console or Console(highlight=False)
    colours = console.color_system is not None and not console.no_color
    styles = {i: f"{ink(colour)} on {colour}" for i, colour in enumerate(map(group_colour, GROUPS))}
    n_tokens = max(sum(_n_trained(completion) for completion, _ in view.rows), 1)
    console.print(Text(f"{_headline(view)}: {_facts(view)}"))
    for i, (name, table) in enumerate(zip(view.names, view.tables, strict=True)):
        legend = Grid("#", "group", "objective", "tokens", "changed", title=Text(name), title_justify="left")
        for group, (rule, n, changed) in enumerate(zip(table.rows, *view.counts(i), strict=True)):
            label = Text(group_label(GROUPS[group]), styles[group])
            legend.add_row(str(group + 1), label, Text(str(rule)), f"{n / n_tokens:.1%}", f"{changed:,}")
        console.print(legend)
    console.print(Text("Changed by a rule: " + ", ".join(f"{m} {e.replace('_', ' ')}" for e, m in MARKS.items())))
    for number, (completion, outcomes) in enumerate(view.rows, 1):
        console.print(Text(f"\n#{number}  {_summary(view, completion)}", "bold"))
        console.print(Text(visible(completion.prompt), "dim"))
        for name, outcome in zip(view.names, outcomes, strict=True):
            console.print(Text(f"{name}: {_changed(outcome)}", "italic"))
            line = Text()
            for token, group, effect in zip(completion.tokens, outcome.groups, outcome.effects, strict=True):
                text = visible(token)
                if not colours and group < 0:
                    text = f"~{text}~"
                elif not colours and GROUPS[group].endswith("high"):
                    text = f"‹{text}›"
                line.append(text + (MARKS[EFFECTS[effect - 1]] if effect else ""), styles.get(int(group), "dim"))
            console.print(line)


def visible(text: str) -> str:
    """
    A token's text with nothing invisible in it: line breaks and tabs are marked and kept, other control characters,
    those that change the direction of writing and spaces of unusual width are named. A token without text, a part of
    the next one's character, is a dotted circle.
    """
    return "".join(character if character.isprintable() else _named(character) for character in text) or "◌"


def _named(character: str) -> str:
    code = ord(character)
    if character in "\n\t":
        return {"\n": "↵\n", "\t": "⇥\t"}[character]
    return chr(0x2400 + code) if code < 0x20 else f"⟨U+{code:04X}⟩"


def _counts(outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    groups = outcome.groups[outcome.groups >= 0]
    changed = outcome.groups[(outcome.groups >= 0) & (outcome.effects > 0)]
    return np.bincount(groups, minlength=len(GROUPS)), np.bincount(changed, minlength=len(GROUPS))


def _n_trained(completion: Completion) -> int:
    return int(completion.values["mask"].sum())


def _headline(view: View) -> str:
    return f"Step {view.record.settings.step}, {' versus '.join(view.names)}"


def _facts(view: View) -> str:
    s = view.record.settings
    dual_clip = "no dual clip" if s.delta is None else f"dual clip {s.delta:g}"
    return (
        f"{len(view.rows)} of the step's {s.completions_in_step} completions, drawn at random; clip range "
        f"{1 - s.epsilon_low:g} to {1 + s.epsilon_high:g}, {dual_clip}, high: the top {s.top_entropy_share:.0%} of a "
        "response by entropy"
    )


def _changed(outcome: Outcome) -> str:
    return f"{np.count_nonzero(outcome.effects)} tokens changed by a rule"


def _summary(view: View, completion: Completion) -> str:
    advantages = np.unique(completion.values["advantages"])
    names = view.record.settings.reward_funcs
    rewards = (
        f"{name} {'none' if reward is None else f'{reward:.4g}'}"
        for name, reward in zip(names, completion.rewards, strict=True)
    )
    parts = [
        "hard" if completion.is_hard else "easy",
        ("correct" if completion.is_correct else "wrong") if completion.is_judged else "not judged",
        f"Â {advantages[0]:+.3f}" if len(advantages) == 1 else "Â by token",
        f"{len(completion.tokens)} tokens",
        *rewards,
    ]
    return " · ".join(parts)


def _page(view: View, run: str) -> str:
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
<h1>{html.escape(_headline(view))} <small>{html.escape(run)}</small></h1>
<p>{html.escape(_facts(view))}.</p>
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
    n_tokens = max(sum(_n_trained(completion) for completion, _ in view.rows), 1)
    rows = "".join(
        f'<tr data-group="{group}"><td>{group + 1}</td>'
        f'<td><button type="button" class="g{group}" aria-pressed="false">{group_label(GROUPS[group])}</button></td>'
        f"<td>{html.escape(str(rule))}</td><td>{n / n_tokens:.1%}</td><td>{changed:,}</td></tr>"
        for group, (rule, n, changed) in enumerate(zip(view.tables[i].rows, *view.counts(i), strict=True))
    )
    return (
        f'<table class="legend"><caption>{html.escape(view.names[i])}</caption><thead><tr><th>#</th><th>group</th>'
        f"<th>objective</th><th>tokens</th><th>changed</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _article(view: View, i: int) -> str:
    completion, outcomes = view.rows[i]
    panes = "".join(
        f"<div><h3>{name} <span>{_changed(outcome)}</span></h3>"
        f'<div class="tokens" tabindex="0" role="group" aria-label="completion {i + 1}, {name}"></div></div>'
        for name, outcome in zip(map(html.escape, view.names), outcomes, strict=True)
    )
    return (
        f'<article data-place="{i}"><h2>#{i + 1} <span>{html.escape(_summary(view, completion))}</span></h2>'
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
                "difficulty": "hard" if completion.is_hard else "easy",
                "correctness": ("correct" if completion.is_correct else "wrong")
                if completion.is_judged
                else "not judged",
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
                        "counts": [column.tolist() for column in _counts(outcome)],
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
