import shutil
import warnings
from pathlib import Path

import pytest
from datasets import Dataset, DatasetInfo, IterableDataset
from huggingface_hub import ModelCard
from peft import LoraConfig
from transformers import Qwen3ForCausalLM

from htpo_trl import HTPOTrainer, __version__
from htpo_trl.objective import GROUPS, get_table
from htpo_trl.output.writing import write_json
from htpo_trl.training.checkpoint import check

from ..hub_server import metadata_errors
from ..tiny import even_digits


def length(completions, **kwargs):
    return [0.1 * len(text) for text in completions]


@pytest.fixture
def make_card(make_config, tokenizer):
    """The card of a trainer, as its text and its metadata."""

    def make(model, dataset, step=0, reward_funcs=even_digits, peft_config=None, **options):
        trainer = HTPOTrainer(
            model,
            reward_funcs,
            make_config(**options),
            dataset,
            processing_class=tokenizer,
            peft_config=peft_config,
        )
        trainer.state.global_step = step
        trainer.create_model_card()
        content = Path(trainer.args.output_dir, "README.md").read_text()
        assert metadata_errors(content) == []
        card = ModelCard(content)
        return card.text, card.data

    return make


def cells(text, *start):
    """The rows of the card's tables that begin with these cells."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
    return [row for row in rows if row[: len(start)] == list(start)]


def test_objective_rewards_and_hyper_parameters(make_card, model, dataset):
    overrides = {"hard_correct_low": {"rule": "detach", "share": 0.05}, "easy_wrong_low": "clip"}
    text, data = make_card(
        model,
        dataset,
        reward_funcs=[length, even_digits],
        objective="gppo",
        objective_overrides=overrides,
        correctness_reward="even_digits",
        reward_weights=[0.5, 2.0],
        difficulty_threshold=0.75,
        gradient_accumulation_steps=2,
        hub_token="hf_secret",
    )
    table = get_table("gppo", overrides)
    for group, rule in zip(GROUPS, table.rows, strict=True):
        assert cells(text, " · ".join(group.split("_"))) == [[" · ".join(group.split("_")), str(rule)]]
    assert "the lowest-entropy 5% of the group detached" in text
    assert (
        "from the table `gppo*` (arXiv 2508.07629) with other rules for `hard_correct_low`, `easy_wrong_low`." in text
    )
    assert "less than 75% of its responses" in text
    assert "`length` (weight 0.5), `even_digits` (weight 2). `even_digits` judges correctness" in text
    assert "Prompts: 64 rows." in text
    assert "16 completions per optimizer step" in text
    for option, value in {"learning_rate": "0.01", "num_generations": "4", "delta": "10.0", "seed": "42"}.items():
        assert cells(text, option) == [[option, value]]
    assert {"trl", "htpo", "grpo"} <= set(data.tags)
    assert f"- htpo_trl: {__version__}\n- trl: " in text
    assert "@article{yao2026htpo" in text
    assert "@software{vonwerra2020trl" in text
    assert text.index("### Objective") < text.index("### Framework versions") < text.index("## Citations")
    assert "### Evaluation" not in text
    assert "model-index" not in data.to_dict()
    assert 'model="run"' in text  # not pushed: the directory's name
    assert "None]" not in text
    assert "hf_secret" not in text


def test_evaluation(make_card, model, dataset, tmp_path):
    def summary(low, mean, high):
        return {"settings": {}, "summary": {"metrics": {"mean@2": {"mean": mean, "low": low, "high": high}}}}

    for step, name, content in (
        (0, "easy sums", summary(0.1, 0.2, 0.3)),
        (5, "easy sums", summary(0.4, 0.5, 0.6)),
        (10, "easy sums", summary(0.7, 0.81, 0.9)),
        (10, "new", summary(0.0, 0.25, 1.0)),
        (10, "unfinished", {"settings": {}}),
        (20, "easy sums", summary(0.0, 0.0, 0.0)),  # of an older, longer run
    ):
        directory = tmp_path / "run" / "evaluation" / f"step-{step}"
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / f"{name}.json", content)
    text, data = make_card(model, dataset, step=10)
    assert cells(text, "benchmark") == [["benchmark", "metric", "step 0", "step 10"]]
    assert cells(text, "easy sums") == [["easy sums", "mean@2", "0.200 [0.100, 0.300]", "0.810 [0.700, 0.900]"]]
    assert cells(text, "new")[0][-1] == "0.250 [0.000, 1.000]"
    assert "unfinished" not in text
    results = {(result.dataset_name, result.metric_type): result.metric_value for result in data.eval_results}
    assert results == {("easy sums", "mean@2"): 0.81, ("new", "mean@2"): 0.25}


def test_a_card_that_fails_costs_no_checkpoint(make_trainer, tmp_path, monkeypatch):
    """TRL writes the card within every save; a summary that is no JSON breaks it."""
    broken = tmp_path / "run" / "evaluation" / "step-1" / "sums.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    other = tmp_path / "run" / "evaluation" / "step-best"
    other.mkdir()
    write_json(other / "sums.json", {"summary": {"metrics": {}}})
    trainer = make_trainer(save_strategy="steps", save_steps=2, max_steps=2)
    with pytest.warns(UserWarning, match="model card .* could not be written: .*sums.json: broken JSON"):
        trainer.train()
    check(tmp_path / "run" / "checkpoint-2")
    broken.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trainer.create_model_card()
    assert "### Objective" in (tmp_path / "run" / "README.md").read_text()
    # An option that this TRL does not have is left out.
    monkeypatch.setattr("htpo_trl.training.model_card.OPTIONS", ("beta", "renamed_option"))
    trainer.create_model_card()
    text = (tmp_path / "run" / "README.md").read_text()
    assert cells(text, "beta") == [["beta", "0.0"]]
    assert "renamed_option" not in text


def test_model_and_data_of_the_hub(make_card, model, dataset):
    info = DatasetInfo(download_checksums={"hf://datasets/tester/data@0a1b/train.parquet": {"num_bytes": 1}})
    dataset = Dataset(dataset.data, info=info).filter(lambda row: row["prompt"] != "00")
    model.config._name_or_path = "Qwen/Qwen3-0.6B"
    text, data = make_card(model, dataset, peft_config=LoraConfig(r=2))
    assert (data.base_model, data.datasets) == ("Qwen/Qwen3-0.6B", "tester/data")
    assert "[Qwen/Qwen3-0.6B](https://huggingface.co/Qwen/Qwen3-0.6B)" in text
    assert "Prompts: 63 rows of [tester/data](https://huggingface.co/datasets/tester/data)." in text


def test_no_path_of_this_machine(make_card, model, dataset, tmp_path):
    model.save_pretrained(tmp_path / "model")
    model = Qwen3ForCausalLM.from_pretrained(tmp_path / "model")
    shutil.rmtree(tmp_path / "model")  # TRL takes what is not a directory for a model of the Hub
    stream = IterableDataset.from_generator(lambda: iter(dataset))
    text, data = make_card(model, stream)
    assert data.base_model is None
    assert "fine-tuned version of a model that is not on the Hub" in text
    assert str(tmp_path) not in text
    assert "Prompts: a stream." in text
