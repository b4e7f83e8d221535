import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.dataset.join_card import TOUCHED
from helpers.errors import PrivacyError
from helpers.files import read_json
from helpers.privacy.private import Evidence
from helpers.privacy.release import _tail_of_spread, privacy_report, release, report_page, verify

PLAN: dict[str, Any] = {
    "units": 100, "steps": 50, "sample_rate": 0.2, "noise_multiplier": 0.8, "max_grad_norm": 0.5,
    "sizes": [10_000] * 10, "epsilon": 20.0, "delta": 1e-5,
}  # fmt: skip


def honest() -> Evidence:
    chooser = random.Random(0)
    times = {f"u{n}": 0 for n in range(100)}
    drawn = []
    for _ in range(50):
        patients = [unit for unit in times if chooser.random() < 0.2]
        drawn.append(len(patients))
        for unit in patients:
            times[unit] += 1
    noise = [0.4 * (1 + chooser.gauss(0, 1) / (2 * 100_000) ** 0.5) for _ in range(50)]
    prints = [f"{step:064x}" for step in range(50)]
    worst = [chooser.gauss(0, 1) for _ in range(50)]
    return Evidence(100, [0.2] * 50, drawn, noise, worst, prints, [(0.8, 0.2)] * 50, 0, times)


def test_an_honest_training_passes() -> None:
    verify(honest(), **PLAN)


def too_many(evidence: Evidence) -> None:
    evidence.drawn = [40] * 50  # twice as many as the rate allows
    evidence.times_drawn = {f"u{n}": 20 for n in range(100)}


def shuffled(evidence: Evidence) -> None:
    evidence.drawn = [20] * 50  # the right number, always the same
    evidence.times_drawn = {f"u{n}": 10 for n in range(100)}


def a_little_quieter(evidence: Evidence) -> None:
    evidence.noise_stds = [0.996 * std for std in evidence.noise_stds]  # no single step tells


def favourite(evidence: Evidence) -> None:
    evidence.times_drawn["u0"] += evidence.times_drawn["u1"] + evidence.times_drawn["u2"] + evidence.times_drawn["u3"]
    evidence.times_drawn |= {"u1": 0, "u2": 0, "u3": 0}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda e: e.noise_stds.pop(), "count"),
        (lambda e: e.drawn.append(20), "count"),
        (lambda e: e.accounted.__setitem__(3, (8.0, 0.2)), "the accountant was told another noise"),
        (lambda e: e.sample_rates.__setitem__(0, 0.3), "sampling rates"),
        (lambda e: setattr(e, "units", 99), "99 units"),
        (lambda e: e.noise_stds.__setitem__(7, 0.0), "in 1 steps the noise had a deviation of 0 instead of 0.4"),
        (lambda e: e.noise_stds.__setitem__(7, 0.39), "instead of 0.4"),
        (lambda e: e.noise_stds.__setitem__(7, float("nan")), "deviation of nan"),
        (a_little_quieter, "over all steps the noise had a deviation of 0.39"),
        (lambda e: e.noise_worst.pop(), "count"),
        (lambda e: e.noise_worst.__setitem__(7, 9.0), "a tensor had other noise than the rest"),
        (lambda e: e.noise_worst.__setitem__(7, float("inf")), "a tensor had other noise than the rest"),
        (lambda e: e.noise_worst.__setitem__(7, float("nan")), "a tensor had other noise than the rest"),
        (lambda e: e.noise_prints.pop(), "count"),
        (lambda e: e.noise_prints.__setitem__(7, e.noise_prints[8]), "same noise was used twice"),
        (lambda e: e.times_drawn.__setitem__("u0", 999), "do not add up"),
        (too_many, "the sizes of batches do not look like Poisson sampling"),
        (shuffled, "the sizes of batches spread otherwise"),
        (favourite, "how often units were drawn spread otherwise"),
    ],
)
def test_any_disagreement_stops_the_release(change: Any, told: str) -> None:
    evidence = copy.deepcopy(honest())
    change(evidence)
    with pytest.raises(PrivacyError, match="nothing is released") as caught:
        verify(evidence, **PLAN)
    assert told in str(caught.value)


@pytest.mark.parametrize(("units", "steps", "rate"), [(1043, 60, 0.086), (30, 4, 0.5), (5000, 3, 0.001)])
def test_coins_pass_and_lists_do_not(units: int, steps: int, rate: float) -> None:
    chooser = np.random.default_rng(0)
    tails = [_tail_of_spread(chooser.binomial(steps, rate, units), steps, rate) for _ in range(50)]
    assert min(tails) > 1e-3 and 0.1 < sum(tails) / len(tails) < 0.75  # of two tails the smaller
    expected = max(1, round(units * rate))
    assert _tail_of_spread(np.full(60, expected), units, rate) < 1e-9  # the same number in every step


def test_a_rate_of_one_draws_everybody_always() -> None:
    everybody = Evidence(
        3,
        [1.0] * 4,
        [3] * 4,
        [0.4] * 4,
        [0.0] * 4,
        list("abcd"),
        [(0.8, 1.0)] * 4,
        0,
        dict.fromkeys(("a", "b", "c"), 4),
    )
    plan = PLAN | {"units": 3, "steps": 4, "sample_rate": 1.0}
    verify(everybody, **plan)
    everybody.drawn[0] -= 1
    everybody.times_drawn["a"] -= 1
    with pytest.raises(PrivacyError, match="sizes of batches are not all 3"):
        verify(everybody, **plan)


def test_two_noises_of_the_same_deviation_are_two_noises() -> None:
    evidence = honest()
    evidence.noise_stds[7] = evidence.noise_stds[8]  # over millions of numbers they often agree to all digits of fp32
    verify(evidence, **PLAN)


def test_steps_that_cost_more_than_was_reserved_stop_the_release() -> None:
    with pytest.raises(PrivacyError, match="cost more than the ε = 3 reserved"):
        verify(honest(), **{**PLAN, "epsilon": 3.0})


def test_no_noise_is_never_released() -> None:
    evidence = honest()
    evidence.accounted, evidence.noise_stds = [(0.0, 0.2)] * 50, [0.0] * 50
    with pytest.raises(PrivacyError, match="cost more than"):
        verify(evidence, **{**PLAN, "noise_multiplier": 0.0})


def test_a_training_without_any_record_of_itself_is_refused() -> None:
    with pytest.raises(PrivacyError, match="count"):
        verify(Evidence(units=100), **PLAN)


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


def made_report(fictitious: bool, unit: str = "patient") -> dict[str, Any]:
    return privacy_report(
        epsilon=7.98, delta=1e-5, accountants={"PRV (Opacus)": 7.98, "PLD (dp-accounting)": 7.97},
        unit=unit, units=100, steps=50, sample_rate=0.2, noise_multiplier=0.8, max_grad_norm=0.5, cap=4,
        not_finite=3, spend_id="abc", ledger_heads={"hospital": HEAD},
        fictitious=fictitious, joined=[place.format(unit=unit) for place in TOUCHED], adapter_sha256="a1b2",
        carried=1.5e-6,
    )  # fmt: skip


def test_the_report_says_what_is_and_is_not_covered() -> None:
    report = made_report(fictitious=True)
    assert (report["unit"], report["epsilon"], report["delta"]) == ("patient", 7.98, 1e-5)
    assert {row[0] for row in report["touched"]} >= {place.split(":")[0] for place in TOUCHED}
    assert report["gradients_left_out_as_not_finite"] == 3
    assert "gradients_left_out_as_not_finite" not in made_report(fictitious=False)
    assert any("many patients" in line for line in report["not_covered"])
    measured = "Held-out loss while training"
    assert measured in {row[0] for row in report["touched"]}
    assert measured not in {row[0] for row in made_report(fictitious=False)["touched"]}


def test_where_records_belong_to_nobody_no_patient_is_promised_anything() -> None:
    report = made_report(fictitious=False, unit="record")
    assert report["unit"] == "record" and report["units"] == 100
    assert "patient" not in report_page(report)


@pytest.mark.parametrize("fictitious", [True, False])
def test_the_page_holds_the_figures_and_fetches_nothing(fictitious: bool) -> None:
    page = report_page(made_report(fictitious))
    assert ("No attack was tried" in page) is not fictitious
    assert "ε = 7.98" in page and "2,922" in page and "hospital" in page
    for total in ("all 3 trainings", "<b>ε = 13.62</b>", "add up to 23.94", "ε = 20.00 granted", "key <code>c0ffee"):
        assert total in page
    assert ("fictitious" in page) is fictitious
    assert "http" not in page.replace("arXiv", "")


def test_model_and_report_appear_together(tmp_path: Path) -> None:
    part, target = tmp_path / ".private.part", tmp_path / "private"
    part.mkdir()
    (part / "adapter_model.safetensors").write_bytes(b"weights")
    target.mkdir()
    (target / "old").touch()
    release(part, target, made_report(fictitious=True))
    assert not part.exists() and not (target / "old").exists()
    assert read_json(target / "privacy_report.json")["epsilon"] == 7.98
    assert (target / "adapter_model.safetensors").exists() and (target / "privacy_report.html").exists()
