"""
Dynamic sampling (DAPO, arXiv 2503.14476): a group whose responses are all right or all wrong carries no signal. It is
discarded, and fresh prompts are drawn until every group of the batch is informative.

[`is_informative`] is the criterion. [`collect`] is the loop, on any number of processes: each decision is a function
of gathered verdicts, so all processes take the same one; [`PromptStream`] is where the fresh prompts come from. Only
[`DynamicSampler`], which ties them to a trainer, knows of TRL.
"""

import copy
import math
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from ..utils import UsageError
from .prompts import PromptStream, prompt_key


def is_informative(accuracy: float) -> bool:
    """Whether a group is kept: its responses have both verdicts. NaN, where none was judged, is not informative."""
    return 0 < accuracy < 1


class SamplingExhaustedError(UsageError):
    """No full batch of informative groups was found."""


def split_rows(columns: tuple, n: int) -> list[tuple]:
    """The rows of a table of `n` rows whose columns are lists, or else the same for every row."""
    return [tuple(column[i] if _is_per_row(column, n) else column for column in columns) for i in range(n)]


def join_rows(rows: list[tuple], like: tuple, n_like: int) -> tuple:
    """The table of these rows, with the columns of `like`, a table of `n_like` rows."""
    return tuple([row[k] for row in rows] if _is_per_row(column, n_like) else column for k, column in enumerate(like))


def _is_per_row(column: Any, n: int) -> bool:
    return isinstance(column, list) and len(column) == n


class Rollouts(NamedTuple):
    """Completions of one round."""

    rows: list[Any]  #: one per completion of this process; may go to another process
    rewards: Tensor  #: (n_processes * len(rows), n_rewards), of all processes
    accuracy: list[float]  #: of each group of all processes; NaN where no response was judged


class Batch(NamedTuple):
    """What [`collect`] returns."""

    rows: list[Any]  #: of this process
    rewards: Tensor  #: (n_processes * len(rows), n_rewards), of all processes
    rounds: int
    accuracy: list[float]  #: of every group that was generated, in order
    missing: int  #: groups of the batch that are not informative

    def metrics(self, group_size: int) -> dict[str, float]:
        """
        `rounds` of generation; shares of the groups that were generated, `frac_informative`, `frac_all_correct` and
        `frac_all_wrong`, and their mean `accuracy`; `generated_per_trained` completions; `frac_filled`, the share of
        the groups trained on that are not informative.
        """
        n = len(self.accuracy)
        judged = [share for share in self.accuracy if not math.isnan(share)]
        return {
            "rounds": self.rounds,
            "frac_informative": sum(map(is_informative, judged)) / n,
            "frac_all_correct": judged.count(1.0) / n,
            "frac_all_wrong": judged.count(0.0) / n,
            "accuracy": sum(judged) / len(judged) if judged else math.nan,
            "generated_per_trained": n * group_size / len(self.rewards),
            "frac_filled": self.missing * group_size / len(self.rewards),  # of the groups that are trained on
        }


def collect(
    first: list[dict[str, Any]],
    *,
    roll_out: Callable[[list[dict[str, Any]]], Rollouts],
    draw: Callable[[int, set[str]], list[dict[str, Any]]],
    exchange: Callable[[list[Any]], list[Any]],
    group_size: int,
    rank: int,
    n_processes: int,
    max_rounds: int,
) -> Batch:
    """
    Generate until every group of the batch is informative, that is, has responses of both verdicts.

    A later round generates as many groups as, at the share of informative ones so far, will fill the batch, but never
    more than the batch. The earliest informative groups are taken; only rows that end up on another process travel.

    Args:
        first (`list[dict]`):
            This process's rows of the batch: each prompt `group_size` times in a row, over all processes.
        roll_out (`Callable`):
            Generates and judges a completion for each row; called on every process with equally many rows.
        draw (`Callable`):
            Number, keys of the prompts that the batch holds → as many fresh examples, or fewer; the same everywhere.
        exchange (`Callable`):
            Concatenates the lists of all processes, in the order of their ranks.
        max_rounds (`int`):
            Rounds of generation, the first included.

    Returns:
        [`Batch`]: as many rows as `first`. Where the rounds or the prompts ran out before it was full, `missing`
        says how many of its groups are not informative; those are of the first round.
    """
    n_rows = len(first)
    wanted = n_rows * n_processes // group_size
    unit = n_processes // math.gcd(n_processes, group_size)  # groups that divide into equal numbers of rows
    accuracy, keys, rewards = list[float](), list[str](), list[Tensor]()  # of every group that was generated
    rows: dict[int, Any] = {}  # place among all completions -> row, of those of this process that may be taken
    inputs = first
    for n_rounds in range(1, max_rounds + 1):
        rollouts = roll_out(inputs)
        begin = len(keys) * group_size + rank * len(inputs)
        accuracy += rollouts.accuracy
        keys += exchange([prompt_key(x["prompt"]) for x in inputs])[::group_size]
        rewards += rollouts.rewards.split(group_size)
        for place, row in enumerate(rollouts.rows, begin):
            if n_rounds == 1 or is_informative(accuracy[place // group_size]):
                rows[place] = row
        informative = [i for i, share in enumerate(accuracy) if is_informative(share)]
        needed = wanted - len(informative)
        if needed <= 0 or n_rounds == max_rounds:
            break
        expected = math.ceil(needed * len(accuracy) / max(len(informative), 1))
        n_groups = min(math.ceil(expected / unit) * unit, wanted)
        examples = draw(n_groups, {keys[i] for i in informative})
        examples = examples[: len(examples) // unit * unit]
        if not examples:
            break
        per_process = len(examples) * group_size // n_processes
        places = range(rank * per_process, (rank + 1) * per_process)
        inputs = [copy.deepcopy(examples[place // group_size]) for place in places]

    spare = [i for i in range(wanted) if not is_informative(accuracy[i])]  # of the first round
    groups = (informative + spare)[:wanted]
    taken = [group * group_size + j for group in groups for j in range(group_size)]
    held = {i: rows[place] for i, place in enumerate(taken) if place in rows}
    held.update(exchange([(place, row) for place, row in held.items() if place // n_rows != rank]))
    return Batch(
        rows=[held[place] for place in range(rank * n_rows, (rank + 1) * n_rows)],
        rewards=torch.cat([rewards[i] for i in groups]),
        rounds=n_rounds,
        accuracy=accuracy,
        missing=max(needed, 0),
    )


class Sampled(NamedTuple):
    """What dynamic sampling leaves to be scored."""

    generated: tuple  #: as TRL's `_generate` returns it
    rewards: Tensor  #: (n_processes * B, n_rewards), of all processes


class DynamicSampler:
    """
    Samples the batches of a trainer dynamically. Only TRL scores, later: completions that are discarded cost no
    forward pass. It logs `htpo/sampling/<what>`, see [`Batch.metrics`], and `seconds` of generating and judging. TRL's
    `completions/*` and token counts are of all that was generated, its rewards of what is trained on.

    Raises:
        UsageError: if the trainer samples dynamically, and has something that cannot follow prompts drawn here.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.prompts = PromptStream(trainer.train_dataset, trainer.args.seed, bool(trainer.shuffle_dataset))
        if not trainer.args.dynamic_sampling:
            return
        for name in ("rollout_func", "environment_factories", "tools"):
            if getattr(trainer, name):
                raise UsageError(
                    f"dynamic_sampling=True draws prompts of its own, which `{name}` cannot follow: it keeps state "
                    "per row of the batch. Set dynamic_sampling=False, or leave the argument out."
                )
        if columns := {"image", "images"} & set(next(iter(trainer.train_dataset))):
            raise UsageError(
                f"dynamic_sampling=True supports text only; the training data has the column {min(columns)!r}. Set "
                "dynamic_sampling=False, or remove the column."
            )

    def sample(self, inputs: list[dict]) -> tuple[list[dict], Sampled]:
        """
        Generate, from this process's rows of a batch on, until every group is informative. Returns the rows to train
        on and what has been sampled for them, and logs what it took and what the reward functions log of them.

        Raises:
            SamplingExhaustedError: if no full batch was found; a checkpoint is saved before.
        """
        trainer, started = self.trainer, time.perf_counter()
        accelerator = trainer.accelerator
        first: tuple = ()  # what generation returned at first
        logged: dict[str, list[float]] = {}  # metric -> values, which TRL will average

        def roll_out(rows):
            nonlocal first
            prompts = [row["prompt"] for row in rows]
            generated = trainer._generate(prompts)
            _, completion_ids, _, completions, *_ = generated
            rewards = trainer._calculate_rewards(rows, prompts, completions, completion_ids)
            extra_logs = dict(trainer._pending_extra_logs)
            trainer._pending_extra_logs.clear()
            for name, values in trainer._pending_metrics.items():
                # A round counts as often as it has rows.
                logged.setdefault(name, []).extend(values * len(rows))
            trainer._pending_metrics.clear()
            logs = [{name: values[i] for name, values in extra_logs.items()} for i in range(len(rows))]
            first = first or generated
            accuracy = trainer._labels("train")[2].tolist()
            return Rollouts(list(zip(rows, split_rows(generated, len(rows)), logs, strict=True)), rewards, accuracy)

        def draw(n, held):
            # One process reads, so that all have the same prompts, whatever the data set does.
            drawn = self.prompts.draw(n, held) if accelerator.is_main_process else []
            (drawn,) = broadcast_object_list([drawn])
            return [{name: example[name] for name in inputs[0]} for example in drawn]

        batch = collect(
            inputs,
            roll_out=roll_out,
            draw=draw,
            exchange=gather_object,
            group_size=trainer.num_generations,
            rank=accelerator.process_index,
            n_processes=accelerator.num_processes,
            max_rounds=trainer.args.max_sampling_rounds,
        )
        metrics = batch.metrics(trainer.num_generations) | {"seconds": time.perf_counter() - started}
        for name, value in metrics.items():
            trainer._metrics["train"][f"htpo/sampling/{name}"].append(value)
        if batch.missing:
            self._exhausted(batch, metrics)
        rows, fields, logs = (list(column) for column in zip(*batch.rows, strict=True))
        names = {name for log in logs for name in log}
        trainer._pending_extra_logs.update({name: [log.get(name) for log in logs] for name in names})
        trainer._pending_metrics.update(logged)
        return rows, Sampled(join_rows(fields, first, len(inputs)), batch.rewards)

    def _exhausted(self, batch: Batch, metrics: dict[str, float]) -> None:
        args = self.trainer.args
        n_groups = len(batch.rewards) // self.trainer.num_generations
        why = (
            f"dynamic_sampling found {n_groups - batch.missing} informative groups of the {n_groups} of a batch, in "
            f"{batch.rounds} rounds (max_sampling_rounds={args.max_sampling_rounds}). Of the {len(batch.accuracy)} "
            f"groups generated, {metrics['frac_informative']:.1%} were informative, {metrics['frac_all_correct']:.1%} "
            f"all correct and {metrics['frac_all_wrong']:.1%} all wrong."
        )
        if args.on_sampling_exhausted == "train":
            if self.trainer.accelerator.is_main_process:
                warnings.warn(f"{why} The batch is filled with discarded groups.", stacklevel=2)
            return
        saved = self.trainer.save_last_step()
        raise SamplingExhaustedError(
            f"{why} Use prompts that the model solves sometimes (easier ones if most are all wrong, harder ones if "
            "most are all correct), raise num_generations or max_sampling_rounds, or set "
            f"on_sampling_exhausted='train'. {saved}"
        )
