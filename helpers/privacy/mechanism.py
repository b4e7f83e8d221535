"""The whole of a private step once gradients exist: per-patient sum, clip, sum, noise, division. Nothing else protects.

A step is the Gaussian mechanism on a Poisson sample (Abadi et al. 2016), and that is what the accountants bound. But
what computers round off can show a patient (Mironov 2012; Haney et al. 2022, https://arxiv.org/abs/2207.13793). Here
nothing that depends on a patient is rounded once it was added up:

1. Grid. All numbers of a step are multiples of a power of two that follows from the noise (`grid_of`).
2. Sensitivity. A clipped gradient is rounded to the grid *towards zero*, which makes nothing longer; `SLACK` is room
   for the products before. Sums of multiples are exact in fp64, in any order. So a patient moves the sum by at most the
   clipping norm.
3. Noise. `sum + round(noise)` equals `round(sum + noise)`, as the sum lies on the grid: the exact Gaussian mechanism,
   rounded afterwards. `SecureGenerator.rounded_normal` gives every integer its exact probability. Arithmetic thus adds
   nothing to ε and δ; what is assumed is that AES-256 cannot be told from random bits.
4. Range. Multiples up to 2^24 are exact in fp32; larger ones, 64 standard deviations away, are cut to that. This, the
   division by a public number and the optimizer's step see noisy numbers only, and so cost nothing.
"""

import math
from collections.abc import Sequence

import torch

from helpers.errors import PrivacyError
from helpers.privacy.secure_random import SecureGenerator

SLACK = 2.0**-12
"""Share of the clipping norm left to rounding: norms are summed in fp64 (2^-40), numbers scaled in fp32 (2^-22)."""
STEPS_A_DEVIATION = 2**18
"""Grid points in one to two standard deviations of the noise; 64 times as many are the 2^24 that fp32 holds."""
LARGEST = 2**24
LONGEST = 2.0**100  # beyond it the factors that shorten gradients lose their last digits in fp32
COLUMNS = 2**13  # numbers of each patient that are worked on at once, so that they stay in the processor's cache


def grid_of(noise_std: float) -> float:
    """Distance of the grid's points: the power of two of which `noise_std`, finite and above 0, has 2^17 to 2^18."""
    if not 0 < noise_std < math.inf:
        raise PrivacyError(f"The noise's standard deviation is {noise_std}; expected a finite number above 0.")
    return float(2.0 ** math.ceil(math.log2(noise_std)) / STEPS_A_DEVIATION)


def noisy_sum(
    clipped: torch.Tensor, *, noise_std: float, generator: SecureGenerator, largest: int = LARGEST
) -> torch.Tensor:
    """Add noise to a sum of clipped gradients: the only numbers that may leave a step.

    `clipped`, fp64 `(numbers,)` and finite (else PrivacyError), is rounded to the grid, on which `clipped_sum` lies
    already. `noise_std` has the unit of `clipped`. Multiples beyond `largest` are cut to it, after the noise. Returns
    fp32 `(numbers,)`, multiples of `grid_of(noise_std)`; fp64 with a `largest` above 2^24, which fp32 would not hold.
    """
    if clipped.dim() != 1 or clipped.dtype != torch.float64 or not clipped.isfinite().all():
        raise PrivacyError(
            f"noisy_sum takes one row of finite fp64 numbers; received {clipped.dtype} of shape {tuple(clipped.shape)}."
        )
    if not isinstance(generator, SecureGenerator):
        raise PrivacyError(f"Noise must come from a SecureGenerator, not from a {type(generator).__name__}.")
    grid = grid_of(noise_std)
    noise = generator.rounded_normal(len(clipped), noise_std / grid)
    noisy = noise.to(clipped.device).add_((clipped / grid).round_())
    noisy.clamp_(-largest, largest).mul_(grid)
    return noisy.float() if largest <= LARGEST else noisy


def clipped_sum(gradients: torch.Tensor, *, max_grad_norm: float, grid: float) -> torch.Tensor:
    """Clip each patient's gradient, round it towards zero and add all up: a share depends on that patient alone.

    `gradients` is fp32 `(patients, numbers)`, each summed over that patient's records, and is overwritten; one that is
    not finite, or longer than `LONGEST`, contributes nothing. Returns fp64 `(numbers,)` on the CPU, on the grid.
    """
    norms = sum(part.double().square_().sum(dim=1) for part in gradients.split(COLUMNS, dim=1)).sqrt()
    factors = ((1 - SLACK) * max_grad_norm / norms).clamp(max=1.0) / grid
    lost = ~(norms < LONGEST)
    if lost.any():  # zero times NaN is NaN
        gradients[lost], factors[lost] = 0.0, 0.0
    scaled = factors.float()[:, None]
    parts = [part.mul_(scaled).trunc_().sum(dim=0, dtype=torch.float64) for part in gradients.split(COLUMNS, dim=1)]
    return torch.cat(parts).cpu().mul_(grid)


class PrivateOptimizer:
    """DP-SGD's step on top of any torch optimizer: `add` a batch's patients part by part, then `step` once.

    Args:
        optimizer: moves the weights; made after the adapter, for all that is trained and nothing else.
        noise_multiplier: standard deviation of the noise over `max_grad_norm`.
        max_grad_norm: most that a patient may add to the sum, as a Euclidean length.
        expected_batch: patients in a step on average, as declared; the divisor, whatever number was drawn.
        generator: of the noise.
        ghosts: how many numbers follow those of the weights and move nothing; see `helpers.privacy.ghosts`.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        noise_multiplier: float,
        max_grad_norm: float,
        expected_batch: float,
        generator: SecureGenerator,
        ghosts: int = 0,
    ) -> None:
        self.inner, self.generator = optimizer, generator
        self.noise_std = noise_multiplier * max_grad_norm
        self.max_grad_norm, self.expected_batch = max_grad_norm, expected_batch
        self.weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self.numbers = sum(weight.numel() for weight in self.weights)
        self.sum = torch.zeros(self.numbers + ghosts, dtype=torch.float64)

    def add(self, gradients: torch.Tensor, patients: torch.Tensor, first: int = 0) -> None:
        """Add patients to the step's sum; all records of a patient must come in one call.

        `gradients`, fp32 `(rows, numbers)`, are overwritten; `patients`, int64 `(rows,)`, says whose each row is;
        `first` is the place of the first of these numbers (those of ghosts begin at `self.numbers`). Raises
        PrivacyError if rows and patients differ in number, or the numbers do not fit.
        """
        end = first + gradients.shape[1]
        if len(patients) != len(gradients) or end > len(self.sum):
            raise PrivacyError(
                f"Gradients of shape {tuple(gradients.shape)} came with the patients of {len(patients)} rows, for "
                f"numbers {first} to {end} of {len(self.sum)}. Name the patient of each row."
            )
        names, owners = patients.unique(return_inverse=True)
        if len(names) < len(patients):
            gradients = gradients.new_zeros(len(names), gradients.shape[1]).index_add_(0, owners, gradients)
        self.sum[first:end] += clipped_sum(gradients, max_grad_norm=self.max_grad_norm, grid=grid_of(self.noise_std))

    def step(self) -> torch.Tensor:
        """Add noise once, divide by the expected batch, move the weights; returns the ghosts' numbers, `(ghosts,)`."""
        noisy = noisy_sum(self.sum, noise_std=self.noise_std, generator=self.generator) / self.expected_batch
        self.sum.zero_()  # or the patients of this step would count in the next one too
        hand_out(noisy[: self.numbers], self.weights)
        self.inner.step()
        return noisy[self.numbers :]


def hand_out(numbers: torch.Tensor, weights: Sequence[torch.Tensor]) -> None:
    """Cut `(numbers,)` into the shapes of the weights, in order, and make each piece that weight's gradient."""
    for weight, own in zip(weights, numbers.split([weight.numel() for weight in weights]), strict=True):
        weight.grad = own.view_as(weight).to(weight)
