"""Records of several holders: pseudonymised, de-identified, joined on the patient, worded, capped and split.

Whatever decides about a training record (its wording, its place under the cap, its split) is drawn from the
patient's own data and the seed, so that adding or removing another patient leaves it as it is.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Secret, SecretStr
from tqdm.auto import tqdm

from helpers.data.card import SPLITS
from helpers.data.example import Example
from helpers.data.holders.candidates import Candidate, draw, example_of, make_candidate
from helpers.data.holders.card import make_join_card
from helpers.data.holders.deidentify import Span, find_identifiers, make_analyzer, mask, ner_installed
from helpers.data.holders.pipeline import PATIENT, Deidentify, Holder, Join, Pipeline
from helpers.data.holders.pseudonyms import damaged, normalise_key, pseudonym, whole_number
from helpers.data.holders.redaction_score import score_spans
from helpers.data.holders.roster import with_plain_names
from helpers.data.holders.splits import kept_in, split_units
from helpers.data.holders.tables import KEY, ROSTER, PrivateTable, read_holder
from helpers.errors import DataError, PrivacyError
from helpers.files import read_jsonl

PLACE = "#place"
SHORN = "#shorn"
"""The pseudonym that the key would have without leading zeros."""
TYPED = (str.upper, str.lower, str.title)


class PrivateRecords(Secret[dict[str, list[Example]]]):
    """Records by split that no display shows; `get_secret_value()` opens them."""

    def _display(self) -> str:
        counts = ", ".join(f"{name} {len(records)}" for name, records in self.get_secret_value().items())
        return f"{counts} records; they are not shown"


@dataclass(frozen=True)
class Joined:
    """What `join_providers` returns.

    `records`: examples by split (train, validation, test), each with its unit.
    `card`: counts, reasons and measurements, without any record; see `helpers.data.holders.card`.
    """

    records: PrivateRecords
    card: dict[str, Any]


def join_providers(pipeline: Pipeline, key: SecretStr, *, seed: int, progress: bool = True) -> Joined:
    """Make one de-identified set of records from the holders' tables.

    Args:
        pipeline: see `helpers.data.holders.pipeline.load_pipeline`.
        key: the holders' common key, see `helpers.data.holders.pseudonyms.read_key`; another one changes `id` and
            `unit` of the records and nothing else.
        seed: of every draw.
        progress: whether a bar shows how far the de-identification is.

    Raises:
        DataError: a table cannot be used, keys match nobody, or a split is empty.
        PrivacyError: de-identification does worse on the planted spans than the pipeline admits.
    """
    tables = {holder.name: read_holder(holder, pipeline.path.parent) for holder in pipeline.holders}
    quality = _mask_tables(pipeline, tables, progress)
    fates = {name: [""] * len(table.get_secret_value()) for name, table in tables.items()}
    frames = {holder.name: _pseudonymise(holder, tables[holder.name], key, seed, fates) for holder in pipeline.holders}
    for column in {f"{side}.{on}" for join in pipeline.joins for side in (join.left, join.right) for on in join.on}:
        frame = frames[column.split(".")[0]]
        if column in frame:  # an episode is 1 with one holder, 1.0 with another
            frame[column] = frame[column].map(whole_number)
    frequent = {name: rows for name, frame in frames.items() if (rows := _far_more_frequent(frame))}
    joined = frames[pipeline.holders[0].name]
    for join in pipeline.joins:
        joined = _merge(joined, frames[join.right], join, fates)
    candidates = _make_candidates(joined, pipeline, seed)
    split_units(candidates, pipeline.split, cap=pipeline.cap)
    card = make_join_card(fates, candidates, quality, cap=pipeline.cap, unit=pipeline.unit, frequent=frequent)
    return Joined(_release(candidates), card)


def _mask_tables(pipeline: Pipeline, tables: Mapping[str, PrivateTable], progress: bool) -> dict[str, Any]:
    """Mask every column that is not coded, in place; measure how well, where planted spans are given."""
    settings = pipeline.deidentify
    frames = {name: table.get_secret_value() for name, table in tables.items()}
    rosters = [list(frame[column]) for frame in frames.values() for column in frame if str(column).startswith(ROSTER)]
    # A patient number in a note is masked like one on a roster, a phone number in all spellings of its region.
    keys = {holder.name: holder.key for holder in pipeline.holders if holder.key}
    for name, key in keys.items():
        if key.kind == "text":
            usable = [cell for cell in frames[name][KEY] if normalise_key(_named_by(cell, key.before))]
            rosters += [usable, [whole_number(_named_by(cell, key.before)) for cell in usable]]
    analyzer = make_analyzer(
        {cell for column in rosters for cell in with_plain_names(column)},
        phone_regions={*settings.phone_regions, *(key.region for key in keys.values() if key.region)},
        keep=settings.keep,
        ner=settings.ner,
    )
    columns = [(holder.name, name) for holder in pipeline.holders for name in holder.names if name not in holder.coded]
    cells = [(name, row, column) for name, column in columns for row in range(len(frames[name]))]
    texts = [str(frames[name].at[row, column]) for name, row, column in cells]
    bar = tqdm(dict.fromkeys(texts), desc="de-identifying", unit=" texts", disable=not progress, delay=2)
    known = {text: find_identifiers(analyzer, text) for text in bar}
    found = [known[text] for text in texts]
    for (name, row, column), text, spans in zip(cells, texts, found, strict=True):
        frames[name].at[row, column] = mask(text, spans)
    quality: dict[str, Any] = {"measured": bool(settings.planted)}
    quality |= {"masked": dict(Counter(span.kind for spans in found for span in spans).most_common())}
    if settings.ner:
        quality["ner"] = f"{settings.ner}, {'used' if ner_installed(settings.ner) else 'not installed'}"
    if settings.planted:
        planted = _read_planted(pipeline.path.parent / settings.planted)
        foreign = "It is of other records: for yours, take deidentify.planted out of the pipeline."
        given = [planted.pop(cell, []) for cell in cells]
        if any(span.end > len(text) for text, spans in zip(texts, given, strict=True) for span in spans):
            raise DataError(f"{settings.planted} names spans that lie behind the end of their texts. {foreign}")
        quality |= score_spans(texts, given, found) | {"languages": list(settings.languages)}
        if planted:
            raise DataError(
                f"{settings.planted} names {len(planted)} cells that no de-identified column has. {foreign}"
            )
        _refuse_leaks(quality, settings)
    return quality


def _read_planted(path: Path) -> dict[tuple[str, int, str], list[Span]]:
    if not path.is_file():
        raise DataError(f"There is no file {path.name} beside the pipeline; deidentify.planted names it.")
    lines = read_jsonl(path)
    return {(line["holder"], line["row"], line["column"]): [Span(*span) for span in line["spans"]] for line in lines}


def _refuse_leaks(quality: Mapping[str, Any], settings: Deidentify) -> None:
    floors = {"recall": (settings.min_recall, "missed"), "precision": (settings.min_precision, "wrong")}
    for name, (floor, kinds) in floors.items():
        if quality[name] is not None and quality[name] < floor:
            raise PrivacyError(
                f"De-identification reaches a {name} of {quality[name]:.4f} on the planted spans, below {floor}. "
                f"{kinds.capitalize()} by kind: {quality[kinds]}. Add patterns or roster columns; nothing was joined."
            )


def _pseudonymise(
    holder: Holder, table: PrivateTable, key: SecretStr, seed: int, fates: Mapping[str, list[str]]
) -> pd.DataFrame:
    """The kept columns as `holder.column`, the pseudonym, the place of its draw, and the row's number."""
    frame = table.get_secret_value()
    if holder.key is None:
        normal = _row_names(holder, frame)
    else:
        kind, region = holder.key.kind, holder.key.region
        named = {value: whole_number(_named_by(value, holder.key.before)) for value in frame[KEY]}
        usable = {value: normalise_key(name, kind, region) for value, name in named.items()}
        normal = {value: name for value, name in usable.items() if name}
        why = {value: damaged(name, kind) for value, name in named.items() if value not in normal}
        if kind == "text":
            _refuse_merged(holder.name, {named[value]: name for value, name in normal.items()})
    kept = frame[holder.names].add_prefix(f"{holder.name}.")
    kept[PATIENT] = frame[KEY].map({value: pseudonym(name, key) for value, name in normal.items()})
    kept[SHORN] = frame[KEY].map({value: pseudonym(name.lstrip("0"), key) for value, name in normal.items()})
    kept[PLACE] = frame[KEY].map({value: draw(seed, "split", name) for value, name in normal.items()})
    kept[_row(holder.name)] = range(len(frame))
    known = kept[PATIENT].notna()
    for value, rows in kept[~known].groupby(frame[KEY][~known]):
        _note(fates, rows, [holder.name], f"no usable key: {why[value]}" if why[value] else "no usable key")
    return kept[known]


def _named_by(value: str, sign: str | None) -> str:
    return value.split(sign)[0] if sign else value


def _far_more_frequent(frame: pd.DataFrame) -> int:
    """Rows of the most frequent key, where it has 10 or more, and more than 10 times as many as the median key."""
    rows = frame[PATIENT].value_counts()
    return int(rows.max()) if len(rows) and rows.max() > max(9, 10 * rows.median()) else 0


def _refuse_merged(holder: str, names: Mapping[str, str]) -> None:
    """Keys of one holder are refused that are equal but for what may, or may not, tell two patients apart.

    Separators and case are no part of a key, yet 12-3 and 1-23, or aB1 and Ab1, may be two patients. Leading zeros are
    part of it, yet 00100 and 100 may be one, written by two programs, who would then count as two.

    Two holders may well group the same digits in their own ways, and are taken to mean one patient.
    """
    separators, cases, zeros = defaultdict(set), defaultdict(set), defaultdict(set)
    for value, name in names.items():
        separators[name].add(tuple(re.findall(r"\d+", value)))
        cases[name].add("".join(filter(str.isalpha, value)))
        zeros[name.lstrip("0")].add(name)
    # AX-12, ax-12 and Ax-12 are typed by hand; aX-12 is meant so.
    mixed = [of for of in cases.values() if not of <= {typed(each) for each in of for typed in TYPED}]
    for what, found in (
        ("the place of a separator (as 12-3 and 1-23)", separators.values()),
        ("case (as aB1 and Ab1)", mixed),
        ("leading zeros (as 00100 and 100)", zeros.values()),
    ):
        merged = sum(len(different) > 1 for different in found)
        if merged:
            raise DataError(
                f"{holder}: {merged} keys are equal but for {what}, so that two patients could become one, or one two. "
                "Write the keys in one way; none is shown."
            )


def _row_names(holder: Holder, frame: pd.DataFrame) -> dict[str, str]:
    """A name for each row that stands for itself: its content, not its number, which other rows decide."""
    seen: Counter[str] = Counter()
    names = {}
    for key, *cells in frame[[KEY, *holder.names]].itertuples(index=False):
        content = json.dumps(cells)
        seen[content] += 1
        names[key] = f"{holder.name}/{content}/{seen[content]}"
    return names


def _merge(left: pd.DataFrame, right: pd.DataFrame, join: Join, fates: Mapping[str, list[str]]) -> pd.DataFrame:
    """Add the first agreeing row of `right`; why other rows go missing is noted in `fates`."""
    left_on = [PATIENT if column == PATIENT else f"{join.left}.{column}" for column in join.on]
    right_on = [PATIENT if column == PATIENT else f"{join.right}.{column}" for column in join.on]
    mine, other, agree = _row(join.left), _row(join.right), " and ".join(join.on)
    further = right.duplicated(right_on)
    _note(fates, right[further], [join.right], f"an earlier row of {join.right} has the same {agree}")
    first = right[~further].drop(columns=[PLACE, SHORN])
    merged = left.merge(first, how=join.how, left_on=left_on, right_on=right_on, sort=False)
    matched = merged[other].dropna()
    if not len(matched):
        shared, shorn = (len(set(left[column]) & set(right[column])) for column in (PATIENT, SHORN))
        before = Counter(f"of {name}, {why}" for name in (join.left, join.right) for why in fates[name] if why)
        raise DataError(
            f"Joining {join.left} with {join.right} on {agree} matches nobody: {shared} of {left[PATIENT].nunique()} "
            f"patients are with both{f', {shorn} but for leading zeros' * (shorn > shared)}. Rows left out before: "
            f"{'; '.join(f'{times} {why}' for why, times in before.items()) or 'none'}. Check each holder's key column "
            "with its kind and region, and the columns of 'on'."
        )
    lost = [(right[~right[other].isin(matched)], left, [join.right], join.left)]
    if join.how == "inner":
        joined = [name for name in fates if _row(name) in left]
        lost.append((left[~left[mine].isin(merged[mine])], right, joined, join.right))
    for rows, others, holders, partner in lost:
        zeros = rows[SHORN].isin(others[SHORN]) & ~rows[PATIENT].isin(others[PATIENT])
        reason = f"no row of {partner} has the same {agree}"
        _note(fates, rows[zeros], holders, f"{reason}, but for leading zeros")
        _note(fates, rows, holders, reason)
    return merged


def _note(fates: Mapping[str, list[str]], lost: pd.DataFrame, holders: Iterable[str], reason: str) -> None:
    for holder in holders:
        for row in lost[_row(holder)].dropna():
            fates[holder][int(row)] = fates[holder][int(row)] or reason


def _make_candidates(joined: pd.DataFrame, pipeline: Pipeline, seed: int) -> list[Candidate]:
    holders = [holder.name for holder in pipeline.holders]
    columns = [f"{holder.name}.{name}" for holder in pipeline.holders for name in holder.names]
    candidates = []
    for cells in joined.astype(object).where(joined.notna(), None).to_dict("records"):
        fields = {column: cells[column] or "" for column in columns}
        rows = {name: int(cells[_row(name)]) for name in holders if cells[_row(name)] is not None}
        candidates.append(make_candidate(fields, rows, cells[PATIENT], cells[PLACE], pipeline, seed))
    return candidates


def _release(candidates: Sequence[Candidate]) -> PrivateRecords:
    """Kept records in an order, and with numbers within their unit, that say nothing of the holders' files."""
    numbers: Counter[str] = Counter()
    splits: dict[str, list[Example]] = {}
    for name in SPLITS:
        splits[name] = []
        for candidate in sorted(kept_in(name, candidates), key=lambda candidate: candidate.order):
            splits[name].append(example_of(candidate, f"{candidate.unit}/{numbers[candidate.unit]}"))
            numbers[candidate.unit] += 1
    return PrivateRecords(splits)


def _row(holder: str) -> str:
    return f"#{holder}"
