"""Files that survive a kill: atomic writes, JSON lines that can be appended to and resumed, hashes."""

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from helpers.errors import ConfigError, HelpersError, RunError

Record = dict[str, Any]


FULL = re.compile(
    r"no space left|disk quota exceeded|disk is full|\d+ requested and \d+ written"
    r"|unexpected pos \d+ vs|file write failed",
    re.IGNORECASE,
)
"""How safetensors, SQLite, numpy and torch say that the disk is full, in errors of their own."""


def at_home(path: str | Path) -> Path:
    """A path with ~ filled in. Raises ConfigError where that names a user whom this machine does not have."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"{path}: this machine has no such user. Write the whole path.") from None


@contextmanager
def clear_full_disk(path: Path) -> Iterator[None]:
    """Turn 'no space left', whichever library says it, into one sentence for the reader."""
    try:
        yield
    except HelpersError:
        raise
    except Exception as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or FULL.search(str(error)):
            # Of a copy, the second name is that of the target.
            named = getattr(error, "filename2", None) or getattr(error, "filename", None) or path
            raise RunError(
                f"The disk is full: {named} could not be written. Everything finished so far is kept; "
                "free some space (old folders in runs/ may go) and run the same command again."
            ) from None
        raise


@contextmanager
def clear_disk_errors(path: Path) -> Iterator[None]:
    """Turn 'no space left' and 'not allowed' into one sentence for the reader."""
    try:
        with clear_full_disk(path):
            yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise RunError(f"{path} may not be written: {error.strerror}. Choose another RUN folder.") from None
        raise


def write_atomic(path: Path, content: str | bytes | Iterable[bytes]) -> None:
    """Write a whole file, in a folder made if missing, or nothing. Raises RunError if the disk is full or refuses."""
    parts = [content.encode()] if isinstance(content, str) else [content] if isinstance(content, bytes) else content
    with clear_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextmanager
def held(path: Path, doing: str) -> Iterator[None]:
    """Hold a path's lock. RunError where another process holds it; `doing` says what it does, such as "writing"."""
    with clear_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(path.with_name(f".{path.name}.lock"), blocking=False).acquire()
        except Timeout:
            raise RunError(f"Another process is {doing} {path}. Run the same command when it has ended.") from None
    with lock:
        yield


def sync(path: Path) -> None:
    """Write a file, or the names in a folder, through to the disk (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document atomically, readable by people and with stable key order."""
    write_atomic(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def write_jsonl(path: Path, records: Iterable[Record]) -> None:
    """Write one JSON object a line, atomically."""
    write_atomic(path, map(_line, records))


def read_jsonl(path: Path) -> list[Record]:
    """Read one JSON object a line; see `placed_records`."""
    return [record for _, record in placed_records(path)]


def placed_records(path: Path) -> Iterator[tuple[int, Record]]:
    """Yield the JSON object of each line, after the byte at which the line begins, without holding all of them.

    A last line cut off by a kill is left out; any other broken line raises RunError.
    """
    place = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    record = json.loads(line)
                except ValueError:
                    if not line.endswith(b"\n"):
                        return
                    record = None
                if not isinstance(record, dict):
                    raise RunError(
                        f"{path}, line {number} is not a JSON object. Delete that line and run the command again."
                    )
                yield place, record
            place += len(line)


@contextmanager
def appending(path: Path) -> Iterator[Callable[[Record], int]]:
    """Yield a function that appends a record to JSON lines, hands it to the system and returns its first byte's place.

    A last line that a kill cut off is removed; a missing line end is added. Raises RunError if the disk is full.
    """
    with clear_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not _ended(path):
            write_jsonl(path, read_jsonl(path))
        file = path.open("ab")

    def append(record: Record) -> int:
        with clear_disk_errors(path):
            place = file.seek(0, os.SEEK_END)
            file.write(_line(record))
            file.flush()
        return place

    try:
        yield append
    finally:
        with clear_disk_errors(path):
            file.close()


def _ended(path: Path) -> bool:
    """Whether a file ends with a line end, or is empty."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read() in (b"", b"\n")


def _line(record: Record) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def sha256(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of every file below a folder, as hex digits."""
    if path.is_dir():
        files = sorted(inner for inner in path.rglob("*") if inner.is_file())
        told = "".join(f"{inner.relative_to(path)}:{sha256(inner)}\n" for inner in files)
        return hashlib.sha256(told.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
