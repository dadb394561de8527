"""A tokenizer of other weights, or with tokens that the weights do not know: told before anything is done."""

from string import printable

import pytest
from tokenizers import AddedToken
from transformers import Qwen3ForCausalLM

from htpo_trl import HTPOTrainer
from htpo_trl.demo.warm_start import build_tokenizer
from htpo_trl.evaluation import evaluate
from htpo_trl.scripts.evaluate import main
from htpo_trl.utils import UsageError

from ..evaluation_run import PROBLEMS, SAMPLING, last_digit


def more(*tokens, **special):
    """The tokenizer of the tiny model, which has 13 tokens, with more of them."""
    tokenizer = build_tokenizer("0123456789")
    tokenizer.add_tokens([*tokens])
    tokenizer.add_special_tokens(special)
    return tokenizer


def with_template():
    tokenizer = more(AddedToken("<turn>", special=True))
    tokenizer.chat_template = "<turn>{{ messages[0].content }}"
    return tokenizer


OTHERS = {
    "of other weights": (lambda: build_tokenizer(printable), "is number 102"),
    "a token of the user's": (lambda: more("<think>"), "'<think>' is number 13"),
    "padding": (lambda: more(pad_token="[PAD]"), r"'\[PAD\]' is number 13"),
    "of the chat template": (with_template, "'<turn>' is number 13"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_it_is_refused(kind, model, make_trainer, dataset, make_config, reward, tmp_path, capsys):
    make, told = OTHERS[kind]
    tokenizer, told = make(), f"has embeddings of 13 tokens, and its tokenizer has others: .*{told}. Take the"
    directory = tmp_path / "model"
    Qwen3ForCausalLM.save_pretrained(model, directory)
    tokenizer.save_pretrained(directory)
    capsys.readouterr()
    for given, processing_class in ((model, tokenizer), (str(directory), None), (str(directory), tokenizer)):
        with pytest.raises(UsageError, match=told):
            HTPOTrainer(given, reward, make_config(), dataset, processing_class=processing_class)
    with pytest.raises(UsageError, match=told):
        evaluate((model, tokenizer), {"digits": PROBLEMS}, tmp_path / "out", SAMPLING, last_digit)
    (tmp_path / "data.jsonl").write_text('{"problem": "1", "solution": "1"}\n')
    with pytest.raises(SystemExit, match="2"):
        main(
            [
                "--model",
                str(directory),
                "--benchmarks",
                str(tmp_path / "data.jsonl"),
                "--no_chat",
                "--dtype",
                "float32",
            ]
        )
    assert capsys.readouterr().err.startswith(f"htpo eval: model='{directory}' has embeddings of 13 tokens")


def test_what_is_never_met_with_is_not(model, dataset, make_config, reward):
    """Gemma's has a token for pictures beyond the embeddings of its model of text."""
    tokenizer = more(AddedToken("<picture>", special=True))
    assert len(tokenizer) == 14
    HTPOTrainer(model, reward, make_config(), dataset, processing_class=tokenizer)
