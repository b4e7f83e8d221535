"""Joined rows put into words: what a model may be trained on, before the cap and the split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from helpers.data.example import Example, asked, checked
from helpers.data.holders.pipeline import SLOT, Pipeline

BUCKET = "records"
"""Of all examples made of holders' records."""


@dataclass(repr=False)
class Candidate:
    """A joined row in words; no display shows it. Without a question its `answer` is a text that stands alone.

    `rows`: holder to the number of its row. `place`: 0 to 1, decides whether it goes to the test; `own_place`: 0 to 1,
    where its patient lies between training and validation. `group`: value of `split.by`. `values`: what the test set
    must not share with training, lower case. `order`: 0 to 1, its place among its patient's records. `reason`: why it
    is left out, if it is.
    """

    unit: str
    question: str
    answer: str
    rows: dict[str, int]
    place: float
    own_place: float
    group: str
    values: list[str]
    order: float
    split: str = ""
    reason: str = ""

    @property
    def text(self) -> str:
        """All of its words."""
        return f"{self.question} {self.answer}"


def make_candidate(
    fields: Mapping[str, str], rows: dict[str, int], unit: str, place: float, pipeline: Pipeline, seed: int
) -> Candidate:
    """Word one joined row by the template that its own content and the seed draw.

    Args:
        fields: `holder.column` to its text, empty where a left join found nothing.
        rows: holder to row number.
        unit: the pseudonym.
        place: of the patient's own draw, 0 to 1; with `split.by` the group draws for the test.
        pipeline: templates and split.
        seed: of the draws.
    """
    content = json.dumps(sorted(fields.items()))
    template = pipeline.templates[int(draw(seed, "template", content) * len(pipeline.templates))]
    used = set(SLOT.findall(template.question + template.answer + template.text))
    by = pipeline.split.by
    return Candidate(
        unit=unit,
        question=fill(template.question, fields),
        answer=fill(template.answer or template.text, fields),
        rows=rows,
        place=draw(seed, "split", fields[by]) if by else place,
        own_place=draw(seed, "validation", repr(place)),
        group=fields[by] if by else "",
        values=[fields[name].casefold() for name in pipeline.split.values if fields[name]],
        order=draw(seed, "order", content),
        reason="" if all(fields[name] for name in used) else "a column that its template needs is empty",
    )


def example_of(candidate: Candidate, name: str) -> Example:
    """A candidate as it is learnt and tested, under the id `name`."""
    prompt = asked(candidate.question) if candidate.question else ()
    told = checked([candidate.answer]) if prompt else {}
    return Example(name, BUCKET, prompt, candidate.answer, unit=candidate.unit, origin="holders", **told)


def fill(template: str, fields: Mapping[str, str]) -> str:
    """One line, filled in one pass, so that braces inside a record stay as they are."""
    return " ".join(SLOT.sub(lambda slot: fields[slot[1]], template).split())


def draw(seed: int, *parts: str) -> float:
    """A number in [0, 1) that depends on the seed and these words alone, and not on any draw before."""
    digest = hashlib.sha256("\0".join([str(seed), *parts]).encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48
