"""Recording of what the loss did to single tokens, during training: `TokenRecorder`."""

import heapq
import itertools
import random
import warnings
from collections import ChainMap
from functools import partial
from typing import Any

from accelerate.utils import gather_object
from torch import Tensor
from transformers import ProcessorMixin, TrainerCallback

from ..objective.transform import Control
from ..output.writing import WriteError
from ..utils import UsageError, versions
from .record import LABELS, OF_CONTROL, RecordSettings, write_record


class TokenRecorder(TrainerCallback):
    """
    Stores what the trainer computed for sampled completions: every `steps` optimizer steps and in the last one, to
    `output_dir/tokens/step-<N>.parquet` (see [`~htpo_trl.tokens.record`]). `htpo tokens` shows it.

    A file holds completions of its own optimizer step alone: those of all micro-batches that were accumulated for it,
    on all processes, drawn without replacement and with equal chances. Where a generation batch feeds several steps,
    each trains on another part of it. Values are of that step's forward pass, before its update.

    Training goes on as if nothing were recorded, bit for bit. A step that is trained again after a resume draws the
    same completions, and its file is replaced.

    Args:
        trainer ([`HTPOTrainer`]):
            The trainer, whose `add_callback` takes this callback.
        steps (`int`, *optional*, defaults to `10`):
            Optimizer steps between two records.
        completions (`int`, *optional*, defaults to `16`):
            Completions per record, which bounds the file; a token takes about 20 bytes on disk.

    Example:

    ```python
    trainer.add_callback(TokenRecorder(trainer, steps=10, completions=16))
    ```
    """

    def __init__(self, trainer: Any, steps: int = 10, completions: int = 16) -> None:
        for name, value in (("steps", steps), ("completions", completions)):
            if value < 1:
                raise UsageError(f"TokenRecorder: {name}={value} must be at least 1.")
        self.trainer, self.steps, self.completions = trainer, steps, completions
        processor = trainer.processing_class
        self.tokenizer = processor.tokenizer if isinstance(processor, ProcessorMixin) else processor
        self._random = random.Random()
        self._n_rows = 0
        # The rows with the smallest of random keys are a sample without replacement, however rows come in. `None`
        # where nothing is recorded.
        self._sample: dict[float, dict[str, Any]] | None = None
        trainer.loss_observers.append(self._observe)

    def on_step_begin(self, args, state, control, **kwargs):
        step = state.global_step + 1
        self._random.seed(f"{args.seed} {step} {self.trainer.accelerator.process_index}")
        self._n_rows = 0
        self._sample = {} if step % self.steps == 0 or step == state.max_steps else None

    def on_step_end(self, args, state, control, **kwargs):
        if self._sample is None:
            return
        parts = gather_object([(self._n_rows, self._sample)])
        self._sample = None
        if not self.trainer.accelerator.is_main_process:
            return
        try:
            self._write(args, state.global_step, parts)
        except Exception as error:  # training is worth more than a record of it
            reason = str(error) if isinstance(error, WriteError) else repr(error)
            warnings.warn(
                f"The tokens of step {state.global_step} are not recorded. {reason} Training goes on.", stacklevel=2
            )

    def _write(self, args: Any, step: int, parts: list[tuple[int, dict[float, dict[str, Any]]]]) -> None:
        counts, samples = zip(*parts, strict=True)
        trainer = self.trainer
        settings = RecordSettings(
            step=step,
            completions_in_step=sum(counts),
            table=trainer.table,
            epsilon_low=trainer.epsilon_low,
            epsilon_high=trainer.epsilon_high,
            delta=args.delta,
            top_entropy_share=args.top_entropy_share,
            reward_funcs=list(trainer.reward_func_names),
            versions=versions(),
        )
        rows = ChainMap(*samples)
        chosen = [rows[key] for key in heapq.nsmallest(self.completions, rows)]
        for row in chosen:
            row["tokens"] = token_texts(self.tokenizer, row["token_ids"])
            row["prompt"] = prompt_text(self.tokenizer, row["prompt"])
        write_record(args.output_dir, settings, chosen)

    def _observe(self, inputs: dict, result: Control, **tensors: Tensor) -> None:
        if self._sample is None:
            return
        ids, n = inputs["completion_ids"], len(inputs["completion_ids"])
        keys = {self._random.random(): i for i in range(n)}
        kept = {*heapq.nsmallest(self.completions, [*self._sample, *keys])}
        self._n_rows += n
        columns = {
            "token_ids": ids,
            "advantages": inputs["advantages"].reshape(n, -1).expand_as(result.groups),  # (B, T) of (B,) or (B, T)
            **dict(zip(OF_CONTROL, result, strict=True)),
            **tensors,
        }
        # A truncated completion may be masked as a whole, and padding may be the end token.
        there = inputs["completion_mask"].bool() | (ids != self.tokenizer.pad_token_id)
        self._sample = {key: row for key, row in self._sample.items() if key in kept}
        for key in kept & keys.keys():
            i = keys[key]
            length = max(there[i].nonzero().flatten().tolist(), default=-1) + 1
            self._sample[key] = {
                "prompt": inputs["prompt_ids"][i][inputs["prompt_mask"][i].bool()].tolist(),
                **{name: column[i, :length].tolist() for name, column in columns.items()},
                **{name: bool(inputs[name][i]) for name in LABELS},
                "rewards": [None if reward != reward else reward for reward in inputs["rewards_per_func"][i].tolist()],
            }


def prompt_text(tokenizer: Any, ids: list[int]) -> str:
    """
    The text of a prompt, special tokens included. A picture takes hundreds of one of them: many in a row stand once,
    with their number.
    """
    parts: list[list[int]] = [[]]
    times = [1]
    special = {*tokenizer.all_special_ids}
    for token, run in itertools.groupby(ids):
        n = len(list(run))
        if n > _MANY and token in special:
            parts += [[token], []]
            times += [n, 1]
        else:
            parts[-1] += [token] * n
    texts = (tokenizer.decode(part, clean_up_tokenization_spaces=False) for part in parts)
    return "".join(text if n == 1 else f"{text}[×{n}]" for text, n in zip(texts, times, strict=True))


_MANY = 4  # of the same special token
_LONGEST_WAIT = 32  # tokens without a character; each is decoded again with every one that follows


def token_texts(tokenizer: Any, ids: list[int]) -> list[str]:
    """
    The text of each token, such that together they are the text of all. A character of several tokens, as byte-level
    vocabularies spell rare ones, belongs to the last of them; the others have no text.
    """
    decode = partial(tokenizer.decode, clean_up_tokenization_spaces=False)
    texts: list[str] = []
    # A tokenizer may decode the first token of a sequence differently: the tokens from `context` to `start` stand
    # before those whose text is looked for.
    context = start = 0
    for end in range(1, len(ids) + 1):
        text = decode(ids[context:end])
        # It may be a part of a character, or bytes that spell none: then others follow that do not mend it.
        if text.endswith("\ufffd") and end - start < _LONGEST_WAIT and end < len(ids):
            texts.append("")
        else:
            texts.append(text[len(decode(ids[context:start])) :])
            context, start = start, end
    return texts
