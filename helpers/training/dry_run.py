"""A step on invented rows, before anything is paid for: what cannot be trained privately here is refused at no cost."""

from __future__ import annotations

from typing import Any

import torch
from peft.helpers import disable_input_dtype_casting

from helpers.errors import PrivacyError
from helpers.models import load_tokenizer
from helpers.precision import compute_dtype
from helpers.training.private import backward_part
from helpers.training.private_model import adapted_model
from helpers.training.row_adapters import adapter_layers, own_copies
from helpers.training.unit_optimizer import ROOM
from helpers.training.units import Unit, micro_batches

LONGEST = 32
"""Tokens of the longest invented row, so that the dry run takes seconds."""


def dry_run(
    base_name: str,
    *,
    quantisation: str,
    rank: int,
    alpha: float,
    target_modules: str | list[str],
    gradient_checkpointing: bool,
    physical_rows: int,
    max_length_tokens: int,
    max_grad_norm: float,
    units_a_step: float,
    threads: int | None,
) -> float:
    """Compute a step of invented units twice, with and without the shortest, on the machine that will train.

    Without it, every other unit stands in other company: its micro-batch has other rows and another length. In exact
    arithmetic its share stays as it is. What rounding makes of that depends on processor, number format and libraries,
    and so is measured where it matters (docs/decisions/0006).

    Args:
        base_name: the frozen base; see `helpers.models.resolve_model`.
        quantisation: `none` or `nf4`.
        rank: columns of each adapter matrix.
        alpha: the adapter's output is scaled by alpha / rank.
        target_modules: `all-linear` or names of layers.
        gradient_checkpointing: as in the training.
        physical_rows: records computed at once.
        max_length_tokens: longest record.
        max_grad_norm: clipping norm.
        units_a_step: expected number; the change is scaled to so many others.
        threads: CPU threads; None leaves torch's choice.

    Returns:
        By how much the others' shares changed over a step, in clipping norms.

    Raises:
        PrivacyError: it is more than clipping leaves room for, a layer has no gradient for each row, or rows are mixed.
        ModelError: the model cannot be loaded.
    """
    tokenizer = load_tokenizer(base_name)
    model = adapted_model(
        base_name, quantisation=quantisation, rank=rank, alpha=alpha, dropout=0.0, target_modules=target_modules,
        gradient_checkpointing=gradient_checkpointing, threads=threads,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for layer in adapter_layers(model).values():  # LoRA begins with zeros, behind which A has no gradient
        layer.weight.data += 0.01 * torch.randn(layer.weight.shape, generator=generator).to(layer.weight.device)
    lengths = torch.linspace(4, max(5, min(LONGEST, max_length_tokens)), physical_rows + 2).int().tolist()
    rows = [torch.randint(len(tokenizer), (length,), generator=generator).tolist() for length in lengths]
    units = [Unit(f"invented {number}", (tuple(row),)) for number, row in enumerate(rows)]
    everybody, others = (_shares(model, tokenizer, some, physical_rows, max_grad_norm) for some in (units, units[1:]))
    change = float((everybody[1:] - others).sum(dim=0).norm())
    carried = change / max_grad_norm * units_a_step / len(others)
    device, room = model.device.type, ROOM
    if not carried <= room:  # worded so that a value that is not a number is refused too
        raise PrivacyError(
            f"On {device} in {compute_dtype(device)}, taking one patient out of a step changes the others' shares by "
            f"{carried:.1e} of the clipping norm, by rounding; there is room for {room:g}. The guarantee cannot be "
            "shown to hold here, and nothing was paid. Train on a CPU (CUDA_VISIBLE_DEVICES= in front of the command)."
        )
    return carried


def _shares(model: Any, tokenizer: Any, units: list[Unit], rows: int, max_grad_norm: float) -> torch.Tensor:
    """The clipped gradient of each unit of one record, fp32 `(units, trained numbers)`, computed as in a step."""
    dtype, layers, found = compute_dtype(model.device.type), adapter_layers(model), []
    with disable_input_dtype_casting(model, active=dtype is torch.bfloat16):
        for part in micro_batches(units, rows):
            with own_copies(layers, len(part), dtype):
                backward_part(model, part, tokenizer, dtype, 1.0)
            found.append(torch.cat([layer.weight.grad_sample.flatten(1).float() for layer in layers.values()], dim=1))
            for layer in layers.values():
                layer.weight.grad_sample = None
    whole = torch.cat(found)
    return whole * (max_grad_norm / whole.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0)
