"""Reading the holders' tables, and keeping their rows out of sight."""

import tempfile
from datetime import datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Secret

from helpers.data.holders.pipeline import BUILDERS, Holder, Key
from helpers.data.holders.pseudonyms import whole_number
from helpers.data.table.conversations import NOTHING
from helpers.data.table.files import json_objects, read_rows, usual
from helpers.errors import DataError
from helpers.files import Record
from helpers.storage import fetch

KEY = "#key"
ROSTER = "#roster/"
EMPTY = NOTHING | {"null", "(null)", "nan", "n/a", "<na>", "nat", "\\n"}
"""Words for an empty cell; keys have their own list in pseudonyms.py, and on a roster any word may be a name."""
FINDING = {"path", "name", "data_files", "data_dir", "revision", "token"}
"""Arguments of load_dataset that find the files of a set."""


class PrivateTable(Secret[pd.DataFrame]):
    """Raw rows that no display shows: not a notebook, a list, a log or an f-string.

    Columns: `#key`, the kept columns under their names here, and `#roster/0`, ... for names to be masked; all text.
    """

    def __init__(self, holder: str, frame: pd.DataFrame) -> None:
        super().__init__(frame)
        self._holder = holder

    def _display(self) -> str:
        frame = self.get_secret_value()
        shown = ", ".join(column for column in frame.columns if not column.startswith("#"))
        return f"{self._holder}: {len(frame)} rows, columns {shown}; raw rows are not shown"


def read_holder(holder: Holder, folder: Path) -> PrivateTable:
    """Read the declared columns of one holder as text. Relative file names start at `folder`.

    Raises DataError if the file or a column is missing, the file is unreadable or has no row, or JSON is damaged. No
    message repeats anything from the file but names of sheets, not even the header: without one, a row stands there.
    """
    rows = _load_dataset(holder, folder) if holder.file is None else _read(holder, folder / holder.file, holder.format)
    if not rows:
        raise DataError(f"Holder '{holder.name}' has no rows. Ask it for its records, or take it out of the pipeline.")
    present = {column for row in rows for column in row}
    unseen = {*_wanted(holder)} - present
    if missing := sorted(name for name in unseen if all(_at(row, name) is None for row in rows)):
        raise DataError(
            f"Holder '{holder.name}' lacks the columns {', '.join(missing)}; its table has {len(present)} columns in "
            "all. Correct the pipeline or the file's header. If a csv is separated by anything but comma, semicolon, "
            "tab or |, give the separator."
        )
    kept = holder.columns | {f"{ROSTER}{number}": column for number, column in enumerate(holder.roster)}
    cells: dict[str, list[Any]] = {name: [_at(row, column) for row in rows] for name, column in kept.items()}
    cells[KEY] = [_at(row, holder.key.column) for row in rows] if holder.key else [*range(len(rows))]
    if declared := holder.json_column:
        where = f"Holder '{holder.name}': column {declared.column}"
        parsed = json_objects([_at(row, declared.column) for row in rows], where)
        for name, path in declared.fields.items():
            cells[name] = [_at(value, path) for value in parsed]
            if all(value is None for value in cells[name]):
                raise DataError(f"{where} holds nothing at '{path}' in any row.")
    texts = {name: [_as_text(cell) for cell in column] for name, column in cells.items()}
    for name in holder.names:
        texts[name] = ["" if text.casefold() in EMPTY else text for text in texts[name]]
    return PrivateTable(holder.name, pd.DataFrame(texts, dtype=object))


def named_in(key: Key, frame: pd.DataFrame) -> dict[str, str]:
    """Cells of the key column to what of them names the patient."""
    return {cell: whole_number(cell.split(key.before)[0] if key.before else cell) for cell in frame[KEY]}


def _wanted(holder: Holder) -> list[str]:
    parts = [part.column for part in (holder.key, holder.json_column) if part]
    return [*holder.columns.values(), *holder.roster, *parts]


def _read(holder: Holder, path: Path, form: str | None) -> list[Record]:
    if not path.is_file():
        raise DataError(f"Holder '{holder.name}': there is no file {path.name} beside the pipeline.")
    return read_rows(
        fetch(str(path), {}),
        f"Holder '{holder.name}': {path.name}",
        form or "csv",
        separator=holder.separator,
        encoding=holder.encoding,
        sheet=holder.sheet,
        wanted=_wanted(holder),
        key=holder.key.column if holder.key else None,
    )


def _load_dataset(holder: Holder, folder: Path) -> list[Record]:
    """Rows of a set of the library `datasets`, which finds its files only: it would guess types and leave a copy."""
    from datasets import DownloadConfig, DownloadManager, load_dataset_builder

    arguments = dict(holder.load_dataset or {})
    if holder.local_set:
        arguments["data_files"] = str(folder / holder.local_set)
    split = arguments.pop("split", "train")
    with tempfile.TemporaryDirectory() as cache:  # the hub's own files stay, where it puts all of them (HF_HUB_CACHE)
        try:
            builder = load_dataset_builder(**arguments, cache_dir=cache)
            form, found = BUILDERS[builder.name], builder.config.data_files[split]
            if not set(arguments) <= FINDING:
                raise ValueError
            manager = DownloadManager(download_config=DownloadConfig(cache_dir=cache))
            files = [*manager.iter_files(manager.download_and_extract(found))]
        except Exception as error:  # whatever a hub, a file or a builder raises; it may quote a row
            reason = type(error).__name__
        else:
            return [row for file in files for row in _read(holder, Path(file), form)]
    raise DataError(
        f"Holder '{holder.name}': datasets.load_dataset could not load it ({reason}). Check its arguments in the "
        f"pipeline ({', '.join(sorted(FINDING))}, and a whole split; separator and encoding stand beside them), that "
        f"the set is of {', '.join(BUILDERS)} files, and the network where it is on a hub."
    )


def _at(value: Any, path: str) -> Any:
    """What a row holds under a name, or else, nested, at a dotted path.

    Raises DataError where a list is on the way: a name that was left out of a roster would stay in the texts.
    """
    if isinstance(value, dict) and value.get(path) is not None:
        return value[path]
    for part in path.split("."):
        if isinstance(value, list):
            raise DataError(
                f"'{path}' leads through a list in some rows. Give each row one object there, or flatten it."
            )
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _as_text(value: Any) -> str:
    """Text of a cell, in usual characters and single spaces; nothing for null, `3` for 3.0, a date for its midnight.

    A whole floating-point number that may have lost digits is written with an exponent.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="backslashreplace")
    elif isinstance(value, datetime) and value.time() == time():
        value = value.date()  # so do workbooks, and parquet of pandas, store a day
    elif isinstance(value, Decimal) and value == value.to_integral_value():
        value = int(value)
    elif isinstance(value, float) and value.is_integer():
        value = int(value) if abs(value) < 2**53 else f"{value:e}"
    return usual(str(value))
