"""Dynamic sampling beyond plain text: what belongs to a row stays with it, whatever round it comes from."""

import pickle

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from PIL import Image
from transformers import LlavaForConditionalGeneration

from htpo_trl import HTPOConfig, HTPOTrainer
from htpo_trl.training.prompts import example_key, prompt_key
from htpo_trl.training.rollouts import Rollout, join, split
from htpo_trl.training.sampling import SamplingExhaustedError

from .. import scenarios
from ..scenario_run import sample
from ..tiny import CPU_ARGUMENTS, same_parameters


class Untyped(LlavaForConditionalGeneration):
    """TRL gives models whose tools answer with pictures the types of the tokens, as Gemma wants them."""

    def forward(self, input_ids=None, pixel_values=None, token_type_ids=None, **kwargs):
        return super().forward(input_ids=input_ids, pixel_values=pixel_values, **kwargs)


def seeing(directory):
    """A tool whose answer is a picture."""
    parts = scenarios.pictures(directory)
    parts["model"] = scenarios.build(Untyped, parts["model"].config)
    tokenizer = parts["processing_class"].tokenizer
    tokenizer.response_template = scenarios.RESPONSE_TEMPLATE
    parts["model"].generation_config.eos_token_id = [1, tokenizer.convert_tokens_to_ids(scenarios.CALL)]

    def add(a: int, b: int) -> list:
        """
        Draw.

        Args:
            a: what
            b: where
        """
        return [{"type": "image", "image": scenarios.picture(a + b)}]

    return parts | {"tools": [add], "options": {"max_completion_length": 40}}


def shown(directory):
    """An environment whose first observation is a picture."""

    class Showing(scenarios.Adding):
        def reset(self, number, **kwargs):
            super().reset(number=number)
            return [{"type": "image", "image": scenarios.picture(number)}]

    parts = scenarios.pictures(directory)
    parts["processing_class"].tokenizer.response_template = scenarios.RESPONSE_TEMPLATE
    data = parts["train_dataset"].remove_columns("image")
    return parts | {"environment_factory": Showing, "train_dataset": data}


def engine(directory):
    """A `rollout_func` for prompts with pictures."""

    def rollout(prompts, trainer):
        ids, _, _ = trainer._tokenize_prompts(prompts)
        return scenarios.rollout(["7"] * len(prompts), trainer) | {"prompt_ids": ids}

    return scenarios.pictures(directory) | {"rollout_func": rollout}


EVERY = (*scenarios.SCENARIOS[:5], seeing, shown, engine)


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")


@pytest.mark.parametrize("name", ["tools", "environment", "rollout_func", "pictures", "pictures_in_messages"])
def test_rows_keep_what_is_theirs(name, tmp_path):
    trainer = sample(name, tmp_path)
    log = trainer.state.log_history[0]
    assert log["htpo/sampling/generated_per_trained"] > 1
    if trainer.tools:
        assert log["tools/call_frequency"] > 0.2
        assert log["tools/failure_frequency"] == 0


def test_several_environments_and_one_that_owns_the_data(tmp_path):
    """Each row has its own by name; without a data set, every row is another episode of the one there is."""

    class Subtracting(scenarios.Adding):
        def reset(self, **kwargs):
            assert "environment" not in kwargs
            super().reset(**kwargs)
            return "9"

    parts = scenarios.environment(tmp_path)
    columns = scenarios.numbered() | {"environment": ["adds", "subtracts"] * 32}
    parts |= {
        "environment_factory": {"adds": scenarios.Adding, "subtracts": Subtracting},
        "train_dataset": Dataset.from_dict(columns),
    }
    options = parts.pop("options")
    arguments = {**CPU_ARGUMENTS, "steps_per_generation": 2, "max_steps": 2, "dynamic_sampling": True, **options}
    trainer = HTPOTrainer(args=HTPOConfig(str(tmp_path / "several"), **arguments), **parts)
    trainer.train()
    asked = [prompt[0]["content"] for prompt in trainer._logs["prompt"]]
    assert [text[2:] for text in asked] == ["9" if int(text[:2]) % 2 else text[1] * 2 for text in asked]
    assert len({int(text[:2]) % 2 for text in asked}) == 2
    assert [type(e).__name__ for pool in trainer._environment_pool.values() for e in pool[:1]] == [
        "Adding",
        "Subtracting",
    ]

    class Owner(scenarios.Adding):
        episodes = 0

        def reset(self, **kwargs):
            Owner.episodes += 1
            return super().reset(number=Owner.episodes)

        def get_reward(self):
            return float(self.calls > 0 and Owner.episodes > 16)

    del parts["train_dataset"], parts["reward_funcs"]
    parts |= {"environment_factory": Owner, "model": scenarios.environment(tmp_path)["model"]}
    trainer = HTPOTrainer(args=HTPOConfig(str(tmp_path / "owned"), **arguments), **parts)
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["htpo/sampling/rounds"] > 1
    assert Owner.episodes == 16 * log["htpo/sampling/generated_per_trained"], "scoring plays no episode again"
    assert trainer.correctness_names == ["Owner"]


def test_a_run_with_environments_resumes(tmp_path):
    """Between batches, where the rows come anew, and in the middle of one, where they are in the checkpoint."""
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1}
    whole = sample("environment", tmp_path, **options)
    for step in (1, 2):
        checkpoint = str(tmp_path / "run" / f"checkpoint-{step}")
        resumed = sample("environment", tmp_path, **options, resume_from_checkpoint=checkpoint)
        assert same_parameters(resumed, whole)


def test_the_table_of_completions_has_pictures_and_logs(tmp_path):
    trainer = sample("pictures", tmp_path, log_completions=True, max_steps=2)
    table = pd.read_parquet(tmp_path / "run" / "completions" / "completions_00001.parquet")
    assert len(table) == 16
    assert [len(pictures) for pictures in trainer._logs["images"]] == [1] * 16


def test_split_and_join():
    """Rows of rounds of which some have tool masks, pictures and fields, and others none."""
    pictures = [scenarios.picture(i) for i in range(2)]
    message = {"role": "user", "content": [{"type": "image", "image": pictures[1]}, {"type": "text", "text": "b"}]}
    first = split(
        [{"prompt": "a", "image": None, "number": 1}, {"prompt": "b", "image": pictures[1], "number": 2}],
        ["a", [message]],
        ([[1], [2]], [[3, 4], [5]], None, ["x", "y"], None, {"each": ["p", "q"], "all": 7, "short": ["r"]}, None, []),
    )
    assert [rollout.row for rollout in first] == [
        {"prompt": "a", "image": None, "number": 1, "each": "p", "all": 7, "short": "r"},
        {"prompt": "b", "image": pictures[1], "number": 2, "each": "q", "all": 7},
    ]
    second = split(
        [{"prompt": "c"}], ["c"], ([[6]], [[7, 8]], [[1, 0]], ["z"], [[-1.0, 0.0]], {}, [[pictures[0]]], [[]])
    )
    rows, generated = join([first[1], second[0], first[0]])
    assert [row["prompt"] for row in rows] == [[message], "c", "a"]
    assert not any("image" in row for row in rows), "the prompts have them"
    assert generated == (
        [[2], [6], [1]],
        [[5], [7, 8], [3, 4]],
        [[1], [1, 0], [1, 1]],
        ["y", "z", "x"],
        None,
        {},
        [[pictures[1]], [pictures[0]], None],
        [[], [], []],
    )
    assert join(first[:1])[1] == ([[1]], [[3, 4]], None, ["x"], None, {}, None, [])


def test_to_another_process_goes_what_can():
    row = {"prompt": "a", "number": 3, "handle": lambda: None}
    rollout = Rollout(row, "a", [1], [2], [1], "b", [-1.0], [scenarios.picture(0)], None, {"column": 4})
    moved = pickle.loads(pickle.dumps(rollout))
    assert moved == rollout._replace(row={"prompt": "a", "number": 3})
    assert rollout.row is row


def test_pictures_make_prompts_differ():
    def asked(image):
        return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "?"}]}]

    a, b, again = scenarios.picture(1), scenarios.picture(2), scenarios.picture(1)
    wide, high = Image.new("RGB", (8, 2)), Image.new("RGB", (2, 8))
    assert prompt_key(asked(a)) == prompt_key(asked(again)) != prompt_key(asked(b))
    assert prompt_key(asked(wide)) != prompt_key(asked(high))
    for column, wrap in (("image", lambda image: image), ("images", lambda image: [image])):
        keys = [example_key({"prompt": "?", column: wrap(image)}) for image in (a, again, b)]
        assert keys[0] == keys[1] != keys[2]
    assert example_key({"prompt": "?", "image": None}) == example_key({"prompt": "?", "number": 4}) == prompt_key("?")
    assert prompt_key([{"bytes": b"a"}]) != prompt_key([{"bytes": b"b"}])
    assert prompt_key(np.zeros(2)) == prompt_key(np.zeros(2)) != prompt_key(np.zeros((2, 1)))
    assert prompt_key({1: {2}}) == prompt_key({1: {2}})


def test_too_few_values_for_a_column_name_the_function(make_trainer):
    def verdict(completions, log_extra, **kwargs):
        log_extra("copy", list(completions)[:3])
        return [float(i % 2) for i in range(len(completions))]

    with pytest.raises(ValueError, match=r"log_extra\('copy', ...\) got 3 values for 32 completions") as error:
        make_trainer(reward_funcs=verdict, dynamic_sampling=True).train()
    assert "The reward function 'verdict' failed" in error.value.__notes__[0]
    make_trainer(reward_funcs=verdict, max_steps=1).train()  # TRL's own business


def test_no_verdicts_at_all(make_trainer):
    def silent(completions, **kwargs):
        return [None] * len(completions)

    with pytest.raises(
        SamplingExhaustedError, match=r"100\.0% without a verdict\. Look at the golds: silent,"
    ) as error:
        make_trainer(reward_funcs=silent, dynamic_sampling=True).train()
    assert "solves sometimes" not in str(error.value)


def every_fourth(completions, **kwargs):
    return [float(i % 4 == 0) for i in range(len(completions))]


@pytest.mark.parametrize("scenario", EVERY, ids=lambda scenario: scenario.__name__)
def test_a_batch_that_is_informative_is_trained_as_without_sampling(scenario, tmp_path):
    """All that TRL does with rows, environments and pictures is the same, to the bit, once generation is apart."""
    logs, trainers = [], []
    for dynamic in (False, True):
        parts = scenario(tmp_path) | {"reward_funcs": every_fourth}
        parts.pop("reward_processing_classes", None)
        options = CPU_ARGUMENTS | {"steps_per_generation": 2, "max_steps": 3} | parts.pop("options", {})
        options["correctness_threshold"] = 0.5
        args = HTPOConfig(str(tmp_path / "run"), **options, dynamic_sampling=dynamic)
        trainer = HTPOTrainer(args=args, **parts)
        trainer.train()
        trainers.append(trainer)
        untold = ("time", "runtime", "per_second", "htpo/sampling")
        rows = [
            {k: v for k, v in row.items() if not any(word in k for word in untold)}
            for row in trainer.state.log_history
        ]
        asked = [prompt_key(prompt) for prompt in trainer._logs["prompt"]]
        logs.append((rows, asked, list(trainer._logs["completion"])))
    assert same_parameters(*trainers)
    assert logs[0] == logs[1]
    assert trainers[1].state.log_history[0]["htpo/sampling/rounds"] == 1
    if scenario is seeing:
        assert {*map(len, trainer._logs["images"])} > {1}, "some rows have pictures of a tool too"
