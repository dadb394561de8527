"""Recording of what the loss did to single tokens, during training: `TokenRecorder`."""

import heapq
import random
from typing import Any

from accelerate.utils import gather_object
from torch import Tensor
from transformers import ProcessorMixin, TrainerCallback

from ..objective.transform import Control
from ..utils import versions
from .record import RecordSettings, write_record


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
                raise ValueError(f"TokenRecorder: {name}={value} must be at least 1.")
        self.trainer, self.steps, self.completions = trainer, steps, completions
        processor = trainer.processing_class
        self.tokenizer = processor.tokenizer if isinstance(processor, ProcessorMixin) else processor
        self._is_recording = False
        self._random = random.Random()
        self._n_rows = 0
        # The rows with the smallest of random keys are a sample without replacement, however rows come in.
        self._sample: dict[float, dict[str, Any]] = {}
        trainer.loss_observers.append(self._observe)

    def on_step_begin(self, args, state, control, **kwargs):
        step = state.global_step + 1
        self._is_recording = step % self.steps == 0 or step == state.max_steps
        self._random.seed(f"{args.seed} {step} {self.trainer.accelerator.process_index}")
        self._n_rows, self._sample = 0, {}

    def on_step_end(self, args, state, control, **kwargs):
        if not self._is_recording:
            return
        self._is_recording = False
        gathered = gather_object([(self._n_rows, self._sample)])
        self._sample = {}
        trainer = self.trainer
        if not trainer.accelerator.is_main_process:
            return
        rows = {key: row for _, sample in gathered for key, row in sample.items()}
        settings = RecordSettings(
            step=state.global_step,
            completions_in_step=sum(n for n, _ in gathered),
            table=trainer.table,
            epsilon_low=trainer.epsilon_low,
            epsilon_high=trainer.epsilon_high,
            delta=args.delta,
            top_entropy_share=args.top_entropy_share,
            reward_funcs=list(trainer.reward_func_names),
            versions=versions(),
        )
        chosen = [self._with_texts(rows[key]) for key in heapq.nsmallest(self.completions, rows)]
        write_record(args.output_dir, settings, chosen)

    def _observe(self, inputs: dict, result: Control, **tensors: Tensor) -> None:
        if not self._is_recording:
            return
        keys = [self._random.random() for _ in inputs["completion_ids"]]
        kept = {*heapq.nsmallest(self.completions, [*self._sample, *keys])}
        self._n_rows += len(keys)
        advantages = inputs["advantages"]
        columns = {
            "token_ids": inputs["completion_ids"],
            "advantages": (advantages.unsqueeze(1) if advantages.dim() == 1 else advantages).expand_as(result.groups),
            "effective_advantages": result.advantages,
            "effective_old_per_token_logps": result.old_per_token_logps,
            "groups": result.groups,
            "effects": result.effects,
            **tensors,
        }
        self._sample = {key: row for key, row in self._sample.items() if key in kept}
        self._sample |= {key: self._row(inputs, columns, i) for i, key in enumerate(keys) if key in kept}

    def _row(self, inputs: dict, columns: dict[str, Tensor], i: int) -> dict[str, Any]:
        ids = inputs["completion_ids"][i]
        # A truncated completion may be masked as a whole, and padding may be the end token.
        there = inputs["completion_mask"][i].bool() | (ids != self.tokenizer.pad_token_id)
        length = int(there.nonzero().max()) + 1 if there.any() else 0
        return {
            "prompt": inputs["prompt_ids"][i][inputs["prompt_mask"][i].bool()].tolist(),
            **{name: column[i, :length].tolist() for name, column in columns.items()},
            **{name: bool(inputs[name][i]) for name in ("is_hard", "is_correct", "is_judged")},
            "rewards": [None if reward != reward else reward for reward in inputs["rewards_per_func"][i].tolist()],
        }

    def _with_texts(self, row: dict[str, Any]) -> dict[str, Any]:
        prompt = _decode(self.tokenizer, row["prompt"])
        return row | {"prompt": prompt, "tokens": token_texts(self.tokenizer, row["token_ids"])}


_LONGEST_WAIT = 32  # tokens without a character; each is decoded again with every one that follows


def token_texts(tokenizer: Any, ids: list[int]) -> list[str]:
    """
    The text of each token, such that together they are the text of all. A character of several tokens, as byte-level
    vocabularies spell rare ones, belongs to the last of them; the others have no text.
    """
    texts: list[str] = []
    # A tokenizer may decode the first token of a sequence differently: the tokens from `context` to `start` stand
    # before those whose text is looked for.
    context = start = 0
    before = ""
    for end in range(1, len(ids) + 1):
        text = _decode(tokenizer, ids[context:end])
        # It may be a part of a character, or bytes that spell none: then others follow that do not mend it.
        if text.endswith("\ufffd") and end - start < _LONGEST_WAIT and end < len(ids):
            texts.append("")
            continue
        texts.append(text[len(before) :])
        context, start = start, end
        before = _decode(tokenizer, ids[context:start])
    return texts


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
