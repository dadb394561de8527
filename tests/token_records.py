"""Hand-made records of tokens, a hostile one among them."""

import torch

from htpo_trl.objective import PRESETS, control
from htpo_trl.tokens import RecordSettings
from htpo_trl.tokens.record import write_record


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


def completion_row(tokens, hard=True, correct=True, judged=True, seed=0, n_masked=0, prompt="1 + 1", table="htpo"):
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


def write(run, rows, step=7, table="htpo", reward="math_reward"):
    settings = RecordSettings(
        step, 2 * len(rows), PRESETS[table], 0.2, 0.28, 10.0, 0.2, [reward], {"htpo_trl": "0.1", "trl": "1.16"}
    )
    return write_record(run, settings, rows)


def write_all(path):
    """Two steps: 7 with all kinds of completions, 3 with hostile text."""
    words = [" the", " sum", "\n", "=", " 12", "\t", "", "  ", "é", "x"]
    rows = [
        completion_row(words * 22, seed=1),
        completion_row(words * 18, correct=False, seed=2, n_masked=15),
        completion_row(words * 26, hard=False, seed=3),
        completion_row(words * 3, hard=False, correct=False, seed=4),
        completion_row(words, judged=False, seed=5),
    ]
    write(path, rows)
    write(path, [completion_row(HOSTILE, prompt="".join(HOSTILE))], step=3, reward=HOSTILE[2])
