"""Spend ledgers: budgets hold, spends survive kills and crowds, and damage of any kind is named."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.errors import LedgerError
from helpers.privacy.ledger import Ledger, commit, open_ledger, record_unbounded, reserve, summary


def opened(folder: Path, holder: str = "hospital", epsilon: float = 10.0, delta: float = 1e-3) -> Ledger:
    return open_ledger(folder, holder, epsilon=epsilon, delta=delta)


def column(ledger: Ledger, name: str) -> float:
    return float(summary([ledger])[0][name])


def test_first_use_records_the_grant_and_later_ones_read_it(tmp_path: Path) -> None:
    first = opened(tmp_path / "ledgers")
    again = opened(tmp_path / "ledgers")
    assert first.entries() == again.entries()
    (entry,) = first.entries()
    assert (entry.kind, entry.epsilon, entry.delta) == ("grant", 10.0, 1e-3)


def test_another_grant_is_refused_until_the_holder_gives_it(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    with pytest.raises(LedgerError, match=r"records a grant of ε 10 and δ 0.001; received ε 20 and δ 0.001"):
        opened(tmp_path, epsilon=20.0)
    ledger.grant(20.0, 1e-3, note="board of 3 May")
    assert opened(tmp_path, epsilon=20.0).entries()[-1].note == "board of 3 May"
    with pytest.raises(LedgerError, match="received ε 10"):
        opened(tmp_path)


def test_reserve_then_commit_less(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    assert reserve([ledger], "a", "run-1", 8.0, 1e-5) == "new"
    assert column(ledger, "reserved_epsilon") == 8
    commit([ledger], "a", 7.5, 1e-5)
    (row,) = summary([ledger])
    assert row == {
        "holder": "hospital",
        "granted_epsilon": 10.0,
        "spent_epsilon": 7.5,
        "reserved_epsilon": 0.0,
        "left_epsilon": 2.5,
        "granted_delta": 1e-3,
        "spent_delta": 1e-5,
        "reserved_delta": 0.0,
        "left_delta": 9.9e-4,
        "unbounded_runs": 0,
        "entries": 3,
    }


def test_a_budget_is_not_exceeded(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    reserve([ledger], "a", "run-1", 4.0, 1e-5)
    commit([ledger], "a", 3.0, 1e-5)
    reserve([ledger], "b", "run-2", 5.0, 1e-5)  # never committed: stays spent
    before = ledger.path.read_bytes()
    with pytest.raises(LedgerError) as refused:
        reserve([ledger], "c", "run-3", 2.5, 1e-5)
    message = str(refused.value)
    for part in ("hospital", "'run-3' asks for epsilon 2.5", "granted 10, spent 3, reserved 5, left 2", "Ledger.grant"):
        assert part in message
    with pytest.raises(LedgerError, match=r"asks for delta 0.000981; granted 0.001"):
        reserve([ledger], "c", "run-3", 1.0, 9.81e-4)
    assert ledger.path.read_bytes() == before
    ledger.grant(10.5, 1e-3)
    assert reserve([ledger], "c", "run-3", 2.5, 1e-5) == "new"
    assert column(ledger, "left_epsilon") == 0


def test_decimals_add_up_as_written(tmp_path: Path) -> None:
    ledger = opened(tmp_path, epsilon=0.3)
    for name in "abc":
        reserve([ledger], name, "run", 0.1, 1e-5)
    assert 0.1 + 0.1 + 0.1 > 0.3
    assert column(ledger, "left_epsilon") == 0
    with pytest.raises(LedgerError, match="left 0"):
        reserve([ledger], "d", "run", 1e-12, 1e-5)


def test_a_lowered_grant_leaves_less_than_nothing(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    reserve([ledger], "a", "run", 8.0, 1e-5)
    ledger.grant(5.0, 1e-3)
    assert column(ledger, "left_epsilon") == -3
    with pytest.raises(LedgerError, match="left -3"):
        reserve([ledger], "b", "run", 0.1, 1e-5)


def test_the_same_calls_again_change_nothing(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    assert reserve([ledger], "a", "run-1", 8.0, 1e-5) == "new"
    reserved = ledger.path.read_bytes()
    assert reserve([ledger], "a", "run-1", 8.0, 1e-5) == "reserved"
    assert ledger.path.read_bytes() == reserved
    commit([ledger], "a", 7.0, 1e-5)
    committed = ledger.path.read_bytes()
    commit([ledger], "a", 7.0, 1e-5)
    assert reserve([ledger], "a", "run-1", 8.0, 1e-5) == "committed"
    assert ledger.path.read_bytes() == committed


@pytest.mark.parametrize(
    ("run", "epsilon", "delta"), [("run-2", 8.0, 1e-5), ("run-1", 7.0, 1e-5), ("run-1", 8.0, 1e-6)]
)
def test_one_id_is_one_spend(tmp_path: Path, run: str, epsilon: float, delta: float) -> None:
    ledger = opened(tmp_path, epsilon=100.0)
    reserve([ledger], "a", "run-1", 8.0, 1e-5)
    for _ in range(2):  # while reserved, then once committed
        with pytest.raises(LedgerError, match=r"'a' at hospital is recorded as reserve of ε 8 and δ 1e-05 by 'run-1'"):
            reserve([ledger], "a", run, epsilon, delta)
        with pytest.raises(LedgerError, match=r"is recorded as (reserve|commit) of ε 8"):
            record_unbounded([ledger], "a", "run-1")
        commit([ledger], "a", 8.0, 1e-5)


def test_what_may_not_be_committed(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    with pytest.raises(LedgerError, match="no reservation at hospital"):
        commit([ledger], "a", 1.0, 1e-5)
    record_unbounded([ledger], "twin", "run-0")
    with pytest.raises(LedgerError, match="no reservation at hospital"):
        commit([ledger], "twin", 1.0, 1e-5)
    reserve([ledger], "a", "run-1", 8.0, 1e-5)
    for epsilon, delta in ((8.1, 1e-5), (8.0, 2e-5), (float("nan"), 1e-5), (-1.0, 1e-5)):
        with pytest.raises(LedgerError, match="model may not be released"):
            commit([ledger], "a", epsilon, delta)
    assert column(ledger, "reserved_epsilon") == 8
    commit([ledger], "a", 0.0, 0.0)  # stopped before its first step
    with pytest.raises(LedgerError, match="received a commit of ε 1"):
        commit([ledger], "a", 1.0, 1e-5)


def test_one_spend_releases_one_result(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    reserve([ledger], "a", "run-1", 8.0, 1e-5)
    commit([ledger], "a", 8.0, 1e-5, "f00d")
    commit([ledger], "a", 8.0, 1e-5, "f00d")
    assert ledger.entries()[-1].note == "f00d" and len(ledger.entries()) == 3
    with pytest.raises(LedgerError, match="for another result, 'f00d'; received 'beef'"):
        commit([ledger], "a", 8.0, 1e-5, "beef")


@pytest.mark.parametrize("amounts", [(0.0, 1e-5), (-1.0, 1e-5), (float("inf"), 1e-5), (float("nan"), 1e-5)])
@pytest.mark.parametrize("swap", [False, True])
def test_amounts_out_of_range_are_refused(tmp_path: Path, amounts: tuple[float, float], swap: bool) -> None:
    epsilon, delta = (1.0, amounts[0]) if swap else amounts
    ledger = opened(tmp_path)
    for action in (
        lambda: reserve([ledger], "a", "run", epsilon, delta),
        lambda: ledger.grant(epsilon, delta),
        lambda: opened(tmp_path, "pharmacy", epsilon, delta),
    ):
        with pytest.raises(LedgerError, match="ε is finite and above 0, δ above 0 and below 1; received"):
            action()
    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["hospital.jsonl"]
    assert len(ledger.entries()) == 1


def test_a_training_without_privacy_is_shown_apart(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    record_unbounded([ledger], "twin", "run-0")
    record_unbounded([ledger], "twin", "run-0")
    (row,) = summary([ledger])
    assert (row["unbounded_runs"], row["entries"], row["left_epsilon"]) == (1, 2, 10)
    assert ledger.entries()[-1].epsilon is None
    with pytest.raises(LedgerError, match="'twin' at hospital is recorded as unbounded without a bound by 'run-0'"):
        reserve([ledger], "twin", "run-0", 1.0, 1e-5)


def test_a_refusal_at_one_holder_spends_at_none(tmp_path: Path) -> None:
    ledgers = [opened(tmp_path), opened(tmp_path, "pharmacy", epsilon=1.0), opened(tmp_path, "insurer")]
    with pytest.raises(LedgerError, match="The budget of pharmacy is too small"):
        reserve(ledgers, "a", "run", 8.0, 1e-5)
    assert [row["entries"] for row in summary(ledgers)] == [1, 1, 1]


def test_an_interrupted_reservation_is_completed(tmp_path: Path) -> None:
    hospital, pharmacy = opened(tmp_path), opened(tmp_path, "pharmacy")
    pharmacy.path.chmod(0o444)
    with pytest.raises(LedgerError, match=r"pharmacy.*could not be written.*It is read-only"):
        reserve([pharmacy, hospital], "a", "run", 8.0, 1e-5)
    assert [row["reserved_epsilon"] for row in summary([hospital, pharmacy])] == [8, 0]
    pharmacy.path.chmod(0o644)
    assert reserve([pharmacy, hospital], "a", "run", 8.0, 1e-5) == "new"
    assert [row["reserved_epsilon"] for row in summary([hospital, pharmacy])] == [8, 8]
    commit([hospital], "a", 7.0, 1e-5)  # killed before the second
    assert reserve([hospital, pharmacy], "a", "run", 8.0, 1e-5) == "reserved"
    commit([hospital, pharmacy], "a", 7.0, 1e-5)
    assert reserve([hospital, pharmacy], "a", "run", 8.0, 1e-5) == "committed"
    assert [row["spent_epsilon"] for row in summary([hospital, pharmacy])] == [7, 7]


def test_a_finished_spend_takes_no_new_holder(tmp_path: Path) -> None:
    hospital, pharmacy = opened(tmp_path), opened(tmp_path, "pharmacy")
    reserve([hospital], "a", "run", 8.0, 1e-5)
    commit([hospital], "a", 8.0, 1e-5)
    with pytest.raises(LedgerError, match="committed at some of hospital, pharmacy and unknown at others"):
        reserve([hospital, pharmacy], "a", "run", 8.0, 1e-5)
    assert len(pharmacy.entries()) == 1


def test_a_spend_needs_holders_that_differ(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    with pytest.raises(LedgerError, match="received none"):
        reserve([], "a", "run", 1.0, 1e-5)
    with pytest.raises(LedgerError, match="received hospital, hospital"):
        reserve([ledger, opened(tmp_path)], "a", "run", 1.0, 1e-5)


@pytest.mark.parametrize("holder", ["", "../hospital", "a b", ".hidden", "x" * 65, "hôpital"])
def test_a_holder_that_cannot_name_a_file(tmp_path: Path, holder: str) -> None:
    with pytest.raises(LedgerError, match="cannot name a ledger"):
        opened(tmp_path, holder)


CROWD = """
import sys
from pathlib import Path
from helpers.errors import LedgerError
from helpers.privacy.ledger import open_ledger, reserve
folder, name = Path(sys.argv[1]), sys.argv[2]
holders = ["hospital", "pharmacy"] if name == "0" else ["pharmacy", "hospital"]
ledgers = [open_ledger(folder, holder, epsilon=10.0, delta=1e-3) for holder in holders]
print("ready", flush=True)
sys.stdin.readline()
granted = 0
for number in range(8):
    try:
        reserve(ledgers, f"{name}-{number}", name, 1.0, 1e-5)
        granted += 1
    except LedgerError as error:
        assert "is too small" in str(error), error
print(granted, flush=True)
"""


def child(script: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_crowd_does_not_exceed_the_budget(tmp_path: Path) -> None:
    crowd = [child(CROWD, str(tmp_path), str(number)) for number in range(3)]
    for process in crowd:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in crowd:  # all at once
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    granted = [int(process.communicate(timeout=60)[0]) for process in crowd]
    assert [process.returncode for process in crowd] == [0, 0, 0]
    assert sum(granted) == 10
    for row in summary([opened(tmp_path), opened(tmp_path, "pharmacy")]):
        assert (row["reserved_epsilon"], row["left_epsilon"], row["entries"]) == (10, 0, 11)


SPENDER = """
import sys
from pathlib import Path
from helpers.privacy.ledger import commit, open_ledger, reserve
folder, life = Path(sys.argv[1]), sys.argv[2]
ledgers = [open_ledger(folder, holder, epsilon=1e6, delta=0.5) for holder in ("hospital", "pharmacy")]
for number in range(10_000):
    spend = f"{life}-{number}"
    print("reserving", spend, flush=True)
    reserve(ledgers, spend, "run", 2.0, 1e-5)
    print("reserved", spend, flush=True)
    if number % 2:
        commit(ledgers, spend, 1.0, 1e-5)
        print("committed", spend, flush=True)
"""


def survive_kills(folder: Path, lives: int, seed: int) -> None:
    """Kill a child that spends, again and again; check after each kill that whatever it was told is on record."""
    chooser = random.Random(seed)
    promised: dict[str, set[str]] = {"reserving": set(), "reserved": set(), "committed": set()}
    for life in range(lives):
        with child(SPENDER, str(folder), str(life)) as process:
            assert process.stdout is not None
            told = [process.stdout.readline() for _ in range(chooser.randint(1, 15))]
            time.sleep(chooser.uniform(0, 0.02))
            os.kill(process.pid, signal.SIGKILL)
            told += process.stdout.readlines()  # what was still in the pipe counts as told
        assert process.returncode == -signal.SIGKILL
        for line in told:
            action, spend = line.split()
            promised[action].add(spend)
        ledgers = [opened(folder, holder, 1e6, 0.5) for holder in ("hospital", "pharmacy")]
        for ledger in ledgers:
            kinds: dict[str, set[str | None]] = {"grant": set(), "reserve": set(), "commit": set()}
            for entry in ledger.entries():
                kinds[entry.kind].add(entry.spend_id)
            assert promised["reserved"] <= kinds["reserve"] <= promised["reserving"]
            assert promised["committed"] <= kinds["commit"] <= kinds["reserve"]
        last = told[-1].split()[1]
        assert reserve(ledgers, last, "run", 2.0, 1e-5) in ("new", "reserved", "committed")
        commit(ledgers, last, 1.0, 1e-5)  # resumed after the kill
        promised["reserved"].add(last)
        promised["committed"].add(last)
        left = [row["left_epsilon"] for row in summary(ledgers)]
        assert left[0] == left[1] <= 1e6 - len(promised["reserved"])
    assert len(promised["reserved"]) > 2 * lives  # the children did spend


def test_kills_lose_no_spend(tmp_path: Path) -> None:
    survive_kills(tmp_path, lives=5, seed=1)


@pytest.mark.slow
def test_fifty_kills_lose_no_spend(tmp_path: Path) -> None:
    survive_kills(tmp_path, lives=50, seed=2)
