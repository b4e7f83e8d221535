"""What DP-SGD costs: (ε, δ) of a training whose neighbours differ by one patient, added or removed.

One step draws every patient independently (Poisson sampling), sums their clipped gradients and adds
Gaussian noise. Two accountants of different origin compose the steps: Opacus' PRV (Gopi, Lee and Wutschitz 2021,
https://arxiv.org/abs/2106.02848), of which the upper end counts, and the pessimistic PLD of Google's dp-accounting
(Doroshenko et al. 2022, https://arxiv.org/abs/2207.04380). Unless they agree, no figure is given.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
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
        """The larger of the two: the one to report."""
        return max(self.prv, self.pld)


@dataclass(frozen=True)
class Cost:
    """What one training costs, as ledgers keep it: the mechanism, and its (ε, δ) alone for display.

    Validation patients pay with `scores` Gaussian measurements of deviation `validation_noise` instead, each moved by
    1 at most by one of them. `split` names how patients are parted: under one name everybody keeps one part.

    Raises:
        PrivacyError: a value is out of range.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int
    epsilon: float
    delta: float
    validation_noise: float | None = None
    scores: int = 0
    split: str = ""

    def __post_init__(self) -> None:
        finite = 0 < self.noise_multiplier < math.inf and 0 < self.epsilon < math.inf
        if not (finite and 0 < self.sample_rate <= 1 and self.steps >= 1 and 0 < self.delta < 1):
            raise PrivacyError(
                "A training costs something: expected a finite noise_multiplier and epsilon above 0, sample_rate in "
                f"(0, 1], 1 step or more and delta in (0, 1); received {self}."
            )


@dataclass(frozen=True)
class Plan:
    """A training accounted for before it begins; `target_epsilon` is None where the noise was given."""

    units: int
    steps: int
    sample_rate: float
    noise_multiplier: float
    target_epsilon: float | None
    spent: Spent
    validation_noise: float | None = None
    scores: int = 0
    split: str = ""

    @property
    def epsilon(self) -> float:
        """ε of all the steps."""
        return self.spent.epsilon

    @property
    def delta(self) -> float:
        """δ of all the steps."""
        return self.spent.delta

    @property
    def cost(self) -> Cost:
        """What the holders' ledgers keep of it."""
        return Cost(
            self.noise_multiplier,
            self.sample_rate,
            self.steps,
            self.epsilon,
            self.delta,
            self.validation_noise,
            self.scores,
            self.split,
        )


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
    scores: int = 0,
    split: str = "",
) -> Plan:
    """Find the noise for a privacy target, or the privacy of a noise, before anything is trained.

    Args:
        units: patients, 2 or more, as declared: no plan depends on how many there are.
        steps: noisy updates, those with an empty batch included; an integer, 1 or more.
        sample_rate: chance of each patient to be in a batch, above 0 and at most 1.
        target_epsilon: ε of the whole training, above 0; the plan's is at most this and at most 1 % below.
        noise_multiplier: standard deviation of the noise over the clipping norm. Give exactly one of the two.
        delta: at most 1/units; by default `default_delta(units)`.
        scores: noised measurements on validation patients, who take no part in training, for at most the same ε.
        split: see `Cost`.

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
    noise = _noise_for(cost.epsilon, 1.0, scores, delta) if scores else None
    return Plan(
        units, steps, sample_rate, noise_multiplier, target_epsilon, cost, noise, scores, split if scores else ""
    )


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


def composed(costs: Iterable[Cost], delta: float) -> float:
    """Upper bound on the ε of several trainings on the same patients together, at one δ.

    The pessimistic PLD of all their steps. Where the Rényi bound is above MOST_EPSILON, that coarser bound: a budget
    this large protects nobody, and the grid would outgrow the memory.

    Args:
        costs: one a training; none cost 0.
        delta: above 0 and below 1.

    Raises:
        PrivacyError: δ is out of range, or no finite ε can be given.
    """
    if not 0 < delta < 1:
        raise PrivacyError(f"delta is {delta}; expected above 0 and below 1.")
    costs = list(costs)
    trained = [(cost.noise_multiplier, cost.sample_rate, cost.steps) for cost in costs]
    measured = [(cost.validation_noise, 1.0, cost.scores) for cost in costs if cost.validation_noise]
    if len({cost.split for cost in costs if cost.validation_noise}) > 1:  # somebody may have had one part, then another
        return _composed(_together(trained + measured), delta)
    return max(_composed(_together(trained), delta), _composed(_together(measured), delta))


def _together(events: Iterable[tuple[float, float, int]]) -> tuple[tuple[float, float, int], ...]:
    steps: Counter[tuple[float, float]] = Counter()
    for noise_multiplier, sample_rate, count in events:
        steps[noise_multiplier, sample_rate] += count
    return tuple((*mechanism, count) for mechanism, count in sorted(steps.items()))


@lru_cache(maxsize=1024)  # tenths of a second each, asked for by every page that shows a ledger
def _composed(trainings: tuple[tuple[float, float, int], ...], delta: float) -> float:
    if not trainings:
        return 0.0
    with _failing_closed(f"trainings of (noise_multiplier, sample_rate, steps) {trainings} at delta {delta}"):
        renyi = RDPAccountant()
        renyi.history = list(trainings)
        epsilon = bound = float(renyi.get_epsilon(delta))
        if bound <= MOST_EPSILON:
            accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, min(5e-4, bound / 2000))
            for noise_multiplier, sample_rate, count in trainings:
                accountant.compose(PoissonSampledDpEvent(sample_rate, GaussianDpEvent(noise_multiplier)), count)
            epsilon = float(accountant.get_epsilon(delta))
        if not math.isfinite(epsilon):
            raise ArithmeticError("no finite epsilon covers them together")
    return epsilon


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


def best_accuracy(noise_multiplier: float, sample_rate: float, steps: int) -> float:
    """The claim as an attacker sees it: how often the best guess whether a patient is in, a fair bit, can be right.

    That is 1 - min(α + f(α)) / 2 over the claimed trade-off curve f (Dong, Roth and Su 2022,
    https://arxiv.org/abs/1905.02383), whose minimum is 1 - δ(ε = 0): computed with the pessimistic PLD.
    """
    with _failing_closed(f"noise_multiplier {noise_multiplier}, sample_rate {sample_rate}, {steps} steps"):
        accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-3)
        accountant.compose(PoissonSampledDpEvent(sample_rate, GaussianDpEvent(noise_multiplier)), steps)
        return float(1 + accountant.get_delta(0.0)) / 2
