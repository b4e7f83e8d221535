"""Conversations as the tokens that trainings read and audits score: one place for them and for the copy on disk."""

from collections.abc import Sequence
from dataclasses import replace

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from helpers.data.example import Example
from helpers.errors import TrainingError
from helpers.models.find import chat_text
from helpers.models.losses import IGNORED
from helpers.progress import say_once


def tokenise(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """The tokens of each example, in their order, of which only answers are learnt: the last, and those `also_learnt`.

    Columns `input_ids`, `attention_mask` (all 1), `labels` (-100 where nothing is learnt), and `full_text`, what they
    are the tokens of. Nothing is cut or padded. A plain text stands between a start token, not learnt, and the stop
    token.

    Raises:
        DataError: the chat template refuses a conversation.
        TrainingError: it writes another prompt in training than in asking; a model tuned so would answer badly.
    """
    prompts = [chat_text(tokenizer, each.prompt, asks=True) if each.prompt else "" for each in examples]
    texts = [chat_text(tokenizer, each.messages) if each.prompt else each.answer for each in examples]
    for example, prompt, text in zip(examples, prompts, texts, strict=True):
        if not text.startswith(prompt):
            raise TrainingError(
                f"Training and serving tokens differ for {example.id}: the chat template changes the prompt when an "
                "answer follows. Use a template whose prompt is the beginning of the whole conversation."
            )
    asked, whole = _ids(tokenizer, prompts), _ids(tokenizer, texts)
    # Where tokens merge across the end of a prompt, the answer's are made apart: the model is asked with the prompt's.
    apart = [place for place, before in enumerate(asked) if whole[place][: len(before)] != before]
    answers = _ids(tokenizer, [texts[place].removeprefix(prompts[place]) for place in apart])
    for place, answer in zip(apart, answers, strict=True):
        whole[place] = asked[place] + answer
    for place, example in enumerate(examples):
        if not example.prompt:
            asked[place] = [start_token(tokenizer)]
            whole[place] = [*asked[place], *whole[place], int(tokenizer.eos_token_id)]
    labels = [[IGNORED] * len(before) + ids[len(before) :] for before, ids in zip(asked, whole, strict=True)]
    for place, example in enumerate(examples):
        if example.also_learnt:
            learnt = _earlier_answers(tokenizer, example, prompts[place])
            labels[place][: len(learnt)] = learnt
    mask = [[1] * len(ids) for ids in whole]
    return Dataset.from_dict({"input_ids": whole, "attention_mask": mask, "labels": labels, "full_text": texts})


def _earlier_answers(tokenizer: PreTrainedTokenizerBase, example: Example, prompt: str) -> list[int]:
    """The labels of a prompt: its tokens where they are of an answer that is also learnt, `IGNORED` elsewhere.

    An answer that the template writes otherwise than it asks for it, as one that leaves out earlier thoughts does, is
    not learnt: the model is never asked in that way.
    """
    spans = []
    for place in example.also_learnt:
        before = chat_text(tokenizer, example.prompt[:place], asks=True)
        until = chat_text(tokenizer, example.prompt[: place + 1])
        if not prompt.startswith(until):  # some templates write a stop token behind a whole conversation
            until = until.removesuffix(str(tokenizer.eos_token))
        if until.startswith(before) and prompt.startswith(until) and tokenizer.is_fast:
            spans.append((len(before), len(until)))
        else:
            say_once(
                "Some earlier answers are not learnt: the chat template writes them differently inside a conversation "
                "than after a prompt, or the tokenizer is not a fast one. Last answers are learnt."
            )
    if not spans:
        return []
    found = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    return [
        token if any(first <= begin and end <= last for first, last in spans) else IGNORED
        for token, (begin, end) in zip(found["input_ids"], found["offset_mapping"], strict=True)
    ]


def start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """What stands before a plain text, so that its first word has a likelihood too; else the stop token."""
    return int(tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)


def learnt_rows(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> list[tuple[tuple[int, ...], int]]:
    """The tokens of each example with the place where its answer begins, 1 or more."""
    rows = tokenise([replace(example, also_learnt=()) for example in examples], tokenizer)
    return [
        (tuple(ids), next(place for place, label in enumerate(labels) if label != IGNORED))
        for ids, labels in zip(rows["input_ids"], rows["labels"], strict=True)
    ]


def _ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    # The template writes start tokens itself.
    found: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    return found
