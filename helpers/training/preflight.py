"""An audit before training: what would silently waste the next minutes stops here, with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from helpers.data.example import Example
from helpers.errors import TrainingError
from helpers.models.generate import stop_tokens
from helpers.models.losses import IGNORED


def audit(
    trainer: Any,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Example],
    *,
    max_length_tokens: int,
) -> dict[str, Any]:
    """Check data, mask, stop token and gradients of a trainer that has not begun.

    Args:
        trainer: an `SFTTrainer`, its adapters in place.
        tokenizer: what the model will be served with.
        records: the training records, in the order of the trainer's dataset.
        max_length_tokens: longest conversation allowed.

    Returns:
        `{"longest_tokens", "learnt_tokens", "masked_tokens", "adapter_tensors", "gradient_tensors"}`.

    Raises:
        TrainingError: naming the first fault found.
    """
    rows = trainer.train_dataset
    lengths = [len(row["input_ids"]) for row in rows]
    too_long = [r.id for r, length in zip(records, lengths, strict=True) if length > max_length_tokens]
    if too_long:
        raise TrainingError(
            f"{len(too_long)} conversation(s) are longer than max_length_tokens = {max_length_tokens} (longest "
            f"{max(lengths)}): {', '.join(too_long[:5])}. Raise it, or shorten them; none is cut in silence."
        )
    check_serving_tokens(rows, tokenizer, records)
    labels = check_mask(trainer, tokenizer, records)
    flowing = check_gradients(trainer)
    return {
        "longest_tokens": max(lengths),
        "learnt_tokens": int((labels != IGNORED).sum()),
        "masked_tokens": int((labels == IGNORED).sum()),
        "adapter_tensors": flowing[0],
        "gradient_tensors": flowing[1],
    }


def check_serving_tokens(rows: Any, tokenizer: PreTrainedTokenizerBase, records: Sequence[Example]) -> None:
    """The prompt's tokens in training equal those that serving will send.

    Raises:
        TrainingError: they differ; a model tuned on one template answers badly under another.
    """
    for row, record in zip(rows, records[:32], strict=False):
        text = tokenizer.apply_chat_template(list(record.prompt), add_generation_prompt=True, tokenize=False)
        served = tokenizer(text, add_special_tokens=False)["input_ids"]
        if list(row["input_ids"][: len(served)]) != list(served):
            raise TrainingError(
                f"Training and serving tokens differ for {record.id}: the chat template writes another prompt when "
                "it trains. Use the tokenizer's own template in both places."
            )


def check_mask(trainer: Any, tokenizer: PreTrainedTokenizerBase, records: Sequence[Example]) -> torch.Tensor:
    """The labels of a real batch are exactly the completion, its stop token included.

    Returns:
        The labels, int64 of shape (conversations, tokens).

    Raises:
        TrainingError: the prompt carries loss, the completion carries none, or the stop token is not learnt.
    """
    count = min(8, len(trainer.train_dataset))
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(count)])
    labels: torch.Tensor = batch["labels"]
    stops = torch.tensor(sorted(stop_tokens(trainer.model, tokenizer)))
    for row, record in zip(labels, records, strict=False):
        learnt = row[row != IGNORED]
        text = tokenizer.decode(learnt, skip_special_tokens=True)
        answer = record.answer
        if answer.strip() not in text:
            raise TrainingError(f"The mask of {record.id} is wrong: it would learn {text!r}, not {answer!r}.")
        if record.question in text and record.question not in answer:
            raise TrainingError(f"The mask of {record.id} is wrong: the question itself would be learnt.")
        if not torch.isin(learnt, stops).any():
            raise TrainingError(
                f"The stop token is not learnt in {record.id}, so the model would never stop. Check that the pad "
                "token is not masked where it is also the stop token, and that the template ends the answer with it."
            )
    return labels


def check_gradients(trainer: Any) -> tuple[int, int]:
    """One backward pass gives every adapter tensor a gradient, and the same again after an evaluation.

    The second pass catches bitsandbytes' CPU kernels, which pack 4-bit weights in the first forward without
    gradients and let none through afterwards. At the start the gradient of A is zero because B is; it counts
    as flowing when it exists.

    Returns:
        (adapter tensors, tensors with a gradient).

    Raises:
        TrainingError: a tensor gets no gradient, or the evaluation changed one.
    """
    model = trainer.model
    count = min(2, len(trainer.train_dataset))
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(count)])
    batch = {name: value.to(model.device) for name, value in batch.items() if name != "completion_mask"}
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError("No parameter of the adapter is trainable: it was not attached, or is frozen.")
    before = _gradients(trainer, batch)
    missing = [name for name, norm in before.items() if norm is None]
    if missing or not any(before.values()):
        raise TrainingError(f"No gradient flows to {len(missing)} adapter tensor(s), for example {missing[:1]}.")
    model.eval()
    with torch.no_grad(), trainer.accelerator.autocast():
        model(**batch)
    after = _gradients(trainer, batch)
    changed = [name for name, norm in before.items() if norm is not None and not _close(norm, after[name])]
    if changed:
        raise TrainingError(
            f"After an evaluation the gradient of {changed[0]} changed from {before[changed[0]]} to "
            f"{after[changed[0]]}: the 4-bit layers were packed. Set support_avx512bf16_for_cpu to False on them."
        )
    return len(before), sum(norm is not None for norm in after.values())


def _gradients(trainer: Any, batch: dict[str, torch.Tensor]) -> dict[str, float | None]:
    model = trainer.model
    # eval mode leaves out dropout, so that two passes can be compared; gradients flow all the same.
    model.eval()
    model.zero_grad()
    with trainer.accelerator.autocast():  # as in a training step, whose own context is entered by the prepared model
        loss = model(**batch).loss
    loss.backward()
    norms = {
        name: None if parameter.grad is None else float(parameter.grad.norm())
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    model.zero_grad()
    model.train()
    return norms


def _close(one: float, other: float | None) -> bool:
    return other is not None and abs(one - other) <= 0.02 * max(abs(one), 1e-6)
