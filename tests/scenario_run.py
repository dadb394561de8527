"""Runs of scenarios with dynamic sampling, in which every row is compared with what it was judged as."""

import os
from pathlib import Path

import torch
from accelerate.utils import gather_object

from htpo_trl import HTPOConfig, HTPOTrainer

from . import scenarios
from .tiny import CPU_ARGUMENTS


class Checked(HTPOTrainer):
    """Knows what was judged, in whatever round and process, and finds it in what is trained on."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.judged, self.rows = {}, 0

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids):
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids)
        if self._sampled is None:
            offset = self.accelerator.process_index * len(inputs)
            for i, (row, ids) in enumerate(zip(inputs, completion_ids, strict=True)):
                self.judged.setdefault((row["number"], *ids), []).append(rewards[offset + i].tolist())
        return rewards

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        judged = {key: value for part in gather_object([self.judged]) for key, value in part.items()}
        pictures = None
        if "pixel_values" in output:
            pictures = [scenarios.picture(i) for i in range(64)]
            pictures = self.processing_class.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
        for i, ids in enumerate(output["completion_ids"]):
            there = output["completion_mask"][i].bool()
            prompt = self._tokenizer.decode(output["prompt_ids"][i][output["prompt_mask"][i].bool()])
            if pictures is None:
                number = int(prompt[:2])
            else:
                (number,) = (pictures == output["pixel_values"][i]).flatten(1).all(dim=1).nonzero().flatten().tolist()
            assert output["rewards_per_func"][i].tolist() in judged[number, *ids[there].tolist()]
            if self.environment_factories:
                assert prompt == f"{number:02d}{number % 10}{number % 10}>A:", (
                    "what `reset` said is in the prompt, once"
                )
            if "tool_mask" in output:
                masked = ids[there & (output["tool_mask"][i] == 0)].tolist()
                if self.environment_factories:
                    answers = self._tokenizer.decode(masked).split(">A:")
                    assert set(answers) <= {str(3 + number % 10), ""}, "the environment of this row has answered"
                elif self.rollout_func:
                    assert masked == ids[:1].tolist()
        groups = output["is_correct"].view(-1, self.num_generations) if self.accelerator.num_processes == 1 else None
        assert groups is None or not (groups.all(dim=1) | ~groups.any(dim=1)).any()
        self.rows += len(inputs)
        return output


def sample(name: str, directory: Path, **options) -> Checked:
    """Train a scenario in which every second prompt cannot be solved."""
    parts = getattr(scenarios, name)(directory)
    rewards = parts["reward_funcs"] if isinstance(parts["reward_funcs"], list) else [parts["reward_funcs"]]
    parts["reward_funcs"] = [scenarios.half(rewards[0]), *rewards[1:]]
    arguments = CPU_ARGUMENTS | {"steps_per_generation": 2, "max_steps": 3, "dynamic_sampling": True}
    arguments |= parts.pop("options", {}) | options
    trainer = Checked(args=HTPOConfig(str(directory / "run"), **arguments), **parts)
    trainer.train(trainer.args.resume_from_checkpoint)
    assert trainer.rows > 0
    assert trainer.state.log_history[0]["htpo/sampling/rounds"] > 1
    return trainer


def main(directory: Path, names: list[str]) -> None:
    """In one of several processes, between which groups straddle."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    for name in names:
        place = directory / f"{name}-{os.environ['RANK']}"
        place.mkdir()
        trainer = sample(name, place, per_device_train_batch_size=5)
        weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
        (first, *others) = gather_object([weights])
        assert all(torch.equal(first, other) for other in others)
