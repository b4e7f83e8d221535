"""Patients' gradients and losses are those of plain PEFT, Opacus and a loop over records."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from small_gradients import UNITS, adapted, error, one_by_one
from small_models import SHAPE, save_small
from torch.nn.functional import cross_entropy

from helpers.privacy import layout, patient_gradients
from helpers.privacy.layout import ATTENTION, PARTS
from helpers.privacy.mechanism import PrivateOptimizer, hand_out
from helpers.privacy.patient_gradients import PatientGradients
from helpers.privacy.secure_random import SecureGenerator
from helpers.privacy.units import Unit


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("quantisation", ["none", "nf4"])
def test_gradients_and_losses_equal_a_loop_over_records(small: str, quantisation: str, checkpointing: bool) -> None:
    model = adapted(small, quantisation=quantisation, checkpointing=checkpointing)
    losses, wanted = one_by_one(model, UNITS)
    patients = PatientGradients(model, torch.float32)
    found = patients.gradients(UNITS).clone()
    assert error(found, wanted) < 1e-5
    assert torch.allclose(patients.losses(UNITS), losses, rtol=1e-5)
    for part in (UNITS[1:2], UNITS[::-1], UNITS * 3):  # a patient's own gradient stays what it was
        places = [UNITS.index(unit) for unit in part]
        assert torch.equal(patients.gradients(part), found[places])
    hand_out(found[0], patients.weights)  # which would refuse other shapes
    assert torch.equal(torch.cat([weight.grad.flatten() for weight in patients.weights]), found[0])


def test_gradients_of_the_course_s_own_model_equal_a_loop(tiny: str) -> None:
    model = adapted(tiny)
    losses, wanted = one_by_one(model, UNITS[:2])
    patients = PatientGradients(model, torch.float32)
    assert error(patients.gradients(UNITS[:2]), wanted) < 1e-5
    assert torch.allclose(patients.losses(UNITS[:2]), losses, rtol=1e-5)


@pytest.mark.parametrize("kind", ["GPT2", "Qwen2", "Gemma", "rsLoRA"])
def test_other_architectures_equal_a_loop_too(tmp_path: Path, kind: str) -> None:
    shape = {name: value for name, value in SHAPE.items() if name != "initializer_range"}
    config = {
        "GPT2": transformers.GPT2Config(
            vocab_size=128, n_embd=64, n_layer=2, n_head=4, n_positions=64, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0
        ),
        "Qwen2": transformers.Qwen2Config(**shape),  # its projections have a bias
        "Gemma": transformers.GemmaConfig(**shape, head_dim=16),
        "rsLoRA": transformers.LlamaConfig(**SHAPE),
    }[kind]
    save_small(tmp_path, config)
    model = adapted(str(tmp_path), use_rslora=kind == "rsLoRA", lora_alpha=16)
    losses, wanted = one_by_one(model, UNITS)
    patients = PatientGradients(model, torch.float32)
    assert error(patients.gradients(UNITS), wanted) < 2e-5
    assert torch.allclose(patients.losses(UNITS), losses, rtol=1e-5)


@pytest.mark.parametrize("quantisation", ["none", "nf4"])
def test_bf16_gradients_are_within_a_few_percent(small: str, quantisation: str) -> None:
    _, exact = one_by_one(adapted(small, quantisation=quantisation), UNITS)
    patients = PatientGradients(adapted(small, torch.bfloat16, quantisation), torch.bfloat16)
    found = patients.gradients(UNITS)
    assert found.dtype is torch.float32
    assert error(found, exact) < 5e-2  # as far off as PEFT under autocast


def test_more_tokens_than_a_block_and_more_records_than_a_group(small: str) -> None:
    model = adapted(small)
    random = torch.Generator().manual_seed(0)
    crowd = []
    for number in range(40):
        lengths = torch.randint(2, 60, (int(torch.randint(1, 4, (), generator=random)),), generator=random).tolist()
        rows = tuple(tuple(torch.randint(3, 128, (length,), generator=random).tolist()) for length in lengths)
        crowd.append(Unit(str(number), rows))
    losses, wanted = one_by_one(model, crowd)
    patients = PatientGradients(model, torch.float32)
    assert error(patients.gradients(crowd), wanted) < 2e-5
    assert torch.allclose(patients.losses(crowd), losses, rtol=1e-5)


def hooked(model: Any, records: list[tuple[int, ...]]) -> Any:
    """A copy whose weights hold Opacus' `grad_sample` of each record."""
    twin = copy.deepcopy(model)
    GradSampleModule(twin, loss_reduction="sum")  # puts its hooks on the layers
    longest = max(map(len, records))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in records])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in records])
    labels = ids.masked_fill(mask == 0, -100)[:, 1:]
    logits = twin(input_ids=ids, attention_mask=mask).logits[:, :-1]
    nats = cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    (nats.sum(dim=1) / (labels != -100).sum(dim=1)).sum().backward()
    return twin


def test_gradients_and_clipped_sums_equal_those_of_opacus(small: str) -> None:
    model = adapted(small)
    records = [row for unit in UNITS for row in unit.rows]
    units = [Unit(str(number), (row,)) for number, row in enumerate(records)]
    patients = PatientGradients(model, torch.float32)
    found = patients.gradients(units)
    theirs = [weight for weight in hooked(model, records).parameters() if weight.requires_grad]
    wanted = torch.cat([weight.grad_sample.flatten(1) for weight in theirs], dim=1)
    assert error(found, wanted) < 1e-5

    norm = float(wanted.norm(dim=1).median())  # some are clipped, some are not
    opacus = DPOptimizer(
        torch.optim.SGD(theirs, lr=1.0), noise_multiplier=0.767, max_grad_norm=norm, expected_batch_size=4
    )
    opacus.clip_and_accumulate()
    summed = torch.cat([weight.summed_grad.flatten() for weight in theirs])
    own = PrivateOptimizer(
        torch.optim.SGD(patients.weights, lr=1.0),
        noise_multiplier=0.767,
        max_grad_norm=norm,
        expected_batch=4.0,
        generator=SecureGenerator(),
    )
    own.add(found, torch.arange(len(units)))
    assert float((own.sum - summed).norm() / summed.norm()) < 1e-3


def test_the_model_is_as_before_afterwards(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(small)
    patients, ids = PatientGradients(model, torch.float32), torch.tensor([[1, 5, 6, 7]])
    before, attention = model(ids).logits, model.config._attn_implementation

    def untouched() -> bool:
        return (
            torch.equal(model(ids).logits, before)
            and model.config._attn_implementation == attention != ATTENTION
            and not any("forward" in vars(module) for module in model.modules())
            and not PARTS
            and all(weight.grad is None for weight in model.parameters())
        )

    patients.gradients(UNITS)
    assert untouched()
    patients.losses(UNITS)
    assert untouched()

    def fails(*_: Any, **__: Any) -> torch.Tensor:
        raise KeyboardInterrupt

    for name in ("cross_entropy", "attend_record_by_record"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(patient_gradients if name == "cross_entropy" else layout, name, fails)
            patch.setitem(transformers.AttentionInterface._global_mapping, ATTENTION, fails)
            patients.gradients(UNITS)
        assert untouched()
    assert error(patients.gradients(UNITS), one_by_one(model, UNITS)[1]) < 1e-5


def test_an_empty_batch_has_no_gradients(small: str) -> None:
    patients = PatientGradients(adapted(small), torch.float32)
    assert patients.gradients([]).shape == (0, patients.numbers)
    assert patients.gradients(UNITS).shape == (len(UNITS), patients.numbers)
    assert patients.gradients([]).shape == (0, patients.numbers)
