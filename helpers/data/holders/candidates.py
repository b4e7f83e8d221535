"""Joined rows, and synthetic look-alikes, put into words; the cap on one unit's records, and splits by unit."""

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from helpers.data.example import Example, asked, checked
from helpers.data.holders.pipeline import SLOT, Pipeline, Split
from helpers.errors import DataError

BUCKET = "records"
"""Of all examples made of holders' records."""
LABEL = "synthetic"


@dataclass(repr=False)
class Candidate:
    """A joined row in words; no display shows it. Without a question its `answer` is a text that stands alone.

    `rows`: holder to the number of its row. `group`: value of `split.by`. `values`: what the test set must not share
    with training, lower case. `reason`: why it is left out, if it is. Draws from 0 to 1: `test_draw` decides about the
    test, `validation_draw` about validation, `order` is its place among its patient's records.
    """

    unit: str
    question: str
    answer: str
    rows: dict[str, int]
    test_draw: float
    validation_draw: float
    group: str
    values: list[str]
    order: float
    split: str = ""
    reason: str = ""


def make_candidate(
    fields: Mapping[str, str], rows: dict[str, int], unit: str, patient_draw: float, pipeline: Pipeline, seed: int
) -> Candidate:
    """Word one joined row by the template that its own content and the seed draw.

    `fields`: `holder.column` to its text, empty where a left join found nothing. `patient_draw`: the patient's own,
    0 to 1; with `split.by` the group draws for the test.
    """
    content = json.dumps(sorted(fields.items()))
    template = pipeline.templates[int(draw(seed, "template", content) * len(pipeline.templates))]
    by = pipeline.split.by
    return Candidate(
        unit=unit,
        question=fill(template.question, fields),
        answer=fill(template.answer or template.text, fields),
        rows=rows,
        test_draw=draw(seed, "split", fields[by]) if by else patient_draw,
        validation_draw=draw(seed, "validation", repr(patient_draw)),
        group=fields[by] if by else "",
        values=[fields[name].casefold() for name in pipeline.split.values if fields[name]],
        order=draw(seed, "order", content),
        reason="" if all(fields[name] for name in template.slots) else "a column that its template needs is empty",
    )


def example_of(candidate: Candidate, name: str) -> Example:
    """A candidate as it is learnt and tested, under the id `name`."""
    prompt = asked(candidate.question) if candidate.question else ()
    told = checked([candidate.answer]) if prompt else {}
    return Example(name, BUCKET, prompt, candidate.answer, unit=candidate.unit, origin="holders", **told)


def fill(template: str, fields: Mapping[str, str]) -> str:
    """One line, filled in one pass, so that braces inside a record stay as they are."""
    return " ".join(SLOT.sub(lambda slot: fields[slot[1]] if slot[1] else slot[0][0], template).split())


def draw(seed: int, *parts: str) -> float:
    """A number in [0, 1) that depends on the seed and these words alone, and not on any draw before."""
    digest = hashlib.sha256("\0".join([str(seed), *parts]).encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48


def split_units(candidates: Sequence[Candidate], split: Split, *, cap: int) -> None:
    """Set the `split` of each candidate, or the `reason` why it is left out; of a unit at most `cap` records are kept.

    Whole groups go to the test, where values are to be new. Validation units are drawn among the others one by one, so
    that they differ from training units in nothing but having been left out: membership inference needs that. Shares
    hold on average. Raises DataError where a split that has a share is left with no record.

    What becomes of a training unit depends on its own records only, so that adding or removing another unit changes
    that one's share and nothing else. Test records give way to training records with a value of theirs, never the
    other way round.
    """
    units: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in sorted(candidates, key=lambda candidate: candidate.order):
        if not candidate.reason:
            units[candidate.unit].append(candidate)
    for own in units.values():
        first, kept = own[0], 0  # the first record decides for the whole unit
        name = "validation" if first.validation_draw < split.validation / (1 - split.test) else "train"
        if first.test_draw < split.test:
            name = "test"
        for candidate in own:
            candidate.split = name
            if candidate.group != first.group:
                candidate.reason = f"its {split.by} differs from that of its patient's first record"
            elif kept == cap:
                candidate.reason = f"over the cap of {cap} records of one unit"
            else:
                kept += 1
    train = kept_in("train", candidates)
    seen = {value for candidate in train for value in candidate.values}
    texts = "\n".join(f"{candidate.question} {candidate.answer}" for candidate in train).casefold()
    for candidate in kept_in("test", candidates):
        if any(value in seen or value in texts for value in candidate.values):
            candidate.reason = "a value of this test record stands in the training set"
    for name, share in (("train", 1.0), ("validation", split.validation), ("test", split.test)):
        if share and not kept_in(name, candidates):
            raise DataError(
                f"The {name} split has no record left, of {len(units)} units. Join more patients, raise its share, "
                "name a column in split.by whose groups share no values, or choose another seed."
            )


def kept_in(split: str, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates of a split that are not left out."""
    return [candidate for candidate in candidates if candidate.split == split and not candidate.reason]


def lookalike_tables(pipeline: Pipeline, rows: int, seed: int) -> dict[str, pd.DataFrame]:
    """For each holder a table made of the pipeline's public words, each row labelled synthetic in the index.

    Row *i* of one table belongs with row *i* of the others. A column that has no words shows its name.
    """
    invented = pd.DataFrame(_invent(pipeline, rows, seed))
    invented.index = pd.Index([f"{LABEL} {number}" for number in range(1, rows + 1)], name=LABEL)
    columns = {holder.name: {f"{holder.name}.{name}": name for name in holder.names} for holder in pipeline.holders}
    return {holder: invented[[*names]].rename(columns=names) for holder, names in columns.items()}


def lookalike_examples(pipeline: Pipeline, count: int, seed: int) -> list[Example]:
    """Examples in the pipeline's templates, as `join_providers` makes them; their ids are `synthetic/1`, ..."""
    units = [f"{LABEL}/{number}" for number in range(1, count + 1)]
    invented = zip(units, _invent(pipeline, count, seed), strict=True)
    return [example_of(make_candidate(fields, {}, unit, 0.0, pipeline, seed), unit) for unit, fields in invented]


def _invent(pipeline: Pipeline, count: int, seed: int) -> Iterator[dict[str, str]]:
    chooser, settings = random.Random(f"{seed}/{LABEL}"), pipeline.lookalike
    names = [f"{holder.name}.{name}" for holder in pipeline.holders for name in holder.names]
    columns = {name: settings.columns.get(name, [f"({LABEL} {name})"]) for name in names}
    for _ in range(count):
        words = {name: chooser.choice(choices) for name, choices in settings.vocabulary.items()}
        yield {name: fill(chooser.choice(wordings), words) for name, wordings in columns.items()}
