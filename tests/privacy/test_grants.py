"""Grants: only the holder's key makes one, and it counts for one ledger, one unit and one definition of the key."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from few_patients import GRANT, make_real, opened, pipeline
from pydantic import ValidationError
from small_ledgers import CHEAP, FIELDS, KEY, OTHER_KEY, granted

from helpers.data.holders.pipeline import load_pipeline
from helpers.errors import ConfigError, LedgerError, PrivacyError
from helpers.files import read_json, write_json
from helpers.privacy.grants import Grant, check_grant, holders_key, main, read_grant, sign
from helpers.privacy.ledger import open_ledger, reserve
from helpers.run import Run
from helpers.stages.private_training import ledgers_of

PUBLIC = KEY.public_key().public_bytes_raw().hex()
HOLDERS = ("hospital", "pharmacy", "insurer")


def real(folder: Path) -> Run:
    """A run on three holders of real records, each with a grant that it signed."""
    return opened(folder, make_real(pipeline(folder), KEY, epsilon=10.0, delta=1e-5))


def give(folder: Path, grant: Grant) -> None:
    write_json(folder / "providers" / "hospital_grant.json", grant.model_dump())


def test_a_signed_pipeline_reserves_within_its_grants(tmp_path: Path) -> None:
    run = real(tmp_path)
    ledgers = ledgers_of(run, begin=True)
    reserve(ledgers, "a", "run", CHEAP)
    rows = [each.head() for each in ledgers_of(run)]
    assert [(row["holder"], row["public_key"], row["entries"]) for row in rows] == [
        (holder, PUBLIC, 2) for holder in HOLDERS
    ]
    give(tmp_path, granted(serial=2, epsilon=1e-3))  # the holder trusts less from now on
    with pytest.raises(LedgerError, match=r"budget of hospital is too small.*larger grant, of serial 3"):
        reserve(ledgers_of(run), "b", "run", CHEAP)


def test_no_ledger_of_real_records_begins_by_itself(tmp_path: Path) -> None:
    run = real(tmp_path)
    with pytest.raises(LedgerError, match=r"hospital has no ledger at .*begin-ledgers"):
        ledgers_of(run)
    assert not (tmp_path / "ledgers").exists()
    ledgers_of(run, begin=True)
    (tmp_path / "ledgers" / "hospital.jsonl").unlink()  # lost, and not back with its whole budget
    with pytest.raises(LedgerError, match="hospital has no ledger"):
        ledgers_of(run)


def test_a_ledger_does_not_begin_with_a_later_grant(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="serial is 2, a new ledger has 1"):
        open_ledger(tmp_path, granted(serial=2), begin=True)
    assert not list(tmp_path.glob("*.jsonl"))


def test_a_forged_grant_is_refused(tmp_path: Path) -> None:
    forged = granted(OTHER_KEY).model_copy(update={"public_key": PUBLIC})
    with pytest.raises(LedgerError, match=r"grant of hospital is refused: the signature is not valid"):
        ledgers_of(refused(tmp_path, forged), begin=True)


@pytest.mark.parametrize("change", [{"epsilon": 10.000001}, {"delta": 1e-4}, {"note": ""}, {"date": "2027-01-01"}])
def test_an_edited_grant_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(
        LedgerError, match=r"hospital is refused: the signature is not valid: .* edited since\. Put back"
    ):
        open_ledger(tmp_path, granted().model_copy(update=change), begin=True)


def test_an_unsigned_grant_for_real_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="the grant is unsigned"):
        open_ledger(tmp_path, Grant.model_validate(FIELDS), begin=True)
    run = opened(tmp_path, pipeline(tmp_path, ("fictitious: true", "fictitious: false")))
    with pytest.raises(PrivacyError, match="hospital is refused: the signature is not valid: the grant is unsigned"):
        ledgers_of(run, begin=True)


def test_a_self_signed_grant_is_refused_at_the_pipeline(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=f"public_key is '[0-9a-f]*', the pipeline has '{PUBLIC}'"):
        ledgers_of(refused(tmp_path, granted(OTHER_KEY, epsilon=1000.0)), begin=True)


def test_a_self_signed_grant_is_refused_at_the_ledger(tmp_path: Path) -> None:
    open_ledger(tmp_path, granted(), begin=True)
    with pytest.raises(LedgerError, match=f"public_key is '[0-9a-f]*', its ledger has '{PUBLIC}'"):
        open_ledger(tmp_path, granted(OTHER_KEY, serial=2, epsilon=1000.0))


def test_a_public_key_exchanged_in_the_pipeline_is_refused_by_the_ledger(tmp_path: Path) -> None:
    run = real(tmp_path)
    ledgers_of(run, begin=True)
    give(tmp_path, granted(OTHER_KEY, serial=2, epsilon=1000.0))
    path, theirs = run.config.pipeline, OTHER_KEY.public_key().public_bytes_raw().hex()
    path.write_text(path.read_text("utf-8").replace(PUBLIC, theirs, 1), encoding="utf-8")
    with pytest.raises(LedgerError, match=f"public_key is '{theirs}', its ledger has '{PUBLIC}'"):
        ledgers_of(run)


def test_a_grant_as_an_editor_saves_it_and_without_the_kind_that_is_usual(tmp_path: Path) -> None:
    path = tmp_path / "grant.json"
    fields = granted().model_dump() | {"patient_key": {"column": "id"}}
    path.write_text(json.dumps(fields), encoding="utf-8-sig")  # as Notepad does
    assert read_grant(path).patient_key == {"column": "id", "kind": "text"}
    path.write_bytes("é".encode("utf-16"))
    with pytest.raises(LedgerError, match="is no grant: it is not UTF-8 text"):
        read_grant(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(LedgerError, match=r"grant.json is no grant: Invalid JSON"):
        read_grant(path)


def test_a_replayed_grant_is_refused(tmp_path: Path) -> None:
    open_ledger(tmp_path, granted(), begin=True)
    ledger = open_ledger(tmp_path, granted(serial=2, epsilon=5.0))
    for older in (granted(), granted(serial=2, epsilon=7.0)):
        with pytest.raises(LedgerError, match=r"serial is [12], its ledger has 2 already, and only a higher one"):
            open_ledger(tmp_path, older)
    assert ledger.head()["granted_epsilon"] == 5
    assert open_ledger(tmp_path, granted(serial=2, epsilon=5.0)).head()["entries"] == 2  # the newest again is no replay


def test_a_grant_for_another_ledger_or_holder_is_refused(tmp_path: Path) -> None:
    open_ledger(tmp_path, granted(), begin=True)
    with pytest.raises(LedgerError, match="ledger is 'hospital-2027', its ledger has 'hospital-2026'"):
        open_ledger(tmp_path, granted(serial=2, ledger="hospital-2027"))
    with pytest.raises(LedgerError, match="holder is 'pharmacy', the pipeline has 'hospital'"):
        ledgers_of(refused(tmp_path, granted(holder="pharmacy")), begin=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [("key: {column: mobile, kind: phone, region: FR}", "key: {column: city}"), ("region: FR", "region: GB")],
)
def test_a_pipeline_with_another_definition_of_the_key_is_refused(tmp_path: Path, old: str, new: str) -> None:
    run = real(tmp_path)
    ledgers_of(run, begin=True)
    path = run.config.pipeline  # keyed on cities, each training would be billed as if a city were one patient
    path.write_text(path.read_text("utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(LedgerError, match=r"patient_key is .*'mobile'.*, the pipeline has {'column'"):
        ledgers_of(run)


def test_a_grant_for_another_definition_is_refused_at_the_ledger(tmp_path: Path) -> None:
    open_ledger(tmp_path, granted(), begin=True)
    with pytest.raises(LedgerError, match=r"patient_key is {'column': 'visit', 'kind': 'text'}, its ledger"):
        open_ledger(tmp_path, granted(serial=2, patient_key={"column": "visit"}))


def test_an_unsigned_pipeline_with_another_definition_is_refused_too(tmp_path: Path) -> None:
    run = opened(tmp_path, pipeline(tmp_path))
    ledgers_of(run)
    path = run.config.pipeline
    path.write_text(path.read_text("utf-8").replace("column: mobile, kind", "column: city, kind"), encoding="utf-8")
    with pytest.raises(LedgerError, match=r"patient_key is {'column': 'city'.*, its ledger has {'column': 'mobile'"):
        ledgers_of(run)


@pytest.mark.parametrize("change", [{"unit": "record"}, {"fictitious": True}])
def test_a_grant_for_another_unit_or_for_fictitious_records_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    [(name, value)] = change.items()
    with pytest.raises(LedgerError, match=f"{name} is {value!r}, the pipeline has"):
        ledgers_of(refused(tmp_path, granted(**change)), begin=True)
    open_ledger(tmp_path, granted(), begin=True)
    with pytest.raises(LedgerError, match=f"{name} is {value!r}, its ledger has"):
        open_ledger(tmp_path, granted(serial=2, **change))


def test_real_records_are_not_called_fictitious_later(tmp_path: Path) -> None:
    run = real(tmp_path)
    ledgers_of(run, begin=True)
    path = run.config.pipeline
    unsigned = path.read_text("utf-8").replace("fictitious: false", "fictitious: true")
    for holder in HOLDERS:
        unsigned = unsigned.replace(f"grant: {{file: {holder}_grant.json, public_key: {PUBLIC}}}", GRANT)
    path.write_text(unsigned, encoding="utf-8")
    with pytest.raises(LedgerError, match="fictitious is True, its ledger has False"):
        ledgers_of(run)


def test_a_ledger_of_fictitious_records_takes_no_real_ones(tmp_path: Path) -> None:
    open_ledger(tmp_path, Grant.model_validate(FIELDS | {"fictitious": True}), begin=True)
    with pytest.raises(LedgerError, match="fictitious is False, its ledger has True"):
        open_ledger(tmp_path, granted(serial=2))


def test_all_that_is_wrong_with_a_grant_is_said_at_once() -> None:
    edited = granted(OTHER_KEY).model_copy(update={"epsilon": 99.0})
    with pytest.raises(LedgerError, match=r"unit is .*; public_key is .*; serial is 1.*; the signature is not valid"):
        check_grant(edited, "the ledger", above=1, unit="record", public_key=PUBLIC)


@pytest.mark.parametrize(
    "change",
    [
        {"holder": "../hospital"}, {"holder": ""}, {"ledger": "a b"}, {"ledger": "x" * 65}, {"holder": "hôpital"},
        {"serial": 0}, {"epsilon": 0.0}, {"epsilon": float("inf")}, {"epsilon": float("nan")}, {"delta": 0.0},
        {"delta": 1.0}, {"unit": "visit"}, {"more": 1},
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        granted(**change)


def test_a_file_that_is_no_grant_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"grant\.json cannot be read.*Ask its holder"):
        read_grant(tmp_path / "grant.json")
    write_json(tmp_path / "grant.json", FIELDS | {"epsilon": -1, "delta": "small"})
    with pytest.raises(LedgerError, match=r"grant\.json is no grant: epsilon: .*; delta: "):
        read_grant(tmp_path / "grant.json")


@pytest.mark.parametrize("given", ["{file: a.json}", "{epsilon: 1}", "{file: a.json, epsilon: 1, delta: 0.1}", "{}"])
def test_a_pipeline_names_a_file_and_a_key_or_amounts(tmp_path: Path, given: str) -> None:
    with pytest.raises(ConfigError, match="give file and public_key, or epsilon and delta; received"):
        load_pipeline(pipeline(tmp_path, (GRANT, f"grant: {given}")))


def test_a_holder_signs_by_one_command(tmp_path: Path) -> None:
    file, key = tmp_path / "hospital_grant.json", tmp_path / "hospital.key"
    write_json(file, FIELDS)
    command = [sys.executable, "-m", "helpers.privacy.grants", str(file), str(key)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    grant = read_grant(file)
    check_grant(grant, "nothing")
    assert f"grant: {{file: hospital_grant.json, public_key: {grant.public_key}}}" in told
    assert key.stat().st_mode & 0o777 == 0o600 and key.read_text() not in told + file.read_text("utf-8")
    write_json(file, read_json(file) | {"serial": 2, "epsilon": 20})  # signed again, with the key that is there
    subprocess.run(command, check=True, capture_output=True)
    assert read_grant(file).public_key == grant.public_key
    assert open_ledger(tmp_path, grant, begin=True) == open_ledger(tmp_path, read_grant(file))


def test_a_mistake_of_the_holder_shows_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, key = tmp_path / "grant.json", tmp_path / "holder.key"
    write_json(file, FIELDS)
    key.write_text("5ec3e7" * 11)
    monkeypatch.setattr(sys, "argv", ["grants", str(file), str(key)])
    with pytest.raises(SystemExit, match="2"):
        main()
    told = capsys.readouterr()
    assert "holder.key is no key of a holder" in told.err and "5ec3e7" not in told.err + told.out
    assert read_json(file) == json.loads(json.dumps(FIELDS))
    with pytest.raises(LedgerError, match="cannot be used"):
        holders_key(tmp_path / "nowhere" / "holder.key")


def test_what_is_signed_does_not_depend_on_the_order_of_fields() -> None:
    turned = Grant.model_validate(
        dict(reversed(FIELDS.items())) | {"patient_key": dict(reversed(FIELDS["patient_key"].items()))}
    )
    assert sign(turned, KEY) == granted()


def refused(folder: Path, grant: Grant) -> Run:
    """A run on signed real records whose hospital gives this grant."""
    run = real(folder)
    give(folder, grant)
    return run
