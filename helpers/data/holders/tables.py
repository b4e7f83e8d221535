"""Reading the holders' tables, and keeping their rows out of sight."""

from __future__ import annotations

import csv
import json
import tempfile
import unicodedata
from collections.abc import Iterable
from decimal import Decimal
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Secret

from helpers.data.csv_text import SEPARATORS, csv_rows, decode
from helpers.data.holders.pipeline import Holder
from helpers.errors import DataError

KEY = "#key"
ROSTER = "#roster/"
EXACT = 2**53
"""Whole floating-point numbers below it have all their digits."""
FINDING = {"path", "name", "data_files", "data_dir", "revision", "token"}
OPTIONS = {"sep": "separator", "delimiter": "separator", "encoding": "encoding"}
"""Arguments of load_dataset that find the files of a csv or JSON set, and those that say how to read them."""
NARROW = {"float[pyarrow]": 2**24, "halffloat[pyarrow]": 2**11}
_read_json = partial(json.loads, parse_float=lambda text: text if "e" in text.lower() else float(text))
"""A number with an exponent stays as it is written: it may have lost digits."""


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
    missing = sorted(set(_wanted(holder)) - set(frame.columns))
    if missing or frame.columns.has_duplicates:
        fault = f"lacks the columns {', '.join(missing)}" if missing else "has several columns of one name"
        raise DataError(
            f"Holder '{holder.name}' {fault}; its table has {len(frame.columns)} columns in all. Correct the pipeline "
            "or the file's header; of a csv whose cells no comma, semicolon, tab or | parts, give the separator."
        )
    kept = {KEY: frame[holder.key.column] if holder.key else pd.Series(range(len(frame)))}
    kept |= {name: frame[column] for name, column in holder.columns.items()}
    if holder.json_column:
        kept |= _json_fields(holder, frame)
    kept |= {f"{ROSTER}{number}": frame[column] for number, column in enumerate(holder.roster)}
    exact = {name: NARROW.get(str(column.dtype), EXACT) for name, column in kept.items()}
    cells = {name: [_as_text(value, exact[name]) for value in column] for name, column in kept.items()}
    return PrivateTable(holder.name, pd.DataFrame(cells, dtype=object))


def _wanted(holder: Holder) -> list[str]:
    parts = [part.column for part in (holder.key, holder.json_column) if part]
    return [*holder.columns.values(), *holder.roster, *parts]


def _load(holder: Holder, folder: Path) -> pd.DataFrame:
    if holder.file is None:
        return _load_dataset(holder, folder)
    path = folder / holder.file
    if not path.is_file():
        raise DataError(f"Holder '{holder.name}': there is no file {holder.file} beside the pipeline.")
    return _read(holder, path, holder.format or "csv")


def _read(holder: Holder, path: Path, form: str) -> pd.DataFrame:
    """A file's rows; the type of a cell is its own, whatever the other rows hold.

    Raises:
        DataError: the file is damaged, or nothing tells its separator or encoding.
    """
    where = f"Holder '{holder.name}': {path.name}"
    try:
        if form == "parquet":
            frame = pd.read_parquet(path, dtype_backend="pyarrow")
            return frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index()
        text = decode(path.read_bytes(), holder.encoding)
        if form == "csv":
            return _csv_rows(holder, where, text)
        listed = text.lstrip().startswith("[")
        objects = _read_json(text) if listed else [line for line in text.split("\n") if line.strip()]
    except UnicodeError:
        reason = "neither UTF-8 nor plain cp1252; give its encoding, such as mac-roman"
    except csv.Error:
        reason = "a quotation mark is not closed, or not doubled inside of a cell"
    except (OSError, ValueError, LookupError) as error:  # pyarrow's own are ValueErrors; they may quote a row
        reason = type(error).__name__
    else:
        return pd.DataFrame(_parse(objects, where), dtype=object)
    raise DataError(f"{where} cannot be read as {form} ({reason}).")


def _csv_rows(holder: Holder, where: str, text: str) -> pd.DataFrame:
    key = holder.key.column if holder.key else None
    header, rows = csv_rows(text, where, separators=holder.separator or SEPARATORS, wanted=_wanted(holder), key=key)
    return pd.DataFrame(rows, columns=[_as_text(name) for name in header], dtype=object)


def _load_dataset(holder: Holder, folder: Path) -> pd.DataFrame:
    """A set of the library `datasets`. It would guess types in csv and JSON: of those it finds the files only."""
    from datasets import DownloadConfig, DownloadManager, load_dataset, load_dataset_builder

    arguments = dict(holder.load_dataset or {})
    if holder.local_set:
        arguments["data_files"] = str(folder / holder.local_set)
    split = arguments.pop("split", "train")
    given = {OPTIONS[name]: arguments.pop(name) for name in OPTIONS if name in arguments}
    # No Arrow copy stays. The files of a set on the hub do, where the hub puts all of its files (HF_HUB_CACHE).
    with tempfile.TemporaryDirectory() as cache:
        try:
            builder = load_dataset_builder(**arguments, cache_dir=cache)
            if builder.name not in ("csv", "json"):
                loaded = load_dataset(**arguments, split=split, cache_dir=cache, keep_in_memory=True)
                return loaded.with_format("arrow")[:].to_pandas(types_mapper=pd.ArrowDtype)  # type: ignore[no-any-return]
            if not set(arguments) <= FINDING:
                raise ValueError
            manager = DownloadManager(download_config=DownloadConfig(cache_dir=cache))
            files = [*manager.iter_files(manager.download_and_extract(builder.config.data_files[split]))]
        except Exception as error:  # whatever a hub, a file or a builder raises; it may quote a row
            reason = type(error).__name__
        else:
            holder = holder.model_copy(update=given)
            return pd.concat([_read(holder, Path(file), builder.name) for file in files])
    raise DataError(
        f"Holder '{holder.name}': datasets.load_dataset could not load it ({reason}). Check its arguments in the "
        f"pipeline (csv and JSON have a whole split, {', '.join(sorted(FINDING | {*OPTIONS}))}), and the network where "
        "the set is on a hub."
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
            found = _read_json(value) if isinstance(value, str) else value
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


def _as_text(value: Any, exact: int = EXACT) -> str:
    """Text of a cell, in usual characters and single blanks; nothing for null, `3` for the number 3.0.

    Args:
        value: of any type.
        exact: a whole floating-point number from here on has lost digits; it is written with an exponent.
    """
    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="backslashreplace")
    elif isinstance(value, Decimal) and value == value.to_integral_value():
        value = int(value)
    elif isinstance(value, float) and value.is_integer():
        value = int(value) if abs(value) < exact else f"{value:e}"
    text = str(value)
    if not text.isascii():
        text = unicodedata.normalize("NFC", "".join(map(_usual, text)))
    return " ".join(text.split())


@cache
def _usual(character: str) -> str:
    """Nothing for a character that nobody sees, `fi` for a ligature, `A` for a full-width one; m² and µ stay."""
    if unicodedata.category(character) == "Cf":  # a soft hyphen splits a name
        return ""
    tag = unicodedata.decomposition(character).partition(">")[0]
    form = unicodedata.normalize("NFKC", character)
    same = tag in ("<wide", "<narrow", "<font") or (tag == "<compat" and form.isascii() and form.isalnum())
    return form if same else character
