"""The card's sums, row by row."""

import pytest

from helpers.data.holders.candidates import Candidate
from helpers.data.holders.join import make_join_card


def candidate(unit: str, rows: dict[str, int], reason: str = "") -> Candidate:
    made = Candidate(
        unit=unit, question="", answer="", rows=rows, test_draw=0, validation_draw=0, group="", values=["v"], order=0
    )
    made.split, made.reason = "train", reason
    return made


def test_a_row_counts_once_whatever_its_records() -> None:
    candidates = [
        candidate("a", {"clinic": 0, "shop": 0}, "over the cap"),
        candidate("a", {"clinic": 0, "shop": 1}),
        candidate("b", {"clinic": 1, "shop": 2}, "empty"),
    ]
    fates = {"clinic": ["", "", "no usable key"], "shop": ["", "", ""]}
    card = make_join_card(
        fates, candidates, {"measured": True, "masked": {"PERSON": 3}, "recall": 0.995, "precision": 1.0}
    )
    assert card["holders"] == {
        "clinic": {"given": 3, "kept": 1, "left_out": {"empty": 1, "no usable key": 1}},
        "shop": {"given": 3, "kept": 1, "left_out": {"over the cap": 1, "empty": 1}},
    }
    assert card["joined"] == {"given": 3, "kept": 1, "left_out": {"over the cap": 1, "empty": 1}}
    assert card["units"] == 1


def test_a_row_that_nothing_explains_is_an_error() -> None:
    fates = {"clinic": ["", ""]}
    with pytest.raises(AssertionError, match="rows of clinic were lost: 2 given, 1 kept, 0 left out"):
        make_join_card(fates, [candidate("a", {"clinic": 0})], {"measured": True, "masked": {}})
