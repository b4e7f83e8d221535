"""How unlikely a model finds what is learnt of each row of a batch: what training lowers and audits compare."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

IGNORED = -100
"""The label that carries no loss, by torch's convention."""

SHORTEST = 16
"""Rows are padded to so many tokens at least: below the SIMD width the kernel sums in another order, so that a row's
result would depend on its batch (docs/decisions/0006)."""


def batch_of(rows: Sequence[Sequence[int]], begins: Sequence[int], pad_token: int, device: Any) -> dict[str, Any]:
    """`input_ids`, `attention_mask` and `labels` of rows of token ids, int64 `(rows, SHORTEST or more)`, padded right.

    `begins`: for each row the index of its first learnt token, 1 or more. `pad_token` can be any: the mask hides it.
    """
    shape = (len(rows), max(SHORTEST, *map(len, rows)))
    ids, mask, labels = torch.full(shape, pad_token), torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORED)
    for number, (row, begin) in enumerate(zip(rows, begins, strict=True)):
        ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
        labels[number, begin : len(row)] = torch.tensor(row[begin:])
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}


def row_losses(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Negative log-likelihood of each row's learnt tokens, summed, in nats; fp32 `(rows,)`.

    The output layer, a fifth of a small model's work, is given each row's learnt positions alone, where `labels` are
    not `IGNORED`. A hook picks them: the model's own `logits_to_keep` takes the same positions of every row. Rows
    stay apart, so that an adapter there still has a gradient for each.
    """
    given = {name: value for name, value in batch.items() if name != "labels"}
    targets = batch["labels"][:, 1:]  # the token at a position is predicted from the one before
    learnt = targets != IGNORED
    # The learnt positions of each row, in order, then others up to the length of the longest.
    places = (~learnt).int().argsort(dim=1, stable=True)[:, : int(learnt.sum(dim=1).max())]

    def pick(_: Any, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        (states,) = inputs
        return states.gather(1, places[:, :, None].expand(-1, -1, states.shape[2]))

    hook = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        logits = model(**given, use_cache=False).logits
    finally:
        hook.remove()
    learnt, targets = learnt.gather(1, places), targets.gather(1, places)
    nats = cross_entropy(logits[learnt].float(), targets[learnt], reduction="none")
    return torch.zeros(len(targets), device=nats.device).index_add(0, learnt.nonzero()[:, 0], nats)
