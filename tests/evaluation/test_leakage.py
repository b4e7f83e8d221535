"""AUC, members found at few false alarms and ε against brute force, coverage and known mechanisms."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from helpers.data.example import Example
from helpers.errors import EvaluationError
from helpers.evaluation.attacks.membership import (
    auc_with_interval,
    by_unit,
    epsilon_of_auc,
    found_at_one_percent,
    membership,
)


def test_auc_and_its_variance_equal_the_pairwise_definition() -> None:
    chooser = np.random.default_rng(0)
    inside, outside = chooser.integers(0, 9, 30) + 2.0, chooser.integers(0, 9, 50) + 0.0
    pairs = (inside[:, None] > outside) + 0.5 * (inside[:, None] == outside)
    auc = pairs.mean()
    variance = pairs.mean(1).var(ddof=1) / 30 + pairs.mean(0).var(ddof=1) / 50
    half = 1.96 * np.sqrt(variance) / (auc * (1 - auc))
    found = auc_with_interval(inside, outside)
    odds = np.exp(np.log(auc / (1 - auc)) + np.array([-half, half]))
    assert 0.6 < auc < 0.95
    assert found["auc"] == pytest.approx(auc)
    assert (found["low"], found["high"]) == pytest.approx(tuple(odds / (1 + odds)))


@pytest.mark.parametrize("kept", [0.0, 0.3, 1.0], ids=["none", "a third", "all"])
def test_the_interval_covers_the_true_auc(kept: float) -> None:
    chooser = np.random.default_rng(1)
    true = kept * norm.cdf(2 / np.sqrt(2)) + (1 - kept) * 0.5
    covered = 0
    for _ in range(400):
        inside = chooser.normal(size=100) + 2 * (chooser.random(100) < kept)
        found = auc_with_interval(inside, chooser.normal(size=400))
        covered += found["low"] <= true <= found["high"]
    assert 0.92 * 400 <= covered <= 0.98 * 400


def test_perfect_separation_keeps_a_width() -> None:
    found = auc_with_interval(np.arange(280) + 2000.0, np.arange(1280) + 0.0)
    assert found["auc"] == 1 and found["high"] == 1
    assert found["low"] == pytest.approx(0.025 ** (1 / 280))
    turned = auc_with_interval(np.arange(1280) + 0.0, np.arange(280) + 2000.0)
    assert turned["auc"] == 0 and turned["low"] == 0 and turned["high"] == pytest.approx(1 - 0.025 ** (1 / 280))


def test_members_are_counted_above_the_right_threshold() -> None:
    found = found_at_one_percent(np.array([985.0, 989.0, 989.5, 995.0]), np.arange(1000) + 0.0)
    assert found is not None and (found["correct"], found["n"], found["rate"]) == (2, 4, 0.5)
    assert found["low"] == pytest.approx(0.15, abs=0.01) and found["high"] == pytest.approx(0.85, abs=0.01)


def test_ties_do_not_raise_false_alarms() -> None:
    found = found_at_one_percent(np.ones(10), np.ones(200))
    assert found is not None and found["rate"] == 0


def test_few_non_members_show_no_rate_of_one_percent() -> None:
    assert found_at_one_percent(np.ones(10), np.arange(99) + 0.0) is None
    assert found_at_one_percent(np.ones(10), np.arange(100) + 0.0) is not None


def parted(values: np.ndarray, member: np.ndarray) -> dict[str, np.ndarray]:
    return {"in": values[member], "out": values[~member]}


@pytest.mark.parametrize("slope", [1.0, 0.0])
def test_calibration_helps_where_the_prior_stays_and_does_not_hurt_where_it_went(slope: float) -> None:
    chooser = np.random.default_rng(6)
    base = chooser.normal(80, 10, 1000)
    member = np.arange(1000) < 300
    losses = slope * base + chooser.normal(0, 1, 1000) - 2 * member
    found = membership(parted(losses, member), parted(base, member))
    assert (found["n_in"], found["n_out"]) == (300, 700)
    assert found["calibrated"]["auc"] > 0.9
    assert found["calibrated"]["auc"] - found["loss"]["auc"] > (0.3 if slope else -0.01)
    assert found["calibrated"]["tpr_at_1_percent_fpr"]["n"] == 300


def test_calibration_shows_nothing_where_nothing_was_learnt() -> None:
    chooser, found = np.random.default_rng(7), []
    for _ in range(200):  # of as few non-members as are allowed
        base = chooser.normal(80, 10, 40)
        losses = base + chooser.normal(0, 1, 40)
        member = np.arange(40) < 30
        found.append(membership(parted(losses, member), parted(base, member))["calibrated"]["auc"])
    assert np.mean(found) == pytest.approx(0.5, abs=0.03)


def test_the_base_model_shows_whether_the_groups_differ_by_themselves() -> None:
    chooser = np.random.default_rng(8)
    alike = membership({"in": chooser.normal(60, 20, 300), "out": chooser.normal(60, 20, 300)}, None)
    assert alike["calibrated"] is None
    assert alike["loss"]["low"] < 0.5 < alike["loss"]["high"]
    shifted = membership({"in": chooser.normal(60, 20, 300), "out": chooser.normal(100, 20, 300)}, None)
    assert shifted["loss"]["low"] > 0.8


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0])
def test_an_epsilon_allows_the_area_over_its_trade_off_curve(epsilon: float) -> None:
    false_alarms = np.linspace(0, 1, 100_001)
    factor = math.exp(epsilon)
    missed = np.maximum(np.maximum(0, 1 - factor * false_alarms), (1 - false_alarms) / factor)
    area = 1 - float(np.mean((missed[1:] + missed[:-1]) / 2))
    assert epsilon_of_auc(area) == pytest.approx(epsilon, abs=1e-3)


def test_an_auc_of_guessing_or_less_shows_no_epsilon_and_certainty_any() -> None:
    assert [epsilon_of_auc(auc) for auc in (0.0, 0.3, 0.5, 1.0)] == [0, 0, 0, math.inf]


@pytest.mark.parametrize(("share", "least", "most"), [(1.0, 0.0, 0.05), (1.5, 0.95, 1.0)])
def test_a_true_epsilon_is_seldom_refuted_and_a_false_one_nearly_always(
    share: float, least: float, most: float
) -> None:
    chooser, refuted = np.random.default_rng(9), 0
    for _ in range(400):  # each bit told truly with probability e^ε / (1 + e^ε): exactly (ε, 0)-private
        member = np.append(chooser.random(560) < 0.5, np.zeros(1000, dtype=bool))
        truly = chooser.random(1560) < 1 / (1 + math.exp(-share))
        found = auc_with_interval(*parted(np.where(member == truly, 1.0, 0.0), member).values())
        refuted += epsilon_of_auc(found["low"]) > 1
    assert least <= refuted / 400 <= most


def test_a_patient_counts_once() -> None:
    records = [Example("", "records", (), "text", unit=unit) for unit in ("b", "a", "b")]
    assert by_unit(records, np.array([1.0, 5.0, 3.0])).tolist() == [2.0, 5.0]


@pytest.mark.parametrize(
    ("inside", "outside", "told"),
    [
        ([1.0], 10 * [3.0], "1 members and 10 non-members were scored; expected 2 and 10"),
        ([1.0, 2.0], 9 * [3.0], "2 members and 9 non-members"),
        ([1.0, float("nan")], 10 * [3.0], "not a finite number"),
        ([3.0, 3.0], 10 * [3.0], "all are equal"),
    ],
)
def test_unusable_scores_are_refused(inside: list[float], outside: list[float], told: str) -> None:
    with pytest.raises(EvaluationError, match=told):
        auc_with_interval(np.array(inside), np.array(outside))
