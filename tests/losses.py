"""Loss and forward pass of a trainer on a given batch."""

import torch


def loss_and_grads(trainer, inputs):
    model = trainer.model
    model.train()
    model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    trainer.args.steps_per_generation = 1  # the batch is all there is
    loss = trainer._compute_loss(model, dict(inputs))
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters()]


def forward(trainer, inputs):
    """log π and H of the completion tokens."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    n = inputs["completion_ids"].shape[1]
    logits = trainer.model(input_ids=ids, attention_mask=mask).logits
    logps = logits[:, -n - 1 : -1].log_softmax(dim=-1)
    chosen = logps.gather(2, inputs["completion_ids"].unsqueeze(2)).squeeze(2)
    return chosen, -(logps.exp() * logps).sum(dim=-1)
