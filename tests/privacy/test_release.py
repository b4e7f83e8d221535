import copy
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from helpers.dataset.join_card import TOUCHED
from helpers.errors import PrivacyError
from helpers.files import read_json
from helpers.privacy import ghosts
from helpers.privacy.accounting import Plan, best_accuracy, spent
from helpers.privacy.ghosts import GHOSTS, log_likelihood_ratio
from helpers.privacy.release import privacy_report, release, report_page, verify
from helpers.privacy.training import Recipe, Trained

NOISE, RATE, STEPS = 0.8, 0.2, 50
DECLARED = 100


CLAIMS = cache(best_accuracy)


@pytest.fixture(scope="module", autouse=True)
def _claims_once() -> Iterator[None]:
    """Twenty audits of the same claim, with a rough forecast of what they would catch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ghosts, "best_accuracy", CLAIMS)
        patch.setattr(ghosts, "SIMULATED", 1000)
        yield


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(DECLARED, STEPS, RATE, NOISE, None, spent(NOISE, RATE, STEPS, 1e-5), validation_noise=2.5, scores=4)


def trained(noise: float = NOISE, steps: int = STEPS) -> Trained:
    """A training as far as its release looks at it; what came out at the ghosts' numbers is made up."""
    random = np.random.default_rng(0)
    included = random.random(GHOSTS) < 0.5
    seen = random.normal(0, noise, (steps, GHOSTS)) + (random.random((steps, GHOSTS)) < RATE) * included
    scores = log_likelihood_ratio(seen, NOISE, RATE).sum(axis=0)
    watched = {"included": torch.from_numpy(included), "scores": torch.from_numpy(scores)}
    drawn = {f"u{number}": 10 for number in range(137)}  # true number; never told
    return Trained(None, None, steps=steps, ghosts=watched, counts=[29.3, 31.2, 30.0, 28.8], times_drawn=drawn)


@pytest.fixture(scope="module")
def honest() -> Trained:
    return trained()


def test_an_honest_training_passes(honest: Trained, plan: Plan) -> None:
    found = verify(honest, plan)
    assert found["p_value"] > 1e-3 and found["guessed"] == GHOSTS // 2
    assert found["right"] == pytest.approx(found["allowed"], abs=150)
    assert set(found["caught"]) == {0.5, 0.8, 0.9}


def tell(training: Trained) -> None:
    training.ghosts = {"included": training.ghosts["included"], "scores": training.ghosts["included"].double()}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: setattr(t, "steps", 49), "49 steps were taken, planned were 50"),
        (lambda t: setattr(t, "steps", 51), "51 steps were taken, planned were 50; the steps cost"),
        (lambda t: setattr(t, "steps", 0), "0 steps were taken"),
        (lambda t: t.counts.append(30.1), "5 losses were measured, planned were 4"),
        (tell, "an attacker told 2000 of 2000 made-up patients in from out"),
    ],
)
def test_any_disagreement_stops_the_release(honest: Trained, plan: Plan, change: Any, told: str) -> None:
    changed = copy.copy(honest)
    changed.counts = list(honest.counts)
    change(changed)
    with pytest.raises(PrivacyError, match="nothing is released") as caught:
        verify(changed, plan)
    assert told in str(caught.value)


@pytest.mark.parametrize("broken", [{"noise": NOISE / 2}, {"noise": 0.7 * NOISE}])
def test_too_little_noise_stops_the_release(plan: Plan, broken: dict[str, Any]) -> None:
    with pytest.raises(PrivacyError, match=r"an attacker told .* \(p = .*e-"):
        verify(trained(**broken), plan)


def test_fewer_measurements_than_planned_are_no_fault(honest: Trained, plan: Plan) -> None:
    few = copy.copy(honest)
    few.counts = []
    verify(few, plan)


def test_steps_that_cost_more_than_was_reserved_stop_the_release(honest: Trained, plan: Plan) -> None:
    cheap = Plan(DECLARED, STEPS, RATE, NOISE, None, spent(2 * NOISE, RATE, STEPS, 1e-5))
    few = copy.copy(honest)
    few.counts = []
    with pytest.raises(PrivacyError, match=r"the steps cost ε = .*, more than the .* reserved"):
        verify(few, cheap)


def test_all_faults_are_named_at_once(honest: Trained, plan: Plan) -> None:
    worst = copy.copy(honest)
    worst.steps, worst.counts = 60, [1.0] * 9
    tell(worst)
    with pytest.raises(PrivacyError) as caught:
        verify(worst, plan)
    assert all(fault in str(caught.value) for fault in ("60 steps", "9 losses", "cost ε", "an attacker told"))


def test_a_training_without_noise_or_without_ghosts_is_never_released(honest: Trained, plan: Plan) -> None:
    silent = Plan(DECLARED, STEPS, RATE, 0.0, None, plan.spent)
    with pytest.raises(PrivacyError, match=r"noise_multiplier is 0\.0"):
        verify(honest, silent)
    with pytest.raises((KeyError, PrivacyError)):
        verify(Trained(None, None, steps=STEPS), plan)


HEAD = {
    "entries": 9,
    "hash": "f0",
    "public_key": "c0ffee",
    "granted_epsilon": 20.0,
    "granted_delta": 1e-6,
    "total_epsilon": 13.62,
    "sum_epsilon": 23.94,
    "trainings": 3,
}


@pytest.fixture(scope="module")
def audit(honest: Trained, plan: Plan) -> dict[str, Any]:
    return json.loads(json.dumps(verify(honest, plan)))  # as it comes back from training.json


@pytest.fixture
def report(audit: dict[str, Any], plan: Plan) -> Any:
    def make(fictitious: bool, unit: str = "patient", measured: bool = True) -> dict[str, Any]:
        recipe = Recipe(
            "m",
            "none",
            4,
            8.0,
            0.0,
            "all-linear",
            1e-3,
            STEPS,
            20.0,
            RATE,
            NOISE,
            0.5,
            2.5,
            4,
            64,
            0,
            8,
            False,
            4,
            None,
        )
        seen = plan if measured else Plan(DECLARED, STEPS, RATE, NOISE, None, plan.spent)
        return privacy_report(
            seen,
            recipe,
            SimpleNamespace(unit=unit, cap=4, fictitious=fictitious),  # type: ignore[arg-type]
            audit=audit,
            spend_id="abc",
            ledger_heads={"hospital": HEAD},
            joined=[place.format(unit=unit) for place in TOUCHED],
            adapter_sha256="a1b2",
        )

    return make


def test_the_report_says_what_is_and_is_not_covered(report: Any, plan: Plan) -> None:
    told = report(fictitious=True)
    assert (told["unit"], told["epsilon"], told["delta"]) == ("patient", plan.epsilon, 1e-5)
    touched = {row[0] for row in told["touched"]}
    assert touched >= {place.split(":")[0] for place in TOUCHED} and all(len(row) == 3 for row in told["touched"])
    assert any("many patients" in line for line in told["not_covered"])
    for fictitious, attacked in ((True, True), (False, False)):
        rows = {row[0] for row in report(fictitious)["touched"]}
        assert ("Audit by attacks" in rows) is attacked
        assert ("Loss on validation patients" in rows) is True
    assert "Loss on validation patients" not in {row[0] for row in report(False, measured=False)["touched"]}
    (noised,) = [row for row in told["touched"] if row[0] == "Loss on validation patients"]
    assert "4 measurements" in noised[1] and "(deviation: 2.5 patients)" in noised[1]


def test_the_report_tells_the_declared_number_and_not_the_true_one(report: Any, honest: Trained) -> None:
    for fictitious in (True, False):
        told = report(fictitious)
        assert told["units_declared"] == DECLARED
        for text in (json.dumps(told), report_page(told)):
            assert "137" not in text.replace("a1b2", "") and len(honest.times_drawn) == 137
            assert not any(str(count) in text for count in honest.counts)


def test_where_records_belong_to_nobody_no_patient_is_promised_anything(report: Any) -> None:
    told = report(fictitious=False, unit="record")
    assert told["unit"] == "record" and "patient" not in report_page(told)


@pytest.mark.parametrize("fictitious", [True, False])
def test_the_page_holds_the_figures_and_fetches_nothing(report: Any, plan: Plan, fictitious: bool) -> None:
    told = report(fictitious)
    for source in (told, json.loads(json.dumps(told))):
        page = report_page(source)
        assert ("No attack on the model was tried" in page) is not fictitious
        assert ("fictitious" in page.replace("not signed: fictitious records", "")) is fictitious
        audit = source["mechanism_audit"]
        for figure in (
            f"ε = {plan.epsilon:.2f}",
            f"{2.718281828459045**plan.epsilon:,.0f}",
            "declared are 100 patients",
            "all 3 trainings",
            "<b>ε = 13.62</b>",
            "add up to 23.94",
            "ε = 20.00 granted",
            "key <code>c0ffee",
            f"{100 * audit['right'] / audit['guessed']:.1f} %</b> of 2000",
            f"{100 * audit['allowed'] / audit['guessed']:.1f} %",
            "50 % of the claimed noise with",
        ):
            assert figure in page
        assert "http" not in page.replace("arXiv", "")


def test_model_and_report_appear_together(tmp_path: Path, report: Any, plan: Plan) -> None:
    part, target = tmp_path / ".private.part", tmp_path / "private"
    part.mkdir()
    (part / "adapter_model.safetensors").write_bytes(b"weights")
    target.mkdir()
    (target / "old").touch()
    release(part, target, report(fictitious=True))
    assert not part.exists() and not (target / "old").exists()
    assert read_json(target / "privacy_report.json")["epsilon"] == plan.epsilon
    assert (target / "adapter_model.safetensors").exists() and (target / "privacy_report.html").exists()


def test_the_baseline_is_released_without_a_report(tmp_path: Path) -> None:
    part = tmp_path / ".non_private.part"
    part.mkdir()
    release(part, tmp_path / "non_private", None)
    assert list((tmp_path / "non_private").iterdir()) == [] and not part.exists()
