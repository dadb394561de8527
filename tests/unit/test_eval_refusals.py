"""`htpo eval` and `htpo demo` refuse by one line, before any model is loaded or trained."""

import json

import pytest
from transformers import PreTrainedModel

from htpo_trl.cli import main
from htpo_trl.evaluation import generation
from htpo_trl.verifier import VerifierConfig, configuration, configure


@pytest.fixture(scope="module")
def here(place):
    rows = "\n".join(json.dumps({"problem": f"{i} + 1", "solution": str(i + 1)}) for i in range(4))
    (place / "sums.jsonl").write_text(rows)
    for name, prompt in {"null": None, "untold": [{"role": "user"}], "void": []}.items():
        row = json.dumps({"prompt": prompt, "solution": "1"})
        (place / f"{name}.jsonl").write_text(f"{row}\n")
    (place / "nothing").mkdir()
    (place / "breaks.py").write_text("raise ValueError('of their own')\n")
    return place


@pytest.fixture
def refusal(here, monkeypatch, capsys):
    """Arguments → the line that the command ends with."""
    monkeypatch.chdir(here)

    def loads(*args, **kwargs):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", loads)
    monkeypatch.setattr(generation.AutoModelForCausalLM, "from_pretrained", loads)

    def refused(*argv):
        with pytest.raises(SystemExit) as ended:
            main([*argv])
        error = capsys.readouterr().err
        assert (ended.value.code, error.count("\n")) == (2, 1), error
        return error

    return refused


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--num_samples", "2", "--ks", "4"],
            "must lie in 1..num_samples=2: raise num_samples, or ask for smaller ks.",
        ),
        (["--num_samples", "2", "--ks", "0"], "must lie in 1..num_samples=2"),
        ([], "the tokenizer of 'model' has no chat template. Set chat=False (--chat false)"),
        (["--no_chat", "--dtype", "float33"], "dtype='float33' is none of auto, bfloat16, float16, float32."),
        (["--output_dir", ""], "output_dir is empty. Name a directory."),
        (["--output_dir", "recipe.yaml"], "output_dir='recipe.yaml': "),
        (["--output_dir", "recipe.yaml/results"], "output_dir='recipe.yaml/results': "),
        (
            ["--output_dir", "~/results"],
            "output_dir='~/results': no shell has put in what ~ stands for. Write it out.",
        ),
        (["--against", "absent"], "against='absent': there is no absent/sums.jsonl."),
        (["--model", "laptop-warmstart"], "Did you mean 'laptop-warm-start'? model='laptop-warmstart' is neither"),
        (["--model", "absent"], "model='absent' is no directory here, nor in the Hub's cache"),
        (["--model", "nothing"], "model='nothing' is no directory of a model: it has no config.json."),
        (["--judge", "judge.odd"], "judge: 'judge.odd' cannot be imported: there is no 'odd' in it."),
        (["--judge", "math_rewart"], "judge: Did you mean 'math_reward'?"),
        (["--judge", "verifier", "--no_chat", "--dtype", "half"], "dtype='half' is none of"),  # what comes last
        (["--no_chat", "--benchmarks", "prompts.jsonl"], "has no column 'solution', only prompt"),
        (["--benchmarks", "null.jsonl"], "'null', row 1: prompt=None must be a text, or a list of messages"),
        (["--benchmarks", "untold.jsonl"], "'untold', row 1: prompt=[{'role': 'user'}] must be a text"),
        (["--benchmarks", "void.jsonl"], "'void', row 1: prompt=[] must be a text, or a list of messages"),
        (["--no_chat", "--backend", "vlm"], "backend='vlm' is none of"),
        (["--no_chat", "--backend", "vllm"], "backend='vllm' needs vLLM: pip install 'htpo_trl[vllm]'"),
        (["--no_chat", "--dtype", "fp32"], "dtype='fp32' is none of auto, bfloat16, float16, float32."),
        (["--temperature", "nan"], "temperature=nan must be finite and at least 0."),
        (["--temperature", "0"], "temperature=0 decodes greedily"),
        (["--max_new_tokens", "0"], "max_new_tokens=0 must be at least 1."),
        (["--top_p", "nan"], "top_p=nan must lie in (0, 1]."),
        (["--dataset_options", '{"size": 3}'], "are for procedural tasks, which sums.jsonl is not"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_evaluation(refusal, here, argv, message):
    before = {*here.rglob("*")}
    line = refusal("eval", "--model", "model", "--benchmarks", "sums.jsonl", *argv)
    assert line.startswith("htpo eval: ")
    assert message in line
    assert {path for path in here.rglob("*") if "__pycache__" not in path.parts} <= before


def test_whether_reasoning_is_read_reaches_the_verifier(refusal):
    try:
        refusal("eval", "--model", "absent", "--benchmarks", "sums.jsonl", "--skip_reasoning", "false")
        assert configuration() == VerifierConfig(skip_reasoning=False)
    finally:
        configure(VerifierConfig())


def test_an_error_in_a_judges_module_is_not_a_line(here, monkeypatch):
    monkeypatch.chdir(here)
    with pytest.raises(ValueError, match="of their own") as raised:
        main(["eval", "--model", "model", "--benchmarks", "sums.jsonl", "--judge", "breaks.judge"])
    assert raised.traceback[-1].path.name == "breaks.py"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--steps", "0"], "steps=0 must be at least 1."),
        (["--warm_start_steps=-5"], "warm_start_steps=-5 must be at least 1."),
        (
            ["--warm_start_steps", "9"],
            "warm_start_steps=9 has no effect on the packaged warm start: set --warm_start fr",
        ),
        (["--warm_start", "stale"], "argument --warm_start/--warm-start: invalid choice: 'stale'"),
        (["--samples", "0"], "samples=0 must be at least 1."),
        (["--threads", "0"], "threads=0 must be at least 1."),
        (["--seed=-1"], "seed=-1 must lie in [0, 4294967295]."),
        (["--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["--quick", "--steps", "0"], "steps=0 must be at least 1."),
        (["--objective", "htpq"], "argument --objective: invalid choice: 'htpq'"),
        (["--output_dir", "recipe.yaml"], "output_dir='recipe.yaml': "),
    ],
)
def test_demo(refusal, argv, message):
    assert refusal("demo", *argv).startswith(f"htpo demo: {message}")
