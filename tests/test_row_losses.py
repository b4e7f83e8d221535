"""Losses of rows: the right numbers, without copies of the output layer."""

from __future__ import annotations

import pytest
import torch

from helpers.models.load import load_base
from helpers.models.losses import SHORTEST, batch_of, row_losses


def test_the_loss_of_a_row_is_that_of_its_learnt_tokens_alone(tiny: str) -> None:
    model = load_base("tiny-random")
    rows, begins = [[5, 6, 7, 8, 9], [10, 11, 12]], [3, 1]
    told = row_losses(model, batch_of(rows, begins, 0, model.device))
    for row, begin, loss in zip(rows, begins, told, strict=True):
        chances = model(input_ids=torch.tensor([row])).logits[0].float().log_softmax(dim=-1)
        alone = -sum(float(chances[at - 1, row[at]]) for at in range(begin, len(row)))
        assert float(loss) == pytest.approx(alone, rel=1e-3)


def test_no_batch_is_so_short_that_its_sums_have_another_order(tiny: str) -> None:
    batch = batch_of([[5, 6, 7], [8, 9]], [1, 1], 0, "cpu")
    assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["labels"].shape == (2, SHORTEST)
    assert batch["attention_mask"].sum() == 5 and (batch["labels"] != -100).sum() == 3


def test_the_output_layer_gets_learnt_positions_only(tiny: str) -> None:
    model = load_base("tiny-random")
    seen: list[torch.Tensor] = []
    model.lm_head.register_forward_hook(lambda _, given, logits: seen.append(given[0]))
    # Before tokens 4 and 1, at different places of their rows.
    row_losses(model, batch_of([[5, 6, 7, 8, 9], [10, 11]], [4, 1], 0, model.device))
    assert seen[0].shape[:2] == (2, 1)
    assert seen[0].is_contiguous()  # otherwise torch copies the layer's weights once a row
    model(input_ids=torch.tensor([[5, 6, 7]]))
    assert seen[1].shape[:2] == (1, 3)  # and all of them afterwards, as before


def test_a_batch_without_a_learnt_token_has_no_loss(tiny: str) -> None:
    model = load_base("tiny-random")
    batch = batch_of([[5, 6, 7], [8, 9]], [3, 2], 0, model.device)
    assert row_losses(model, batch).tolist() == [0.0, 0.0]
