import math

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats

from helpers.privacy.secure_random import BLOCK, SecureGenerator

TWISTER = 19_937
"""Bits of a Mersenne Twister's state: no sequence of its bits is more complex than that."""


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
    for bits in (drawn.normal(16 * count, 1.0)[8::16] > 0, drawn.uniform(count) < 0.5):
        assert abs(complexity(bits.numpy()) - count / 2) < 40  # as of coins


def test_numbers_are_the_stream_of_the_cipher() -> None:
    key = bytes(range(32))
    counters = b"".join(number.to_bytes(16, "big") for number in range(500))
    words = np.frombuffer(Cipher(algorithms.AES256(key), modes.ECB()).encryptor().update(counters), dtype=np.int64)
    assert SecureGenerator(key).uniform(1000).tolist() == [(int(word) >> 11) * 2.0**-53 + 0.5 for word in words]


def test_every_generator_has_its_own_key_and_goes_on() -> None:
    one, other = SecureGenerator(), SecureGenerator()
    drawn = [generator.normal(1000, 1.0) for generator in (one, other, one, other)]
    assert all(not torch.equal(each, before) for number, each in enumerate(drawn) for before in drawn[:number])
    assert torch.equal(SecureGenerator(bytes(32)).normal(9, 2.0), SecureGenerator(bytes(32)).normal(9, 2.0))


@pytest.mark.parametrize("count", [1, 2, 5, BLOCK - 1, BLOCK, BLOCK + 3, 3 * BLOCK + 1])
def test_noise_is_normal_whatever_its_number(count: int) -> None:
    noise = torch.cat([SecureGenerator().normal(count, 0.3) for _ in range(min(999, math.ceil(100_000 / count)))])
    assert noise.dtype is torch.float32
    assert stats.kstest(noise.double().numpy(), "norm", (0, 0.3)).pvalue > 1e-6
    assert np.unique(noise.numpy()).size > 0.98 * noise.numel()


def test_both_numbers_of_a_pair_are_independent() -> None:
    first, second = SecureGenerator().normal(BLOCK, 1.0).double().view(2, -1)
    for left, right in ((first, second), (first.square(), second.square()), (first.abs(), second)):
        assert abs(stats.pearsonr(left.numpy(), right.numpy()).statistic) < 6 / len(first) ** 0.5


def test_coins_are_uniform_and_never_one() -> None:
    coins = SecureGenerator().uniform(200_000)
    assert stats.kstest(coins.numpy(), "uniform").pvalue > 1e-6
    assert float(coins.min()) >= 0 and float(coins.max()) < 1


def test_the_tail_is_longer_than_any_noise_that_will_be_drawn() -> None:
    from helpers.privacy.secure_random import _unit_interval

    ends = torch.tensor([-(2**63), 2**63 - 1])
    lowest, highest = _unit_interval(ends, torch.empty(2, dtype=torch.float64)).tolist()
    assert (lowest, highest) == (0.0, 1 - 2.0**-53)
    longest = math.sqrt(-2 * math.log1p(-highest))
    assert stats.norm.sf(longest) * 1e8 < 1e-8  # far below δ, over all numbers of a training
