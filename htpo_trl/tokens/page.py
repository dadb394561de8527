"""The token map as an HTML page: `page.html.jinja` beside this file, with `page.css.jinja` and `page.js` in it."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..objective.table import EFFECTS, GROUPS, Table
from ..palette import group_colour, group_label, ink
from .record import recorded_steps
from .view import View, visible


LIGHT, DARK = "#ffffff", "#14171c"  # paper of the page


def write_token_map(
    run: str | Path, step: int | None = None, versus: Table | str | None = None, output: str | Path | None = None
) -> Path:
    """
    Write the token map of a recorded step as one HTML page that needs no network: recorded completions in which every
    token is coloured by its functional group. Returns its path.

    Args:
        run (`str` or `Path`):
            Directory of the run, with records in `tokens/`, see [`~htpo_trl.tokens.TokenRecorder`].
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
    path = Path(output) if output else recorded_steps(run)[view.record.settings.step].with_suffix(".html")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(view, Path(run).resolve().name), encoding="utf-8")
    return path


def render(view: View, run: str) -> str:
    """The HTML of a view on the run of this name. It needs no network, and its policy lets it have none."""
    files = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    files.trim_blocks = files.lstrip_blocks = True
    backgrounds = {paper: [group_colour(group, paper) for group in GROUPS] for paper in (LIGHT, DARK)}
    style = files.get_template("page.css.jinja").render(light=LIGHT, dark=DARK, backgrounds=backgrounds, ink=ink)
    versions = view.record.settings.versions
    return files.get_template("page.html.jinja").render(
        view=view,
        run=run,
        style=Markup(style),
        script=Markup(Path(__file__).with_suffix(".js").read_text(encoding="utf-8")),
        hash=_hash,
        data=_data(view),
        versions=", ".join(f"{name} {versions[name]}" for name in ("htpo_trl", "trl") if name in versions),
    )


def _data(view: View) -> dict[str, Any]:
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
                **dict(zip(("difficulty", "correctness"), completion.kind, strict=True)),
                "prompt": visible(completion.prompt),
                "tokens": list(map(visible, completion.tokens)),
                **_columns(
                    ids=completion.values["token_ids"],
                    entropy=completion.values["entropies"],
                    ratio=completion.ratio,
                    advantage=completion.values["advantages"],
                ),
                "outcomes": [
                    _columns(**outcome._asdict()) | {"counts": outcome.counts.tolist()} for outcome in outcomes
                ],
            }
            for completion, outcomes in view.rows
        ],
    }


def _columns(**columns: np.ndarray) -> dict[str, str]:
    little_endian = {name: column.astype(column.dtype.newbyteorder("<")) for name, column in columns.items()}
    return {name: base64.b64encode(column.tobytes()).decode() for name, column in little_endian.items()}


def _hash(source: str) -> Markup:
    return Markup(f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'")
