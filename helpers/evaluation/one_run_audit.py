"""A lower bound on epsilon from one training run: how often can an attacker tell who was in?

Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run" (2023, arXiv:2305.08846). Each of
`coins` canaries has an inclusion bit, 0 or 1 with probability 1/2, and is trained on if it is 1. The attacker, who
sees the model and not the bits, guesses those it is surest of and abstains from the others. Whatever the attack, a
mechanism that is (epsilon, delta)-private against adding or removing one patient lets no more guesses come right
than a binomial of accuracy e^epsilon / (1 + e^epsilon) would, but for a small term in delta (their section 5). More
right guesses refute the claim.

Such an audit may refute a claim; it proves no guarantee. A bound of 0 says that this attack found nothing. It attacks
the model; `helpers.privacy.ghosts` audits the mechanism, on real records too, and sees more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.errors import EvaluationError

SHARES = (7 / 8, 1 / 2, 1 / 4, 1 / 8)
"""Shares of the bits that are guessed, one half of them "in", fixed before any score is seen.

The best number of guesses depends on the leak: nearly all where the model knows every canary, few where it knows
some. An eighth at least is left open because seldom exactly half of the bits are 1, so that equal numbers of "in" and
"out" for all of them would be wrong about some by force. Four numbers are within a factor of two of any better one
above an eighth, and Bonferroni's correction for them is cheap: with 560 bits the ceiling falls from 5.1 to 4.7.
"""

Scores = npt.NDArray[np.float64]
Members = npt.NDArray[np.bool_]


def p_value(coins: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Highest chance, under (epsilon, delta)-privacy, of so many right guesses or more (the paper's appendix D).

    Args:
        coins: canaries with an inclusion bit, 1 or more.
        guesses: of them guessed, `correct` to `coins`.
        correct: guesses that were right.
        epsilon: claimed, 0 or more.
        delta: claimed, in [0, 1).

    Raises:
        EvaluationError: the numbers contradict each other or are out of range.
    """
    if not 0 <= correct <= guesses <= coins or not epsilon >= 0 or not 0 <= delta < 1:
        raise EvaluationError(
            f"An audit needs 0 <= correct <= guesses <= coins, epsilon >= 0 and 0 <= delta < 1; received {correct}, "
            f"{guesses}, {coins}, epsilon {epsilon} and delta {delta}."
        )
    from scipy.special import expit
    from scipy.stats import binom

    accuracy = expit(epsilon)
    chance = float(binom.sf(correct - 1, guesses, accuracy))
    if delta and correct:
        # Row i - 1: the chance of 1 to i right guesses too few. Delta may lift them at a price of 1/i each.
        too_few = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, accuracy))
        chance += 2 * coins * delta * float(np.max(too_few / np.arange(1, correct + 1)))
    return min(chance, 1.0)


def epsilon_lower_bound(
    coins: int, guesses: int, correct: int, *, delta: float, confidence: float = 0.95, tests: int = 1
) -> float:
    """Epsilon below which the mechanism cannot be, at this confidence; 0 where nothing is shown.

    Args:
        coins: canaries with an inclusion bit.
        guesses: of them guessed.
        correct: guesses that were right.
        delta: of the claim, in [0, 1).
        confidence: probability, over bits and training, that the bound holds; in (0, 1).
        tests: numbers of guesses tried, among which the best may be picked (Bonferroni's correction).
    """
    from scipy.optimize import brentq

    level = (1 - confidence) / tests

    def excess(epsilon: float) -> float:
        return p_value(coins, guesses, correct, epsilon, delta) - level

    low = 0.0
    if excess(low) >= 0:
        return low
    # Upwards in small steps, since the term in delta need not grow with epsilon: every claim below is refuted.
    while excess(low + 0.125) < 0:
        low += 0.125
    return float(brentq(excess, low, low + 0.125))


def largest_provable(
    coins: int, *, delta: float, confidence: float = 0.95, guesses: int | None = None, tests: int = 1
) -> float:
    """The bound that an attacker who is right in every guess would show: the ceiling of the audit.

    A mechanism of that epsilon lets all guesses come right with probability accuracy^guesses. Where this
    is 5 %, epsilon is 4.2 for 200 guesses; no attack shows more, and a mechanism of higher epsilon looks the same.

    Args:
        coins: canaries with an inclusion bit.
        delta: of the claim, in [0, 1).
        confidence: of the bound, in (0, 1).
        guesses: made; None for all bits.
        tests: numbers of guesses tried.
    """
    certain = coins if guesses is None else guesses
    return epsilon_lower_bound(coins, certain, certain, delta=delta, confidence=confidence, tests=tests)


def audit(scores: Scores, members: Members, *, delta: float, confidence: float = 0.95) -> dict[str, Any]:
    """Bound epsilon from below by guessing "in" for the highest scores and "out" for as many of the lowest.

    Args:
        scores: float64 `(coins,)`, one for each canary with an inclusion bit, higher for likelier members;
            made without knowledge of the bits, ties left in the canaries' order.
        members: bool `(coins,)`, the inclusion bits.
        delta: of the claim, in [0, 1).
        confidence: of the bound, after correction for the four numbers of guesses.

    Returns:
        `{"epsilon_low", "largest_provable", "confidence", "delta", "coins", "members", "guesses"}`; the last has
        a row `{"guesses", "correct", "epsilon_low"}` for each share of `SHARES`. `largest_provable` is what this
        audit would have shown with every guess right.

    Raises:
        EvaluationError: under 16 bits, a score that is not a number, or bits that cannot be fair.
    """
    rows: list[dict[str, Any]] = [
        {
            "guesses": guesses,
            "correct": correct,
            "epsilon_low": epsilon_lower_bound(
                len(scores), guesses, correct, delta=delta, confidence=confidence, tests=len(SHARES)
            ),
        }
        for guesses, correct in _guess(scores, members)
    ]
    return {
        "epsilon_low": max(row["epsilon_low"] for row in rows),
        "largest_provable": max(
            largest_provable(len(scores), delta=delta, confidence=confidence, guesses=row["guesses"], tests=len(SHARES))
            for row in rows
        ),
        "confidence": confidence,
        "delta": delta,
        "coins": len(scores),
        "members": int(members.sum()),
        "guesses": rows,
    }


def refutes(
    scores: Scores, members: Members, *, claimed_epsilon: float, delta: float, confidence: float = 0.95
) -> dict[str, Any]:
    """Test the claim that the run was (claimed_epsilon, delta)-private.

    Args:
        scores: as for `audit`.
        members: as for `audit`.
        claimed_epsilon: 0 or more.
        delta: of the claim, in [0, 1).
        confidence: 1 less the chance of refuting a true claim.

    Returns:
        `{"claimed_epsilon", "delta", "confidence", "p_value", "refuted"}`; the p-value after correction.

    Raises:
        EvaluationError: as for `audit`.
    """
    found = [p_value(len(scores), g, c, claimed_epsilon, delta) for g, c in _guess(scores, members)]
    corrected = min(1.0, len(SHARES) * min(found))
    return {
        "claimed_epsilon": claimed_epsilon,
        "delta": delta,
        "confidence": confidence,
        "p_value": corrected,
        "refuted": corrected < 1 - confidence,
    }


def _guess(scores: Scores, members: Members) -> list[tuple[int, int]]:
    """(guesses, right ones) for each share."""
    from scipy.stats import binomtest

    if len(scores) != len(members) or len(scores) < 16 or not np.isfinite(scores).all():
        raise EvaluationError(
            f"The audit needs a finite score for each of 16 coins or more; received {len(scores)} scores, "
            f"{int(np.isfinite(scores).sum())} of them finite, for {len(members)} coins."
        )
    if binomtest(int(members.sum()), len(members)).pvalue < 1e-6:
        raise EvaluationError(
            f"{int(members.sum())} members among {len(members)} coins: these coins were not fair, and the audit rests "
            "on it. Pass the canaries whose coin was tossed, in and out, and no others."
        )
    order = np.argsort(-scores, kind="stable")
    counted = []
    for share in SHARES:
        half = int(len(scores) * share / 2)
        correct = members[order[:half]].sum() + (~members[order[len(order) - half :]]).sum()
        counted.append((2 * half, int(correct)))
    return counted
