"""Prompts of evaluation during training are those of training: of processors, with options, tools, environments."""

import json

import pytest
from datasets import Dataset
from trl import RLOOConfig, RLOOTrainer

from htpo_trl import HTPOConfig, HTPOTrainer
from htpo_trl.evaluation import EvaluationCallback, Sampling, evaluate
from htpo_trl.utils import UsageError

from .. import scenarios
from ..tiny import CPU_ARGUMENTS


QUESTION = [{"role": "user", "content": "12"}]


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What the model is asked, as text, by an evaluation of a problem, and what by training on it."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")

    def asked(scenario, problem=None, options=None, chat_template_kwargs=None, **parts):
        parts = scenario(tmp_path) | parts
        arguments = CPU_ARGUMENTS | {"max_completion_length": 4, "max_steps": 1, "eval_steps": 1}
        arguments |= {"per_device_train_batch_size": 4, "steps_per_generation": 1, "objective": "dapo"}
        arguments |= {"chat_template_kwargs": chat_template_kwargs}
        parts.pop("options", None)
        trainer = HTPOTrainer(args=HTPOConfig(str(tmp_path / "run"), **arguments), **parts)
        sampling = Sampling(num_samples=2, max_new_tokens=2, chat_template_kwargs=options)
        problem = problem or {"prompt": QUESTION}
        callback = EvaluationCallback(trainer, {"one": [problem]}, sampling, scenarios.evens)
        seen, generate = [], trainer.model.generate

        def generating(*args, **kwargs):
            texts = trainer._tokenizer.batch_decode(kwargs["input_ids"])
            seen.append({text.replace("<pad>", "") for text in texts})
            return generate(*args, **kwargs)

        monkeypatch.setattr(trainer.model, "generate", generating)
        trainer.add_callback(callback)
        trainer.train()
        (before,), (training,), (after,) = seen
        assert before == after
        return before, training

    return asked


def only(number=12):
    return Dataset.from_list([{"prompt": [{"role": "user", "content": f"{number:02d}"}], "number": number}] * 4)


def test_a_processor(asked):
    before, training = asked(scenarios.pictures, train_dataset=only())
    assert before == training == "12>A:"


def test_options_of_the_template(asked):
    assert asked(scenarios.chat, train_dataset=only(), chat_template_kwargs={"mark": "7"}) == ("12>7A:",) * 2
    # Those of the sampling win.
    both = asked(scenarios.chat, train_dataset=only(), chat_template_kwargs={"mark": "7"}, options={"mark": "8"})
    assert both == ("12>8A:", "12>7A:")


def test_tools(asked, monkeypatch):
    template = scenarios.TOOL_TEMPLATE.replace(
        "{% for m",
        "{% for tool in tools or [] %}{{ tool.function.name[0] == 'a' and '9' or '8' }}{% endfor %}{% for m",
        1,
    )
    monkeypatch.setattr(scenarios, "TOOL_TEMPLATE", template)
    assert asked(scenarios.tools, train_dataset=only()) == ("912>A:", "912>A:")
    assert asked(scenarios.chat, train_dataset=only()) == ("12>A:", "12>A:")

    class Bare(scenarios.Adding):
        add = None

        def beware(self, a: int):
            """
            Beware.

            Args:
                a: of what
            """

    factories = {"adds": scenarios.Adding, "warns": Bare}
    data = only().add_column("environment", ["adds"] * 4)
    parts = {"environment_factory": factories, "train_dataset": data, "reward_funcs": scenarios.evens}
    for name, mark in (("adds", "9"), ("warns", "8")):
        before, training = asked(scenarios.environment, {"prompt": QUESTION, "environment": name}, **parts)
        assert before == f"{mark}12>A:"
        assert training == "91222>A:", "and what `reset` says"
    for problem in ({"prompt": QUESTION}, {"prompt": QUESTION, "environment": "other"}):
        with pytest.raises(UsageError, match="name one of environment_factory, adds, warns, in its column"):
            asked(scenarios.environment, problem, **parts)
    parts |= {"environment_factory": scenarios.Adding, "train_dataset": only()}
    assert asked(scenarios.environment, **parts) == ("912>A:", "91222>A:")


def pictured(form, text, n):
    """A problem about the n-th picture."""
    picture = scenarios.picture(n)
    if form == "messages":
        content = [{"type": "image", "image": picture}, {"type": "text", "text": text}]
        return {"prompt": [{"role": "user", "content": content}]}
    return {"prompt": [{"role": "user", "content": text}], form: picture if form == "image" else [picture]}


@pytest.mark.parametrize("form", ["image", "images", "messages"])
def test_pictures_are_seen(tmp_path, form):
    """Greedy answers are those of the model to each picture alone, also beside others, with longer and no pictures."""
    parts = scenarios.pictures(tmp_path)
    model, processor = parts["model"], parts["processing_class"]
    trainer = HTPOTrainer(args=HTPOConfig(str(tmp_path / "run"), eval_steps=1, **CPU_ARGUMENTS), **parts)
    texts = ["7", "7", "123"]
    problems = [pictured(form, text, 20 * n) for n, text in enumerate(texts)]
    problems.append({"prompt": QUESTION} | ({} if form == "messages" else {form: None}))
    sampling = Sampling(num_samples=1, temperature=0, max_new_tokens=6)
    EvaluationCallback(trainer, {"seen": problems}, sampling, scenarios.evens)._evaluate(0)
    lines = (tmp_path / "run/evaluation/step-0/seen.jsonl").read_text().splitlines()
    answers = [json.loads(line)["completion"] for line in lines]

    pictures = [[scenarios.picture(20 * n)] for n in range(3)] + [None]
    expected = []
    for text, picture in zip([f"<image>{text}>A:" for text in texts] + ["12>A:"], pictures, strict=True):
        inputs = processor(images=picture, text=text, return_tensors="pt")
        output = model.generate(**inputs, do_sample=False, max_new_tokens=6)
        expected.append(processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    assert answers == expected
    assert len({*answers[:2]}) == 2, "the same words, another picture"
    assert len({json.loads(line)["problem"] for line in lines}) == 4


def test_pictures_are_refused_where_nobody_looks_at_them(tmp_path):
    parts = scenarios.pictures(tmp_path)
    model = (parts["model"], parts["processing_class"])
    for form in ("image", "images", "messages"):
        with pytest.raises(UsageError, match=r"'one' has pictures.*EvaluationCallback"):
            evaluate(model, {"one": [pictured(form, "7", 1)]}, tmp_path / "a", judge=scenarios.evens)


def test_another_trainer_of_trl(tmp_path):
    parts = scenarios.pictures(tmp_path) | {"train_dataset": only()}
    options = {name: value for name, value in CPU_ARGUMENTS.items() if name != "num_generations"}
    trainer = RLOOTrainer(args=RLOOConfig(str(tmp_path / "run"), eval_steps=1, beta=0.0, **options), **parts)
    callback = EvaluationCallback(trainer, {"one": [{"prompt": "12"}]}, Sampling(2, max_new_tokens=2), scenarios.evens)
    callback._evaluate(0)
    (log,) = trainer.state.log_history
    assert log["eval_one/mean@2"] in (0, 0.5, 1)


def test_a_model_and_its_processor_in_python(tmp_path):
    parts = scenarios.pictures(tmp_path)
    problems = {"one": [{"prompt": "12"}]}
    sampling = Sampling(num_samples=2, max_new_tokens=2)
    model = (parts["model"], parts["processing_class"])
    evaluate(model, problems, tmp_path / "a", sampling, scenarios.evens, disable_tqdm=True)
    evaluate((model[0], model[1].tokenizer), problems, tmp_path / "b", sampling, scenarios.evens, disable_tqdm=True)
    a, b = ((tmp_path / name / "one.jsonl").read_text() for name in "ab")
    assert a == b
    assert len([json.loads(line) for line in a.splitlines()]) == 2
