"""TRL's SFTTrainer, faster on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from trl import SFTTrainer

from helpers.models.losses import IGNORED, row_losses


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
        loss = row_losses(model, inputs).sum()
        count = (inputs["labels"][:, 1:] != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        return loss / torch.as_tensor(count).clamp(min=1)  # a batch without a learnt token weighs nothing
