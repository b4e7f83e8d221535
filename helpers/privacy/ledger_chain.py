"""The lines of a holder's ledger: what each holds, how each follows the one before, and what counts as damage."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from helpers.errors import LedgerError, PrivacyError
from helpers.privacy.accounting import Cost
from helpers.privacy.grants import Grant, check_grant

RESTORE = (
    "Nothing was changed, and nothing may be spent: restore the holder's last whole copy, or let the holder sign a "
    "first grant for another ledger, lowered by all that was spent."
)
FIXED = {"holder", "ledger", "unit", "patient_key", "fictitious", "public_key"}
"""What all grants of one ledger have in common."""


class Entry(BaseModel):
    """One line of a ledger; only a reservation has a `cost`, only a commit a `result`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    index: int
    time: str
    kind: Literal["grant", "reserve", "commit", "unbounded"]
    grant: Grant | None = None
    spend_id: str | None = None
    run: str | None = None
    cost: Cost | None = None
    result: str | None = None
    previous: str
    hash: str = ""


def read_chain(path: Path, holder: str) -> list[Entry]:
    """Read and verify every entry of a ledger, oldest first, and the signatures of all its grants.

    Raises:
        LedgerError: the file is missing or damaged; the message names the first bad entry.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise LedgerError(f"The ledger of {holder}, {path}, cannot be read: {error}. {RESTORE}") from None
    entries: list[Entry] = []
    try:
        for line in lines or [b""]:
            entry = Entry.model_validate_json(line, strict=True)
            _check(entry, line, entries, holder)
            entries.append(entry)
    except (ValidationError, PrivacyError) as error:
        unreadable = error.errors()[0]["msg"] if isinstance(error, ValidationError) else None
        fault = f"it cannot be read ({unreadable})" if unreadable else str(error).rstrip(".")
        where = f"entry {len(entries)}: {fault}; received {line[:80]!r}"
        raise LedgerError(f"The ledger of {holder}, {path}, is damaged: {where}. {RESTORE}") from None
    return entries


def follow(entries: Sequence[Entry], holder: str, kind: str, **fields: Any) -> Entry:
    """The entry that comes after `entries`, dated now and chained to the last of them.

    Raises:
        LedgerError: it is a grant that may not follow.
    """
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    previous = _last_hash(entries, holder)
    entry = Entry.model_validate({"index": len(entries), "time": now, "kind": kind, **fields, "previous": previous})
    entry = entry.model_copy(update={"hash": _digest(entry)})
    _check(entry, line_of(entry).encode(), entries, holder)
    return entry


def line_of(entry: Entry) -> str:
    """An entry as it stands in the file."""
    return json.dumps(entry.model_dump(exclude_none=True)) + "\n"


def _check(entry: Entry, line: bytes, before: Sequence[Entry], holder: str) -> None:
    """Refuse a line that cannot stand after the entries `before`.

    Raises:
        LedgerError: why not.
    """
    if entry.index != len(before):
        raise LedgerError(f"it is not here: the line in its place carries index {entry.index}")
    if entry.hash != _digest(entry) or line != line_of(entry).encode():
        raise LedgerError(f"it was altered: it carries hash {entry.hash[:12]}, its content has {_digest(entry)[:12]}")
    if entry.previous != _last_hash(before, holder):
        raise LedgerError(f"it does not follow the one before: it names {entry.previous[:12]}")
    if not before:
        if entry.grant is None:
            raise LedgerError("it is no grant, and a ledger begins with one")
        check_grant(entry.grant, "a new ledger", holder=holder, serial=1)
    elif entry.grant is not None:
        last = [each.grant for each in before if each.grant][-1]
        check_grant(entry.grant, "its ledger", above=last.serial, **last.model_dump(include=FIXED))


def _last_hash(entries: Sequence[Entry], holder: str) -> str:
    """What the next entry follows; the first differs by holder, so that one's file cannot stand for another's."""
    return entries[-1].hash if entries else hashlib.sha256(f"ledger of {holder}".encode()).hexdigest()


def _digest(entry: Entry) -> str:
    return hashlib.sha256(json.dumps(entry.model_dump(exclude_none=True, exclude={"hash"})).encode()).hexdigest()
