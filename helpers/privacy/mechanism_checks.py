"""Checks for variants of the mechanism: what its noise hides, what one patient may add, what is divided by what.

Like all of `helpers.privacy.self_checks`: one part, looked at from outside, one property each. Gradients are made
up, so that neither a model nor records are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats

from helpers.errors import PrivacyError
from helpers.privacy.mechanism import clipped_sum, grid_of
from helpers.privacy.secure_random import SecureGenerator
from helpers.privacy.self_checks import FALSE_ALARM, Figures

NORM = 0.5
NUMBERS = 4900
"""Trained numbers of the optimizer under test. With as little noise as it has, few would not hold the sum: the range of
what leaves a step is 64 standard deviations of the noise."""
MakeOptimizer = Callable[..., Any]
NoisySum = Callable[..., torch.Tensor]


def check_noisy_sum(noisy_sum: NoisySum, *, numbers: int = 1_000_000, noise_multiplier: float = 0.767) -> Figures:
    """Could every published number have come about without a patient as well as with that patient?

    Eight patients, with and without a ninth, one step. Somebody who knows the eight asks of each published number
    whether any noise could have led there; one number that could not is certainty, whatever ε says (Mironov 2012).
    Then the noise itself: all on one grid, which does not depend on the data; the last eight bits of its multiples
    uniform, with and without the known sum, so that they tell nothing; Gaussian, with the claimed deviation.

    Args:
        noisy_sum: like `helpers.privacy.mechanism.noisy_sum`.
        numbers: of one step.
        noise_multiplier: standard deviation of the noise over the clipping norm.

    Returns:
        `{"impossible", "off_grid", "bits_p", "gauss_p"}`: counts over both data sets, and the smaller p-values.

    Raises:
        PrivacyError: naming what shows a patient.
    """
    noise_std = noise_multiplier * NORM
    grid = grid_of(noise_std)
    gradients = torch.randn(9, numbers, generator=torch.Generator().manual_seed(0))
    sums = [clipped_sum(gradients[:count].clone(), max_grad_norm=NORM, grid=grid) for count in (8, 9)]
    impossible = off_grid = 0
    bits_p = gauss_p = 1.0
    for own in sums:
        published = noisy_sum(own.clone(), noise_std=noise_std, generator=SecureGenerator())
        impossible += sum(int(_impossible(published, known).sum()) for known in sums)
        multiples = published.double() / grid
        off_grid += int((multiples != multiples.round()).sum())
        for known in (
            torch.zeros_like(own),
            own,
        ):  # of what is published, and of the noise that an observer can work out
            last_bits = torch.bincount((multiples - known / grid).round().long() & 255, minlength=256).numpy()
            bits_p = min(bits_p, float(stats.chisquare(last_bits).pvalue))
        gauss_p = min(gauss_p, float(stats.kstest(((published - own) / noise_std).numpy(), "norm").pvalue))
    if impossible or off_grid or not min(bits_p, gauss_p) >= FALSE_ALARM:
        raise PrivacyError(
            f"Of {2 * numbers:,} published numbers {impossible:,} are impossible with one patient more or less, and "
            f"{off_grid:,} lie beside the grid of {grid:.3g}; expected were none. Last bits uniform: p = {bits_p:.2g}; "
            f"Gaussian of deviation {noise_std:.4g}: p = {gauss_p:.2g}; expected were {FALSE_ALARM:g} or more."
        )
    return {"impossible": impossible, "off_grid": off_grid, "bits_p": bits_p, "gauss_p": gauss_p}


def _impossible(published: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Which published numbers no fp32 noise leads to from what is known: bool, of the same shape."""
    published, known = published.float(), known.float()
    noise = published - known
    reached = torch.zeros_like(published, dtype=torch.bool)
    below = above = noise
    for _ in range(3):  # fp32 rounds the difference too, by a few of its last digits
        reached |= (known + below == published) | (known + above == published)
        below, above = torch.nextafter(below, below - 1), torch.nextafter(above, above + 1)
    return ~reached


def clipped_length(make_optimizer: MakeOptimizer, records: Sequence[int], *, length: float) -> float:
    """Length of the clipped sum over some patients whose records all pull in one direction.

    Args:
        make_optimizer: like `helpers.privacy.mechanism.PrivateOptimizer`.
        records: how many each patient has.
        length: of the gradient of one record, over `max_grad_norm`.

    Returns:
        The length over `max_grad_norm`.
    """
    optimizer, _ = _optimizer(make_optimizer)
    owners = torch.tensor([owner for owner, count in enumerate(records) for _ in range(count)])
    optimizer.add(torch.full((sum(records), NUMBERS), length * NORM / NUMBERS**0.5), owners)
    return float(optimizer.sum.norm()) / NORM


def check_clipping(make_optimizer: MakeOptimizer) -> Figures:
    """Is a patient clipped as one, whatever the number of its records, and no more than needed?

    Args:
        make_optimizer: like `helpers.privacy.mechanism.PrivateOptimizer`.

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
        make_optimizer: like `helpers.privacy.mechanism.PrivateOptimizer`.

    Returns:
        `{"divisor"}`, the same for all batches.

    Raises:
        PrivacyError: a batch was divided by another number; its size is private.
    """
    expected = 8.0
    for batch in ([1], [3], [1, 2]):  # patients in each micro-batch
        optimizer, weight = _optimizer(make_optimizer, expected=expected)
        for patients in batch:
            optimizer.add(torch.full((patients, NUMBERS), NORM / 2 / NUMBERS**0.5), torch.arange(patients))
        optimizer.step()
        divisor = -sum(batch) * NORM / 2 / NUMBERS**0.5 / float(weight.detach().mean())
        if not np.isclose(divisor, expected, rtol=1e-2):
            raise PrivacyError(
                f"A batch that drew {sum(batch)} was divided by {divisor:.3g}; expected was expected_batch = "
                f"{expected:g}: the number that was drawn is private."
            )
    return {"divisor": expected}


def check_empty_batch(make_optimizer: MakeOptimizer) -> Figures:
    """Is a batch without patients a step with noise, like any other?

    Args:
        make_optimizer: like `helpers.privacy.mechanism.PrivateOptimizer`.

    Returns:
        `{"moved"}`, the share of weights that moved.

    Raises:
        PrivacyError: weights stayed as they were, which tells that nobody was drawn.
    """
    optimizer, weight = _optimizer(make_optimizer)
    optimizer.add(torch.zeros(0, NUMBERS), torch.zeros(0, dtype=torch.long))
    optimizer.step()
    moved = float(((weight != 0) & weight.isfinite()).float().mean())  # a mean over nobody is not a number
    if moved < 0.99:
        raise PrivacyError(
            f"After an empty batch {moved:.0%} of the weights had moved; expected were all of them, by the noise: a "
            "step left out tells that nobody was drawn, and the accountant counts it."
        )
    return {"moved": moved}


def _optimizer(make: MakeOptimizer, *, expected: float = 1.0) -> tuple[Any, torch.nn.Parameter]:
    """An optimizer to check around plain descent with rate 1, with next to no noise, and the numbers it moves."""
    weight = torch.nn.Parameter(torch.zeros(NUMBERS))
    optimizer = make(
        torch.optim.SGD([weight], lr=1.0),
        noise_multiplier=1e-3,
        max_grad_norm=NORM,
        expected_batch=expected,
        generator=SecureGenerator(),
    )
    return optimizer, weight
