"""Checks for variants of `UnitOptimizer`: the size of the noise, what one patient may add, what is divided by what.

Like all of `helpers.privacy.privacy_checks`: one part, looked at from outside, one property each. Gradients are
made up, so that neither a model nor records are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats

from helpers.errors import PrivacyError
from helpers.privacy.privacy_checks import FALSE_ALARM, Figures
from helpers.privacy.secure_random import SecureGenerator

NORM = 0.5
SHAPES = [(10, 100)] * 10
"""Several tensors, so that one without noise, or divided otherwise, is seen."""

MakeOptimizer = Callable[..., Any]


def check_noise(make_optimizer: MakeOptimizer, *, seed: int) -> Figures:
    """Has the noise the claimed deviation, Gaussian shape, and the fine grain of fp32, once a step?

    20,000 values of ten tensors from two steps, one of them in micro-batches. A deviation off by 5 %, as by one tensor
    without noise, is found with near certainty.
    Coarse noise has gaps between which the gradient shows (Mironov 2012); bf16 repeats nine tenths of its values.

    Args:
        make_optimizer: like `helpers.privacy.unit_optimizer.UnitOptimizer`.
        seed: of the generator it receives.

    Returns:
        `{"values", "std", "expected_std", "different"}`, the last the share of values that differ.

    Raises:
        PrivacyError: size, shape or grain of the noise is another one.
    """
    multiplier, expected = 1.3, 2.0
    optimizer, weights = _optimizer(make_optimizer, multiplier, expected=expected, seed=seed)
    noise = torch.cat([_step(optimizer, weights, batch, 0.0) for batch in ([2], [1, 1])]).double().numpy()
    std = multiplier * NORM / expected
    size, shape = stats.chi2(noise.size), stats.kstest(noise, "norm", (0, std))
    squares = float(np.square(noise / std).sum())
    found = {
        "values": noise.size,
        "std": float(noise.std()),
        "expected_std": std,
        "different": np.unique(noise).size / noise.size,
    }
    # Worded so that a value that is not a number is refused too.
    if not 2 * min(size.cdf(squares), size.sf(squares)) >= FALSE_ALARM / 2:
        raise PrivacyError(
            f"The noise has a standard deviation of {found['std']:.4g}; expected was noise_multiplier * max_grad_norm "
            f"/ expected_batch_size = {std:.4g}."
        )
    if not shape.pvalue >= FALSE_ALARM / 2:
        raise PrivacyError(
            f"The noise is not Gaussian: its distribution is {shape.statistic:.3f} away from one of deviation "
            f"{std:.4g}, expected was less than 0.02 over {noise.size:,} values."
        )
    if found["different"] < 0.99:  # about 4 of 20,000 fp32 values meet by chance, never 200
        raise PrivacyError(
            f"Only {found['different']:.0%} of {noise.size:,} values of the noise differ from one another, expected "
            "were 99% or more: it came twice, or in a format coarser than fp32, whose gaps show what it should hide."
        )
    return found


def clipped_length(make_optimizer: MakeOptimizer, records: Sequence[int], *, length: float) -> float:
    """Length of the clipped sum over some patients whose records all pull in one direction.

    Args:
        make_optimizer: like `helpers.privacy.unit_optimizer.UnitOptimizer`.
        records: how many each patient has.
        length: of the gradient of one record, over `max_grad_norm`.

    Returns:
        The length over `max_grad_norm`.
    """
    optimizer, weights = _optimizer(make_optimizer, 0.0, shapes=[(6, 4), (25,)])
    for weight in weights:
        weight.grad_sample = torch.full((sum(records), *weight.shape), length * NORM / 7)  # 49 values in all
    optimizer.unit_of_row = torch.tensor([owner for owner, count in enumerate(records) for _ in range(count)])
    optimizer.clip_and_accumulate()
    return float(sum(weight.summed_grad.double().square().sum() for weight in weights) ** 0.5) / NORM


def check_clipping(make_optimizer: MakeOptimizer) -> Figures:
    """Is a patient clipped as one, whatever the number of its records, and no more than needed?

    Args:
        make_optimizer: like `helpers.privacy.unit_optimizer.UnitOptimizer`.

    Returns:
        Lengths over `max_grad_norm`: `{"fifty_records", "three_patients", "short"}`.

    Raises:
        PrivacyError: a share is longer than `max_grad_norm`, or a gradient was shortened without need.
    """
    cases = {
        "fifty_records": ("A patient with 50 long records", [50], 2.0, 1.0),
        "three_patients": ("Three patients with 50, 1 and 3 long records", [50, 1, 3], 2.0, 3.0),
        "short": ("A patient with one short record", [1], 0.1, 0.1),
    }
    found = {}
    for name, (who, records, length, wanted) in cases.items():
        found[name] = clipped_length(make_optimizer, records, length=length)
        if not wanted * 0.98 <= found[name] <= wanted * (1 + 1e-6):
            raise PrivacyError(
                f"{who} moved the sum by {found[name]:.3g} times max_grad_norm; expected was {wanted:g}."
            )
    return found


def check_division(make_optimizer: MakeOptimizer) -> Figures:
    """Is the sum divided by the expected number of patients, whatever number was drawn?

    Args:
        make_optimizer: like `helpers.privacy.unit_optimizer.UnitOptimizer`.

    Returns:
        `{"divisor"}`, the same for all batches.

    Raises:
        PrivacyError: a batch was divided by another number; its size is private.
    """
    expected = 8.0
    for batch in ([1], [3], [1, 2]):  # patients in each micro-batch
        optimizer, weights = _optimizer(make_optimizer, 0.0, norm=1e6, expected=expected)
        divisors = sum(batch) / _step(optimizer, weights, batch, 1.0)
        divisor = float(divisors[(divisors - expected).abs().argmax()])
        if not np.isclose(divisor, expected, rtol=1e-3):
            raise PrivacyError(
                f"A batch that drew {sum(batch)} was divided by {divisor:.3g}; expected was expected_batch_size = "
                f"{expected:g}: the number that was drawn is private."
            )
    return {"divisor": expected}


def check_empty_batch(make_optimizer: MakeOptimizer, *, seed: int) -> Figures:
    """Is a batch without patients a step with noise, like any other?

    Args:
        make_optimizer: like `helpers.privacy.unit_optimizer.UnitOptimizer`.
        seed: of the generator it receives.

    Returns:
        `{"moved"}`, the share of weights that moved.

    Raises:
        PrivacyError: weights stayed as they were, which tells that nobody was drawn.
    """
    optimizer, weights = _optimizer(make_optimizer, 1.0, seed=seed)
    step = _step(optimizer, weights, [0], 0.0)
    moved = float(((step != 0) & step.isfinite()).float().mean())  # a mean over nobody is not a number
    if moved < 0.99:
        raise PrivacyError(
            f"After an empty batch {moved:.0%} of the weights had moved; expected were all of them, by the noise: a "
            "step left out tells that nobody was drawn, and the accountant counts it."
        )
    return {"moved": moved}


def _optimizer(
    make: MakeOptimizer,
    multiplier: float,
    *,
    norm: float = NORM,
    expected: float = 1.0,
    seed: int = 0,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
) -> tuple[Any, list[torch.nn.Parameter]]:
    """An optimizer of the kind to check around plain descent with rate 1, and the weights it moves."""
    weights = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    optimizer = make(
        torch.optim.SGD(weights, lr=1.0),
        noise_multiplier=multiplier,
        max_grad_norm=norm,
        expected_batch_size=expected,
        generator=SecureGenerator(seed.to_bytes(32, "big")),
    )
    return optimizer, weights


def _step(optimizer: Any, weights: Sequence[torch.nn.Parameter], parts: Sequence[int], gradient: float) -> torch.Tensor:
    """One step in micro-batches of so many patients with a row each, all with one gradient; what the weights lost."""
    for weight in weights:
        weight.data.zero_()
    for number, patients in enumerate(parts):
        for weight in weights:
            weight.grad_sample = torch.full((patients, *weight.shape), gradient)
        optimizer.unit_of_row = torch.arange(patients)
        optimizer.signal_skip_step(do_skip=number < len(parts) - 1)
        optimizer.step()
        optimizer.zero_grad()
    return 0.0 - torch.cat([weight.detach().flatten() for weight in weights])
