"""Writes that are whole or not at all, lines that survive a kill, and full disks."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.errors import RunError
from helpers.files import appending, read_jsonl, sha256, write_atomic, write_json, write_jsonl


def test_a_failing_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_atomic(path, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="The disk is full"):
        write_atomic(path, "new" * 1000)
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_value_that_is_not_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert path.read_text() == '{\n  "a": 1\n}\n'


def test_text_is_utf8_and_kept(tmp_path: Path) -> None:
    rows = [{"text": "Ελλάδα"}, {"text": "东\u2028\r\n"}]
    write_jsonl(tmp_path / "x.jsonl", rows)
    assert read_jsonl(tmp_path / "x.jsonl") == rows
    assert "Ελλάδα".encode() in (tmp_path / "x.jsonl").read_bytes()


def test_a_half_written_last_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes('{"a": 1}\n{"a": "ü'.encode()[:-1])
    assert read_jsonl(path) == [{"a": 1}]
    with appending(path) as append:
        append({"a": 2})
    assert path.read_bytes() == b'{"a": 1}\n{"a": 2}\n'


def test_a_whole_last_line_without_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}')
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]
    with appending(path) as append:
        append({"a": 3})
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}, {"a": 3}]


@pytest.mark.parametrize("line", [b'{"a": ', b"7", b"[]"])
def test_a_broken_line_in_the_middle_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b"\n" + b'{"a": 3}\n')
    with pytest.raises(RunError, match="line 2 is not a JSON object"):
        read_jsonl(path)


def test_each_record_is_on_disk_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with appending(path) as append:
        for number in range(3):
            append({"n": number})
            assert len(read_jsonl(path)) == number + 1


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o555)
    with pytest.raises(RunError, match="may not be written"):
        appending(tmp_path / "folder" / "x.jsonl").__enter__()
    with pytest.raises(RunError, match="may not be written"):
        write_atomic(tmp_path / "folder" / "x", "x")


FILL = """
import shutil
import sqlite3
import sys
from pathlib import Path
import numpy as np
import torch
from safetensors.torch import save_file
from helpers.errors import RunError
from helpers.files import appending, clear_full_disk, read_jsonl, write_atomic
from helpers.models.find import fetch
folder = Path(sys.argv[1])
write_atomic(folder / "kept", "old")
messages = []
for save in (
    lambda: torch.save(torch.zeros(100_000), folder / "y"),
    lambda: save_file({"x": torch.zeros(100_000)}, folder / "y"),
    lambda: np.zeros(100_000).tofile(folder / "y"),
    lambda: shutil.copyfile(torch.__file__, folder / "y"),
    lambda: fetch(lambda: (folder / "y").write_bytes(b"x" * 500_000), "owner/model"),
    lambda: sqlite3.connect(folder / "y").execute(f"create table t as select '{'x' * 500_000}'"),
):
    try:
        with clear_full_disk(folder):
            save()
    except RunError as error:
        messages.append(str(error))
    (folder / "y").unlink(missing_ok=True)
try:
    with appending(folder / "x.jsonl") as append:
        for number in range(10_000):
            append({"n": number, "text": "x" * 500})
except RunError as error:
    messages.append(str(error))
try:
    write_atomic(folder / "kept", "y" * 500_000)
except RunError as error:
    messages.append(str(error))
rows = read_jsonl(folder / "x.jsonl")
assert [row["n"] for row in rows] == list(range(len(rows))) and len(rows) > 20, len(rows)
assert (folder / "kept").read_text() == "old"
print("\\n".join(messages))
"""


def test_a_real_full_disk(tmp_path: Path) -> None:
    script = f"mount -t tmpfs -o size=64k tmpfs '{tmp_path}' || exit 77; exec '{sys.executable}' -c \"$0\" '{tmp_path}'"
    if shutil.which("unshare") is None:
        pytest.skip("this system cannot make a small disk (no unshare)")
    child = subprocess.run(["unshare", "-rm", "sh", "-c", script, FILL], capture_output=True, text=True)
    if child.returncode == 77 or "unshare" in child.stderr:
        pytest.skip(f"this system may not mount a small disk: {child.stderr.strip()}")
    assert child.returncode == 0, child.stderr
    messages = child.stdout.splitlines()
    assert [line.startswith("The disk is full: ") for line in messages] == [True] * 8
    assert f"{tmp_path}/y could not" in messages[3]  # of a copy not what was read


def test_hash_of_a_folder_follows_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    before = sha256(tmp_path / "a")
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    renamed = sha256(tmp_path / "a")
    (tmp_path / "a" / "y").write_text("2")
    assert len({before, renamed, sha256(tmp_path / "a")}) == 3
