"""What DP-SGD costs: (ε, δ) of a training whose neighbours differ by one patient, added or removed.

One step draws every patient independently (Poisson sampling), sums their clipped gradients and adds
Gaussian noise. Two accountants of different origin compose the steps: Opacus' PRV (Gopi, Lee and Wutschitz 2021,
https://arxiv.org/abs/2106.02848), whose upper bound is taken, and the pessimistic PLD of Google's dp-accounting
(Doroshenko et al. 2022, https://arxiv.org/abs/2207.04380). Unless they agree, no figure is given.
"""

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.pld.accountant import get_smallest_gaussian_noise
from dp_accounting.pld.common import DifferentialPrivacyParameters
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.utils import get_noise_multiplier

from helpers.errors import PrivacyError

AGREEMENT = 0.01  # largest difference of the two accountants, and largest distance below a target, as shares of ε
PRECISION = 0.004
"""Error allowed to PRV's grid, as a share of ε; with a tolerance of the same size it stays within AGREEMENT."""
MOST_EPSILON = 200  # above it nothing is guaranteed in practice, and the accountants' grids outgrow the memory

Steps = tuple[float, float, int]  # noise multiplier, sampling rate, and a number of steps with these


@dataclass(frozen=True)
class Cost:
    """What one training costs, as plans, reports and ledgers keep it: the mechanism, and its ε by each accountant.

    Validation patients take part in `scores` noised measurements of the loss instead, with Gaussian noise of standard
    deviation `validation_noise` and sensitivity 1. `split` identifies the split: trainings with the same one put each
    patient into the same part.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int
    delta: float
    prv: float
    pld: float
    validation_noise: float | None = None
    scores: int = 0
    split: str = ""

    def __post_init__(self) -> None:
        _check(self.noise_multiplier, self.sample_rate, self.steps, self.delta)
        if not 0 <= self.prv < math.inf or not 0 <= self.pld < math.inf:
            raise PrivacyError(f"A training costs a finite epsilon of 0 or more; received {self.prv} and {self.pld}.")

    @property
    def epsilon(self) -> float:
        """The larger of the two: the one to report."""
        return max(self.prv, self.pld)


def default_delta(units: int) -> float:
    """δ for a number of patients: 1e-5, or 1/units^1.1 where that is less, so that it stays below 1/units."""
    return min(1e-5, math.pow(units, -1.1))


def check_delta(delta: float, units: int) -> None:
    """Refuse a δ above 1/units, which would allow publishing somebody's records (Dwork and Roth 2014, section 2.3)."""
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
) -> Cost:
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

    Raises PrivacyError if a value is out of range, or the accountants cannot vouch for the result.
    """
    if (target_epsilon is None) == (noise_multiplier is None):
        raise PrivacyError(
            "Exactly one of target_epsilon and noise_multiplier decides the noise; received target_epsilon = "
            f"{target_epsilon} and noise_multiplier = {noise_multiplier}. Set the other to null."
        )
    if type(units) is not int or units < 2:
        raise PrivacyError(f"units is {units}; expected 2 patients or more: one alone cannot hide. Join more records.")
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
    cost = replace(cost, split=split)
    if not scores:
        return cost
    allowed = DifferentialPrivacyParameters(cost.epsilon, delta)
    noise = get_smallest_gaussian_noise(allowed, num_queries=scores)  # exact, as nobody is left out at random
    return replace(cost, validation_noise=_rounded_up(noise), scores=scores)


@lru_cache(typed=True)  # seconds, asked for by every stage of a training
def spent(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> Cost:
    """Cost of so many steps, arguments as in `plan`. Raises PrivacyError unless both accountants agree within 1 %."""
    _check(noise_multiplier, sample_rate, steps, delta)
    history = [(noise_multiplier, sample_rate, steps)]
    with _failing_closed(history, delta):
        bound = _renyi(history, delta)
        if not bound <= MOST_EPSILON:
            raise ArithmeticError(f"epsilon may be {bound:.4g}, above {MOST_EPSILON}, where nothing is guaranteed")
        pld = _pld(history, interval=min(5e-4, bound / 2000)).get_epsilon(delta)
        accountant = PRVAccountant()
        accountant.history = history
        prv = accountant.get_epsilon(delta, eps_error=_grid_error(pld, steps))
        if not math.isclose(prv, pld, rel_tol=AGREEMENT):  # so too where one is not a number
            raise ArithmeticError(f"the accountants disagree: PRV says epsilon {prv:.6g}, PLD {pld:.6g}")
        return Cost(*history[0], delta, _rounded_up(prv), _rounded_up(pld))


def composed(costs: Iterable[Cost], delta: float) -> float:
    """Upper bound on the ε of several trainings on the same patients together, at one δ between 0 and 1.

    The pessimistic PLD of all their steps. Where the Rényi bound is above MOST_EPSILON, that coarser bound: a budget
    this large protects nobody, and the grid would outgrow the memory. Raises PrivacyError if no finite ε can be given.
    """
    if not 0 < delta < 1:
        raise PrivacyError(f"delta is {delta}; expected above 0 and below 1.")
    costs = list(costs)
    trained = [(cost.noise_multiplier, cost.sample_rate, cost.steps) for cost in costs]
    measured = [(cost.validation_noise, 1.0, cost.scores) for cost in costs if cost.validation_noise]
    if measured and len({cost.split for cost in costs}) > 1:  # somebody may have had one part, then another
        return _composed(_together(trained + measured), delta)
    return max(_composed(_together(trained), delta), _composed(_together(measured), delta))


@lru_cache
def best_accuracy(noise_multiplier: float, sample_rate: float, steps: int) -> float:
    """The claim as an attacker sees it: how often the best guess whether a patient is in, a fair bit, can be right.

    That is 1 - min(α + f(α)) / 2 over the claimed trade-off curve f (Dong, Roth and Su 2022,
    https://arxiv.org/abs/1905.02383), whose minimum is 1 - δ(ε = 0): computed with the pessimistic PLD.
    """
    history = [(noise_multiplier, sample_rate, steps)]
    with _failing_closed(history, 0.0):
        return float(1 + _pld(history, interval=1e-3).get_delta(0.0)) / 2


def _together(events: Iterable[Steps]) -> tuple[Steps, ...]:
    steps: Counter[tuple[float, float]] = Counter()
    for noise_multiplier, sample_rate, count in events:
        steps[noise_multiplier, sample_rate] += count
    return tuple((*mechanism, count) for mechanism, count in sorted(steps.items()))


@lru_cache(maxsize=1024)  # tenths of a second each, asked for by every page that shows a ledger
def _composed(history: tuple[Steps, ...], delta: float) -> float:
    if not history:
        return 0.0
    with _failing_closed(history, delta):
        epsilon = bound = _renyi(history, delta)
        if bound <= MOST_EPSILON:
            epsilon = float(_pld(history, interval=min(5e-4, bound / 2000)).get_epsilon(delta))
        if not math.isfinite(epsilon):
            raise ArithmeticError("no finite epsilon covers them together")
    return epsilon


@lru_cache(typed=True)  # a search of seconds, asked for by every stage that plans the same training
def _noise_for(target: float, sample_rate: float, steps: int, delta: float) -> float:
    _check(1.0, sample_rate, steps, delta)
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
    with _failing_closed([(math.nan, sample_rate, steps)], delta):
        noise = get_noise_multiplier(
            target_epsilon=(1 - PRECISION / 2) * target,  # the cost is computed anew afterwards, on another grid
            target_delta=delta,
            sample_rate=sample_rate,
            steps=steps,
            accountant="prv",
            epsilon_tolerance=PRECISION * target,
            eps_error=_grid_error(target, steps),
        )
    return _rounded_up(noise)


def _renyi(history: Sequence[Steps], delta: float) -> float:
    """A bound on ε that is coarse and quick."""
    accountant = RDPAccountant()
    accountant.history = list(history)
    return float(accountant.get_epsilon(delta))


def _pld(history: Sequence[Steps], *, interval: float) -> PLDAccountant:
    """An upper bound on ε; its excess over the true one falls with the square of the interval."""
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, interval)
    for noise_multiplier, sample_rate, count in history:
        accountant.compose(PoissonSampledDpEvent(sample_rate, GaussianDpEvent(noise_multiplier)), count)
    return accountant


def _grid_error(epsilon: float, steps: int) -> float:
    """Error in ε to allow PRV: a share of ε, and enough for its grid of about sqrt(steps)/error points to fit."""
    return max(PRECISION * epsilon, 3e-6 * math.sqrt(steps))


def _rounded_up(value: float) -> float:
    """Four decimals: processors differ in the last digits (6e-12 was seen), and a training may change processors."""
    return math.ceil(float(value) * 10_000) / 10_000


@contextmanager
def _failing_closed(history: Sequence[Steps], delta: float) -> Iterator[None]:
    """Turn whatever an accountant stumbles over into a refusal."""
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ArithmeticError, IndexError, MemoryError, RuntimeError, ValueError) as error:
        raise PrivacyError(
            f"No guarantee can be given for (noise_multiplier, sample_rate, steps) {list(history)} at delta {delta}: "
            f"{error}. Ask for more noise, or for another number of steps."
        ) from None


def _check(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> None:
    """Refuse what describes no training."""
    if not 0 < noise_multiplier < math.inf:
        raise PrivacyError(f"noise_multiplier is {noise_multiplier}; expected a finite number above 0.")
    if not 0 < sample_rate <= 1:
        raise PrivacyError(f"sample_rate is {sample_rate}; expected above 0, at most 1: a patient's chance per step.")
    if type(steps) is not int or steps < 1:
        raise PrivacyError(f"steps is {steps}; expected an integer of 1 or more.")
    if not 0 < delta < 1:
        raise PrivacyError(f"delta is {delta}; expected above 0 and below 1.")
