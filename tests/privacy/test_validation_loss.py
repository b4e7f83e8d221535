"""The noised loss on validation patients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_trainings import BASELINE, Train, patients

from helpers.privacy import training
from helpers.privacy.secure_random import SecureGenerator
from helpers.privacy.training import LARGEST_LOSS, Training
from helpers.privacy.units import Unit


@pytest.fixture
def measuring(made: Callable[..., Training]) -> Callable[..., tuple[float, float]]:
    """Measure made-up losses once; returns what is published: mean loss and number."""

    def measure(losses: list[float] | torch.Tensor, noise: float | None = 1.0) -> tuple[float, float]:
        ready = private if noise else baseline
        ready.log = []
        values = iter(torch.as_tensor(losses, dtype=torch.float32))
        ready.patients.losses = lambda units: torch.stack([next(values) for _ in units])
        ready.measure([Unit(str(number), ((1, 2),)) for number in range(len(losses))], SecureGenerator())
        row = ready.log[-1]
        return row["heldout_loss"], row.get("patients", len(losses))

    private, baseline = made(validation_noise=1.0), made(**BASELINE)
    return measure


def test_a_noised_loss_is_close_to_the_mean_over_many_patients(measuring: Callable[..., tuple[float, float]]) -> None:
    losses = torch.rand(80, generator=torch.Generator().manual_seed(0)) * 6
    assert measuring(losses, None) == (pytest.approx(float(losses.mean()), rel=1e-5), 80)
    found = [measuring(losses, 1.0) for _ in range(30)]
    means, counts = (torch.tensor(each) for each in zip(*found, strict=True))
    assert float(means.mean()) == pytest.approx(float(losses.mean()), abs=0.15) and 0.01 < means.std() < 0.4
    assert float(counts.mean()) == pytest.approx(80, abs=1.5) and 0.7 < counts.std() < 2.5  # the number is noised too


def test_the_number_of_validation_patients_is_not_cut(measuring: Callable[..., tuple[float, float]]) -> None:
    mean, number = measuring([2.0] * 500, 1.0)
    assert number == pytest.approx(500, abs=10) and mean == pytest.approx(2.0, abs=0.2)


def test_a_validation_patient_moves_what_is_noised_by_at_most_1(
    measuring: Callable[..., tuple[float, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = []

    def seen(clipped: torch.Tensor, **_: Any) -> torch.Tensor:
        sums.append(clipped.clone())
        return clipped

    monkeypatch.setattr(training, "noisy_sum", seen)
    others = [1.0, 2.5, 7.9, 0.3]
    for loss in (0.0, 1e-3, 3.0, 8.0, 1e30, -5.0, float("nan"), float("inf"), -float("inf")):
        measuring(others)
        measuring([*others, loss])
        share = sums[-1] - sums[-2]
        assert share.norm() <= 1
        assert 2**0.5 * share[1] == pytest.approx(1, abs=1e-3)
        cut = min(8.0, max(0.0, loss)) if loss == loss else 8.0
        assert 2**0.5 * share[0] * LARGEST_LOSS == pytest.approx(cut, abs=1e-2)


@pytest.mark.parametrize(("scores", "steps"), [(2, [3, 5]), (3, [2, 4, 5]), (9, [1, 2, 3, 4, 5])])
def test_measurements_are_spread_over_the_run_and_end_with_it(train: Train, scores: int, steps: list[int]) -> None:
    trained = train(steps=5, scores=scores, validation=patients(3))
    assert [row["step"] for row in trained.log] == steps
    assert all(row["patients"] != round(row["patients"]) for row in trained.log)
