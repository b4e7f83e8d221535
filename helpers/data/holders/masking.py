"""Masking the holders' tables, and refusing where that is not enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from presidio_analyzer import AnalyzerEngine

from helpers.data.holders.deidentify import (
    Span,
    characters,
    find_identifiers,
    make_analyzer,
    mask,
    ner_installed,
    score_spans,
)
from helpers.data.holders.pipeline import Deidentify, Pipeline
from helpers.data.holders.pseudonyms import letters_and_digits, nir, normalise_key
from helpers.data.holders.roster import with_plain_names
from helpers.data.holders.tables import KEY, ROSTER, named_in
from helpers.errors import DataError, PrivacyError
from helpers.files import read_jsonl
from helpers.progress import tqdm

MONTHS = [f"{month:02d}" for month in range(1, 13)]
REACHING = ("EMAIL_ADDRESS", "IBAN_CODE")


def mask_tables(pipeline: Pipeline, frames: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Mask every column that is not coded, in place; measure how well, where planted spans are given."""
    settings = pipeline.deidentify
    rosters = [list(frame[column]) for frame in frames.values() for column in frame if str(column).startswith(ROSTER)]
    # A patient number in a note is masked like one on a roster, a phone number in all spellings of its region.
    keys = {holder.name: holder.key for holder in pipeline.holders if holder.key}
    usable_keys: set[str] = set()
    for name, key in keys.items():
        if key.kind != "phone":
            named = named_in(key, frames[name])
            usable = [cell for cell in frames[name][KEY] if normalise_key(named[cell], key.kind)]
            rosters += [usable, [named[cell] for cell in usable]]
            usable_keys |= {letters_and_digits(text) for cell in usable for text in (cell, named[cell])}
    analyzer = make_analyzer(
        {cell for column in rosters for cell in with_plain_names(column)},
        phone_regions={*settings.phone_regions, *(key.region for key in keys.values() if key.region)},
        keep=settings.keep,
        ner=settings.ner,
    )
    columns = [(holder.name, name) for holder in pipeline.holders for name in holder.names if name not in holder.coded]
    texts = {(name, row, column): text for name, column in columns for row, text in enumerate(frames[name][column])}
    suspect = _refuse_identifying(pipeline, frames, analyzer, usable_keys)
    bar = tqdm(dict.fromkeys(texts.values()), desc="de-identifying", unit=" texts", delay=2)
    known = {text: find_identifiers(analyzer, text) for text in bar}
    for (name, row, column), text in texts.items():
        frames[name].at[row, column] = mask(text, known[text])
    masked = Counter(span.kind for text in texts.values() for span in known[text])
    quality: dict[str, Any] = {"measured": bool(settings.planted), "masked": dict(masked.most_common())}
    if suspect:
        quality["coded_values_that_may_identify"] = suspect
    if settings.ner:
        there = ner_installed(settings.ner)
        quality["ner"] = f"{settings.ner}, {'used' if there else 'not installed'}"
        if not there and not pipeline.fictitious:
            print(
                f"deidentify.ner: {settings.ner} is not installed. Names and places that neither rosters nor patterns "
                "find stay as they are."
            )
    if settings.planted:
        quality |= _measured(settings, pipeline.path.parent / settings.planted, texts, known)
    return quality


def _refuse_identifying(
    pipeline: Pipeline, frames: Mapping[str, pd.DataFrame], analyzer: AnalyzerEngine, keys: Collection[str]
) -> dict[str, int]:
    """Refuse coded columns, which are not masked, that are free text or identify people; say what may.

    Wards and diseases may bear a person's name, and an episode's number may look like a phone's. `keys`: all usable
    ones, normalised. Returns for each column how many values may identify somebody.
    """
    joined_on = {f"{side}.{name}" for join in pipeline.joins for side in (join.left, join.right) for name in join.on}
    suspect = {}
    for where, column in _coded(pipeline, frames).items():
        cells = [cell for cell in column if cell]
        spans = {value: find_identifiers(analyzer, value) for value in dict.fromkeys(cells)}
        if where in joined_on:
            spans = {value: [span for span in of if span.kind in ("PERSON", *REACHING)] for value, of in spans.items()}
        if fault := _identifying(spans, len(cells), keys):
            raise PrivacyError(f"{where} is coded, so it is not masked, but {fault} (not shown). Take it out of coded.")
        if some := sum(any(_tells(value, span, keys) for span in of) for value, of in spans.items()):
            suspect[where] = some
            print(f"{where} is coded, so it is not masked, and some of its values may name a person or hold a number.")
    return suspect


def _coded(pipeline: Pipeline, frames: Mapping[str, pd.DataFrame]) -> dict[str, pd.Series[str]]:
    return {f"{holder.name}.{name}": frames[holder.name][name] for holder in pipeline.holders for name in holder.coded}


def _identifying(found: Mapping[str, list[Span]], cells: int, keys: Collection[str]) -> str:
    """Why values of a coded column, with what was found in each, identify people; empty where they do not."""
    if sum(len(value.split()) > 12 for value in found) > max(9, cells / 2):
        return "most of its cells are texts of their own, of more than twelve words"
    most = reach = 0
    for value, spans in found.items():
        telling = {span: kind for span in spans if (kind := _tells(value, span, keys))}
        kinds = {*telling.values()}
        everything = characters(value, [Span(0, len(value), "")])
        whole = bool(telling) and characters(value, [*telling]) == everything
        most += whole or "name" in kinds
        reach += "reaching" in kinds or ("phone" in kinds and not whole)
    if reach:
        return "some of its values hold a phone number, mail address, IBAN, NIR or patient's key"
    if most > len(found) / 2 and len(found) > max(9, cells / 10):  # a ward's name comes again and again
        return "most of its values are names or numbers of people"
    return ""


def _tells(value: str, span: Span, keys: Collection[str]) -> str:
    """How what was found may identify a person: by name, phone, NIR, or as what leads to one; empty where it does not.

    Other numbers may as well be those of drugs, hospitals and stays.
    """
    text = letters_and_digits(value[span.start : span.end])
    number = nir(text)
    if span.kind in REACHING or (span.kind == "ID" and text in keys) or (number and number != text):
        return "reaching"
    if span.kind == "PHONE_NUMBER":
        return "phone"
    if number and number[0] in "1278" and number[3:5] in MONTHS:  # of 13 digits; 34009... is a drug's
        return "nir"
    return "name" if span.kind in ("PERSON", "LOCATION") else ""


def _measured(
    settings: Deidentify, path: Path, texts: Mapping[tuple[str, int, str], str], known: Mapping[str, list[Span]]
) -> dict[str, Any]:
    """How well de-identification finds planted spans; refused where that is worse than the pipeline admits."""
    if not path.is_file():
        raise DataError(f"There is no file {path.name} beside the pipeline; deidentify.planted names it.")
    lines = read_jsonl(path)
    planted = {(line["holder"], line["row"], line["column"]): [Span(*span) for span in line["spans"]] for line in lines}
    given = [planted.pop(cell, []) for cell in texts]
    fault = f"{len(planted)} cells that no de-identified column has" if planted else ""
    if any(span.end > len(text) for text, spans in zip(texts.values(), given, strict=True) for span in spans):
        fault = "spans that lie behind the end of their texts"
    if fault:
        raise DataError(
            f"{settings.planted} names {fault}. It is of other records: for yours, take deidentify.planted out of the "
            "pipeline."
        )
    score = score_spans([*texts.values()], given, [known[text] for text in texts.values()])
    floors = {"recall": (settings.min_recall, "missed"), "precision": (settings.min_precision, "wrong")}
    for name, (floor, kinds) in floors.items():
        if score[name] is not None and score[name] < floor:
            raise PrivacyError(
                f"De-identification reaches a {name} of {score[name]:.4f} on the planted spans, below {floor}. "
                f"{kinds.capitalize()} by kind: {score[kinds]}. Add patterns or roster columns; nothing was joined."
            )
    return score | {"languages": list(settings.languages)}
