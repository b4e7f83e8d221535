"""Random numbers that nobody can foretell or draw again: Poisson sampling and the noise of private training."""

import math
import secrets

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from mpmath import mp, mpf, nint

BLOCK = 2**17  # numbers made at once, so that they stay in the processor's cache; even
SPARE_BYTES = 16  # what a cipher wants free behind its output
ROUNDING = 2.0**-45
"""Bound on the error of a fp64 Gaussian, over its radius: some 40 times what was measured against 400 bits."""
FURTHER_BITS = 256


class SecureGenerator:
    """AES-256 in counter mode (NIST SP 800-38A), under a key from the operating system that is kept nowhere else.

    torch's own generators will not do. That of a CPU, a Mersenne Twister, is linear: some 20,000 bits of its numbers
    tell all others, before and after, however well it was seeded (docs/decisions/0006). A `key` of 32 bytes is given
    only where numbers must repeat, as in tests: whoever has it has all numbers.
    """

    def __init__(self, key: bytes | None = None) -> None:
        key = secrets.token_bytes(32) if key is None else key
        self._cipher = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def uniform(self, count: int) -> torch.Tensor:
        """`count` numbers from 0 up to, but not, 1: fp64, multiples of 2^-53, on the CPU."""
        words = torch.frombuffer(bytearray(self._cipher.update(bytes(8 * count))), dtype=torch.int64)
        return _unit_interval(words, torch.empty(count, dtype=torch.float64))

    def rounded_normal(self, count: int, deviation: float) -> torch.Tensor:
        """`count` independent numbers of a normal distribution around zero, each rounded to the nearest integer.

        Made in pairs (Box and Muller 1958) in fp64. The two uniform numbers of a pair are known to 53 bits, and fp64
        rounds; so each value is known up to an error. Where a value lies so close to a half that the error could
        change its integer (4e-8 of pairs at a deviation of 2^18), further random bits are drawn and the pair is
        computed anew with 400 bits. Given random bits, every integer therefore has its exact probability, the far tail
        included. `deviation`, above 0, is before rounding. Returns fp64 `(count,)`, on the CPU.
        """
        made = torch.empty(count + count % 2, dtype=torch.float64)
        # Memory is asked for once and then written over: to get it anew takes longer than to make the numbers.
        zeros, stream = bytes(8 * BLOCK), bytearray(8 * BLOCK + SPARE_BYTES)
        words = torch.frombuffer(stream, dtype=torch.int64)[:BLOCK]
        uniform, cosines = torch.empty(BLOCK, dtype=torch.float64), torch.empty(BLOCK // 2, dtype=torch.float64)
        for part in made.split(BLOCK):
            self._cipher.update_into(zeros, stream)
            first, second = _unit_interval(words, uniform).view(2, -1)
            radii = torch.log1p(-first).mul_(-2).sqrt_()
            # How much further bits of `first` can add to the radius (infinite at its ends), and what fp64 rounds off.
            errors = (1 - 2.0**-53 - first).mul_(radii).reciprocal_().mul_(2.0**-52).add_(radii, alpha=ROUNDING)
            errors.mul_(deviation)
            radii.mul_(deviation)
            angles = second * (2 * math.pi)
            torch.cos(angles, out=cosines).mul_(radii)
            angles.sin_().mul_(radii)
            half = len(part) // 2
            unsure = torch.zeros(half, dtype=torch.bool)
            for place, values in zip(part.view(2, -1), (cosines[:half], angles[:half]), strict=True):
                torch.round(values, out=place)
                unsure |= ~((values - place).abs_().sub_(0.5).neg_() > errors[:half])  # so that NaN is unsure too
            for pair in unsure.nonzero().flatten().tolist():
                part.view(2, -1)[:, pair] = self._exact_pair(float(first[pair]), float(second[pair]), deviation)
        return made[:count]

    def _exact_pair(self, first: float, second: float, deviation: float) -> torch.Tensor:
        """The two integers of a pair of uniform numbers that are continued by further random bits."""
        with mp.workprec(400):
            radius, turn = (
                (mpf(number) * 2**53 + self._further_bits()) / 2**53 for number in (first, second)
            )  # each from its 53 bits up to, but not, the next number
            length = mpf(deviation) * mp.sqrt(-2 * mp.log(1 - radius))
            pair = [int(nint(length * wave(2 * mp.pi * turn))) for wave in (mp.cos, mp.sin)]
        return torch.tensor(pair, dtype=torch.float64)

    def _further_bits(self) -> mpf:
        """A number from 0 to 1 with `FURTHER_BITS` bits."""
        bits = int.from_bytes(self._cipher.update(bytes(FURTHER_BITS // 8)), "big")
        return (mpf(bits) + mpf(0.5)) / mpf(2) ** FURTHER_BITS


def _unit_interval(words: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Turn 64 random bits each into fp64 from 0 up to, but not, 1; every one of the 2^53 values is as likely."""
    return uniform.copy_(words.bitwise_right_shift_(11)).mul_(2.0**-53).add_(0.5)
