"""Dynamic sampling: every group that is trained on has right and wrong completions, and its counts agree."""

from collections.abc import Iterator

from torch import Tensor

from ..trainer import HTPOTrainer
from .parts import Finding, Machine
from .tiny import logged, make_trainer, solvable_even_digits


class _Recorder(HTPOTrainer):
    """Keeps whether the completions of each generation batch are right."""

    trained: list[Tensor]

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        self.trained.append(output["is_correct"].view(-1, self.num_generations).cpu())
        return output


def find(machine: Machine) -> Iterator[Finding]:
    """Half of the prompts have no right answer; without dynamic sampling their groups would be there."""
    for dynamic in (False, True):
        options = {"dynamic_sampling": dynamic, "max_sampling_rounds": 30, "max_steps": 8, "learning_rate": 1e-4}
        trainer = make_trainer(_Recorder, machine, reward=solvable_even_digits, **options)
        trainer.trained = []
        trainer.train()
        groups = [group for batch in trainer.trained for group in batch]
        uniform = sum(bool(group.all() or not group.any()) for group in groups)
        what = f"groups of one verdict among {len(groups)}"
        if not dynamic:
            yield Finding(f"without dynamic sampling: {what}", "> 0", str(uniform), uniform > 0)
            continue
        yield Finding.none_of(what, uniform, len(groups) > 0)
        rows = [row for row in logged(trainer) if "htpo/sampling/rounds" in row]
        flat = [row["frac_reward_zero_std"] for row in rows]
        yield Finding("frac_reward_zero_std, as logged", "0", f"{max(flat, default=-1):g}", {*flat} == {0.0})
        rounds = [row["htpo/sampling/rounds"] for row in rows]
        found = f"{min(rounds):g} to {max(rounds):g}"
        yield Finding("rounds of a batch", "more than one in some", found, max(rounds) > 1)
        correct = [batch.float().mean().item() for batch in trainer.trained]
        told = [row["htpo/accuracy"] for row in rows]
        agree = len(told) == len(correct) and all(abs(a - b) < 1e-6 for a, b in zip(told, correct, strict=True))
        yield Finding.same("htpo/accuracy is that of the groups", agree)
