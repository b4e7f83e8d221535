"""Random numbers that nobody can foretell or draw again: the coins and the noise of private training."""

from __future__ import annotations

import math
import secrets

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

BLOCK = 2**17
"""Numbers made at once, so that they stay near the processor; even."""
SPARE_BYTES = 16
"""What a cipher wants free behind its output."""


class SecureGenerator:
    """AES-256 in counter mode (NIST SP 800-38A), under a key from the operating system that is kept nowhere else.

    torch's own generators will not do. That of a CPU, a Mersenne Twister, is linear: some 20,000 bits of its numbers
    tell all others, before and after, however well it was seeded (docs/decisions/0006).

    Args:
        key: 32 bytes; only where numbers must repeat, as in tests. Whoever has it has all numbers.
    """

    def __init__(self, key: bytes | None = None) -> None:
        key = secrets.token_bytes(32) if key is None else key
        self._cipher = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def uniform(self, count: int) -> torch.Tensor:
        """`count` numbers from 0 up to, but not, 1: fp64, multiples of 2^-53, on the CPU."""
        words = torch.frombuffer(bytearray(self._cipher.update(bytes(8 * count))), dtype=torch.int64)
        return _unit_interval(words, torch.empty(count, dtype=torch.float64))

    def normal(self, count: int, deviation: float) -> torch.Tensor:
        """`count` numbers of a normal distribution around zero: fp32, on the CPU.

        Made in pairs (Box and Muller 1958), in fp64: they reach 8.5 deviations, torch's own in fp32 end at 5.8.
        """
        made = torch.empty(count + count % 2, dtype=torch.float32)
        # Memory is asked for once and then written over: to get it anew takes longer than to make the numbers.
        zeros, stream = bytes(8 * BLOCK), bytearray(8 * BLOCK + SPARE_BYTES)
        words = torch.frombuffer(stream, dtype=torch.int64)[:BLOCK]
        uniform, cosines = torch.empty(BLOCK, dtype=torch.float64), torch.empty(BLOCK // 2, dtype=torch.float64)
        for part in made.split(BLOCK):
            self._cipher.update_into(zeros, stream)
            lengths, angles = _unit_interval(words, uniform).view(2, -1)
            lengths.neg_().log1p_().mul_(-2 * deviation**2).sqrt_()
            angles.mul_(2 * math.pi)
            torch.cos(angles, out=cosines).mul_(lengths)
            angles.sin_().mul_(lengths)
            first, second = part.view(2, -1)
            first.copy_(cosines[: len(first)])
            second.copy_(angles[: len(second)])
        return made[:count]


def _unit_interval(words: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Turn 64 random bits each into fp64 from 0 up to, but not, 1; every one of the 2^53 values is as likely."""
    return uniform.copy_(words.bitwise_right_shift_(11)).mul_(2.0**-53).add_(0.5)
