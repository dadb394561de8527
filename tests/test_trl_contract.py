"""What `trainer.py` relies on in TRL's private methods. If a test fails, TRL changed, and the seam must be read."""

import ast
import inspect
import textwrap

import torch
from trl import GRPOTrainer

from htpo_trl import HTPOTrainer

from .test_trainer import make_trainer  # noqa: F401  (a fixture)


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


def test_forward_returns_log_probs_and_entropies_first(make_trainer):  # noqa: F811
    trainer = make_trainer()
    ids = torch.tensor([[3, 4, 5, 6]])
    outputs = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, torch.ones_like(ids), 2, compute_entropy=True
    )
    logits = trainer.model(ids).logits[:, 1:3].log_softmax(dim=-1)
    torch.testing.assert_close(outputs[0], logits.gather(2, ids[:, 2:].unsqueeze(2)).squeeze(2))
    torch.testing.assert_close(outputs[1], -(logits.exp() * logits).sum(dim=-1))


def test_rewards_are_gathered_per_function_with_nan_for_none(make_trainer):  # noqa: F811
    def first(completions, **kwargs):
        return [1.0, None]

    def second(completions, **kwargs):
        return [0.0, 3.0]

    trainer = make_trainer(reward_funcs=[first, second])
    rewards = trainer._calculate_rewards([{"prompt": "1"}] * 2, ["1", "1"], ["2", "3"], [[5], [6]])
    assert rewards.shape == (2, 2)
    assert rewards.isnan().tolist() == [[False, False], [True, False]]
    assert trainer.reward_func_names == ["first", "second"]


def test_only_these_private_methods_are_overridden():
    overridden = {
        name for name in vars(HTPOTrainer) if callable(getattr(HTPOTrainer, name)) and hasattr(GRPOTrainer, name)
    }
    assert overridden == {
        "__init__",
        "_calculate_rewards",
        "_compute_loss",
        "_generate_and_score_completions",
        "_get_per_token_logps_and_entropies",
    }
    added = {name for name, value in vars(HTPOTrainer).items() if inspect.isfunction(value)} - overridden
    assert not any(hasattr(GRPOTrainer, name) for name in added)
