"""Spend ledgers: budgets hold, totals are composed, spends survive kills and crowds."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from small_ledgers import CHEAP, granted, opened

from helpers.errors import LedgerError, PrivacyError
from helpers.privacy.accounting import MOST_EPSILON, Cost, composed, spent
from helpers.privacy.ledger import Ledger, check_budgets, commit, open_ledger, reserve

EACH = Cost(noise_multiplier=0.8704, sample_rate=0.1, steps=72, delta=1e-5, prv=7.9717, pld=7.9394)
"""As `spent` computes it."""


def room_for(trainings: int) -> float:
    """An ε that allows so many cheap trainings, and no further one."""
    return (composed([CHEAP] * trainings, 1e-5) + composed([CHEAP] * (trainings + 1), 1e-5)) / 2


def test_the_first_grant_begins_a_ledger_and_is_read_later(tmp_path: Path) -> None:
    first = opened(tmp_path / "ledgers")
    again = open_ledger(tmp_path / "ledgers", granted())
    assert first == again and first.entries() == again.entries()
    (entry,) = first.entries()
    assert entry.kind == "grant" and entry.grant == granted()


def test_three_trainings_cost_less_than_their_sum(tmp_path: Path) -> None:
    ledger = opened(tmp_path, epsilon=30.0)
    for name in "abc":
        reserve([ledger], name, "run", EACH)
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-3)
    accountant.compose(PoissonSampledDpEvent(0.1, GaussianDpEvent(EACH.noise_multiplier)), 3 * 72)
    row = ledger.head()
    assert row["total_epsilon"] == pytest.approx(accountant.get_epsilon(1e-5), rel=0.01)
    assert 12 < row["total_epsilon"] < 15 and 23.7 < row["sum_epsilon"] <= 24
    other = Cost(noise_multiplier=1.2, sample_rate=0.2, steps=20, delta=1e-6, prv=5.0, pld=5.0)
    reserve([ledger], "d", "run", other)
    accountant.compose(PoissonSampledDpEvent(0.2, GaussianDpEvent(1.2)), 20)
    assert ledger.head()["total_epsilon"] == pytest.approx(accountant.get_epsilon(1e-5), rel=0.01)


def test_who_validated_in_one_training_may_train_in_another_whose_split_differs() -> None:
    measuring = replace(EACH, validation_noise=1.4749, scores=6, split="seed 0")
    apart = composed([measuring, replace(EACH, split="seed 0")], 1e-5)
    for other in ("seed 1", ""):
        either = composed([measuring, replace(EACH, split=other)], 1e-5)
        assert either > apart + 0.5


def test_one_training_fits_a_grant_of_its_own_epsilon(tmp_path: Path) -> None:
    cost = spent(1.1011, 0.1, 20, 1e-5)
    ledger = opened(tmp_path, epsilon=cost.epsilon)
    reserve([ledger], "a", "run", cost)
    assert 0.99 * cost.epsilon < ledger.head()["total_epsilon"] <= cost.epsilon


def test_totals_without_an_end_are_bounded_or_refused() -> None:
    assert composed([], 1e-5) == 0
    assert MOST_EPSILON < composed([EACH] * 200, 1e-5) < 200 * 8
    assert composed([EACH, replace(CHEAP, noise_multiplier=1e-4)], 1e-5) > 1e6
    for noise in (1e-160, 1e-200):
        with pytest.raises(PrivacyError, match="No guarantee can be given"):
            composed([replace(CHEAP, noise_multiplier=noise)], 1e-5)
    for delta in (0.0, 1.0, float("nan")):
        with pytest.raises(PrivacyError, match="delta is"):
            composed([CHEAP], delta)


@pytest.mark.parametrize(
    "change",
    [
        {"noise_multiplier": 0.0}, {"noise_multiplier": float("inf")}, {"sample_rate": 0.0}, {"sample_rate": 1.1},
        {"steps": -1}, {"steps": 1.5}, {"prv": -1.0}, {"prv": float("nan")}, {"pld": float("inf")}, {"delta": 0.0},
        {"delta": 1.0},
    ],
)  # fmt: skip
def test_a_cost_out_of_range_is_refused(change: dict[str, Any]) -> None:
    [(name, value)] = change.items()
    with pytest.raises(PrivacyError, match=rf"^{name} is {value};|received .*{value}"):
        replace(CHEAP, **change)


def test_reserve_then_commit(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    reserve([ledger], "a", "run-1", CHEAP)
    assert ledger.head()["reserved"] == 1
    commit([ledger], "a", "f00d")
    assert ledger.entries()[-1].result == "f00d"
    row = ledger.head()
    assert row == {
        "holder": "hospital",
        "public_key": granted().public_key,
        "granted_epsilon": 10.0,
        "granted_delta": 1e-5,
        "total_epsilon": composed([CHEAP], 1e-5),
        "sum_epsilon": CHEAP.epsilon,
        "trainings": 1,
        "reserved": 0,
        "entries": 3,
        "hash": ledger.entries()[-1].hash,
    }
    reserved = ledger.entries()[1].cost
    assert reserved is not None and (reserved.noise_multiplier, reserved.sample_rate, reserved.steps) == (50.0, 1.0, 1)


def test_a_budget_is_not_exceeded(tmp_path: Path) -> None:
    ledger = opened(tmp_path, epsilon=room_for(2))
    reserve([ledger], "a", "run-1", CHEAP)
    commit([ledger], "a", "f00d")
    reserve([ledger], "b", "run-2", CHEAP)  # never committed: stays spent
    before = ledger.path.read_bytes()
    with pytest.raises(LedgerError) as refused:
        reserve([ledger], "c", "run-3", CHEAP)
    spent, asked = composed([CHEAP] * 2, 1e-5), composed([CHEAP] * 3, 1e-5)
    for part in ("hospital", "run-3", f"so far cost ε {spent:.6g}", f"with this ε {asked:.6g}", "serial 2"):
        assert part in str(refused.value)
    assert ledger.path.read_bytes() == before
    open_ledger(tmp_path, granted(serial=2, epsilon=room_for(3)))
    reserve([ledger], "c", "run-3", CHEAP)
    assert ledger.head()["trainings"] == 3


def test_trainings_are_refused_together(tmp_path: Path) -> None:
    ledger = opened(tmp_path, epsilon=room_for(2))
    check_budgets([ledger], [CHEAP] * 2, "two")
    with pytest.raises(LedgerError, match="too small for three"):
        check_budgets([ledger], [CHEAP] * 3, "three")
    assert ledger.head()["entries"] == 1


def test_a_lowered_grant_pays_for_nothing_more(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    reserve([ledger], "a", "run", CHEAP)
    open_ledger(tmp_path, granted(serial=2, epsilon=0.01))
    with pytest.raises(LedgerError, match=r"granted is ε 0\.01"):
        reserve([ledger], "b", "run", CHEAP)
    check_budgets([ledger], [], "nothing")


def test_the_same_calls_again_change_nothing(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    reserve([ledger], "a", "run-1", CHEAP)
    reserved = ledger.path.read_bytes()
    reserve([ledger], "a", "run-1", CHEAP)
    assert ledger.path.read_bytes() == reserved
    commit([ledger], "a", "f00d")
    committed = ledger.path.read_bytes()
    commit([ledger], "a", "f00d")
    reserve([ledger], "a", "run-1", CHEAP)
    assert ledger.path.read_bytes() == committed


@pytest.mark.parametrize("change", [{"steps": 2}, {"noise_multiplier": 60.0}, {"sample_rate": 0.5}, {"prv": 0.02}])
def test_one_id_is_one_spend(tmp_path: Path, change: dict[str, Any]) -> None:
    ledger = opened(tmp_path)
    reserve([ledger], "a", "run-1", CHEAP)
    for _ in range(2):  # while reserved, then once committed
        for run, cost in (("run-2", CHEAP), ("run-1", replace(CHEAP, **change))):
            with pytest.raises(LedgerError, match=r"'a' at hospital is recorded as reserve of Cost\(.*by 'run-1'"):
                reserve([ledger], "a", run, cost)
        commit([ledger], "a", "f00d")


def test_what_was_not_reserved_is_not_committed(tmp_path: Path) -> None:
    hospital, pharmacy = opened(tmp_path), opened(tmp_path, "pharmacy")
    reserve([hospital], "a", "run", CHEAP)
    with pytest.raises(LedgerError, match="no reservation at pharmacy"):
        commit([hospital, pharmacy], "a", "f00d")
    assert hospital.head()["reserved"] == 1


def test_one_spend_releases_one_result(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    reserve([ledger], "a", "run-1", CHEAP)
    for _ in range(2):
        commit([ledger], "a", "f00d")
    assert ledger.entries()[-1].result == "f00d" and len(ledger.entries()) == 3
    with pytest.raises(LedgerError, match="for another result, 'f00d'; received 'beef'"):
        commit([ledger], "a", "beef")


def test_a_refusal_at_one_holder_spends_at_none(tmp_path: Path) -> None:
    ledgers = [opened(tmp_path), opened(tmp_path, "pharmacy", epsilon=0.001), opened(tmp_path, "insurer")]
    with pytest.raises(LedgerError, match="The budget of pharmacy is too small"):
        reserve(ledgers, "a", "run", CHEAP)
    assert [row["entries"] for row in [each.head() for each in ledgers]] == [1, 1, 1]


def test_an_interrupted_reservation_is_completed(tmp_path: Path) -> None:
    hospital, pharmacy = opened(tmp_path), opened(tmp_path, "pharmacy")
    pharmacy.path.chmod(0o444)
    with pytest.raises(LedgerError, match=r"pharmacy.*could not be written.*It is read-only"):
        reserve([hospital, pharmacy], "a", "run", CHEAP)
    assert [each.head()["reserved"] for each in (hospital, pharmacy)] == [1, 0]
    pharmacy.path.chmod(0o644)
    reserve([pharmacy, hospital], "a", "run", CHEAP)
    assert [each.head()["reserved"] for each in (hospital, pharmacy)] == [1, 1]
    commit([hospital], "a", "f00d")  # killed before the second
    reserve([hospital, pharmacy], "a", "run", CHEAP)
    commit([hospital, pharmacy], "a", "f00d")
    assert [(row["trainings"], row["reserved"]) for row in [each.head() for each in [hospital, pharmacy]]] == [
        (1, 0),
        (1, 0),
    ]


def test_a_finished_spend_releases_nothing_at_a_new_holder(tmp_path: Path) -> None:
    hospital, pharmacy = opened(tmp_path), opened(tmp_path, "pharmacy")
    reserve([hospital], "a", "run", CHEAP)
    commit([hospital], "a", "f00d")
    reserve([pharmacy, hospital], "a", "run", CHEAP)
    with pytest.raises(LedgerError, match="committed at hospital for another result"):
        commit([pharmacy, hospital], "a", "beef")
    assert [each.head()["reserved"] for each in (hospital, pharmacy)] == [0, 1]


def test_a_spend_needs_holders_that_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helpers.privacy.ledger.LOCK_TIMEOUT_S", 0.1)
    ledger = opened(tmp_path)
    with pytest.raises(LedgerError, match=r"hospital could not be locked within .*hospital\.lock"):
        reserve([ledger, opened(tmp_path)], "a", "run", CHEAP)
    assert len(ledger.entries()) == 1


PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["helpers.privacy.ledger"])


@pytest.fixture(scope="module", autouse=True)
def _no_process_is_left() -> Iterator[None]:
    before = psutil.Process().children()
    yield
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]
    assert set(psutil.Process().children()) <= set(before)


def crowd(folder: Path, name: str, told: Connection) -> None:
    """One of several processes that all want more than is left."""
    holders = ["hospital", "pharmacy"] if name == "0" else ["pharmacy", "hospital"]
    ledgers = [opened(folder, holder, epsilon=room_for(10)) for holder in holders]
    told.send("ready")
    told.recv()
    reserved = 0
    for number in range(8):
        try:
            reserve(ledgers, f"{name}-{number}", name, CHEAP)
            reserved += 1
        except LedgerError as error:
            assert "is too small" in str(error), error
    told.send(reserved)


def test_a_crowd_does_not_exceed_the_budget(tmp_path: Path) -> None:
    ends = []
    for number in range(3):
        ours, theirs = PROCESSES.Pipe()
        PROCESSES.Process(target=crowd, args=(tmp_path, str(number), theirs), daemon=True).start()
        ends.append(ours)
    assert [end.recv() for end in ends] == ["ready"] * 3
    for end in ends:  # all at once
        end.send("go")
    assert sum(end.recv() for end in ends) == 10
    for holder in ("hospital", "pharmacy"):
        row = opened(tmp_path, holder, epsilon=room_for(10)).head()
        assert (row["reserved"], row["entries"]) == (10, 11)


def spend(folder: Path, life: int, told: Connection) -> None:
    """Reserve and commit until killed, saying so before and after."""
    ledgers = both(folder)
    for number in range(10_000):
        spend_id = f"{life}-{number}"
        told.send(("reserving", spend_id))
        reserve(ledgers, spend_id, "run", CHEAP)
        told.send(("reserved", spend_id))
        if number % 2:
            commit(ledgers, spend_id, "f00d")
            told.send(("committed", spend_id))


def both(folder: Path) -> list[Ledger]:
    return [opened(folder, holder, epsilon=1e6) for holder in ("hospital", "pharmacy")]


def survive_kills(folder: Path, lives: int, seed: int) -> None:
    """Kill a child that spends, again and again; check after each kill that whatever it was told is on record."""
    chooser = random.Random(seed)
    promised: dict[str, set[str]] = {"reserving": set(), "reserved": set(), "committed": set()}
    for life in range(lives):
        ours, theirs = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(target=spend, args=(folder, life, theirs))
        process.start()
        theirs.close()
        told = [ours.recv() for _ in range(chooser.randint(1, 15))]
        time.sleep(chooser.uniform(0, 0.02))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        while ours.poll():  # what was still in the pipe counts as told
            try:
                told.append(ours.recv())
            except EOFError:
                break
        for action, spend_id in told:
            promised[action].add(spend_id)
        ledgers = both(folder)
        for ledger in ledgers:
            kinds: dict[str, set[str | None]] = {"grant": set(), "reserve": set(), "commit": set()}
            for entry in ledger.entries():
                kinds[entry.kind].add(entry.spend_id)
            assert promised["reserved"] <= kinds["reserve"] <= promised["reserving"]
            assert promised["committed"] <= kinds["commit"] <= kinds["reserve"]
        last = told[-1][1]
        reserve(ledgers, last, "run", CHEAP)
        commit(ledgers, last, "f00d")  # resumed after the kill
        promised["reserved"].add(last)
        promised["committed"].add(last)
        rows = [each.head() for each in ledgers]
        assert rows[0]["trainings"] == rows[1]["trainings"] >= len(promised["reserved"])
    assert len(promised["reserved"]) > 2 * lives  # the children did spend


def test_kills_lose_no_spend(tmp_path: Path) -> None:
    survive_kills(tmp_path, lives=5, seed=1)


@pytest.mark.slow
def test_fifty_kills_lose_no_spend(tmp_path: Path) -> None:
    survive_kills(tmp_path, lives=50, seed=2)
