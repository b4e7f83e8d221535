"""Work on many items side by side, each result kept as soon as it is there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from helpers.files import Record, appending, read_jsonl

Item = TypeVar("Item")
Done = Mapping[Hashable, Record]


def resumable_map(
    items: Sequence[Item],
    work: Callable[[Item, Done], Iterable[Record | list[Record]]],
    *,
    path: Path,
    keys: Callable[[Item], Sequence[Hashable]],
    key: Callable[[Record], Hashable],
    parallel: int,
    title: str,
    keep: Callable[[Record], bool] = lambda _: True,
) -> list[Record]:
    """Do `work` for every item that misses a result in `path`; a killed call goes on where it stopped.

    `work` is called in threads with an item and all results so far. It gives the results that the item misses one after
    the other, or a list of several that belong together; each is appended to the JSON lines of `path` at once. If it
    raises, no further result is begun, and those being made are still kept. `keys` are those of an item's results,
    `key` is that of a result: items with the same key share one. `keep` says whether an earlier call's result counts.

    Returns the results of each item, in the order of items and their keys.
    """
    done = {key(row): row for row in (read_jsonl(path) if path.exists() else []) if keep(row)}
    wanted = {each: item for item in reversed(items) for each in keys(item)}
    left = [item for item in items if any(each not in done and wanted[each] is item for each in keys(item))]
    lock, stop = threading.Lock(), threading.Event()
    with (
        appending(path) as append,
        tqdm(total=len(wanted), initial=len(done.keys() & wanted.keys()), desc=title, disable=not left) as bar,
        ThreadPoolExecutor(max_workers=parallel) as pool,
    ):

        def finish(item: Item) -> None:
            rows = iter(work(item, done))
            while not stop.is_set():
                found = next(rows, None)
                if found is None:
                    return
                with lock:
                    for row in found if isinstance(found, list) else [found]:
                        append(row)
                        bar.update(key(row) not in done)
                        done[key(row)] = row

        futures = [pool.submit(finish, item) for item in left]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:  # Ctrl-C too
            stop.set()
            raise
    return [done[each] for item in items for each in keys(item)]
