"""Tables as notebooks show them."""

import re

import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

from helpers import tables


def cells(frame: pd.DataFrame) -> list[list[str]]:
    """What stands in each row below the header, with a mark for cells on the right."""
    found = []
    for row in re.findall(r"<tr[^>]*>(.*?)</tr>", tables.table_html(frame), re.DOTALL)[1:]:
        parts = re.findall(r'<td style="text-align: (\w+)[^>]*>(.*?)</td>', row, re.DOTALL)
        found.append([("> " if side == "right" else "") + text for side, text in parts])
    return found


def test_texts_stand_on_the_left_and_whole() -> None:
    long = "word " * 40 + "<b> & end"
    frame = pd.DataFrame({"text": ["short", long], "n": [1, 23456], "mixed": ["a", 0.420290], "none": ["", ""]})
    assert cells(frame) == [
        ["short", "> 1", "a", ""],
        [long.replace("<b> &", "&lt;b&gt; &amp;"), "> 23,456", "0.42", ""],
    ]


def test_numbers_have_the_digits_that_matter() -> None:
    frame = pd.DataFrame(
        {
            "rate": [0.420290, 0.5],
            "likely": [0.3679, 0.0439],
            "rounded": [0.931, 0.9],
            "none": [np.nan, 40.0],
            "small": [0.00001, 0.027403],
            "large": [7.968483, 4884480.0],
            "flag": [True, False],
        }
    )
    assert cells(frame) == [
        ["> 0.42", "> 0.368", "> 0.931", "> ", "> 1e-05", "> 7.97", "True"],
        ["> 0.50", "> 0.044", "> 0.900", "> 40", "> 0.027", "> 4,884,480", "False"],
    ]


def test_versions_and_dots_are_texts() -> None:
    frame = pd.DataFrame({"version": ["2.13.0", "5.2"], "said": ["", "...."], "lines": ["one\n\ntwo", "three"]})
    assert cells(frame) == [["2.13.0", "", "one ↵ two"], ["5.2", "....", "three"]]


def test_long_names_may_go_on_in_the_next_line() -> None:
    page = tables.table_html(pd.DataFrame({"canary_auc_low": ["a_file"], "a__b_": [1]}, index=["new_phrasing"]))
    assert all(name in page for name in ("canary_<wbr>auc_<wbr>low", "new_<wbr>phrasing", ">a_file<", ">a__b_<"))


def test_what_a_notebook_sets_holds() -> None:
    with pd.option_context("display.max_colwidth", 20):
        assert cells(pd.DataFrame({"text": ["x" * 100]})) == [["x" * 16 + "..."]]


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame(),
        pd.DataFrame({"a": range(500)}),
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        pd.DataFrame({"a": [[1, 2], np.array([1.0, np.nan])], "b": [pd.NA, pd.Timestamp("2026-01-01")]}),
        pd.DataFrame({"a": [1], "b": ["x"], "c": [0.5]}).pivot_table(index="a", columns="b", values="c"),
        pd.DataFrame({("a", "mean"): [0.5], ("a", "std"): [0.1]}, index=pd.MultiIndex.from_tuples([("x", "y")])),
        pd.DataFrame({"a": pd.Categorical(["x", "y"])}),
    ],
)
def test_every_table_can_be_shown(frame: pd.DataFrame) -> None:
    assert "<table" in tables.table_html(frame)


def test_notebooks_show_tables_so(monkeypatch: pytest.MonkeyPatch) -> None:
    tables.use_tables()  # nobody looks: nothing happens
    shell = InteractiveShell()
    monkeypatch.setattr("IPython.core.getipython.get_ipython", lambda: shell)
    tables.use_tables()
    shown, _ = shell.display_formatter.format(pd.DataFrame({"a": ["text"]}))
    assert 'text-align: left; vertical-align: top">text' in shown["text/html"]
