"""What was spent on each data holder's patients: one append-only, hash-chained, locked file a holder.

A ledger begins with a grant that its holder signed (`helpers.privacy.grants`). A training reserves its cost before it
reads a record, and its result is committed before release. A reservation that is never committed stays spent.

The chain shows damage, and an entry changed by hand. Whoever controls the disk can still chain all entries anew, put
an older copy back, or begin a ledger in another folder with the same first grant. Privacy reports therefore keep the
`Ledger.head` of their time, which `Ledger.contains` looks for. Only a broker out of the trainer's reach could do more.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from helpers.errors import LedgerError, PrivacyError, RunError
from helpers.files import Record, sync, write_atomic
from helpers.privacy.accounting import Cost, composed
from helpers.privacy.grants import Grant, check_grant

LOCK_TIMEOUT_S = 60
FIXED = {"holder", "ledger", "unit", "patient_key", "fictitious", "public_key"}
"""What all grants of one ledger have in common."""


class Entry(BaseModel):
    """One line of a ledger; only a reservation has a `run` and a `cost`, only a commit a `result`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    date: str
    kind: Literal["grant", "reserve", "commit"]
    grant: Grant | None = None
    spend_id: str | None = None
    run: str | None = None
    cost: Cost | None = None
    result: str | None = None
    previous: str = ""
    hash: str = ""

    def line(self) -> bytes:
        """The entry as it stands in the file."""
        return json.dumps(self.model_dump(exclude_none=True)).encode() + b"\n"

    def after(self, before: Sequence[Entry]) -> Entry:
        """The entry chained to those before: `previous` is the last one's hash, `hash` the SHA-256 of its own line."""
        chained = self.model_copy(update={"previous": before[-1].hash if before else "", "hash": ""})
        return chained.model_copy(update={"hash": hashlib.sha256(chained.line()).hexdigest()})


@dataclass(frozen=True)
class Ledger:
    """The ledger of one holder; make it with `open_ledger`."""

    path: Path
    holder: str

    def entries(self) -> list[Entry]:
        """Read and verify every entry and all grants' signatures, oldest first. LedgerError names the first bad one."""
        entries: list[Entry] = []
        line = b""
        try:
            for line in self.path.read_bytes().splitlines(keepends=True) or [b""]:
                entry = Entry.model_validate_json(line, strict=True)
                if line != entry.after(entries).line():
                    raise LedgerError("it was altered, or does not follow the line before it")
                self._check_grant(entry.grant, entries)
                entries.append(entry)
        except (OSError, ValidationError, PrivacyError) as error:
            fault = str(error).rstrip(".")
            if isinstance(error, ValidationError):
                fault = f"it cannot be read ({error.errors()[0]['msg']})"
            raise LedgerError(
                f"The ledger of {self.holder}, {self.path}, cannot be used: entry {len(entries)}: {fault}; received "
                f"{line[:80]!r}. Nothing may be spent: restore the holder's last whole copy, or let the holder sign a "
                "first grant for another ledger, lowered by all that was spent."
            ) from None
        return entries

    def head(self) -> Record:
        """Where the ledger stands now, for a privacy report or a table."""
        entries = self.entries()
        grant, costs = _granted(entries), [entry.cost for entry in entries if entry.cost]
        return {
            "holder": self.holder,
            "public_key": grant.public_key,
            "granted_epsilon": grant.epsilon,
            "granted_delta": grant.delta,
            "total_epsilon": composed(costs, grant.delta),  # of all trainings together
            "sum_epsilon": sum(cost.epsilon for cost in costs),  # of each alone
            "trainings": len(costs),
            "reserved": len(costs) - [entry.kind for entry in entries].count("commit"),  # and not committed
            "entries": len(entries),
            "hash": entries[-1].hash,
        }

    def contains(self, head: Mapping[str, Any]) -> bool:
        """Whether every entry up to that head is still there; False where the ledger was cut or begun anew."""
        return head.get("hash") in [entry.hash for entry in self.entries()]  # which tells all entries before, too

    def _spend(self, spend_id: str) -> tuple[Entry | None, Entry | None]:
        """The reservation and the commit of one training, as far as they are there."""
        found = {entry.kind: entry for entry in self.entries() if entry.spend_id == spend_id}
        return found.get("reserve"), found.get("commit")

    def _append(self, **fields: Any) -> None:
        """Replace the file by itself and one more entry, durably; the caller holds the lock."""
        before = self.entries() if self.path.exists() else []
        entry = Entry(date=time.strftime("%Y-%m-%d", time.gmtime()), **fields).after(before)
        self._check_grant(entry.grant, before)
        try:
            if before and not self.path.stat().st_mode & 0o200:
                raise PermissionError("It is read-only.")  # to replace it would get around that
            write_atomic(self.path, b"".join(each.line() for each in [*before, entry]))
            sync(self.path.parent)
        except (OSError, RunError) as error:
            raise LedgerError(
                f"The ledger of {self.holder}, {self.path}, could not be written, so nothing may be trained or "
                f"released: {error} Ask its holder, then run the same command again."
            ) from None

    def _check_grant(self, grant: Grant | None, before: Sequence[Entry]) -> None:
        """Refuse an entry after those before if its grant may not stand there, or a first one without a grant."""
        if grant and before:
            last = _granted(before)
            check_grant(grant, "its ledger", above=last.serial, **last.model_dump(include=FIXED))
        elif grant:
            check_grant(grant, "a new ledger", holder=self.holder, serial=1)
        elif not before:
            raise LedgerError("it is no grant, and a ledger begins with one")


def open_ledger(folder: Path, grant: Grant, *, begin: bool = False) -> Ledger:
    """Open the ledger of a holder, and take up its grant where that is newer than what the ledger has.

    `folder` lies outside any run folder, for ledgers outlive runs. With `begin` a missing ledger is begun. Raises
    LedgerError if the grant is refused, or the ledger is missing, damaged, busy or cannot be written.
    """
    ledger = Ledger((folder / f"{grant.holder}.jsonl").resolve(), grant.holder)
    if not begin and not ledger.path.exists():  # a lost one would come back with its whole budget
        raise LedgerError(
            f"{grant.holder} has no ledger at {ledger.path}. If there was one, restore it, or set privacy.ledgers to "
            "its folder. If nothing was ever trained on this holder's records, begin it, once, with "
            "'python -m helpers.course begin-ledgers' and the same --conf and --set as the training."
        )
    with _all_locked([ledger]):
        if (begin and not ledger.path.exists()) or _granted(ledger.entries()) != grant:
            ledger._append(kind="grant", grant=grant)
    return ledger


def reserve(ledgers: Sequence[Ledger], spend_id: str, run: str, cost: Cost) -> None:
    """Set the cost of a training aside at every holder whose records it reads, before it reads one.

    `spend_id` names one training from its first step to its release. One that starts over draws new noise, and so is a
    new spend that needs a new id. A refusal changes no ledger. The same call again reserves what a kill left out, and
    nothing twice. Raises LedgerError if a budget is too small, the id another training's, or a ledger cannot be used.
    """
    new = []
    with _all_locked(ledgers):
        for ledger in ledgers:
            reserved, _ = ledger._spend(spend_id)
            if reserved is None:
                new.append(ledger)
            elif (reserved.run, reserved.cost) != (run, cost):
                raise LedgerError(
                    f"Spend {spend_id!r} at {ledger.holder} is recorded as reserve of {reserved.cost} by "
                    f"{reserved.run!r}; received {cost} by {run!r}. Another training needs another id; the course "
                    "keeps an id in the run's private/state, deleted only to train anew, at a new cost."
                )
        check_budgets(new, [cost], run)
        for ledger in new:
            ledger._append(kind="reserve", spend_id=spend_id, run=run, cost=cost)


def commit(ledgers: Sequence[Ledger], spend_id: str, result: str) -> None:
    """Record the digest of a training's result where its cost is reserved, before the release; safe to repeat.

    A spend pays for one result. Who copies a run folder in the middle of a training and lets both go on has two, and
    the second is refused here. Raises LedgerError then, if nothing was reserved, or if a ledger cannot be used.
    """
    new = []
    with _all_locked(ledgers):
        for ledger in ledgers:
            reserved, ended = ledger._spend(spend_id)
            if reserved is None:
                raise LedgerError(
                    f"Spend {spend_id!r} has no reservation at {ledger.holder}: its model may not be released. "
                    "Reserve before training reads a record."
                )
            if ended is None:
                new.append(ledger)
            elif ended.result != result:
                raise LedgerError(
                    f"Spend {spend_id!r} is committed at {ledger.holder} for another result, {ended.result!r}; "
                    f"received {result!r}. A copy of this training has ended before. One spend releases one model."
                )
        for ledger in new:
            ledger._append(kind="commit", spend_id=spend_id, result=result)


def check_budgets(ledgers: Sequence[Ledger], costs: Sequence[Cost], who: str) -> None:
    """Raise LedgerError, naming `who`, if a budget does not allow these trainings together. None is reserved so far."""
    for ledger in ledgers:
        entries = ledger.entries()
        grant, before = _granted(entries), [entry.cost for entry in entries if entry.cost]
        total = composed([*before, *costs], grant.delta)
        if costs and not total <= grant.epsilon:
            raise LedgerError(
                f"The budget of {ledger.holder} is too small for {who}: all trainings so far cost "
                f"ε {composed(before, grant.delta):.6g} together at δ {grant.delta:g}, and with this ε {total:.6g}; "
                f"granted is ε {grant.epsilon:.6g}. Nothing was reserved. Train fewer models, with a smaller ε each, "
                f"or ask the holder for a larger grant, of serial {grant.serial + 1}."
            )


@contextmanager
def _all_locked(ledgers: Sequence[Ledger]) -> Iterator[None]:
    """Hold the locks of all ledgers, in one order for everyone so that nobody waits in a circle."""
    with ExitStack() as stack:
        for ledger in sorted(ledgers, key=lambda ledger: ledger.path):
            try:
                stack.enter_context(FileLock(ledger.path.with_suffix(".lock"), timeout=LOCK_TIMEOUT_S))
            except Timeout as error:
                raise LedgerError(
                    f"The ledger of {ledger.holder} could not be locked within {LOCK_TIMEOUT_S} s: {error} Let the "
                    "process that holds it end, or ask the holder, then run the same command again."
                ) from None
            except OSError as error:
                raise LedgerError(
                    f"The ledger of {ledger.holder} cannot be locked: {error}. Give privacy.ledgers a folder that "
                    "you may write into, and run the same command again."
                ) from None
        yield


def _granted(entries: Sequence[Entry]) -> Grant:
    """The grant that counts now."""
    return [entry.grant for entry in entries if entry.grant][-1]
