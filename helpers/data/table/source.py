"""Read a table from wherever it lies: a file, an fsspec address, the library `datasets`, or a function of one's own."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from helpers.config import Data
from helpers.data.csv_text import SEPARATORS, csv_rows, decode
from helpers.errors import DataError
from helpers.files import Record
from helpers.storage import fetch

SPLIT = "#split"
"""Column that says which split a row came from, where the source has several."""
FORMATS = ("csv", "tsv", "json", "jsonl", "parquet", "xlsx")
ALIASES = {"txt": "csv", "ndjson": "jsonl", "pq": "parquet", "xlsm": "xlsx"}


def read_table(data: Data) -> list[Record]:
    """The rows of a table, each a mapping of column to cell; a cell has the type that the source gives it.

    Args:
        data: the section `data` of the configuration, with a `source`.

    Raises:
        DataError: the source cannot be reached or read, or has no rows; the message names it and what to do.
    """
    source = data.source
    if isinstance(source, str):
        rows = _read_file(source, data)
    elif isinstance(source, dict) and len(source) == 1:
        [(kind, argument)] = source.items()
        rows = _call(kind, argument)
    else:
        raise DataError(
            f"data.source: expected a file, an address or one of load_dataset, load_from_disk and function; received "
            f"{str(source)[:60]!r}. conf/own_data.yaml shows each of them."
        )
    if not rows:
        raise DataError(f"data.source: {named(source)} has no rows.")
    return rows


def digest(rows: Iterable[Record]) -> str:
    """SHA-256 of rows."""
    told = hashlib.sha256()
    for row in rows:
        told.update(json.dumps(row, default=str, sort_keys=True).encode())
    return told.hexdigest()


def named(source: Any) -> str:
    """A source in a few words, without its folder or arguments."""
    if not isinstance(source, str):
        return " ".join(source)
    path = urlsplit(source).path if "://" in source else source
    return PurePosixPath(path.replace("\\", "/")).name


def _read_file(address: str, data: Data) -> list[Record]:
    name = named(address)
    form = name.rsplit(".", 1)[-1].lower()
    form = ALIASES.get(form, form)
    if form not in FORMATS:
        raise DataError(f"data.source: {name} has no ending that is known; expected one of {', '.join(FORMATS)}.")
    content = fetch(address, data.storage_options)
    try:
        if form == "parquet":
            import pyarrow.parquet

            return list(pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist())
        if form == "xlsx":
            return _sheet(content, name, data.sheet)
        text = decode(content, data.encoding)
    except UnicodeError:
        raise DataError(
            f"{name} is neither UTF-8 nor plain cp1252{f' nor {data.encoding}' if data.encoding else ''}. Set "
            "data.encoding, for example to mac-roman or utf-16-le."
        ) from None
    except DataError:
        raise
    except Exception as error:  # whatever a reader of a binary format raises
        raise DataError(f"{name} cannot be read as {form}: {_first_line(error)}") from None
    if form in ("csv", "tsv"):
        separators = data.separator or ("\t" if form == "tsv" else SEPARATORS)
        try:
            header, cells = csv_rows(text, name, separators=separators, wanted=data.columns.values())
        except csv.Error:
            raise DataError(f"{name}: a quotation mark is not closed, or not doubled inside of a cell.") from None
        return _rows_of(name, header, cells)
    return _json_rows(text, name)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _sheet(content: bytes, name: str, wanted: str | None) -> list[Record]:
    """Rows of a sheet whose first row is the header; each cell of a merged range has the range's value."""
    import openpyxl

    book = openpyxl.load_workbook(io.BytesIO(content), data_only=True)
    filled = {sheet.title: sheet for sheet in book.worksheets if sheet.max_row > 1}
    if wanted is not None and wanted not in filled:
        raise DataError(f"{name} has no sheet {wanted!r} with rows; it has {', '.join(map(repr, filled))}.")
    if wanted is None and len(filled) > 1:
        raise DataError(
            f"{name} has {len(filled)} sheets: {', '.join(map(repr, filled))}. Say which, for example "
            f"data.sheet: {next(iter(filled))}"
        )
    if not filled:
        return []
    sheet = filled[wanted] if wanted is not None else next(iter(filled.values()))
    for merged in list(sheet.merged_cells.ranges):
        value = sheet.cell(merged.min_row, merged.min_col).value
        sheet.unmerge_cells(str(merged))
        for row, column in merged.cells:
            sheet.cell(row, column).value = value
    header, *rows = ([*cells] for cells in sheet.iter_rows(values_only=True))
    return _rows_of(name, header, [cells for cells in rows if any(cell is not None for cell in cells)])


def _rows_of(name: str, header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> list[Record]:
    """Rows as mappings. Raises DataError where two columns have one name."""
    titles = [str(title).strip() if title is not None else "" for title in header]
    twice = sorted({title for title in titles if title and titles.count(title) > 1})
    if twice:
        raise DataError(f"{name} has {titles.count(twice[0])} columns called {twice[0]!r}. Rename all but one.")
    return [{title: cell for title, cell in zip(titles, row, strict=True) if title} for row in rows]


def _json_rows(text: str, name: str) -> list[Record]:
    """Rows of a JSON list, of lists inside one object, or of one object a line.

    An object may hold one list of rows (`{"data": [...]}`), one for each split, or one list for each column.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as whole:
        found = []
        for number, line in enumerate(text.split("\n"), start=1):
            try:
                found += [json.loads(line)] if line.strip() else []
            except (ValueError, RecursionError) as error:
                where = f"line {number}" if found else f"line {getattr(whole, 'lineno', 1)}"
                told = getattr(whole, "msg", type(error).__name__)
                raise DataError(f"{name} is neither JSON nor JSON lines: {told} at {where}.") from None
    if isinstance(found, dict):
        lists = {key: value for key, value in found.items() if isinstance(value, list)}
        if len(lists) > 1 and all(lists.values()) and all(isinstance(of[0], dict) for of in lists.values()):
            found = [{**row, SPLIT: key} for key, rows in lists.items() for row in rows]
        elif len(lists) == len(found) > 1 and len({len(of) for of in lists.values()}) == 1:
            found = [dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]
        elif len(lists) == 1 and isinstance((next(iter(lists.values())) or [None])[0], dict):
            [found] = lists.values()
        else:
            found = [found]
    if not isinstance(found, list):
        raise DataError(f"{name} holds a {type(found).__name__}; expected a list of objects.")
    odd = [number for number, row in enumerate(found, start=1) if not isinstance(row, dict)]
    if odd:
        raise DataError(f"{name}: {len(odd)} of {len(found)} rows are no objects, the first of them row {odd[0]}.")
    return found


def _call(kind: str, argument: Any) -> list[Record]:
    """Rows of a function or of the library `datasets`. An error of theirs may quote what they read."""
    make: Callable[[], Any]
    if kind == "function":
        what, make = f"the function {argument}", lambda: pkgutil.resolve_name(str(argument))()
    elif kind in ("load_dataset", "load_from_disk"):
        import datasets

        first = "path" if kind == "load_dataset" else "dataset_path"
        given = argument if isinstance(argument, dict) else {first: argument}
        what, make = f"datasets.{kind}", lambda: getattr(datasets, kind)(**given)
    else:
        raise DataError(f"data.source: {kind!r} is unknown; use load_dataset, load_from_disk or function.")
    try:
        return _as_rows(make(), what)
    except DataError:
        raise
    except Exception as error:  # whatever a function, a hub or a file raises
        cause = error.__cause__ or error
        told = f"{type(error).__name__}: {_first_line(error)}"
        told += f" ({type(cause).__name__}: {_first_line(cause)})" if cause is not error else ""
    raise DataError(f"data.source: {what} raised {told}")


def _as_rows(made: Any, name: str) -> list[Record]:
    """Rows of a data set, of a mapping of split to data set, of a data frame, or of mappings."""
    if isinstance(made, Mapping):
        return [{**row, SPLIT: split} for split, part in made.items() for row in _as_rows(part, f"{name}, {split}")]
    if hasattr(made, "to_dict") and hasattr(made, "columns"):
        return _rows_of(name, list(made.columns), made.itertuples(index=False, name=None))
    rows = list(made) if hasattr(made, "__iter__") else [made]
    if not all(isinstance(row, Mapping) for row in rows):
        raise DataError(f"data.source: {name} gave {type(made).__name__}; expected rows that are mappings.")
    labels = {  # of a ClassLabel, whose cells are numbers
        column: feature.int2str
        for column, feature in (getattr(made, "features", None) or {}).items()
        if hasattr(feature, "int2str")
    }
    return [
        {str(name): labels[name](cell) if name in labels and cell is not None else cell for name, cell in row.items()}
        for row in rows
    ]
