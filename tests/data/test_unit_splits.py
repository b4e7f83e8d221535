"""The cap and the splits: whole units, unseen test values, and no unit that another one moves."""

import pytest

from helpers.data.holders.candidates import Candidate, draw, kept_in, split_units
from helpers.data.holders.pipeline import Split
from helpers.errors import DataError

SPLIT = Split(validation=0.2, test=0.3, by="clinic.service", values=("shop.drug",))


def candidate(unit: str, number: int, service: str, drug: str, text: str = "") -> Candidate:
    return Candidate(
        unit=unit,
        question="",
        answer=text or f"{unit} took {drug}",
        rows={"clinic": number},
        test_draw=draw(1, "split", service),
        validation_draw=draw(1, "validation", unit),
        group=service,
        values=[drug],
        order=draw(1, "order", unit, str(number)),
    )


def hospital(units: int = 200, services: int = 40) -> list[Candidate]:
    """Units with 1 to 3 records; the drugs of a service are its own."""
    return [
        candidate(f"u{unit}", number, f"s{unit % services}", f"drug-{unit % services}-{number}-")
        for unit in range(units)
        for number in range(1 + unit % 3)
    ]


def fate(candidates: list[Candidate]) -> dict[tuple[str, int], tuple[str, str]]:
    return {(made.unit, made.rows["clinic"]): (made.split, made.reason) for made in candidates}


def test_units_stay_whole_and_test_values_are_unseen() -> None:
    made = hospital()
    split_units(made, SPLIT, cap=4)
    units = {name: {c.unit for c in kept_in(name, made)} for name in ("train", "validation", "test")}
    assert sum(map(len, units.values())) == len(set.union(*units.values())) == 200
    assert all(units.values())
    seen = {value for c in kept_in("train", made) for value in c.values}
    assert not seen & {value for c in kept_in("test", made) for value in c.values}
    # Validation is drawn as training is: from every service that is not the test's.
    groups = {name: {c.group for c in kept_in(name, made)} for name in ("train", "validation", "test")}
    assert not groups["test"] & (groups["train"] | groups["validation"])
    assert len(groups["train"] & groups["validation"]) > 0.8 * len(groups["validation"])


def test_no_other_unit_moves_a_training_unit() -> None:
    whole = hospital()
    split_units(whole, SPLIT, cap=2)
    before = fate(whole)
    assert len({split for split, _ in before.values()}) == 3
    for gone in ("u0", "u1", "u2", "u3", "u4"):
        rest = [made for made in hospital() if made.unit != gone]
        split_units(rest, SPLIT, cap=2)
        after = fate(rest)
        assert after == {key: value for key, value in before.items() if key[0] != gone}


def test_a_test_record_gives_way_to_training_never_the_reverse() -> None:
    made = hospital()
    split_units(made, SPLIT, cap=4)
    test_service, train_service = (kept_in(name, made)[0].group for name in ("test", "train"))
    shared = [
        candidate("new1", 0, test_service, "common"),
        candidate("new2", 0, train_service, "common"),
        candidate("new3", 0, test_service, "buried"),
        candidate("new6", 0, train_service, "other", text="once on BURIED, too"),
    ]
    mixed = [*hospital(), *shared]
    split_units(mixed, SPLIT, cap=4)
    reason = "a value of this test record stands in the training set"
    assert [made.reason for made in shared] == [reason, "", reason, ""]


def test_the_cap_is_counted() -> None:
    made = [candidate("many", number, "s0", "d") for number in range(10_000)] + [candidate("one", 0, "s0", "d")]
    split_units(made, Split(validation=0, test=0), cap=4)
    kept = kept_in("train", made)
    assert [c.unit for c in kept].count("many") == 4
    assert len(kept) == 5
    assert sum(c.reason == "over the cap of 4 records of one unit" for c in made) == 9_996
    assert {c.rows["clinic"] for c in kept if c.unit == "many"} != {0, 1, 2, 3}  # by their own draw, not the first


def test_records_of_another_group_than_their_units_first_are_left_out() -> None:
    made = [candidate("u", 0, "s0", "a"), candidate("u", 1, "s1", "b"), candidate("u", 2, "s1", "c")]
    split_units(made, SPLIT.model_copy(update={"test": 0.0, "validation": 0.0}), cap=4)
    kept = kept_in("train", made)
    assert len({c.group for c in kept}) == 1
    assert {c.reason for c in made if c.reason} == {
        "its clinic.service differs from that of its patient's first record"
    }


def test_what_was_left_out_before_stays_so() -> None:
    made = [candidate("u", 0, "s0", "a"), candidate("v", 0, "s0", "a")]
    made[0].reason = "empty"
    split_units(made, Split(validation=0, test=0), cap=1)
    assert [c.reason for c in made] == ["empty", ""]


@pytest.mark.parametrize(
    ("split", "name"), [(Split(test=0.99, validation=0), "train"), (Split(test=0.001, validation=0), "test")]
)
def test_an_empty_split_is_refused(split: Split, name: str) -> None:
    with pytest.raises(DataError, match=f"The {name} split has no record left, of 3 units"):
        split_units(hospital(3), split, cap=4)


def test_a_split_without_a_share_is_empty() -> None:
    made = hospital(3)
    split_units(made, SPLIT.model_copy(update={"validation": 0, "test": 0}), cap=4)
    assert [len(kept_in(name, made)) for name in ("train", "validation", "test")] == [len(made), 0, 0]


def test_draws_are_even_and_depend_on_their_words_only() -> None:
    draws = [draw(1, "x", str(number)) for number in range(2000)]
    assert draws == [draw(1, "x", str(number)) for number in range(2000)]
    assert 0.45 < sum(draws) / 2000 < 0.55
    assert min(draws) >= 0
    assert max(draws) < 1
    assert len({draw(1, "a", "b"), draw(1, "ab"), draw(2, "a", "b"), draw(1, "b", "a")}) == 4
