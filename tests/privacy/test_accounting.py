"""Privacy accounting: against closed forms, other libraries' figures, and values that must be refused."""

import itertools
import math
from collections.abc import Callable

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from helpers.errors import PrivacyError
from helpers.privacy import accounting
from helpers.privacy.accounting import check_delta, default_delta, plan, spent


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta", "epsilon"),
    [
        # opacus/tests/accountants_test.py, test_prv_accountant: 6.7774, of which up to 0.01 is its grid's error.
        pytest.param(1.5, 0.04, 2250, 1e-5, 6.77, id="opacus"),
        # DPBayes/PLD-Accountant (Koskela, Jälkö and Honkela 2019), tests/test_compute_delta.py: δ of this at ε = 1.
        pytest.param(2.0, 0.01, 10_000, 0.010224911209191894, 1.0, id="fourier"),
    ],
)
def test_published_values(noise: float, rate: float, steps: int, delta: float, epsilon: float) -> None:
    cost = spent(noise, rate, steps, delta)
    assert cost.prv == pytest.approx(epsilon, rel=5e-3)
    assert cost.pld == pytest.approx(epsilon, rel=2e-3)
    assert cost.epsilon == max(cost.prv, cost.pld)


def gaussian_delta(epsilon: float, noise: float, steps: int) -> float:
    """Balle and Wang 2018, theorem 8; `steps` Gaussian mechanisms are one with the noise over sqrt(steps)."""
    mu = math.sqrt(steps) / noise
    return float(norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu))


def sampled_delta(epsilon: float, noise: float, rate: float) -> float:
    """One step: the mass by which (1-q) N(0, σ²) + q N(1, σ²) exceeds e^ε N(0, σ²)."""
    edge = noise**2 * math.log((math.exp(epsilon) - 1 + rate) / rate) + 0.5
    absent, present = norm.sf(edge / noise), norm.sf((edge - 1) / noise)
    return float((1 - rate) * absent + rate * present - math.exp(epsilon) * absent)


@pytest.mark.parametrize(("noise", "steps"), [(2.0, 1), (10.0, 30)])
def test_closed_form_without_sampling(noise: float, steps: int) -> None:
    exact = brentq(lambda epsilon: gaussian_delta(epsilon, noise, steps) - 1e-5, 0, 60)
    cost = spent(noise, 1.0, steps, 1e-5)
    assert all(exact * 0.9999 <= found <= exact * 1.005 for found in (cost.prv, cost.pld))


@pytest.mark.parametrize(("noise", "rate"), [(0.7, 0.05), (1.0, 0.01), (2.0, 0.2)])
def test_closed_form_of_one_step(noise: float, rate: float) -> None:
    exact = brentq(lambda epsilon: sampled_delta(epsilon, noise, rate) - 1e-5, 0, 60)
    cost = spent(noise, rate, 1, 1e-5)
    assert all(exact * 0.9999 <= found <= exact * 1.005 for found in (cost.prv, cost.pld))


GRID = list(itertools.product((0.6, 1.0, 3.0), (0.01, 0.1), (10, 300)))


def test_the_accountants_agree_and_no_step_is_free() -> None:
    costs = {at: spent(at[0], at[1], at[2], 1e-5) for at in GRID}  # raises where they differ by more than 1 %
    for (noise, rate, steps), cost in costs.items():
        assert abs(cost.prv - cost.pld) <= 0.01 * cost.epsilon
        assert cost.epsilon > 0
        if steps == 10:
            assert cost.epsilon < costs[noise, rate, 300].epsilon
        if rate == 0.01:
            assert cost.epsilon < costs[noise, 0.1, steps].epsilon
        if noise < 3:
            assert cost.epsilon > costs[{0.6: 1.0, 1.0: 3.0}[noise], rate, steps].epsilon


def test_cost_of_progress() -> None:
    so_far = [spent(1.0, 0.05, steps, 1e-5).epsilon for steps in (1, 2, 3, 50)]
    assert so_far == sorted(set(so_far))
    assert spent(1.0, 0.05, 3, 1e-6).epsilon > so_far[2]


@pytest.mark.parametrize(
    ("target", "units", "steps", "rate"),
    [
        (1.0, 600, 300, 0.02),
        (3.0, 600, 120, 0.05),
        (8.0, 600, 120, 0.05),
        (22.0, 4000, 200, 0.01),
        (0.3, 600, 20, 0.05),
    ],
)
def test_a_target_is_met_from_below(target: float, units: int, steps: int, rate: float) -> None:
    made = plan(units, steps, rate, target_epsilon=target)
    assert 0.99 * target <= made.epsilon <= target
    assert made.delta == default_delta(units)
    assert made == spent(made.noise_multiplier, rate, steps, made.delta)


def test_noise_for_a_target_is_what_opacus_publishes() -> None:
    # opacus/tests/accountants_test.py, test_get_noise_multiplier_prv_steps: 1.2915 (within its tolerance of 0.01 in ε).
    made = plan(1000, 2000, 0.04, target_epsilon=8, delta=1e-5)
    assert made.noise_multiplier == pytest.approx(1.2915, rel=5e-3)


def test_given_noise_is_kept() -> None:
    made = plan(600, 100, 0.05, noise_multiplier=1.1, delta=1e-4)
    assert made == spent(1.1, 0.05, 100, 1e-4) and made.noise_multiplier == 1.1


def test_processors_that_differ_in_the_last_digits_plan_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    here = plan(600, 120, 0.05, target_epsilon=8.0, scores=3)
    for name, value in (("get_noise_multiplier", accounting.get_noise_multiplier), ("_renyi", accounting._renyi)):
        monkeypatch.setattr(accounting, name, lambda *g, real=value, **k: real(*g, **k) * (1 + 1e-11))
    monkeypatch.setattr(accounting.PRVAccountant, "get_epsilon", elsewhere(accounting.PRVAccountant.get_epsilon))
    monkeypatch.setattr(accounting.PLDAccountant, "get_epsilon", elsewhere(accounting.PLDAccountant.get_epsilon))
    accounting._noise_for.cache_clear()
    spent.cache_clear()
    assert plan(600, 120, 0.05, target_epsilon=8.0, scores=3) == here
    accounting._noise_for.cache_clear()


def elsewhere(computed: Callable[..., float]) -> Callable[..., float]:
    return lambda *given, **precision: computed(*given, **precision) * (1 - 6e-12)


def test_default_delta() -> None:
    assert default_delta(600) == 1e-5
    assert default_delta(1_000_000) == pytest.approx(1e-6**1.1)
    assert all(default_delta(units) < 1 / units for units in (2, 600, 34_000, 10**7))


@pytest.mark.parametrize("delta", [0.0, -1e-6, 1 / 599, 0.5, 1.0, math.nan, math.inf])
def test_delta_out_of_range_is_refused(delta: float) -> None:
    with pytest.raises(PrivacyError, match=r"expected above 0 and at most 1/600 patients"):
        check_delta(delta, 600)
    with pytest.raises(PrivacyError, match=r"delta is "):
        plan(600, 100, 0.05, noise_multiplier=1.0, delta=delta)


def test_the_largest_delta_is_allowed() -> None:
    check_delta(1 / 600, 600)


@pytest.mark.parametrize(("epsilon", "noise"), [(8.0, 1.0), (None, None)])
def test_both_or_neither_is_refused_with_what_was_received(epsilon: float | None, noise: float | None) -> None:
    with pytest.raises(PrivacyError, match=rf"target_epsilon = {epsilon} and noise_multiplier = {noise}"):
        plan(600, 100, 0.05, target_epsilon=epsilon, noise_multiplier=noise)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_epsilon": 0.0}, "target_epsilon is 0.0"),
        ({"target_epsilon": -1.0}, "target_epsilon is -1.0"),
        ({"target_epsilon": math.nan}, "target_epsilon is nan"),
        ({"target_epsilon": math.inf}, "target_epsilon is inf"),
        ({"target_epsilon": 1e6}, "target_epsilon is 1000000.0"),
        ({"sample_rate": 0.0}, "sample_rate is 0.0"),
        ({"sample_rate": 1.01}, "sample_rate is 1.01"),
        ({"sample_rate": math.nan}, "sample_rate is nan"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 99.5}, "steps is 99.5"),
        ({"steps": 100.0}, "steps is 100.0"),
        ({"steps": True}, "steps is True"),
        ({"units": 1}, "units is 1; expected 2 patients"),
        ({"units": 0}, "units is 0"),
    ],
)
def test_values_out_of_range_are_refused(change: dict[str, float], message: str) -> None:
    values = {"units": 600, "steps": 100, "sample_rate": 0.05, "target_epsilon": 8.0, **change}
    units, steps = values.pop("units"), values.pop("steps")
    with pytest.raises(PrivacyError, match=message):
        plan(units, steps, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("noise", [0.0, -1.0, math.nan, math.inf])
def test_no_noise_is_refused(noise: float) -> None:
    with pytest.raises(PrivacyError, match=r"noise_multiplier is .*; expected a finite number above 0"):
        plan(600, 100, 0.05, noise_multiplier=noise)


@pytest.mark.parametrize(
    ("noise", "rate", "steps"), [(1e-300, 0.05, 100), (1e-5, 0.05, 1), (0.1, 1.0, 100), (0.5, 0.9, 10**9)]
)
def test_too_little_noise_is_refused_at_once(noise: float, rate: float, steps: int) -> None:
    with pytest.raises(PrivacyError, match=r"No guarantee can be given for .noise_multiplier"):
        spent(noise, rate, steps, 1e-5)


def test_a_delta_below_the_accountants_floats_is_refused() -> None:
    with pytest.raises(PrivacyError, match="No guarantee can be given"):
        spent(1.0, 0.05, 100, 1e-25)


def test_a_target_that_no_noise_meets_is_refused() -> None:
    with pytest.raises(PrivacyError, match="A patient is drawn at all with a chance of"):
        plan(600, 1, 1e-6, target_epsilon=1.0)
    with pytest.raises(PrivacyError, match=r"over 1000 steps the accountants cannot tell less than 0.024"):
        plan(600, 1000, 1.0, target_epsilon=0.02)


@pytest.mark.parametrize("wrong", [0.98, 1.03, math.nan])
def test_accountants_that_disagree_give_no_guarantee(wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    right = spent(1.0, 0.05, 100, 1e-5).pld
    monkeypatch.setattr("helpers.privacy.accounting.PLDAccountant.get_epsilon", lambda *_: right * wrong)
    spent.cache_clear()
    with pytest.raises(PrivacyError, match=r"No guarantee can be given for .noise_multiplier"):
        spent(1.0, 0.05, 100, 1e-5)
