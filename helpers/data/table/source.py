"""Read a table from wherever it lies: a file, an fsspec address, the library `datasets`, or a function of one's own."""

import hashlib
import json
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import chdir
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from helpers.config import PROJECT_ROOT, Data
from helpers.data.table.files import FORMATS, SPLIT, read_rows, rows_of
from helpers.errors import DataError
from helpers.files import Record
from helpers.storage import fetch

ALIASES = {"txt": "csv", "ndjson": "jsonl", "pq": "parquet", "xlsm": "xlsx"}


def read_table(data: Data) -> list[Record]:
    """The rows of `data.source`, each a mapping of column to cell; a cell has the type that the source gives it.

    Raises:
        DataError: the source cannot be reached or read, or has no rows; the message names it and what to do.
    """
    source = data.source or {}
    rows = _read_file(source, data) if isinstance(source, str) else _call(source)
    if not rows:
        raise DataError(f"data.source: {named(source)} has no rows.")
    return rows


def digest(rows: Iterable[Record]) -> str:
    """SHA-256 of rows."""
    told = "".join(json.dumps(row, default=str, sort_keys=True) for row in rows)
    return hashlib.sha256(told.encode()).hexdigest()


def named(source: Any) -> str:
    """A source in a few words, without its folder or arguments."""
    if not isinstance(source, str):
        return " ".join(source)
    path = urlsplit(source).path if "://" in source else source
    return PurePosixPath(path.replace("\\", "/")).name


def _read_file(address: str, data: Data) -> list[Record]:
    name = named(address)
    ending = name.rpartition(".")[2].lower()
    form = ALIASES.get(ending, ending)
    if form not in FORMATS:
        raise DataError(f"data.source: {name} has no ending that is known; expected one of {', '.join(FORMATS)}.")
    if data.sheet is not None and form != "xlsx":
        raise DataError(f"data.sheet: only a workbook has sheets, and {name} is none. Leave data.sheet out.")
    return read_rows(
        fetch(address, data.storage_options),
        name,
        form,
        separator=data.separator,
        encoding=data.encoding,
        sheet=data.sheet,
        wanted=data.columns.values(),
    )


def _message(error: BaseException) -> str:
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])[:220]


def _call(source: Mapping[str, Any]) -> list[Record]:
    """Rows of a function or of the library `datasets`, whose errors may quote what they read."""
    make: Callable[[], Any]
    kind = named(source)
    argument = source.get(kind)
    if kind == "function":
        what, make = f"the function {argument}", lambda: pkgutil.resolve_name(str(argument))()
    elif kind in ("load_dataset", "load_from_disk"):
        import datasets

        first = "path" if kind == "load_dataset" else "dataset_path"
        given = argument if isinstance(argument, dict) else {first: argument}
        what, make = f"datasets.{kind}", lambda: getattr(datasets, kind)(**given)
    else:
        raise DataError(
            "data.source: expected a file, an address or one of load_dataset, load_from_disk and function; received "
            f"{kind or 'nothing'!r}. conf/own_data.yaml shows each of them."
        )
    if str(PROJECT_ROOT) not in sys.path:  # a notebook's kernel begins in the notebook's folder
        sys.path.append(str(PROJECT_ROOT))
    try:
        with chdir(PROJECT_ROOT):  # relative paths lead from here, as all in the configuration
            return _as_rows(make(), what)
    except DataError:
        raise
    except Exception as error:  # whatever a function, a hub or a file raises
        told = _message(error) + (f" ({_message(error.__cause__)})" if error.__cause__ else "")
    raise DataError(f"data.source: {what} raised {told}")


def _as_rows(made: Any, name: str) -> list[Record]:
    """Rows of a data set, of a mapping of split to data set, of a data frame, or of mappings."""
    if isinstance(made, Mapping):
        return [{**row, SPLIT: split} for split, part in made.items() for row in _as_rows(part, f"{name}, {split}")]
    if hasattr(made, "itertuples"):
        return rows_of(name, list(made.columns), made.itertuples(index=False, name=None))
    rows = list(made) if hasattr(made, "__iter__") else [made]
    if not all(isinstance(row, Mapping) for row in rows):
        raise DataError(f"data.source: {name} gave {type(made).__name__}; expected rows that are mappings.")
    features = getattr(made, "features", None) or {}  # those of a ClassLabel have numbers as cells
    labels = {column: feature.int2str for column, feature in features.items() if hasattr(feature, "int2str")}
    return [
        {str(name): labels[name](cell) if name in labels and cell is not None else cell for name, cell in row.items()}
        for row in rows
    ]
