"""Pictures and tables of a run."""

import importlib.util
import json
from pathlib import Path

import numpy as np

from .metrics import pass_at_k
from .objective import EFFECTS, GROUPS, PRESETS
from .palette import EFFECT_COLOURS, EFFECT_MARKS, HUES, group_colour, group_label


def require_matplotlib() -> None:
    """Raise with the mend where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError("Reports need matplotlib: pip install 'htpo_trl[report]'.")


def write_laptop_report(directory: Path) -> str:
    """Draw the pictures of a laptop run and write `report.md`, from the files in `directory`. Returns the summary."""
    result = json.loads((directory / "result.json").read_text())
    log = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    examples = json.loads((directory / "tokens.json").read_text())
    _training_figure(log, directory / "training.png")
    _pass_at_k_figure(result, directory / "pass_at_k.png")
    _token_figure(examples, directory / "tokens.png")

    config, summary = result["config"], _summary_table(result["summary"])
    text = f"""\
# Countdown by {config["objective"]}, seed {config["seed"]}

{len(result["problems"])} held-out problems, {result["samples"]} samples each at temperature 1; 95% intervals over problems (bootstrap).

{summary}

- Warm start: {config["warm_start_steps"]} supervised steps; reinforcement: {config["steps"]} optimizer steps of 64 completions, 4 per
  generation batch.
- Seconds by phase: {", ".join(f"{name.replace('_', ' ')} {value:.0f}" for name, value in result["seconds"].items())}; {result["threads"]} thread(s).
- {", ".join(f"{name} {value}" for name, value in result["versions"].items())}.

## The objective

```
{PRESETS[config["objective"]]}
```

## Training

![Accuracy, entropy, groups and rules over training](training.png)

## Sampling budget

![pass@k before and after](pass_at_k.png)

## Which token is in which group

From the last optimizer step. Pale: low entropy, full: high entropy; a frame marks a token whose objective a rule changed.

![Three completions, every token coloured by its group](tokens.png)
"""
    (directory / "report.md").write_text(text)
    return summary


def _summary_table(summary: dict) -> str:
    def cell(interval: list[float], sign: str = "") -> str:
        mean, low, high = interval
        return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"

    lines = ["| metric | before | after | difference |", "| --- | --- | --- | --- |"]
    for metric, row in summary.items():
        lines.append(f"| {metric} | {cell(row['before'])} | {cell(row['after'])} | {cell(row['difference'], '+')} |")
    return "\n".join(lines)


def _series(log: list[dict], key: str) -> tuple[list[int], list[float]]:
    """The steps at which a metric was logged, and its values: what is missing stays missing."""
    rows = [(row["step"], row[key]) for row in log if row.get(key) is not None]
    return [step for step, _ in rows], [value for _, value in rows]


def _smooth(values: list[float], window: int) -> np.ndarray:
    """Trailing mean over up to `window` values."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _new_figure(*args, **kwargs):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(*args, **kwargs, layout="constrained")
    FigureCanvasAgg(figure)  # draws to files alone: no window, no global state
    return figure


def _training_figure(log: list[dict], path: Path) -> None:
    figure = _new_figure(figsize=(11, 7.5))
    (accuracy, entropy), (groups, rules) = figure.subplots(2, 2)
    window = 8

    for axis in (accuracy, entropy, groups, rules):
        axis.set_xlabel("optimizer step")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    for key, label, colour, style in (
        ("reward", "mean reward", "#D55E00", "-"),
        ("htpo/accuracy", "accuracy", "#0072B2", "--"),
        ("htpo/frac_hard", "share of hard prompts", "#999999", "-"),
    ):
        steps, values = _series(log, key)
        accuracy.plot(steps, values, color=colour, alpha=0.2, linewidth=1)
        accuracy.plot(steps, _smooth(values, window), color=colour, linestyle=style, linewidth=2, label=label)
    accuracy.set(title=f"Training batches (mean of the last {window})", ylim=(0, 1))
    accuracy.legend(frameon=False)

    for group in GROUPS:
        steps, values = _series(log, f"htpo/entropy/{group}")
        style = "-" if group.endswith("high") else ":"
        hue = HUES[group.rpartition("_")[0]]
        entropy.plot(
            steps, _smooth(values, window), color=hue, linestyle=style, linewidth=1.5, label=group_label(group)
        )
    steps, values = _series(log, "entropy")
    entropy.plot(steps, _smooth(values, window), color="black", linewidth=2.5, label="all tokens")
    entropy.set(title="Token entropy", ylabel="nats", ylim=(0, None))
    entropy.legend(frameon=False, fontsize=8, ncols=2, loc="upper right", bbox_to_anchor=(1, 1))
    entropy.set_ylim(0, entropy.get_ylim()[1] * 1.45)  # room for the legend

    shares = [_series(log, f"htpo/share/{group}") for group in GROUPS]
    groups.stackplot(
        shares[0][0],
        [_smooth(values, window) for _, values in shares],
        colors=[group_colour(group) for group in GROUPS],
        labels=[group_label(group) for group in GROUPS],
    )
    groups.set(title="Share of tokens in each group", ylim=(0, 1))
    handles, labels = groups.get_legend_handles_labels()
    groups.legend(handles[::-1], labels[::-1], fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)

    for effect in EFFECTS:
        steps, values = _series(log, f"htpo/special/{effect}")
        if any(values):
            rules.plot(
                steps,
                100 * _smooth(values, window),
                color=EFFECT_COLOURS[effect],
                marker=EFFECT_MARKS[effect],
                markevery=max(len(steps) // 8, 1),
                label=effect.replace("_", " "),
            )
    rules.set(title="Share of tokens whose objective a rule changed", ylabel="% of tokens")
    if rules.lines:
        rules.legend(frameon=False)
    else:
        rules.text(0.5, 0.5, "no rule changed a token", transform=rules.transAxes, ha="center")
    rules.set_ylim(0, None)
    figure.savefig(path, dpi=120)


def _pass_at_k_figure(result: dict, path: Path) -> None:
    figure = _new_figure(figsize=(6, 4))
    axis = figure.subplots()
    n = result["samples"]
    ks = [2**i for i in range(n.bit_length()) if 2**i <= n]
    for name, colour, style in (("before", "#D55E00", "--"), ("after", "#0072B2", "-")):
        estimates = [pass_at_k(n, result[f"correct_{name}"], k) for k in ks]
        means = np.array([values.mean() for values in estimates])
        # Normal intervals over problems, for the band; the table has the bootstrap's.
        half = np.array([1.96 * values.std(ddof=1) / len(values) ** 0.5 for values in estimates])
        axis.plot(ks, means, color=colour, linestyle=style, marker="o", markersize=4, label=f"{name} reinforcement")
        axis.fill_between(ks, means - half, np.minimum(means + half, 1), color=colour, alpha=0.2, linewidth=0)
    axis.set_xscale("log", base=2)
    axis.set_xticks(ks, [str(k) for k in ks])
    axis.set(xlabel="samples per problem, k", ylabel="pass@k, held-out problems", ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=120)


def _token_figure(examples: list[dict], path: Path) -> None:
    columns = 34
    rows = [max(1, -(-len(example["tokens"]) // columns)) for example in examples]
    height = 0.34 * (sum(rows) + 1.6 * len(examples)) + 1.0
    figure = _new_figure(figsize=(11, height))
    axis = figure.subplots()
    axis.axis("off")
    y = 0.0
    for example, n_rows in zip(examples, rows, strict=True):
        axis.text(0, y, f"{example['prompt']}   ({example['kind']})", fontsize=10, va="center", family="monospace")
        for i, (token, group, effect) in enumerate(
            zip(example["tokens"], example["groups"], example["effects"], strict=True)
        ):
            x, line = i % columns, y - 1.05 - i // columns
            frame = EFFECT_COLOURS[effect] if effect else "white"
            axis.add_patch(
                _rectangle(x, line, facecolor=group_colour(group), edgecolor=frame, linewidth=2 if effect else 0.5)
            )
            text = "end" if token == "<eos>" else token
            colour = "white" if group.endswith("high") else "black"
            size = 6 if len(text) > 1 else 11
            axis.text(x + 0.5, line, text, ha="center", va="center", family="monospace", fontsize=size, color=colour)
        y -= n_rows + 1.6
    present = [group for group in GROUPS if any(group in example["groups"] for example in examples)]
    touched = [effect for effect in EFFECTS if any(effect in example["effects"] for example in examples)]
    patches = [_rectangle(0, 0, facecolor=group_colour(group), label=group_label(group)) for group in present]
    patches += [
        _rectangle(0, 0, facecolor="none", edgecolor=EFFECT_COLOURS[e], linewidth=2, label=e.replace("_", " "))
        for e in touched
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=4, frameon=False)
    axis.set(xlim=(-0.2, columns + 0.2), ylim=(y + 0.4, 0.8))
    figure.savefig(path, dpi=120)


def _rectangle(x: float, y: float, **kwargs):
    from matplotlib.patches import Rectangle

    return Rectangle((x, y - 0.45), 1, 0.9, **kwargs)
