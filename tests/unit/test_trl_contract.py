"""What `trainer.py` and `resume.py` rely on in TRL and transformers. If a test fails, the seam must be read again."""

import ast
import inspect
import textwrap

import torch
from transformers import Trainer
from trl import GRPOTrainer, RLOOTrainer
from trl.generation.vllm_client import VLLMClient
from trl.generation.vllm_generation import VLLMGeneration

from htpo_trl import HTPOTrainer
from htpo_trl.config import CHOICES
from htpo_trl.training.logs import LoggingGRPOTrainer
from htpo_trl.training.resume import ResumableGRPOTrainer


def calls_and_reads(function):
    """(line, what) of each call of a method of self, and each read of `inputs[...]` or `inputs.get(...)`, in order."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "inputs":
            found.append((node.lineno, node.slice.value))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = getattr(node.func.value, "id", "")
            if owner == "inputs" and node.func.attr == "get":
                found.append((node.lineno, node.args[0].value))
            if owner == "self":
                found.append((node.lineno, f"self.{node.func.attr}()"))
    return sorted(found)


def test_loss_reads_the_replaced_inputs_after_its_one_forward():
    reads = calls_and_reads(GRPOTrainer._compute_loss)
    forwards = [line for line, what in reads if what == "self._get_per_token_logps_and_entropies()"]
    assert len(forwards) == 1
    for name in ("advantages", "old_per_token_logps", "sampling_per_token_logps"):
        lines = [line for line, what in reads if what == name]
        assert lines, f"the loss no longer reads {name}"
        assert min(lines) > forwards[0], f"the loss reads {name} before its forward pass"


def test_signatures():
    assert list(inspect.signature(GRPOTrainer._compute_loss).parameters) == ["self", "model", "inputs"]
    assert list(inspect.signature(GRPOTrainer._generate_and_score_completions).parameters) == ["self", "inputs"]
    parameters = inspect.signature(GRPOTrainer.__init__).parameters
    assert list(parameters)[:4] == ["self", "model", "reward_funcs", "args"]


def test_forward_returns_log_probs_and_entropies_first(make_trainer):
    trainer = make_trainer()
    ids = torch.tensor([[3, 4, 5, 6]])
    outputs = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, torch.ones_like(ids), 2, compute_entropy=True
    )
    logits = trainer.model(ids).logits[:, 1:3].log_softmax(dim=-1)
    torch.testing.assert_close(outputs[0], logits.gather(2, ids[:, 2:].unsqueeze(2)).squeeze(2))
    torch.testing.assert_close(outputs[1], -(logits.exp() * logits).sum(dim=-1))


def test_rewards_are_gathered_per_function_with_nan_for_none(make_trainer):
    def first(completions, **kwargs):
        return [1.0, None]

    def second(completions, **kwargs):
        return [0.0, 3.0]

    trainer = make_trainer(reward_funcs=[first, second])
    rewards = trainer._calculate_rewards([{"prompt": "1"}] * 2, ["1", "1"], ["2", "3"], [[5], [6]])
    assert rewards.shape == (2, 2)
    assert rewards.isnan().tolist() == [[False, False], [True, False]]
    assert trainer.reward_func_names == ["first", "second"]


def test_loss_types_and_levels_of_the_ratio():
    """TRL checks them in the first loss; the config does before."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(GRPOTrainer._compute_loss)))
    found = {"loss_type": set(), "importance_sampling_level": set()}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Compare)
            and getattr(node.left, "attr", "") in found
            and isinstance(node.ops[0], ast.Eq | ast.In)
        ):
            values = ast.literal_eval(node.comparators[0])
            found[node.left.attr] |= {values} if isinstance(values, str) else set(values)
    assert found == {name: set(CHOICES[name]) for name in found}


def test_rows_are_prepared_before_they_are_generated_from():
    """Dynamic sampling leaves TRL's method in `_generate`: environments and pictures come before, and no metric."""
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    before, after = source.split("self._generate(prompts)")
    for preparation in ("environment.reset(", "prepare_multimodal_messages(", "self._sync_tool_dicts"):
        assert preparation in before
        assert preparation not in after
    assert "self._metrics" not in before
    assert "pool = self._environment_pool[name]" in before
    assert "inp[key] = values[i]" in after, "fields of a rollout_func are added to the rows as `rollouts.split` does"


def test_prompts_are_tokenized_one_by_one(make_trainer):
    """The evaluation callback asks for the tokens of one prompt."""
    trainer = make_trainer()
    ids, images, fields = trainer._tokenize_prompts(["12"])
    assert trainer.processing_class.batch_decode(ids) == ["12"]
    assert (images, fields) == (None, {})
    assert trainer.chat_template_kwargs == {}


def test_generation_returns_eight_columns(make_trainer, monkeypatch):
    """Dynamic sampling cuts them into rows."""
    trainer = make_trainer()
    trainer.model.train()
    prompts = ["01", "01", "02", "02"]
    generated = trainer._generate(prompts)
    assert isinstance(generated, tuple)
    _, completion_ids, tool_mask, completions, logprobs, extra_fields, images, tool_images = generated
    assert [trainer.processing_class.decode(ids, skip_special_tokens=True) for ids in completion_ids] == completions
    assert (tool_mask, logprobs, extra_fields, images, tool_images) == (None, None, {}, None, [])


def test_generation_and_rewards_are_called_once_before_and_after_scoring():
    order = [what for _, what in calls_and_reads(GRPOTrainer._generate_and_score_completions)]
    for name in ("self._generate()", "self._calculate_rewards()"):
        assert order.count(name) == 1
    scoring = order.index("self._get_per_token_logps_and_entropies()")
    assert order.index("self._generate()") < scoring < order.index("self._calculate_rewards()")


def test_the_engine_of_vllm_that_evaluation_borrows():
    source = inspect.getsource(VLLMGeneration)
    for name in ("mode", "llm", "vllm_client", "tensor_parallel_size", "enable_sleep_mode", "_llm_weights_sleeping"):
        assert f"self.{name} = " in source
    assert "self.tp_group, _ = torch.distributed.new_subgroups_by_enumeration(" in source
    assert list(inspect.signature(VLLMGeneration.sync_weights).parameters) == ["self"]
    sync = inspect.getsource(VLLMGeneration.sync_weights)
    assert 'wake_up(tags=["weights"])' in sync, "of an engine that sleeps"
    assert "self._llm_weights_sleeping = False" in sync
    parameters = {"prompts", "temperature", "top_p", "max_tokens", "logprobs", "generation_kwargs"}
    assert parameters <= {*inspect.signature(VLLMClient.generate).parameters}
    for trainer in (GRPOTrainer, RLOOTrainer):
        source = inspect.getsource(trainer)
        assert "self.vllm_generation = VLLMGeneration(" in source
        assert "self.use_vllm = args.use_vllm" in source
        # An evaluation does not count as one: what training generates next is by weights that it has sent itself.
        assert "if self.state.global_step != self._last_loaded_step:" in source


def test_extra_logs_wait_in_lists_per_column(make_trainer):
    trainer = make_trainer()
    assert trainer._pending_extra_logs == {}
    trainer._log_completion_extra("column", ["a", "b"])
    assert trainer._pending_extra_logs == {"column": ["a", "b"]}


def test_the_buffer_is_one_batch_per_gradient_step(make_trainer):
    """What exact resume saves: `_step` counts gradient steps, and the buffer is read at `_step` modulo its length."""
    trainer = make_trainer(steps_per_generation=4, num_iterations=2, max_steps=6)
    assert (trainer._step, trainer._buffered_inputs) == (0, None)
    trainer.train()
    assert trainer._step == 6
    assert len(trainer._buffered_inputs) == 4
    trainer.model.train()
    assert trainer._prepare_inputs(None) is trainer._buffered_inputs[6 % 4]


def test_the_sampler_draws_one_order_per_epoch(make_trainer):
    first, second = (make_trainer()._get_train_sampler() for _ in range(2))
    orders = [list(first) for _ in range(3)]
    assert orders[0] != orders[1]
    next(iter(second))
    next(iter(second))
    assert list(second) == orders[2]


def test_checkpoints_are_pushed_and_rotated_after_the_rng_state_is_saved():
    source = inspect.getsource(Trainer._save_checkpoint)
    calls = ("save_model(", "_save_rng_state(", "save_to_json(", "_push_from_checkpoint(", "save_total_limit=")
    places = [source.index(call) for call in calls]
    assert places == sorted(places)
    assert inspect.getsource(Trainer).count("._push_from_checkpoint(") == 1


def test_only_these_private_methods_are_overridden():
    ours = (HTPOTrainer, ResumableGRPOTrainer, LoggingGRPOTrainer)
    overridden = {
        name for cls in ours for name in vars(cls) if callable(getattr(cls, name)) and hasattr(GRPOTrainer, name)
    }
    assert overridden == {
        "__init__",
        "train",
        "_calculate_rewards",
        "_compute_loss",
        "_finish_current_push",
        "_generate",
        "_generate_and_score_completions",
        "_get_per_token_logps_and_entropies",
        "_get_train_sampler",
        "_init_training_state",
        "_load_best_model",
        "_load_from_checkpoint",
        "_load_optimizer_and_scheduler",
        "_push_from_checkpoint",
        "_save",
        "_save_checkpoint",
        "_save_rng_state",
        "create_model_card",
        "get_train_dataloader",
        "log",
        "save_state",
    }
    functions = {name for cls in ours for name, v in vars(cls).items() if inspect.isfunction(v)}
    assert not any(hasattr(GRPOTrainer, name) for name in functions - overridden)
