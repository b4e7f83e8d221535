"""Clip what one patient contributes, add noise once, step: Opacus' optimizer with patients in the place of rows."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer import _check_processed_flag, _mark_as_processed

from helpers.errors import PrivacyError
from helpers.privacy.secure_random import SecureGenerator

ROOM = 1e-2
"""Clipping aims this share below the norm: room for what rounding adds. Half of it is for sums of fp32, half for the
shares of others, who are computed in other company: `helpers.privacy.dry_run` measures these and refuses more."""
NOISE_TOLERANCE = 1e-3
"""How far, as a share, fp32 sums may move the deviation of noise that is measured in a gradient."""
COLUMNS = 2**16
"""Numbers of each row that are squared at once, so that the squares stay near the processor."""
PRINTED_SIGNS = 64
"""Numbers of each tensor's noise whose signs tell it from any other's. Rounding to fp32 seldom turns a sign, and
coins tell nothing of the numbers themselves."""


class UnitOptimizer(DPOptimizer):  # type: ignore[misc]
    """DP-SGD's step (Abadi et al. 2016, algorithm 1) for units of several rows.

    Before each step `unit_of_row` says which patient each row of `grad_sample` belongs to. The rows of a patient
    are added up, the sum is clipped to `max_grad_norm`, and noise of standard deviation `noise_multiplier *
    max_grad_norm` is added once to the sum over patients, all in fp32. The result is divided by the
    expected number of patients, whatever number was drawn. Micro-batches are announced with `signal_skip_step`;
    a patient's rows must stand in one of them.

    A patient whose gradient is not finite contributes nothing and is counted in `not_finite`.

    Attributes:
        noise_stds: for each step so far, the standard deviation of the noise that was really added.
        noise_worst: for each step so far, how far the tensor with the least likely noise is off: the distance of its
            deviation from the right one, beyond `NOISE_TOLERANCE`, in standard errors. Infinite where two tensors had
            the same noise: their difference would show the patients' part as it is.
        noise_prints: for each step so far, a digest of the signs of some of its numbers, from every tensor: equal for
            equal noise.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, generator: SecureGenerator, **settings: Any) -> None:
        if settings.get("secure_mode"):
            raise PrivacyError(
                "secure_mode needs torchcsprng, which is not here; noise of a SecureGenerator is secure."
            )
        if not isinstance(generator, SecureGenerator):
            raise PrivacyError(
                f"Noise must come from a helpers.privacy.secure_random.SecureGenerator; received a "
                f"{type(generator).__name__}. What some steps of torch's generator show tells all its noise."
            )
        super().__init__(optimizer, generator=generator, **settings)
        self.unit_of_row = torch.zeros(0, dtype=torch.long)
        self.not_finite = 0
        self.noise_stds: list[float] = []
        self.noise_worst: list[float] = []
        self.noise_prints: list[str] = []
        self._kept: torch.Tensor | None = None

    def clip_and_accumulate(self) -> None:
        """Clip each patient's gradient and add it to `summed_grad`, fp32 of the parameter's shape.

        Raises:
            PrivacyError: `unit_of_row` does not name a patient for each row, or was not set since the last call.
            ValueError: what was added up for the step before was not cleared (`zero_grad`).
        """
        owners = self.unit_of_row.to(self.params[0].device)
        for parameter in self.params:
            if parameter.grad_sample.shape != (len(owners), *parameter.shape):
                raise PrivacyError(
                    f"unit_of_row names the patients of {len(owners)} rows; there are gradients of "
                    f"{len(parameter.grad_sample)}, in all of shape {tuple(parameter.grad_sample.shape)} for a weight "
                    f"of {tuple(parameter.shape)}. Set it before each step, or nobody knows whose they are."
                )
            if parameter.summed_grad is not None:
                _check_processed_flag(parameter.summed_grad)  # else patients of the step before would count again
        values = self._scratch(len(owners))
        torch.cat([parameter.grad_sample.flatten(1) for parameter in self.params], dim=1, out=values)
        for parameter in self.params:
            parameter.grad_sample = None  # used once, and so are the names of their patients
        self.unit_of_row = self.unit_of_row[:0]
        count = int(owners.max()) + 1 if len(owners) else 0
        if not torch.equal(owners, torch.arange(count, device=owners.device)):
            values = values.new_zeros(count, values.shape[1]).index_add_(0, owners, values)
        # torch adds sums up in pairs, norms one by one: over eight million numbers 2e-7 against 3e-3 off, in fp32
        squares = [columns.square().sum(dim=1) for columns in values.split(COLUMNS, dim=1)]
        norms = torch.stack(squares).sum(dim=0).sqrt()
        finite = norms.isfinite()
        self.not_finite += int((~finite).sum())
        if not finite.all():  # zero times NaN is NaN: such units are left out, not multiplied
            values, norms = values[finite], norms[finite]
        factors = ((1 - ROOM) * self.max_grad_norm / norms.clamp(min=1e-12)).clamp(max=1.0)
        parts = (factors @ values).split([parameter.numel() for parameter in self.params])
        for parameter, part in zip(self.params, parts, strict=True):
            clipped = part.view_as(parameter)
            parameter.summed_grad = clipped if parameter.summed_grad is None else parameter.summed_grad + clipped

    def _scratch(self, rows: int) -> torch.Tensor:
        """Memory for fp32 gradients, (rows, numbers of all parameters), whatever it holds.

        A CPU keeps it from step to step: to get so much memory anew takes longer than all that is done in it.
        """
        device = self.params[0].device
        if device.type == "cpu" and self._kept is not None and len(self._kept) >= rows:
            return self._kept[:rows]
        self._kept = None  # given back before more is asked for
        columns = sum(parameter.numel() for parameter in self.params)
        made = torch.empty(rows, columns, device=device, dtype=torch.float32)
        if device.type == "cpu":
            self._kept = made
        return made

    def noise_all(self) -> None:
        """Leave the noisy sums in `grad`: what Opacus does, with one draw of noise for all parameters together."""
        for parameter in self.params:
            _check_processed_flag(parameter.summed_grad)
            _mark_as_processed(parameter.summed_grad)
        sums = torch.cat([parameter.summed_grad.flatten() for parameter in self.params])
        deviation = self.noise_multiplier * self.max_grad_norm
        noisy = self.generator.normal(len(sums), deviation).to(sums.device).add_(sums)
        parts = noisy.split([parameter.numel() for parameter in self.params])
        for parameter, values in zip(self.params, parts, strict=True):
            parameter.grad = values.view_as(parameter)

    @property
    def accumulated_iterations(self) -> int:
        """One: the expected batch size is that of the whole step, however many micro-batches it took."""
        return 1

    def add_noise(self) -> None:
        """Add the noise, and measure it on the way."""
        self.noise_all()
        deviation = self.noise_multiplier * self.max_grad_norm
        added = torch._foreach_sub([p.grad for p in self.params], [p.summed_grad for p in self.params])
        squares = torch.stack([values.square().sum() for values in added]).cpu().double()  # Apple's GPUs have no fp64
        counts = torch.tensor([parameter.numel() for parameter in self.params], dtype=torch.float64)
        self.noise_stds.append(float((squares.sum() / counts.sum()).sqrt()))
        off = ((squares / counts).sqrt() / deviation - 1).abs()
        worst = float(((off - NOISE_TOLERANCE) * (2 * counts).sqrt()).max())
        firsts = [values.flatten()[:PRINTED_SIGNS] for values in added]
        signs = torch.cat(firsts).sign().to("cpu", torch.int8).split([len(values) for values in firsts])
        prints = [values.numpy().tobytes() for values in signs]
        long = [each for each in prints if len(each) == PRINTED_SIGNS]  # fewer coins may fall alike by chance
        self.noise_worst.append(math.inf if len(set(long)) < len(long) else worst)
        self.noise_prints.append(hashlib.sha256(b"".join(prints)).hexdigest())
