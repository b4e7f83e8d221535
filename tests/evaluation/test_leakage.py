"""AUC, hits at few false alarms and exposure against brute force, coverage and known distributions."""

import json

import numpy as np
import pytest
from scipy.stats import norm

from helpers.errors import EvaluationError
from helpers.evaluation.canaries import make_canaries
from helpers.evaluation.leakage import (
    auc_with_interval,
    by_unit,
    calibrated_scores,
    canary_leakage,
    exposures,
    membership_inference,
    tpr_at_fpr,
)

WORDS = [f"w{number}" for number in range(1000)]


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


def test_the_true_positive_rate_is_taken_at_the_right_threshold() -> None:
    outside = np.arange(1000) + 0.0
    found = tpr_at_fpr(np.array([985.0, 989.0, 989.5, 995.0]), outside)
    assert (found["tpr"], found["fpr"], found["n_out"]) == (0.5, 0.01, 1000)
    assert found["fpr_low"] == pytest.approx(0.0054, abs=1e-4) and found["fpr_high"] == pytest.approx(0.0183, abs=1e-4)
    assert found["low"] is not None and found["low"] < 0.5 < (found["high"] or 0)


def test_ties_do_not_raise_false_alarms() -> None:
    found = tpr_at_fpr(np.ones(10), np.ones(200))
    assert (found["tpr"], found["fpr"]) == (0, 0)


def test_too_few_non_members_say_how_many_are_needed() -> None:
    with pytest.raises(EvaluationError, match="needs 100 non-members or more, better 1000; received 99"):
        tpr_at_fpr(np.ones(10), np.arange(99) + 0.0)


def test_exposure_by_rank() -> None:
    candidates = np.arange(1, 1024) + 0.0
    found = exposures(np.array([0.5, 1.0, 1.5, 511.5, 5000.0]), candidates)
    assert found == pytest.approx([10, 9, 9, 1, 0])
    unseen = exposures(np.random.default_rng(2).random(4000), np.random.default_rng(3).random(4000))
    assert unseen.mean() == pytest.approx(1 / np.log(2), abs=0.1)


@pytest.mark.parametrize("slope", [1.0, 0.0])
def test_calibration_helps_where_the_prior_stays_and_does_not_hurt_where_it_went(slope: float) -> None:
    chooser = np.random.default_rng(6)
    base = chooser.normal(80, 10, 1000)
    member = np.arange(1000) < 300
    losses = slope * base + chooser.normal(0, 1, 1000) - 2 * member
    plain = auc_with_interval(-losses[member], -losses[~member])["auc"]
    scores = calibrated_scores(losses, base, (~member).tolist())
    calibrated = auc_with_interval(scores[member], scores[~member])["auc"]
    assert calibrated > 0.9
    assert calibrated - plain > (0.3 if slope else -0.01)


def test_the_summary_of_canaries_is_ready_for_json() -> None:
    canaries = make_canaries(300, 600, words=WORDS, seed=0)
    member = np.array([c["member"] for c in canaries])
    chooser = np.random.default_rng(7)
    base = chooser.normal(80, 5, 900)
    found = canary_leakage(canaries, base - 15 * member + chooser.normal(0, 2, 900), base)
    assert json.loads(json.dumps(found)) == found
    assert found["n_in"] + found["n_out"] == 900 and found["n_in"] == member.sum()
    assert found["calibrated"]["auc"] > found["loss"]["auc"] > 0.95
    assert found["exposure"]["median"] > 7 and found["exposure"]["ceiling"] == pytest.approx(9.6, abs=0.1)
    assert np.mean(np.array(found["scores"])[member]) > 10

    untouched = canary_leakage(canaries, base)
    assert untouched["calibrated"] is None
    assert untouched["loss"]["low"] < 0.5 < untouched["loss"]["high"]
    assert untouched["exposure"]["median"] < 2


def test_membership_inference_is_calibrated_and_shows_a_shift() -> None:
    chooser = np.random.default_rng(8)
    base_inside, base_outside = chooser.normal(60, 20, 300), chooser.normal(60, 20, 300)
    found = membership_inference(
        base_inside - 11 + chooser.normal(0, 1, 300), base_outside - 8, base_inside, base_outside
    )
    assert found["calibrated"]["auc"] > 0.95 > 0.65 > found["loss"]["auc"]
    assert found["base"]["low"] < 0.5 < found["base"]["high"]
    shifted = membership_inference(base_inside, base_outside + 40, base_inside, base_outside + 40.5)
    assert shifted["base"]["low"] > 0.8


def test_few_non_members_show_an_auc_and_no_rate_of_one_percent() -> None:
    found = membership_inference(np.arange(50) + 0.0, np.arange(99) + 5.0, np.arange(50) + 1.0, np.arange(99) + 1.0)
    assert found["calibrated"]["auc"] == 1
    assert found["calibrated"]["tpr_at_1_percent_fpr"] is None


def test_a_patient_counts_once() -> None:
    assert by_unit(["b", "a", "b"], np.array([1.0, 5.0, 3.0])).tolist() == [2.0, 5.0]


@pytest.mark.parametrize(
    ("inside", "told"),
    [([1.0], "1 members"), ([1.0, float("nan")], "not a finite number"), ([3.0, 3.0], "All scores are equal")],
)
def test_unusable_scores_are_refused(inside: list[float], told: str) -> None:
    with pytest.raises(EvaluationError, match=told):
        auc_with_interval(np.array(inside), np.array([3.0, 3.0]))


def test_calibration_needs_canaries_without_a_coin() -> None:
    with pytest.raises(
        EvaluationError, match="Calibration needs 10 canaries or more that are never trained; received 0"
    ):
        canary_leakage(make_canaries(300, 0, words=WORDS, seed=0), np.ones(300), np.ones(300))


def test_canaries_and_losses_belong_together() -> None:
    with pytest.raises(EvaluationError, match="2 losses were given for 20 canaries"):
        canary_leakage(make_canaries(10, 10, words=WORDS, seed=0), np.ones(2))
