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
from typing import Any

import pandas as pd
from pydantic import Secret, SecretStr

from helpers.data.card import counted
from helpers.data.example import SPLITS, Example
from helpers.data.holders.candidates import Candidate, draw, example_of, kept_in, make_candidate, split_units
from helpers.data.holders.masking import mask_tables
from helpers.data.holders.pipeline import PATIENT, Holder, Join, Pipeline, Split
from helpers.data.holders.pseudonyms import damaged, nir, normalise_key, pseudonym, shorn, whole_number
from helpers.data.holders.tables import KEY, named_in, read_holder
from helpers.errors import DataError

DRAW = "#draw"
SHORN = "#shorn"  # the pseudonym of `shorn(key)`
NEARLY = "but for leading zeros or a NIR's last two digits"
NIR_HINT = " If they are French social security numbers, give the key kind: nir."
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
    worse on the planted spans than the pipeline admits, or a coded column identifies people.
    """
    folder = pipeline.path.parent
    tables = {holder.name: read_holder(holder, folder).get_secret_value() for holder in pipeline.holders}
    first = pipeline.holders[0]
    contents = tables[first.name].groupby(first.names, sort=False).ngroup()  # before masking makes different rows equal
    quality = mask_tables(pipeline, tables)
    fates = {name: [""] * len(table) for name, table in tables.items()}
    frames = {holder.name: _pseudonymise(holder, tables[holder.name], key, seed, fates) for holder in pipeline.holders}
    for column in {f"{side}.{on}" for join in pipeline.joins for side in (join.left, join.right) for on in join.on}:
        frame = frames[column.split(".")[0]]
        if column in frame:  # an episode is 1 with one holder, 1.0 with another
            frame[column] = frame[column].map(whole_number)
    counts = {name: frame[PATIENT].value_counts() for name, frame in frames.items()}
    # Keys of 10 rows or more, and of more than 10 times as many as the median key.
    frequent = {name: int(rows.max()) for name, rows in counts.items() if rows.max() > max(9, 10 * rows.median())}
    joined = frames[first.name]
    if first.key:  # rows that belong to nobody may be equal, and yet of several people
        again = pd.DataFrame({"unit": joined[PATIENT], "content": contents[joined.index]}).duplicated()
        _note(fates, joined[again], [first.name], f"an earlier row of {first.name} is the same")
        joined = joined[~again]
    for join in pipeline.joins:
        joined = _merge(joined, frames[join.right], join, fates)
    candidates = []
    for cells in joined.astype(object).where(joined.notna(), None).to_dict("records"):
        fields = {str(name): text or "" for name, text in cells.items() if "." in str(name)}  # holder.column
        numbers = {name: int(cells[_row(name)]) for name in tables if cells[_row(name)] is not None}
        candidates.append(make_candidate(fields, numbers, cells[PATIENT], cells[DRAW], pipeline, seed))
    try:
        split_units(candidates, pipeline.split, cap=pipeline.cap)
    except DataError as error:
        raise DataError(f"{error} {_left_out(fates, tables, candidates)}") from None
    if pipeline.split.by:
        _say_share(candidates, pipeline.split)
    card = make_join_card(fates, candidates, quality) | {"frequent_key": frequent, "cap": pipeline.cap}
    return Joined(Secret(_release(candidates)), card)


def _pseudonymise(
    holder: Holder, frame: pd.DataFrame, key: SecretStr, seed: int, fates: Mapping[str, list[str]]
) -> pd.DataFrame:
    """The kept columns as `holder.column`, the pseudonym, its draw, and the row's number."""
    kept = frame[holder.names].add_prefix(f"{holder.name}.")
    kept[_row(holder.name)] = range(len(frame))
    if holder.key is None:
        names = _row_names(holder, frame)
    else:
        kind, region = holder.key.kind, holder.key.region
        named = frame[KEY].map(named_in(holder.key, frame))
        names = named.map({name: normalise_key(name, kind, region) for name in {*named}})
        if kind == "text":
            _refuse_merged(holder.name, dict(zip(named[names.notna()], names.dropna(), strict=True)))
        for name, rows in kept[names.isna()].groupby(named):
            why = damaged(str(name), kind)
            _note(fates, rows, [holder.name], f"no usable key: {why}" if why else "no usable key")
    kept, names = kept[names.notna()].copy(), names.dropna()
    kept[PATIENT] = [pseudonym(name, key) for name in names]
    kept[SHORN] = [pseudonym(shorn(name), key) for name in names]
    kept[DRAW] = [draw(seed, "split", name) for name in names]
    return kept


def _refuse_merged(holder: str, names: Mapping[str, str]) -> None:
    """Refuse keys of one holder that are equal but for what may, or may not, tell two patients apart.

    Separators and case are no part of a key, yet 12-3 and 1-23, or aB1 and Ab1, may be two patients. Leading zeros are
    part of it, yet 00100 and 100 may be one, as may a NIR of 13 and one of 15 digits. Two holders may group digits
    differently: that is still one patient.
    """
    separators, cases, zeros = defaultdict(set), defaultdict(set), defaultdict(set)
    for value, name in names.items():
        separators[name].add(tuple(re.findall(r"\d+", value)))
        cases[name].add("".join(filter(str.isalpha, value)))
        zeros[shorn(name)].add(name)
    # AX-12, ax-12 and Ax-12 are typed by hand; aX-12 is meant so.
    mixed = [of for of in cases.values() if not of <= {typed(each) for each in of for typed in TYPED}]
    for what, found in (
        ("the place of a separator (as 12-3 and 1-23)", separators.values()),
        ("case (as aB1 and Ab1)", mixed),
        ("leading zeros (as 00100 and 100), or a NIR's last two digits", zeros.values()),
    ):
        if merged := sum(len(different) > 1 for different in found):
            raise DataError(
                f"{holder}: {merged} keys are equal but for {what}, so that two patients could become one, or one two. "
                f"Write the keys in one way; none is shown.{NIR_HINT if any(map(nir, names.values())) else ''}"
            )


def _left_out(fates: Mapping[str, list[str]], holders: Iterable[str], candidates: Sequence[Candidate] = ()) -> str:
    """A sentence on why rows of these holders, and joined ones, went missing so far."""
    why = Counter(f"of {name}, {reason}" for name in holders for reason in fates[name] if reason)
    why.update(f"of the join, {candidate.reason}" for candidate in candidates if candidate.reason)
    return f"Rows left out before: {'; '.join(f'{times} {reason}' for reason, times in why.items()) or 'none'}."


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
    empty = (right[right_on] == "").any(axis="columns")  # an empty cell agrees with nothing
    _note(fates, right[empty], [join.right], f"a column of {agree} is empty")
    right = right[~empty]
    further = right.duplicated(right_on)
    _note(fates, right[further], [join.right], f"an earlier row of {join.right} has the same {agree}")
    first = right[~further].drop(columns=[DRAW, SHORN])
    merged = left.merge(first, how=join.how, left_on=left_on, right_on=right_on, sort=False)
    matched = merged[other].dropna()
    if not len(matched):
        shared, nearly = (len(set(left[column]) & set(right[column])) for column in (PATIENT, SHORN))
        raise DataError(
            f"Joining {join.left} with {join.right} on {agree} matches nobody: {shared} of {left[PATIENT].nunique()} "
            f"patients are with both{f', {nearly} {NEARLY}' * (nearly > shared)}. "
            f"{_left_out(fates, (join.left, join.right))} Check each holder's key column "
            "with its kind and region, and the columns of 'on'."
        )
    lost = [(right[~right[other].isin(matched)], left, [join.right], join.left)]
    lost += [(left[~left[mine].isin(merged[mine])], right, joined, join.right)]  # a left join loses none
    for rows, others, holders, partner in lost:
        zeros = rows[SHORN].isin(others[SHORN]) & ~rows[PATIENT].isin(others[PATIENT])
        reason = f"no row of {partner} has the same {agree}"
        _note(fates, rows[zeros], holders, f"{reason}, {NEARLY}")
        _note(fates, rows, holders, reason)
    return merged


def _say_share(candidates: Sequence[Candidate], split: Split) -> None:
    """Say so where a few whole groups make the test much larger or smaller than was asked."""
    units = {candidate.unit: candidate.split for candidate in candidates if candidate.split}
    groups = len({candidate.group for candidate in candidates if candidate.split})
    share = Counter(units.values())["test"] / len(units)
    if groups < 30 and not split.test / 2 <= share <= 2 * split.test:
        print(
            f"{share:.0%} of the patients were drawn for the test, where split.test asks for {split.test:.0%}: whole "
            f"groups of {split.by} go there, and it has {groups}. With 30 groups or more the share is usually close; "
            "without split.by, patients are drawn one by one."
        )


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
