"""How unlikely a model finds texts, as membership inference and canaries need it: to many digits, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from helpers.errors import EvaluationError
from helpers.files import Record
from helpers.models import first_behind, record_tokens
from helpers.row_losses import batch_of, row_losses

Floats = npt.NDArray[np.float64]


def text_losses(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    batch_size: int = 16,
    prefixes: Sequence[str] | None = None,
    per_token: bool = False,
    title: str = "losses",
) -> Floats:
    """Negative log-likelihood of each text, or of what follows its prefix; the end-of-text token is left out.

    Args:
        model: a causal language model or a PeftModel; scored without dropout.
        tokenizer: its tokenizer; on which side it pads makes no difference.
        texts: raw texts, put into no chat template.
        batch_size: texts scored at once.
        prefixes: the start of each text that is given, not scored. A token across the border is scored.
        per_token: the mean over the scored tokens instead of their sum.
        title: of the progress bar, shown after two seconds.

    Returns:
        float64 `(n_texts,)`, nats, 0 or more; row *i* belongs to text *i*.

    Raises:
        EvaluationError: a prefix does not begin its text, nothing is left to score, or the model gives no number.
    """
    rows = [record_tokens(tokenizer, text, whole=False) for text in texts]
    # The start token that training puts before a text gives its first word a likelihood too.
    begins = [1] * len(rows) if prefixes is None else _after_prefixes(tokenizer, texts, prefixes, rows)
    for number, (row, begin) in enumerate(zip(rows, begins, strict=True)):
        if begin >= len(row):
            raise EvaluationError(f"Text {number} of {len(rows)} has no token to score. Leave empty texts out.")
    # Longest first, so that memory runs out at once or never.
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    losses = np.zeros(len(rows))
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), tqdm(total=len(rows), desc=title, delay=2) as bar:
            for at in range(0, len(order), batch_size):
                batch = order[at : at + batch_size]
                inputs = batch_of([rows[i] for i in batch], [begins[i] for i in batch], 0, model.device)
                losses[batch] = row_losses(model, inputs).cpu().numpy()
                bar.update(len(batch))
    finally:
        model.train(was_training)
    if not np.isfinite(losses).all():
        raise EvaluationError(f"The model gives no finite loss for {int((~np.isfinite(losses)).sum())} texts.")
    return losses / [len(row) - begin for row, begin in zip(rows, begins, strict=True)] if per_token else losses


def _after_prefixes(
    tokenizer: Any, texts: Sequence[str], prefixes: Sequence[str], rows: Sequence[list[int]]
) -> list[int]:
    begins = []
    for number, (text, prefix, row) in enumerate(zip(texts, prefixes, rows, strict=True)):
        if not text.startswith(prefix):
            raise EvaluationError(f"Text {number} of {len(rows)} does not begin with its prefix.")
        begins.append(first_behind(tokenizer, prefix, row))
    return begins


def record_losses(model: Any, tokenizer: Any, records: Sequence[Record], *, title: str = "losses") -> Floats:
    """What private training lowers, but for the stop token: the mean over the tokens of what follows a question.

    Args:
        model: a causal language model or a PeftModel.
        tokenizer: its tokenizer.
        records: rows with `text` and the `question` that it begins with; without one, the whole text is scored.
        title: of the progress bar.

    Returns:
        float64 `(n_records,)`, nats a token.
    """
    questions = [record.get("question", "") for record in records]
    return text_losses(
        model, tokenizer, [record["text"] for record in records], prefixes=questions, per_token=True, title=title
    )


def mean_loss(model: Any, tokenizer: Any, records: Sequence[Record]) -> float:
    """Mean of `record_losses`, in nats."""
    return float(record_losses(model, tokenizer, records).mean())
