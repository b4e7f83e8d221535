"""Patients as training sees them: rows of tokens that belong together, drawn, clipped and weighted as one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from transformers import PreTrainedTokenizerBase

from helpers.data.example import Example
from helpers.errors import PrivacyError
from helpers.models.tokens import learnt_rows
from helpers.privacy.secure_random import SecureGenerator

Row = tuple[int, ...]


@dataclass(frozen=True)
class Unit:
    """One patient: the token ids of each record, and for each the first token that is learnt, 1 or more.

    Tokens before that one are only read, like a question. Without `begins`, all but the start token are learnt.
    """

    name: str
    rows: tuple[Row, ...] = field(repr=False)  # a tokenizer turns them back into records
    begins: tuple[int, ...] = field(default=(), repr=False)

    @cached_property
    def distinct(self) -> dict[tuple[Row, int], int]:
        """Each different record, where it is learnt from and how often it comes: equal ones are computed once."""
        return dict(Counter(zip(self.rows, self.begins or [1] * len(self.rows), strict=True)))


def encode_units(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, *, max_length_tokens: int
) -> list[Unit]:
    """Group examples by patient, their `unit`, in the order in which patients first appear.

    Raises PrivacyError, which shows no record, if an example has no unit or is too long, or patients are fewer than 2.
    """
    if not all(example.unit for example in examples):
        raise PrivacyError("Some examples have no unit, so that what each patient adds to training cannot be bounded.")
    rows: dict[str, list[tuple[Row, int]]] = {}
    for example, row in zip(examples, learnt_rows(examples, tokenizer), strict=True):
        rows.setdefault(example.unit, []).append(row)
    if len(rows) < 2:
        raise PrivacyError(f"Patients with records: {len(rows)}; expected 2 or more. Join more records.")
    if any(len(row) > max_length_tokens for of_unit in rows.values() for row, _ in of_unit):
        raise PrivacyError(
            f"Some records are longer than privacy.max_length_tokens = {max_length_tokens} tokens. Raise it, "
            "or take long records out of the holders' files; none is cut in silence."
        )
    return [Unit(name, *zip(*of_unit, strict=True)) for name, of_unit in rows.items()]


def draw(count: int, sample_rate: float, generator: SecureGenerator) -> list[int]:
    """Poisson sampling: each of `count` units independently, so that batches differ in size and may be empty."""
    # In fp64: the 24 bits of fp32 would make the rate a little other than the one accounted for.
    return [int(position) for position in (generator.uniform(count) < sample_rate).nonzero().flatten()]


def shuffled(count: int, size: int, step: int, seed: int) -> list[int]:
    """The `size` units of step `step`, from 0, out of passes over all `count` units, each in an order of its own.

    Among themselves the first units stand in the same order however many follow them. No accountant here covers it.
    """
    places = range(step * size, (step + 1) * size)
    orders = {
        number: torch.rand(count, generator=torch.Generator().manual_seed(1_000_003 * seed + number))
        .argsort(stable=True)
        .tolist()
        for number in {place // count for place in places}
    }
    return [orders[place // count][place % count] for place in places]
