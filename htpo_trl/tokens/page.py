"""The token map as an HTML page: `page.html.jinja` beside this file, with `page.css.jinja` and `page.js` in it."""

import base64
import hashlib
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..objective.table import EFFECTS, GROUPS, Table
from ..palette import group_colour, ink
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
        versus ([`~htpo_trl.objective.table.Table`] or `str`, *optional*):
            Another objective, or the name of its preset, to be shown beside: what it would have made of the same
            tokens, computed from the recorded log-probabilities, entropies and advantages.
        output (`str` or `Path`, *optional*):
            The page; by default beside the record, `tokens/step-<N>.html`.

    Raises:
        FileNotFoundError: if there is no such record.
        ValueError: if it is damaged, or there is no such preset.
    """
    view = View.make(run, step, versus)
    data = [
        {
            "kind": completion.kind,
            "prompt": visible(completion.prompt),
            "tokens": [*map(visible, completion.tokens)],
            "ids": completion.values["token_ids"],
            "entropy": completion.values["entropies"],
            "ratio": completion.ratio,
            "advantage": completion.values["advantages"],
            "outcomes": [outcome._asdict() | {"counts": outcome.counts.tolist()} for outcome in outcomes.values()],
        }
        for completion, outcomes in view.rows
    ]
    files = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    files.trim_blocks = files.lstrip_blocks = True
    files.policies["json.dumps_kwargs"] = {"default": _base64}
    html = files.get_template("page.html.jinja").render(
        view=view,
        settings=view.record.settings,
        run=Path(run).resolve().name,
        script=Markup(Path(__file__).with_suffix(".js").read_text(encoding="utf-8")),
        hash=_hash,
        data=data,
        groups=GROUPS,
        effects=EFFECTS,
        papers={"light": LIGHT, "dark": DARK},
        group_colour=group_colour,
        ink=ink,
    )
    path = Path(output) if output else recorded_steps(run)[view.record.settings.step].with_suffix(".html")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")
    return path


def _base64(column: np.ndarray) -> str:
    """Columns of numbers in JSON: little-endian arrays."""
    return base64.b64encode(column.astype(column.dtype.newbyteorder("<")).tobytes()).decode()


def _hash(source: str) -> Markup:
    return Markup(f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'")
