"""How unlikely a model finds what is learnt of examples, to many digits, as membership inference needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from helpers.data.example import Example
from helpers.errors import EvaluationError
from helpers.models.losses import batch_of, row_losses
from helpers.models.tokens import learnt_rows

Floats = npt.NDArray[np.float64]

BATCH = 16  # examples scored at once


def example_losses(model: Any, tokenizer: Any, examples: Sequence[Example]) -> Floats:
    """Mean loss of the learnt tokens of each example, what training minimises: float64 `(n_examples,)`, nats a token.

    The model is put into evaluation mode. Raises EvaluationError if it gives no number.
    """
    rows = learnt_rows(examples, tokenizer)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i][0]))  # so that memory runs out at once or never
    losses = np.zeros(len(rows))
    model.eval()
    with torch.inference_mode():
        for at in tqdm(range(0, len(order), BATCH), desc="losses", delay=2):
            batch = order[at : at + BATCH]
            inputs = batch_of([rows[i][0] for i in batch], [rows[i][1] for i in batch], 0, model.device)
            losses[batch] = row_losses(model, inputs).cpu().numpy()
    if not np.isfinite(losses).all():
        raise EvaluationError(f"The model gives no finite loss for {int((~np.isfinite(losses)).sum())} examples.")
    return losses / [len(row) - begin for row, begin in rows]
