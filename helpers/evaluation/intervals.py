"""How sure a score is: intervals for rates, and agreement beyond chance between two graders."""

from collections.abc import Sequence
from typing import Any

from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score


def rate_with_interval(correct: int, n: int) -> dict[str, Any]:
    """Share of `correct` among `n` answers, with its 95 % Wilson interval.

    It stays inside [0, 1] and keeps its coverage for few items and for rates near 0 and 1 (Brown, Cai and DasGupta
    2001), where the usual plus-or-minus shrinks to nothing.

    Returns:
        `{"n", "correct", "rate", "low", "high"}`; the last three are None where `n` is 0.
    """
    if n == 0:
        return {"n": 0, "correct": 0, "rate": None, "low": None, "high": None}
    interval = binomtest(correct, n).proportion_ci(confidence_level=0.95, method="wilson")
    return {"n": n, "correct": correct, "rate": correct / n, "low": float(interval.low), "high": float(interval.high)}


def cohens_kappa(first: Sequence[bool], second: Sequence[bool]) -> float | None:
    """Agreement of two graders of the same items beyond chance: 1 full, 0 none, below 0 worse (Cohen 1960).

    None without items, or when both gave one and the same verdict throughout: chance alone agrees fully there.
    """
    if len({*first, *second}) < 2:
        return None
    return float(cohen_kappa_score(list(first), list(second)))
