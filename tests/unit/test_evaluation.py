import shutil
import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model

from htpo_trl.data.countdown import countdown_reward, problems
from htpo_trl.demo.warm_start import build_model, build_tokenizer
from htpo_trl.evaluation import ResultsError, Sampling, TransformersGenerator, compare, evaluate, pass_at_k
from htpo_trl.evaluation.generation import _SeededSampler, load_generator
from htpo_trl.utils import UsageError
from htpo_trl.verifier import VerifierConfig, configure

from ..evaluation_run import PROBLEMS, SAMPLING, Recorder, last_digit, rows_of, summary_of
from ..tiny import even_digits


changed = lambda completions, **_: [0.0] * len(completions)  # noqa: E731
changed.__name__ = "last_digit"


@pytest.fixture
def run(model, tokenizer, tmp_path):
    """Evaluate the tiny model; `run(name, ...)` returns the bytes of the samples in the directory `name`."""

    def run(name="run", problems=PROBLEMS, judge=last_digit, model=(model, tokenizer), **options):
        options = {"disable_tqdm": True} | options
        evaluate(model, {"digits": problems}, tmp_path / name, options.pop("sampling", SAMPLING), judge, **options)
        return (tmp_path / name / "digits.jsonl").read_bytes()

    return run


@pytest.mark.parametrize(
    "sampling",
    [replace(SAMPLING, num_samples=1, temperature=0.0), SAMPLING, replace(SAMPLING, top_p=1.0)],
    ids=["greedy", "top_p", "all"],
)
def test_batch_size_changes_nothing(run, sampling):
    expected = run("whole", sampling=replace(sampling, batch_size=1000))
    for size in (1, 3, 8):
        assert run(f"by {size}", sampling=replace(sampling, batch_size=size)) == expected
    if sampling.temperature:
        assert run("other", sampling=replace(sampling, seed=1)) != expected
        assert len({(row["problem"], row["completion"]) for row in rows_of(expected)}) > 40  # of 60 samples


def test_greedy_takes_the_most_likely_tokens(run, model, tokenizer):
    for problem, row in zip(PROBLEMS, rows_of(run(sampling=Sampling(1, 0.0, max_new_tokens=6))), strict=True):
        ids = tokenizer(problem["prompt"]).input_ids
        length = len(ids)
        while len(ids) < length + 6 and ids[-1] != tokenizer.eos_token_id:
            ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
        assert row["completion"] == tokenizer.decode(ids[length:], skip_special_tokens=True)
        assert row["tokens"] == len(ids) - length
        assert row["truncated"] == (ids[-1] != tokenizer.eos_token_id)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.7)])
def test_seeded_sampler_draws_from_the_distribution(temperature, top_p):
    logits = torch.tensor([1.0, -1.0, 0.5, -torch.inf, 2.0])
    n = 20_000
    sampler = _SeededSampler(range(n), Sampling(1, temperature, top_p, 1), 3, torch.device("cpu"))
    scores = sampler(torch.zeros(n, 3, dtype=torch.long), logits.expand(n, -1))
    counts = torch.bincount(scores.argmax(dim=1), minlength=5).numpy()

    def statistic(temperature, top_p):
        p = (logits / temperature).softmax(0).double().numpy()
        order = np.argsort(-p)
        kept = order[: 1 + np.searchsorted(np.cumsum(p[order]), top_p)]
        expected = np.zeros(5)
        expected[kept] = n * p[kept] / p[kept].sum()
        assert (counts[expected == 0] == 0).all() or top_p < 1
        inside = expected > 0
        return ((counts - expected)[inside] ** 2 / expected[inside]).sum()

    assert statistic(temperature, top_p) < 16.3  # chi-squared, 3 degrees of freedom: 99.9%
    assert statistic(temperature * 1.2, top_p) > 30


def test_seeded_sampler_draws_every_step_anew():
    n = 20_000
    sampler = _SeededSampler(range(n), Sampling(1, top_p=1.0, max_new_tokens=2), 3, torch.device("cpu"))
    first, second = (sampler(torch.zeros(n, 3 + i, dtype=torch.long), torch.zeros(n, 4)).argmax(1) for i in (0, 1))
    counts = torch.bincount(4 * first + second, minlength=16).float()
    assert ((counts - n / 16) ** 2 / (n / 16)).sum() < 37.7  # chi-squared, 15 degrees of freedom: 99.9%


def test_generation_config_of_the_model_is_not_sampled_by(run, model, tokenizer):
    expected = run("plain")
    model.generation_config.update(
        do_sample=True,
        temperature=0.1,
        top_k=1,
        top_p=0.1,
        repetition_penalty=9.0,
        no_repeat_ngram_size=1,
        min_length=9,
    )
    assert run("configured") == expected
    assert model.generation_config.repetition_penalty == 9.0
    # An end of turn that the tokenizer does not know is respected, as is the tokenizer's own.
    model.generation_config.eos_token_id = [5, 6]
    rows, ends = rows_of(run("turns")), tuple(tokenizer.convert_ids_to_tokens([5, 6]))
    assert all(row["completion"].endswith(ends) <= (not row["truncated"]) for row in rows)
    assert not any(end in row["completion"][:-1] for row in rows for end in ends)
    ended = [row for row in rows if not row["truncated"]]
    assert 0 < sum(row["completion"].endswith(ends) for row in ended) < len(ended)


def test_model_stays_in_its_mode(run, model):
    for training in (True, False):
        model.train(training)
        run(f"training={training}")
        assert model.training is training


def test_torn_line_and_its_batch_are_drawn_again(run, model, tokenizer, tmp_path):
    expected = run()
    file = tmp_path / "run" / "digits.jsonl"
    ends = [i + 1 for i, byte in enumerate(expected) if byte == ord("\n")]
    # The same batches as without a break, so that round-off is the same too.
    for size, kept in ((0, 0), (ends[7], 8), (ends[8], 8), (ends[20] - 9, 16), (len(expected) - 1, 56)):
        file.write_bytes(expected[:size])
        drawn = tmp_path / f"drawn-{size}.txt"
        assert run(model=Recorder(model, tokenizer, drawn)) == expected
        assert len(drawn.read_text().split()) == 60 - kept


class Refusing(TransformersGenerator):
    def generate(self, *_):
        raise AssertionError("generated again")


def test_finished_evaluation_is_only_summarised(run, model, tokenizer, tmp_path):
    expected = run()
    first = summary_of(tmp_path / "run")
    assert run(model=Refusing(model, tokenizer), ks=[2]) == expected
    assert list(summary_of(tmp_path / "run")["metrics"]) == ["mean@3", "pass@2", "maj@2"]
    # With its samples deleted, it would have generated.
    (tmp_path / "run" / "digits.jsonl").unlink()
    with pytest.raises(AssertionError, match="generated again"):
        run(model=Refusing(model, tokenizer))
    run()
    assert summary_of(tmp_path / "run") == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": replace(SAMPLING, temperature=0.5)}, r"sampling.temperature=1.0 there, 0.5 now"),
        ({"sampling": replace(SAMPLING, seed=1, num_samples=2)}, r"num_samples=3 there, 2 now; .*seed=0 there, 1 now"),
        ({"problems": PROBLEMS[:-1]}, r"n_problems=20 there, 19 now"),
        ({"problems": [*PROBLEMS[:-1], {"prompt": "1", "solution": "1"}]}, r"problems='\w+' there, '\w+' now"),
        ({"judge": countdown_reward}, r"judge='last_digit' there, 'countdown_reward' now"),
        ({"judge": changed}, r"digest of the judge's source='\w+' there, '\w+' now"),
    ],
)
def test_resuming_something_else_is_refused(run, options, message):
    expected = run()
    with pytest.raises(ResultsError, match=message):
        run(**options)
    assert run(sampling=replace(SAMPLING, batch_size=5)) == expected  # not a setting of the samples


def test_samples_judged_by_what_is_in_reasoning_are_not_gone_on_with(run):
    run()
    try:
        configure(VerifierConfig(skip_reasoning=False))
        with pytest.raises(ResultsError, match="skip_reasoning=None there, False now"):
            run()
    finally:
        configure(VerifierConfig())


def test_other_weights_of_the_same_name_are_refused(run, model, tokenizer, tmp_path):
    """In a directory, where others take their place, and in memory, where they are trained on."""
    few, message = PROBLEMS[:2], r"digest of the model's weights='\w+' there, '\w+' now\. Evaluate with the same"
    tokenizer.save_pretrained(tmp_path / "model")
    for name in ("model", "other"):
        model.save_pretrained(tmp_path / name)
        with torch.no_grad():
            model.model.norm.weight[0] += 1e-3
    expected = run("of files", few, model=tmp_path / "model")
    assert run("of files", few, model=str(tmp_path / "model")) == expected
    shutil.copy(tmp_path / "other" / "model.safetensors", tmp_path / "model")
    with pytest.raises(ResultsError, match=message):
        run("of files", few, model=tmp_path / "model")
    assert (tmp_path / "of files" / "digits.jsonl").read_bytes() == expected

    assert run("in memory", few) == run("in memory", few)
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-3
    with pytest.raises(ResultsError, match=message):
        run("in memory", few)


def test_files_of_unknown_origin_are_refused(run, tmp_path):
    run()
    file = tmp_path / "run" / "digits.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(ResultsError, match=r"digits\.jsonl, line 1: not sample 0 of problem .*Delete that line"):
        run()
    file.with_suffix(".json").unlink()
    with pytest.raises(ResultsError, match=r"has no digits\.json beside it"):
        run()


def test_summary(run, tmp_path):
    sampling = replace(SAMPLING, num_samples=8)
    rows = rows_of(run(sampling=sampling))
    summary = summary_of(tmp_path / "run")
    correct = Counter(row["problem"] for row in rows if row["verdict"] == "correct")
    counts = [correct[problem] for problem in dict.fromkeys(row["problem"] for row in rows)]
    assert len(counts) == 20
    for metric, k in (("mean@8", 1), ("pass@2", 2), ("pass@4", 4), ("pass@8", 8)):
        value = summary["metrics"][metric]
        assert value["mean"] == pytest.approx(pass_at_k(8, counts, k).mean())
        assert 0 <= value["low"] < value["mean"] < value["high"] <= 1
    votes = [
        Counter(r["answer"] for r in rows[i : i + 8] if r["answer"]).most_common() for i in range(0, len(rows), 8)
    ]
    won = [
        np.mean([answer == problem["solution"] for answer, count in v if count == v[0][1]]) if v else 0
        for v, problem in zip(votes, PROBLEMS, strict=True)
    ]
    assert summary["metrics"]["maj@8"]["mean"] == pytest.approx(np.mean(won))
    assert summary["truncated"] == np.mean([row["truncated"] for row in rows])
    assert summary["mean_tokens"] == np.mean([row["tokens"] for row in rows])
    assert summary["verdicts"] == Counter(row["verdict"] for row in rows)
    assert summary["verdicts"]["unparsable_answer"] > 0


def test_the_same_problem_twice_is_two(run, tmp_path):
    rows = rows_of(run(problems=[PROBLEMS[0]] * 2))
    assert len({row["problem"] for row in rows}) == 2
    assert summary_of(tmp_path / "run")["problems"] == 2


def test_one_problem_in_two_templates_is_one(run, tmp_path):
    first, second = ([p | {"prompt": f"{a}{p['prompt']}", "problem": p["prompt"]} for p in PROBLEMS] for a in "12")
    run("first", problems=first)
    run("second", problems=second)
    assert compare(tmp_path / "first", tmp_path / "second")[0]["problems"] == 20
    with pytest.raises(ResultsError, match=r"problems='\w+' there, '\w+' now"):
        run("first", problems=second)


def test_reward_function_judges(tmp_path):
    torch.manual_seed(0)
    model, tokenizer = build_model(), build_tokenizer()
    tasks = [{"prompt": f"{','.join(map(str, p.numbers))}>{p.target}:"} for p in problems("test")[:6]]
    summary = evaluate((model, tokenizer), {"countdown": tasks}, tmp_path, SAMPLING, countdown_reward)["countdown"]
    assert summary["verdicts"] == {"wrong": 18}
    assert list(summary["metrics"]) == ["mean@3", "pass@2", "pass@3"]  # no answers, no vote

    def solves(prompts, completions, **kwargs):
        return [0.6] * len(prompts)

    summary = evaluate((model, tokenizer), {"solved": tasks}, tmp_path, SAMPLING, solves)["solved"]
    assert summary["metrics"]["mean@3"] == {"mean": 1.0, "low": 1.0, "high": 1.0}

    def abstains(prompts, completions, **kwargs):
        return [None if prompt == tasks[0]["prompt"] else 0.5 for prompt in prompts]

    summary = evaluate((model, tokenizer), {"abstained": tasks}, tmp_path, SAMPLING, abstains)["abstained"]
    assert (summary["problems"], summary["problems_without_gold"]) == (6, 1)
    assert summary["verdicts"] == {"unparsable_gold": 3, "wrong": 15}


def test_conversations_and_a_model_by_path(tiny_chat_model, tmp_path):
    seen = []

    def judge(prompts, completions, level, **kwargs):
        seen.extend(zip(prompts, completions, level, strict=True))
        return even_digits([c[0]["content"] for c in completions])

    prompts = [[{"role": "user", "content": f"{i} + 1"}] for i in range(3)]
    data = Dataset.from_dict({"prompt": prompts, "level": [1, 2, 3]})
    sampling = Sampling(num_samples=2, max_new_tokens=4)
    evaluate(str(tiny_chat_model), {"chat": data}, tmp_path / "a", sampling, judge, disable_tqdm=True)
    assert [(prompt[0]["content"], level) for prompt, _, level in seen] == [
        (f"{i} + 1", i + 1) for i in range(3) for _ in range(2)
    ]
    assert all(completion[0]["role"] == "assistant" for _, completion, _ in seen)
    # The template's text, as a prompt of its own.
    generator = load_generator(str(tiny_chat_model))
    texts = [{"prompt": f"{i} + 1>"} for i in range(3)]
    chat = generator.generate([generator.tokenizer(t["prompt"]).input_ids for t in texts], range(3), sampling)
    ids = generator.tokenizer.apply_chat_template(prompts, add_generation_prompt=True)["input_ids"]
    assert generator.generate(ids, range(3), sampling) == chat
    assert compare(tmp_path / "a", tmp_path / "a")[0]["p"] == 1.0


def test_options_of_the_chat_template_reach_the_prompt(tiny_chat_model, tmp_path):
    seen = []

    class Seen(TransformersGenerator):
        def generate(self, prompts, seeds, sampling):
            seen.extend(self.tokenizer.decode(ids) for ids in prompts)
            return super().generate(prompts, seeds, sampling)

    loaded = load_generator(str(tiny_chat_model))
    generator = Seen(loaded.model, loaded.tokenizer)
    generator.tokenizer.chat_template = "{{ messages[0]['content'] }}{% if not enable_thinking %}</think>{% endif %}"
    chat = [{"prompt": [{"role": "user", "content": "1 + 1"}]}]
    for thinking in (True, False):
        sampling = Sampling(1, max_new_tokens=1, chat_template_kwargs={"enable_thinking": thinking})
        evaluate(generator, {"chat": chat}, tmp_path / str(thinking), sampling, even_digits_of_chats)
    assert seen == ["1 + 1", "1 + 1</think>"]


def even_digits_of_chats(completions, **kwargs):
    return even_digits([completion[0]["content"] for completion in completions])


def test_progress_and_table(run, capsys):
    run(disable_tqdm=False)
    output = capsys.readouterr()
    assert "60/60" in output.err
    assert "sample/s" in output.err
    assert output.out.startswith("| benchmark | metric |")
    assert "digits: 20 problems, " in output.out
    run("quiet")
    assert capsys.readouterr() == ("", "")


def test_models_by_path_backend_and_dtype(tiny_chat_model, monkeypatch):
    monkeypatch.setattr(
        "htpo_trl.evaluation.generation.find_spec", lambda name: None
    )  # as where vLLM is not installed
    assert load_generator(tiny_chat_model).name == f"transformers {tiny_chat_model}"
    generator = load_generator(str(tiny_chat_model), backend="transformers", dtype="bfloat16")
    assert generator.model.dtype == torch.bfloat16
    assert load_generator(generator) is generator
    pair = load_generator((generator.model, generator.tokenizer))
    assert (pair.model, pair.tokenizer) == (generator.model, generator.tokenizer)
    for options, error, message in (
        ({"backend": "vlm"}, ValueError, "backend='vlm' is none of"),
        ({"backend": "vllm"}, ImportError, r"pip install 'htpo_trl\[vllm\]'"),
        ({"vllm_options": {"tensor_parallel_size": 2}}, ValueError, "vllm_options are of backend='vllm'"),
    ):
        with pytest.raises(error, match=message):
            load_generator(str(tiny_chat_model), **options)


def test_vllm_where_it_is_installed(monkeypatch):
    """A stand-in that says what it was asked for: vLLM itself needs a GPU."""

    class LLM:
        def __init__(self, model, **options):
            self.options = options
            self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(model=model))

        def get_tokenizer(self):
            return "tokenizer"

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=LLM))
    monkeypatch.setattr("htpo_trl.evaluation.generation.find_spec", lambda name: name == "vllm")
    generator = load_generator("Qwen/Qwen3-0.6B", dtype="bfloat16", vllm_options={"tensor_parallel_size": 4})
    assert (generator.name, generator.tokenizer) == ("vllm Qwen/Qwen3-0.6B", "tokenizer")
    assert generator.llm.options == {"dtype": "bfloat16", "tensor_parallel_size": 4}


def test_adapter_by_path(tiny_chat_model, tmp_path):
    base = load_generator(tiny_chat_model)
    logits = base.model(torch.tensor([[5, 6]])).logits
    adapted = get_peft_model(base.model, LoraConfig(init_lora_weights=False, target_modules=["q_proj"]))
    expected = adapted(torch.tensor([[5, 6]])).logits
    adapted.save_pretrained(tmp_path / "adapter")
    base.tokenizer.save_pretrained(tmp_path / "adapter")
    found = load_generator(str(tmp_path / "adapter")).model(torch.tensor([[5, 6]])).logits
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, logits)


def test_impossible_evaluations_are_refused(run, model, tmp_path):
    for options, error, message in (
        ({"ks": [4]}, ValueError, r"ks=\[4\] must lie in 1..num_samples=3"),
        ({"problems": []}, ValueError, "no problems in 'digits'"),
        ({"problems": [{"question": "1", "solution": "1"}]}, ValueError, "no column 'prompt'"),
        ({"problems": [{"prompt": "1"}], "judge": None}, ValueError, "no column 'solution'"),
        ({"problems": [{"prompt": None, "solution": "1"}]}, ValueError, "row 1: prompt=None must be a text"),
        ({"model": model}, TypeError, "pair"),
    ):
        with pytest.raises(error, match=message):
            run(**options)
    with pytest.raises(ValueError, match="names files"):
        evaluate((model, build_tokenizer("0123456789")), {"a/b": PROBLEMS}, tmp_path)


@pytest.mark.parametrize(
    ("benchmarks", "judge", "message"),
    [
        ("aime24", None, "benchmarks is a `str`, and must map names to problems"),
        ([{"prompt": "1", "solution": "1"}], None, "benchmarks is a `list`, and must map names to problems"),
        ({}, "math_reward", "judge='math_reward' is not a function"),
    ],
)
def test_arguments_of_other_types_are_told_before_the_model_is_loaded(tmp_path, benchmarks, judge, message):
    with pytest.raises(UsageError, match=message):
        evaluate(str(tmp_path / "absent"), benchmarks, tmp_path, judge=judge)
