"""
An evaluation in a process of its own, or in several, of which one can be told to kill itself, by SIGKILL, in the n-th
forward pass. `DIRECTORY/model` holds model and tokenizer. The seeds of all samples that were drawn go to
`OUTPUT/drawn.txt`, of several processes to `OUTPUT/drawn-RANK.txt`, beside the number of samples that each judged.
"""

import itertools
import json
import os
import signal
from pathlib import Path

from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from htpo_trl.evaluation import Sampling, TransformersGenerator, evaluate
from htpo_trl.verifier import Judgement, Verdict


SAMPLING = Sampling(num_samples=3, max_new_tokens=12, batch_size=8)
# Of different lengths, and more than a few batches, which do not end where problems do.
PROBLEMS = [{"prompt": "123456789"[i % 9 :] + f"{i:02d}", "solution": str(i % 10)} for i in range(20)]


def last_digit(completions, solution, **kwargs):
    """Judges the last digit; an odd prompt's gold is as good as any other."""
    judgements = []
    for text, gold in zip(completions, solution, strict=True):
        right = Verdict.CORRECT if text[-1:] == gold else Verdict.WRONG
        judgements.append(Judgement(right if text else Verdict.UNPARSABLE_ANSWER, text[-1:] or None))
    return judgements


def rows_of(samples: bytes):
    """The samples of a result file."""
    return [json.loads(line) for line in samples.splitlines()]


def summary_of(directory: Path):
    """The summary beside the result file `digits.jsonl`."""
    return json.loads((directory / "digits.json").read_text())["summary"]


class Recorder(TransformersGenerator):
    """Keeps the seeds that it drew, in a file that outlives the process."""

    def __init__(self, model, tokenizer, file):
        super().__init__(model, tokenizer)
        self.file = file

    def generate(self, prompts, seeds, sampling):
        completions = super().generate(prompts, seeds, sampling)
        with self.file.open("a") as file:
            file.writelines(f"{seed}\n" for seed in seeds)
        return completions


def main(directory: Path, output: Path, forward_passes: int = 0, rank: int = 0) -> None:
    model = Qwen3ForCausalLM.from_pretrained(directory / "model")
    count, own, judged = itertools.count(1), os.environ.get("RANK", "0"), []

    def die(*_):
        if own == str(rank) and next(count) == forward_passes:
            os.kill(os.getpid(), signal.SIGKILL)

    def judge(completions, **columns):
        judged.extend(completions)
        return last_digit(completions, **columns)

    judge.__name__ = "last_digit"
    judge.parts = [last_digit]  # whose source it is
    model.register_forward_pre_hook(die)
    output.mkdir(exist_ok=True)
    is_one_of_several = "RANK" in os.environ
    drawn = output / (f"drawn-{own}.txt" if is_one_of_several else "drawn.txt")
    generator = Recorder(model, PreTrainedTokenizerFast.from_pretrained(directory / "model"), drawn)
    found = evaluate(generator, {"digits": PROBLEMS}, output, SAMPLING, judge=judge, distributed=is_one_of_several)
    (output / f"judged-{own}.json").write_text(json.dumps([len(judged), found]))
