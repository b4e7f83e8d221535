import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from mpmath import mp, mpf
from scipy import stats

from helpers.privacy import secure_random
from helpers.privacy.secure_random import BLOCK, ROUNDING, SecureGenerator

TWISTER = 19_937
"""Bits of a Mersenne Twister's state: no sequence of its bits is more complex than that."""
KEY = bytes(32)
DEVIATION = 2.0**18
LAST = 1 - 2.0**-53


def complexity(bits: np.ndarray) -> int:
    """Length of the shortest linear recurrence over GF(2) that makes `bits` (Massey 1969), in whole numbers as rows."""
    connection, older, length, since, seen = 1, 1, 0, 1, 0
    for place, bit in enumerate(bits.tolist()):
        seen = seen << 1 | bit
        if (connection & seen).bit_count() & 1:  # the recurrence foretold the other bit
            before = connection
            connection ^= older << since
            if 2 * length <= place:
                older, length, since = before, place + 1 - length, 0
        since += 1
    return length


def test_signs_of_the_noise_foretell_no_others() -> None:
    count = 2 * TWISTER + 4000
    # torch makes sixteen normals of sixteen words; the sign of the ninth is one bit of one word
    foretold = torch.randn(16 * count, generator=torch.Generator().manual_seed(0))[8::16] < 0
    assert complexity(foretold.numpy()) == TWISTER
    drawn = SecureGenerator()
    for bits in (drawn.rounded_normal(16 * count, DEVIATION)[8::16] > 0, drawn.uniform(count) < 0.5):
        assert abs(complexity(bits.numpy()) - count / 2) < 40  # as of coins


def test_numbers_are_the_stream_of_the_cipher() -> None:
    counters = b"".join(number.to_bytes(16, "big") for number in range(BLOCK))
    key = bytes(range(32))
    words = np.frombuffer(Cipher(algorithms.AES256(key), modes.ECB()).encryptor().update(counters), dtype=np.int64)
    uniform = (words >> 11) * 2.0**-53 + 0.5
    assert SecureGenerator(key).uniform(1000).tolist() == uniform[:1000].tolist()
    # A block makes its numbers of `BLOCK` words, and the next block goes on behind them.
    (first, second), (third, fourth) = uniform[:BLOCK].reshape(2, -1), uniform[BLOCK:].reshape(2, -1)
    wanted = [
        np.sqrt(-2 * np.log1p(-radius)) * wave(2 * np.pi * turn) * DEVIATION
        for radius, turn in ((first, second), (third, fourth))
        for wave in (np.cos, np.sin)
    ]
    found = SecureGenerator(key).rounded_normal(2 * BLOCK, DEVIATION).numpy()
    assert np.abs(found - np.concatenate(wanted)).max() < 0.5001


def test_every_generator_has_its_own_key_and_goes_on() -> None:
    one, other = SecureGenerator(), SecureGenerator()
    drawn = [generator.rounded_normal(1000, DEVIATION) for generator in (one, other, one, other)]
    assert all(not torch.equal(each, before) for number, each in enumerate(drawn) for before in drawn[:number])
    first, again = (SecureGenerator(KEY).rounded_normal(9, 2.0) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("count", [0, 1, 2, 5, BLOCK - 1, BLOCK, BLOCK + 3, 3 * BLOCK + 1])
def test_noise_is_normal_and_whole_whatever_its_number(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if count < 10:
        monkeypatch.setattr(secure_random, "BLOCK", 16)  # so that thousands of calls take no time
    noise = [SecureGenerator().rounded_normal(count, DEVIATION) for _ in range(2000 if count < 10 else 1)]
    assert all(len(each) == count for each in noise)
    every = torch.cat(noise).numpy()
    assert every.dtype == np.float64 and (every == every.round()).all()
    if count:
        assert stats.kstest(every / DEVIATION, "norm").pvalue > 1e-6
        assert np.unique(every).size > 0.7 * every.size


def test_both_numbers_of_a_pair_are_independent() -> None:
    first, second = SecureGenerator().rounded_normal(BLOCK, DEVIATION).view(2, -1) / DEVIATION
    for left, right in ((first, second), (first.square(), second.square()), (first.abs(), second)):
        assert abs(stats.pearsonr(left.numpy(), right.numpy()).statistic) < 6 / len(first) ** 0.5


def fit(noise: torch.Tensor, deviation: float) -> float:
    """p-value of integers against the exact chances of a rounded normal distribution."""
    middle = round(2.5 * deviation)
    ends = [-np.inf, *np.arange(-middle, middle + 1, max(1, middle // 8)) + 0.5, np.inf]
    counts, _ = np.histogram(noise.numpy(), ends)
    return float(stats.chisquare(counts, np.diff(stats.norm.cdf(ends, scale=deviation)) * len(noise)).pvalue)


@pytest.mark.parametrize("deviation", [0.6, 1.5, 40.0])
def test_integers_have_the_chances_of_a_rounded_normal(deviation: float) -> None:
    assert fit(SecureGenerator().rounded_normal(300_000, deviation), deviation) > 1e-6


@pytest.mark.parametrize("deviation", [1.5, DEVIATION])
def test_what_is_computed_anew_equals_the_fast_way_and_has_its_distribution(
    deviation: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = SecureGenerator(KEY).rounded_normal(6000, deviation)
    monkeypatch.setattr(secure_random, "ROUNDING", 2.0**60)
    slow = SecureGenerator(KEY).rounded_normal(6000, deviation)  # each pair unsure
    assert torch.equal(slow, fast) and slow.dtype is torch.float64
    assert fit(slow, deviation) > 1e-6


def test_what_is_unsure_is_decided_by_further_random_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    # With 2^60 points in a deviation, 53 bits do not say which integer it is: the further ones have to.
    generator = SecureGenerator(KEY)
    assert len({float(generator._exact_pair(0.3, 0.1, 2.0**60)[0]) for _ in range(50)}) > 3
    monkeypatch.setattr(SecureGenerator, "_further_bits", lambda _: mpf(0))
    assert len({float(generator._exact_pair(0.3, 0.1, 2.0**60)[0]) for _ in range(5)}) == 1


# ---------------------------------------------------------------------------- the bound on the error, pair by pair


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """Uniform numbers, random ones and from both ends."""
    random = SecureGenerator(KEY)
    small = [0.0, *(times * 2.0**-power for power in (*range(40, 54), 20, 30) for times in (1, 1 + 2.0**-8))]
    ends = [number for number in small if number * 2**53 % 1 == 0] + [LAST - number for number in small[:20:2]]
    turns = [0.0, 0.125, 0.25, 0.5, 0.75, LAST, *(0.25 + sign * 2.0**-power for sign in (1, -1) for power in (30, 53))]
    extremes = torch.tensor(list(product(ends, turns)), dtype=torch.float64).T
    first, second = torch.cat([extremes, random.uniform(2 * 3000).view(2, -1)], dim=1)
    assert ((first * 2**53) % 1 == 0).all() and first.max() == LAST
    return first, second


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Make the generator draw `pairs`; what it rounds is put into the list."""
    first, second = pairs()
    monkeypatch.setattr(secure_random, "BLOCK", 2 * len(first))
    monkeypatch.setattr(secure_random, "_unit_interval", lambda *_: torch.cat([first, second]))
    rounded: list[torch.Tensor] = []
    real = torch.round

    def seen(values: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        rounded.append(values.clone())
        return real(values, out=out)

    monkeypatch.setattr(torch, "round", seen)
    return first, second, rounded


def exact(first: object, second: object) -> tuple[mpf, mpf]:
    radius, angle = mp.sqrt(-2 * mp.log(1 - mpf(first))), 2 * mp.pi * mpf(second)
    return radius * mp.cos(angle), radius * mp.sin(angle)


def test_fp64_errs_far_less_than_the_bound_says(
    chosen: tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]],
) -> None:
    first, second, rounded = chosen
    SecureGenerator(KEY).rounded_normal(2 * len(first), 1.0)
    margin = own_margin = math.inf
    point = mpf(2) ** -53 * (1 - mpf(2) ** -256)
    with mp.workprec(400):
        for one, other, *found in zip(*(each.tolist() for each in (first, second, *rounded)), strict=True):
            if one in (0.0, LAST):
                continue  # always computed anew
            wanted = exact(one, other)
            radius = mp.hypot(*wanted)
            own = max(abs(mpf(value) - right) for value, right in zip(found, wanted, strict=True))
            own_margin = min(own_margin, float(ROUNDING * radius / own)) if own else own_margin
            # Whatever the further bits are: all four corners of what the 53 bits leave open.
            ends = [exact(one + more, other + turn) for more in (0, point) for turn in (0, point)]
            error = max(abs(mpf(value) - end[axis]) for axis, value in enumerate(found) for end in ends)
            bound = 2.0**-52 / ((1 - 2.0**-53 - mpf(one)) * radius) + ROUNDING * radius
            margin = min(margin, float(bound / error))
    print(f"bound over error: {margin:.3g} with further bits, {own_margin:.3g} of rounding alone")
    assert margin > 1.5 and own_margin > 20


@pytest.mark.parametrize("deviation", [2.0**18, 2.0**36])
def test_whatever_counts_as_sure_is_the_right_integer_whatever_bits_would_follow(
    chosen: tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]], deviation: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = chosen
    anew = []

    def noted(_: SecureGenerator, one: float, other: float, __: float) -> torch.Tensor:
        anew.append((one, other))
        return torch.zeros(2, dtype=torch.float64)

    monkeypatch.setattr(SecureGenerator, "_exact_pair", noted)
    found = SecureGenerator(KEY).rounded_normal(2 * len(first), deviation).view(2, -1)
    point = mpf(2) ** -53 * (1 - mpf(2) ** -256)
    unsure = set(anew)
    assert {(end, turn) for end in (0.0, LAST) for turn in (0.0, 0.125)} <= unsure
    with mp.workprec(400):
        for one, other, *integers in zip(first.tolist(), second.tolist(), *found.tolist(), strict=True):
            if (one, other) in unsure:
                continue
            for more, turn in product((0, point), (0, point)):
                values = exact(one + more, other + turn)
                assert [int(mp.nint(deviation * value)) for value in values] == integers
    assert 0 < len(unsure) < len(first) / 2


def test_the_chance_to_compute_anew_is_as_said() -> None:
    calls = []

    class Counting(SecureGenerator):
        def _exact_pair(self, first: float, second: float, deviation: float) -> torch.Tensor:
            calls.append(first)
            return super()._exact_pair(first, second, deviation)

    Counting(KEY).rounded_normal(BLOCK * 4, 2.0**32)  # 2^14 times as many as at 2^18, where 4e-8 are said
    assert 0.1 < len(calls) / (BLOCK * 2) / (4e-8 * 2**14) < 10


# --------------------------------------------------------------------------------------------------------- coins


def test_coins_are_uniform_and_never_one() -> None:
    drawn = SecureGenerator().uniform(200_000)
    assert stats.kstest(drawn.numpy(), "uniform").pvalue > 1e-6
    assert float(drawn.min()) >= 0 and float(drawn.max()) < 1


def test_the_ends_of_the_unit_interval_are_what_they_should_be() -> None:
    words = torch.tensor([-(2**63), -(2**63) + 2**11, 0, 2**63 - 1])
    found = secure_random._unit_interval(words, torch.empty(4, dtype=torch.float64)).tolist()
    assert found == [0.0, 2.0**-53, 0.5, LAST]
    longest = math.sqrt(-2 * math.log1p(-LAST))
    assert stats.norm.sf(longest) * 1e8 < 1e-8  # far below δ, over all numbers of a training
    assert all(one < other for one, other in pairwise(found))
