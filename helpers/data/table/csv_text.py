"""Text of a file whose encoding nobody gave, in usual characters, and rows of a csv whose separator nobody gave."""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections.abc import Collection
from functools import cache, partial
from itertools import dropwhile, groupby, islice

from helpers.errors import DataError

SEPARATORS = ",;\t|"
NO_CP1252 = re.compile(r"[Â-Å][\x80-\xbf€]|â€|[^\0-\x7f\xa0-\xff€…‘’“”–—•œŒ]|(?<=[^\W\d])[€…“”•](?=[^\W\d])")
"""What French or English text in cp1252 does not hold: letters of UTF-8, and those of a Mac or of DOS."""


def decode(data: bytes, encoding: str | None) -> str:
    """The text of a file.

    Raises UnicodeError where that is a guess (bytes of UTF-8 beside others, rare signs), or the encoding does not fit.
    """
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


def csv_rows(
    text: str, where: str, *, separators: str = SEPARATORS, wanted: Collection[str] = (), key: str | None = None
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a csv whose separator is the one of `separators` that parts the `wanted` columns, or most.

    A quotation mark that is never closed swallows the rows that follow: lines inside of a row that have as many cells
    as the header, and a key of the shape of other keys. No message shows a cell.

    Args:
        text: of the file.
        where: its name, for messages.
        separators: to choose from.
        wanted: columns that must be parted from others.
        key: the column of keys, by which swallowed rows are told from cells of several lines.

    Raises:
        DataError: rows of another length than the header, or rows inside of a row.
        csv.Error: quotation marks that do not fit.
    """
    csv.field_size_limit(2**31 - 1)
    lines = list(dropwhile(lambda line: not line.strip(), io.StringIO(text, newline="")))
    if lines and (told := re.fullmatch(r'"?sep=(.)"?', lines[0].strip())):  # a line that Excel understands
        separators, lines = told[1], lines[1:]
    headers = {each: [*map(usual, next(csv.reader(lines, delimiter=each), []))] for each in separators}

    def fits(each: str) -> tuple[int, int, int]:
        """Wanted columns, columns, and rows among the first that have as many cells."""
        first, header = islice(csv.reader(lines[1:], delimiter=each), 100), headers[each]
        return len({*wanted} & {*header}), len(header), sum(len(row) == len(header) for row in first)

    separator = max(headers, key=fits)
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


def usual(text: str) -> str:
    """The text in usual characters and single blanks."""
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
