"""How unlikely a model finds what is learnt of each row of a batch: what training lowers and audits compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

IGNORED = -100
"""The label that carries no loss, by torch's convention."""


def batch_of(rows: Sequence[Sequence[int]], begins: Sequence[int], pad_token: int, device: Any) -> dict[str, Any]:
    """`input_ids`, `attention_mask` and `labels` of rows, int64 `(rows, longest)`, padded on the right.

    Args:
        rows: token ids.
        begins: for each row, the first token that is learnt, 1 or more.
        pad_token: fills rows up to the longest; it stands behind everything that counts, and the mask hides it.
        device: where the model is.
    """
    shape = (len(rows), max(map(len, rows)))
    ids, mask, labels = torch.full(shape, pad_token), torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORED)
    for number, (row, begin) in enumerate(zip(rows, begins, strict=True)):
        ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
        labels[number, begin : len(row)] = torch.tensor(row[begin:])
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}


def row_losses(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Negative log-likelihood of each row's learnt tokens, summed, in nats; fp32 `(rows,)`.

    Logits are computed only where a row learns. The positions go to the model as a tensor, not as the number of last
    ones: a slice of the hidden states is not contiguous, and on a CPU torch then copies the output layer once a row
    (0.9 GB and a second for 16 rows of SmolLM2; docs/decisions/0005).

    Args:
        model: a causal language model.
        batch: what the model takes, and `labels`: token ids, `IGNORED` where nothing is learnt.
    """
    given = {name: value for name, value in batch.items() if name != "labels"}
    targets = batch["labels"][:, 1:]  # the token at a position is predicted from the one before
    learnt = targets != IGNORED
    positions = learnt.any(dim=0).nonzero().squeeze(1)
    logits = model(**given, logits_to_keep=positions, use_cache=False).logits
    learnt, targets = learnt[:, positions], targets[:, positions]
    nats = cross_entropy(logits[learnt].float(), targets[learnt], reduction="none")
    return torch.zeros(len(targets), device=nats.device).index_add(0, learnt.nonzero()[:, 0], nats)
