"""What DP-SGD costs: (ε, δ) of a training whose neighbours differ by one patient, added or removed.

One step draws every patient by a coin of its own (Poisson sampling), sums their clipped gradients and adds
Gaussian noise. Two accountants of different origin compose the steps: Opacus' PRV (Gopi, Lee and Wutschitz 2021,
https://arxiv.org/abs/2106.02848), of which the upper end counts, and the pessimistic PLD of Google's dp-accounting
(Doroshenko et al. 2022, https://arxiv.org/abs/2207.04380). Unless they agree, no figure is given.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral
from typing import Any

import numpy as np
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.utils import get_noise_multiplier

from helpers.errors import PrivacyError

AGREEMENT = 0.01
"""Largest difference of the two accountants, and largest distance below a target, as shares of ε."""

PRECISION = 0.004
"""Error allowed to PRV's grid, as a share of ε; with a tolerance of the same size it stays within AGREEMENT."""

LAST_DIGITS = 1e-9
"""How far, as a share, two processors may differ in the cost of one and the same plan; 6e-12 was seen."""

MOST_EPSILON = 200
"""Above it nothing is guaranteed in practice, and the accountants' grids outgrow the memory."""


@dataclass(frozen=True)
class Spent:
    """What a number of steps cost: ε at `delta` by each accountant."""

    delta: float
    prv: float
    pld: float

    @property
    def epsilon(self) -> float:
        """The larger of the two: the one to report and to book."""
        return max(self.prv, self.pld)


@dataclass(frozen=True)
class Plan:
    """A training accounted for before it begins; `target_epsilon` is None where the noise was given."""

    units: int
    steps: int
    sample_rate: float
    noise_multiplier: float
    target_epsilon: float | None
    spent: Spent

    @property
    def epsilon(self) -> float:
        """ε of all the steps."""
        return self.spent.epsilon

    @property
    def delta(self) -> float:
        """δ of all the steps."""
        return self.spent.delta


def default_delta(units: int) -> float:
    """δ for a number of patients: 1e-5, or 1/units^1.1 where that is less, so that it stays below 1/units."""
    return min(1e-5, math.pow(units, -1.1))


def check_delta(delta: float, units: int) -> None:
    """Refuse a δ that allows some patient's records to be published outright (Dwork and Roth 2014, section 2.3).

    Args:
        delta: above 0, at most 1/units.
        units: patients.

    Raises:
        PrivacyError: δ is out of range.
    """
    if not 0 < delta <= 1 / units:
        raise PrivacyError(
            f"delta is {delta}; expected above 0 and at most 1/{units} patients = {1 / units:.3g}. Leave it out to "
            f"take {default_delta(units):.3g}."
        )


def plan(
    units: int,
    steps: int,
    sample_rate: float,
    *,
    target_epsilon: float | None = None,
    noise_multiplier: float | None = None,
    delta: float | None = None,
) -> Plan:
    """Find the noise for a privacy target, or the privacy of a noise, before anything is trained.

    Args:
        units: patients, 2 or more.
        steps: noisy updates, those with an empty batch included; an integer, 1 or more.
        sample_rate: chance of each patient to be in a batch, above 0 and at most 1.
        target_epsilon: ε of the whole training, above 0; the plan's is at most this and at most 1 % below.
        noise_multiplier: standard deviation of the noise over the clipping norm. Give exactly one of the two.
        delta: at most 1/units; by default `default_delta(units)`.

    Raises:
        PrivacyError: a value is out of range, or the accountants cannot vouch for the result.
    """
    if (target_epsilon is None) == (noise_multiplier is None):
        raise PrivacyError(
            "Exactly one of target_epsilon and noise_multiplier decides the noise; received target_epsilon = "
            f"{target_epsilon} and noise_multiplier = {noise_multiplier}. Set the other to null."
        )
    if not _is_integer(units) or units < 2:
        raise PrivacyError(f"units is {units}; expected 2 patients or more: one alone cannot hide. Join more records.")
    if not _is_integer(steps) or steps < 1:
        raise PrivacyError(f"steps is {steps}; expected an integer, 1 or more. Round it before planning.")
    _check_sampling(sample_rate)
    delta = default_delta(units) if delta is None else delta
    check_delta(delta, units)
    if target_epsilon is not None:
        noise_multiplier = _noise_for(target_epsilon, sample_rate, steps, delta)
    assert noise_multiplier is not None  # for the type checker: exactly one was given
    cost = spent(noise_multiplier, sample_rate, steps, delta)
    if target_epsilon is not None and not (1 - AGREEMENT) * target_epsilon <= cost.epsilon <= target_epsilon:
        raise PrivacyError(
            f"No noise was found for target_epsilon = {target_epsilon}: {noise_multiplier:.6g} gives "
            f"{cost.epsilon:.6g}. Change the target, or the number of steps, a little."
        )
    return Plan(units, steps, sample_rate, noise_multiplier, target_epsilon, cost)


def spent(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> Spent:
    """Cost of the first `steps` steps of a training, for the progress shown while it runs and for its end.

    Args:
        noise_multiplier: standard deviation of the noise over the clipping norm, above 0.
        sample_rate: chance of each patient to be in a batch, above 0 and at most 1.
        steps: noisy updates, 0 or more.
        delta: above 0 and below 1.

    Raises:
        PrivacyError: a value is out of range, an accountant fails, or the two differ by more than 1 %.
    """
    if not 0 < noise_multiplier < math.inf:
        raise PrivacyError(f"noise_multiplier is {noise_multiplier}; expected a finite number above 0.")
    _check_sampling(sample_rate)
    if not _is_integer(steps) or steps < 0 or not 0 < delta < 1:
        raise PrivacyError(f"Expected an integer number of steps and a delta in (0, 1); received {steps} and {delta}.")
    if steps == 0:
        return Spent(delta, 0.0, 0.0)
    with _failing_closed(
        f"noise_multiplier {noise_multiplier}, sample_rate {sample_rate}, {steps} steps, delta {delta}"
    ):
        bound = _epsilon(RDPAccountant(), noise_multiplier, sample_rate, steps, delta)
        if not bound <= MOST_EPSILON:
            raise ArithmeticError(f"epsilon may be {bound:.4g}, above {MOST_EPSILON}, where nothing is guaranteed")
        pld = _pld(noise_multiplier, sample_rate, steps, delta, interval=min(5e-4, bound / 2000))
        prv = _epsilon(PRVAccountant(), noise_multiplier, sample_rate, steps, delta, eps_error=_grid_error(pld, steps))
        if not math.isclose(prv, pld, rel_tol=AGREEMENT):  # so too where one is not a number
            raise ArithmeticError(f"the accountants disagree: PRV says epsilon {prv:.6g}, PLD {pld:.6g}")
    return Spent(delta, prv, pld)


@lru_cache(typed=True)  # a search of seconds, asked for by every stage that plans the same training
def _noise_for(target: float, sample_rate: float, steps: int, delta: float) -> float:
    if not 0 < target <= MOST_EPSILON:
        raise PrivacyError(
            f"target_epsilon is {target}; expected above 0 and at most {MOST_EPSILON}: more would guarantee nothing."
        )
    if PRECISION * target < _grid_error(0, steps):
        raise PrivacyError(
            f"target_epsilon is {target}; over {steps} steps the accountants cannot tell less than "
            f"{_grid_error(0, steps) / PRECISION:.2g} from nothing. Raise it, or take fewer steps."
        )
    drawn = -math.expm1(steps * math.log1p(-sample_rate)) if sample_rate < 1 else 1.0
    if drawn <= delta:  # then no noise at all gives ε = 0, and a search for less noise would not end
        raise PrivacyError(
            f"A patient is drawn at all with a chance of {drawn:.3g}, below delta = {delta}: nothing would be learnt. "
            f"Raise the sample_rate, {sample_rate}, or the number of steps, {steps}."
        )
    with _failing_closed(f"target_epsilon {target}, sample_rate {sample_rate}, {steps} steps, delta {delta}"):
        noise = get_noise_multiplier(
            target_epsilon=(1 - PRECISION / 2) * target,  # the cost is computed anew afterwards, on another grid
            target_delta=delta,
            sample_rate=sample_rate,
            steps=steps,
            accountant="prv",
            epsilon_tolerance=PRECISION * target,
            eps_error=_grid_error(target, steps),
        )
    return float(noise)


def _epsilon(
    accountant: Any, noise_multiplier: float, sample_rate: float, steps: int, delta: float, **precision: float
) -> float:
    accountant.history = [(noise_multiplier, sample_rate, steps)]
    return float(accountant.get_epsilon(delta, **precision))


def _pld(noise_multiplier: float, sample_rate: float, steps: int, delta: float, *, interval: float) -> float:
    """Upper bound on ε; its excess over the true one falls with the square of the interval."""
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, interval)
    accountant.compose(PoissonSampledDpEvent(sample_rate, GaussianDpEvent(noise_multiplier)), steps)
    return float(accountant.get_epsilon(delta))


def _grid_error(epsilon: float, steps: int) -> float:
    """Error in ε to allow PRV: a share of ε, and enough for its grid of about sqrt(steps)/error points to fit."""
    return max(PRECISION * epsilon, 3e-6 * math.sqrt(steps))


@contextmanager
def _failing_closed(asked: str) -> Iterator[None]:
    """Turn whatever an accountant stumbles over into a refusal."""
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ArithmeticError, IndexError, MemoryError, RuntimeError, ValueError) as error:
        raise PrivacyError(
            f"No guarantee can be given for {asked}: {error}. Ask for more noise, or for another number of steps."
        ) from None


def _check_sampling(sample_rate: float) -> None:
    if not 0 < sample_rate <= 1:
        raise PrivacyError(
            f"sample_rate is {sample_rate}; expected above 0 and at most 1: a patient's chance per step."
        )


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
