"""Several tasks in one run, each with a reward function that returns None for the others' rows, TRL's usual way."""

import logging

import pytest
from datasets import Dataset
from trl import TrlParser

from htpo_trl import HTPOConfig, HTPOTrainer
from htpo_trl.data import load
from htpo_trl.data.countdown import countdown_reward
from htpo_trl.rewards import dapo_math_reward
from htpo_trl.utils import UsageError

from ..hub_files import write_jsonl
from ..tiny import even_digits


ROWS = [{"prompt": f"{i:02d}", "task": "sums" if i % 2 else "products"} for i in range(64)]


def sums(completions, task, **kwargs):
    return [e if t == "sums" else None for e, t in zip(even_digits(completions), task, strict=True)]


def products(completions, task, **kwargs):
    return [e if t == "products" else None for e, t in zip(even_digits(completions), task, strict=True)]


def brevity(completions, **kwargs):
    return [-len(text) / 10 for text in completions]


@pytest.fixture
def data():
    return Dataset.from_list(ROWS)


@pytest.fixture
def scored(make_model, tokenizer, make_config):
    """Score a batch of eight groups, of two tasks in turn; returns the trainer and the batch."""

    def scored(*rewards, rows=ROWS, n=1, **options):
        config = make_config(**options)
        trainer = HTPOTrainer(make_model(), list(rewards), config, Dataset.from_list(rows), processing_class=tokenizer)
        trainer.model.train()
        for _ in range(n):
            output = trainer._generate_and_score_completions([row for row in rows[:8] for _ in range(4)])
        return trainer, output

    return scored


def tasks_of(trainer, output):
    prompts = trainer.processing_class.batch_decode(output["prompt_ids"], skip_special_tokens=True)
    return [ROWS[int(prompt)]["task"] for prompt in prompts]


@pytest.mark.parametrize("dynamic_sampling", [False, True])
def test_each_task_has_its_judge(scored, caplog, dynamic_sampling):
    names = ["sums", "products"]
    trainer, output = scored(sums, products, correctness_reward=names, dynamic_sampling=dynamic_sampling)
    tasks, verdicts = tasks_of(trainer, output), output["rewards_per_func"]
    assert {*tasks} == {*names}
    assert output["is_judged"].all()
    for i, task in enumerate(tasks):
        assert verdicts[i].isnan().tolist() == [task != name for name in names]
        assert output["is_correct"][i] == (verdicts[i, names.index(task)] == 1)
    if dynamic_sampling:
        right = output["is_correct"].view(8, 4).sum(dim=1)
        assert ((right > 0) & (right < 4)).all()
    assert trainer._metrics["train"]["htpo/frac_unjudged"] == [0]
    assert not [record for record in caplog.records if record.name.startswith("htpo_trl")]


def test_the_first_that_gives_a_verdict_judges(scored):
    def strict(completions, **kwargs):
        return [0.0 if i % 4 == 0 else None for i in range(len(completions))]

    def lenient(completions, **kwargs):
        return [0.8 if i % 4 < 3 else None for i in range(len(completions))]

    def last(completions, **kwargs):
        return [0.4] * len(completions)

    _, output = scored(strict, lenient, last, correctness_reward=["strict", "lenient", "last"])
    assert output["is_correct"].view(8, 4).tolist() == [[False, True, True, False]] * 8
    _, output = scored(strict, lenient, last, correctness_reward=["last", "lenient"], correctness_threshold=0.3)
    assert output["is_correct"].all()


def test_a_task_without_a_judge_is_kept_and_told_once(scored, caplog):
    """By default the first function judges. It used to lose the other task's groups without a word."""
    trainer, output = scored(sums, products, dynamic_sampling=True, n=3)
    tasks = tasks_of(trainer, output)
    judged = output["is_judged"].tolist()
    assert judged == [task == "sums" for task in tasks]
    assert 0 < judged.count(False) < 32
    rewards = output["rewards_per_func"].nansum(dim=1).view(8, 4)
    assert (rewards.std(dim=1) > 0).all(), "what is kept has something to teach"
    told = [record.message for record in caplog.records if record.name == "htpo_trl.training.verdicts"]
    assert len(told) == 1
    assert told[0].startswith("50% of the responses have no verdict: sums, asked for correctness, returned None.")
    assert told[0].endswith("They are another task: name its judge too, correctness_reward=['sums', 'products'].")
    share = judged.count(False) / 32
    assert trainer._metrics["train"]["htpo/frac_unjudged"][-1] == pytest.approx(share)
    assert trainer._metrics["train"]["htpo/sampling/frac_unjudged"][-1] > 0


def test_unjudged_groups_whose_rewards_are_equal_are_replaced(scored):
    def constant(completions, task, **kwargs):
        return [3.0 if t == "products" else None for t in task]

    trainer, output = scored(sums, constant, dynamic_sampling=True)
    assert set(tasks_of(trainer, output)) == {"sums"}
    assert trainer._metrics["train"]["htpo/frac_unjudged"] == [0]


@pytest.mark.parametrize(("share", "tells"), [(32, True), (3, True), (1, False)])
def test_how_many_are_worth_a_word(scored, caplog, share, tells):
    def judge(completions, **kwargs):
        return [None if i < share else 1.0 for i in range(len(completions))]

    trainer, _ = scored(judge, brevity)
    assert trainer._metrics["train"]["htpo/frac_unjudged"] == [pytest.approx(share / 32)]
    assert ("have no verdict" in caplog.text) is tells
    assert ("Look at their golds; if they are another task" in caplog.text) is tells
    assert "brevity" not in caplog.text, "a penalty that is everywhere is not proposed as a judge"


def test_golds_are_looked_at_where_no_function_gives_a_reward(scored, caplog):
    with caplog.at_level(logging.WARNING):
        scored(lambda completions, **kwargs: [None] * 16 + [1.0] * 16)
    assert "50% of the responses have no verdict" in caplog.text
    assert "they teach nothing: look at their golds" in caplog.text


@pytest.mark.parametrize("given", ["products", ["products"], ("sums", "products")])
def test_names_in_python(make_trainer, data, given):
    trainer = make_trainer(reward_funcs=[sums, products], train_dataset=data, correctness_reward=given)
    assert trainer.correctness_names == ([given] if isinstance(given, str) else list(given))
    assert trainer.args.correctness_reward == given


def test_names_in_recipes_and_on_the_command_line(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    for written, flags, names in [
        ("correctness_reward: sums", [], ["sums"]),
        ("correctness_reward: [sums, products]", [], ["sums", "products"]),
        ("", ["--correctness_reward", "sums"], ["sums"]),
        ("", ["--correctness_reward", "sums", "products"], ["sums", "products"]),
        ("", [], []),
    ]:
        recipe.write_text(f"output_dir: out\nuse_cpu: true\nbf16: false\n{written}\n")
        (config,) = TrlParser(HTPOConfig).parse_args_and_config(["--config", str(recipe), *flags])
        assert config.correctness_names == names


@pytest.mark.parametrize("given", ["sum", ["sums", "product"], ["sums", "sums", "x"], []])
def test_names_that_are_none(make_trainer, data, given):
    options = {"reward_funcs": [sums, products], "train_dataset": data, "correctness_reward": given}
    if not given:
        assert make_trainer(**options).correctness_names == ["sums"]
        return
    with pytest.raises(UsageError, match=r"must name one reward function; there are sums, products\."):
        make_trainer(**options)


def test_they_are_in_the_model_card(make_trainer, data, tmp_path):
    names = ["products", "sums"]
    trainer = make_trainer(reward_funcs=[sums, products], train_dataset=data, correctness_reward=names)
    trainer.create_model_card()
    assert "`products`, else `sums` judges correctness" in (tmp_path / "run" / "README.md").read_text()


def test_a_file_of_two_tasks(tmp_path):
    """Rows may lack each other's columns, the first too; the package's rewards abstain on each other's rows."""
    rows = [
        {"prompt": "2,5,9>43:"},
        {"prompt": "1 + 1?", "solution": "2", "level": 3},
        {"prompt": "9,9,9>90:", "solution": None},
    ]
    dataset = load(write_jsonl(tmp_path / "tasks.jsonl", *rows))
    assert dataset.to_list() == [{"solution": None, "level": None} | row for row in rows]
    columns = {"prompts": dataset["prompt"][:], "solution": dataset["solution"][:]}
    completions = ["5*9=45,45-2=43!", "Answer: 2", "9+9=18,18*9=162!"]
    assert countdown_reward(completions=completions, **columns) == [1.0, None, 0.0]
    assert dapo_math_reward(completions=completions, **columns) == [None, 1.0, None]
