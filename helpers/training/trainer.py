"""TRL's SFTTrainer, faster on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy
from trl import SFTTrainer

IGNORED = -100
"""The label that carries no loss, by torch's convention."""


class CompletionTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer whose loss on a CPU computes logits only where a completion is learnt.

    TRL 1.16 computes the loss tile by tile without ever holding all logits, for which CUDA has a fused kernel.
    On a CPU its tiles took 62 % of a step of SmolLM2 (docs/decisions/0004). The loss here is the same mean
    over the learnt tokens; `tests/training/test_trainer.py` compares the two. Other losses (label smoothing,
    DFT, a router's) and several processes are left to TRL.
    """

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Mean negative log-likelihood, in nats, of the learnt tokens; arguments as in `transformers.Trainer`."""
        plain = self.args.loss_type == "nll" and self.label_smoother is None and not self.aux_loss_enabled
        if self.args.device.type != "cpu" or self.args.world_size > 1 or return_outputs or not plain:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        given = {name: value for name, value in inputs.items() if name != "labels"}
        targets = inputs["labels"][:, 1:]  # the token at a position is predicted from the one before
        learnt = targets != IGNORED
        positions = learnt.any(dim=0).nonzero().squeeze(1)
        logits = model(**given, logits_to_keep=positions, use_cache=False).logits
        learnt, targets = learnt[:, positions], targets[:, positions]
        loss = cross_entropy(logits[learnt].float(), targets[learnt], reduction="sum")
        count = learnt.sum() if num_items_in_batch is None else num_items_in_batch
        return loss / torch.as_tensor(count).clamp(min=1)  # a batch without a learnt token weighs nothing
