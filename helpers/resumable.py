"""One piece of work for each of many items, side by side, each result kept as soon as it is there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from helpers.files import JsonLines, Record, read_jsonl

Item = TypeVar("Item")


def resumable_map(
    items: Sequence[Item],
    work: Callable[[Item], Record],
    *,
    path: Path,
    key_of_item: Callable[[Item], Hashable],
    key_of_result: Callable[[Record], Hashable],
    parallel: int,
    title: str,
    keep: Callable[[Record], bool] = lambda _: True,
) -> list[Record]:
    """Do `work` for every item whose result is not in `path` yet; a killed call goes on where it stopped.

    Args:
        items: what is worked on.
        work: called in threads; where it raises, no further item begins, and those under way are kept.
        path: JSON lines of results; one is appended for each finished item.
        key_of_item: what a result is found by; two items of one key share a result.
        key_of_result: the same of a result.
        parallel: items under way at once, 1 or more.
        title: of the progress bar.
        keep: whether a result of an earlier call counts; else its item is worked on again.

    Returns:
        A result for each item, in their order.
    """
    done = {key_of_result(row): row for row in (read_jsonl(path) if path.exists() else []) if keep(row)}
    left = list({key_of_item(item): item for item in items if key_of_item(item) not in done}.values())
    lock, stop = threading.Lock(), threading.Event()
    with (
        JsonLines(path) as file,
        tqdm(total=len(left), desc=title, disable=not left) as bar,
        ThreadPoolExecutor(max_workers=parallel) as pool,
    ):

        def finish(item: Item) -> None:
            if stop.is_set():
                return
            try:
                row = work(item)
            except BaseException:
                stop.set()
                raise
            with lock:
                file.append(row)
                done[key_of_result(row)] = row
                bar.update()

        list(pool.map(finish, left))
    return [done[key_of_item(item)] for item in items]
