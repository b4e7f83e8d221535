"""Rows of a file in any format, for private records and for other tables alike.

A file without a header shows a row in its place: messages name neither cells nor columns.
"""

import codecs
import csv
import io
import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from functools import cache, partial
from itertools import dropwhile, groupby, islice
from typing import Any
from zipfile import BadZipFile

from helpers.errors import DataError
from helpers.files import Record

SPLIT = "#split"
"""Column that says which split a row came from, where the source has several."""
FORMATS = ("csv", "tsv", "json", "jsonl", "parquet", "xlsx")
NARROW = {"float": 2**24, "halffloat": 2**11}
"""Whole numbers below it have all their digits in a column of 32 or 16 bits."""
SEPARATORS = ",;\t|"
NO_CP1252 = re.compile(r"[Â-Å][\x80-\xbf€]|â€|[^\0-\x7f\xa0-\xff€…‘’“”–—•œŒ]|(?<=[^\W\d])[€…“”•](?=[^\W\d])")
"""What French or English text in cp1252 does not hold: letters of UTF-8, and those of a Mac or of DOS."""


def read_rows(
    content: bytes,
    name: str,
    form: str,
    *,
    separator: str | None = None,
    encoding: str | None = None,
    sheet: str | None = None,
    wanted: Collection[str] = (),
    key: str | None = None,
) -> list[Record]:
    """Rows of a file, each a mapping of column to cell; the type of a cell is its own, whatever the other rows hold.

    `form` is one of `FORMATS`, or `text`: each line a row. A csv's separator and a text's encoding are found where none
    is given. `wanted` are columns of a csv that the separator must part from others; its column `key` tells rows that
    an open quotation mark has swallowed from cells of several lines.

    No lost digits are invented: a JSON number with an exponent stays text, and a whole number too large for its narrow
    parquet column becomes text with an exponent.

    Raises DataError, which calls the file `name`, where it is damaged, two columns have one name, or nothing tells
    separator, encoding or sheet.
    """
    if content.startswith(b"PK\x03\x04") and form != "xlsx":
        raise DataError(f"{name} is a workbook or a zip file. Call it .xlsx, or unpack it.")
    try:
        if form == "parquet":
            return _parquet_rows(content)
        if form == "xlsx":
            return _sheet(content, name, sheet)
        text = decode(content, encoding)
        if form == "text":
            return [{"text": line.rstrip("\n")} for line in io.StringIO(text, newline=None)]
        if form in ("json", "jsonl"):
            return _json_rows(text, name, form)
        separators = separator or ("\t" if form == "tsv" else SEPARATORS)
        return rows_of(name, *_csv_rows(text, name, separators, wanted, key))
    except DataError:
        raise
    except UnicodeError:
        reason = "it is not in the encoding that was given"
        if not encoding:
            reason = (
                "neither UTF-8 nor plain cp1252; give its encoding, such as mac-roman or utf-16-le, in data.encoding "
                "or the pipeline"
            )
    except csv.Error:
        reason = "a quotation mark is not closed, or not doubled inside of a cell"
    except json.JSONDecodeError as error:
        reason = f"no JSON at line {error.lineno}"
    except Exception as error:  # whatever a reader of a binary format raises; it may quote a row
        reason = type(error).__name__
        if isinstance(error, BadZipFile):
            reason = "damaged, protected by a password, or of another format"
    raise DataError(f"{name} cannot be read as {form} ({reason}).")  # out here: a JSON error carries the text along


def decode(data: bytes, encoding: str | None = None) -> str:
    """The text. UnicodeError if it would be a guess (UTF-8 mixed with others, rare signs) or `encoding` is wrong."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = encoding or "utf-16"
    try:
        text = data.decode(encoding or "utf-8")
    except (UnicodeDecodeError, LookupError):  # of another encoding, or of one that Python does not know
        text = "\0" if encoding else data.decode("cp1252")
        if NO_CP1252.search(text):
            raise
    if "\0" in text:
        raise UnicodeError
    return text.removeprefix("\ufeff")


def _csv_rows(
    text: str, where: str, separators: str, wanted: Collection[str], key: str | None
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a csv whose separator is the one that parts the `wanted` columns, or most."""
    # A quotation mark that is never closed swallows the rows that follow. They show as lines inside of a row that have
    # as many cells as the header and a key shaped like the other keys; without keys, as two lines or more, all so long.
    csv.field_size_limit(2**31 - 1)
    lines = list(dropwhile(lambda line: not line.strip(), io.StringIO(text, newline="")))
    if lines and (told := re.fullmatch(r'"?sep=(.)"?', lines[0].strip())):  # a line that Excel understands
        separators, lines = told[1], lines[1:]
    tables = {each: lines[_above(csv.reader(lines, delimiter=each)) :] for each in separators}
    headers = {each: [*map(usual, next(csv.reader(of, delimiter=each), []))] for each, of in tables.items()}

    def fits(each: str) -> tuple[int, bool, int, int]:
        """Wanted columns, whether nothing stands above them, columns, and rows among the first with as many cells."""
        first, header = islice(csv.reader(tables[each][1:], delimiter=each), 100), headers[each]
        on_top = len(tables[each]) == len(lines) and len(header) > 1
        named = {*header, *map(plain_name, header)}
        return len({*wanted} & named), on_top, len(header), sum(len(row) == len(header) for row in first)

    separator = max(headers, key=fits)
    _say_above(where, len(lines) - len(tables[separator]))
    lines = tables[separator]
    header, reader = headers[separator], csv.reader(lines, delimiter=separator, strict=True)
    next(reader, None)
    rows: list[list[str]] = []
    inside, before = [], reader.line_num
    for row in reader:
        inside += [(len(rows) + 1, line.split(separator)) for line in lines[before + 1 : reader.line_num]]
        before = reader.line_num
        if len(row) == len(header) or "".join(row).strip():
            rows.append(row)
    uneven = [number for number, row in enumerate(rows, start=1) if len(row) != len(header)]
    fault = "have more or fewer cells than the header; a cell that holds the separator belongs in quotation marks"
    if not uneven:
        fault = "hold lines that look like rows of their own; a quotation mark is not closed"
    if key in header and not uneven:
        at, shape = header.index(key), partial(re.sub, r"\w*\d\w*", "0")
        shapes = {shape(row[at].strip()) for row in rows if re.search(r"\d", row[at])}
        fit = [(number, cells[at]) for number, cells in inside if len(cells) == len(header)]
        uneven = [number for number, cell in fit if shape(cell.strip('" \r\n')) in shapes]
    elif len(header) > 1 and not uneven:
        swallowed = {number: [len(cells) for _, cells in of] for number, of in groupby(inside, lambda each: each[0])}
        uneven = [n for n, found in swallowed.items() if len(found) > 1 and {*found} == {len(header)}]
    if uneven:
        raise DataError(
            f"{where} cannot be read as csv: of {len(rows)} rows {len(uneven)} {fault}. The first of them is row "
            f"{uneven[0]} (not shown). Repair them, or write JSON lines."
        )
    return header, rows


def _above(rows: Any) -> int:
    """How many lines of a csv stand above its header, such as a title: those before the first with two filled cells."""
    before = 0
    for row in islice(rows, 20):
        if sum(bool(cell.strip()) for cell in row) > 1:
            return before
        before = rows.line_num
    return 0


def _say_above(name: str, lines: int) -> None:
    if lines:
        print(f"{name}: the header was taken from line {lines + 1}, the first with several cells.")


def rows_of(name: str, header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> list[Record]:
    """Rows as mappings, without columns that have no name. Raises DataError where two columns have one name."""
    titles = [str(title).strip() if title is not None else "" for title in header]
    twice = next((title for title in titles if title and titles.count(title) > 1), None)
    if twice:
        first, second, *_ = (number for number, title in enumerate(titles, start=1) if title == twice)
        raise DataError(f"{name} has several columns of one name: columns {first} and {second}. Rename one of them.")
    return [{title: cell for title, cell in zip(titles, row, strict=True) if title} for row in rows]


def json_objects(values: Iterable[Any], where: str) -> list[Record]:
    """JSON objects from text, or as they are where the format held them nested.

    Raises DataError, which counts them, where others are among them.
    """
    parsed, damaged = [], []
    for number, value in enumerate(values, start=1):
        try:
            found = _parse(value) if isinstance(value, str) else value
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            parsed.append(found)
        else:
            damaged.append(number)
    if damaged:
        raise DataError(
            f"{where} holds no JSON object in {len(damaged)} of {len(parsed) + len(damaged)} rows, "
            f"the first of them row {damaged[0]} (not shown). Repair them."
        )
    return parsed


def _parse(text: str) -> Any:
    return json.loads(text, parse_float=lambda number: number if "e" in number.lower() else float(number))


def _json_rows(text: str, name: str, form: str) -> list[Record]:
    """Rows of a JSON list, of lists inside one object, or of one object a line.

    In `json` an object may hold one list of rows (`{"data": [...]}`), one for each split, or one list for each column.
    """
    try:
        found = _parse(text)
    except ValueError:
        if text.lstrip().startswith("["):
            raise
        found = [line for line in text.split("\n") if line.strip()]
    if form == "jsonl" or not isinstance(found, dict):
        return json_objects(found if isinstance(found, list) else [found], name)
    if {"columns", "data"} <= found.keys():  # pandas, orient="split"
        return rows_of(name, found["columns"], found["data"])
    if len(found) > 1 and all(isinstance(of, dict) for of in found.values()):
        rows = [*found.values()]
        if not all(key.isdigit() for key in found):  # pandas by default: for each column its cells
            rows = [{column: cells.get(at) for column, cells in found.items()} for at in rows[0]]
        return rows
    lists = {key: value for key, value in found.items() if isinstance(value, list)}
    if len(lists) > 1 and all(lists.values()) and all(isinstance(of[0], dict) for of in lists.values()):
        return [{**row, SPLIT: key} for key, rows in lists.items() for row in json_objects(rows, f"{name}, {key}")]
    if len(lists) == len(found) > 1 and len({len(of) for of in lists.values()}) == 1:
        return [dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]
    first = next(iter(lists.values()), None) or [None]
    if len(lists) == 1 and isinstance(first[0], dict):
        return json_objects(first, name)
    return json_objects([found], name)


def _parquet_rows(content: bytes) -> list[Record]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(io.BytesIO(content))
    columns = {}
    for field, column in zip(table.schema, table.columns, strict=True):
        columns[field.name] = cells = column.to_pylist()
        if exact := NARROW.get(str(field.type)):
            narrow = column.to_numpy().dtype.type  # 3.14, not 3.140000104904175
            shortest = [cell if cell is None else float(str(narrow(cell))) for cell in cells]
            columns[field.name] = [f"{cell:e}" if cell and abs(cell) >= exact else cell for cell in shortest]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _sheet(content: bytes, name: str, wanted: str | None) -> list[Record]:
    """Rows below a sheet's header, the first row with two filled cells; merged cells all have their range's value."""
    import openpyxl

    book = openpyxl.load_workbook(io.BytesIO(content), data_only=True)
    filled = {sheet.title: sheet for sheet in book.worksheets if sheet.max_row > 1}
    if wanted is not None and wanted not in filled:
        raise DataError(f"{name} has no sheet {wanted!r} with rows; it has {', '.join(map(repr, filled))}.")
    if wanted is None and len(filled) > 1:
        title = next(iter(filled))
        raise DataError(
            f"{name} has {len(filled)} sheets: {', '.join(map(repr, filled))}. Say which, for example "
            f"data.sheet: {title} for a table, sheet: {title} for a holder."
        )
    if not filled:
        return []
    sheet = filled[wanted] if wanted is not None else next(iter(filled.values()))
    filled_cells = [sum(cell is not None for cell in row) for row in sheet.iter_rows(max_row=20, values_only=True)]
    above = next((at for at, cells in enumerate(filled_cells) if cells > 1), 0)  # of a merged title one cell is filled
    _say_above(name, above)
    for merged in list(sheet.merged_cells.ranges):
        first = sheet.cell(merged.min_row, merged.min_col)
        sheet.unmerge_cells(str(merged))
        for row, column in merged.cells:
            sheet.cell(row, column).value = first.value
            sheet.cell(row, column).number_format = first.number_format
    if _has_formulas_without_results(content, sheet):
        raise DataError(f"{name} holds formulas without results. Open it in a spreadsheet, save it, and try again.")
    header, *rows = ([*map(_as_shown, cells)] for cells in sheet.iter_rows(min_row=above + 1))
    return rows_of(name, header, [cells for cells in rows if any(cell is not None for cell in cells)])


def _has_formulas_without_results(content: bytes, sheet: Any) -> bool:
    """Whether no program computed a sheet; a formula whose result is an empty text has one."""
    import openpyxl

    empty = [
        cell.coordinate for row in sheet.iter_rows() for cell in row if cell.value is None and cell.data_type == "n"
    ]
    formulas = openpyxl.load_workbook(io.BytesIO(content))[sheet.title] if empty else {}
    return any(formulas[place].data_type == "f" for place in empty)


def _as_shown(cell: Any) -> Any:
    """A cell's value, but text where the format shows more of a number: 15 % for 0.15, 01000 for 1000."""
    value, form = cell.value, str(cell.number_format)
    if isinstance(value, str):
        return re.sub(r"_x000[aAdD]_\n?", "\n", value)  # how Excel writes some line ends
    if isinstance(value, int | float) and not isinstance(value, bool):
        if percent := re.fullmatch(r"0(?:\.(0+))? ?%", form):
            return f"{value:.{len(percent[1] or '')}%}"
        if re.fullmatch("00+", form) and value == int(value):
            return f"{int(value):0{len(form) + (value < 0)}d}"
    return value


def usual(text: str) -> str:
    """The text in usual characters and single spaces."""
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


def plain_name(name: str) -> str:
    """The name of a column without what people vary: capitals, accents and spaces around it; inner spaces become _."""
    folded = unicodedata.normalize("NFKD", name.strip().casefold())
    return "".join(character for character in folded if not unicodedata.combining(character)).replace(" ", "_")
