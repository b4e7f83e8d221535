"""A dataset in the shapes that other tools read, with a card for the Hugging Face hub."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData

from helpers.data.example import Example
from helpers.files import Record, write_atomic, write_jsonl

SHAPES: dict[str, Callable[[Example], Record]] = {
    "messages": lambda example: {"messages": _weighted(example)},
    "prompt_completion": lambda example: {key: example.row()[key] for key in ("prompt", "completion")},
    "input_response": lambda example: {
        "input": _dialogue(example.prompt),
        "contexts": [],
        "response": example.answer,
    },
}
"""Folder to the columns of its rows: of OpenAI and TRL; of TRL; of frameworks that fill prompts of their own."""


def export(splits: Mapping[str, Sequence[Example]], folder: Path, *, about: str, languages: Sequence[str]) -> None:
    """Write each split in each of `SHAPES` as JSON lines and, with id and bucket, as Parquet, beside a README.md.

    `about`: the dataset's card as Markdown, with pictures that lie in `folder`. `languages`: two-letter codes.
    """
    from datasets import Dataset

    for shape, row_of in SHAPES.items():
        for name, examples in splits.items():
            write_jsonl(folder / shape / f"{name}.jsonl", [row_of(example) for example in examples])
    (folder / "parquet").mkdir(parents=True, exist_ok=True)
    for name, examples in splits.items():
        rows = [{"id": each.id, "bucket": each.bucket, "messages": _weighted(each)} for each in examples]
        Dataset.from_list(rows).to_parquet(folder / "parquet" / f"{name}.parquet")
    configs = [  # the hub reads one format alone
        {"config_name": shape, "data_files": [{"split": name, "path": f"{shape}/{name}.jsonl"} for name in splits]}
        for shape in SHAPES
    ]
    told = DatasetCardData(language=[*languages] or None, task_categories=["text-generation"], configs=configs)
    write_atomic(folder / "README.md", f"---\n{told.to_yaml()}\n---\n\n{about}")


def _weighted(example: Example) -> list[Record]:
    """The conversation, in which an earlier answer that is not learnt has OpenAI's weight 0."""
    told: list[Record] = [{**turn} for turn in example.messages]
    for at, turn in enumerate(told[:-1]):
        if turn["role"] == "assistant" and at - len(example.prompt) not in example.also_learnt:
            turn["weight"] = 0
    return told


def samples(examples: Sequence[Example]) -> str:
    """One example of each bucket as Markdown."""
    first: dict[str, Example] = {}
    for example in examples:
        first.setdefault(example.bucket, example)
    return "\n\n".join(f"**{bucket}**\n\n```\n{_dialogue(each.messages)}\n```" for bucket, each in first.items())


def copy_picture(picture: Path, folder: Path) -> str:
    """Copy a picture, where there is one; returns the Markdown that shows it."""
    if not picture.exists():
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(picture, folder / picture.name)
    return f"![Lengths of the conversations in tokens]({picture.name})"


def _dialogue(messages: Sequence[Mapping[str, Any]]) -> str:
    """A question alone as it is; several turns with their roles."""
    if len(messages) == 1:
        return str(messages[0]["content"])
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)
