"""An audit before training: what would silently waste the next minutes stops here, with its reason."""

import unicodedata
from collections.abc import Sequence
from itertools import chain
from math import isclose, nan
from typing import Any

import torch
from datasets import Dataset

from helpers.data.example import Example
from helpers.errors import TrainingError
from helpers.models.generate import stop_tokens
from helpers.models.losses import IGNORED


def audit(trainer: Any, examples: Sequence[Example], rows: Dataset, longest: int) -> dict[str, int]:
    """Check data, labels, stop token and gradients of an `SFTTrainer` that has not begun, its adapters in place.

    `rows` are what `helpers.models.tokens.tokenise` makes of `examples`, with at most `longest` tokens each.

    Returns:
        `{"longest_tokens", "learnt_tokens", "masked_tokens", "adapter_tensors", "gradient_tensors"}`.

    Raises:
        TrainingError: naming the first fault found.
    """
    lengths = check_lengths(rows, examples, longest)
    _check_labels(trainer, rows, examples)
    learnt = _check_batches(trainer, rows)
    tensors = _check_gradients(trainer)
    return {
        "longest_tokens": max(lengths),
        "learnt_tokens": learnt,
        "masked_tokens": sum(lengths) - learnt,
        "adapter_tensors": tensors,
        "gradient_tensors": tensors,
    }


def check_lengths(rows: Dataset, examples: Sequence[Example], longest: int) -> list[int]:
    """The tokens of each conversation. Raises TrainingError where one has more than `longest`."""
    lengths = [len(ids) for ids in rows["input_ids"]]
    too_long = [each.id for each, length in zip(examples, lengths, strict=True) if length > longest]
    if too_long:
        raise TrainingError(
            f"{len(too_long)} conversation(s) are longer than max_length_tokens = {longest} (longest {max(lengths)}): "
            f"{', '.join(too_long[:5])}. Raise it, or shorten them; none is cut in silence."
        )
    return lengths


def _check_labels(trainer: Any, rows: Dataset, examples: Sequence[Example]) -> None:
    """The labels are the answers and their stop token, and not the question."""
    tokenizer, stops = trainer.processing_class, stop_tokens(trainer.model, trainer.processing_class)
    for labels, example in zip(rows["labels"][:32], examples, strict=False):  # one template wrote them all
        learnt = _learnt(labels)
        text = _folded(tokenizer.decode(learnt, skip_special_tokens=True))
        answer, question = _folded(example.answer), _folded(example.question)
        if answer not in text:
            raise TrainingError(f"The labels of {example.id} are wrong: {text!r} in place of {answer!r}.")
        told = "".join(_folded(turn["content"]) for turn in example.messages if turn["role"] == "assistant")
        if question in text and question not in told:
            raise TrainingError(f"The labels of {example.id} are wrong: the question itself would be learnt.")
        if not stops.intersection(learnt):
            raise TrainingError(
                f"The stop token is not learnt in {example.id}, so the model would never stop: the chat template must "
                f"end an answer with {tokenizer.eos_token}, or with another token that generation stops at."
            )


def _check_batches(trainer: Any, rows: Dataset) -> int:
    """The trainer learns what `rows` hold, packed or not; returns how many tokens."""
    wanted, given = (sum(len(_learnt(labels)) for labels in of["labels"]) for of in (rows, trainer.train_dataset))
    some = trainer.train_dataset.select(range(min(8, len(trainer.train_dataset))))
    batch = trainer.data_collator(list(some))["labels"].flatten().tolist()
    if given != wanted or _learnt(batch) != _learnt(chain(*some["labels"])):
        raise TrainingError(
            f"The trainer learns {given} tokens, the dataset holds {wanted}, or a batch masks some of them. Look at "
            "training_arguments, and at the pad token where it is also the stop token."
        )
    return wanted


def _folded(text: Any) -> str:
    """Without what tokenizers change: white space, and characters that can be written in several ways."""
    return "".join(unicodedata.normalize("NFKC", text).split())


def _learnt(labels: Any) -> list[int]:
    return [label for label in labels if label != IGNORED]


def _check_gradients(trainer: Any) -> int:
    """Each adapter tensor gets a gradient, and the same again after an evaluation; returns how many there are.

    The second pass catches bitsandbytes' CPU kernels, which pack 4-bit weights in the first forward without
    gradients and let none through afterwards. At the start the gradient of A is zero because B is; it counts
    as flowing when it exists.
    """
    model = trainer.model
    count = min(2, len(trainer.train_dataset))
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(count)])
    batch = {name: value.to(model.device) if torch.is_tensor(value) else value for name, value in batch.items()}
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError("No parameter of the adapter is trainable: it was not attached, or is frozen.")
    model.eval()  # without dropout, so that two passes can be compared; gradients flow all the same
    before = _gradients(trainer, batch)
    missing = [name for name, each in model.named_parameters() if each.requires_grad and name not in before]
    if missing or not any(before.values()):
        raise TrainingError(f"No gradient flows to {len(missing)} adapter tensor(s), for example {missing[:1]}.")
    with torch.no_grad(), trainer.accelerator.autocast():
        model(**batch)
    after = _gradients(trainer, batch)
    within = {"rel_tol": 0.02, "abs_tol": 2e-8}  # a tensor that lost its gradient is close to nothing
    changed = [name for name, norm in before.items() if not isclose(norm, after.get(name, nan), **within)]
    if changed:
        raise TrainingError(
            f"After an evaluation the gradient of {changed[0]} changed from {before[changed[0]]} to "
            f"{after.get(changed[0])}: the 4-bit layers were packed. Set support_avx512bf16_for_cpu to False on them."
        )
    return len(before)


def _gradients(trainer: Any, batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """The length of the gradient of every tensor that gets one."""
    model = trainer.model
    model.zero_grad()
    with trainer.accelerator.autocast():  # as in a training step, whose own context is entered by the prepared model
        loss = model(**batch).loss
    loss.backward()
    norms = {name: float(each.grad.norm()) for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    return norms
