"""Synthetic look-alikes for previews and plots, made from the pipeline's public words; no record is read."""

from __future__ import annotations

import random

import pandas as pd

from helpers.data.example import Example
from helpers.data.holders.candidates import example_of, fill, make_candidate
from helpers.data.holders.pipeline import Pipeline

LABEL = "synthetic"


def lookalike_tables(pipeline: Pipeline, rows: int, seed: int) -> dict[str, pd.DataFrame]:
    """For each holder a table of its columns; every row is labelled synthetic in the index.

    Args:
        pipeline: its `lookalike` section holds the words; a column that has none there shows its name only.
        rows: of each table; row *i* of one table belongs with row *i* of the others.
        seed: of the draws.
    """
    invented = _invent(pipeline, rows, seed)
    index = pd.Index([f"{LABEL} {number}" for number in range(1, rows + 1)], name=LABEL)
    return {
        holder.name: pd.DataFrame(
            {name: [fields[f"{holder.name}.{name}"] for fields in invented] for name in holder.names}, index=index
        )
        for holder in pipeline.holders
    }


def lookalike_examples(pipeline: Pipeline, count: int, seed: int) -> list[Example]:
    """Examples in the pipeline's templates, as `join_providers` makes them; their ids are `synthetic/1`, ..."""
    units = [f"{LABEL}/{number}" for number in range(1, count + 1)]
    invented = zip(units, _invent(pipeline, count, seed), strict=True)
    return [example_of(make_candidate(fields, {}, unit, 0.0, pipeline, seed), unit) for unit, fields in invented]


def _invent(pipeline: Pipeline, count: int, seed: int) -> list[dict[str, str]]:
    chooser = random.Random(f"{seed}/{LABEL}")
    settings = pipeline.lookalike
    invented = []
    for _ in range(count):
        words = {name: chooser.choice(choices) for name, choices in settings.vocabulary.items()}
        fields = {}
        for column in (f"{holder.name}.{name}" for holder in pipeline.holders for name in holder.names):
            fields[column] = fill(chooser.choice(settings.columns.get(column, [f"({LABEL} {column})"])), words)
        invented.append(fields)
    return invented
