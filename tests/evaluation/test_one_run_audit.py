"""The one-run audit: published values, true claims that stand, false ones that fall."""

import math

import numpy as np
import pytest

from helpers.errors import EvaluationError
from helpers.evaluation.one_run_audit import SHARES, audit, epsilon_lower_bound, largest_provable, p_value, refutes


def randomised_response(coins: int, epsilon: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Each coin told truly with probability e^epsilon / (1 + e^epsilon): exactly (epsilon, 0)-private."""
    chooser = np.random.default_rng(seed)
    members = chooser.random(coins) < 0.5
    truly = chooser.random(coins) < 1 / (1 + math.exp(-epsilon))
    return np.where(members == truly, 1.0, 0.0), members


@pytest.mark.parametrize(
    ("coins", "guesses", "correct", "delta", "published"),
    [(1000, 100, 75, 1e-4, 0.673), (100_000, 1510, 1439, 1e-5, 2.675)],
    ids=["appendix D", "section 7"],
)
def test_bounds_printed_in_the_paper(coins: int, guesses: int, correct: int, delta: float, published: float) -> None:
    assert epsilon_lower_bound(coins, guesses, correct, delta=delta) == pytest.approx(published, abs=1e-3)


def test_delta_term_equals_a_plain_loop() -> None:
    from scipy.stats import binom

    share = math.exp(0.7) / (1 + math.exp(0.7))
    lost = max((binom.cdf(39, 60, share) - binom.cdf(39 - i, 60, share)) / i for i in range(1, 41))
    expected = binom.sf(39, 60, share) + 2 * 200 * 1e-4 * lost
    assert p_value(200, 60, 40, 0.7, 1e-4) == pytest.approx(expected)


def test_a_perfect_attack_shows_the_ceiling_and_no_more() -> None:
    members = np.random.default_rng(0).random(560) < 0.5
    assert members.sum() != 280
    found = audit(members.astype(float), members, delta=1e-5)
    assert found["epsilon_low"] == found["largest_provable"]
    assert found["largest_provable"] == largest_provable(560, delta=1e-5, guesses=490, tests=len(SHARES))
    assert found["guesses"][0] == {"guesses": 490, "correct": 490, "epsilon_low": found["epsilon_low"]}
    lopsided = np.arange(560) < 230  # so few members that guesses for seven eighths cannot all be right
    less = audit(lopsided.astype(float), lopsided, delta=1e-5)
    assert less["guesses"][0]["correct"] == 475
    assert 4 < less["epsilon_low"] < less["largest_provable"] == found["largest_provable"]


def test_the_ceiling_of_200_coins() -> None:
    # All right by chance: accuracy^200 = 0.05.
    accuracy = 0.05 ** (1 / 200)
    assert largest_provable(200, delta=0) == pytest.approx(math.log(accuracy / (1 - accuracy)))
    assert largest_provable(200, delta=0) == pytest.approx(4.2, abs=0.02)
    assert largest_provable(200, delta=1e-5) < largest_provable(200, delta=0)
    assert largest_provable(560, delta=1e-5, guesses=490) == pytest.approx(5.1, abs=0.05)
    assert largest_provable(560, delta=1e-5, guesses=490, tests=4) == pytest.approx(4.7, abs=0.05)


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 3.0])
def test_a_true_claim_is_refuted_in_at_most_one_run_in_twenty(epsilon: float) -> None:
    refuted = 0
    for seed in range(1000):
        scores, members = randomised_response(100, epsilon, seed)
        refuted += refutes(scores, members, claimed_epsilon=epsilon, delta=0)["refuted"]
    assert refuted <= 50


def test_the_bound_holds_and_comes_near() -> None:
    bounds = [audit(*randomised_response(600, 2.0, seed), delta=0)["epsilon_low"] for seed in range(40)]
    assert sum(bound > 2 for bound in bounds) <= 4
    assert 1.5 < np.median(bounds) < 2


def test_the_bound_and_the_p_value_agree() -> None:
    scores, members = randomised_response(400, 2.0, 7)
    low = audit(scores, members, delta=1e-5)["epsilon_low"]
    assert refutes(scores, members, claimed_epsilon=low - 0.01, delta=1e-5)["refuted"]
    assert not refutes(scores, members, claimed_epsilon=low + 0.01, delta=1e-5)["refuted"]


def test_a_mechanism_without_noise_refutes_epsilon_one() -> None:
    chooser = np.random.default_rng(3)
    members = chooser.random(500) < 0.5
    leaky = members + chooser.normal(0, 0.5, 500)  # AUC 0.92: far from perfect
    found = refutes(leaky, members, claimed_epsilon=1, delta=1e-5)
    assert found["refuted"] and found["p_value"] < 0.002  # what the term in delta leaves
    silent = refutes(chooser.normal(0, 0.6, 500), members, claimed_epsilon=1, delta=1e-5)
    assert not silent["refuted"] and silent["p_value"] == 1


def test_scores_that_say_nothing_show_nothing() -> None:
    chooser = np.random.default_rng(1)
    found = audit(chooser.normal(size=500), chooser.random(500) < 0.5, delta=1e-5)
    assert found["epsilon_low"] == 0
    assert [row["guesses"] for row in found["guesses"]] == [436, 250, 124, 62]


def test_what_happens_within_delta_is_never_refuted() -> None:
    # A mechanism that tells all with probability delta and nothing else is (0, delta)-private.
    assert p_value(100, 100, 100, 0, 0.06) >= 0.06
    assert epsilon_lower_bound(100, 100, 100, delta=0.06) == 0


def test_coins_that_are_not_fair_are_refused() -> None:
    members = np.arange(1280) < 280
    with pytest.raises(EvaluationError, match="280 members among 1280 coins: these coins were not fair"):
        audit(members.astype(float), members, delta=1e-5)


@pytest.mark.parametrize("scores", [np.zeros(8), np.append(np.zeros(49), np.nan), np.zeros(51)])
def test_too_few_or_broken_scores_are_refused(scores: np.ndarray) -> None:
    members = np.arange(50 if len(scores) != 8 else 8) % 2 == 0
    with pytest.raises(EvaluationError, match="a finite score for each of 16 coins"):
        refutes(scores, members, claimed_epsilon=1, delta=0)


@pytest.mark.parametrize(
    "numbers",
    [
        (10, 11, 5, 1.0, 0.0),
        (10, 5, 6, 1.0, 0.0),
        (10, 5, 5, -1.0, 0.0),
        (10, 5, 5, float("nan"), 0.0),
        (10, 5, 5, 1.0, 1.0),
    ],
)
def test_impossible_numbers_are_refused(numbers: tuple[int, int, int, float, float]) -> None:
    with pytest.raises(EvaluationError, match="An audit needs"):
        p_value(*numbers)
