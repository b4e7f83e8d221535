import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from helpers.config import load_config
from helpers.errors import PrivacyError
from helpers.files import read_json
from helpers.privacy import ghosts
from helpers.privacy.accounting import Cost, best_accuracy, spent
from helpers.privacy.ghosts import GHOSTS, log_likelihood_ratio
from helpers.privacy.release import privacy_report, release, report_page, verify
from helpers.privacy.training import Recipe

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
def plan() -> Cost:
    return replace(spent(NOISE, RATE, STEPS, 1e-5), validation_noise=2.5, scores=4)


def trained(noise: float = NOISE, steps: int = STEPS) -> Any:
    """A training as far as its release looks at it; what came out at the ghosts' numbers is made up."""
    random = np.random.default_rng(0)
    included = random.random(GHOSTS) < 0.5
    seen = random.normal(0, noise, (steps, GHOSTS)) + (random.random((steps, GHOSTS)) < RATE) * included
    scores = log_likelihood_ratio(seen, NOISE, RATE).sum(axis=0)
    watched = {"included": included, "scores": scores, "sums": seen.sum(axis=0)}
    tensors = {name: torch.from_numpy(values) for name, values in watched.items()}
    log = [{"step": step, "heldout_loss": 1.0, "patients": 29.3} for step in (12, 25, 37, 50)]
    return SimpleNamespace(steps=steps, ghosts=tensors, log=log)


@pytest.fixture(scope="module")
def honest() -> Any:
    return trained()


def test_an_honest_training_passes(honest: Any, plan: Cost) -> None:
    found = verify(honest, plan)
    assert found["p_value"] > 1e-3 and found["guessed"] == GHOSTS // 2
    assert found["right"] == pytest.approx(found["allowed"], abs=150)
    assert set(found["caught"]) == {0.5, 0.8, 0.9}


def tell(training: Any) -> None:
    training.ghosts = training.ghosts | {"scores": training.ghosts["included"].double()}


def repeat(training: Any) -> None:
    training.ghosts = training.ghosts | {"sums": 2 * training.ghosts["sums"]}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: setattr(t, "steps", 49), "49 steps were taken, planned were 50"),
        (lambda t: setattr(t, "steps", 51), "51 steps were taken, planned were 50"),
        (lambda t: setattr(t, "steps", 0), "0 steps were taken"),
        (lambda t: t.log.append({}), "5 losses were measured, planned were 4"),
        (repeat, "the noise does not spread as independent noise does"),
        (tell, "an attacker guessed right for 2000 of 2000 made-up patients"),
    ],
)
def test_any_disagreement_stops_the_release(honest: Any, plan: Cost, change: Any, told: str) -> None:
    changed = copy.copy(honest)
    changed.log = list(honest.log)
    change(changed)
    with pytest.raises(PrivacyError, match="nothing is released") as caught:
        verify(changed, plan)
    assert told in str(caught.value)


@pytest.mark.parametrize("broken", [{"noise": NOISE / 2}, {"noise": 0.7 * NOISE}])
def test_too_little_noise_stops_the_release(plan: Cost, broken: dict[str, Any]) -> None:
    with pytest.raises(PrivacyError, match=r"an attacker guessed right for .* \(p = .*e-"):
        verify(trained(**broken), plan)


def test_fewer_measurements_than_planned_are_no_fault(honest: Any, plan: Cost) -> None:
    few = copy.copy(honest)
    few.log = []
    verify(few, plan)


def test_all_faults_are_named_at_once(honest: Any, plan: Cost) -> None:
    worst = copy.copy(honest)
    worst.steps, worst.log = 60, [{}] * 9
    tell(worst)
    with pytest.raises(PrivacyError) as caught:
        verify(worst, plan)
    assert all(fault in str(caught.value) for fault in ("60 steps", "9 losses", "an attacker guessed right"))


def test_a_training_without_noise_or_without_ghosts_is_never_released(plan: Cost) -> None:
    with pytest.raises(PrivacyError, match=r"noise_multiplier is 0\.0"):
        replace(plan, noise_multiplier=0.0)
    with pytest.raises(PrivacyError, match="was not audited"):
        verify(SimpleNamespace(steps=STEPS, ghosts={}, log=[]), plan)


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
def audit(honest: Any, plan: Cost) -> dict[str, Any]:
    return json.loads(json.dumps(verify(honest, plan)))  # as it comes back from training.json


@pytest.fixture
def report(audit: dict[str, Any], plan: Cost) -> Any:
    def make(fictitious: bool, unit: str = "patient", measured: bool = True) -> dict[str, Any]:
        seen = plan if measured else replace(plan, validation_noise=None, scores=0)
        settings = load_config("smoke").privacy.model_copy(update={"patients_expected": DECLARED})
        return privacy_report(
            Recipe("m", "all-linear", settings, seen, 0, None),
            SimpleNamespace(unit=unit, cap=4, fictitious=fictitious),  # type: ignore[arg-type]
            audit=audit,
            spend_id="abc",
            ledger_heads={"hospital": HEAD},
            masking_measured=measured,
            adapter_sha256="a1b2",
        )

    return make


def test_the_report_says_what_is_and_is_not_covered(report: Any, plan: Cost) -> None:
    told = report(fictitious=True)
    assert (told["unit"], told["epsilon"], told["delta"]) == ("patient", plan.epsilon, 1e-5)
    touched = {row[0] for row in told["touched"]}
    assert touched >= {"Rosters", "Wordings, cap and splits", "Test set", "Counts of the join"}
    assert all(len(row) == 3 and "{" not in "".join(row) for row in told["touched"])
    assert any("many patients" in line for line in told["not_covered"])
    for fictitious, attacked in ((True, True), (False, False)):
        rows = {row[0] for row in report(fictitious)["touched"]}
        assert ("Audit by attacks" in rows) is attacked
        assert ("Loss on validation patients" in rows) is True
    unmeasured = {row[0] for row in report(False, measured=False)["touched"]}
    assert "Loss on validation patients" not in unmeasured and "De-identification" in unmeasured - touched
    (noised,) = [row for row in told["touched"] if row[0] == "Loss on validation patients"]
    assert (
        "4 measurements" in noised[1] and "(noise standard deviation: 2.5 times what one patient can add)" in noised[1]
    )


def test_the_report_tells_the_declared_number_and_not_the_true_one(report: Any, honest: Any) -> None:
    for fictitious in (True, False):
        told = report(fictitious)
        assert told["units_declared"] == DECLARED
        for text in (json.dumps(told), report_page(told)):
            assert not any(str(row["patients"]) in text for row in honest.log)


def test_where_records_belong_to_nobody_no_patient_is_promised_anything(report: Any) -> None:
    told = report(fictitious=False, unit="record")
    assert told["unit"] == "record" and "patient" not in report_page(told)


@pytest.mark.parametrize("fictitious", [True, False])
def test_the_page_holds_the_figures_and_fetches_nothing(report: Any, plan: Cost, fictitious: bool) -> None:
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


def test_model_and_report_appear_together(tmp_path: Path, report: Any, plan: Cost) -> None:
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
