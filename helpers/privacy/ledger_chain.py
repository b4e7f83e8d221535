"""The lines of a holder's ledger: what each holds, how each follows the one before, and what counts as damage."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from helpers.errors import LedgerError

RESTORE = (
    "Nothing was changed, and nothing may be spent: restore the holder's last whole copy, or let the holder begin "
    "a new file with a grant lowered by all that was spent."
)
Amount = Annotated[float, Field(ge=0)]


class Entry(BaseModel):
    """One line of a ledger; the amounts are a whole budget in a grant, and None where there is no bound."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    index: int
    time: str
    kind: Literal["grant", "reserve", "commit", "unbounded"]
    spend_id: str | None
    run: str | None
    epsilon: Amount | None
    delta: Amount | None
    note: str
    previous: str
    hash: str


class Head(TypedDict):
    """Where a ledger stood: how many entries it had, and the hash of the last one."""

    entries: int
    hash: str


def read_chain(path: Path, holder: str) -> list[Entry]:
    """Read and verify every entry of a ledger, oldest first.

    Raises:
        LedgerError: the file is missing or damaged; the message names the first bad entry.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise LedgerError(f"The ledger of {holder}, {path}, cannot be read: {error}. {RESTORE}") from None
    entries: list[Entry] = []
    fault = None if lines else "is missing, for the file is empty"
    for line in lines:
        try:
            entry = Entry.model_validate_json(line, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            fault = f"cannot be read ({first['msg']} at {first['loc']}); received {line[:80]!r}"
            break
        previous = entries[-1].hash if entries else _genesis(holder)
        if fault := _break(entry, line, len(entries), previous):
            break
        entries.append(entry)
    if fault:
        where = f"entry {len(entries)} {fault}"
        raise LedgerError(f"The ledger of {holder}, {path}, is damaged: {where}. {RESTORE}")
    return entries


def follow(entries: Sequence[Entry], holder: str, **fields: Any) -> Entry:
    """The entry that comes after `entries`, dated now and chained to the last of them.

    Args:
        entries: the ledger so far; may be empty.
        holder: whose ledger it is.
        fields: `kind`, `note`, `spend_id`, `run`, `epsilon` and `delta`.
    """
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    previous = entries[-1].hash if entries else _genesis(holder)
    entry = Entry(index=len(entries), time=now, previous=previous, hash="", **fields)
    return entry.model_copy(update={"hash": _digest(entry)})


def line_of(entry: Entry) -> str:
    """An entry as it stands in the file."""
    return json.dumps(entry.model_dump()) + "\n"


def _break(entry: Entry, line: bytes, index: int, previous: str) -> str | None:
    """Why a line cannot stand at this place of the chain, or None."""
    if entry.index != index:
        return f"is not here: the line in its place carries index {entry.index}"
    if entry.hash != _digest(entry) or line != line_of(entry).encode():
        return f"was altered: it carries hash {entry.hash[:12]}, its content has {_digest(entry)[:12]}"
    if entry.previous != previous:
        return f"does not follow the one before: it names {entry.previous[:12]}, expected {previous[:12]}"
    return None


def _genesis(holder: str) -> str:
    """What the first entry follows; it differs by holder, so that one's file cannot stand for another's."""
    return hashlib.sha256(f"ledger of {holder}".encode()).hexdigest()


def _digest(entry: Entry) -> str:
    return hashlib.sha256(json.dumps(entry.model_dump(exclude={"hash"})).encode()).hexdigest()
