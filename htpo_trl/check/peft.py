"""LoRA trains its matrices alone, and the adapter that is saved is the one that was trained."""

from collections.abc import Iterator

import torch
from peft import LoraConfig, PeftModel

from ..trainer import HTPOTrainer
from .parts import Finding, Machine
from .tiny import build_model, make_trainer


_TOLERANCE = 1e-4


def find(machine: Machine) -> Iterator[Finding]:
    """Trains, saves, and loads the adapter onto the model that it began with."""
    adapter = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = make_trainer(HTPOTrainer, machine, peft_config=adapter)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    changed = {
        name for name, parameter in trainer.model.named_parameters() if not torch.equal(parameter, before[name])
    }
    lora = {name for name in before if "lora_" in name}
    moved = f"{len(changed & lora)} of {len(lora)}"
    yield Finding("matrices of the adapter that have changed", "all", moved, lora <= changed and bool(lora))
    yield Finding.none_of("weights of the model that have changed", len(changed - lora))

    directory = machine.directory / "adapter"
    trainer.save_model(str(directory))
    base = build_model().to(machine.device).eval()
    reloaded = PeftModel.from_pretrained(base, str(directory)).eval()
    ids = torch.arange(3, 13, device=machine.device).unsqueeze(0)
    with torch.no_grad():
        logits = trainer.model.eval()(input_ids=ids).logits
        found = reloaded(input_ids=ids).logits
        with reloaded.disable_adapter():
            plain = reloaded(input_ids=ids).logits
    difference, effect = ((logits - each).abs().max().item() for each in (found, plain))
    what, note = "logits of the saved adapter, loaded again", f" (without it {effect:.1e})"
    yield Finding.near(what, difference, _TOLERANCE, note, effect > _TOLERANCE)
