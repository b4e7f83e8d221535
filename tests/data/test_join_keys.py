"""Keys of holders: which rows are one patient's, which are nobody's, and which are refused."""

from pathlib import Path
from typing import Any

import pytest
from small_providers import CLINIC, KEY, SETTINGS, SHOP, join, records, small_pipeline, words

from helpers.data.holders.join import join_providers
from helpers.data.holders.pipeline import Pipeline
from helpers.errors import DataError


def test_no_usable_key_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="matches nobody: 0 of 0 patients"):
        join(small_pipeline(tmp_path, clinic=[row | {"phone": "?"} for row in CLINIC]))


ALONE: dict[str, Any] = {
    "holders": [SETTINGS["holders"][0] | {"key": {"column": "phone"}}], "joins": [],
    "templates": [{"text": "{clinic.note}"}],
}  # fmt: skip


def test_keys_that_only_a_separator_tells_apart_are_refused(tmp_path: Path) -> None:
    clinic = [row | {"phone": f"{n}-{n}7"} for n, row in enumerate(CLINIC)]
    assert len({r.unit for r in records(join(small_pipeline(tmp_path, clinic, **ALONE)))}) == 12
    clinic[3]["phone"] = "11-7"  # beside 1-17
    with pytest.raises(DataError, match="clinic: 1 keys are equal but for the place of a separator") as caught:
        join(small_pipeline(tmp_path, clinic, **ALONE))
    assert "11-7" not in str(caught.value)


def test_keys_that_only_case_tells_apart_are_refused_where_case_is_meant(tmp_path: Path) -> None:
    clinic = [row | {"phone": f"Ax-{n}"} for n, row in enumerate(CLINIC)]
    clinic[3]["phone"] = "AX-2"  # typed by hand: the patient of row 2
    assert len({r.unit for r in records(join(small_pipeline(tmp_path, clinic, **ALONE)))}) == 11
    clinic[2]["phone"], clinic[3]["phone"] = "0g0XyZaB", "0g0XyZAb"
    with pytest.raises(DataError, match="clinic: 1 keys are equal but for case"):
        join(small_pipeline(tmp_path, clinic, **ALONE))


def test_keys_of_one_holder_that_only_leading_zeros_tell_apart_are_refused(tmp_path: Path) -> None:
    clinic = [row | {"phone": f"{n + 10:05d}"} for n, row in enumerate(CLINIC)]
    assert len({r.unit for r in records(join(small_pipeline(tmp_path, clinic, **ALONE)))}) == 12
    clinic[3]["phone"] = "12"  # beside 00012
    with pytest.raises(DataError, match="clinic: 1 keys are equal but for leading zeros"):
        join(small_pipeline(tmp_path, clinic, **ALONE))


NIRS = [f"18405123456{n:02d}" for n in range(12)]
"""First 13 characters of invented social security numbers; `checked` adds the last two."""


def checked(nir: str) -> str:
    return f"{nir}{97 - int(nir) % 97:02d}"


def test_a_nir_with_and_without_its_last_two_digits_is_one_patient_or_refused(tmp_path: Path) -> None:
    spelt = [nir if n % 2 else checked(nir) for n, nir in enumerate(NIRS)]
    clinic = [row | {"phone": key} for row, key in zip(CLINIC * 2, [*spelt, *reversed(spelt)], strict=True)]
    clinic += [row | {"phone": checked(key)} for row, key in zip(CLINIC, NIRS, strict=True)]
    with pytest.raises(
        DataError,
        match=r"clinic: 6 keys are equal but for .* a NIR's last two digits,.*none is shown. If they .* kind: nir",
    ):
        join(small_pipeline(tmp_path, clinic, **ALONE))
    alone = ALONE | {"holders": [ALONE["holders"][0] | {"key": {"column": "phone", "kind": "nir"}}]}
    spaced = [row | {"phone": f" {row['phone'][:3]} {row['phone'][3:10]}.{row['phone'][10:]}"} for row in clinic[:12]]
    wrong = CLINIC[0] | {"phone": NIRS[0] + "99"}
    made = join(small_pipeline(tmp_path, [*clinic, *spaced, wrong], **alone))
    assert len({r.unit for r in records(made)}) == 12
    assert made.card["holders"]["clinic"]["left_out"]["no usable key"] == 1


def test_a_nir_of_13_digits_with_one_holder_and_15_with_the_other_is_hinted_at_and_joined_by_its_kind(
    tmp_path: Path,
) -> None:
    long, pipeline = [*map(checked, NIRS)], tagged(tmp_path / "a", NIRS, [*map(checked, NIRS)])
    with pytest.raises(DataError, match="0 of 12 patients are with both, 12 but for leading zeros or a NIR's last two"):
        join(pipeline)
    holders = [dict(holder) for holder in SETTINGS["holders"]]
    holders[0]["key"], holders[1]["key"] = {"column": "phone", "kind": "nir"}, {"column": "tel", "kind": "nir"}
    assert len(records(join(tagged(tmp_path / "b", NIRS, long, holders=holders)))) == 12


def test_hospital_numbers_of_15_digits_stay_as_they_are(tmp_path: Path) -> None:
    clinic = [row | {"phone": f"1000100000000{n:02d}"} for n, row in enumerate(CLINIC)]
    assert len({r.unit for r in records(join(small_pipeline(tmp_path, clinic, **ALONE)))}) == 12


def test_a_patient_number_in_a_note_is_masked_and_names_the_patient_by_its_first_part(tmp_path: Path) -> None:
    clinic = [
        row | {"phone": f"P{n // 2}-7731_{n % 2}", "note": f"File p{n // 2} 7731{'_0' * (n % 2 == 0)}, gout {n}."}
        for n, row in enumerate(CLINIC)
    ]
    settings = {
        "holders": [SETTINGS["holders"][0] | {"key": {"column": "phone", "before": "_"}}],
        "joins": [],
        "templates": [{"text": "{clinic.note}"}],
    }
    joined = join_providers(small_pipeline(tmp_path, clinic, **settings), KEY, seed=1)
    assert sorted(words(r) for r in records(joined)) == sorted(f"File [id], gout {n}." for n in range(12))
    assert len({record.unit for record in records(joined)}) == 6
    assert not joined.card["deidentify"]["measured"]


def tagged(folder: Path, clinic: list[Any], shop: list[Any], **changes: Any) -> Pipeline:
    """Rows of text keys, each note and drug named by its row, joined on the patient alone."""
    holders = [dict(holder) for holder in SETTINGS["holders"]]
    holders[0]["key"], holders[1]["key"] = {"column": "phone"}, {"column": "tel"}
    rows = [CLINIC[0] | {"phone": key, "note": f"gout {n}"} for n, key in enumerate(clinic)]
    goods = [{"tel": key, "no": "1", "article": f"Drug{n}"} for n, key in enumerate(shop)]
    settings: dict[str, Any] = {"holders": holders, "joins": [SETTINGS["joins"][0] | {"on": ["patient"]}]}
    return small_pipeline(folder, rows, goods, **(settings | changes))


@pytest.mark.parametrize("damage", ["{}.5", "-{}", "{}E+14", "{}?", "12{} (2)", "#REF!", "non renseigné", "99999999"])
def test_a_damaged_key_is_left_out_and_counted_and_never_another_patients(tmp_path: Path, damage: str) -> None:
    keys = [str(n) for n in range(1, 9)]
    pipeline = tagged(tmp_path, [*keys, *(damage.format(n) for n in keys)], [*keys, *(damage.format(n) for n in keys)])
    joined = join(pipeline)
    assert {words(r) for r in records(joined)} == {f"gout {n} Drug: Drug{n}" for n in range(8)}
    for holder in joined.card["holders"].values():
        assert [reason.startswith("no usable key") for reason in holder["left_out"]] == [True]
        assert sum(holder["left_out"].values()) == 8


@pytest.mark.parametrize(("left", "right"), [("{}.0", "{}"), ("{}", "{},0"), ("{}.0", "{}.00"), ("0{}.0", "0{}")])
def test_whole_numbers_that_a_program_wrote_with_a_decimal_join_the_right_rows(
    tmp_path: Path, left: str, right: str
) -> None:
    keys = range(1, 100)  # of 1 and 10, 10.0 is the second
    joined = join(tagged(tmp_path, [left.format(n) for n in keys], [right.format(n) for n in keys]))
    assert {words(r) for r in records(joined)} == {f"gout {n} Drug: Drug{n}" for n in range(99)}


def test_an_episode_is_the_same_with_and_without_a_decimal(tmp_path: Path) -> None:
    shop = [row | {"no": "1.0"} for row in SHOP]
    assert len(records(join(small_pipeline(tmp_path, shop=shop)))) == 12


def test_keys_that_leading_zeros_tell_apart_stay_apart_and_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"0 of 9 patients are with both, 9 but for leading zeros"):
        join(tagged(tmp_path / "a", [f"00{n}" for n in range(1, 10)], [str(n) for n in range(1, 10)]))
    card = join(tagged(tmp_path / "b", ["007", "8", "9"], ["7", "8", "5"])).card["holders"]
    reason = "no row of shop has the same patient"
    assert card["clinic"]["left_out"] == {f"{reason}, but for leading zeros or a NIR's last two digits": 1, reason: 1}


def test_no_usable_key_names_the_reason_and_no_key(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"0 of 0 patients .*9 of clinic, no usable key: a number in scientific"
    ) as caught:
        join(tagged(tmp_path, [f"1.85{n}E+14" for n in range(9)], ["1"] * 9))
    assert "1.85" not in str(caught.value)


def test_a_key_of_many_rows_is_named_by_their_number(tmp_path: Path) -> None:
    keys = [*(str(n) for n in range(10, 40)), *["777"] * 25]
    card = join(tagged(tmp_path, keys, [str(n) for n in range(10, 40)])).card
    assert card["frequent_key"] == {"clinic": 25}
    assert "777" not in str(card)


def test_a_word_for_nobody_is_no_name(tmp_path: Path) -> None:
    pipeline = tagged(tmp_path, ["1", "non renseigné"], ["1"], templates=[{"text": "{clinic.note} {shop.drug}"}])
    rows = (tmp_path / "clinic.jsonl").read_text().replace("gout 0", "pain was non existent")
    (tmp_path / "clinic.jsonl").write_text(rows)
    assert [words(r) for r in records(join(pipeline))] == ["pain was non existent Drug0"]
