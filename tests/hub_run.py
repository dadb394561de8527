"""
Runs that publish, in a process that knows a Hub by `HF_ENDPOINT` alone: `python -m tests.hub_run DIRECTORY`. What was
raised and warned of goes to `DIRECTORY/outcome.json`.
"""

import gc
import json
import string
import sys
import traceback
import warnings
from pathlib import Path

from datasets import Dataset
from huggingface_hub import upload_file
from peft import LoraConfig

from htpo_trl import HTPOConfig, HTPOTrainer
from htpo_trl.demo.warm_start import build_tokenizer
from htpo_trl.evaluation import Sampling
from htpo_trl.evaluation.callback import EvaluationCallback
from tests.hub_server import TOKEN
from tests.tiny import CPU_ARGUMENTS, even_digits, tiny_model


def build(directory, name, **options):
    """A trainer that publishes as `name`, with its arguments apart from `options`."""
    peft_config = options.pop("peft_config", None)
    arguments = CPU_ARGUMENTS | {"max_steps": 2, "max_completion_length": 8, "log_level": "debug"}
    arguments |= {"hub_token": TOKEN, "hub_model_id": name, "save_strategy": "steps", "save_steps": 1, **options}
    return HTPOTrainer(
        tiny_model(),
        even_digits,
        HTPOConfig(str(directory / name.replace("/", "-")), **arguments),
        Dataset.from_dict({"prompt": [f"{i:02d}" for i in range(64)]}),
        processing_class=build_tokenizer(string.digits),
        peft_config=peft_config,
    )


def main(directory: Path):
    gc.freeze()  # see conftest
    outcome = {"raised": {}, "warned": []}

    def attempt(name, action):
        try:
            return action()
        except Exception:
            outcome["raised"][name] = traceback.format_exc()

    # Without `hub_always_push` a checkpoint is left out while the one before is on its way.
    options = {"push_to_hub": True, "hub_strategy": "checkpoint", "hub_always_push": True, "eval_steps": 1}
    trainer = build(directory, "tester/model", **options)
    problems = {"digits": [{"prompt": "12", "solution": "2"}, {"prompt": "3", "solution": "4"}]}
    sampling = Sampling(num_samples=2, max_new_tokens=4)
    trainer.add_callback(EvaluationCallback(trainer, problems, sampling, even_digits))
    trainer.train()
    print(trainer.args, repr(trainer.args))
    trainer.push_to_hub(dataset_name="tester/data")
    card = {"path_or_fileobj": b"---\nbase_model: /on/this/machine\n---\n", "path_in_repo": "README.md"}
    attempt("card", lambda: upload_file(repo_id="tester/model", token=TOKEN, **card))

    adapter = build(directory, "tester/adapter", hub_private_repo=True, peft_config=LoraConfig(r=2))
    adapter.push_to_hub()

    for name in ("tester/intruder", "others/model"):
        attempt(name, lambda name=name: build(directory, name, push_to_hub=True))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = build(directory, "tester/broken", push_to_hub=True, hub_strategy="every_save")
        trainer.train()
    outcome["warned"] = [str(warning.message) for warning in caught]
    attempt("tester/broken", trainer.push_to_hub)
    (directory / "outcome.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
