"""
A full disk, and places where nothing can be written: one line that names the file and the free space, what was there
before is as it was, and training goes on without a diagnosis.
"""

import json
import re
import resource
from contextlib import contextmanager, suppress

import pytest
import torch
from matplotlib.figure import Figure
from transformers import AutoTokenizer, Qwen3ForCausalLM, TrainerCallback

from htpo_trl.evaluation import EvaluationCallback, Sampling
from htpo_trl.evaluation.runner import evaluate
from htpo_trl.output.writing import WriteError, write_atomically
from htpo_trl.report import write_report
from htpo_trl.report.runs import read_sets
from htpo_trl.report.sections import Report
from htpo_trl.scripts.htpo import finish
from htpo_trl.tokens import TokenRecorder, write_token_map
from htpo_trl.training.checkpoint import check
from htpo_trl.utils import UsageError

from ..evaluation_run import PROBLEMS, SAMPLING, last_digit
from ..tiny import even_digits, same_parameters
from ..token_records import completion_row, write
from .test_report import htpo_log, train_run


@contextmanager
def largest_file(size):
    """Files end at `size`, as they do where a disk is full, with another errno."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextmanager
def full(path):
    """The disk is full when this file is written anew."""
    partial = path.with_name(f"{path.name}.partial")
    partial.symlink_to("/dev/full")
    yield
    assert not partial.is_symlink()  # what was written of it would take the space that is missing


def test_a_file_is_the_old_or_the_new_one(tmp_path):
    file = tmp_path / "folder" / "file"
    write_atomically(file, "old")
    with full(file), pytest.raises(WriteError) as raised:
        write_atomically(file, "new")
    assert str(raised.value).startswith(f"{file} could not be written: No space left on device. Its file system has ")
    assert str(raised.value).endswith(" MB free.")
    assert isinstance(raised.value, UsageError)
    assert isinstance(raised.value, OSError)
    assert (file.read_text(), [*file.parent.iterdir()]) == ("old", [file])
    with pytest.raises(WriteError, match=r"file/below could not be written: (Not a directory|File exists)"):
        write_atomically(file / "below", "new")


def test_pages_and_pictures(tmp_path):
    train_run(tmp_path / "run", htpo_log(0))
    write(tmp_path / "run", [completion_row("ab")])
    page, map_page = tmp_path / "report" / "index.html", tmp_path / "run" / "tokens" / "step-000007.html"
    write_atomically(page, "old")
    write_atomically(map_page, "old")
    with full(page), pytest.raises(WriteError, match=f"{page} could not be written: No space left"):
        write_report([tmp_path / "run"], tmp_path / "report")
    picture = next((tmp_path / "report").glob("*.png"))  # all were written, each in one step
    before = picture.read_bytes()
    report = Report(read_sets([tmp_path / "run"]), tmp_path / "report")
    with full(picture), pytest.raises(WriteError, match=f"{picture} could not be written: No space left"):
        report.picture(picture.stem, Figure(), "")
    assert picture.read_bytes() == before
    with full(map_page), pytest.raises(WriteError, match=f"{map_page} could not be written: No space left"):
        write_token_map(tmp_path / "run")
    assert page.read_text() == map_page.read_text() == "old"
    with pytest.raises(WriteError, match="could not be written"):
        write_report([tmp_path / "run"], page / "below")
    with pytest.raises(WriteError, match="could not be written"):
        write_token_map(tmp_path / "run", output=page / "below.html")


def test_an_evaluation_goes_on_when_there_is_room(model, tokenizer, tmp_path):
    def run(name):
        arguments = ((model, tokenizer), {"digits": PROBLEMS}, tmp_path / name, SAMPLING, last_digit)
        evaluate(*arguments, disable_tqdm=True)
        return (tmp_path / name / "digits.jsonl").read_bytes()

    whole = run("whole")
    size = len(whole) // 2
    with (
        largest_file(size),
        pytest.raises(WriteError, match=r"digits.jsonl could not .* What is whole stays") as raised,
    ):
        run("full")
    assert " MB free." in str(raised.value)
    written = (tmp_path / "full" / "digits.jsonl").read_bytes()
    assert 0 < len(written) <= size
    assert whole.startswith(written)
    assert run("full") == whole


def test_training_goes_on_without_its_diagnoses(make_trainer, tmp_path):
    """A record of tokens, an evaluation, a card: none can be written."""

    def train(name):
        trainer = make_trainer(output_dir=str(tmp_path / name), eval_steps=2, max_steps=2, save_strategy="steps")
        benchmarks = {"digits": [{"prompt": "1"}] * 3}
        trainer.add_callback(EvaluationCallback(trainer, benchmarks, Sampling(2, max_new_tokens=3), even_digits))
        trainer.add_callback(TokenRecorder(trainer, steps=1, completions=2))
        trainer.train()
        return trainer

    whole = train("whole")
    (tmp_path / "full" / "README.md").mkdir(parents=True)
    (tmp_path / "full" / "evaluation").write_text("")
    (tmp_path / "full" / "tokens").symlink_to("/dev/full")
    with pytest.warns(UserWarning, match="Training goes on") as warned:
        stricken = train("full")
    messages = [str(warning.message) for warning in warned]
    for start, times in (
        (f"{tmp_path}/full/evaluation/step-0/digits.json could not be written: ", 1),
        (f"{tmp_path}/full/evaluation/step-2/digits.json could not be written: ", 1),
        ("The tokens of step 1 are not recorded. ", 1),
        ("The tokens of step 2 are not recorded. ", 1),
    ):
        found = [message for message in messages if message.startswith(start)]
        assert len(found) == times, messages
        assert "Training goes on" in found[0]
        assert " MB free." in found[0]
    assert same_parameters(whole, stricken)
    assert not any("eval_digits" in key for row in stricken.state.log_history for key in row)
    with pytest.warns(UserWarning, match=r"README.md could not be written: .* Nothing else is lost"):
        stricken.create_model_card()
    stricken.save_last_step()
    check(tmp_path / "full" / "checkpoint-2")


def test_training_goes_on_without_its_log(make_trainer, tmp_path):
    """TRL writes a table of completions within the log; trackers write, too."""
    seen = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if state.global_step == 2:
                raise OSError(28, "No space left on device")
            seen.append(logs.get("htpo/accuracy"))

    def train(**kwargs):
        trainer = make_trainer(max_steps=3, num_iterations=1, steps_per_generation=1, **kwargs)
        table = tmp_path / "run" / "completions" / "completions_00001.parquet"
        with suppress(FileExistsError):
            table.symlink_to("/dev/full") if kwargs else None
        trainer.train()
        return trainer.state.log_history

    whole = [row.get("htpo/accuracy") for row in train()]
    with pytest.warns(UserWarning, match="The log of step 1 is not complete") as warned:
        log = train(log_completions=True, callbacks=[Tracker()])
    messages = [str(warning.message) for warning in warned if "is not complete" in str(warning.message)]
    assert len(messages) == 2
    assert all("No space left on device" in message and " MB free. Training" in message for message in messages)
    assert [row.get("htpo/accuracy") for row in log] == whole  # of a step each
    assert seen == [whole[0], *whole[2:]]


def test_the_state_is_the_old_or_the_new_one(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=1)
    trainer.train()
    state = tmp_path / "run" / "trainer_state.json"
    before = state.read_text()
    with full(state), pytest.warns(UserWarning, match="trainer_state.json could not be written: .*No space left"):
        trainer.save_state()
    assert state.read_text() == before
    trainer.save_model()


def test_a_card_is_the_old_or_the_new_one(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.create_model_card()
    card = tmp_path / "run" / "README.md"
    before = card.read_text()
    with full(card), pytest.warns(UserWarning, match="README.md could not be written: .*No space left on device"):
        trainer.create_model_card()
    assert card.read_text() == before
    trainer.create_model_card()
    assert card.read_text() == before


@pytest.mark.parametrize("save_strategy", ["steps", "no"])
def test_the_model_at_the_end(make_trainer, tmp_path, save_strategy, monkeypatch):
    """A run of whose steps none is left cannot be resumed to write it again."""
    trainer = make_trainer(save_strategy=save_strategy, save_steps=1, max_steps=2)
    trainer.train()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with largest_file(30_000), pytest.raises(WriteError) as raised:
        finish(trainer, None)
    assert str(raised.value).startswith(f"{tmp_path}/run could not be written: ")
    if save_strategy == "steps":
        assert str(raised.value).endswith(f" MB free. The model is in {tmp_path}/run/checkpoint-2, too.")
        return
    lost = r" MB free\. Nor could .*/htpo-model-\w+ could not be written: .* The model is lost: free space, and train"
    assert re.search(lost, str(raised.value))
    # Of `output_dir` alone: the file can still be written elsewhere.
    (tmp_path / "run" / "model.safetensors").unlink(missing_ok=True)
    (tmp_path / "run" / "model.safetensors" / "taken").mkdir(parents=True)
    with pytest.raises(WriteError, match=r" MB free\. The model is in .* instead: free space, and move") as raised:
        finish(trainer, None)
    (saved,) = re.findall(r"is in (\S+) instead", str(raised.value))
    found = Qwen3ForCausalLM.from_pretrained(saved).state_dict()
    assert all(torch.equal(value, found[name]) for name, value in trainer.model.state_dict().items())
    assert AutoTokenizer.from_pretrained(saved).get_vocab() == trainer.processing_class.get_vocab()


def test_a_checkpoint(make_trainer, tmp_path):
    trainer = make_trainer(save_strategy="steps", save_steps=1, max_steps=2)
    trainer.train()
    trainer.state.global_step = 3
    with largest_file(100_000), pytest.raises(WriteError) as raised:
        trainer._save_checkpoint(trainer.model_wrapped, trial=None)
    assert str(raised.value).startswith(f"{tmp_path}/run/checkpoint-3 could not be written: ")
    assert "is not complete and will not be resumed from; older checkpoints are as" in raised.value.__notes__[0]
    check(tmp_path / "run" / "checkpoint-2")
    assert json.loads((tmp_path / "run" / "checkpoint-2" / "trainer_state.json").read_text())["global_step"] == 2
