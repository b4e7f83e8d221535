"""What was spent on each data holder's records: one append-only, hash-chained, locked file a holder.

A training reserves its (ε, δ) before it reads a record and commits at its end what it really cost. Spends add up by
basic composition: the sum of the ε and the sum of the δ stay within the grant (Dwork and Roth 2014, theorem 3.16).
A reservation that is never committed stays spent.

The chain shows every change to an entry that others follow. Whoever can write the file can still cut its end off or
begin it anew: every privacy report therefore keeps the `Ledger.head` of its time, which `Ledger.contains` looks for.
"""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from helpers.errors import LedgerError, RunError
from helpers.files import Record, sync, write_atomic
from helpers.privacy.ledger_chain import Entry, Head, follow, line_of, read_chain

LOCK_TIMEOUT_S = 60
State = Literal["new", "reserved", "committed"]


class Ledger:
    """The ledger of one holder; make it with `open_ledger`."""

    def __init__(self, path: Path, holder: str) -> None:
        self.path = path
        self.holder = holder

    def __repr__(self) -> str:
        return f"Ledger({self.holder!r})"

    def entries(self) -> list[Entry]:
        """Read and verify every entry, oldest first.

        Raises:
            LedgerError: the file is missing or damaged; the message names the first bad entry.
        """
        return read_chain(self.path, self.holder)

    def grant(self, epsilon: float, delta: float, note: str = "") -> None:
        """Record the holder's decision on a new budget; the holder alone may take it.

        Args:
            epsilon: the whole budget from now on, not an addition to the old one; above 0.
            delta: likewise, above 0 and below 1.
            note: who decided, and why.

        Raises:
            LedgerError: an amount is out of range, or the ledger is damaged, busy or cannot be written.
        """
        _check_amounts(epsilon, delta)
        with _locked([self]) as books:
            self._append(books[0][1], "grant", epsilon=epsilon, delta=delta, note=note)

    def head(self) -> Head:
        """Where the ledger stands now, to be kept in a privacy report."""
        entries = self.entries()
        return Head(entries=len(entries), hash=entries[-1].hash)

    def contains(self, head: Mapping[str, Any]) -> bool:
        """Whether every entry up to that head is still there; False where the ledger was cut or begun anew."""
        entries, count = self.entries(), head.get("entries")
        return isinstance(count, int) and 0 < count <= len(entries) and entries[count - 1].hash == head.get("hash")

    def _append(self, entries: Sequence[Entry], kind: str, note: str = "", **spend: Any) -> None:
        """Replace the file by itself and one more entry, durably; the caller holds the lock."""
        fields = {"spend_id": None, "run": None, "epsilon": None, "delta": None, **spend}
        entry = follow(entries, self.holder, kind=kind, note=note, **fields)
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


def open_ledger(folder: Path, holder: str, *, epsilon: float, delta: float, note: str = "first grant") -> Ledger:
    """Open the ledger of a holder, or begin it with what the holder grants.

    Args:
        folder: where ledgers are kept: outside any run folder, for they outlive runs.
        holder: the holder's name: letters, digits, `_` and `-`.
        epsilon: the holder's whole budget over all runs, above 0.
        delta: likewise, above 0 and below 1.
        note: of the first entry, where it is begun.

    Raises:
        LedgerError: the ledger records another grant, or is damaged, busy or cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", holder):
        raise LedgerError(f"Holder {holder!r} cannot name a ledger; use up to 64 letters, digits, _ and -.")
    _check_amounts(epsilon, delta)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LedgerError(f"The folder of ledgers {folder} cannot be made: {error}. Choose another.") from None
    ledger = Ledger((folder / f"{holder}.jsonl").resolve(), holder)
    with ExitStack() as stack:
        _lock(stack, ledger)
        if not ledger.path.exists():
            ledger._append([], "grant", note, epsilon=epsilon, delta=delta)
        granted = _granted(ledger.entries())
    if (granted.epsilon, granted.delta) != (epsilon, delta):
        raise LedgerError(
            f"The ledger of {holder} records a grant of {_amounts(granted.epsilon, granted.delta)}; received "
            f"{_amounts(epsilon, delta)}. Ask for what is recorded, or let the holder change it with Ledger.grant."
        )
    return ledger


def reserve(ledgers: Sequence[Ledger], spend_id: str, run: str, epsilon: float, delta: float) -> State:
    """Set the cost of a training aside at every holder whose records it reads, before it reads one.

    All ledgers are locked and checked before the first is written, so a refusal changes none. A kill between two
    writes leaves a reservation at some of the holders; the same call again completes it.

    Args:
        ledgers: one a holder.
        spend_id: names one training from its first step to its release. A training that starts over draws new
            noise, and so is a new spend that needs a new id.
        run: the run it belongs to.
        epsilon: what the training costs at most, above 0.
        delta: likewise, above 0 and below 1.

    Returns:
        "new" where the training may begin; "reserved" where it may have begun before, and may only go on from its
        checkpoint; "committed" where it has ended, and only its result may be used.

    Raises:
        LedgerError: a budget would be exceeded, the id stands for another spend, or a ledger is damaged, busy or
            cannot be written.
    """
    _check_amounts(epsilon, delta)
    with _locked(ledgers) as books:
        states = [_state(ledger, entries, spend_id, run, epsilon, delta) for ledger, entries in books]
        if "new" in states and "committed" in states:
            raise LedgerError(
                f"Spend {spend_id!r} is committed at some of {_names(ledgers)} and unknown at others. A training on "
                "the records of more holders is another spend: give it a new id."
            )
        for (ledger, entries), state in zip(books, states, strict=True):
            if state == "new":
                ledger._append(entries, "reserve", spend_id=spend_id, run=run, epsilon=epsilon, delta=delta)
    return min(states, key=("new", "reserved", "committed").index)


def commit(ledgers: Sequence[Ledger], spend_id: str, epsilon: float, delta: float, result: str = "") -> None:
    """Record what a reserved training really cost, before any of it is released; safe to repeat.

    A spend pays for one result. Who copies a run folder in the middle of a training and lets both go on has two,
    and the second is refused here.

    Args:
        ledgers: those of its reservation.
        spend_id: the id of its reservation.
        epsilon: the cost; takes the place of the reservation and is not above it.
        delta: likewise.
        result: digest of what will be released.

    Raises:
        LedgerError: there is no such reservation, the cost is above it, another cost or result was committed before,
            or a ledger is damaged, busy or cannot be written.
    """
    with _locked(ledgers) as books:
        found = [_spends(entries).get(spend_id) for _, entries in books]
        for (ledger, _), spend in zip(books, found, strict=True):
            if spend is None or spend.epsilon is None or spend.delta is None:
                raise LedgerError(
                    f"Spend {spend_id!r} has no reservation at {ledger.holder}: its model may not be released. "
                    "Reserve before training reads a record."
                )
            if spend.kind == "commit" and (spend.epsilon, spend.delta) != (epsilon, delta):
                raise _conflict(ledger, spend, f"a commit of {_amounts(epsilon, delta)}")
            if spend.kind == "commit" and spend.note != result:
                raise LedgerError(
                    f"Spend {spend_id!r} is committed at {ledger.holder} for another result, {spend.note[:12]!r}; "
                    f"received {result[:12]!r}. A copy of this training has ended before. One spend releases one model."
                )
            if not (0 <= epsilon <= spend.epsilon and 0 <= delta <= spend.delta):
                raise LedgerError(
                    f"Spend {spend_id!r} reserved {_amounts(spend.epsilon, spend.delta)} at {ledger.holder}; received "
                    f"a cost of {_amounts(epsilon, delta)}. It broke its plan: its model may not be released."
                )
        for (ledger, entries), spend in zip(books, found, strict=True):
            if spend is not None and spend.kind == "reserve":
                ledger._append(
                    entries, "commit", result, spend_id=spend_id, run=spend.run, epsilon=epsilon, delta=delta
                )


def record_unbounded(ledgers: Sequence[Ledger], spend_id: str, run: str) -> None:
    """Record a training without privacy, before it reads a record; safe to repeat.

    It stands outside the sums, for none could hold it; the caller allows it only on data whose holder declares
    them fictitious.

    Raises:
        LedgerError: the id stands for another spend, or a ledger is damaged, busy or cannot be written.
    """
    with _locked(ledgers) as books:
        found = [_spends(entries).get(spend_id) for _, entries in books]
        for (ledger, _), spend in zip(books, found, strict=True):
            if spend is not None and (spend.kind, spend.run) != ("unbounded", run):
                raise _conflict(ledger, spend, f"a training without privacy by {run!r}")
        for (ledger, entries), spend in zip(books, found, strict=True):
            if spend is None:
                ledger._append(entries, "unbounded", spend_id=spend_id, run=run)


def summary(ledgers: Sequence[Ledger]) -> list[Record]:
    """One row a holder, in the order given.

    Returns:
        `{"holder", "granted_epsilon", "spent_epsilon" (committed), "reserved_epsilon", "left_epsilon", the same four
        of delta, "unbounded_runs" (trainings without any guarantee, outside the sums), "entries"}`.

    Raises:
        LedgerError: a ledger is missing or damaged.
    """
    rows = []
    for ledger in ledgers:
        entries = ledger.entries()
        row: Record = {"holder": ledger.holder}
        for what in ("epsilon", "delta"):
            row |= {f"{name}_{what}": float(value) for name, value in _sums(entries, what).items()}
        unbounded = sum(entry.kind == "unbounded" for entry in entries)
        rows.append({**row, "unbounded_runs": unbounded, "entries": len(entries)})
    return rows


@contextmanager
def _locked(ledgers: Sequence[Ledger]) -> Iterator[list[tuple[Ledger, list[Entry]]]]:
    """Hold the locks of all ledgers, in one order for everyone so that nobody waits in a circle."""
    ordered = sorted(ledgers, key=lambda ledger: ledger.path)
    if not ordered or len({ledger.path for ledger in ordered}) < len(ordered):
        raise LedgerError(
            f"A spend is on one or more different holders' records; received {_names(ledgers) or 'none'}."
        )
    with ExitStack() as stack:
        for ledger in ordered:
            _lock(stack, ledger)
        yield [(ledger, ledger.entries()) for ledger in ordered]


def _lock(stack: ExitStack, ledger: Ledger) -> None:
    path = ledger.path.with_suffix(".lock")
    try:
        stack.enter_context(FileLock(path, timeout=LOCK_TIMEOUT_S))
    except Timeout:
        raise LedgerError(
            f"The ledger of {ledger.holder} was busy for {LOCK_TIMEOUT_S} s: another process holds {path}. Let it end, "
            "then run the same command again."
        ) from None
    except OSError as error:
        raise LedgerError(f"The ledger of {ledger.holder} cannot be locked: {error}. Ask its holder.") from None


def _state(ledger: Ledger, entries: Sequence[Entry], spend_id: str, run: str, epsilon: float, delta: float) -> State:
    own = [entry for entry in entries if entry.spend_id == spend_id]
    if own:
        first = own[0]
        if (first.kind, first.run, first.epsilon, first.delta) != ("reserve", run, epsilon, delta):
            raise _conflict(ledger, first, f"a reserve of {_amounts(epsilon, delta)} by {run!r}")
        return "committed" if own[-1].kind == "commit" else "reserved"
    for what, asked in (("epsilon", epsilon), ("delta", delta)):
        sums = _sums(entries, what)
        if _exact(asked) > sums["left"]:
            shown = ", ".join(f"{name} {float(value):.10g}" for name, value in sums.items())
            raise LedgerError(
                f"The budget of {ledger.holder} is too small: {run!r} asks for {what} {asked:.10g}; {shown}. Ask for "
                "less, use a model that was released before, or let the holder raise it with Ledger.grant."
            )
    return "new"


def _sums(entries: Sequence[Entry], what: str) -> dict[str, Fraction]:
    """Granted, spent, reserved and left, of `epsilon` or of `delta`."""
    sums = {"grant": _exact(getattr(_granted(entries), what)), "commit": Fraction(), "reserve": Fraction()}
    for spend in _spends(entries).values():
        if spend.kind != "unbounded":
            sums[spend.kind] += _exact(getattr(spend, what))
    granted, spent, reserved = sums.values()
    return {"granted": granted, "spent": spent, "reserved": reserved, "left": granted - spent - reserved}


def _exact(amount: float) -> Fraction:
    """The decimal that people write, so that three times 0.1 fits into 0.3."""
    return Fraction(repr(float(amount)))


def _granted(entries: Sequence[Entry]) -> Entry:
    return next(entry for entry in reversed(entries) if entry.kind == "grant")


def _spends(entries: Sequence[Entry]) -> dict[str | None, Entry]:
    """The last entry of each spend: a commit takes the place of its reservation."""
    return {entry.spend_id: entry for entry in entries if entry.kind != "grant"}


def _check_amounts(epsilon: float, delta: float) -> None:
    if not (0 < epsilon < math.inf and 0 < delta < 1):
        raise LedgerError(f"ε is finite and above 0, δ above 0 and below 1; received {_amounts(epsilon, delta)}.")


def _conflict(ledger: Ledger, entry: Entry, asked: str) -> LedgerError:
    amounts = "without a bound" if entry.epsilon is None else f"of {_amounts(entry.epsilon, entry.delta)}"
    return LedgerError(
        f"Spend {entry.spend_id!r} at {ledger.holder} is recorded as {entry.kind} {amounts} by {entry.run!r}; received "
        f"{asked}. Another training needs another id; the course keeps an id in the model's hidden .state folder, "
        "deleted only to train anew, at a new cost."
    )


def _amounts(epsilon: float | None, delta: float | None) -> str:
    return f"ε {epsilon:.10g} and δ {delta:.10g}"


def _names(ledgers: Sequence[Ledger]) -> str:
    return ", ".join(ledger.holder for ledger in ledgers)
