"""
What belongs to a row of TRL's batch, and stays with it when dynamic sampling builds the batch of other rows: tokens,
masks of what tools and environments said, log-probabilities, pictures, and what a `rollout_func` added.
"""

from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple


class Rollout(NamedTuple):
    """A row and its completion, as TRL's `_generate` returned it; see there."""

    row: dict[str, Any]  #: columns of the data, and what `rollout_func` added
    prompt: Any  #: as it was generated from: with what the environment's `reset` said, and with pictures
    prompt_ids: list[int]
    completion_ids: list[int]
    tool_mask: list[int] | None  #: 0 where a token is not the policy's
    completion: Any
    logprobs: list[float] | None
    images: list[Any] | None
    tool_images: list[Any] | None
    logs: dict[str, Any] = {}  #: by `log_extra`

    def __reduce__(self):
        # To another process goes what can: the rewards, known by now, are all that has read the columns.
        row = {name: value for name, value in self.row.items() if _can_travel(value)}
        return Rollout, (row, *self[1:])


def split(rows: list[dict[str, Any]], prompts: list[Any], generated: tuple) -> list[Rollout]:
    """The rollouts of rows, from the prompts that `_generate` was given and what it returned."""
    prompt_ids, completion_ids, tool_mask, completions, logprobs, extra_fields, images, tool_images = generated
    nothing = [None] * len(rows)
    if images is None:  # a `rollout_func` returns none: they stand in the prompts
        images = [_pictures(prompt) for prompt in prompts]
    columns = (prompts, prompt_ids, completion_ids, tool_mask or nothing, completions, logprobs or nothing)
    added = [
        # As TRL adds them: a list has a value for each row, anything else is for all of them.
        {key: v[i] if isinstance(v, list) else v for key, v in extra_fields.items() if _reaches(v, i)}
        for i in range(len(rows))
    ]
    return [
        Rollout(row | more, *values)
        for row, more, *values in zip(rows, added, *columns, images, tool_images or nothing, strict=True)
    ]


def join(rollouts: list[Rollout]) -> tuple[list[dict[str, Any]], tuple]:
    """
    Rows and what `_generate` returned for them. The rows have their prompts as these were generated from, so that TRL
    has nothing left to add to them.
    """
    rows = [{k: v for k, v in r.row.items() if k not in ("image", "images")} | {"prompt": r.prompt} for r in rollouts]
    _, _, prompt_ids, completion_ids, tool_mask, completions, logprobs, images, tool_images, _ = map(
        list, zip(*rollouts, strict=True)
    )
    has_mask = any(mask is not None for mask in tool_mask)
    generated: tuple = (
        prompt_ids,
        completion_ids,
        [mask or [1] * len(ids) for mask, ids in zip(tool_mask, completion_ids, strict=True)] if has_mask else None,
        completions,
        None if None in logprobs else logprobs,
        {},  # the rows have them
        images if any(images) else None,
        [pictures or [] for pictures in tool_images] if any(p is not None for p in tool_images) else [],
    )
    return rows, generated


class Played:
    """In the place of an environment whose episodes are over, while TRL scores them: it has nothing more to say."""

    def reset(self, **kwargs: Any) -> None:
        """Nothing."""


def _reaches(values: Any, i: int) -> bool:
    return not isinstance(values, list) or i < len(values)


def _pictures(prompt: Any) -> list[Any] | None:
    contents = [] if isinstance(prompt, str) else [message.get("content") for message in prompt]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return [part["image"] for part in parts if part["type"] == "image"] or None


def _can_travel(value: Any) -> bool:
    try:
        ForkingPickler.dumps(value)
    except Exception:  # whatever a `__reduce__` of theirs raises
        return False
    return True
