"""Two processes evaluate by engines of their own, by one that both are a part of, and by a server."""

import json
import shutil

import pytest

from htpo_trl.evaluation import EvaluationCallback, Sampling

from .. import engine
from ..distributed_run import build
from ..forks import Forks
from ..tiny import even_digits, tiny_model


PROBLEMS = [{"prompt": "123456789"[i:] + str(i)} for i in range(5)]
GREEDY = Sampling(num_samples=1, temperature=0, max_new_tokens=5, batch_size=2)
SAMPLED = Sampling(num_samples=2, max_new_tokens=5, batch_size=4)  # the third of three batches is a smaller one
MODES = {
    "own": {},
    "shared": {"vllm_tensor_parallel_size": 2, "vllm_enable_sleep_mode": True},
    "server": {"vllm_mode": "server", "vllm_server_base_url": "http://localhost:1"},
}


def run(directory, modes):
    engine.stand_in(lambda *values, **_: setattr(*values), dict.__setitem__, directory / "model")
    for mode in modes:
        place = directory / mode
        arguments = {"max_steps": 2, "eval_steps": 1, "steps_per_generation": 1, "max_completion_length": 5}
        trainer = build(place, arguments | {"use_vllm": True} | MODES[mode])
        for name, sampling, backend in (
            ("sampled", SAMPLED, "auto"),
            ("greedy", GREEDY, "auto"),
            ("transformers", GREEDY, "transformers"),
        ):
            trainer.add_callback(EvaluationCallback(trainer, {name: PROBLEMS}, sampling, even_digits, backend=backend))
        trainer.train()
        rank = trainer.accelerator.process_index
        own = trainer.vllm_generation
        llm = own.vllm_client.llm if mode == "server" and rank == 0 else getattr(own, "llm", None)
        seeds = [params.seed for params in llm.requests if params.seed] if llm else []
        (place / f"rank{rank}.json").write_text(json.dumps(seeds))


@pytest.fixture(scope="module")
def directory(tokenizer, tmp_path_factory):
    directory = tmp_path_factory.mktemp("engines")
    tiny_model().save_pretrained(directory / "model")
    tokenizer.save_pretrained(directory / "model")
    for mode in MODES:
        shutil.copytree(directory / "model", directory / mode / "model")
    alone = directory / "alone"
    shutil.copytree(directory / "model", alone / "own" / "model")
    shutil.copytree(directory / "model", alone / "model")
    Forks(run, directory, [*MODES], output=directory / "output.txt", n_processes=2).finish()
    Forks(run, alone, ["own"], output=directory / "alone.txt").finish()
    return directory


@pytest.mark.parametrize("mode", MODES)
def test_samples_are_those_of_one_process(directory, mode):
    def file(place, step, name):
        return (place / "run" / "evaluation" / f"step-{step}" / f"{name}.jsonl").read_text()

    for name in ("sampled", "greedy"):
        assert file(directory / mode, 0, name) == file(directory / "alone" / "own", 0, name)
    for step in (0, 1, 2):
        greedy = file(directory / mode, step, "greedy")
        assert greedy.replace('"greedy"', '"transformers"') == file(directory / mode, step, "transformers")
    assert file(directory / mode, 0, "greedy") != file(directory / mode, 2, "greedy")


@pytest.mark.parametrize("mode", MODES)
def test_each_sample_is_drawn_once(directory, mode):
    """By one engine; both ranks of a shared one draw all. Nobody repeats a batch in order to wait."""
    first, second = (json.loads((directory / mode / f"rank{rank}.json").read_text()) for rank in (0, 1))
    n_samples = 3 * (10 + 5)  # at each of three steps
    if mode == "shared":
        assert first == second
        second = []
    assert len(first + second) == n_samples
    assert len({*first, *second}) == 10, "the greedy ones have seeds of the others"
