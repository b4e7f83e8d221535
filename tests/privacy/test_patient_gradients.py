import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from peft import LoraConfig, get_peft_model
from small_models import SHAPE, save_small
from torch import nn
from torch.nn.functional import cross_entropy

from helpers.errors import PrivacyError
from helpers.models import load_base
from helpers.privacy import layout, patient_gradients
from helpers.privacy.layout import ATTENTION, PARTS
from helpers.privacy.mechanism import PrivateOptimizer
from helpers.privacy.patient_gradients import PatientGradients
from helpers.privacy.secure_random import SecureGenerator
from helpers.privacy.self_checks import check_batch_composition
from helpers.privacy.units import Unit

UNITS = [
    Unit("a", ((1, 40, 41, 42, 43, 2), (1, 50, 2)), (4, 1)),  # of the first record only the end is learnt
    Unit("b", ((1, 60, 61, 2),)),
    Unit("c", ((1, 70, 71, 72, 73, 74, 75, 76, 77, 2), (1, 80, 81, 2), (1, 90, 91, 92, 2), (1, 80, 81, 2))),
    Unit("d", (tuple(range(3, 43)), (5, 6)), (17, 1)),
]
ADAPTER: dict[str, Any] = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def adapted(
    base: str,
    dtype: torch.dtype = torch.float32,
    quantisation: str = "none",
    *,
    checkpointing: bool = False,
    **changes: Any,
) -> Any:
    """A model with an adapter whose B is not zero: at zero it would hide A's gradient."""
    torch.manual_seed(0)
    model = get_peft_model(load_base(base, quantisation=quantisation, dtype=dtype), LoraConfig(**ADAPTER | changes))
    model.train()
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": True})
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
            if "lora_B" in name:
                nn.init.normal_(weight, std=0.05)
    return model


def record_loss(model: Any, row: tuple[int, ...], begin: int) -> torch.Tensor:
    """By plain transformers: the mean over the learnt tokens."""
    logits = model(input_ids=torch.tensor([row])).logits[0, begin - 1 : -1].float()
    return cross_entropy(logits, torch.tensor(row[begin:]))


def one_by_one(model: Any, units: list[Unit]) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses and gradients of patients by plain PEFT and autograd, a record at a time."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    losses, gradients = [], []
    for unit in units:
        model.zero_grad()
        own = [
            record_loss(model, *record) for record in zip(unit.rows, unit.begins or [1] * len(unit.rows), strict=True)
        ]
        sum(own).backward()
        losses.append(sum(own).item())
        gradients.append(torch.cat([weight.grad.flatten() for weight in weights]))
    model.zero_grad()
    return torch.tensor(losses), torch.stack(gradients)


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest relative error of a patient's whole gradient."""
    assert (wanted.norm(dim=1) > 1e-4).all()
    return float(((found - wanted).norm(dim=1) / wanted.norm(dim=1)).max())


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
    pieces = patients.by_weight(found[0])
    assert [piece.shape for piece in pieces] == [weight.shape for weight in patients.weights]
    assert torch.equal(torch.cat([piece.flatten() for piece in pieces]), found[0])


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


# ------------------------------------------------------------------------------------------- independence of others

FORMATS = [(dtype, quantisation) for dtype in (torch.float32, torch.bfloat16) for quantisation in ("none", "nf4")]


@pytest.mark.parametrize(("dtype", "quantisation"), FORMATS)
def test_nobody_else_changes_a_bit_of_a_patients_gradient(small: str, dtype: torch.dtype, quantisation: str) -> None:
    patients = PatientGradients(adapted(small, dtype, quantisation), dtype)
    check_batch_composition(patients.gradients, longest=32, compositions=200)


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
    for length in (3, 17, 31, 32):  # with and without room behind the record
        for place in range(len(others) + 1):
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
        mean = patients.gradients(UNITS).mean(dim=0)
        for weight, own in zip(patients.weights, patients.by_weight(mean), strict=True):
            weight.grad = own.clone()
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


def one_block(tokens: int) -> Iterator[slice]:
    return iter([slice(0, tokens)])


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
    monkeypatch.setattr(patient_gradients, "blocks", one_block)
    for module in (layout, patient_gradients):
        monkeypatch.setattr(module, "BLOCK", 16)
    patients = PatientGradients(adapted(str(tmp_path)), torch.float32)
    assert changes(patients, compositions=15) > 3


# ------------------------------------------------------------------------------------------ the model in between


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


# ------------------------------------------------------------------------------------------------------ refusals


def with_trained_norm(base: str) -> Any:
    model = adapted(base)
    next(module for name, module in model.named_modules() if name.endswith("norm")).weight.requires_grad_()
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda base: adapted(base, use_dora=True), "found 0 such layers"),
        (lambda base: adapted(base, target_modules=["embed_tokens"]), "found 0 such layers"),
        (lambda base: adapted(base, target_modules=["embed_tokens", "q_proj"]), "found 2 such layers and, besides"),
        (lambda base: adapted(base, modules_to_save=["lm_head"]), "found 14 such layers and, besides"),
        (lambda base: adapted(base, target_modules=["q_proj", "lm_head"]), "An adapter on the output layer"),
        (lambda base: load_base(base).requires_grad_(False), "found 0 such layers and, besides, nothing"),
        (with_trained_norm, "besides, .*norm"),
    ],
)
def test_what_cannot_be_kept_apart_is_refused(small: str, make: Callable[[str], Any], message: str) -> None:
    model = make(small)
    with pytest.raises(PrivacyError, match=message):
        PatientGradients(model, torch.float32)


@pytest.mark.parametrize("bias", ["lora_only", "all"])
def test_trained_biases_are_refused(tmp_path: Path, bias: str) -> None:
    save_small(tmp_path, transformers.Qwen2Config(**SHAPE))
    with pytest.raises(PrivacyError, match=r"found 14 such layers and, besides, .*bias"):
        PatientGradients(adapted(str(tmp_path), bias=bias), torch.float32)


def test_experts_are_refused(tmp_path: Path) -> None:
    config = transformers.MixtralConfig(**SHAPE, num_local_experts=2)
    save_small(tmp_path, config)
    with pytest.raises(PrivacyError, match=r"experts.*computed for the tokens of several patients together"):
        PatientGradients(adapted(str(tmp_path), target_modules=["q_proj"]), torch.float32)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (transformers.Gemma2Config(**SHAPE, head_dim=16, attn_logit_softcapping=5.0, sliding_window=64), "softcap"),
        (transformers.MistralConfig(**SHAPE, sliding_window=16), "sliding_window"),
    ],
)
def test_other_attention_is_refused(tmp_path: Path, config: Any, message: str) -> None:
    save_small(tmp_path, config)
    patients = PatientGradients(adapted(str(tmp_path)), torch.float32)
    with pytest.raises(PrivacyError, match=f"asks for {message}.*does not compute"):
        patients.gradients(UNITS)


def test_a_window_that_no_record_fills_is_no_window(tmp_path: Path) -> None:
    save_small(tmp_path, transformers.MistralConfig(**SHAPE, sliding_window=64))
    model = adapted(str(tmp_path))
    assert error(PatientGradients(model, torch.float32).gradients(UNITS), one_by_one(model, UNITS)[1]) < 1e-5


def test_a_matrix_without_gradient_is_refused(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patients = PatientGradients(adapted(small), torch.float32)
    real = patients._linear

    def detached(part: Any, module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        return (
            real(part, module, inputs).detach()
            if module is next(iter(patients.adapters))
            else real(part, module, inputs)
        )

    monkeypatch.setattr(patients, "_linear", detached)
    with pytest.raises(PrivacyError, match="No gradient reached 2 matrices"):
        patients.gradients(UNITS)
