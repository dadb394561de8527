import pytest
from transformers import Qwen3ForCausalLM

from htpo_trl.evaluation import Sampling, evaluate

from ..distributed_run import ZERO3, launch, records
from ..tiny import even_digits


SAMPLING = {"num_samples": 3, "max_new_tokens": 8, "batch_size": 4}
# 11 batches of 4: of the two processes one is without a batch in the last round.
BENCHMARKS = {"digits": [{"prompt": "123456789"[i:] + str(i)} for i in range(9)], "six": [{"prompt": "6"}] * 5}


@pytest.fixture
def directory(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path


@pytest.mark.parametrize("launcher", [None, ZERO3], ids=["ddp", "zero3"])
def test_two_processes(directory, tokenizer, launcher):
    arguments = {"max_steps": 2, "eval_steps": 2, "steps_per_generation": 2, "logging_steps": 2}
    arguments |= {"num_generations": 4, "per_device_train_batch_size": 4}
    if launcher is ZERO3:  # see distributed_run
        arguments |= {"use_cpu": False, "ddp_backend": "gloo"}
    launch(directory, {"two": {"arguments": arguments, "benchmarks": BENCHMARKS, "sampling": SAMPLING}}, launcher)
    ranks = records(directory, "two")
    for rank in ranks:
        assert [row["step"] for row in rank["log"] if "eval_six/mean@3" in row] == [0, 2]
        assert rank["verdicts"] == [1.0, 0.0]
    assert ranks[0]["log"][0] == ranks[1]["log"][0]
    for step, name in ((0, "model"), (2, "two")):
        model = Qwen3ForCausalLM.from_pretrained(directory / name)
        evaluate(
            (model, tokenizer),
            BENCHMARKS,
            directory / f"apart-{step}",
            Sampling(**SAMPLING),
            even_digits,
            disable_tqdm=True,
        )
        for benchmark in BENCHMARKS:
            expected = (directory / f"apart-{step}" / f"{benchmark}.jsonl").read_bytes()
            assert (directory / "run" / "evaluation" / f"step-{step}" / f"{benchmark}.jsonl").read_bytes() == expected
