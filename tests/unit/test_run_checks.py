"""The checks of a run from Python: before the model is loaded, at construction, and where no step was taken."""

import json
import re
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, IterableDataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, Qwen3ForCausalLM

from htpo_trl import HTPOConfig
from htpo_trl.objective import PRESETS
from htpo_trl.output.writing import check_writable
from htpo_trl.scripts.evaluate import main
from htpo_trl.training.checkpoint import CheckpointError
from htpo_trl.training.checks import check_adapter, check_model, check_run, loading_told
from htpo_trl.utils import UsageError


def prompts(n):
    return Dataset.from_dict({"prompt": [f"{i:02d}" for i in range(n)]})


class TestTooFewPrompts:
    """A generation batch is 32 responses = 8 prompts."""

    @pytest.mark.parametrize("max_steps", [-1, 4])
    def test_are_refused_before_a_step(self, make_trainer, max_steps):
        trainer = make_trainer(train_dataset=prompts(7), max_steps=max_steps)
        with pytest.raises(UsageError, match="7 problems are fewer than the 8 prompts of a generation batch"):
            trainer.train()
        trainer = make_trainer(train_dataset=prompts(8), max_steps=1)  # negative control
        trainer.train()
        assert trainer.state.global_step == 1

    def test_of_a_stream_without_an_end(self, make_trainer):
        stream = IterableDataset.from_generator(lambda: iter([{"prompt": "1"}] * 64))
        with pytest.raises(UsageError, match=r"The data is a stream, .* set max_steps"):
            make_trainer(train_dataset=stream, max_steps=-1)

    def test_of_a_stream_are_told_at_its_end(self, make_trainer):
        """Whose length nobody knows before."""
        stream = IterableDataset.from_generator(lambda: iter([{"prompt": "1"}] * 7))
        with pytest.raises(
            UsageError, match=r"No optimizer step was taken: the training data gave no .* of 8 prompts"
        ):
            make_trainer(train_dataset=stream).train()


class TestNothingIsLeft:
    def test_where_the_checkpoint_is_the_end(self, make_trainer, tmp_path):
        options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
        make_trainer(**options).train()
        again = make_trainer(**options)
        with pytest.raises(
            UsageError, match=r"the checkpoint is of step 2, and the run ends at step 2\. Raise max_steps"
        ):
            again.train(resume_from_checkpoint=True)
        fewer = make_trainer(**options | {"max_steps": -1, "num_train_epochs": 0.03})
        with (
            pytest.warns(UserWarning, match="max_steps 2 -> -1"),
            pytest.raises(UsageError, match=r"ends at step 1\. Raise num_train_epochs"),  # 2 of 1, told by epochs
        ):
            fewer.train(str(tmp_path / "run" / "checkpoint-2"))
        more = make_trainer(**options | {"max_steps": 3})
        with pytest.warns(UserWarning, match="max_steps 2 -> 3"):
            more.train(resume_from_checkpoint=True)
        assert more.state.global_step == 3


class TestNothingIsTrainable:
    def test_of_a_frozen_model(self, make_trainer, model):
        with pytest.raises(UsageError, match=re.escape("model.requires_grad_(True)")):
            make_trainer(model=model.requires_grad_(False))
        make_trainer(model=model, peft_config=LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))

    def test_of_options_that_are_no_adapter(self, model):
        with pytest.raises(UsageError, match=r"peft_config is a `dict`: pass one of PEFT's, such as LoraConfig\(\)"):
            check_adapter(model.config, {"r": 8})

    def test_of_an_adapter_loaded_for_inference(self, make_trainer, make_model, tmp_path):
        get_peft_model(make_model(), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")).save_pretrained(
            tmp_path / "adapter"
        )
        with pytest.raises(UsageError, match="is_trainable=True"):
            make_trainer(model=PeftModel.from_pretrained(make_model(), tmp_path / "adapter"))
        make_trainer(model=PeftModel.from_pretrained(make_model(), tmp_path / "adapter", is_trainable=True))


@pytest.fixture
def no_model_is_loaded(monkeypatch):
    def loads(*args, **kwargs):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", loads)


def needs_answer(completions, answer, **kwargs):
    return [0.0] * len(completions)


@pytest.mark.usefixtures("no_model_is_loaded")
class TestBeforeTheModelIsLoaded:
    @pytest.fixture
    def saved(self, model, tokenizer, tmp_path):
        Qwen3ForCausalLM.save_pretrained(model, tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    def test_the_prompts_are_looked_at(self, saved, make_trainer):
        with pytest.raises(UsageError, match="fewer than the 8 prompts"):
            make_trainer(model=saved, train_dataset=prompts(3))
        with pytest.raises(UsageError, match=r"The data has no column 'prompt', only question\."):
            make_trainer(model=saved, train_dataset=Dataset.from_dict({"question": ["1"] * 20}))

    def test_the_rewards_are_looked_at(self, saved, make_trainer):
        with pytest.raises(UsageError, match="'needs_answer' needs the column 'answer'; the data has only prompt"):
            make_trainer(model=saved, reward_funcs=needs_answer)
        with pytest.raises(UsageError, match="must name one reward function; there are needs_answer, needs_answer"):
            make_trainer(model=saved, reward_funcs=[needs_answer] * 2, correctness_reward="needs_answer")
        with pytest.raises(UsageError, match=r"reward_weights=\[1.0\] must be one number for each"):
            make_trainer(model=saved, reward_funcs=[needs_answer] * 2, reward_weights=[1.0])

    def test_a_chat_template_is_looked_for(self, saved, make_trainer):
        """In the tokenizer that is given, and else in the model's."""
        conversations = Dataset.from_dict({"prompt": [[{"role": "user", "content": "1"}]] * 8})
        with pytest.raises(UsageError, match=r"has no chat template. Set chat=False \(--chat false\)"):
            make_trainer(model=saved, train_dataset=conversations)
        args = HTPOConfig("out", use_cpu=True, bf16=False, num_generations=4)
        with pytest.raises(UsageError, match="has no chat template"):
            check_run(args, saved, needs_answer, conversations.add_column("answer", ["1"] * 8))
        Path(saved, "chat_template.jinja").write_text("{{ messages[0].content }}")
        check_run(args, saved, needs_answer, conversations.add_column("answer", ["1"] * 8))

    @pytest.mark.parametrize(
        ("resume", "message"),
        [
            (True, "no complete checkpoint in"),
            ("true", "no complete checkpoint"),
            ("out/checkpoint-3", "checkpoint-3"),
        ],
    )
    def test_the_checkpoint_is_looked_for(self, saved, make_trainer, resume, message):
        with pytest.raises(CheckpointError, match=message):
            make_trainer(model=saved, resume_from_checkpoint=resume)

    def test_the_output_is_tried(self, saved, make_trainer, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(UsageError, match=r"output_dir=.*file is no directory"):
            make_trainer(model=saved, output_dir=str(tmp_path / "file" / "run"))

    def test_the_model_is_looked_for(self, make_trainer, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UsageError, match="model_name_or_path='runs/x/model' is no directory here, and cannot be"):
            make_trainer(model="runs/x/model")
        with pytest.raises(UsageError, match="model_name_or_path='somebody/absent' cannot be loaded"):
            make_trainer(model="somebody/absent")

    def test_a_configuration_that_transformers_does_not_know(self, tmp_path):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "perceptron"}))
        (tmp_path / "model.safetensors").touch()
        with pytest.raises(UsageError, match=r"(?s)model_name_or_path=.*cannot be loaded: .*perceptron"):
            check_model(str(tmp_path))

    @pytest.mark.parametrize(
        ("rewards", "message"),
        [
            ([], r"reward_funcs is empty: pass a reward function, such as htpo_trl\.rewards\.math_reward"),
            ("math_reward", r"'math_reward' is no reward model: .* In Python pass the function, as in: from htpo_trl"),
            ([[1.0, 0.0]], r"reward_funcs: \[1\.0, 0\.0\] is a `list`\. Pass the function itself, without calling it"),
            ((needs_answer, needs_answer), "is a `tuple`"),
        ],
    )
    def test_what_is_no_reward_function(self, saved, dataset, rewards, message):
        with pytest.raises(UsageError, match=message):
            check_run(HTPOConfig("out", use_cpu=True, bf16=False), saved, rewards, dataset)

    @pytest.mark.parametrize("kind", [list, DatasetDict, str])
    def test_what_is_no_data_set(self, saved, make_trainer, kind):
        data, mend = {
            list: ([{"prompt": "1"}] * 20, "pass a data set, as"),
            DatasetDict: (DatasetDict(train=prompts(20)), "pass one of its splits: train, as"),
            str: ("aime24", "pass a data set, as htpo_trl.data.load"),
        }[kind]
        with pytest.raises(UsageError, match=f"train_dataset is a `{kind.__name__}`: {mend}"):
            make_trainer(model=saved, train_dataset=data)

    def test_names_that_are_given_as_objects(self, saved, make_trainer):
        with pytest.raises(UsageError, match=r"objective=Table\(.* must be a name\. A table of your own is named by"):
            make_trainer(model=saved, objective=PRESETS["dapo"])
        with pytest.raises(
            UsageError, match=r"correctness_reward=<function .*must name one reward function; there are"
        ):
            make_trainer(model=saved, correctness_reward=needs_answer)

    def test_half_a_download_is_told(self, saved, tmp_path):
        directory = tmp_path / "model"
        weights = (file := directory / "model.safetensors").read_bytes()
        for damaged, mend in (
            (weights[:3000], "Copy or download it again"),
            (b"version https://git-lfs", "git lfs pull"),
        ):
            file.write_bytes(damaged)
            with pytest.raises(UsageError, match=f"model.safetensors is damaged: .*{mend}"):
                check_model(saved)
        file.write_bytes(weights)
        parts = {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}
        (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
        with pytest.raises(
            UsageError, match=r": model-00002-of-00002\.safetensors of .* is missing. Copy or download"
        ):
            check_model(saved)
        (directory / "model.safetensors.index.json").unlink()
        assert check_model(saved).model_type == "qwen3"

    def test_a_model_without_a_tokenizer(self, saved, tmp_path, capsys):
        for file in (tmp_path / "model").glob("token*"):
            file.unlink()
        with pytest.raises(UsageError, match=r"model_name_or_path=.* has no tokenizer. Save one there: AutoTokenizer"):
            check_run(HTPOConfig("out", use_cpu=True, bf16=False), saved, needs_answer, None)
        (tmp_path / "own.jsonl").write_text('{"problem": "1", "solution": "1"}')
        with pytest.raises(SystemExit):
            main(["--model", saved, "--benchmarks", str(tmp_path / "own.jsonl"), "--chat", "false"])
        assert "has no tokenizer. Save one there" in capsys.readouterr().err

    def test_a_configuration_that_contradicts_itself(self, saved, tmp_path):
        config = json.loads((tmp_path / "model" / "config.json").read_text())
        (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
        with pytest.raises(UsageError, match=r"(?s)cannot be loaded: .*num_hidden_layers"):
            check_model(saved)


@pytest.mark.parametrize(("given", "kept"), [("false", None), ("False", None), ("TRUE", True), (False, False)])
def test_resume_from_checkpoint_is_a_bool_where_it_is_written_as_one(make_config, given, kept):
    assert make_config(resume_from_checkpoint=given).resume_from_checkpoint is kept


def test_a_model_by_its_path(make_trainer, model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    assert make_trainer(model=tmp_path / "model").model.config._name_or_path == str(tmp_path / "model")


def test_a_process_that_sees_several_gpus(make_config, reward, model):
    class OfTwo(HTPOConfig):
        n_gpu = 2

    args = make_config()
    args.__class__ = OfTwo
    with pytest.raises(
        UsageError, match="One process sees 2 GPUs: start one for each by `htpo train --num_processes 2"
    ):
        check_run(args, model, reward, None)


class TestLoading:
    def test_a_damaged_file_of_weights_is_told(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").write_bytes(b"damaged")
        with pytest.raises(UsageError, match=r"model='x' cannot be loaded: .*header"), loading_told("model='x'"):
            Qwen3ForCausalLM.from_pretrained(tmp_path)

    def test_arguments_that_a_model_does_not_take_are_told(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        with pytest.raises(UsageError, match=r"model_init_kwargs: .*'num_experst'"), loading_told("model='x'"):
            Qwen3ForCausalLM.from_pretrained(tmp_path, num_experst=2)

    def test_packages_and_servers_are_told_in_their_own_words(self):
        for error in (ImportError("TRL supports vLLM from 1 to 2"), ConnectionError("no server at http://localhost")):
            with pytest.raises(UsageError, match=f"^{error}$"), loading_told("model='x'"):
                raise error

    def test_any_other_failure_keeps_its_traceback(self):
        with pytest.raises(OSError, match="disk full") as raised, loading_told("model='x'"):
            raise OSError("disk full")
        assert not isinstance(raised.value, UsageError)


def test_output_goes_where_it_can(tmp_path):
    check_writable("output_dir", tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "file/run", "dangling"):
        with pytest.raises(UsageError, match=f"output_dir='.*{name}': .* is no directory"):
            check_writable("output_dir", tmp_path / name)
