"""Damage to a ledger: whatever is changed, cut or moved in its file is noticed."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_ledgers import CHEAP, OTHER_KEY, granted, opened

from helpers.errors import LedgerError
from helpers.privacy.grants import Grant
from helpers.privacy.ledger import Entry, Ledger, check_budgets, commit, open_ledger, reserve


def test_a_head_stays_contained(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    heads = [ledger.head()]
    for name in "abc":
        reserve([ledger], name, "run", CHEAP)
        heads.append(json.loads(json.dumps(ledger.head())))
    assert all(ledger.contains(head) for head in heads)
    assert not ledger.contains(heads[3] | {"hash": heads[3]["hash"][:-1]})
    assert not ledger.contains({})


def test_a_cut_or_renewed_ledger_lacks_the_head(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    reserve([ledger], "a", "run", CHEAP)
    head = ledger.head()
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join(lines[:-1]))
    assert len(ledger.entries()) == 1  # whole in itself: only the head tells
    assert not ledger.contains(head)
    reserve([ledger], "b", "run", CHEAP)
    assert not ledger.contains(head)


Damage = Callable[[list[bytes]], bytes]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "removed middle line": (
        lambda lines: b"".join(lines[:2] + lines[3:]),
        "entry 2: it was altered, or does not follow",
    ),
    "removed first line": (lambda lines: b"".join(lines[1:]), "entry 0: it was altered, or does not follow"),
    "swapped lines": (
        lambda lines: b"".join([*lines[:1], lines[2], lines[1], *lines[3:]]),
        "entry 1: it was altered, or does not follow",
    ),
    "duplicated line": (
        lambda lines: b"".join([*lines[:3], *lines[2:]]),
        "entry 3: it was altered, or does not follow",
    ),
    "other steps": (
        lambda lines: b"".join(lines).replace(b'"steps": 2,', b'"steps": 1,'),
        "entry 2: it was altered",
    ),
    "other spelling": (
        lambda lines: b"".join(lines).replace(b'"steps": 2,', b'"steps":  2,'),
        "entry 2: it was altered",
    ),
    "no last newline": (lambda lines: b"".join(lines)[:-1], "entry 4: it was altered"),
    "half a line": (lambda lines: b"".join(lines)[:-30], "entry 4: it cannot be read"),
    "blank line": (lambda lines: b"".join([*lines[:2], b"\n", *lines[2:]]), "entry 2: it cannot be read"),
    "unknown field": (lambda lines: b"".join(lines).replace(b'"note"', b'"vote"', 1), "entry 0: it cannot be read"),
    "empty file": (lambda _: b"", "entry 0: it cannot be read"),
    "not JSON": (lambda _: b"nothing spent\n", "entry 0: it cannot be read.*received b'nothing spent"),
    "not an object": (lambda lines: b"".join([*lines, b"[]\n"]), "entry 5: it cannot be read"),
    "BOM": (lambda lines: b"\xef\xbb\xbf" + b"".join(lines), "entry 0: it cannot be read"),
    "carriage returns": (lambda lines: b"".join(lines).replace(b"\n", b"\r\n"), "entry 0: it was altered"),
    "UTF-16": (lambda lines: b"".join(lines).decode().encode("utf-16"), "entry 0: it cannot be read"),
}


def filled(folder: Path) -> Ledger:
    ledger = opened(folder)
    for number in range(3):
        reserve([ledger], f"spend-{number}", "run", replace(CHEAP, steps=number + 1))
    commit([ledger], "spend-0", "f00d")
    return ledger


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_and_refused_everywhere(tmp_path: Path, name: str) -> None:
    ledger = filled(tmp_path)
    damage, message = DAMAGES[name]
    content = damage(ledger.path.read_bytes().splitlines(keepends=True))
    assert content != ledger.path.read_bytes()
    ledger.path.write_bytes(content)
    for action in (
        ledger.entries,
        ledger.head,
        lambda: ledger.contains({"entries": 1, "hash": ""}),
        lambda: opened(tmp_path),
        lambda: open_ledger(tmp_path, granted(serial=2)),
        lambda: reserve([ledger], "b", "run", CHEAP),
        lambda: commit([ledger], "spend-1", "f00d"),
        lambda: check_budgets([ledger], [CHEAP], "run"),
        lambda: [each.head() for each in [ledger]],
    ):
        with pytest.raises(LedgerError, match=rf"(?s)ledger of hospital.*{message}.*restore the holder's last whole"):
            action()
    assert ledger.path.read_bytes() == content


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    ledger = filled(tmp_path)
    content = ledger.path.read_bytes()
    starts = [position + 1 for position, byte in enumerate(content) if byte == ord("\n")]
    for position in range(0, len(content), 7):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        ledger.path.write_bytes(flipped)
        index = sum(start <= position for start in starts)
        with pytest.raises(LedgerError, match=rf"cannot be used: entry {index}: "):
            ledger.entries()
    ledger.path.write_bytes(content)
    assert len(ledger.entries()) == 5


def forge(path: Path, before: list[Entry], entry: Entry) -> None:
    """Write an entry as somebody could who controls the disk: with all hashes as they should be."""
    path.write_bytes(b"".join(each.line() for each in [*before, entry.after(before)]))


@pytest.mark.parametrize(
    ("grant", "told"),
    [
        (granted(OTHER_KEY, serial=2, epsilon=1e3), "public_key is"),
        (granted(serial=2).model_copy(update={"epsilon": 1e3}), "the signature is not valid"),
        (
            granted(OTHER_KEY, serial=2).model_copy(update={"public_key": granted().public_key}),
            "signature is not valid",
        ),
        (granted(serial=1, epsilon=1e3), "serial is 1, its ledger has 1 already"),
        (granted(serial=2, patient_key={"column": "visit"}), "patient_key is"),
    ],
)
def test_a_grant_written_into_the_file_is_refused(tmp_path: Path, grant: Grant, told: str) -> None:
    ledger = filled(tmp_path)
    forge(ledger.path, ledger.entries(), Entry(date="2026-11-28T00:00:00Z", kind="grant", grant=grant))
    with pytest.raises(LedgerError, match=rf"cannot be used: entry 5: The grant of hospital is refused: .*{told}"):
        ledger.entries()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"grant": granted(holder="pharmacy")}, "holder is 'pharmacy', a new ledger has 'hospital'"),
        ({"grant": granted().model_copy(update={"epsilon": 1e3})}, "the signature is not valid"),
        ({"grant": None, "kind": "reserve", "spend_id": "a", "run": "run", "cost": CHEAP}, "a ledger begins with one"),
    ],
)
def test_a_first_entry_that_its_holder_did_not_sign_is_refused(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    ledger = opened(tmp_path)
    forge(ledger.path, [], ledger.entries()[0].model_copy(update=change))
    with pytest.raises(LedgerError, match=rf"cannot be used: entry 0: .*{told}"):
        ledger.entries()


def test_another_holders_file_does_not_verify(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    shutil.copy(ledger.path, tmp_path / "pharmacy.jsonl")
    with pytest.raises(
        LedgerError, match=r"ledger of pharmacy.*entry 0: .* holder is 'hospital', a new ledger has 'pharmacy'"
    ):
        opened(tmp_path, "pharmacy")


def test_a_ledger_that_is_gone_is_not_begun_anew(tmp_path: Path) -> None:
    ledger = filled(tmp_path)
    ledger.path.unlink()
    with pytest.raises(LedgerError, match=r"cannot be used: entry 0: .*No such file"):
        reserve([ledger], "a", "run", CHEAP)
    assert not ledger.path.exists()


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "hospital.jsonl").mkdir()
    with pytest.raises(LedgerError, match=r"cannot be used: entry 0: .*Is a directory"):
        opened(tmp_path)


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "ledgers").write_text("")
    with pytest.raises(LedgerError, match=r"cannot be locked: .*File exists.* Give privacy.ledgers a folder that"):
        opened(tmp_path / "ledgers")


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = filled(tmp_path)
    content = ledger.path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(LedgerError, match=r"(?s)could not be written, so nothing may be trained.*disk is full"):
            reserve([ledger], "a", "run", CHEAP)
    assert ledger.path.read_bytes() == content
    reserve([ledger], "a", "run", CHEAP)
    assert ledger.head()["trainings"] == 4
