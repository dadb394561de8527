"""Where the fresh prompts of dynamic sampling come from: an endless, seeded walk through the training data."""

import itertools
import json
from collections.abc import Iterator, Sized
from typing import Any

import numpy as np

from ..utils import UsageError, check_prompt, content_digest


class PromptStream:
    """
    An endless, seeded walk through the training data, apart from the trainer's own.

    Its order is a function of the data and the seed, another one in each pass, so that `drawn`, the number of examples
    taken so far, is all its state: set it to go on from there. With `shuffle` a map-style data set is permuted, an
    iterable one shuffled in its buffer; to go on in an iterable one reads what lies before `drawn` again.
    """

    def __init__(self, dataset: Any, seed: int, shuffle: bool = True) -> None:
        self.dataset, self.seed, self.shuffle = dataset, seed, shuffle
        self._is_map = isinstance(dataset, Sized)
        self.drawn = 0
        self._position = 0  # of the open walk; where it is not `drawn`, the walk is opened anew
        self._walk: Iterator[tuple[int, Any]] | None = None

    def draw(self, n: int, held: set[str] | None) -> list[dict[str, Any]]:
        """
        The next `n` examples whose prompts differ from each other and are not in `held` (by [`example_key`]). Fewer,
        if a whole pass through the data offers no more. With `held=None` just the next `n`.
        """
        if self._walk is None or self._position != self.drawn:
            self._walk = itertools.islice(self._endless(), self.drawn, None)
        seen = set(held or ())
        examples: list[dict[str, Any]] = []
        last_pass = 0
        while len(examples) < n:
            current_pass, item = next(self._walk)
            self.drawn += 1
            last_pass = last_pass or current_pass + 1  # a whole pass, wherever this one began
            if current_pass > last_pass:
                break
            example = self.dataset[item] if self._is_map else item
            key = str(self.drawn) if held is None else example_key(example)
            if key not in seen:
                seen.add(key)
                examples.append(example)
        self._position = self.drawn
        return examples

    def _endless(self) -> Iterator[tuple[int, Any]]:
        """(number of the pass, index or example), for ever."""
        stream = self.dataset.shuffle(seed=self.seed) if self.shuffle and not self._is_map else self.dataset
        for n_pass in itertools.count():
            items: Any = range(len(self.dataset)) if self._is_map else stream
            if self.shuffle and self._is_map:
                items = np.random.default_rng([self.seed, n_pass]).permutation(items).tolist()
            elif self.shuffle:
                stream.set_epoch(n_pass)
            item = None
            for item in items:
                yield n_pass, item
            if item is None:
                raise UsageError("The training data is empty.")


def example_key(example: dict[str, Any]) -> str:
    """What makes the prompts of two examples the same: the text, or conversation, and the pictures beside it."""
    pictures = {name: example[name] for name in ("image", "images") if example.get(name) is not None}
    prompt = example.get("prompt")
    return prompt_key([prompt, pictures] if pictures else prompt)


def prompt_key(prompt: Any) -> str:
    """What makes two prompts, text or conversations, the same; pictures count by their content."""
    return json.dumps(prompt, sort_keys=True, default=content_digest)


def check_dataset(dataset: Any) -> None:
    """Refuse what is no data set, or several splits of one."""
    if isinstance(dataset, dict) or not hasattr(dataset, "column_names"):
        splits = f"one of its splits: {', '.join(map(str, dataset))}" if isinstance(dataset, dict) else "a data set"
        raise UsageError(
            f"train_dataset is a `{type(dataset).__name__}`: pass {splits}, as htpo_trl.data.load or "
            "datasets.load_dataset(..., split=...) gives it."
        )


def check_prompt_values(dataset: Any, name: str = "The data") -> None:
    """Refuse a row whose prompt is neither text nor a conversation; of a stream, the first row alone is looked at."""
    if isinstance(dataset, Sized):
        batches: Any = dataset.select_columns("prompt").with_format("arrow").iter(1000)  # type: ignore[attr-defined]
        prompts = (prompt for batch in batches for prompt in batch["prompt"].to_pylist())
    else:
        prompts = (row["prompt"] for row in itertools.islice(dataset, 1))
    for number, prompt in enumerate(prompts, 1):
        check_prompt(prompt, f"{name}, row {number}")
