"""A small model with an adapter, a few patients, and their gradients by plain PEFT."""

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.functional import cross_entropy

from helpers.models.load import load_base
from helpers.privacy.units import Unit

UNITS = [
    Unit("a", ((1, 40, 41, 42, 43, 2), (1, 50, 2)), (4, 1)),  # of the first record only the end is learnt
    Unit("b", ((1, 60, 61, 2),)),
    Unit("c", ((1, 70, 71, 72, 73, 74, 75, 76, 77, 2), (1, 80, 81, 2), (1, 90, 91, 92, 2), (1, 80, 81, 2))),
    Unit("d", (tuple(range(3, 43)), (5, 6)), (17, 1)),
]
ADAPTER: dict[str, Any] = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def adapted(
    base: str,
    dtype: torch.dtype = torch.float32,
    quantisation: str = "none",
    *,
    checkpointing: bool = False,
    **changes: Any,
) -> Any:
    """A model with an adapter whose B is not zero: at zero it would hide A's gradient."""
    torch.manual_seed(0)
    model = get_peft_model(load_base(base, quantisation=quantisation, dtype=dtype), LoraConfig(**ADAPTER | changes))
    model.train()
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": True})
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
            if "lora_B" in name:
                nn.init.normal_(weight, std=0.05)
    return model


def record_loss(model: Any, row: tuple[int, ...], begin: int) -> torch.Tensor:
    """By plain transformers: the mean over the learnt tokens."""
    logits = model(input_ids=torch.tensor([row])).logits[0, begin - 1 : -1].float()
    return cross_entropy(logits, torch.tensor(row[begin:]))


def one_by_one(model: Any, units: list[Unit]) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses and gradients of patients by plain PEFT and autograd, a record at a time."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    losses, gradients = [], []
    for unit in units:
        model.zero_grad()
        own = [
            record_loss(model, *record) for record in zip(unit.rows, unit.begins or [1] * len(unit.rows), strict=True)
        ]
        sum(own).backward()
        losses.append(sum(own).item())
        gradients.append(torch.cat([weight.grad.flatten() for weight in weights]))
    model.zero_grad()
    return torch.tensor(losses), torch.stack(gradients)


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest relative error of a patient's whole gradient."""
    assert (wanted.norm(dim=1) > 1e-4).all()
    return float(((found - wanted).norm(dim=1) / wanted.norm(dim=1)).max())


FORMATS = [(dtype, quantisation) for dtype in (torch.float32, torch.bfloat16) for quantisation in ("none", "nf4")]
