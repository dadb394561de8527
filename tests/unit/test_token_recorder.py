import random
import re
from configparser import ConfigParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

import htpo_trl
from htpo_trl.demo.warm_start import build_tokenizer
from htpo_trl.scripts.htpo import HTPOScriptArguments
from htpo_trl.tokens import TokenRecorder, read_record
from htpo_trl.tokens.callback import prompt_text, token_texts
from htpo_trl.tokens.record import recorded_steps

from .test_trainer import scripted


# Two optimizer steps per generation batch, each of two micro-batches of 8: the second is off-policy.
STEPS = {"gradient_accumulation_steps": 2, "steps_per_generation": 4, "max_completion_length": 40}
RULES = {"objective_overrides": {"hard_correct_low": {"rule": "detach", "share": 0.1, "which": "lowest"}}}


@pytest.fixture
def record_run(make_trainer):
    """A run whose tokens are recorded, and by step what the trainer computed, one dict per completion."""

    def run(steps=1, completions=100, resume=None, **options):
        trainer = make_trainer(**STEPS | RULES | options)
        trainer.add_callback(TokenRecorder(trainer, steps, completions))
        seen = {}

        def observe(inputs, result, **tensors):
            rows = seen.setdefault(trainer.state.global_step + 1, [])
            for i in range(len(inputs["completion_ids"])):
                length = int(inputs["completion_mask"][i].sum())
                columns = {
                    **tensors,
                    "token_ids": inputs["completion_ids"],
                    "advantages": inputs["advantages"].unsqueeze(1).expand_as(result.groups),
                    "effective_advantages": result.advantages,
                    "effective_old_per_token_logps": result.old_per_token_logps,
                    "groups": result.groups,
                    "effects": result.effects,
                }
                row = {name: column[i, :length].numpy().copy() for name, column in columns.items()}
                rows.append(row | {name: bool(inputs[name][i]) for name in ("is_hard", "is_correct", "is_judged")})

        trainer.loss_observers.append(observe)
        trainer.train(resume_from_checkpoint=resume)
        return trainer, seen

    return run


def test_record_is_what_the_trainer_computed(record_run, tokenizer, tmp_path):
    trainer, seen = record_run(steps=3, max_steps=4)
    assert list(recorded_steps(tmp_path / "run")) == [3, 4]  # every third, and the last
    for step in (3, 4):
        record = read_record(tmp_path / "run", step)
        settings = record.settings
        assert (settings.step, settings.completions_in_step) == (step, 16)
        assert settings.table == trainer.table
        assert (settings.epsilon_low, settings.epsilon_high, settings.delta) == (0.2, 0.28, 10.0)
        assert settings.reward_funcs == ["even_digits"]
        expected = {row["per_token_logps"].tobytes(): row for row in seen[step]}
        assert len(record.completions) == 16
        for completion in record.completions:
            row = expected.pop(completion.values["per_token_logps"].tobytes())
            assert len(completion.values) == 10
            for name, column in completion.values.items():
                np.testing.assert_array_equal(column, row[name])
            for name in ("is_hard", "is_correct", "is_judged"):
                assert getattr(completion, name) == row[name]
            assert completion.rewards == [float(completion.is_correct)]
            assert "".join(completion.tokens) == tokenizer.decode(row["token_ids"])
            assert re.fullmatch(r"\d\d", completion.prompt)
        assert not expected
        ratios = np.concatenate([completion.ratio for completion in record.completions])
        assert (abs(ratios - 1).max() > 0.1) == (step == 4), "the second step of a batch is off-policy"


def test_recomputed_by_its_own_table_it_is_what_was_stored(record_run, tmp_path):
    _, seen = record_run(top_entropy_share=0.3, learning_rate=3e-2)
    effects = set()
    for step in seen:
        record = read_record(tmp_path / "run", step)
        for completion in record.completions:
            stored = record.outcome(completion)
            for mine, other in zip(stored, record.outcome(completion, record.settings.table), strict=True):
                np.testing.assert_array_equal(mine, other)
            effects |= set(stored.effects)
    assert {0, 1, 3, 5} <= effects, "the run is too tame to tell"


def test_training_is_bit_for_bit_the_same(record_run, make_trainer):
    plain = make_trainer(**STEPS | RULES)
    plain.train()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    recorded, _ = record_run(completions=3)
    assert all(map(torch.equal, plain.model.parameters(), recorded.model.parameters()))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())


def test_resume_replaces_what_it_records_again(record_run, tmp_path):
    options = {"completions": 5, "max_steps": 3, "save_strategy": "steps", "save_steps": 1}
    record_run(**options)
    files = recorded_steps(tmp_path / "run")
    first = {step: file.read_bytes() for step, file in files.items()}
    files[3].write_bytes(b"torn")
    record_run(resume=str(tmp_path / "run" / "checkpoint-1"), **options)
    assert {step: file.read_bytes() for step, file in files.items()} == first
    assert not list((tmp_path / "run" / "tokens").glob("*.partial"))


def test_sample_is_drawn_from_all_micro_batches_with_equal_chances(record_run, tmp_path):
    """Of 16 completions, 8 in each of two micro-batches, 4: the second has a half of 12 × 4 draws, within 4 sigma."""
    _, seen = record_run(completions=4, max_steps=12)
    late = 0
    for step, rows in seen.items():
        second = {row["per_token_logps"].tobytes() for row in rows[8:]}
        completions = read_record(tmp_path / "run", step).completions
        keys = {completion.values["per_token_logps"].tobytes() for completion in completions}
        assert len(keys) == len(completions) == 4
        late += len(keys & second)
    assert 10 <= late <= 38


def test_size_is_bounded(record_run, tmp_path):
    record_run(completions=16, max_steps=1, max_completion_length=200)
    file = recorded_steps(tmp_path / "run")[1]
    fixed = 16_000  # schema and settings, prompts
    assert file.stat().st_size < fixed + 16 * 200 * (34 + 5)  # no token of this vocabulary is longer than `<eos>`


def test_dynamic_sampling_records_what_is_trained_on(record_run, tmp_path):
    record_run(dynamic_sampling=True, max_steps=1)
    completions = read_record(tmp_path / "run").completions
    assert len(completions) == 16
    for completion in completions:
        assert completion.values["advantages"].any()
        assert (completion.values["advantages"] > 0).all() == completion.is_correct == (completion.rewards == [1.0])


def test_completions_that_are_not_trained_on_are_whole(record_run, tmp_path):
    record_run(mask_truncated_completions=True, max_steps=1, max_completion_length=6)
    completions = read_record(tmp_path / "run").completions
    truncated = [completion for completion in completions if not completion.values["mask"].any()]
    assert 0 < len(truncated) < 16
    assert all(len(completion.tokens) == 6 for completion in truncated)
    assert all(np.isnan(read_record(tmp_path / "run").outcome(c).weights).all() for c in truncated)


def test_missing_rewards_are_missing(record_run, tmp_path):
    rewards = [None, 1.0, 0.0, 1.0] * 8
    record_run(max_steps=1, reward_funcs=scripted([rewards]))
    completions = read_record(tmp_path / "run").completions
    assert {(c.is_judged, tuple(c.rewards)) for c in completions} == {(False, (None,)), (True, (0.0,)), (True, (1.0,))}
    assert all((c.values["groups"] == -1).all() != c.is_judged for c in completions)


def test_bad_settings_are_refused(make_trainer):
    trainer = make_trainer()
    for options in ({"steps": 0}, {"completions": 0}):
        with pytest.raises(ValueError, match=r"TokenRecorder: \w+=0 must be at least 1"):
            TokenRecorder(trainer, **options)
    assert not trainer.loss_observers
    for name in ("record_tokens_steps", "record_tokens_completions"):
        with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
            HTPOScriptArguments(**{name: 0})


def test_what_cannot_be_read_says_why(record_run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no recorded tokens.*--record_tokens_steps"):
        read_record(tmp_path)
    record_run(steps=2)
    run = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match=r"step=3 was not recorded in .*; there are 2, 4\."):
        read_record(run, 3)
    assert read_record(run).settings.step == 4
    file = recorded_steps(run)[4]
    whole, table = file.read_bytes(), parquet.read_table(file)
    for damaged in (whole[:-100], b""):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"step-000004.parquet cannot be read"):
            read_record(run)
    for metadata in ({}, {"htpo": "{}"}, {"htpo": "no JSON"}):
        parquet.write_table(table.replace_schema_metadata(metadata), file)
        with pytest.raises(ValueError, match=r"step-000004.parquet cannot be read as a record of tokens"):
            read_record(run)
    parquet.write_table(table.drop_columns("effects"), file)
    with pytest.raises(ValueError, match=r"step-000004.parquet cannot .*: it has other columns"):
        read_record(run)


@pytest.fixture(scope="module")
def byte_level():
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(["a token and another, 1 + 1 = 2"] * 9, vocab_size=300)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, eos_token="<|im_end|>", pad_token="<pad>")


@pytest.mark.parametrize("text", ["a token", "naïve 漢字 🙂, 1 + 1\n", "🙂", "<|im_end|>a", ""])
def test_texts_of_tokens(byte_level, text):
    ids = byte_level(text).input_ids
    texts = token_texts(byte_level, ids)
    assert "".join(texts) == text
    assert len(texts) == len(ids)
    if text == "🙂":
        assert texts == ["", "", "", "🙂"]


@settings(max_examples=50)
@given(st.data())
def test_texts_of_any_tokens(byte_level, data):
    """Also those that spell no character."""
    ids = data.draw(st.lists(st.integers(0, len(byte_level) - 1), max_size=12))
    texts = token_texts(byte_level, ids)
    assert len(texts) == len(ids)
    # What U+FFFD stands for depends on the neighbours, so that invalid bytes may be more or fewer of them.
    assert "".join(texts).replace("\ufffd", "") == byte_level.decode(ids).replace("\ufffd", "")


def test_package_holds_the_page():
    package = Path(htpo_trl.__file__).parent
    setup = ConfigParser()
    setup.read(package.parent / "setup.cfg")
    patterns = setup["options.package_data"]["htpo_trl"].split(", ")
    files = [path.relative_to(package) for path in (package / "tokens").glob("*") if path.suffix not in (".py", "")]
    assert {path.name for path in files} == {"__init__.pyi", "page.css.jinja", "page.html.jinja", "page.js"}
    assert all(any(path.match(pattern) for pattern in patterns) for path in files)


def test_pictures_in_prompts_are_short():
    """A picture is hundreds of one special token; other tokens, and a few special ones, stay as they are."""
    tokenizer = build_tokenizer("0123456789")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    (image,) = tokenizer.convert_tokens_to_ids(["<image>"])
    digits = tokenizer("0" * 300).input_ids
    text = prompt_text(tokenizer, [3, *[image] * 576, 4, image, image, *digits])
    assert text == f"0<image>[×576]1<image><image>{'0' * 300}"
    assert prompt_text(tokenizer, [image] * 5) == "<image>[×5]"
    assert prompt_text(tokenizer, []) == ""
