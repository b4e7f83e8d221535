"""Records of several holders: conservation, privacy, and what happens with bad input."""

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_providers import CLINIC, SETTINGS, SHOP, join, records, small_pipeline, words

from helpers.data.holders.deidentify import fold
from helpers.data.holders.join import Joined, join_providers
from helpers.data.holders.pipeline import Pipeline, load_pipeline
from helpers.data.holders.pseudonyms import read_key
from helpers.data.holders.tables import read_holder
from helpers.errors import DataError
from helpers.run import EXAMPLES


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load_pipeline(EXAMPLES / "providers" / "pipeline.yaml")


@pytest.fixture(scope="module")
def joined(pipeline: Pipeline) -> Joined:
    return join(pipeline)


@pytest.fixture(scope="module")
def raw(pipeline: Pipeline) -> dict[str, pd.DataFrame]:
    return {h.name: read_holder(h, pipeline.path.parent).get_secret_value() for h in pipeline.holders}


def test_every_row_is_used_or_left_out_with_a_reason(joined: Joined, raw: dict[str, pd.DataFrame]) -> None:
    assert list(joined.card["holders"]) == list(raw)
    for name, row in joined.card["holders"].items():
        assert row["given"] == len(raw[name]) == row["kept"] + sum(row["left_out"].values())
        assert row["left_out"]
    whole = joined.card["joined"]
    assert whole["given"] == whole["kept"] + sum(whole["left_out"].values())
    assert whole["kept"] == len(records(joined)) == sum(row["records"] for row in joined.card["splits"].values())


def test_enough_patients_of_uneven_records_within_the_cap(joined: Joined, pipeline: Pipeline) -> None:
    sizes = Counter(record.unit for record in records(joined))
    assert joined.card["units"] == len(sizes) >= 600
    assert max(sizes.values()) == pipeline.cap
    assert len(set(sizes.values())) > 5


def test_records_have_the_agreed_shape(joined: Joined) -> None:
    everything = records(joined)
    assert len({record.id for record in everything}) == len(everything)
    for record in everything:
        assert record.unit and record.expected == (record.answer,) and record.check == "contains"
        assert record.answer.casefold() in record.question.casefold()  # it can be told from the question
        assert "\n" not in words(record)
        assert 7 <= len(words(record).split()) <= 30
    assert 11 < sum(len(words(record).split()) for record in everything) / len(everything) < 20
    assert len({words(record) for record in everything}) > 0.99 * len(everything)
    # With what differs from record to record taken out, few wordings come twice.
    frames = Counter(r.question.lower().replace(r.answer.lower(), "_") for r in everything)
    assert len(frames) > 0.9 * len(everything)


def test_test_values_stand_in_no_training_text(joined: Joined) -> None:
    parts = joined.records.get_secret_value()
    texts = "\n".join(words(record) for record in parts["train"]).casefold()
    answers = {record.answer.casefold() for record in parts["test"]}
    assert len(answers) > 100
    assert not [answer for answer in answers if answer in texts]
    units = [{record.unit for record in part} for part in parts.values()]
    assert sum(map(len, units)) == len(set.union(*units))


def test_de_identification_is_measured_and_good(joined: Joined) -> None:
    quality = joined.card["deidentify"]
    assert quality["planted"] > 2000
    assert quality["recall"] >= 0.99
    assert quality["precision"] >= 0.95
    assert quality["ner"].startswith("en_core_web_sm, ")


def test_no_phone_mail_or_full_name_is_left(joined: Joined, raw: dict[str, pd.DataFrame]) -> None:
    text = fold("\n".join(words(record) for record in records(joined))).lower()
    hospital = raw["hospital"]
    names = {
        fold(f"{given} {family}").lower()
        for family, given in zip(hospital["#roster/0"], hospital["#roster/1"], strict=True)
    }
    assert len(names) > 500
    assert not [name for name in names if name in text]
    assert "@" not in text
    assert "39 98" not in text
    assert "dupont" not in text
    keys = {"".join(filter(str.isdigit, key))[-9:] for key in hospital["#key"]}
    digits = "".join(filter(str.isdigit, text))
    assert not [key for key in keys if key in digits]


def test_no_display_shows_a_record(joined: Joined) -> None:
    shown = f"{joined} {joined!r} {[joined.records]} {joined.card}"
    assert "train" in shown
    for record in records(joined)[:50]:
        assert words(record) not in shown
        assert record.answer not in shown
        assert record.unit not in shown


def test_the_key_changes_pseudonyms_and_nothing_else(joined: Joined, pipeline: Pipeline) -> None:
    other = join_providers(pipeline, read_key({}, fictitious=True), seed=7)
    ours, theirs = joined.records.get_secret_value(), other.records.get_secret_value()
    for name, part in ours.items():
        assert [words(r) for r in part] == [words(r) for r in theirs[name]]
        assert not {r.unit for r in part} & {r.unit for r in theirs[name]}
    assert joined.card == other.card


def test_without_groups_each_patients_own_key_decides_whatever_the_secret(tmp_path: Path) -> None:
    pipeline = small_pipeline(tmp_path, split={"validation": 0.4, "test": 0.25})
    ours = join(pipeline).records.get_secret_value()
    for _ in range(3):
        other = join_providers(pipeline, read_key({}, fictitious=True), seed=7)
        theirs = other.records.get_secret_value()
        assert [[words(r) for r in part] for part in ours.values()] == [
            [words(r) for r in part] for part in theirs.values()
        ]


def test_the_seed_decides(tmp_path: Path) -> None:
    pipeline = small_pipeline(tmp_path, templates=[*SETTINGS["templates"], {"text": "{clinic.note} {shop.drug}"}])
    assert records(join(pipeline)) == records(join(pipeline))
    assert records(join(pipeline)) != records(join(pipeline, seed=8))


def test_removing_a_patient_leaves_the_records_of_all_others(tmp_path: Path) -> None:
    changes = {"split": {"validation": 0.4, "test": 0.2}, "cap": 2}
    clinic = [row | {"visit": visit} for row in CLINIC for visit in (1, 2, 3)]
    shop = [row | {"no": str(visit)} for row in SHOP for visit in (1, 2, 3)]
    whole = join(small_pipeline(tmp_path / "whole", clinic, shop, **changes)).records.get_secret_value()
    for gone in (0, 5, 11):
        fewer = [row for row in clinic if row["phone"] != CLINIC[gone]["phone"]]
        rest = join(small_pipeline(tmp_path / f"{gone}", fewer, shop, **changes)).records.get_secret_value()
        (unit,) = {r.unit for part in whole.values() for r in part} - {r.unit for part in rest.values() for r in part}
        assert rest == {name: [r for r in part if r.unit != unit] for name, part in whole.items()}


def test_rows_go_missing_with_their_reasons(tmp_path: Path) -> None:
    clinic = [
        *CLINIC,
        CLINIC[0] | {"visit": 2},
        CLINIC[1] | {"phone": "unknown"},
        CLINIC[2] | {"note": " ", "visit": 3},
    ]
    shop = [*SHOP[1:], SHOP[1], {"tel": "06 39 98 77 77", "no": "1", "article": "X"}, SHOP[2] | {"no": "3"}]
    card = join(small_pipeline(tmp_path, clinic, shop)).card
    empty = "a column that its template needs is empty"
    assert card["holders"] == {
        "clinic": {
            "given": 15,
            "kept": 11,
            "left_out": {"no row of shop has the same patient and episode": 2, "no usable key": 1, empty: 1},
        },
        "shop": {
            "given": 14,
            "kept": 11,
            "left_out": {
                "an earlier row of shop has the same patient and episode": 1,
                "no row of clinic has the same patient and episode": 1,
                empty: 1,
            },
        },
    }
    assert card["joined"] == {"given": 12, "kept": 11, "left_out": {empty: 1}}


def test_a_left_join_keeps_rows_that_nothing_matches(tmp_path: Path) -> None:
    left = [SETTINGS["joins"][0] | {"how": "left"}]
    pipeline = small_pipeline(tmp_path, shop=SHOP[:5], joins=left, templates=[{"text": "{clinic.note}"}])
    made = join(pipeline)
    assert len(records(made)) == made.card["holders"]["clinic"]["kept"] == 12
    assert made.card["holders"]["shop"] == {"given": 5, "kept": 5, "left_out": {}}
    needed = join(small_pipeline(tmp_path, shop=SHOP[:5], joins=left))
    assert needed.card["joined"]["left_out"] == {"a column that its template needs is empty": 7}


def test_rows_that_a_left_join_left_empty_are_counted_when_a_later_join_loses_them(tmp_path: Path) -> None:
    third = SETTINGS["holders"][1] | {"name": "store", "file": "store.csv"}
    joins = [
        SETTINGS["joins"][0] | {"on": ["patient"], "how": "left"},
        {"left": "shop", "right": "store", "on": ["patient"]},
    ]
    (tmp_path / "store.csv").write_text("tel,no,article\n" + "".join(f"{row['tel']},1,x\n" for row in SHOP[:8]))
    settings: dict[str, Any] = {"holders": [*SETTINGS["holders"], third], "joins": joins}
    card = join(small_pipeline(tmp_path, shop=SHOP[:5], templates=[{"text": "{clinic.note}"}], **settings)).card
    assert card["holders"]["clinic"] == {
        "given": 12,
        "kept": 8,
        "left_out": {"no row of store has the same patient": 4},
    }


def test_a_patient_with_ten_thousand_records_is_capped(tmp_path: Path) -> None:
    clinic = [*CLINIC[1:], *(CLINIC[0] | {"visit": visit} for visit in range(10_000))]
    shop = [*SHOP[1:], *(SHOP[0] | {"no": str(visit)} for visit in range(10_000))]
    made = join(small_pipeline(tmp_path, clinic, shop))
    assert max(Counter(record.unit for record in records(made)).values()) == 4
    assert made.card["joined"]["left_out"] == {"over the cap of 4 records of one unit": 9_996}


def test_braces_and_line_ends_in_a_record_stay_data(tmp_path: Path) -> None:
    clinic = [row | {"note": "has {shop.drug} {question}\n\tand gout"} for row in CLINIC]
    texts = {words(record) for record in records(join(small_pipeline(tmp_path, clinic)))}
    assert "has {shop.drug} {question} and gout Drug: Drug3" in texts


def test_doubled_braces_in_a_wording_become_single(tmp_path: Path) -> None:
    templates = [{"question": "{clinic.note}", "answer": '{{"drug": "{shop.drug}"}}'}]
    made = join(small_pipeline(tmp_path, templates=templates))
    assert 'Seen, has gout 3. {"drug": "Drug3"}' in {words(record) for record in records(made)}


@pytest.mark.parametrize("nothing", ["NULL", "nan", "N/A", "-", "#N/A", " "])
def test_a_word_for_an_empty_cell_is_no_answer(tmp_path: Path, nothing: str) -> None:
    made = join(small_pipeline(tmp_path, shop=[SHOP[0] | {"article": nothing}, *SHOP[1:]]))
    assert len(records(made)) == 11
    assert made.card["joined"]["left_out"] == {"a column that its template needs is empty": 1}


def test_a_row_that_comes_twice_is_used_once_for_every_holder(tmp_path: Path) -> None:
    made = join(small_pipeline(tmp_path, clinic=[*CLINIC, *CLINIC], shop=[*SHOP, *SHOP]))
    assert len(records(made)) == 12
    assert made.card["holders"]["clinic"]["left_out"] == {"an earlier row of clinic is the same": 12}


def test_rows_that_only_masking_makes_equal_and_equal_ones_of_nobody_are_all_used(tmp_path: Path) -> None:
    alone: dict[str, Any] = {"joins": [], "templates": [{"text": "{clinic.note}"}]}
    days = [CLINIC[0] | {"note": f"gout on {day} May 2024"} for day in (3, 4, 5)]
    made = join(small_pipeline(tmp_path, days, holders=SETTINGS["holders"][:1], **alone))
    assert [words(record) for record in records(made)] == ["gout on [date]"] * 3
    nobody = {name: value for name, value in SETTINGS["holders"][0].items() if name != "key"} | {"unit": "row"}
    assert len(records(join(small_pipeline(tmp_path, CLINIC[:1] * 3, holders=[nobody], **alone)))) == 3


def test_empty_cells_agree_with_nothing(tmp_path: Path) -> None:
    clinic, shop = [row | {"visit": "-"} for row in CLINIC[:6]], [row | {"no": "NULL"} for row in SHOP[:6]]
    made = join(small_pipeline(tmp_path, [*clinic, *CLINIC[6:]], [*shop, *SHOP[6:]]))
    assert len(records(made)) == 6
    assert made.card["holders"]["shop"]["left_out"] == {"a column of patient and episode is empty": 6}


def test_a_test_far_from_the_share_that_was_asked_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = [row | {"article": f"Drug{n % 2}"} for n, row in enumerate(SHOP)]
    split = {"validation": 0.0, "test": 0.2, "by": "shop.drug"}
    told = []
    for seed in range(1, 9):  # two groups: none, or all, or half of the patients
        with suppress(DataError):
            join(small_pipeline(tmp_path, shop=shop, split=split), seed=seed)
            told.append(capsys.readouterr().out)
    assert told
    for each in told:
        assert "50% of the patients were drawn for the test, where split.test asks for 20%" in each


def test_an_empty_split_says_why_joined_rows_went_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train split has no record.*12 of the join, a column that its template needs"):
        join(small_pipeline(tmp_path, shop=[row | {"article": "NULL"} for row in SHOP]))


@pytest.mark.parametrize(
    ("change", "agree"),
    [({"tel": "06 39 98 99 99"}, "0 of 12"), ({"no": "9"}, "12 of 12")],
)
def test_keys_that_match_nobody(tmp_path: Path, change: dict[str, str], agree: str) -> None:
    pipeline = small_pipeline(tmp_path, shop=[row | change for row in SHOP])
    with pytest.raises(DataError, match=rf"clinic with shop on patient and episode matches nobody: {agree} patients"):
        join(pipeline)


def test_one_holder_without_records(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Holder 'shop' has no rows"):
        join(small_pipeline(tmp_path, shop=[]))


def test_everybody_goes_into_training_where_no_split_has_a_share(tmp_path: Path) -> None:
    parts = join(small_pipeline(tmp_path, split={"validation": 0, "test": 0})).records.get_secret_value()
    assert {name: len(part) for name, part in parts.items()} == {"train": 12, "validation": 0, "test": 0}
