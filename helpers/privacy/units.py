"""Patients as training sees them: rows of tokens that belong together, drawn, packed and weighted as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from helpers.errors import PrivacyError
from helpers.files import Record
from helpers.models import first_behind, record_tokens
from helpers.privacy.secure_random import SecureGenerator
from helpers.row_losses import batch_of, row_losses

Row = tuple[int, ...]


@dataclass(frozen=True)
class Unit:
    """One patient.

    Attributes:
        name: the patient's.
        rows: the token ids of each of their records.
        begins: for each record, the first token that is learnt, 1 or more: those before are given, as questions are.
            Empty: all but the start token are learnt.
    """

    name: str
    rows: tuple[Row, ...] = field(repr=False)  # a tokenizer turns them back into records
    begins: tuple[int, ...] = field(default=(), repr=False)

    @cached_property
    def distinct(self) -> dict[tuple[Row, int], int]:
        """Each different record, where it is learnt from and how often it comes: equal ones are computed once."""
        return dict(Counter(zip(self.rows, self.begins or [1] * len(self.rows), strict=True)))


def encode_units(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, *, max_length_tokens: int
) -> list[Unit]:
    """Group records by patient, in the order in which patients first appear.

    Args:
        records: rows with `unit`, `text` and the `question` that it begins with, which is read and not learnt; without
            one, the whole text is learnt.
        tokenizer: of the base model.
        max_length_tokens: longest record.

    Raises:
        PrivacyError: fewer than two patients, or records that are too long; no record is shown.
    """
    rows: dict[str, list[tuple[Row, int]]] = {}
    for record in records:
        row = tuple(record_tokens(tokenizer, record["text"]))
        rows.setdefault(record["unit"], []).append((row, first_behind(tokenizer, record.get("question", ""), row)))
    if len(rows) < 2:
        raise PrivacyError(f"There is {len(rows)} patient. Privacy needs others to disappear among: join more records.")
    if any(len(row) > max_length_tokens for of_unit in rows.values() for row, _ in of_unit):
        raise PrivacyError(
            f"Some records are longer than private.max_length_tokens = {max_length_tokens} tokens. Raise it, "
            "or take long records out of the holders' files; none is cut in silence."
        )
    return [
        Unit(name, tuple(row for row, _ in of_unit), tuple(begin for _, begin in of_unit))
        for name, of_unit in rows.items()
    ]


def draw(count: int, sample_rate: float, generator: SecureGenerator) -> list[int]:
    """Poisson sampling: each of `count` units by a coin of its own, so that batches differ in size and may be empty."""
    # Coins of fp64: 24 bits would make the rate a little other than the one accounted for.
    return [int(position) for position in (generator.uniform(count) < sample_rate).nonzero().flatten()]


def shuffled(count: int, size: int, step: int, seed: int) -> list[int]:
    """The `size` units of step `step`, from 0, out of passes over all `count` units, each in an order of its own.

    Among themselves the first units stand in the same order however many follow them.
    Ordinary training: everybody comes equally often, but for the last pass. Accountants of coins do not cover it.
    """
    places = range(step * size, (step + 1) * size)
    orders = {
        number: torch.rand(count, generator=torch.Generator().manual_seed(1_000_003 * seed + number))
        .argsort(stable=True)
        .tolist()
        for number in {place // count for place in places}
    }
    return [orders[place // count][place % count] for place in places]


def micro_batches(units: Sequence[Unit], rows: int) -> Iterator[list[Unit]]:
    """Cut a batch into parts of at most `rows` different records, units of similar length together and none split.

    The longest come first: what they free is room enough for those behind, and memory runs out at once or never. A unit
    with more records than that makes a part of its own. At least one part comes, empty where the batch is: an empty
    batch is a step like others.
    """
    part: list[Unit] = []
    filled = 0
    for unit in sorted(units, key=lambda unit: max(len(row) for row in unit.rows), reverse=True):
        if part and filled + len(unit.distinct) > rows:
            yield part
            part, filled = [], 0
        part.append(unit)
        filled += len(unit.distinct)
    yield part


def unit_of_row(units: Sequence[Unit]) -> torch.Tensor:
    """For each row that `unit_losses` computes, the position of its unit: int64 `(rows,)`."""
    return torch.tensor([number for number, unit in enumerate(units) for _ in unit.distinct], dtype=torch.long)


def unit_losses(model: Any, units: Sequence[Unit], *, pad_token: int) -> torch.Tensor:
    """Sum over a unit's records of the mean negative log-likelihood of what is learnt of them, nats; fp32 `(units,)`.

    Each mean is over one record alone. A mean over the tokens of the batch would let one patient's long record
    scale every other patient's gradient, and clipping would bound nothing.

    Args:
        model: a causal language model.
        units: the micro-batch.
        pad_token: fills rows up to the longest, on the right.
    """
    rows = [row for unit in units for row, _ in unit.distinct]
    begins = [begin for unit in units for _, begin in unit.distinct]
    # A record counts as often as it comes, by the mean over its tokens.
    weights = [times / (len(row) - begin) for unit in units for (row, begin), times in unit.distinct.items()]
    losses = row_losses(model, batch_of(rows, begins, pad_token, model.device))
    weighted = losses * torch.tensor(weights, device=losses.device)
    return torch.zeros(len(units), device=losses.device).index_add(0, unit_of_row(units).to(losses.device), weighted)
