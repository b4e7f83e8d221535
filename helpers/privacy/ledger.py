"""What was spent on each data holder's patients: one append-only, hash-chained, locked file a holder.

A ledger begins with a grant that its holder signed (`helpers.privacy.grants`). A training reserves its cost before it
reads a record, and its result is committed before release. A reservation that is never committed stays spent. An entry
keeps noise multiplier, sampling rate and steps; from these the ε of all trainings together is composed (PLD), at the
grant's δ.

The chain shows every change to an entry that others follow, and nobody but the holder can write a grant. Whoever
controls the disk can still put back an older copy of the file, or begin a ledger in another folder with the same first
grant. Privacy reports therefore keep the `Ledger.head` of their time, which `Ledger.contains` looks for. Only a broker
out of the trainer's reach could close the rest.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from helpers.errors import LedgerError, RunError
from helpers.files import Record, sync, write_atomic
from helpers.privacy.accounting import Cost, composed
from helpers.privacy.grants import Grant
from helpers.privacy.ledger_chain import Entry, follow, line_of, read_chain

LOCK_TIMEOUT_S = 60
State = Literal["new", "reserved", "committed"]


@dataclass(frozen=True)
class Ledger:
    """The ledger of one holder; make it with `open_ledger`."""

    path: Path
    holder: str

    def entries(self) -> list[Entry]:
        """Read and verify every entry, oldest first.

        Raises:
            LedgerError: the file is missing or damaged; the message names the first bad entry.
        """
        return read_chain(self.path, self.holder)

    def head(self) -> Record:
        """Where the ledger stands now, for a privacy report or a table.

        Returns:
            `{"holder", "public_key" (that signs the grants), "granted_epsilon", "granted_delta", "total_epsilon" (of
            all trainings together, at the granted δ), "sum_epsilon" (of the single ε, for comparison), "left_epsilon",
            "trainings", "reserved" (those not committed), "unbounded_runs" (trainings without any guarantee, outside
            the total), "entries", "hash"}`.
        """
        entries = self.entries()
        grant, costs = _granted(entries), _costs(entries)
        total, kinds = composed(costs, grant.delta), [entry.kind for entry in entries]
        return {
            "holder": self.holder,
            "public_key": grant.public_key,
            "granted_epsilon": grant.epsilon,
            "granted_delta": grant.delta,
            "total_epsilon": total,
            "sum_epsilon": math.fsum(cost.epsilon for cost in costs),
            "left_epsilon": max(0.0, grant.epsilon - total),
            "trainings": len(costs),
            "reserved": len(costs) - kinds.count("commit"),
            "unbounded_runs": kinds.count("unbounded"),
            "entries": len(entries),
            "hash": entries[-1].hash,
        }

    def contains(self, head: Mapping[str, Any]) -> bool:
        """Whether every entry up to that head is still there; False where the ledger was cut or begun anew."""
        entries, count = self.entries(), head.get("entries")
        return isinstance(count, int) and 0 < count <= len(entries) and entries[count - 1].hash == head.get("hash")

    def committed(self, spend_id: str) -> tuple[float, float, str] | None:
        """ε and δ of a training alone, and the digest of its result; None where it is not committed."""
        own = _own(self.entries(), spend_id)
        if not own or own[0].cost is None or own[-1].result is None:
            return None
        return own[0].cost.epsilon, own[0].cost.delta, own[-1].result

    def _append(self, entries: Sequence[Entry], kind: str, **fields: Any) -> None:
        """Replace the file by itself and one more entry, durably; the caller holds the lock."""
        entry = follow(entries, self.holder, kind, **fields)
        try:
            if self.path.exists() and not self.path.stat().st_mode & stat.S_IWUSR:
                raise PermissionError("It is read-only.")  # to replace it would get around that
            write_atomic(self.path, "".join(line_of(each) for each in [*entries, entry]))
            sync(self.path.parent)
        except (OSError, RunError) as error:
            raise LedgerError(
                f"The ledger of {self.holder}, {self.path}, could not be written, so nothing may be trained or "
                f"released: {error} Ask its holder, then run the same command again."
            ) from None


def open_ledger(folder: Path, grant: Grant, *, begin: bool = False) -> Ledger:
    """Open the ledger of a holder, and take up its grant where that is newer than what the ledger has.

    Args:
        folder: where ledgers are kept: outside any run folder, for they outlive runs.
        grant: the newest one of the holder.
        begin: begin the ledger if it is missing.

    Raises:
        LedgerError: the grant is refused, or the ledger is missing, damaged, busy or cannot be written.
    """
    ledger = Ledger((folder / f"{grant.holder}.jsonl").resolve(), grant.holder)
    if not (begin or ledger.path.exists()):  # a lost one would come back with its whole budget
        raise LedgerError(
            f"{grant.holder} has no ledger at {ledger.path}. If there was one, restore it, or set private.ledgers to "
            "its folder. If nothing was ever trained on this holder's records, begin it, once, with "
            "'python -m helpers.course begin-ledgers' and the same --conf and --set as the training."
        )
    with _locked([ledger], begin=begin) as [(_, entries)]:
        if not entries or _granted(entries) != grant:
            ledger._append(entries, "grant", grant=grant)
    return ledger


def reserve(ledgers: Sequence[Ledger], spend_id: str, run: str, cost: Cost | None) -> State:
    """Set the cost of a training aside at every holder whose records it reads, before it reads one.

    All ledgers are locked and checked before the first is written, so a refusal changes none. A kill between two
    writes leaves a reservation at some of the holders; the same call again completes it.

    Args:
        ledgers: one a holder.
        spend_id: names one training from its first step to its release. A training that starts over draws new
            noise, and so is a new spend that needs a new id.
        run: the run it belongs to.
        cost: of the whole training; None for one without privacy, which stands outside the total and which ledgers of
            fictitious records alone take.

    Returns:
        "new" where the training may begin; "reserved" where it may have begun before, and may only go on from its
        checkpoint; "committed" where it has ended, and only its result may be used.

    Raises:
        LedgerError: a budget would be exceeded, the id stands for another spend, or a ledger is damaged, busy or
            cannot be written.
    """
    with _locked(ledgers) as found:
        states = [_state(ledger, _own(entries, spend_id), run, cost) for ledger, entries in found]
        if "new" in states and "committed" in states:
            raise LedgerError(
                f"Spend {spend_id!r} is committed at some of {_names(ledgers)} and unknown at others. A training on "
                "the records of more holders is another spend: give it a new id."
            )
        new = [each for each, state in zip(found, states, strict=True) if state == "new"]
        check_budgets([ledger for ledger, _ in new], [cost], run)
        for ledger, entries in new:
            ledger._append(entries, "reserve" if cost else "unbounded", spend_id=spend_id, run=run, cost=cost)
    return min(states, key=("new", "reserved", "committed").index)


def commit(ledgers: Sequence[Ledger], spend_id: str, result: str) -> None:
    """Record the result of a reserved training before it is released; safe to repeat.

    A spend pays for one result. Who copies a run folder in the middle of a training and lets both go on has two,
    and the second is refused here.

    Args:
        ledgers: those of its reservation.
        spend_id: the id of its reservation.
        result: digest of what will be released.

    Raises:
        LedgerError: there is no such reservation, another result was committed before, or a ledger is damaged, busy
            or cannot be written.
    """
    with _locked(ledgers) as found:
        last = [_own(entries, spend_id)[-1:] for _, entries in found]
        for (ledger, _), own in zip(found, last, strict=True):
            if not own or own[0].kind == "unbounded":
                raise LedgerError(
                    f"Spend {spend_id!r} has no reservation at {ledger.holder}: its model may not be released. "
                    "Reserve before training reads a record."
                )
            if own[0].result not in (None, result):
                raise LedgerError(
                    f"Spend {spend_id!r} is committed at {ledger.holder} for another result, {own[0].result!r}; "
                    f"received {result!r}. A copy of this training has ended before. One spend releases one model."
                )
        for (ledger, entries), own in zip(found, last, strict=True):
            if own[0].kind == "reserve":
                ledger._append(entries, "commit", spend_id=spend_id, result=result)


def check_budgets(ledgers: Sequence[Ledger], costs: Sequence[Cost | None], who: str) -> None:
    """Refuse trainings that have no reservation yet and that the budgets do not allow together.

    Args:
        ledgers: one a holder.
        costs: one a training; None for one without privacy.
        who: names the trainings in the message.

    Raises:
        LedgerError: a budget would be exceeded, the records are real and a training has no privacy, or a ledger is
            damaged.
    """
    new = [cost for cost in costs if cost]
    for ledger in ledgers:
        entries = ledger.entries()
        grant, before = _granted(entries), _costs(entries)
        if len(new) < len(costs) and not grant.fictitious:
            raise LedgerError(f"The ledger of {ledger.holder} is for real records; {who} has to train with privacy.")
        total = composed([*before, *new], grant.delta)
        if new and not total <= grant.epsilon:
            raise LedgerError(
                f"The budget of {ledger.holder} is too small for {who}: all trainings so far cost "
                f"ε {composed(before, grant.delta):.6g} together at δ {grant.delta:g}, and with this ε {total:.6g}; "
                f"granted is ε {grant.epsilon:.6g}. Nothing was reserved. Train fewer models, with a smaller ε each, "
                f"or ask the holder for a larger grant, of serial {grant.serial + 1}."
            )


def summary(ledgers: Sequence[Ledger]) -> list[Record]:
    """The head of each ledger, in the order given: a row a holder.

    Raises:
        LedgerError: a ledger is missing or damaged.
    """
    return [ledger.head() for ledger in ledgers]


@contextmanager
def _locked(ledgers: Sequence[Ledger], *, begin: bool = False) -> Iterator[list[tuple[Ledger, list[Entry]]]]:
    """Hold the locks of all ledgers, in one order for everyone so that nobody waits in a circle."""
    ordered = sorted(ledgers, key=lambda ledger: ledger.path)
    if not ordered or len(set(ordered)) < len(ordered):
        raise LedgerError(f"A spend is on different holders' records; received {_names(ledgers) or 'none'}.")
    with ExitStack() as stack:
        for ledger in ordered:
            path = ledger.path.with_suffix(".lock")
            try:
                stack.enter_context(FileLock(path, timeout=LOCK_TIMEOUT_S))
            except (Timeout, OSError) as error:
                raise LedgerError(
                    f"The ledger of {ledger.holder} could not be locked within {LOCK_TIMEOUT_S} s: {error}. Let the "
                    f"process that holds {path} end, or ask the holder, then run the same command again."
                ) from None
        yield [(ledger, [] if begin and not ledger.path.exists() else ledger.entries()) for ledger in ordered]


def _state(ledger: Ledger, own: Sequence[Entry], run: str, cost: Cost | None) -> State:
    """How far a spend is at one holder, by its entries there."""
    if not own:
        return "new"
    if (own[0].run, own[0].cost) != (run, cost):
        raise LedgerError(
            f"Spend {own[0].spend_id!r} at {ledger.holder} is recorded as {own[0].kind} of {own[0].cost} by "
            f"{own[0].run!r}; received {cost} by {run!r}. Another training needs another id; the course keeps an id in "
            "the run's private/state, deleted only to train anew, at a new cost."
        )
    return "committed" if own[-1].kind == "commit" else "reserved"


def _granted(entries: Sequence[Entry]) -> Grant:
    """The grant that counts now."""
    return [entry.grant for entry in entries if entry.grant][-1]


def _costs(entries: Sequence[Entry]) -> list[Cost]:
    """What was spent: every reservation, committed or not."""
    return [entry.cost for entry in entries if entry.cost]


def _own(entries: Sequence[Entry], spend_id: str) -> list[Entry]:
    """The entries of one spend, oldest first."""
    return [entry for entry in entries if entry.spend_id == spend_id]


def _names(ledgers: Sequence[Ledger]) -> str:
    return ", ".join(ledger.holder for ledger in ledgers)
