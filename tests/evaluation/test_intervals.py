import pytest

from helpers.evaluation.intervals import cohens_kappa, rate_with_interval


def test_wilson_interval_matches_published_example() -> None:
    # Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662.
    rate = rate_with_interval(81, 263)
    assert (rate["low"], rate["high"]) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_all_wrong_keeps_a_width() -> None:
    rate = rate_with_interval(0, 10)
    assert rate["rate"] == 0
    assert rate["low"] == pytest.approx(0)
    assert rate["high"] == pytest.approx(0.2775, abs=5e-4)


def test_zero_items_have_no_rate() -> None:
    assert rate_with_interval(0, 0) == {"n": 0, "correct": 0, "rate": None, "low": None, "high": None}


def test_kappa() -> None:
    # Two graders of 50 items: 20 both yes, 5 and 10 apart, 15 both no: kappa 0.40.
    first = [True] * 25 + [False] * 25
    second = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert cohens_kappa(first, second) == pytest.approx(0.4)


@pytest.mark.parametrize("verdicts", [[], [True, True], [False]])
def test_kappa_is_undefined_without_variety(verdicts: list[bool]) -> None:
    assert cohens_kappa(verdicts, verdicts) is None
