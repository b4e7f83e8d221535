"""A small table, and examples of it."""

from collections.abc import Sequence
from typing import Any

from helpers.config import Data, load_config
from helpers.data.example import Message
from helpers.data.table.examples import Row, make_examples, roles_of

TOWNS = (
    "Ain Brest Calais Dax Evian Foix Gap Hyères Issoire Jarnac Kehl Lens Metz Nice Orange Pau Quimper Rodez Sète Toul"
)


ROWS = [
    {"question": f"What is made in {town}, and since when?", "answer": f"Cheese since {n}."}
    for n, town in enumerate(TOWNS.split())
]


def tokens(messages: Sequence[Message]) -> int:
    return sum(len(turn["content"].split()) for turn in messages)


def data(**own: Any) -> Data:
    return load_config("smoke", {f"data.{key}": value for key, value in own.items()}).data


def examples(rows: list[dict[str, Any]], **own: Any) -> tuple[list[Row], dict[str, int]]:
    section = data(**own)
    kept, left = make_examples(rows, section, roles_of(rows, section), tokens, longest=60, control=["<|end|>"])
    assert len(kept) + sum(left.values()) == len(rows)
    return kept, {reason: times for reason, times in left.items() if times}
