"""A step on invented rows, before anything is paid for: what cannot be trained privately here is refused at no cost."""

from __future__ import annotations

import math
from typing import Any

import torch
from peft.helpers import disable_input_dtype_casting

from helpers.errors import PrivacyError
from helpers.models import load_tokenizer
from helpers.precision import private_dtype
from helpers.privacy.private import backward_part
from helpers.privacy.private_model import adapted_model
from helpers.privacy.row_adapters import adapter_layers, own_copies
from helpers.privacy.secure_random import SecureGenerator
from helpers.privacy.unit_optimizer import ROOM, UnitOptimizer
from helpers.privacy.units import Unit, micro_batches, unit_of_row

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
    """Compute a step of invented units with the longest, without it and of it alone, on the machine that will train.

    Without it, every other unit stands in other company: the longest come first, so that all move up by one place.
    In exact arithmetic its share stays as it is. What rounding makes of that depends on processor, number format and
    libraries, and so is measured where it matters (docs/decisions/0006).

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
    units = [Unit(f"invented {number}", (tuple(row),), (len(row) // 2,)) for number, row in enumerate(rows)]
    optimizer = UnitOptimizer(
        torch.optim.SGD([layer.weight for layer in adapter_layers(model).values()], lr=0.0), noise_multiplier=1.0,
        max_grad_norm=max_grad_norm, expected_batch_size=1, generator=SecureGenerator(),
    )  # fmt: skip
    everybody, longest, others = (
        _sum_of_shares(model, tokenizer, some, physical_rows, optimizer) for some in (units, units[-1:], units[:-1])
    )
    change = math.nan if optimizer.not_finite else float((everybody - longest - others).norm())
    carried = change / max_grad_norm * units_a_step / len(units[:-1])
    device, room = model.device.type, ROOM / 2
    if not carried <= room:  # worded so that a value that is not a number is refused too
        raise PrivacyError(
            f"On {device} in {private_dtype(device)}, taking one patient out of a step changes the others' shares by "
            f"{carried:.1e} of the clipping norm, by rounding; there is room for {room:g}. The guarantee cannot be "
            "shown to hold here, and nothing was paid. Train on a CPU: ACCELERATE_USE_CPU=true in front of the command."
        )
    return carried


def _sum_of_shares(model: Any, tokenizer: Any, units: list[Unit], rows: int, optimizer: UnitOptimizer) -> torch.Tensor:
    """The clipped gradients of units, added up by a whole step of a learning rate of zero; flat, on the CPU."""
    dtype, layers, parts = private_dtype(model.device.type), adapter_layers(model), list(micro_batches(units, rows))
    with disable_input_dtype_casting(model, active=dtype is torch.bfloat16):
        for number, part in enumerate(parts):
            with own_copies(layers, len(part), dtype):
                backward_part(model, part, tokenizer, dtype, 1.0)
            optimizer.unit_of_row = unit_of_row(part)
            optimizer.signal_skip_step(do_skip=number < len(parts) - 1)
            optimizer.step()
    found = torch.cat([layer.weight.summed_grad.flatten().cpu().double() for layer in layers.values()])
    optimizer.zero_grad()
    return found
