"""Masking of holders' tables: which columns are masked, how well, and which may not be copied as codes."""

from pathlib import Path
from typing import Any

import pytest
from small_providers import CLINIC, SETTINGS, SHOP, join, records, small_pipeline, words

from helpers.data.holders.pipeline import Pipeline
from helpers.errors import DataError, PrivacyError

CODED = [SETTINGS["holders"][0] | {"coded": ["episode", "note"]}, SETTINGS["holders"][1]]
HOLD = "some of its values hold a phone number, mail address, IBAN, NIR or patient's key"
MOST = "most of its values are names or numbers of people"


@pytest.mark.parametrize(
    ("note", "fault"),
    [
        ("Seen for the {n}th time this year, has gout as well as a cough.", "most of its cells are texts of their own"),
        ("call 06 39 98 12 34", HOLD),
        ("gout@example.org", HOLD),
        ("184051234500180", HOLD),
        ("06399812{n:02d}", MOST),
        ("{name}", MOST),
        ("Mme {name}, 45 ans", MOST),
        ("18405123450{n:02d}", MOST),  # a NIR without its last two digits
    ],
)
def test_free_text_and_what_identifies_people_are_no_codes(tmp_path: Path, note: str, fault: str) -> None:
    clinic = [row | {"note": note.format(n=n, **row)} for n, row in enumerate(CLINIC)]
    with pytest.raises(PrivacyError, match=f"clinic.note is coded, so it is not masked, but {fault}") as caught:
        join(small_pipeline(tmp_path, clinic, holders=CODED))
    assert "gout" not in str(caught.value)


@pytest.mark.parametrize(
    "label",  # of a disease, a drug, a hospital, a day, a ward, a code in brackets, nothing but a sign
    [
        "E{n}: diabetes of type {n} with complications",
        "34009300000{n:02d} gout 500 mg",
        "34009300000{n:02d}",
        "7507121{n:02d}",
        "2024-01-{n}",
        "Zorbel ward {n}",
        "[C{n}]",
        "+",
    ],
)
def test_codes_stay_codes_however_many_there_are(tmp_path: Path, label: str) -> None:
    clinic = [row | {"note": label.format(n=n)} for n, row in enumerate(CLINIC, start=1)]
    made = join(small_pipeline(tmp_path, clinic, holders=CODED))
    assert {words(record) for record in records(made)} == {
        f"{label.format(n=n)} Drug: Drug{n - 1}" for n in range(1, 13)
    }


def test_a_copy_of_the_key_and_a_name_to_join_on_are_no_codes(tmp_path: Path) -> None:
    clinic = [row | {"phone": f"P{n}-7731", "note": f"file P{n}-7731 of gout"} for n, row in enumerate(CLINIC)]
    keyed = SETTINGS["holders"][0] | {"key": {"column": "phone"}, "coded": ["episode", "note"]}
    alone: dict[str, Any] = {"joins": [], "templates": [{"text": "{clinic.note}"}]}
    with pytest.raises(PrivacyError, match=f"clinic.note is coded, so it is not masked, but {HOLD}"):
        join(small_pipeline(tmp_path, clinic, holders=[keyed], **alone))
    named = [row | {"visit": row["name"]} for row in CLINIC]
    with pytest.raises(PrivacyError, match=f"clinic.episode is coded, so it is not masked, but {MOST}"):
        join(small_pipeline(tmp_path, named))


def test_wards_may_bear_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clinic = [
        row | {"phone": f"+33 6 39 {n:02d} 00 {m:02d}", "note": row["name"]}
        for n, row in enumerate(CLINIC)
        for m in range(10)
    ]
    alone: dict[str, Any] = {"joins": [], "templates": [{"text": "{clinic.note}"}]}
    assert len(records(join(small_pipeline(tmp_path, clinic, holders=CODED[:1], **alone)))) == 120
    assert "some of its values may name a person" in capsys.readouterr().out


def test_a_code_that_holds_a_name_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = f"disease of Mr {CLINIC[1]['name']} the first"
    clinic = [row | {"note": named if n % 3 else "gout"} for n, row in enumerate(CLINIC)]
    made = join(small_pipeline(tmp_path, clinic, holders=CODED))
    assert made.card["deidentify"]["coded_values_that_may_identify"] == {"clinic.note": 1}
    told = capsys.readouterr().out
    assert "clinic.note is coded, so it is not masked, and some of its values may name a person" in told
    assert "Zorbel" not in told


def plant(folder: Path, lines: str, **settings: Any) -> Pipeline:
    folder.mkdir(exist_ok=True)
    (folder / "planted.jsonl").write_text(lines)
    return small_pipeline(folder, deidentify={"planted": "planted.jsonl", **settings})


def test_de_identification_below_the_floor_is_refused(tmp_path: Path) -> None:
    missed = '{"holder": "clinic", "row": 2, "column": "note", "spans": [[0, 4, "PERSON"]]}\n'  # "Seen" is no name
    with pytest.raises(PrivacyError, match=r"recall of 0\.0000 .*below 0\.99.*'PERSON': 1.*nothing was joined"):
        join(plant(tmp_path, missed))
    assert join(plant(tmp_path, missed, min_recall=0)).card["deidentify"]["missed"] == {"PERSON": 1}
    clinic = [row | {"note": "Dr Zaphod"} for row in CLINIC]
    (tmp_path / "planted.jsonl").write_text("")
    with pytest.raises(PrivacyError, match=r"precision of 0\.0000"):
        join(small_pipeline(tmp_path, clinic, deidentify={"planted": "planted.jsonl"}))


def test_phone_numbers_are_found_in_the_spellings_of_the_keys_region(tmp_path: Path) -> None:
    clinic = [row | {"phone": f"6123456{n:02d}", "note": f"call 612 345 6{n:02d} soon"} for n, row in enumerate(CLINIC)]
    holder = SETTINGS["holders"][0] | {"key": {"column": "phone", "kind": "phone", "region": "ES"}}
    settings: dict[str, Any] = {"holders": [holder], "joins": [], "templates": [{"text": "{clinic.note}"}]}
    texts = {words(record) for record in records(join(small_pipeline(tmp_path, clinic, **settings)))}
    assert texts == {"call [phone] soon"}


def test_planted_spans_of_no_cell_are_refused(tmp_path: Path) -> None:
    stray = '{"holder": "shop", "row": 2, "column": "drug", "spans": [[0, 4, "PERSON"]]}\n'
    with pytest.raises(DataError, match="names 1 cells that no de-identified column has"):
        join(plant(tmp_path, stray))
    of_another_text = '{"holder": "clinic", "row": 2, "column": "note", "spans": [[90, 9000, "PERSON"]]}\n'
    with pytest.raises(DataError, match=r"behind the end of their texts\. It is of other records"):
        join(plant(tmp_path, of_another_text))
    with pytest.raises(DataError, match=r"no file nowhere\.jsonl"):
        join(small_pipeline(tmp_path, deidentify={"planted": "nowhere.jsonl"}))


def test_every_column_that_is_not_coded_is_masked(tmp_path: Path) -> None:
    clinic = [row | {"note": f"{row['name']} was here on 3 May 2024"} for row in CLINIC]
    holders = [dict(holder) for holder in SETTINGS["holders"]]
    holders[1]["coded"] = ["episode"]
    shop = [row | {"article": f"for {CLINIC[n]['name']}"} for n, row in enumerate(SHOP)]
    texts = [words(record) for record in records(join(small_pipeline(tmp_path, clinic, shop, holders=holders)))]
    assert texts == ["[name] was here on [date] Drug: for [name]"] * 12
