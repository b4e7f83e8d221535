"""Keys that agree in every spelling, and pseudonyms that trying every number does not undo."""

import hashlib
import hmac

import pytest
from pydantic import SecretStr

from helpers.data.holders.pseudonyms import KEY_VARIABLE, damaged, normalise_key, pseudonym, read_key
from helpers.errors import ConfigError

GIVEN = "9f" * 8 + "01234567" * 6


def test_a_missing_key_is_refused_unless_all_is_fictitious() -> None:
    with pytest.raises(ConfigError, match=rf"{KEY_VARIABLE} is not set.*token_hex\(32\)"):
        read_key({}, fictitious=False)
    thrown_away = {read_key({}, fictitious=True).get_secret_value() for _ in range(3)}
    assert len(thrown_away) == 3
    assert all(len(bytes.fromhex(key)) == 32 for key in thrown_away)


@pytest.mark.parametrize("weak", [GIVEN[:62], GIVEN[:63] + "g", "0" * 64, "correct horse battery staple", "ab" * 32])
@pytest.mark.parametrize("fictitious", [True, False])
def test_a_weak_key_is_refused_and_not_shown(weak: str, fictitious: bool) -> None:
    with pytest.raises(ConfigError) as raised:
        read_key({KEY_VARIABLE: weak}, fictitious=fictitious)
    assert "not shown" in str(raised.value)
    assert weak not in str(raised.value)


def test_a_key_is_read_and_hidden() -> None:
    key = read_key({KEY_VARIABLE: f" {GIVEN}\n"}, fictitious=False)
    assert key.get_secret_value() == GIVEN
    assert GIVEN not in f"{key} {key!r} {[key]}"


def test_spellings_of_one_phone_agree() -> None:
    spellings = [
        "06 39 98 12 34",
        "06.39.98.12.34",
        "0639981234",
        " +33 6 39 98 12 34 ",
        "0033-6-3998-1234",
        "+33 (0)6 39 98 12 34",
    ]
    assert {normalise_key(spelling, "phone", "FR") for spelling in spellings} == {"+33639981234"}
    assert normalise_key("06 39 98 12 35", "phone", "FR") == "+33639981235"


def test_spellings_of_one_number_agree() -> None:
    assert {normalise_key(spelling) for spelling in ("NP-00 417", "np00417", " ＮＰ-00417")} == {"np00417"}
    assert normalise_key("Éa-1") == normalise_key("ea1")
    assert normalise_key("0012") == "0012" != normalise_key("12")


@pytest.mark.parametrize(
    "value", ["", "  ", "--", "unknown", "12", "00 00 00 00 00", "0666666666", "0612345678;0712345678"]
)
def test_no_usable_phone(value: str) -> None:
    assert normalise_key(value, "phone", "FR") is None


@pytest.mark.parametrize(
    "value",
    [
        *("", "  ", "--", "?", "n/a", "N.A.", "Unknown", "inconnu", "00000", "0", "XXX", "99999999", "NULL", "s/o"),
        *(
            "en attente",
            "à vérifier",
            "IPP inconnu",
            "anonymous 3",
            "no data",
            "12-mars",
            "Déc-12",
            "not on file",
            "nouveau-né",
            "Err:502",
        ),
        *("#REF!", "#N/A", "#NOM?", "#DIV/0!", "#VALEUR!", "#####", "NC", "néant", "Patient inconnu", "pas connu"),
        "Non renseignée",
    ],
)
def test_no_usable_text(value: str) -> None:
    assert normalise_key(value) is None


@pytest.mark.parametrize(
    ("value", "what"),
    [
        *((value, "scientific") for value in ("1.85E+14", "1,85e14", "2E+05", "9.1e+18", "1 e -7", "-3.5E+10")),
        *((value, "with a sign") for value in ("-1", "\u22121", "+7", "12-", "(12)", "- 4.0")),
        *(
            (value, "decimal mark")
            for value in ("12.5", "12,5", "1.234", "1 234,0", "9100000000000000001.0", "1,234,567")
        ),
        *(
            (value, "sign that no key has")
            for value in ("12?", "12 (2)", "12*", ">12", "12+13", "12²", "½", "=12", "12€")
        ),
    ],
)
def test_a_key_that_a_program_changed_is_no_other_patients_key(value: str, what: str) -> None:
    assert what in damaged(value)
    assert normalise_key(value) is None


@pytest.mark.parametrize(
    "value",
    ["219E01", "12E4", "219e1", "75.112.001", "NP-00 417", "2024/00317", "aB1_2", "#12", "NR123", "NA101", "M-12"],
)
def test_codes_are_not_damaged(value: str) -> None:
    assert damaged(value) == ""
    assert normalise_key(value) == "".join(filter(str.isalnum, value)).casefold()


@pytest.mark.parametrize("value", ["7.0", "7,0", "7.00", "7"])
def test_a_whole_number_stays_that_number_however_a_program_wrote_it(value: str) -> None:
    assert normalise_key(value) == "7"


@pytest.mark.parametrize("value", ["639981234.0", "639981234", "+33 (6) 39 98 12 34"])
def test_a_phone_number_that_was_read_as_a_number(value: str) -> None:
    assert normalise_key(value, "phone", "FR") == "+33639981234"


@pytest.mark.parametrize("value", ["6.39981E+08", "-639981234"])
def test_a_phone_number_that_a_program_changed(value: str) -> None:
    assert normalise_key(value, "phone", "FR") is None


def test_trying_every_number_undoes_a_plain_hash_and_not_ours() -> None:
    secret_number = "+33639984711"
    everyone = [f"+3363998{number:04d}" for number in range(10_000)]

    def plain(message: str) -> str:
        return hashlib.sha256(message.encode()).hexdigest()

    stolen = plain(secret_number)
    assert [number for number in everyone if plain(number) == stolen] == [secret_number]

    ours = pseudonym(secret_number, SecretStr(GIVEN))
    guesses = (b"", b"patient", GIVEN.encode(), KEY_VARIABLE.encode())
    attempts = {
        attempt[: len(ours)]
        for number in everyone
        for message in (number, f"patient/{number}")
        for attempt in (
            plain(message),
            *(hmac.new(guess, message.encode(), hashlib.sha256).hexdigest() for guess in guesses),
        )
    }
    assert len(attempts) == 100_000
    assert ours not in attempts
    # The holders, who have the key, still find their patient.
    assert [number for number in everyone if pseudonym(number, SecretStr(GIVEN)) == ours] == [secret_number]


def test_another_key_makes_another_pseudonym() -> None:
    ours, theirs = pseudonym("x", SecretStr(GIVEN)), pseudonym("x", SecretStr(GIVEN[::-1]))
    assert ours != theirs
    assert len(ours) == len(theirs) == 32


@pytest.mark.parametrize("value", ["1111111111111", "1999999999999", "184051234500121", "184051234", ""])
def test_what_is_no_nir_is_no_key(value: str) -> None:
    assert normalise_key(value, "nir") is None


@pytest.mark.parametrize("value", ["1840512345001", "1 84 05 12 345 001 KEY", "1840512345001KEY"])
def test_a_nir_is_the_same_in_all_spellings(value: str) -> None:
    assert normalise_key(value.replace("KEY", f"{97 - 1840512345001 % 97:02d}"), "nir") == "1840512345001"
    assert normalise_key("2 84 05 2a 345 001", "nir") == normalise_key("284052A345001", "nir") == "284052a345001"
