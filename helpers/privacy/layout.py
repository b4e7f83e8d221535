"""The records of some patients laid out one behind another, and attention of each record to itself alone.

All shapes follow from a record's own length only; `helpers.privacy.patient_gradients` says why.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from helpers.errors import PrivacyError
from helpers.privacy.units import Unit

BLOCK = 512  # tokens that a linear layer multiplies at once
ATTENTION = "record_by_record"
LENGTHS = 16  # attention computes a record at its length rounded up to a multiple of this
GROUP = 8  # records that attention computes at once


@dataclass
class Part:
    """Patients whose records are computed in one pass; tensors are int64 but for `weights`, which are fp32.

    In `padded` each record is filled up to a multiple of `LENGTHS`, and records of one length to groups of `GROUP`, all
    with the last padding token.
    """

    ids: torch.Tensor  # `(1, tokens)`: token ids of all records, filled up to whole blocks
    positions: torch.Tensor  # `(1, tokens)`: of each token in its record
    tokens: list[int]  # of each patient, whose records lie together; the filling comes last
    padded: torch.Tensor  # places of the records' tokens
    groups: list[tuple[slice, int]]  # slices of `padded`, with the length of the records in each
    unpadded: torch.Tensor  # `(tokens,)`: for each token its place in `padded`
    learnt: torch.Tensor  # places from which a learnt token is predicted, filled up to whole blocks with the last place
    targets: torch.Tensor  # `(learnt,)`: the learnt tokens, without filling
    weights: torch.Tensor  # `(learnt,)`: of each learnt token in its patient's loss


def lay_out(units: Sequence[Unit], device: Any) -> Part:
    """Lay the records of some patients one behind another.

    Each record's loss is the mean over its own learnt tokens: a mean over all tokens of a batch would let one
    patient's long record scale every other patient's gradient, and clipping would bound nothing.
    """
    ids: list[int] = []
    places: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    records: list[range] = []  # places of each record's tokens
    for unit in units:
        for (row, begin), times in unit.distinct.items():  # equal records are computed once
            records.append(range(len(ids), len(ids) + len(row)))
            places += records[-1][begin - 1 : -1]
            targets += row[begin:]
            weights += [times / (len(row) - begin)] * (len(row) - begin)
            ids += row
    filling = -len(ids) % BLOCK or BLOCK  # at least one token of nobody, for the places that fill up `learnt`
    nobody = len(ids) + filling - 1
    positions = [place for record in records for place in range(len(record))] + [0] * filling
    padded, groups = _groups([range(nobody, nobody + 1), *records], nobody)  # a record of nobody begins `padded`
    ids += [0] * filling
    unpadded = torch.empty(len(ids), dtype=torch.long)
    unpadded[padded] = torch.arange(len(padded))
    unpadded[-filling:] = 0  # not a place behind somebody's record, where values may be infinite
    return Part(
        torch.tensor([ids], device=device),
        torch.tensor([positions], device=device),
        [sum(len(row) for row, _ in unit.distinct) for unit in units],
        padded.to(device),
        groups,
        unpadded.to(device),
        torch.tensor(places + [nobody] * (-len(places) % BLOCK), dtype=torch.long, device=device),
        torch.tensor(targets, dtype=torch.long, device=device),
        torch.tensor(weights, device=device),
    )


def _groups(records: Sequence[range], nobody: int) -> tuple[torch.Tensor, list[tuple[slice, int]]]:
    """`padded` and `groups` of a `Part`."""
    by_length: dict[int, list[list[int]]] = {}
    for record in records:
        length = -(-len(record) // LENGTHS) * LENGTHS
        by_length.setdefault(length, []).append([*record, *[nobody] * (length - len(record))])
    padded: list[int] = []
    groups = []
    for length, of_length in by_length.items():
        of_length += [[nobody] * length] * (-len(of_length) % GROUP)
        for first in range(0, len(of_length), GROUP):
            groups.append((slice(len(padded), len(padded) + GROUP * length), length))
            padded += [place for filled in of_length[first : first + GROUP] for place in filled]
    return torch.tensor(padded), groups


class _Attention(torch.autograd.Function):  # type: ignore[misc]
    """Causal attention within groups of `GROUP` records of one padded length; `heads, tokens, numbers` in and out."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, part: Part
    ) -> torch.Tensor:
        shared = len(query) // len(key)  # heads that read the same keys
        query, key, value = (states.index_select(1, part.padded) for states in (query, key, value))
        kept, outputs = [], torch.empty(*query.shape[:2], value.shape[2], dtype=value.dtype, device=value.device)
        for span, length in part.groups:
            own = [_regrouped(each[:, span], by, GROUP) for each, by in ((query, shared), (key, 1), (value, 1))]
            future = torch.full((length, length), -torch.inf, dtype=query.dtype, device=query.device).triu(1)
            scores = torch.baddbmm(future.repeat(shared, 1), own[0], own[1].mT, alpha=scaling)
            chances = scores.softmax(dim=-1)
            outputs[:, span] = _regrouped(torch.bmm(chances, own[2]), GROUP, shared)
            kept += [*own, chances]
        ctx.save_for_backward(*kept)
        ctx.scaling, ctx.part, ctx.shared = scaling, part, shared
        return outputs.index_select(1, part.unpadded)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        part, kept = ctx.part, ctx.saved_tensors
        grads = outer[0].index_select(1, part.padded)  # the filling, which stands in for all padding, has none
        found: list[list[torch.Tensor]] = [[], [], []]
        for number, (span, _) in enumerate(part.groups):
            query, key, value, chances = kept[4 * number : 4 * number + 4]
            grad = _regrouped(grads[:, span], ctx.shared, GROUP)
            back = torch.bmm(grad, value.mT)
            scores = torch._softmax_backward_data(back, chances, -1, query.dtype).mul_(ctx.scaling)
            found[0].append(_regrouped(torch.bmm(scores, key), GROUP, ctx.shared))
            found[1].append(_regrouped(torch.bmm(scores.mT, query), GROUP, 1))
            found[2].append(_regrouped(torch.bmm(chances.mT, grad), GROUP, 1))
        return *(torch.cat(each, dim=1).index_select(1, part.unpadded) for each in found), None, None


def _regrouped(states: torch.Tensor, outer: int, inner: int) -> torch.Tensor:
    """`(any * outer, inner * length, numbers)` as `(any * inner, outer * length, numbers)`.

    Thus heads that read the same keys come to stand one below another, record by record, and no key is copied for each.
    """
    return states.unflatten(0, (-1, outer)).unflatten(2, (inner, -1)).transpose(1, 2).flatten(0, 1).flatten(1, 2)


PARTS: list[Part] = []  # the part that is computed now, for `attend_record_by_record`


def attend_record_by_record(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,  # never done: masks would depend on who else was drawn
    **further: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of each record to itself alone, by transformers' attention interface: `(1, heads, tokens, ...)`.

    Raises PrivacyError if the model asks for a window shorter than a record, capped or added scores.
    """
    part = PARTS[-1]
    asked = [name for name in ("softcap", "s_aux", "position_bias") if further.get(name) is not None]
    window = further.get("sliding_window")
    if window is not None and max(length for _, length in part.groups) > window:
        asked.append("sliding_window")
    if asked or not getattr(module, "is_causal", True):
        raise PrivacyError(
            f"{type(module).__name__} asks for {', '.join(asked) or 'another mask'}, which private training does not "
            "compute. Choose another base model, or a privacy.max_length_tokens within its window."
        )
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _Attention.apply(query[0], key[0], value[0], scaling, part).transpose(0, 1)[None], None


AttentionInterface.register(ATTENTION, attend_record_by_record)
