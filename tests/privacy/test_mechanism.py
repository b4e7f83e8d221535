import math
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from scipy import stats
from torch import nn

from helpers.errors import PrivacyError
from helpers.privacy import mechanism
from helpers.privacy.mechanism import LARGEST, LONGEST, SLACK, PrivateOptimizer, clipped_sum, grid_of, noisy_sum
from helpers.privacy.secure_random import SecureGenerator
from helpers.privacy.self_checks import NoisySum, check_noisy_sum
from helpers.privacy.units import draw

NUMBERS = 1200
KEY = bytes(32)


def optimizer(
    noise: float = 0.767, norm: float = 0.5, expected: float = 4.0, numbers: int = NUMBERS, ghosts: int = 0
) -> tuple[PrivateOptimizer, nn.Parameter]:
    """Plain descent with rate 1 on one weight."""
    weight = nn.Parameter(torch.zeros(numbers))
    made = PrivateOptimizer(
        torch.optim.SGD([weight], lr=1.0),
        noise_multiplier=noise,
        max_grad_norm=norm,
        expected_batch=expected,
        generator=SecureGenerator(KEY),
        ghosts=ghosts,
    )
    return made, weight


def added(*parts: tuple[torch.Tensor, list[int]], noise: float = 0.767, norm: float = 0.5) -> torch.Tensor:
    """The sum after some calls of `add`, each with records and their owners; the records stay as they were."""
    made, _ = optimizer(noise, norm, numbers=parts[0][0].shape[1])
    for rows, owners in parts:
        made.add(rows.clone(), torch.tensor(owners, dtype=torch.long))
    return made.sum


# ---------------------------------------------------------------------------------------------- what noise hides


@pytest.mark.parametrize(("noise", "numbers"), [(0.4, 200_000), (0.767, 1_000_000), (4.0, 200_000)])
def test_no_published_number_tells_for_certain_whether_a_patient_is_in(noise: float, numbers: int) -> None:
    found = check_noisy_sum(noisy_sum, numbers=numbers, noise_multiplier=noise)
    assert found["impossible"] == found["off_grid"] == 0


def in_fp32(clipped: torch.Tensor, *, noise_std: float, generator: SecureGenerator) -> torch.Tensor:
    return clipped.float() + torch.randn(len(clipped)) * noise_std


def in_bf16(clipped: torch.Tensor, *, noise_std: float, generator: SecureGenerator) -> torch.Tensor:
    return (clipped.bfloat16() + (torch.randn(len(clipped)) * noise_std).bfloat16()).float()


@pytest.mark.parametrize(
    ("broken", "told"),
    [(in_fp32, r"published numbers [1-9][\d,]* are impossible"), (in_bf16, r"Last bits uniform: p = 0;")],
)
@pytest.mark.parametrize("noise", [0.4, 0.767, 4.0])
def test_noise_that_is_added_in_few_digits_tells(noise: float, broken: NoisySum, told: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(PrivacyError, match=told):
        check_noisy_sum(broken, numbers=200_000, noise_multiplier=noise)


def quieter(clipped: torch.Tensor, *, noise_std: float, generator: SecureGenerator) -> torch.Tensor:
    return (
        clipped + generator.rounded_normal(len(clipped), 0.95 * noise_std / grid_of(noise_std)) * grid_of(noise_std)
    ).float()


def even(clipped: torch.Tensor, *, noise_std: float, generator: SecureGenerator) -> torch.Tensor:
    noise = (generator.uniform(len(clipped)) - 0.5) * 12**0.5 * noise_std
    return (clipped + (noise / grid_of(noise_std)).round() * grid_of(noise_std)).float()


def coarser(clipped: torch.Tensor, *, noise_std: float, generator: SecureGenerator) -> torch.Tensor:
    grid = grid_of(noise_std)
    return (clipped + generator.rounded_normal(len(clipped), noise_std / grid / 16) * 16 * grid).float()


def without_end(clipped: torch.Tensor, *, noise_std: float, generator: SecureGenerator) -> torch.Tensor:
    noisy = noisy_sum(clipped, noise_std=noise_std, generator=generator)
    noisy[0] = math.nan
    return noisy


def repeated(clipped: torch.Tensor, *, noise_std: float, generator: SecureGenerator) -> torch.Tensor:
    half = generator.rounded_normal(len(clipped) // 2, noise_std / grid_of(noise_std))
    return (clipped + torch.cat([half, half]) * grid_of(noise_std)).float()


@pytest.mark.parametrize("broken", [quieter, even, without_end, coarser, repeated])
def test_other_noise_is_refused(broken: NoisySum) -> None:
    with pytest.raises(PrivacyError, match="Gaussian of deviation"):
        check_noisy_sum(broken, numbers=200_000)


@pytest.mark.parametrize(
    ("clipped", "message"),
    [
        (torch.zeros(4), r"float32 of shape \(4,\)"),
        (torch.zeros(2, 2, dtype=torch.float64), r"shape \(2, 2\)"),
        (torch.tensor([0.0, math.nan], dtype=torch.float64), "finite"),
        (torch.tensor([0.0, math.inf], dtype=torch.float64), "finite"),
    ],
)
def test_sums_that_are_no_sums_of_clipped_gradients_are_refused(clipped: torch.Tensor, message: str) -> None:
    with pytest.raises(PrivacyError, match=message):
        noisy_sum(clipped, noise_std=1.0, generator=SecureGenerator())


@pytest.mark.parametrize("noise", [0.0, -1.0, math.inf, math.nan])
def test_without_noise_there_is_no_step(noise: float) -> None:
    made, weight = optimizer(noise)
    for attempt in (made.step, lambda: made.add(torch.ones(1, NUMBERS), torch.arange(1))):
        with pytest.raises(PrivacyError, match="expected a finite number above 0"):
            attempt()
    assert not weight.any()


def test_a_generator_whose_noise_can_be_foretold_is_refused() -> None:
    made, weight = optimizer()
    made.generator = torch.Generator()
    with pytest.raises(PrivacyError, match="not from a Generator"):
        made.step()
    assert not weight.any()


def test_numbers_beyond_the_range_are_cut_to_2_to_the_24_points_of_the_grid() -> None:
    grid = grid_of(0.4)
    far = torch.tensor([2.0**30, -(2.0**30), 2.0**23, 0.0], dtype=torch.float64) * grid
    noisy = noisy_sum(far, noise_std=0.4, generator=SecureGenerator()) / grid
    assert noisy[:2].tolist() == [LARGEST, -LARGEST]
    assert (noisy == noisy.round()).all() and (noisy.abs() <= LARGEST).all()
    assert 2.0**17 <= 0.4 / grid <= 2.0**18  # so that the range is 64 standard deviations or more
    wide = noisy_sum(far, noise_std=0.4, generator=SecureGenerator(), largest=2**52) / grid
    assert wide.dtype is torch.float64 and torch.allclose(wide, far / grid, atol=10 * 2.0**18)


@pytest.mark.parametrize("noise_std", [1e-6, 0.25, 0.3835, 0.5, 1.0, 1.1, 1e5])
def test_the_grid_is_a_power_of_two_that_follows_from_the_noise_alone(noise_std: float) -> None:
    assert math.frexp(grid_of(noise_std))[0] == 0.5 and 2**17 <= noise_std / grid_of(noise_std) <= 2**18


# ------------------------------------------------------------------------------------ what one patient may change


def exactly(numbers: torch.Tensor, grid: float) -> list[int]:
    """A sum in points of the grid; refused where it does not lie on the grid."""
    points = [Fraction(number) / Fraction(grid) for number in numbers.tolist()]
    assert all(point.denominator == 1 for point in points)
    return [int(point) for point in points]


def one_number(rows: torch.Tensor) -> torch.Tensor:
    """All of a gradient in one number, where least is lost by rounding towards zero."""
    rows[:, 1:] = 0
    return rows


def with_holes(rows: torch.Tensor) -> torch.Tensor:
    rows[0, 3], rows[4, 7], rows[8, 0] = math.nan, math.inf, -math.inf
    return rows


GRADIENTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "random": lambda rows: rows,
    "short": lambda rows: rows * 1e-3,
    "about as long as the norm": lambda rows: rows * 0.5 / NUMBERS**0.5,
    "huge": lambda rows: rows * 1e27,
    "too long to be shortened": lambda rows: rows * 1e37,
    "longer than fp32 holds": lambda rows: rows.sign() * 3e38,
    "tiny": lambda rows: rows * 1e-30,
    "subnormal": lambda rows: rows * 1e-42,
    "one number": one_number,
    "equal": torch.ones_like,
    "nothing": torch.zeros_like,
    "not finite": with_holes,
}
OWNERS = [0, 0, 1, 2, 2, 2, 3, 4, 4] + [5] * 40


@pytest.mark.parametrize("kind", GRADIENTS)
@pytest.mark.parametrize(("noise", "norm"), [(0.4, 0.5), (0.767, 0.3), (4.0, 1.7)])
def test_a_patient_moves_the_sum_by_at_most_the_norm_exactly(kind: str, noise: float, norm: float) -> None:
    rows = GRADIENTS[kind](torch.randn(len(OWNERS), NUMBERS, generator=torch.Generator().manual_seed(0)))
    grid = grid_of(noise * norm)
    whole = exactly(added((rows, OWNERS), noise=noise, norm=norm), grid)
    limit = (Fraction(norm) / Fraction(grid)) ** 2
    for left_out in range(6):
        kept = [place for place, owner in enumerate(OWNERS) if owner != left_out]
        own = [place for place, owner in enumerate(OWNERS) if owner == left_out]
        rest = exactly(
            added((rows[kept], [OWNERS[k] - (OWNERS[k] > left_out) for k in kept]), noise=noise, norm=norm), grid
        )
        alone = exactly(added((rows[own], [0] * len(own)), noise=noise, norm=norm), grid)
        share = [one - other for one, other in zip(whole, rest, strict=True)]
        assert share == alone  # nobody else's share changed by a single point
        length = sum(each**2 for each in share)
        assert length <= limit
        gradient = rows[own].sum(dim=0).double()
        if gradient.norm() < LONGEST:  # and no more was taken than needed: each number less than a point and the slack
            wanted = min(1 - SLACK, float(gradient.norm()) / norm) * norm / grid
            assert length**0.5 >= wanted * (1 - 1e-6) - NUMBERS**0.5
        else:
            assert length == 0


@pytest.mark.parametrize("kind", GRADIENTS)
def test_the_sum_is_the_same_in_any_order_and_in_any_parts(kind: str) -> None:
    random = torch.Generator().manual_seed(1)
    rows = GRADIENTS[kind](torch.randn(len(OWNERS), NUMBERS, generator=random))
    whole = added((rows, OWNERS))
    for _ in range(10):
        patients = torch.randperm(6, generator=random).tolist()
        cuts = sorted(torch.randint(0, 7, (2,), generator=random).tolist())
        parts = []
        for part in (patients[: cuts[0]], patients[cuts[0] : cuts[1]], patients[cuts[1] :]):
            places = [place for owner in part for place, own in enumerate(OWNERS) if own == owner]
            parts.append((rows[places], [part.index(OWNERS[place]) for place in places]))
        assert torch.equal(added(*parts), whole)


def test_records_of_a_patient_may_lie_apart_and_patients_numbers_may_have_gaps() -> None:
    rows = torch.randn(4, NUMBERS, generator=torch.Generator().manual_seed(0))
    whole = added((rows, [0, 0, 1, 1]))
    assert torch.equal(added((rows[[0, 2, 1, 3]], [0, 1, 0, 1])), whole)
    for gaps in ([7, 7, 3, 3], [0, 0, 3, 3], [2, 2, 5, 5]):  # clipped by patient, whatever the patients are called
        assert torch.equal(added((rows, gaps)), whole)


def test_a_long_gradient_is_clipped_to_the_norm() -> None:
    length = clipped_sum(torch.full((1, 8_000_000), 0.01), max_grad_norm=1.0, grid=grid_of(0.4)).norm()
    assert 1 - 1e-2 < length <= 1.0  # rounding towards zero takes up to a point of each of the 8,000,000


def test_a_patient_with_many_records_weighs_no_more_than_one_record() -> None:
    row = torch.ones(1, NUMBERS)
    assert torch.equal(added((row.expand(50, NUMBERS), [0] * 50)), added((row, [0])))


@pytest.mark.parametrize("owners", [[], [0], [0, 1, 2]])
def test_rows_whose_patients_are_not_named_are_refused(owners: list[int]) -> None:
    with pytest.raises(PrivacyError, match=rf"patients of {len(owners)} rows"):
        added((torch.ones(2, NUMBERS), owners))


def test_more_numbers_than_are_trained_are_refused() -> None:
    made, _ = optimizer(ghosts=3)
    with pytest.raises(PrivacyError, match="for numbers 1200 to 1204 of 1203"):
        made.add(torch.ones(1, 4), torch.arange(1), first=made.numbers)


# ------------------------------------------------------------------------------------------------------- the step


def test_every_step_goes_through_noisy_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    made, weight = optimizer(expected=1.0, ghosts=2)
    given = []

    def seen(clipped: torch.Tensor, *, noise_std: float, generator: SecureGenerator) -> torch.Tensor:
        given.append((clipped.clone(), noise_std, generator))
        return torch.full_like(clipped, -float(len(given))).float()

    monkeypatch.setattr(mechanism, "noisy_sum", seen)
    for moved in (1.0, 3.0, 6.0):
        made.add(torch.ones(1, NUMBERS), torch.arange(1))
        assert (made.step() == -len(given)).all()
        assert (weight == moved).all()  # by what noisy_sum returned, and nothing else
    assert all(torch.equal(clipped, given[0][0]) for clipped, *_ in given)  # a sum counts in one step only
    assert {(std, generator) for _, std, generator in given} == {(0.767 * 0.5, made.generator)}


@pytest.mark.parametrize("sizes", [[0], [1], [3], [1, 1, 1], [2, 0, 1]])
def test_the_noisy_sum_is_divided_by_the_expected_number_whatever_was_drawn(sizes: list[int]) -> None:
    made, weight = optimizer(expected=8.0)
    rows = torch.randn(3, NUMBERS, generator=torch.Generator().manual_seed(0))
    start = 0
    for size in sizes:
        made.add(rows[start : start + size].clone(), torch.arange(size))
        start += size
    noisy = noisy_sum(made.sum, noise_std=made.noise_std, generator=SecureGenerator(KEY))
    made.step()
    assert torch.equal(weight, -noisy / 8)
    assert not made.sum.any()


def test_each_weight_gets_its_own_numbers_and_ghosts_the_rest() -> None:
    weights = [nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (4,), (3, 1))]
    made = PrivateOptimizer(
        torch.optim.SGD(weights, lr=1.0),
        noise_multiplier=1e-5,
        max_grad_norm=1.0,
        expected_batch=1.0,
        generator=SecureGenerator(),
        ghosts=2,
    )
    share = torch.arange(13.0)[None] * 1e-5
    made.add(share.clone(), torch.arange(1))
    made.add(torch.tensor([[3e-5, 4e-5]]), torch.arange(1), first=made.numbers)
    ghosts = made.step()
    moved = -torch.cat([weight.detach().flatten() for weight in weights])
    assert torch.allclose(moved, share[0], atol=6e-5) and len(moved) == made.numbers == 13
    assert torch.allclose(ghosts, torch.tensor([3e-5, 4e-5]), atol=6e-5)


def test_noise_has_the_claimed_deviation_comes_once_a_step_and_never_again() -> None:
    made, weight = optimizer(noise=1.3, expected=1.0, numbers=20_000)
    noises = []
    for sizes in ([2], [1, 1, 1], [0], []):  # whole, in parts, an empty batch, and nothing at all
        before = weight.detach().clone()
        for size in sizes:
            made.add(torch.zeros(size, 20_000), torch.arange(size))
        made.step()
        noises.append((weight - before).detach())
        assert stats.kstest(noises[-1].numpy(), "norm", (0, 0.65)).pvalue > 1e-6
    assert all(abs(float(torch.corrcoef(torch.stack(pair))[0, 1])) < 0.05 for pair in pairwise(noises))


# ----------------------------------------------------------------------------------------------- Poisson sampling


def test_batch_sizes_are_binomial() -> None:
    generator = SecureGenerator(KEY)
    sizes = torch.tensor([len(draw(50, 0.1, generator)) for _ in range(4000)])
    counts = torch.bincount(sizes, minlength=51)[:12].double()
    expected = torch.tensor(stats.binom(50, 0.1).pmf(range(12)) * 4000)
    assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-3
    assert (sizes == 0).any()  # empty batches are drawn too
    assert draw(50, 1.0, generator) == list(range(50))


def test_every_patient_is_drawn_alone_and_with_the_same_probability() -> None:
    generator = SecureGenerator(bytes(range(32)))
    drawn = torch.zeros(4000, 20)
    for step in range(4000):
        drawn[step, draw(20, 0.3, generator)] = 1
    assert ((drawn.mean(0) - 0.3).abs() < 5 * math.sqrt(0.3 * 0.7 / 4000)).all()
    correlations = torch.corrcoef(drawn.T) - torch.eye(20)
    assert correlations.abs().max() < 0.08  # shuffling without replacement would couple them
