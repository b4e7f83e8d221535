import math

import pytest
import torch
from scipy import stats
from torch import nn

from helpers.errors import PrivacyError
from helpers.privacy.optimizer_checks import check_noise
from helpers.privacy.secure_random import SecureGenerator
from helpers.privacy.unit_optimizer import UnitOptimizer
from helpers.privacy.units import draw

SHAPE = (30, 40)
NOISE = UnitOptimizer.noise_all


def optimizer(noise: float = 0.0, norm: float = 1.0, expected: float = 4.0) -> tuple[UnitOptimizer, nn.Parameter]:
    weight = nn.Parameter(torch.zeros(SHAPE))
    made = UnitOptimizer(
        torch.optim.SGD([weight], lr=1.0), noise_multiplier=noise, max_grad_norm=norm, expected_batch_size=expected,
        generator=SecureGenerator(),
    )  # fmt: skip
    return made, weight


def summed(
    rows: torch.Tensor, owners: list[int], norm: float = 1.0, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    made, weight = optimizer(norm=norm)
    weight.grad_sample, made.unit_of_row = rows.to(dtype), torch.tensor(owners, dtype=torch.long)
    made.clip_and_accumulate()
    assert weight.summed_grad.dtype is torch.float32
    return weight.summed_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-3, 0.03, 1.0, 1e4])
def test_no_patient_moves_the_sum_by_more_than_the_norm(scale: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rows, owners = torch.randn(9, *SHAPE) * scale, [0, 0, 1, 2, 2, 2, 3, 4, 4]
    whole = summed(rows, owners, norm=0.5, dtype=dtype)
    for left_out in range(5):
        kept = [number for number, owner in enumerate(owners) if owner != left_out]
        renamed = [owners[number] - (owners[number] > left_out) for number in kept]
        rest = summed(rows[kept], renamed, norm=0.5, dtype=dtype)
        own = [number for number, owner in enumerate(owners) if owner == left_out]
        share = summed(rows[own], [0] * len(own), norm=0.5, dtype=dtype)
        # Without one patient, the sum lacks that patient's clipped share and nothing else changes.
        assert torch.allclose(whole - rest, share, atol=1e-6)
        assert share.double().norm() <= 0.5
        assert share.double().norm() >= min(0.5 * 0.9899, 0.99 * float(rows[own].sum(0).norm()))


def test_a_patient_with_many_records_weighs_no_more_than_one_record() -> None:
    row = torch.ones(1, *SHAPE)
    many = summed(row.expand(50, *SHAPE), [0] * 50)
    assert torch.allclose(many, summed(row, [0]))


def test_the_sum_is_divided_by_the_expected_number_whatever_was_drawn() -> None:
    for parts in ([3], [1, 1, 1], [2, 1]):
        made, weight = optimizer(norm=1e6, expected=8.0)
        for number, size in enumerate(parts):
            weight.grad_sample, made.unit_of_row = torch.ones(size, *SHAPE), torch.arange(size)
            made.signal_skip_step(do_skip=number < len(parts) - 1)
            made.step()
            made.zero_grad()
        assert torch.allclose(weight, torch.full(SHAPE, -3 / 8))


def test_noise_has_the_claimed_deviation_and_comes_once_a_step() -> None:
    made, weight = optimizer(noise=1.3, norm=0.5, expected=1.0)
    for parts in ([2], [1, 1, 1], [0]):  # whole, cut into micro-batches, empty
        before = weight.detach().clone()
        for number, size in enumerate(parts):
            weight.grad_sample, made.unit_of_row = torch.zeros(size, *SHAPE), torch.arange(size)
            made.signal_skip_step(do_skip=number < len(parts) - 1)
            made.step()
            made.zero_grad()
        noise = (weight - before).detach().flatten().numpy()
        assert stats.kstest(noise, "norm", (0, 0.65)).pvalue > 1e-6
        assert made.noise_stds[-1] == pytest.approx(float(noise.std()), rel=1e-2)
    assert len(made.noise_stds) == 3


def test_equal_noise_is_recognised_whatever_it_was_added_to() -> None:
    made, weight = optimizer(noise=1.3, norm=0.5)
    for size in (0, 3, 0):
        made.generator = SecureGenerator(bytes(32))
        weight.grad_sample, made.unit_of_row = torch.randn(size, *SHAPE), torch.arange(size)
        made.step()
        made.zero_grad()
    assert len(set(made.noise_prints)) == 1
    weight.grad_sample, made.unit_of_row = torch.zeros(0, *SHAPE), torch.arange(0)
    made.step()
    assert made.noise_prints[-1] != made.noise_prints[0]


def test_steps_never_share_noise_nor_do_restarts() -> None:
    drawn = []
    for _ in range(3):
        made, weight = optimizer(noise=1.0)
        for _ in range(2):
            before = weight.detach().clone()
            weight.grad_sample, made.unit_of_row = torch.zeros(0, *SHAPE), torch.zeros(0, dtype=torch.long)
            made.step()
            made.zero_grad()
            drawn.append((weight - before).detach())
    assert all(not torch.equal(one, other) for i, one in enumerate(drawn) for other in drawn[:i])


def test_a_gradient_that_is_not_finite_contributes_nothing() -> None:
    rows = torch.ones(4, *SHAPE)
    rows[1, 0, 0], rows[3, 2, 2] = math.nan, math.inf
    made, weight = optimizer(norm=1e6)
    weight.grad_sample, made.unit_of_row = rows, torch.tensor([0, 1, 1, 2])
    made.clip_and_accumulate()
    assert torch.equal(weight.summed_grad, torch.ones(SHAPE))
    assert made.not_finite == 2


def test_batch_sizes_are_binomial() -> None:
    generator = SecureGenerator(bytes(32))
    sizes = torch.tensor([len(draw(50, 0.1, generator)) for _ in range(4000)])
    counts = torch.bincount(sizes, minlength=51)[:12].double()
    expected = torch.tensor(stats.binom(50, 0.1).pmf(range(12)) * 4000)
    assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-3
    assert (sizes == 0).any()  # empty batches are drawn too
    assert draw(50, 1.0, generator) == list(range(50))


def test_every_unit_is_drawn_alone_and_with_the_same_probability() -> None:
    generator = SecureGenerator(bytes(range(32)))
    drawn = torch.zeros(4000, 20)
    for step in range(4000):
        drawn[step, draw(20, 0.3, generator)] = 1
    assert ((drawn.mean(0) - 0.3).abs() < 5 * math.sqrt(0.3 * 0.7 / 4000)).all()
    correlations = torch.corrcoef(drawn.T) - torch.eye(20)
    assert correlations.abs().max() < 0.08  # shuffling without replacement would couple them


def noted(count: int, made_of: tuple[int, ...]) -> UnitOptimizer:
    weights = [nn.Parameter(torch.zeros(made_of)) for _ in range(count)]
    made = UnitOptimizer(
        torch.optim.SGD(weights, lr=1.0), noise_multiplier=0.7, max_grad_norm=0.5, expected_batch_size=4.0,
        generator=SecureGenerator(),
    )  # fmt: skip
    for weight in weights:
        weight.grad_sample = torch.ones(2, *weight.shape)
    made.unit_of_row = torch.tensor([0, 1])
    made.step()
    return made


def give_two_tensors_one_noise(optimizer: UnitOptimizer) -> None:
    NOISE(optimizer)
    first, *_, last = optimizer.params
    last.grad = last.summed_grad + (first.grad - first.summed_grad).view_as(last)


def test_two_tensors_with_the_same_noise_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert noted(9, (40, 4)).noise_worst[0] < 6
    assert noted(9, (1, 2)).noise_worst[0] < 6  # two coins fall alike, and prove nothing
    monkeypatch.setattr(UnitOptimizer, "noise_all", give_two_tensors_one_noise)
    made = noted(9, (40, 4))
    assert made.noise_worst[0] == math.inf
    assert made.noise_stds[0] == pytest.approx(0.35, rel=0.1)  # each has the right length


def add_noise_but_to_one_tensor(optimizer: UnitOptimizer) -> None:
    NOISE(optimizer)
    forgotten = optimizer.params[3]
    forgotten.grad = forgotten.summed_grad.clone()


def test_noise_that_misses_one_tensor_of_hundreds_is_noted_and_refused_by_the_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def worst() -> float:
        made = noted(420, (12, 400))
        assert made.noise_stds[0] == pytest.approx(0.35, rel=4e-3)  # over all of them nothing is to be seen
        return made.noise_worst[0]

    assert worst() < 6
    check_noise(UnitOptimizer, seed=1)
    monkeypatch.setattr(UnitOptimizer, "noise_all", add_noise_but_to_one_tensor)
    assert worst() > 90
    with pytest.raises(PrivacyError, match="noise has a standard deviation"):
        check_noise(UnitOptimizer, seed=1)


def test_no_micro_batch_leaves_anything_to_the_next() -> None:
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.zeros(shape)) for shape in (SHAPE, (7,), (2, 3))]
    made = UnitOptimizer(
        torch.optim.SGD(weights, lr=1.0), noise_multiplier=0.0, max_grad_norm=1e6, expected_batch_size=1.0,
        generator=SecureGenerator(),
    )  # fmt: skip
    expected = [torch.zeros_like(weight) for weight in weights]
    for rows in (5, 2, 0, 7, 3):
        broken = rows == 5
        for weight, total in zip(weights, expected, strict=True):
            values = torch.randn(rows, *weight.shape)
            total += values[int(broken) :].sum(0)
            if broken:
                values[0] = torch.nan
            weight.grad_sample = values
        made.unit_of_row = torch.arange(rows)
        made.clip_and_accumulate()
    assert made.not_finite == 1
    for weight, total in zip(weights, expected, strict=True):
        assert torch.allclose(weight.summed_grad, total, rtol=1e-5, atol=1e-5)


def test_a_long_tensor_is_clipped_to_the_norm() -> None:
    weight = nn.Parameter(torch.zeros(8_000_000))
    made = UnitOptimizer(
        torch.optim.SGD([weight], lr=1.0), noise_multiplier=0.0, max_grad_norm=1.0, expected_batch_size=1.0,
        generator=SecureGenerator(),
    )  # fmt: skip
    weight.grad_sample, made.unit_of_row = torch.full((1, 8_000_000), 0.01), torch.tensor([0])
    made.clip_and_accumulate()
    assert 0.9899 < weight.summed_grad.double().norm() <= 0.9901


@pytest.mark.parametrize("owners", [[], [0], [0, 1, 2]])
def test_rows_whose_patients_are_not_named_are_refused(owners: list[int]) -> None:
    with pytest.raises(PrivacyError, match=rf"the patients of {len(owners)} rows; there are gradients of 2"):
        summed(torch.ones(2, *SHAPE), owners)


def test_the_patients_of_the_step_before_are_not_those_of_this_one() -> None:
    made, weight = optimizer()
    weight.grad_sample, made.unit_of_row = torch.ones(2, *SHAPE), torch.tensor([0, 1])
    made.clip_and_accumulate()
    weight.grad_sample = torch.ones(2, *SHAPE)
    with pytest.raises(PrivacyError, match="Set it before each step"):
        made.clip_and_accumulate()


def test_gradients_of_another_shape_are_refused() -> None:
    weights = [nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))]
    made = UnitOptimizer(
        torch.optim.SGD(weights, lr=1.0), noise_multiplier=0.0, max_grad_norm=1.0, expected_batch_size=1.0,
        generator=SecureGenerator(),
    )  # fmt: skip
    made.unit_of_row = torch.tensor([0])
    weights[0].grad_sample, weights[1].grad_sample = torch.ones(1, 3), torch.ones(1, 5)  # eight numbers all the same
    with pytest.raises(PrivacyError, match=r"of shape \(1, 3\) for a weight of \(4,\)"):
        made.clip_and_accumulate()


def test_shares_of_the_step_before_never_count_again() -> None:
    made, weight = optimizer(noise=0.7)
    for _ in range(2):  # with zero_grad between them, as many as wanted
        weight.grad_sample, made.unit_of_row = torch.ones(1, *SHAPE), torch.tensor([0])
        made.step()
        made.zero_grad()
    weight.grad_sample, made.unit_of_row = torch.ones(1, *SHAPE), torch.tensor([0])
    made.step()
    weight.grad_sample, made.unit_of_row = torch.ones(1, *SHAPE), torch.tensor([0])
    with pytest.raises(ValueError, match="haven't been cleared"):
        made.step()


def test_a_secure_mode_that_is_not_there_is_refused() -> None:
    weight = nn.Parameter(torch.zeros(SHAPE))
    with pytest.raises(PrivacyError, match="torchcsprng"):
        UnitOptimizer(
            torch.optim.SGD([weight], lr=1.0), noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=1,
            generator=SecureGenerator(), secure_mode=True,
        )  # fmt: skip


def test_a_generator_whose_noise_can_be_foretold_is_refused() -> None:
    weight = nn.Parameter(torch.zeros(SHAPE))
    with pytest.raises(PrivacyError, match="received a Generator"):
        UnitOptimizer(
            torch.optim.SGD([weight], lr=1.0), noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=1,
            generator=torch.Generator(),
        )  # fmt: skip
