"""Recall and precision by letters and digits."""

import pytest
from marked import parse_marked

from helpers.data.holders.deidentify import Span, score_spans

TEXT = "Seen by Dr Ann Lee on 3 May."
NAME, DATE = Span(11, 18, "PERSON"), Span(22, 27, "DATE_TIME")


@pytest.mark.parametrize(
    ("found", "recall", "precision"),
    [
        ([NAME, DATE], 1.0, 1.0),
        ([Span(11, 27, "PERSON")], 1.0, 0.0),  # "on" was eaten
        ([Span(11, 14, "PERSON"), Span(15, 18, "ID"), DATE], 1.0, 1.0),  # in two parts, under another kind
        ([Span(11, 17, "PERSON")], 0.0, 1.0),  # one letter stayed
        ([Span(10, 18, "PERSON"), Span(22, 28, "DATE_TIME")], 1.0, 1.0),  # blanks and full stops do not count
        ([NAME], 0.5, 1.0),
        ([], 0.0, None),
    ],
)
def test_what_counts_as_found(found: list[Span], recall: float, precision: float | None) -> None:
    score = score_spans([TEXT], [[NAME, DATE]], [found])
    assert (score["recall"], score["precision"]) == (recall, precision)


def test_counts_by_kind_and_nothing_planted() -> None:
    score = score_spans([TEXT, TEXT], [[NAME, DATE], []], [[NAME], [NAME]])
    assert (score["planted"], score["found"]) == (2, 2)
    assert (score["missed"], score["wrong"]) == ({"DATE_TIME": 1}, {"PERSON": 1})
    assert score_spans(["x"], [[]], [[]])["recall"] is None


def test_texts_and_spans_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="argument"):
        score_spans([TEXT], [[NAME], []], [[], []])


def test_marks() -> None:
    assert parse_marked("Seen by Dr {PERSON:Ann Lee} on {DATE_TIME:3 May}.") == (TEXT, [NAME, DATE])
    assert parse_marked("{x} and {Y:}") == ("{x} and ", [Span(8, 8, "Y")])
