"""Let language models answer in batches."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from helpers.models.find import chat_text
from helpers.progress import tqdm

ROUND = 16
"""Tokens after which answers that have ended leave their batch."""


class Generated(NamedTuple):
    """One answer; `stopped` tells whether the model ended it by itself."""

    text: str
    new_tokens: int
    stopped: bool


@torch.inference_mode()  # type: ignore[untyped-decorator]
def generate_answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[list[dict[str, str]]],
    *,
    max_new_tokens: int,
    batch_size: int,
    title: str = "answers",
    on_batch: Callable[[list[int], list[Generated]], None] | None = None,
) -> list[Generated]:
    """Answer each conversation greedily, `batch_size` of similar length at once; answers keep the conversations' order.

    The tokenizer must pad on the left, conversations must end with the user's turn. `title` is that of the progress
    bar; an empty one shows none. `on_batch` is called with (positions, answers) as soon as a batch is done.
    """
    texts = [chat_text(tokenizer, conversation, asks=True) for conversation in conversations]
    order = sorted(range(len(texts)), key=lambda position: (len(texts[position]), position))
    answers: dict[int, Generated] = {}
    stops = stop_tokens(model, tokenizer)
    with tqdm(total=len(texts), desc=title, disable=not title) as bar:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            inputs = tokenizer([texts[i] for i in batch], return_tensors="pt", padding=True, add_special_tokens=False)
            rows = _continued(model, inputs.to(model.device), stops, max_new_tokens, tokenizer.pad_token_id)
            done = [_read(row, stops, tokenizer) for row in rows]
            answers.update(zip(batch, done, strict=True))
            if on_batch:
                on_batch(batch, done)
            bar.update(len(batch))
    return [answers[position] for position in range(len(texts))]


def _continued(
    model: Any, inputs: dict[str, torch.Tensor], stops: set[int], max_new_tokens: int, pad_token: int
) -> list[list[int]]:
    """What a model writes behind each row, in rounds: what has ended leaves the batch, and the others go on faster."""
    ids, mask, cache = inputs["input_ids"], inputs["attention_mask"], None
    asked, left = ids.shape[1], list(range(len(ids)))
    written: list[list[int]] = [[] for _ in left]
    for begin in range(0, max_new_tokens, ROUND):
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            pad_token_id=pad_token,
            max_new_tokens=min(ROUND, max_new_tokens - begin),
            return_dict_in_generate=True,
        )
        for number, row in zip(left, output.sequences[:, asked:].tolist(), strict=True):
            written[number] = row
        going = [place for place, number in enumerate(left) if not stops.intersection(written[number])]
        if not going:
            break
        left = [left[place] for place in going]
        chosen = torch.tensor(going, device=ids.device)
        ids, cache = output.sequences[chosen], output.past_key_values
        cache.batch_select_indices(chosen)
        mask = torch.nn.functional.pad(mask[chosen], (0, ids.shape[1] - mask.shape[1]), value=1)
    return written


def stop_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The token ids at which generation ends."""
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return {int(token) for token in [*listed, tokenizer.eos_token_id] if token is not None}


def _read(tokens: list[int], stops: set[int], tokenizer: PreTrainedTokenizerBase) -> Generated:
    length = next((at for at, token in enumerate(tokens) if token in stops), len(tokens))
    text = str(tokenizer.decode(tokens[:length], skip_special_tokens=True)).strip()
    return Generated(text, length, length < len(tokens))
