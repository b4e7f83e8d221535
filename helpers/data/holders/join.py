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

from helpers.data.card import counted
from helpers.data.example import SPLITS, Example
from helpers.data.holders.candidates import Candidate, draw, example_of, kept_in, make_candidate, split_units
from helpers.data.holders.deidentify import Span, find_identifiers, make_analyzer, mask, ner_installed, score_spans
from helpers.data.holders.pipeline import PATIENT, Deidentify, Holder, Join, Key, Pipeline
from helpers.data.holders.pseudonyms import damaged, normalise_key, pseudonym, whole_number
from helpers.data.holders.roster import with_plain_names
from helpers.data.holders.tables import KEY, ROSTER, read_holder
from helpers.errors import DataError, PrivacyError
from helpers.files import read_jsonl
from helpers.progress import tqdm

PLACE = "#place"
SHORN = "#shorn"  # the pseudonym that the key would have without leading zeros
TYPED = (str.upper, str.lower, str.title)


@dataclass(frozen=True)
class Joined:
    """`records`: examples by split, each with its unit, hidden from displays; `card`: counts, without any record."""

    records: Secret[dict[str, list[Example]]]
    card: dict[str, Any]


def join_providers(pipeline: Pipeline, key: SecretStr, *, seed: int) -> Joined:
    """Make one de-identified set of records from the holders' tables.

    Another key changes `id` and `unit` of the records and nothing else. The seed is of every draw. Raises DataError
    where a table cannot be used, keys match nobody or a split is empty, and PrivacyError where de-identification does
    worse on the planted spans than the pipeline admits.
    """
    folder = pipeline.path.parent
    tables = {holder.name: read_holder(holder, folder).get_secret_value() for holder in pipeline.holders}
    quality = _mask_tables(pipeline, tables)
    fates = {name: [""] * len(table) for name, table in tables.items()}
    frames = {holder.name: _pseudonymise(holder, tables[holder.name], key, seed, fates) for holder in pipeline.holders}
    for column in {f"{side}.{on}" for join in pipeline.joins for side in (join.left, join.right) for on in join.on}:
        frame = frames[column.split(".")[0]]
        if column in frame:  # an episode is 1 with one holder, 1.0 with another
            frame[column] = frame[column].map(whole_number)
    counts = {name: frame[PATIENT].value_counts() for name, frame in frames.items()}
    # Keys of 10 rows or more, and of more than 10 times as many as the median key.
    frequent = {name: int(rows.max()) for name, rows in counts.items() if rows.max() > max(9, 10 * rows.median())}
    joined = frames[pipeline.holders[0].name]
    for join in pipeline.joins:
        joined = _merge(joined, frames[join.right], join, fates)
    candidates = []
    for cells in joined.astype(object).where(joined.notna(), None).to_dict("records"):
        fields = {str(name): text or "" for name, text in cells.items() if "." in str(name)}  # holder.column
        numbers = {name: int(cells[_row(name)]) for name in tables if cells[_row(name)] is not None}
        candidates.append(make_candidate(fields, numbers, cells[PATIENT], cells[PLACE], pipeline, seed))
    split_units(candidates, pipeline.split, cap=pipeline.cap)
    card = make_join_card(fates, candidates, quality) | {"frequent_key": frequent, "cap": pipeline.cap}
    return Joined(Secret(_release(candidates)), card)


def _mask_tables(pipeline: Pipeline, frames: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Mask every column that is not coded, in place; measure how well, where planted spans are given."""
    settings = pipeline.deidentify
    rosters = [list(frame[column]) for frame in frames.values() for column in frame if str(column).startswith(ROSTER)]
    # A patient number in a note is masked like one on a roster, a phone number in all spellings of its region.
    keys = {holder.name: holder.key for holder in pipeline.holders if holder.key}
    for name, key in keys.items():
        if key.kind == "text":
            named = _named(key, frames[name])
            usable = [cell for cell in frames[name][KEY] if normalise_key(named[cell])]
            rosters += [usable, [named[cell] for cell in usable]]
    analyzer = make_analyzer(
        {cell for column in rosters for cell in with_plain_names(column)},
        phone_regions={*settings.phone_regions, *(key.region for key in keys.values() if key.region)},
        keep=settings.keep,
        ner=settings.ner,
    )
    columns = [(holder.name, name) for holder in pipeline.holders for name in holder.names if name not in holder.coded]
    texts = {(name, row, column): text for name, column in columns for row, text in enumerate(frames[name][column])}
    bar = tqdm(dict.fromkeys(texts.values()), desc="de-identifying", unit=" texts", delay=2)
    known = {text: find_identifiers(analyzer, text) for text in bar}
    for (name, row, column), text in texts.items():
        frames[name].at[row, column] = mask(text, known[text])
    masked = Counter(span.kind for text in texts.values() for span in known[text])
    quality: dict[str, Any] = {"measured": bool(settings.planted), "masked": dict(masked.most_common())}
    if settings.ner:
        quality["ner"] = f"{settings.ner}, {'used' if ner_installed(settings.ner) else 'not installed'}"
    if settings.planted:
        quality |= _measured(settings, pipeline.path.parent / settings.planted, texts, known)
    return quality


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


def _pseudonymise(
    holder: Holder, frame: pd.DataFrame, key: SecretStr, seed: int, fates: Mapping[str, list[str]]
) -> pd.DataFrame:
    """The kept columns as `holder.column`, the pseudonym, the place of its draw, and the row's number."""
    kept = frame[holder.names].add_prefix(f"{holder.name}.")
    kept[_row(holder.name)] = range(len(frame))
    if holder.key is None:
        names = _row_names(holder, frame)
    else:
        kind, region = holder.key.kind, holder.key.region
        named = frame[KEY].map(_named(holder.key, frame))
        names = named.map({name: normalise_key(name, kind, region) for name in {*named}})
        if kind == "text":
            _refuse_merged(holder.name, dict(zip(named[names.notna()], names.dropna(), strict=True)))
        for name, rows in kept[names.isna()].groupby(named):
            why = damaged(str(name), kind)
            _note(fates, rows, [holder.name], f"no usable key: {why}" if why else "no usable key")
    kept, names = kept[names.notna()].copy(), names.dropna()
    kept[PATIENT] = [pseudonym(name, key) for name in names]
    kept[SHORN] = [pseudonym(name.lstrip("0"), key) for name in names]
    kept[PLACE] = [draw(seed, "split", name) for name in names]
    return kept


def _named(key: Key, frame: pd.DataFrame) -> dict[str, str]:
    """Cells of the key column to what of them names the patient."""
    return {cell: whole_number(cell.split(key.before)[0] if key.before else cell) for cell in frame[KEY]}


def _refuse_merged(holder: str, names: Mapping[str, str]) -> None:
    """Refuse keys of one holder that are equal but for what may, or may not, tell two patients apart.

    Separators and case are no part of a key, yet 12-3 and 1-23, or aB1 and Ab1, may be two patients. Leading zeros are
    part of it, yet 00100 and 100 may be one. Two holders may group digits differently: that is still one patient.
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
        if merged := sum(len(different) > 1 for different in found):
            raise DataError(
                f"{holder}: {merged} keys are equal but for {what}, so that two patients could become one, or one two. "
                "Write the keys in one way; none is shown."
            )


def _row_names(holder: Holder, frame: pd.DataFrame) -> pd.Series[str]:
    """A name for each row that stands for itself: its content, not its number, which other rows decide."""
    contents = pd.Series([json.dumps(cells) for cells in frame[holder.names].to_numpy().tolist()])
    times = contents.groupby(contents).cumcount() + 1
    return holder.name + "/" + contents + "/" + times.astype(str)


def _merge(left: pd.DataFrame, right: pd.DataFrame, join: Join, fates: Mapping[str, list[str]]) -> pd.DataFrame:
    """Add the first agreeing row of `right`; why other rows go missing is noted in `fates`."""
    left_on = [PATIENT if column == PATIENT else f"{join.left}.{column}" for column in join.on]
    right_on = [PATIENT if column == PATIENT else f"{join.right}.{column}" for column in join.on]
    joined = [name for name in fates if _row(name) in left]
    mine, other, agree = _row(joined[0]), _row(join.right), " and ".join(join.on)  # every row has one of the first
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
    lost += [(left[~left[mine].isin(merged[mine])], right, joined, join.right)]  # a left join loses none
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


def make_join_card(
    fates: Mapping[str, Sequence[str]], candidates: Sequence[Candidate], quality: Mapping[str, Any]
) -> dict[str, Any]:
    """Count rows and records after the split: each is used or left out with a reason, and the sums are checked.

    `fates`: for each holder, for each of its rows, why it came into no candidate, or nothing. `quality`: what the
    de-identification masked and how well.
    """
    kept = [candidate for name in SPLITS for candidate in kept_in(name, candidates)]
    holders = {}
    for name, reasons in fates.items():
        why = [*reasons]
        for candidate in candidates:
            if name in candidate.rows:
                why[candidate.rows[name]] = why[candidate.rows[name]] or candidate.reason
        used = {candidate.rows[name] for candidate in kept if name in candidate.rows}
        left_out = Counter(reason for row, reason in enumerate(why) if reason and row not in used)
        holders[name] = counted(f"rows of {name}", len(reasons), len(used), left_out)
    left_out = Counter(candidate.reason for candidate in candidates if candidate.reason)
    return {
        "holders": holders,
        "joined": counted("rows of the join", len(candidates), len(kept), left_out),
        "units": len({candidate.unit for candidate in kept}),
        "splits": {name: _describe(kept_in(name, candidates)) for name in SPLITS},
        "deidentify": dict(quality),
    }


def _describe(kept: Sequence[Candidate]) -> dict[str, Any]:
    of_unit = Counter(candidate.unit for candidate in kept)
    return {
        "records": len(kept),
        "units": len(of_unit),
        "values": len({value for candidate in kept for value in candidate.values}),
        "records_of_a_unit": {str(size): times for size, times in sorted(Counter(of_unit.values()).items())},
    }


def _release(candidates: Sequence[Candidate]) -> dict[str, list[Example]]:
    """Kept records in an order, and with numbers within their unit, that say nothing of the holders' files."""
    numbers: Counter[str] = Counter()
    splits: dict[str, list[Example]] = {name: [] for name in SPLITS}
    for candidate in sorted(candidates, key=lambda candidate: candidate.order):
        if not candidate.reason:
            splits[candidate.split].append(example_of(candidate, f"{candidate.unit}/{numbers[candidate.unit]}"))
            numbers[candidate.unit] += 1
    return splits


def _row(holder: str) -> str:
    return f"#{holder}"
