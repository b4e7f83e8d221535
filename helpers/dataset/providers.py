"""Reading the holders' tables, and keeping their rows out of sight."""

from __future__ import annotations

import json
import math
import tempfile
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Secret

from helpers.dataset.pipeline import Holder
from helpers.errors import DataError

KEY = "#key"
ROSTER = "#roster/"


class PrivateTable(Secret[pd.DataFrame]):
    """Raw rows that no display shows: not a notebook, a list, a log or an f-string.

    Columns: `#key` (the holder's own key), the kept columns under their names here, and `#roster/0`, `#roster/1`,
    ... for names to be masked. Every cell is text.
    """

    def __init__(self, holder: str, frame: pd.DataFrame) -> None:
        super().__init__(frame)
        self._holder = holder

    def _display(self) -> str:
        frame = self.get_secret_value()
        shown = ", ".join(column for column in frame.columns if not column.startswith("#"))
        return f"{self._holder}: {len(frame)} rows, columns {shown}; raw rows are not shown"


def read_holder(holder: Holder, folder: Path) -> PrivateTable:
    """Read the declared columns of one holder as text, JSON fields taken out of their column.

    Args:
        holder: its declaration.
        folder: where relative file names start.

    Raises:
        DataError: the file is missing or unreadable, a column is missing, there is no row, or JSON is damaged.
            No message repeats anything from the file, its header included: a file without one shows a row there.
    """
    frame = _load(holder, folder)
    if not len(frame):
        raise DataError(f"Holder '{holder.name}' has no rows. Ask it for its records, or take it out of the pipeline.")
    wanted = [*holder.columns.values(), *holder.roster]
    wanted += [part.column for part in (holder.key, holder.json_column) if part]
    missing = sorted(set(wanted) - set(frame.columns))
    if missing:
        raise DataError(
            f"Holder '{holder.name}' lacks the columns {', '.join(missing)}; its table has {len(frame.columns)} "
            "columns under other names. Correct the pipeline, or the file's header."
        )
    kept = {KEY: frame[holder.key.column] if holder.key else pd.Series(range(len(frame)))}
    kept |= {name: frame[column] for name, column in holder.columns.items()}
    if holder.json_column:
        kept |= _json_fields(holder, frame)
    kept |= {f"{ROSTER}{number}": frame[column] for number, column in enumerate(holder.roster)}
    table = pd.DataFrame({name: [_as_text(value) for value in column] for name, column in kept.items()}, dtype=object)
    return PrivateTable(holder.name, table)


def _load(holder: Holder, folder: Path) -> pd.DataFrame:
    if holder.file is None:
        return _load_dataset(holder, folder)
    path = folder / holder.file
    if not path.is_file():
        raise DataError(f"Holder '{holder.name}': there is no file {holder.file} beside the pipeline.")
    try:
        if holder.format == "csv":
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
            if not isinstance(frame.index, pd.RangeIndex):  # rows longer than the header: pandas would shift them
                raise ValueError
            return frame
        if holder.format == "parquet":
            return pd.read_parquet(path)
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except (OSError, ValueError) as error:  # pandas' and pyarrow's own errors are ValueErrors; they may quote a row
        reason = type(error).__name__
    else:
        return pd.DataFrame(_parse([line for line in lines if line.strip()], f"Holder '{holder.name}': {holder.file}"))
    raise DataError(f"Holder '{holder.name}': {holder.file} cannot be read as {holder.format} ({reason}).")


def _load_dataset(holder: Holder, folder: Path) -> pd.DataFrame:
    from datasets import load_dataset

    arguments = {"split": "train"} | (holder.load_dataset or {})
    if holder.local_set:
        arguments["data_files"] = str(folder / holder.local_set)
    # No Arrow copy stays. The files of a set on the hub do, where the hub puts all of its files (HF_HUB_CACHE).
    with tempfile.TemporaryDirectory() as cache:
        arguments |= {"cache_dir": cache, "keep_in_memory": True}
        try:
            return load_dataset(**arguments).to_pandas()  # type: ignore[no-any-return]
        except Exception as error:  # whatever a hub, a file or a builder raises; it may quote a row
            reason = type(error).__name__
    raise DataError(
        f"Holder '{holder.name}': datasets.load_dataset could not load it ({reason}). "
        "Check its arguments in the pipeline, and the network where the set is on a hub."
    )


def _json_fields(holder: Holder, frame: pd.DataFrame) -> dict[str, pd.Series]:
    assert holder.json_column is not None
    column = holder.json_column.column
    parsed = _parse(frame[column], f"Holder '{holder.name}': column {column}")
    fields = {}
    for name, path in holder.json_column.fields.items():
        values = [_at(value, path) for value in parsed]
        if all(value is None for value in values):
            raise DataError(f"Holder '{holder.name}': column {column} holds nothing at '{path}' in any row.")
        fields[name] = pd.Series(values, dtype=object)
    return fields


def _parse(values: Iterable[Any], where: str) -> list[dict[str, Any]]:
    """JSON objects from text, or as they are where the format held them nested."""
    parsed, damaged = [], []
    for number, value in enumerate(values, start=1):
        try:
            found = json.loads(value) if isinstance(value, str) else value
        except ValueError:
            found = None
        if isinstance(found, dict):
            parsed.append(found)
        else:
            damaged.append(number)
    if damaged:  # raised out here: a JSON error carries the whole text along
        raise DataError(
            f"{where} holds no JSON object in {len(damaged)} of {len(parsed) + len(damaged)} rows, "
            f"the first of them row {damaged[0]} (not shown). Have the holder repair them."
        )
    return parsed


def _at(value: Any, path: str) -> Any:
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _as_text(value: Any) -> str:
    """Text of a cell in Unicode's composed form without characters that nobody sees; nothing for null, `3` for 3.0."""
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    seen = "".join(each for each in str(value) if unicodedata.category(each) != "Cf")  # a soft hyphen splits a name
    return unicodedata.normalize("NFC", seen).strip()
