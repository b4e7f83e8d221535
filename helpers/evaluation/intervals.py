"""How sure a score is: intervals for rates, and agreement beyond chance between two graders."""

import math
from collections.abc import Sequence
from typing import TypedDict


class Rate(TypedDict):
    """A share of right answers with its 95 % interval; the last three are None when nothing was scored."""

    n: int
    correct: int
    rate: float | None
    low: float | None
    high: float | None


def rate_with_interval(correct: int, n: int) -> Rate:
    """Share of right answers with its 95 % Wilson interval.

    Wilson's interval stays inside [0, 1] and keeps its coverage for few items and for rates near 0 and 1
    (Brown, Cai and DasGupta 2001), where the usual plus-or-minus shrinks to nothing.

    Args:
        correct: right answers, 0 to n.
        n: answers scored, 0 or more.
    """
    if n == 0:
        return Rate(n=0, correct=0, rate=None, low=None, high=None)
    from scipy.stats import binomtest

    interval = binomtest(correct, n).proportion_ci(confidence_level=0.95, method="wilson")
    return Rate(n=n, correct=correct, rate=correct / n, low=float(interval.low), high=float(interval.high))


def cohens_kappa(first: Sequence[bool], second: Sequence[bool]) -> float | None:
    """Agreement of two graders beyond chance: 1 full, 0 none, below 0 worse than chance (Cohen 1960).

    Args:
        first: verdicts of one grader.
        second: verdicts of the other, on the same items in the same order.

    Returns:
        Kappa in [-1, 1]; None without items, or when both gave one and the same verdict throughout, where
        chance alone agrees fully and kappa is undefined.
    """
    if not first or len({*first, *second}) < 2:
        return None
    from sklearn.metrics import cohen_kappa_score

    kappa = float(cohen_kappa_score(list(first), list(second)))
    return None if math.isnan(kappa) else kappa


def separation(values: Sequence[float], correct: Sequence[bool]) -> float | None:
    """Area under the ROC curve: how often a right answer scores above a wrong one, ties counting half.

    Args:
        values: a metric's values.
        correct: whether each of these answers is right, in the same order.

    Returns:
        0.5 when the metric cannot tell right from wrong, 1 when it always can; None without both kinds.
    """
    if len(set(correct)) < 2:
        return None
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(list(correct), list(values)))
