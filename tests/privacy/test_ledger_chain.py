"""Damage to a ledger: whatever is changed, cut or moved in its file is noticed."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.errors import LedgerError
from helpers.privacy.ledger import Ledger, commit, open_ledger, record_unbounded, reserve, summary


def opened(folder: Path, holder: str = "hospital", epsilon: float = 10.0, delta: float = 1e-3) -> Ledger:
    return open_ledger(folder, holder, epsilon=epsilon, delta=delta)


def test_a_head_stays_contained(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    heads = [ledger.head()]
    for name in "abc":
        reserve([ledger], name, "run", 1.0, 1e-5)
        heads.append(json.loads(json.dumps(ledger.head())))
    assert all(ledger.contains(head) for head in heads)
    assert not ledger.contains({"entries": 5, "hash": heads[3]["hash"]})
    for count in (0, -1, None, "4"):
        assert not ledger.contains({"entries": count, "hash": heads[3]["hash"]})
    assert not ledger.contains({})


def test_a_cut_or_renewed_ledger_lacks_the_head(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    reserve([ledger], "a", "run", 1.0, 1e-5)
    head = ledger.head()
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join(lines[:-1]))
    assert len(ledger.entries()) == 1  # whole in itself: only the head tells
    assert not ledger.contains(head)
    reserve([ledger], "b", "run", 1.0, 1e-5)
    assert not ledger.contains(head)


Damage = Callable[[list[bytes]], bytes]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "removed middle line": (lambda lines: b"".join(lines[:2] + lines[3:]), "entry 2 is not here.*index 3"),
    "removed first line": (lambda lines: b"".join(lines[1:]), "entry 0 is not here.*index 1"),
    "swapped lines": (lambda lines: b"".join([*lines[:1], lines[2], lines[1], *lines[3:]]), "entry 1 is not here"),
    "duplicated line": (lambda lines: b"".join([*lines[:3], *lines[2:]]), "entry 3 is not here.*index 2"),
    "another amount": (
        lambda lines: b"".join(lines).replace(b'"epsilon": 2.5', b'"epsilon": 0.5'),
        "entry 2 was altered",
    ),
    "other spelling": (
        lambda lines: b"".join(lines).replace(b'"epsilon": 2.5', b'"epsilon":  2.5'),
        "entry 2 was altered",
    ),
    "no last newline": (lambda lines: b"".join(lines)[:-1], "entry 4 was altered"),
    "half a line": (lambda lines: b"".join(lines)[:-30], "entry 4 cannot be read"),
    "blank line": (lambda lines: b"".join([*lines[:2], b"\n", *lines[2:]]), "entry 2 cannot be read"),
    "unknown field": (lambda lines: b"".join(lines).replace(b'"note"', b'"vote"', 1), "entry 0 cannot be read"),
    "empty file": (lambda _: b"", "entry 0 is missing"),
    "not JSON": (lambda _: b"nothing spent\n", "entry 0 cannot be read.*received b'nothing spent"),
    "not an object": (lambda lines: b"".join([*lines, b"[]\n"]), "entry 5 cannot be read"),
    "BOM": (lambda lines: b"\xef\xbb\xbf" + b"".join(lines), "entry 0 cannot be read"),
    "carriage returns": (lambda lines: b"".join(lines).replace(b"\n", b"\r\n"), "entry 0 was altered"),
    "UTF-16": (lambda lines: b"".join(lines).decode().encode("utf-16"), "entry 0 cannot be read"),
}


def filled(folder: Path) -> Ledger:
    ledger = opened(folder)
    for number, epsilon in enumerate((1.5, 2.5, 3.5)):
        reserve([ledger], f"spend-{number}", "run", epsilon, 1e-5)
    commit([ledger], "spend-0", 1.0, 1e-5)
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
        lambda: ledger.grant(50.0, 1e-3),
        lambda: reserve([ledger], "b", "run", 1.0, 1e-5),
        lambda: commit([ledger], "spend-1", 1.0, 1e-5),
        lambda: record_unbounded([ledger], "b", "run"),
        lambda: summary([ledger]),
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
        with pytest.raises(LedgerError, match=rf"is damaged: entry {index} "):
            ledger.entries()
    ledger.path.write_bytes(content)
    assert len(ledger.entries()) == 5


def test_another_holders_file_does_not_verify(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    shutil.copy(ledger.path, tmp_path / "pharmacy.jsonl")
    with pytest.raises(LedgerError, match=r"ledger of pharmacy.*entry 0 does not follow"):
        opened(tmp_path, "pharmacy")


def test_a_ledger_that_is_gone_is_not_begun_anew(tmp_path: Path) -> None:
    ledger = filled(tmp_path)
    ledger.path.unlink()
    with pytest.raises(LedgerError, match=r"cannot be read.*No such file"):
        reserve([ledger], "a", "run", 1.0, 1e-5)
    assert not ledger.path.exists()


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "hospital.jsonl").mkdir()
    with pytest.raises(LedgerError, match=r"cannot be read.*Is a directory"):
        opened(tmp_path)


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "ledgers").write_text("")
    with pytest.raises(LedgerError, match=r"The folder of ledgers .* cannot be made"):
        opened(tmp_path / "ledgers")


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = filled(tmp_path)
    content = ledger.path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(LedgerError, match=r"(?s)could not be written, so nothing may be trained.*disk is full"):
            reserve([ledger], "a", "run", 1.0, 1e-5)
    assert ledger.path.read_bytes() == content
    assert reserve([ledger], "a", "run", 1.0, 1e-5) == "new"
