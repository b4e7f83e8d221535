"""No bit of a patient's gradient depends on the other patients in the batch; where one does, it is noticed."""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from small_gradients import FORMATS, UNITS, adapted
from small_models import SHAPE, save_small

from helpers.errors import PrivacyError
from helpers.privacy import layout, patient_gradients
from helpers.privacy.mechanism import hand_out
from helpers.privacy.patient_gradients import PatientGradients
from helpers.privacy.self_checks import check_batch_composition
from helpers.privacy.units import Unit


@pytest.mark.parametrize("compositions", [40, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("dtype", "quantisation"), FORMATS)
def test_nobody_else_changes_a_bit_of_a_patients_gradient(
    small: str, dtype: torch.dtype, quantisation: str, compositions: int
) -> None:
    patients = PatientGradients(adapted(small, dtype, quantisation), dtype)
    check_batch_composition(patients.gradients, longest=32, compositions=compositions)


@pytest.mark.parametrize(("dtype", "quantisation"), FORMATS)
def test_nor_with_the_vocabulary_of_a_real_model(tiny: str, dtype: torch.dtype, quantisation: str) -> None:
    check_batch_composition(PatientGradients(adapted(tiny, dtype, quantisation), dtype).gradients, longest=40)


@pytest.mark.parametrize(("dtype", "quantisation"), FORMATS)
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_nor_does_a_patient_whose_numbers_overflow(
    small: str, dtype: torch.dtype, quantisation: str, value: float
) -> None:
    model = adapted(small, dtype, quantisation)
    embeddings = model.get_input_embeddings()
    embeddings.weight.data[99] = value
    patients = PatientGradients(model, dtype)
    chooser = random.Random(0)

    def patient(length: int, *first: int) -> Unit:
        return Unit("any", ((*first, *chooser.choices(range(90), k=length - len(first))),))

    others = [patient(10), *(patient(chooser.randint(17, 32)) for _ in range(layout.GROUP - 1))]
    alone, losses = patients.gradients(others).clone(), patients.losses(others)
    places = range(len(others) + 1)
    for place, length in zip((*places, *places), itertools.cycle((3, 17, 31, 32))):  # with and without room behind it
        batch = [*others[:place], patient(length, 5, 99), *others[place:]]
        kept = [at for at in range(len(batch)) if at != place]
        found = patients.gradients(batch)
        assert torch.equal(found[kept], alone) and alone.isfinite().all()
        assert not found[place].isfinite().all()
        assert torch.equal(patients.losses(batch)[kept], losses)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "quantisation"), FORMATS)
def test_nor_in_200_batches_of_a_trained_real_model(dtype: torch.dtype, quantisation: str) -> None:
    patients = PatientGradients(adapted("smollm2-135m-instruct", dtype, quantisation, r=16), dtype)
    descent = torch.optim.AdamW(patients.weights, lr=1e-3)
    for _ in range(3):
        hand_out(patients.gradients(UNITS).mean(dim=0), patients.weights)
        descent.step()
    check_batch_composition(patients.gradients, longest=48, compositions=200)  # the example's longest record has 41


class ScaledByAll(PatientGradients):
    """The mean over the tokens of the batch, as trainers compute it."""

    def _nats(self, part: Any) -> torch.Tensor:
        return super()._nats(part) / len(part.targets)


class Mixing(PatientGradients):
    """One more value in each number, so small that no result would show it, but for the bits."""

    def _nats(self, part: Any) -> torch.Tensor:
        nats = super()._nats(part)
        return nats * (1 + nats.mean().detach() * 1e-6)


def changes(patients: PatientGradients, compositions: int) -> int:
    """In how many compositions the check found another gradient."""
    with pytest.raises(PrivacyError, match=rf"\d+ of {compositions}") as caught:
        check_batch_composition(patients.gradients, longest=40, compositions=compositions)
    return int(str(caught.value).partition(f" of {compositions}")[0].split()[-1])


def of_two_sizes(tokens: int) -> Iterator[slice]:
    """Products of 1 and of 16 tokens in turn: on some processors all sizes round alike, but a single token does not."""
    ends = [0, *itertools.accumulate(itertools.islice(itertools.cycle((1, 16)), tokens))]
    return (slice(first, min(last, tokens)) for first, last in itertools.pairwise(ends) if first < tokens)


def all_attend_to_all(units: Any, device: Any) -> Any:
    """A part whose records are taken for one."""
    part = LAY_OUT(units, device)
    tokens = part.ids.shape[1]
    part.padded, part.groups, part.unpadded = torch.arange(tokens), [(slice(0, tokens), tokens)], torch.arange(tokens)
    return part


LAY_OUT = patient_gradients.lay_out


@pytest.mark.parametrize("broken", [ScaledByAll, Mixing, "attention"])
def test_gradients_that_depend_on_others_are_noticed(small: str, broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if broken == "attention":
        monkeypatch.setattr(patient_gradients, "lay_out", all_attend_to_all)
        monkeypatch.setattr(layout, "GROUP", 1)
        broken = PatientGradients
    assert changes(broken(adapted(small), torch.float32), compositions=10) > 5


def test_products_of_other_shapes_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = {"hidden_size": 512, "intermediate_size": 1024}  # shorter sums round alike
    save_small(tmp_path, transformers.LlamaConfig(**SHAPE | wide))
    monkeypatch.setattr(patient_gradients, "blocks", of_two_sizes)
    for module in (layout, patient_gradients):
        monkeypatch.setattr(module, "BLOCK", 16)
    patients = PatientGradients(adapted(str(tmp_path)), torch.float32)
    assert changes(patients, compositions=15) > 3
