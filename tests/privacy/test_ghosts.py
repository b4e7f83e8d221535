"""The audit of the mechanism: an honest training passes, and a mistake anywhere in the mechanism is told."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from helpers.privacy import ghosts as watched
from helpers.privacy import secure_random
from helpers.privacy.accounting import best_accuracy, spent
from helpers.privacy.ghosts import CAUGHT_BELOW, GHOSTS, LENGTH, RECORDS, Ghosts, audit, log_likelihood_ratio
from helpers.privacy.mechanism import PrivateOptimizer
from helpers.privacy.secure_random import SecureGenerator
from helpers.privacy.units import draw

PART = 16
"""Ghosts added at once, so that their gradients stay in the processor's cache."""
NOISE, RATE, STEPS, NORM, EXPECTED = 0.767, 48 / 700, 72, 0.5, 48.0
CLAIM = spent(NOISE, RATE, STEPS, 1e-5)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What 160 audits share is computed once; so few numbers need small blocks and one thread."""
    monkeypatch.setattr(watched, "best_accuracy", CLAIMS)
    monkeypatch.setattr(watched, "_chance_to_catch", lambda *_: 0.0)
    monkeypatch.setattr(secure_random, "BLOCK", 2**13)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


CLAIMS, FORECAST = cache(best_accuracy), watched._chance_to_catch


class HalfTheNoise(PrivateOptimizer):
    def __init__(self, *given: Any, noise_multiplier: float, **settings: Any) -> None:
        super().__init__(*given, noise_multiplier=noise_multiplier / 2, **settings)


class ClipsRecords(PrivateOptimizer):
    def add(self, gradients: torch.Tensor, patients: torch.Tensor, first: int = 0) -> None:
        super().add(gradients, torch.arange(len(gradients)), first)


class ClipsNothing(PrivateOptimizer):
    def __init__(self, *given: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self.max_grad_norm = 1e6


class AddsTwice(PrivateOptimizer):
    def add(self, gradients: torch.Tensor, patients: torch.Tensor, first: int = 0) -> None:
        super().add(gradients.clone(), patients, first)
        super().add(gradients, patients, first)


class AddsTheStepBeforeAgain(PrivateOptimizer):
    before: torch.Tensor | float = 0.0

    def step(self) -> torch.Tensor:
        own = self.sum.clone()
        self.sum += self.before
        self.before = own
        return super().step()


class SameNoise(PrivateOptimizer):
    """Each step right by itself, and the noise of all steps equal."""

    def step(self) -> torch.Tensor:
        self.generator = SecureGenerator(bytes(32))
        return super().step()


class SubtractsTheNoiseBefore(PrivateOptimizer):
    """Noise in pairs that cancel each other."""

    before: torch.Tensor | None = None

    def step(self) -> torch.Tensor:
        own = self.sum.clone()
        released = super().step()
        if self.before is not None:
            released = own[self.numbers :].float() / self.expected_batch - self.before
            self.before = None
        else:
            self.before = released - own[self.numbers :].float() / self.expected_batch
        return released


def trained(
    key: int, kind: type[PrivateOptimizer] = PrivateOptimizer, rate: float = RATE, steps: int = STEPS
) -> Ghosts:
    """The ghosts after a training of four weights, by the same calls as in `helpers.privacy.training`."""
    generator = SecureGenerator(key.to_bytes(32, "big"))
    mechanism = kind(
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(4))], lr=1.0),
        noise_multiplier=NOISE,
        max_grad_norm=NORM,
        expected_batch=EXPECTED,
        generator=generator,
        ghosts=GHOSTS,
    )
    ghosts = Ghosts(CLAIM, Ghosts.drawn(generator))
    members = ghosts.members
    for _ in range(steps):
        mechanism.add(torch.randn(5, 4), torch.arange(5))  # patients
        visited = [members[place] for place in draw(len(members), rate, generator)]
        for part in range(0, len(visited), PART):
            mechanism.add(*ghosts.gradients(visited[part : part + PART], NORM), first=mechanism.numbers)
        ghosts.watch(mechanism.step(), NORM / EXPECTED)
    return ghosts


def p_value(ghosts: Ghosts) -> float:
    return float(audit(ghosts)["p_value"])


FEW_OR_MANY = pytest.mark.parametrize("keys", [range(4), pytest.param(range(20), marks=pytest.mark.slow)])


@FEW_OR_MANY
def test_the_claimed_training_passes(keys: range) -> None:
    found = [audit(trained(key)) for key in keys]
    assert sum(each["p_value"] >= 0.05 for each in found) >= len(keys) - 1
    assert min(each["noise_p_value"] for each in found) > 1e-4


@pytest.mark.parametrize("broken", [HalfTheNoise, ClipsRecords, ClipsNothing, AddsTwice, AddsTheStepBeforeAgain])
@FEW_OR_MANY
def test_a_broken_mechanism_is_told_every_time(broken: type[PrivateOptimizer], keys: range) -> None:
    assert max(p_value(trained(key, broken)) for key in keys) < CAUGHT_BELOW


@pytest.mark.parametrize("broken", [SameNoise, SubtractsTheNoiseBefore])
def test_noise_that_comes_again_is_told(broken: type[PrivateOptimizer]) -> None:
    assert audit(trained(0, broken))["noise_p_value"] < 1e-12


def test_more_steps_or_draws_than_claimed_are_told() -> None:
    for more in ({"steps": 2 * STEPS}, {"rate": 2 * RATE}):
        assert p_value(trained(0, **more)) < CAUGHT_BELOW


def simulated(noise: float, trainings: int, pool: int = 200_000) -> Iterator[Ghosts]:
    """Ghosts of trainings without a mechanism: what comes out at their numbers is drawn, and scored, from a pool."""
    random = np.random.default_rng(0)
    scores = np.zeros((2, pool))  # of those out, and of those in
    for _ in range(STEPS):
        seen = random.standard_normal((2, pool), dtype=np.float32) * noise
        seen[1] += random.random(pool, dtype=np.float32) < RATE
        scores += log_likelihood_ratio(seen, NOISE, RATE)
    for _ in range(trainings):
        ghosts = Ghosts(CLAIM, Ghosts.drawn(SecureGenerator(random.bytes(32))))
        chosen = scores[ghosts.state["included"].long().numpy(), random.integers(pool, size=GHOSTS)]
        ghosts.state["scores"] = torch.from_numpy(chosen)
        yield ghosts


def test_of_1000_honest_trainings_at_most_one_in_twenty_gives_an_alarm() -> None:
    values = np.array([p_value(ghosts) for ghosts in simulated(NOISE, 1000)])
    assert (values < 0.05).sum() <= 50
    assert values.min() > 1e-6  # and none would have been refused
    print(f"{(values < 0.05).sum()} of 1000 below 0.05, smallest {values.min():.2g}")


def test_the_forecast_of_what_would_be_caught_is_right() -> None:
    allowed = CLAIMS(NOISE, RATE, STEPS)
    for share, trainings in ((0.5, 5), (0.8, 20), (0.9, 80)):
        found = np.mean([p_value(training) < CAUGHT_BELOW for training in simulated(share * NOISE, trainings)])
        assert abs(FORECAST(CLAIM, share, allowed) - found) < 0.2


def test_what_is_shown_of_the_noise_lies_above_the_noise() -> None:
    # "A training with more noise would not have let so many be told", at 95 %
    shown = [audit(ghosts)["shown_noise_multiplier"] for ghosts in simulated(0.5 * NOISE, 20)]
    assert sum(bound >= 0.5 * NOISE for bound in shown) >= 17
    assert max(shown) < NOISE


def test_scores_are_the_likelihood_ratio() -> None:
    from scipy import stats

    seen = np.linspace(-3, 4, 50)
    absent, present = stats.norm.pdf(seen, 0, NOISE), stats.norm.pdf(seen, 1, NOISE)
    wanted = np.log((1 - RATE) * absent + RATE * present) - np.log(absent)
    assert np.allclose(log_likelihood_ratio(seen, NOISE, RATE), wanted)
    assert np.allclose(log_likelihood_ratio(seen, NOISE, 1.0), np.log(present) - np.log(absent))


def test_ghosts_have_one_number_each_longer_than_the_norm_and_half_have_several_records() -> None:
    ghosts = Ghosts(CLAIM, Ghosts.drawn(SecureGenerator()))
    assert abs(len(ghosts.members) - GHOSTS / 2) < 6 * (GHOSTS / 4) ** 0.5
    assert all(ghosts.state["included"][member] for member in ghosts.members)
    rows, owners = ghosts.gradients([4, 7, 3998], NORM)
    assert owners.tolist() == [0, *[1] * RECORDS, 2] and rows.shape == (2 + RECORDS, GHOSTS)
    assert rows.nonzero()[:, 1].tolist() == [4, *[7] * RECORDS, 3998]
    assert (rows.sum(dim=1) == LENGTH * NORM).all() and LENGTH > 1
    nobody, of_nobody = ghosts.gradients([], NORM)
    assert nobody.shape == (0, GHOSTS) and of_nobody.dtype is torch.long


def test_ghosts_come_back_from_a_checkpoint() -> None:
    before = trained(0, steps=3)
    after = Ghosts(CLAIM, {name: values.clone() for name, values in before.state.items()})
    assert after.members == before.members and audit(after) == audit(before)
