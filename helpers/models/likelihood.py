"""How unlikely a model finds records, as membership inference and canaries need it: to many digits, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from helpers.errors import EvaluationError
from helpers.files import Record
from helpers.models.losses import batch_of, row_losses

Floats = npt.NDArray[np.float64]

BATCH = 16
"""Records scored at once."""


def record_tokens(tokenizer: PreTrainedTokenizerBase, text: str, *, whole: bool = True) -> list[int]:
    """The tokens of a plain text, outside any chat: a start token, the text and, where it is whole, the stop token.

    The start token lets a model be asked for a record from nothing; a tokenizer without one starts with its stop token.
    """
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    inside = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [start, *inside, *([tokenizer.eos_token_id] if whole else [])]


def first_behind(tokenizer: PreTrainedTokenizerBase, start: str, row: Sequence[int]) -> int:
    """Where in a text's tokens what follows its start begins; 1 or more, behind the start token.

    The text keeps the tokens that it has as a whole. A token across the border belongs to what follows.

    Args:
        tokenizer: of the model.
        start: the beginning of the text; may be empty.
        row: from `record_tokens` of the text.
    """
    given = record_tokens(tokenizer, start, whole=False)
    shared = (at for at, (one, other) in enumerate(zip(given, row, strict=False)) if one != other)
    return next(shared, len(given))


def record_losses(model: Any, tokenizer: Any, records: Sequence[Record]) -> Floats:
    """Mean loss of the tokens after the question: what private training minimises, without the stop token.

    Args:
        model: a causal language model or a PeftModel; it is put into evaluation mode.
        tokenizer: its tokenizer; on which side it pads makes no difference.
        records: rows with `text` and the `question` that it begins with; without one, the whole text is scored. A
            token across the border is scored.

    Returns:
        float64 `(n_records,)`, nats a token, 0 or more.

    Raises:
        EvaluationError: a text does not begin with its question or ends with it, or the model gives no number.
    """
    rows = [record_tokens(tokenizer, record["text"], whole=False) for record in records]
    begins = []
    for number, (record, row) in enumerate(zip(records, rows, strict=True)):
        question = record.get("question", "")
        # The start token that training puts before a text gives its first word a likelihood too.
        begins.append(first_behind(tokenizer, question, row))
        if not record["text"].startswith(question) or begins[-1] >= len(row):
            raise EvaluationError(
                f"Record {number} of {len(records)} does not begin with its question, or has no token behind it to "
                "score. Leave it out."
            )
    # Longest first, so that memory runs out at once or never.
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    losses = np.zeros(len(rows))
    model.eval()
    with torch.inference_mode():
        for at in tqdm(range(0, len(order), BATCH), desc="losses", delay=2):
            batch = order[at : at + BATCH]
            inputs = batch_of([rows[i] for i in batch], [begins[i] for i in batch], 0, model.device)
            losses[batch] = row_losses(model, inputs).cpu().numpy()
    if not np.isfinite(losses).all():
        raise EvaluationError(f"The model gives no finite loss for {int((~np.isfinite(losses)).sum())} records.")
    return losses / [len(row) - begin for row, begin in zip(rows, begins, strict=True)]
