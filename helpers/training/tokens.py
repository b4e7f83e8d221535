"""Conversations as the tokens that a training reads: one place for trainings and for the copy on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from helpers.data.example import Example
from helpers.errors import TrainingError
from helpers.models.find import chat_text
from helpers.models.losses import IGNORED


def tokenise(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """The tokens of each conversation, in their order, of which only the answer is learnt.

    Returns:
        Columns `input_ids`, `attention_mask` (all 1), `labels` (-100 where nothing is learnt), each a list of as many
        integers as the conversation has tokens, and `full_text`, what they are the tokens of. Nothing is cut or padded.

    Raises:
        DataError: the chat template refuses a conversation.
        TrainingError: it writes another prompt in training than in asking; a model tuned so would answer badly.
    """
    prompts = [chat_text(tokenizer, example.prompt, asks=True) for example in examples]
    texts = [chat_text(tokenizer, example.messages) for example in examples]
    for example, prompt, text in zip(examples, prompts, texts, strict=True):
        if not text.startswith(prompt):
            raise TrainingError(
                f"Training and serving tokens differ for {example.id}: the chat template writes another prompt when "
                "it trains. Use a template whose prompt is the beginning of the whole conversation."
            )
    asked, whole = _ids(tokenizer, prompts), _ids(tokenizer, texts)
    # Where tokens merge across the end of a prompt, the answer's are made apart: the model is asked with the prompt's.
    apart = [place for place, before in enumerate(asked) if whole[place][: len(before)] != before]
    answers = _ids(tokenizer, [texts[place].removeprefix(prompts[place]) for place in apart])
    for place, answer in zip(apart, answers, strict=True):
        whole[place] = asked[place] + answer
    labels = [[IGNORED] * len(before) + ids[len(before) :] for before, ids in zip(asked, whole, strict=True)]
    mask = [[1] * len(ids) for ids in whole]
    return Dataset.from_dict({"input_ids": whole, "attention_mask": mask, "labels": labels, "full_text": texts})


def _ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    # The template writes start tokens itself.
    found: Any = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    return [list(map(int, ids)) for ids in found]
