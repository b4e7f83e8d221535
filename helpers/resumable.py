"""Work on many items side by side, each result kept as soon as it is there."""

import json
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

from helpers.errors import RunError
from helpers.files import Record, appending, held, placed_records
from helpers.progress import tqdm

Item = TypeVar("Item")


class Results:
    """The records of a file of JSON lines, found by their keys; neither they nor their places are held in memory.

    If the file is replaced later, the old one is still read. Threads may share it.
    """

    def __init__(self, path: Path) -> None:
        self._lock, self._file = threading.Lock(), path.open("rb")
        self._places = sqlite3.connect("", check_same_thread=False)  # "" is a temporary file
        self._places.execute("CREATE TABLE places (key TEXT PRIMARY KEY, place INTEGER) WITHOUT ROWID")

    def add(self, key: Hashable, place: int) -> bool:
        """Say at which byte a record begins, and return whether it is the first of its key."""
        first = key not in self
        self._execute("INSERT OR REPLACE INTO places VALUES (?, ?)", repr(key), place)
        return first

    def want(self, key: Hashable) -> bool:
        """Note that a record will come, and return whether it was neither there nor noted before."""
        return self._execute("INSERT OR IGNORE INTO places VALUES (?, NULL)", repr(key))[0] == 1

    def get(self, key: Hashable) -> Record | None:
        """The record of a key, if it is there."""
        if (place := self._place(key)) is None:
            return None
        with self._lock:
            self._file.seek(place)
            record: Record = json.loads(self._file.readline())
        return record

    def __getitem__(self, key: Hashable) -> Record:
        if (record := self.get(key)) is None:
            raise KeyError(key)
        return record

    def __contains__(self, key: Hashable) -> bool:
        return self._place(key) is not None

    def _place(self, key: Hashable) -> int | None:
        _, found = self._execute("SELECT place FROM places WHERE key = ?", repr(key))
        return int(found[0]) if found and found[0] is not None else None

    def _execute(self, sql: str, *values: str | int) -> tuple[int, Any]:
        """How many rows a statement changed, and the first row that it found."""
        try:
            with self._lock:
                cursor = self._places.execute(sql, values)
                return cursor.rowcount, cursor.fetchone()
        except sqlite3.Error as error:
            fault = str(error)
        raise RunError(
            f"SQLite cannot write its temporary file ({fault}). Free some space in {tempfile.gettempdir()}, or name "
            "another folder in TMPDIR, and run the same command again."
        )


def resumable_map(
    items: Sequence[Item],
    work: Callable[[Item, Results], Iterable[Record | list[Record]]],
    *,
    path: Path,
    fields: Collection[str],
    keys: Callable[[Item], Sequence[Hashable]],
    key: Callable[[Record], Hashable],
    parallel: int,
    title: str,
    keep: Callable[[Record], bool] = lambda _: True,
) -> Results:
    """Do `work` for every item that misses a result in `path`; a killed call goes on where it stopped.

    `work` is called in threads with an item and all results so far. It gives the results that the item misses one after
    the other, or a list of several that belong together; each is appended to the JSON lines of `path` at once. If it
    raises, no further result is begun, and those being made are still kept. `fields` are those that every record has.
    `keys` are those of an item's results, `key` is that of a result: items with the same key share one. `keep` says
    whether an earlier call's result counts.

    Raises RunError where another process is at work on `path`, or where a record there lacks a field.
    """
    # Only the process that appends a line knows its place.
    with held(path, "writing"), appending(path) as append:
        results, lock, stop = Results(path), threading.Lock(), threading.Event()
        for number, (place, row) in enumerate(placed_records(path), start=1):
            if lacking := [name for name in fields if name not in row]:  # edited by hand
                raise RunError(
                    f"{path}: record {number} lacks {' and '.join(lacking)}. Delete its line and "
                    "run the same command again."
                )
            if keep(row):
                results.add(key(row), place)
        before = sum(each in results for item in items for each in keys(item))
        missing = [sum(map(results.want, keys(item))) for item in items]
        queue = iter([item for item, number in zip(items, missing, strict=True) if number])

        def work_off() -> None:
            while not stop.is_set():
                with lock:
                    item = next(queue, None)
                if item is None:
                    return
                rows = iter(work(item, results))
                while not stop.is_set() and (found := next(rows, None)) is not None:
                    with lock:
                        for row in found if isinstance(found, list) else [found]:
                            bar.update(results.add(key(row), append(row)))

        with (
            tqdm(total=before + sum(missing), initial=before, desc=title, disable=not any(missing)) as bar,
            ThreadPoolExecutor(max_workers=parallel) as pool,
        ):
            running = {pool.submit(work_off) for _ in range(parallel)}
            try:
                while running:  # in short waits, between which a Ctrl-C that another thread received is seen
                    ended, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in ended:
                        future.result()
            except BaseException:  # Ctrl-C too
                stop.set()
                raise
    return results
