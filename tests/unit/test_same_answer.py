"""`--dry_run` and the run refuse the same, by the same line, before any model is loaded."""

import json

import pytest
from transformers import PreTrainedModel

from htpo_trl.cli import main
from htpo_trl.scripts import htpo


OPTIONS = [
    # Numbers: every field has its case in test_ranges.
    (["--learning_rate", "nan"], "learning_rate=nan must be finite and above 0."),
    (["--learning_rate=-1"], "learning_rate=-1.0 must be above 0."),
    (["--temperature", "0"], "temperature=0.0 must be above 0."),
    (["--top_p", "1.5"], "top_p=1.5 must lie in (0, 1]."),
    (["--epsilon=-0.2"], "epsilon=-0.2 must be at least 0."),
    (["--max_completion_length", "0"], "max_completion_length=0 must be at least 1."),
    (["--per_device_train_batch_size", "0"], "per_device_train_batch_size=0 must be at least 1."),
    (["--max_steps", "0"], "max_steps=0 must be -1 or at least 1."),
    (["--num_train_epochs", "0"], "num_train_epochs=0.0 must be above 0."),
    (["--eval_top_p", "1.5"], "eval_top_p=1.5 must lie in (0, 1]."),
    (["--test_split_size", "1"], "test_split_size=1.0 must lie in (0, 1)."),
    (["--verifier_deadline", "inf"], "verifier_deadline=inf must be finite and above 0."),
    (["--use_peft", "--lora_r", "0"], "lora_r=0 must be at least 1."),
    (["--reward_weights", "nan"], "reward_weights=[nan] must be finite."),
    # What does not fit together
    (["--num_generations", "7"], "Set per_device_train_batch_size=21"),
    (["--loss_type", "cispo"], "loss_type='cispo' has no PPO clipping"),
    (["--reward_weights", "1", "2"], "reward_weights=[1.0, 2.0] must be one number for each"),
    (["--load_in_4bit", "--load_in_8bit"], "You can't use 8 bit and 4 bit precision at the same time"),
    (["--fp16", "true", "--bf16", "true"], "At most one of fp16 and bf16 can be True"),
    (["--eval_strategy", "steps"], "needs data: set test_split_size"),
    (["--eval_benchmarks", "test"], "set it, e.g. to 0.05"),
    (["--eval_benchmarks", "prompts.jsonl"], "eval_benchmarks need eval_steps"),
    (
        ["--eval_benchmarks", "few.jsonl", "--eval_steps", "1", "--eval_judge", "verifier"],
        "no column 'solution', only",
    ),
    (["--eval_benchmarks", "prompts.jsonl", "--eval_steps", "1"], "All 63 training problems are in what the run is"),
    (["--eval_benchmarks", "few.jsonl", "./few.jsonl", "--eval_steps", "1"], "name one set twice. Name each once."),
    (["--test_split_size", "0.2"], "test_split_size=0.2 holds data out, and nothing is evaluated on it. Add 'test'"),
    (
        [
            *("--eval_benchmarks", "few.jsonl", "--eval_steps", "1", "--eval_max_new_tokens", "300"),
            *("--use_vllm", "--vllm_max_model_length", "300"),
        ],
        "eval_max_new_tokens=300 and a prompt do not fit into vllm_max_model_length=300, whose engine",
    ),
    (["--eval_on_start"], "eval_on_start=True needs eval_strategy='steps' or 'epoch', and data for it."),
    (["--lora_r", "8"], "lora_r=8 has no effect without use_peft: all parameters would be trained. Set use_peft=True"),
    (["--load_in_8bit"], "load_in_8bit=True: quantized weights cannot be trained. Set use_peft=True, to train an"),
    (
        ["--lr_scheduler_type", "cosine_with_min_lr"],
        "lr_scheduler_type='cosine_with_min_lr', lr_scheduler_kwargs=None: ",
    ),
    (["--lr_scheduler_type", "cosine", "--lr_scheduler_kwargs", '{"num_cyles": 2}'], "keyword argument 'num_cyles'"),
    (
        ["--torch_compile", "--torch_compile_backend", "inducter"],
        "torch_compile_backend='inducter' is none of torch's: ",
    ),
    (
        ["--gradient_checkpointing_kwargs", '{"use_reentrent": false}'],
        "'use_reentrent' is none of torch's: context_fn, ",
    ),
    (["--optim_args", "betas"], "optim_args='betas' must be name=value, with commas between several"),
    (["--sync_ref_model"], "sync_ref_model=True with beta=0.0"),
    (["--router_aux_loss_coef", "0.1"], "router_aux_loss_coef=0.1 weighs a loss of mixtures of experts"),
    (["--use_peft", "--lora_target_modules", "absent"], "Target modules absent not found in the base model"),
    (["--use_peft", "--lora_target_modules", "q_proj", "lm_head"], "An adapter of lm_head would never be trained"),
    (["--push_to_hub"], "push_to_hub=True needs a token of the Hub"),
    (["--enable_jit_checkpoint"], "enable_jit_checkpoint=True: leave it out"),
    # Names
    (["--reward_funcs", "math_rewad"], "reward_funcs: Did you mean 'math_reward'?"),
    (["--reward_funcs", "absent.judge"], "reward_funcs: 'absent.judge' cannot be imported: No module named 'absent'"),
    (["--reward_funcs", "judge.even_digit"], "there is no 'even_digit' in it. Did you mean 'even_digits'?"),
    (["--reward_funcs", "judge.py:even"], "'judge.py:even' cannot be imported: there is no 'even' in it."),
    (["--reward_funcs", "absent.py:even"], "'absent.py:even': there is no file 'absent.py' in "),
    (["--reward_funcs", "..even_digits"], "'..even_digits' names nothing. Write file.py:name, or module.name."),
    (["--reward_funcs", "math_reward"], "'math_reward' needs the column 'solution'; the data has only prompt"),
    (["--eval_judge", "math_rewad"], "eval_judge: Did you mean 'math_reward'?"),
    (["--eval_judge", "judge.odd"], "eval_judge: 'judge.odd' cannot be imported: there is no 'odd' in it."),
    (["--correctness_reward", "odd_digits"], "correctness_reward='odd_digits' must name one reward function"),
    (["--objective", "htpq"], "'htpq'. Did you mean 'htpo'? The presets are"),
    (["--objective", "absent.py:MINE"], "objective: 'absent.py:MINE': there is no file 'absent.py' in "),
    (["--objective_overrides", '{"hard_correct_low": 5}'], "Unknown rule 5"),
    (["--template", "boxd"], "template='boxd' is none of"),
    (["--report_to", "wandbb"], "report_to: wandbb is not supported"),
    (["--attn_implementation", "spda"], "attn_implementation='spda' is none of"),
    (["--vllm_mode", "colocated"], "vllm_mode='colocated' is not one of 'colocate', 'server'"),
    (["--scale_rewards", "groups"], "scale_rewards='groups' is not one of"),
    (["--generation_kwargs", '{"num_beans": 2}'], "generation_kwargs: Did you mean 'num_beams'?"),
    (["--chat_template_kwargs", "{"], "chat_template_kwargs='{' must be a mapping, as JSON"),
    (["--model_init_kwargs", "dtype"], "model_init_kwargs='dtype' must be a mapping, as JSON"),
    (["--optim", "adamm"], "argument --optim: invalid choice: 'adamm'"),
    # Data
    (["--dataset_name", "absent.jsonl"], "There is no file 'absent.jsonl'"),
    (["--dataset_name", "few.jsonl"], "2 problems are fewer than the 3 prompts of a generation batch"),
    (["--dataset_name", "broken.jsonl"], "broken.jsonl, line 1: broken JSON"),
    (
        ["--dataset_name", "untitled.jsonl", "--reward_funcs", "judge.even_digits"],
        "untitled.jsonl, line 1: no column 'problem', only",
    ),
    (["--per_device_train_batch_size", "512"], "63 problems are fewer than the 64 prompts"),
    (["--problem_column", "question"], "no column 'question', only 'prompt'"),
    (["--dataset_name", "numbers.jsonl"], "The data, row 1: prompt=0 must be a text, or a list of messages"),
    (["--dataset_name", "gap.jsonl"], "The data, row 7: prompt=None must be a text, or a list of messages"),
    (["--dataset_name", "texts.jsonl"], "each with role and content. Correct or remove it."),
    (["--dataset_name", "mixed.jsonl"], "mixed.jsonl, line 7, column 'prompt': the values are not of one type"),
    (["--dataset_options", "{"], "is not JSON"),
    (["--dataset_options", "[1]"], "dataset_options=[1] must map options to values."),
    (["--dataset_name", "countdown", "--dataset_options", '{"size": 3}'], "are not those of countdown"),
    (["--dataset_name", "absent/"], "dataset_name='absent/': there is no such file here, and it cannot be an id"),
    (["--dataset_name", "my data"], "dataset_name='my data': there is no such file here, and it cannot be an id"),
    # Paths
    (["--model_name_or_path", "runs/x/absent"], "'runs/x/absent' is no directory here, and cannot be an id"),
    (["--model_name_or_path", "./absent"], "model_name_or_path='./absent' is no directory here"),
    (["--model_name_or_path", "laptop-warmstart"], "Did you mean 'laptop-warm-start'? model_name_or_path='laptop-war"),
    (["--model_name_or_path", "absent"], "model_name_or_path='absent' is no directory here, nor in the Hub's cache"),
    (["--model_name_or_path", "empty"], "model_name_or_path='empty' is no directory of a model: it has no config"),
    (["--model_name_or_path", "weightless"], "model_name_or_path='weightless' has no weights"),
    (["--resume_from_checkpoint", "true"], "there is no complete checkpoint in out"),
    (["--resume_from_checkpoint", "out/checkpoint-9"], "out/checkpoint-9"),
    (["--output_dir", ""], "output_dir is empty."),
    (["--output_dir", "${SCRATCH}/run"], "output_dir='${SCRATCH}/run': no shell has put in what $ stands for."),
    (["--output_dir", "prompts.jsonl"], "output_dir='prompts.jsonl': "),
    (["--output_dir", "prompts.jsonl/run"], "output_dir='prompts.jsonl/run': "),
    # The tokenizer has no chat template.
    (["--dataset_name", "chat.jsonl"], "Set chat=False (--chat false)"),
    (["--dataset_name", "own.jsonl", "--reward_funcs", "math_reward"], "Set chat=False (--chat false)"),
]


@pytest.fixture(scope="module")
def here(place):
    """More of what can be wrong."""
    message = [{"role": "user", "content": "1"}]
    files = {
        "few.jsonl": '{"prompt": "1"}\n{"prompt": "2"}',
        "broken.jsonl": "{",
        "untitled.jsonl": '{"text": "1"}',
        "chat.jsonl": "\n".join([json.dumps({"prompt": message})] * 64),
        "own.jsonl": "\n".join(json.dumps({"problem": f"{i} + 1", "solution": str(i + 1)}) for i in range(64)),
        "numbers.jsonl": "\n".join(json.dumps({"prompt": i}) for i in range(64)),
        "gap.jsonl": "\n".join(json.dumps({"prompt": None if i == 6 else str(i)}) for i in range(64)),
        "texts.jsonl": "\n".join([json.dumps({"prompt": [{"role": "user", "text": "1"}]})] * 64),
        "mixed.jsonl": "\n".join(json.dumps({"prompt": message if i == 6 else str(i)}) for i in range(64)),
        "weightless/config.json": (place / "model" / "config.json").read_text(),
        "objects.py": "import functools, judge\n\npartial = functools.partial(judge.even_digits, scale=1)\n\n\n"
        "class Each:\n    def __call__(self, completions, **kwargs):\n        return [1.0] * len(completions)\n\n\n"
        "Lengths = Each()\n",
        "raises.py": "import judge\n\n\nvalue = int('x')\n",
        "needs.py": "import a_package_of_theirs\n",
        "empty/README.md": "",
    }
    for name, text in files.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(text)
    return place


@pytest.fixture
def answers(here, monkeypatch, capsys):
    """Options → exit code and last words of the plan, and of the run, which must not come to load a model."""
    monkeypatch.chdir(here)

    def loads(*args, **kwargs):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", loads)

    def answer(*argv):
        found = []
        for command in (lambda rest: main(["train", *rest, "--dry_run"]), htpo.main):
            with pytest.raises(SystemExit) as ended:
                command(["--config", "recipe.yaml", *argv])
            found.append((ended.value.code, capsys.readouterr().err))
        return found

    return answer


@pytest.mark.parametrize(
    ("argv", "message"), OPTIONS, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_the_plan_and_the_run_refuse_by_the_same_line(answers, here, argv, message):
    before = {*here.rglob("*")}
    plan, run = answers(*argv)
    assert plan == run
    assert run[0] == 2
    assert run[1].startswith("htpo train: ")
    assert message in run[1]
    assert run[1].count("\n") == 1
    assert {path for path in here.rglob("*") if "__pycache__" not in path.parts} <= before


def test_what_is_held_out_for_nothing_is_told(here, monkeypatch):
    """Of the same training data as another run's, evaluated on other problems."""
    monkeypatch.chdir(here)
    options = ["--config", "recipe.yaml", "--test_split_size", "0.2", "--eval_benchmarks", "few.jsonl"]
    with pytest.warns(UserWarning, match="test_split_size=0.2 holds data out, and nothing is evaluated on it"):
        main(["train", *options, "--eval_steps", "1", "--eval_judge", "judge.even_digits", "--dry_run"])


@pytest.mark.parametrize("name", ["objects.partial", "objects.Lengths"])
def test_rewards_that_are_no_plain_functions_come_to_the_model(here, monkeypatch, name):
    """Partials and objects that can be called, which TRL takes."""
    monkeypatch.chdir(here)

    def loads(*args, **kwargs):
        raise NotImplementedError

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", loads)
    argv = ["--config", "recipe.yaml", "--reward_funcs", name]
    main(["train", *argv, "--dry_run"])
    with pytest.raises(NotImplementedError):
        htpo.main(argv)


@pytest.mark.parametrize(
    ("name", "error", "line"),
    [("raises.value", ValueError, "int('x')"), ("needs.judge", ModuleNotFoundError, "import a_package_of_theirs")],
)
def test_a_bug_in_the_users_module_keeps_its_traceback(here, monkeypatch, name, error, line):
    """It points at the user's line, of the plan and of the run."""
    monkeypatch.chdir(here)
    for command in (lambda rest: main(["train", *rest, "--dry_run"]), htpo.main):
        with pytest.raises(error) as raised:
            command(["--config", "recipe.yaml", "--reward_funcs", name])
        assert line in str(raised.traceback[-1].statement)
