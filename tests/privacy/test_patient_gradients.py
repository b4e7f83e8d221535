import copy
import random
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from opacus import GradSampleModule
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch import nn

from helpers import precision
from helpers.errors import PrivacyError
from helpers.models import load_base
from helpers.privacy.row_adapters import adapter_layers, own_copies
from helpers.privacy.secure_random import SecureGenerator
from helpers.privacy.unit_optimizer import ROOM, UnitOptimizer
from helpers.privacy.units import Unit, micro_batches, unit_losses, unit_of_row

PAD = 2
NORM = 2.0
UNITS = [
    Unit("a", ((1, 40, 41, 42, 43, 2), (1, 50, 2)), (4, 1)),  # of the first record only the end is learnt
    Unit("b", ((1, 60, 61, 2),)),
    Unit("c", ((1, 70, 71, 72, 73, 74, 75, 76, 77, 2), (1, 80, 81, 2), (1, 90, 91, 92, 2), (1, 80, 81, 2))),
]
Make = Callable[..., Any]


@pytest.fixture
def adapted(tiny: str, monkeypatch: pytest.MonkeyPatch) -> Make:
    def make(quantisation: str = "none", *, bf16: bool = False, checkpointing: bool = False) -> Any:
        monkeypatch.setattr(precision, "cpu_multiplies_bf16", lambda: bf16)
        base = load_base("tiny-random", quantisation=quantisation)
        base.set_attn_implementation("eager")
        torch.manual_seed(0)
        model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")).train()
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": True})
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()
                if "lora_B" in name:  # at zero it would hide A's gradient
                    nn.init.normal_(weight, std=0.05)
        return model

    return make


def losses(model: Any, units: list[Unit], dtype: torch.dtype) -> torch.Tensor:
    with (
        disable_input_dtype_casting(model, active=dtype is torch.bfloat16),
        torch.autocast("cpu", dtype=dtype) if dtype is torch.bfloat16 else nullcontext(),
    ):
        return unit_losses(model, units, pad_token=PAD)


def together(model: Any, units: list[Unit], dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Gradient of each unit, all of them in one pass."""
    layers, owners = adapter_layers(model), unit_of_row(units)
    with own_copies(layers, len(owners), dtype):
        losses(model, units, dtype).sum().backward()
    found = {}
    for name, layer in layers.items():
        rows = layer.weight.grad_sample.float()
        found[name] = torch.zeros(len(units), *rows.shape[1:]).index_add_(0, owners, rows)
    return found


def in_parts(model: Any, units: list[Unit], rows: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """The same in micro-batches, put back into the order of the units."""
    parts = list(micro_batches(units, rows))
    found = [together(model, part, dtype) for part in parts]
    order = sorted(range(len(units)), key=lambda n: [unit.name for part in parts for unit in part][n])
    return {name: torch.cat([part[name] for part in found])[order] for name in found[0]}


def clipped_sum(model: Any, units: list[Unit], rows: int = 100, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """What one step adds up before its noise, over all adapters; `(values,)`."""
    layers = adapter_layers(model)
    sgd = torch.optim.SGD([layer.weight for layer in layers.values()], lr=1.0)
    optimizer = UnitOptimizer(
        sgd, noise_multiplier=0.0, max_grad_norm=NORM, expected_batch_size=1.0, generator=SecureGenerator()
    )
    optimizer.zero_grad()
    for part in micro_batches(units, rows):
        with own_copies(layers, len(unit_of_row(part)), dtype):
            losses(model, part, dtype).sum().backward()
        optimizer.unit_of_row = unit_of_row(part)
        optimizer.clip_and_accumulate()
    return torch.cat([layer.weight.summed_grad.flatten() for layer in layers.values()])


def one_by_one(model: Any, units: list[Unit]) -> dict[str, torch.Tensor]:
    """The same by plain autograd and transformers' own loss, a record at a time."""
    layers = adapter_layers(model)
    found: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    for unit in units:
        model.zero_grad()
        for row, begin in zip(unit.rows, unit.begins or [1] * len(unit.rows), strict=True):
            ids = torch.tensor([row])
            labels = ids.clone()
            labels[:, :begin] = -100
            model(input_ids=ids, labels=labels).loss.backward()
        for name, layer in layers.items():
            found[name].append(layer.weight.grad.clone())
    return {name: torch.stack(gradients) for name, gradients in found.items()}


def error(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """Largest relative error of a unit's whole gradient."""
    one, other = (torch.cat([g.flatten(1) for g in gradients.values()], dim=1) for gradients in (found, wanted))
    assert (other.norm(dim=1) > 1e-4).all()
    return float(((one - other).norm(dim=1) / other.norm(dim=1)).max())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("quantisation", ["none", "nf4"])
def test_gradients_of_units_equal_a_loop(adapted: Make, quantisation: str, checkpointing: bool) -> None:
    model = adapted(quantisation, checkpointing=checkpointing)
    wanted = one_by_one(model, UNITS)
    assert error(together(model, UNITS), wanted) < 1e-5
    for rows in (1, 3, 4):  # patients by themselves, two together, and one part with padding
        assert error(in_parts(model, UNITS, rows), wanted) < 1e-5
    # Other neighbours mean other padding; a patient's own gradient stays what it was.
    for number, unit in enumerate(UNITS):
        alone = together(model, [unit, UNITS[2]])
        assert (
            error({n: g[:1] for n, g in alone.items()}, {n: g[number : number + 1] for n, g in wanted.items()}) < 1e-5
        )


@pytest.mark.parametrize("quantisation", ["none", "nf4"])
def test_a_patient_moves_the_sum_by_its_own_clipped_gradient_and_nothing_else(adapted: Make, quantisation: str) -> None:
    model = adapted(quantisation)
    alone = torch.cat([gradient.flatten(1) for gradient in one_by_one(model, UNITS).values()], dim=1)
    norms = alone.norm(dim=1)
    assert (norms > NORM).any() and (norms < NORM).any()  # some are clipped, some are not
    shares = alone * ((1 - ROOM) * NORM / norms).clamp(max=1).unsqueeze(1)
    everybody = clipped_sum(model, UNITS)
    for number in range(len(UNITS)):
        others = clipped_sum(model, UNITS[:number] + UNITS[number + 1 :])  # with other padding, in other parts
        share = everybody - others
        assert share.norm() <= NORM
        assert (share - shares[number]).norm() < 5e-5 * NORM
    for rows in (1, 3, 4):
        assert (clipped_sum(model, UNITS, rows) - everybody).norm() < 1e-5 * NORM


@pytest.mark.parametrize("quantisation", ["none", "nf4"])
def test_in_bf16_too_nobody_moves_the_sum_by_more_than_the_norm(adapted: Make, quantisation: str) -> None:
    model, chooser = adapted(quantisation, bf16=True), random.Random(0)
    crowd = [Unit(f"{n}", (tuple(chooser.choices(range(40, 900), k=chooser.randint(3, 60))),)) for n in range(100)]
    everybody = clipped_sum(model, crowd, 8, torch.bfloat16)
    for number in (0, 33, 99):  # the parts, and the padding of those who stay, are others without it
        share = everybody - clipped_sum(model, crowd[:number] + crowd[number + 1 :], 8, torch.bfloat16)
        assert share.norm() <= NORM
        assert (share - clipped_sum(model, [crowd[number]], 8, torch.bfloat16)).norm() < 1e-4 * NORM


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("quantisation", ["none", "nf4"])
def test_bf16_gradients_are_within_two_percent(adapted: Make, quantisation: str, checkpointing: bool) -> None:
    exact = one_by_one(adapted(quantisation), UNITS)
    model = adapted(quantisation, bf16=True, checkpointing=checkpointing)
    assert model.get_input_embeddings().weight.dtype is torch.bfloat16
    assert error(together(model, UNITS, torch.bfloat16), exact) < 2e-2
    for rows in (1, 3, 4):  # other neighbours and other padding
        assert error(in_parts(model, UNITS, rows, torch.bfloat16), exact) < 2e-2


def test_where_no_record_is_learnt_from_its_start_the_gradient_is_that_of_the_ends(adapted: Make) -> None:
    model = adapted().double()  # the gradient of a lone last token is a small difference: fp32 leaves 5 digits of it
    # PAD is no end here: its embedding is zero in this model, so that hardly a gradient would be left.
    rows_of = {unit.name: tuple((*row[:-1], 99) for row in unit.rows) for unit in UNITS}
    ends = [Unit(name, rows, tuple(len(row) - 1 for row in rows)) for name, rows in rows_of.items()]
    exact = one_by_one(model, ends)
    for rows in (1, 3, 100):  # how many logits are computed depends on who is there
        assert error(in_parts(model, ends, rows, torch.float64), exact) < 1e-6
    assert error(exact, one_by_one(model, [Unit(name, rows) for name, rows in rows_of.items()])) > 0.1


def test_gradients_equal_those_of_opacus_hooks(adapted: Make) -> None:
    model = adapted()
    rows = [Unit(str(number), (row,)) for number, row in enumerate(row for unit in UNITS for row in unit.rows)]
    found = together(model, rows)
    twin = copy.deepcopy(model)
    GradSampleModule(twin, loss_reduction="sum")  # puts its hooks on the layers
    losses(twin, rows, torch.float32).sum().backward()
    wanted = {name: layer.weight.grad_sample for name, layer in adapter_layers(twin).items()}
    assert error(found, wanted) < 1e-5


def test_the_model_is_as_before_afterwards(adapted: Make) -> None:
    model = adapted()
    ids = torch.tensor([[1, 5, 6, 7]])
    before = model(ids).logits
    together(model, UNITS)
    assert torch.equal(model(ids).logits, before)
    assert all(weight.grad is None for weight in model.parameters())


def test_an_empty_batch_leaves_empty_gradients(adapted: Make) -> None:
    layers = adapter_layers(adapted())
    with own_copies(layers, 0, torch.float32):
        pass
    assert all(layer.weight.grad_sample.shape == (0, *layer.weight.shape) for layer in layers.values())


def test_layers_that_cannot_be_clipped_are_refused(adapted: Make) -> None:
    model = adapted()
    next(module for name, module in model.named_modules() if name.endswith("norm")).weight.requires_grad_()
    with pytest.raises(PrivacyError, match="norm trains weight of a"):
        adapter_layers(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(PrivacyError, match="Nothing in the model is trainable"):
        adapter_layers(model)
    linear = nn.Linear(3, 3)
    with pytest.raises(PrivacyError, match="weight, bias"):
        adapter_layers(nn.Sequential(linear))


def test_rows_that_a_model_mixes_are_refused() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2, bias=False)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.linear(inputs.flatten(0, 1))

    model = Mixing()
    with pytest.raises(PrivacyError, match="rows are mixed"), own_copies(adapter_layers(model), 2, torch.float32):
        model(torch.ones(2, 4, 3)).sum().backward()


def test_a_layer_without_gradient_is_refused(adapted: Make) -> None:
    model = adapted()
    with pytest.raises(PrivacyError, match="No gradient reached"), own_copies(adapter_layers(model), 2, torch.float32):
        pass
