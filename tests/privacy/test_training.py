"""Private steps: what they move, count and leave out."""

import pytest
import torch
from small_trainings import Train, adapter, equal, patients

from helpers.errors import PrivacyError
from helpers.privacy import mechanism
from helpers.privacy.accounting import spent
from helpers.privacy.ghosts import GHOSTS
from helpers.privacy.patient_gradients import PatientGradients
from helpers.privacy.release import verify
from helpers.privacy.secure_random import SecureGenerator
from helpers.privacy.units import Unit


@pytest.mark.parametrize("quantisation", ["none", "nf4"])
def test_every_adapter_tensor_moves_and_no_other(train: Train, quantisation: str) -> None:
    trained = train(quantisation=quantisation)
    start = train(quantisation=quantisation, learning_rate=0.0)
    before, after = dict(start.model.named_parameters()), dict(trained.model.named_parameters())
    for name, weight in after.items():
        assert torch.equal(weight, before[name]) is not weight.requires_grad, name
    assert sum(weight.requires_grad for weight in after.values()) == 28


def test_what_was_done_is_counted(train: Train) -> None:
    trained = train(steps=6, sample_rate=0.3)
    assert trained.steps == 6 and trained.tokens > 0 and trained.log == []  # no loss was looked at
    assert {values.shape for values in trained.ghosts.values()} == {(GHOSTS,)}
    assert trained.ghosts["scores"].isfinite().all() and trained.ghosts["scores"].unique().numel() > GHOSTS / 2


def test_an_empty_batch_is_a_step_with_noise(train: Train) -> None:
    trained = train(sample_rate=1e-9)
    assert (trained.steps, trained.tokens) == (4, 0)
    start = adapter(train(sample_rate=1e-9, learning_rate=0.0))
    assert all(((weight - start[name]).abs() > 1e-5).float().mean() > 0.99 for name, weight in adapter(trained).items())


@pytest.mark.usefixtures("same_numbers")
def test_how_many_rows_are_computed_at_once_changes_no_bit(train: Train) -> None:
    one, four, hundred = (train(physical_rows=rows) for rows in (1, 4, 100))
    assert equal(one, four) and equal(one, hundred)
    assert torch.equal(one.ghosts["scores"], hundred.ghosts["scores"])
    assert one.tokens == four.tokens == hundred.tokens > 0
    assert not equal(one, train(seed=1))


@pytest.mark.usefixtures("same_numbers")
def test_gradient_checkpointing_changes_memory_and_not_the_result(train: Train) -> None:
    assert equal(*(train(gradient_checkpointing=on) for on in (False, True)))


def test_two_private_trainings_share_neither_inclusion_bits_nor_noise(train: Train) -> None:
    one, other = train(), train()
    assert not equal(one, other) and not torch.equal(one.ghosts["included"], other.ghosts["included"])


@pytest.mark.usefixtures("same_numbers")
def test_a_gradient_that_is_not_a_number_is_left_out(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    real = PatientGradients.gradients

    def as_if(value: float) -> None:
        def gradients(patients: PatientGradients, units: list[Unit]) -> torch.Tensor:
            found = real(patients, units)
            for place, unit in enumerate(units):
                if unit.name == "u3":
                    found[place] = value
            return found

        monkeypatch.setattr(PatientGradients, "gradients", gradients)

    plain = train(sample_rate=0.8)
    as_if(0.0)
    without = train(sample_rate=0.8)
    as_if(float("nan"))
    assert equal(train(sample_rate=0.8), without) and not equal(without, plain)


def test_a_training_with_half_the_noise_is_not_released(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    claimed = spent(1.0, 0.25, 12, 1e-3)
    settings = {"noise_multiplier": 1.0, "steps": 12, "records": patients(4, 1), "checkpoints": 1}
    assert verify(train(**settings), claimed)["p_value"] >= 1e-6
    real = mechanism.noisy_sum

    def half(clipped: torch.Tensor, *, noise_std: float, generator: SecureGenerator) -> torch.Tensor:
        return real(clipped, noise_std=noise_std / 2, generator=generator)

    monkeypatch.setattr(mechanism, "noisy_sum", half)
    quiet = train(**settings)
    with pytest.raises(PrivacyError, match=r"an attacker guessed right for .* made-up patients"):
        verify(quiet, claimed)
