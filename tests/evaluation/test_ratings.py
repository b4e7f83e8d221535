import json
from pathlib import Path

import pytest

from helpers.errors import RunError
from helpers.evaluation.ratings import Ratings


def answers(*texts: str, judged: bool = False) -> list[dict[str, object]]:
    return [{"id": f"q/{t}", "question": "?", "reference": "R", "answer": t, "judged": judged} for t in texts]


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_each_letter_is_saved_at_once_and_rating_goes_on_later(tmp_path: Path) -> None:
    path, given = tmp_path / "ratings.jsonl", answers(*"abcdef")
    ratings = Ratings(path, given, count=4)
    assert not path.exists() and not ratings.complete
    ratings.enter("R x")
    ratings.enter("rw")
    assert [row["rating"] for row in lines(path)] == ["right", "wrong"]
    assert [*lines(path)[0]] == ["id", "question", "reference", "answer", "rating"]
    again = Ratings(path, given, count=4)
    assert (again.text, again.items, again.note) == ("rw", ratings.items, "")
    again.enter("rwurwww")
    assert again.complete and len(lines(path)) == 4
    more = Ratings(path, given, count=6)  # a larger number goes on behind those that are rated
    assert more.items[:4] == again.items and len(more.items) == 6 and not more.complete


@pytest.mark.parametrize("slip", ["", "r", "wwr", "rrr", "rr", "wr"])
def test_a_slip_of_the_hand_changes_no_earlier_rating(tmp_path: Path, slip: str) -> None:
    ratings = Ratings(tmp_path / "ratings.jsonl", answers(*"abcdef"))
    ratings.enter("rwr")
    ratings.enter(slip)
    assert ratings.text == "rwr" and len(lines(ratings.path)) == 3
    ratings.enter("rw")  # but the last one may be taken back
    assert ratings.text == "rw" and len(lines(ratings.path)) == 2


def test_an_answer_of_several_models_is_rated_once_and_judged_ones_come_first(tmp_path: Path) -> None:
    given = [*answers(*"abcdefgh"), *answers("h", "g", judged=True), *answers("h")]
    ratings = Ratings(tmp_path / "ratings.jsonl", given)
    assert {item["answer"] for item in ratings.items[:2]} == {"g", "h"} and len(ratings.items) == 8
    orders = {tuple(item["answer"] for item in Ratings(ratings.path, given, seed=n).items) for n in range(5)}
    assert len(orders) > 1 and not any("judged" in item or "model" in item for item in ratings.items)


def test_ratings_of_other_answers_are_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / "ratings.jsonl"
    for text in "ab":
        Ratings(path, answers("a", "b")).enter("rw")
        ratings = Ratings(path, answers("a", text + "!"))
        assert ratings.text == "" and ratings.complete is False and not path.exists()
    assert "kept as ratings-2.jsonl" in ratings.note
    assert [len(lines(tmp_path / f"ratings-{n}.jsonl")) for n in (1, 2)] == [2, 2]
    assert Ratings(path, answers("a")).note == ""


def test_broken_and_empty_files(tmp_path: Path) -> None:
    path = tmp_path / "ratings.jsonl"
    path.write_text("no\n{}\n")
    with pytest.raises(RunError, match="line 1"):
        Ratings(path, answers("a"))
    path.write_text(json.dumps({**answers("a")[0], "rating": "perhaps"}) + "\n")
    assert "begin anew" in Ratings(path, answers("a")).note
    assert Ratings(path, []).complete  # nothing to rate
