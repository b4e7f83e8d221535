"""How notebooks show tables of pandas: text on the left and whole, numbers with the digits that matter."""

from __future__ import annotations

import re
from itertools import count
from numbers import Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 60
"""Longer tables are shortened by pandas itself."""


def use_tables() -> None:
    """In a notebook, show every DataFrame with `table_html`; elsewhere this does nothing."""
    from IPython.core.getipython import get_ipython

    if (shell := get_ipython()) is not None:
        formatter = shell.display_formatter.formatters["text/html"]
        for module in ("pandas", "pandas.core.frame"):  # of pandas 3, and before it
            formatter.for_type_by_name(module, "DataFrame", table_html)


def table_html(frame: pd.DataFrame) -> str:
    """A table as HTML that any front end shows alike, also where it removes style sheets.

    Texts stand on the left and are cut only where a notebook has set `display.max_colwidth`; an empty value is an
    empty cell; decimals are two, or three where a column has small numbers or a notebook rounded to three, and not
    to two.
    """
    import pandas as pd

    if len(frame) > MOST_ROWS or not frame.columns.is_unique:
        return str(frame._repr_html_())  # type: ignore[operator]
    cells = frame.copy()
    for place in range(frame.shape[1]):
        cells.isetitem(place, list(_column(frame.iloc[:, place])))
    sides = ["right" if _are_numbers(cells.iloc[:, n]) else "left" for n in range(frame.shape[1])]
    width = pd.get_option("display.max_colwidth")
    if width not in (None, 50):  # 50 is pandas' own
        cells = cells.map(
            lambda text: f"{text[: width - 4]}..." if isinstance(text, str) and len(text) > width else text
        )
    page = cells.to_html(border=0)
    return re.sub(r"<tr[^>]*>.*?</tr>", lambda row: _aligned(row[0], sides), page, flags=re.DOTALL)


def _aligned(row: str, sides: list[str]) -> str:
    """A row of HTML whose last cells stand on these sides, and those before, the labels, on the left."""
    spread = "colspan" in row
    places = count(len(sides) - len(re.findall(r"<t[hd]", row)))

    def cell(match: re.Match[str]) -> str:
        place = next(places)
        side = "left" if spread or place < 0 else sides[place]
        whole = "; white-space: nowrap" if side == "right" and match[1] == "td" else ""  # 3e-21 in one line
        return f'<{match[1]} style="text-align: {side}; vertical-align: top{whole}"'

    row = re.sub(r"<(t[hd])\b", cell, row)
    # Names of columns and rows may go on in the next line.
    return re.sub(r"(?<=>)[^<]*(?=</th>)", lambda name: re.sub(r"(?<=[^\W_])_(?=[^\W_])", "_<wbr>", name[0]), row)


def _column(values: pd.Series[Any]) -> pd.Series[Any]:
    """The texts of a column."""
    if values.dtype.kind == "f":
        sizes = values[values.notna() & (values != 0)].abs()
        if len(sizes) and (sizes % 1 != 0).any() and sizes.min() >= 0.005 and sizes.max() < 100:
            known = values.dropna()
            finer = sizes.min() < 0.1 or (known.round(3) == known).all()
            digits = 3 if finer and (known.round(2) != known).any() else 2
            return values.map(lambda value: "" if value != value else f"{value:.{digits}f}").astype(object)
    return values.astype(object).map(_cell)


def _cell(value: Any) -> Any:
    """What a cell shows: nothing for None and NaN, a number with about three digits, all else as it is."""
    import pandas as pd

    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ""
    if isinstance(value, str):
        return re.sub(r"\s*\n\s*", " ↵ ", value)  # which pandas would show as \n
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    number = float(value)
    size = abs(number)
    if size >= 100 or number % 1 == 0:
        return f"{number:,.0f}" if size >= 10_000 else f"{number:.0f}"
    return f"{number:.2f}" if size >= 0.1 else f"{number:.2g}"


def _are_numbers(column: pd.Series[Any]) -> bool:
    texts = [str(text) for text in column if str(text) not in ("", "–")]
    return bool(texts) and all(re.fullmatch(r"-?\d[\d,]*(\.\d+)?(e-\d+)?%?", text) for text in texts)
