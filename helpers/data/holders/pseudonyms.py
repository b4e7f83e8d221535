"""Keyed pseudonyms: the holders' keys for a patient, made equal and turned into HMACs that nobody else can make."""

import hmac
import re
import secrets
import unicodedata
from collections.abc import Mapping
from typing import Literal

import phonenumbers
from pydantic import SecretStr

from helpers.errors import ConfigError

Kind = Literal["text", "phone", "nir"]
"""How keys are written: any text, phone numbers, or French social security numbers (NIR)."""
KEY_VARIABLE = "PSEUDONYM_KEY"
HEX_KEY = re.compile(r"(?:[0-9a-fA-F]{2}){32,}")
MISSING = """absent acompleter acreer adefinir adeterminer anonyme anonymise anonymous apreciser arenseigner asaisir
aucun aucune autre averifier awaiting baby bebe blank confidential confidentiel dcd deceased decede divers dummy empty
enattente encours err erreur error false faux hidden illisible indisponible inf lost manquant manquante masked masque
missing na nan nat nc nd ne neant newborn newpatient nil nn nobody noid none nonumber nothing nouveaune nouveaupatient
nr ns nsp nul null nulle nv other pending perdu personne provisoire redacted rien sans sansdossier sansid sansipp
sansnumero sansobjet so tba tbc tbd temp temporaire temporary test tobeconfirmed tobedetermined tofollow true unk vide
void vrai"""
GIVEN = """applicable assigned attribue available communique connu data defined defini determine determined dispo
disponible entered file fourni given identifie identified known named nomme onfile precise provided recorded renseigne
specified valide value"""
NOBODY = set(MISSING.split()) | {
    f"{no}{given}{end}"
    for no in ("no", "non", "none", "not", "pas", "un", "in")
    for given in GIVEN.split()
    for end in ("", "e")
}
"""Keys that stand for no key, as `letters_and_digits` leaves them. Whoever shares one would be one patient."""
AROUND = re.compile(
    r"^(?:the|new|patient|ipp|numero|number|nom|name|id|dossier|file|record)|(?:patient|(?<=\D{5})\d{1,3})$"
)
"""What may stand around such a word: patient unknown, numéro inconnu, anonymous 3."""
NOBODY_SHAPE = re.compile(r"x*|0+|([1-9])\1{5,}|err\d{3}")
NIR = re.compile(r"([1-478]\d{4}(?:\d\d|2[ab])\d{6})(\d\d)?")
DASHES = str.maketrans("\u2010\u2011\u2012\u2013\u2014\u2212", "-" * 6)
WHOLE = re.compile(r"(\d+)[.,]0{1,2}")
NUMBER = r"\d[\d\s.,']*"
MONTH = r"(?:janv?|feb|f[eé]vr|mars?|apr|avr|mai|may|juin|juil|jun|jul|aug|ao[uû]t|sept?|oct|nov|d[eé]c)\.?"
DAMAGED = {
    "a number in scientific notation (E+14)": r"[+-]?\d+(?:[.,]\d*e[+-]?|\s*e\s*[+-])\s*\d+",
    "a number with a sign": rf"[+-]\s*{NUMBER}|{NUMBER}-|\(\s*{NUMBER}\)",
    "a number with a decimal mark": r"[\d\s']+[.,][\d\s]+|[\d\s.']+,[\d\s.,]+",
    "a date": rf"(?:\d\d?-)?{MONTH}-\d+|\d\d?-{MONTH}|(?:19|20)\d\d-\d\d-\d\d(?: 00:00:00)?",
    "a sign that no key has": r".*(?:[^\w\s./:#°'’\"|\\@-]|²).*",
}
"""Spellings left by spreadsheets and programs, in which several keys have become one, or one key another."""
MAKE_ONE = 'python -c "import secrets; print(secrets.token_hex(32))"'


def read_key(environment: Mapping[str, str], *, fictitious: bool) -> SecretStr:
    """The holders' common key, 32 bytes or more in hex digits; `fictitious` records get a throw-away one if need be.

    Raises ConfigError if other records have no key, or the key is too short or not hex; no message shows it.
    """
    given = environment.get(KEY_VARIABLE, "").strip()
    remedy = f"Make one with `{MAKE_ONE}` and write the line '{KEY_VARIABLE}=...' into the file .env; git ignores it."
    if not given:
        if fictitious:
            return SecretStr(secrets.token_hex(32))
        raise ConfigError(f"{KEY_VARIABLE} is not set, and a holder's records are not declared fictitious. {remedy}")
    if not HEX_KEY.fullmatch(given) or len(set(given.lower())) < 8:  # 64 random digits hold 8 different ones
        raise ConfigError(
            f"{KEY_VARIABLE} ({len(given)} characters, not shown) is not 32 random bytes or more in hex. {remedy}"
        )
    return SecretStr(given)


def normalise_key(value: str, kind: Kind = "text", region: str | None = None) -> str | None:
    """One spelling for all spellings of a key, or None where there is no usable key.

    Text keys lose case, accents and separators, phone numbers become E.164 (`region` reads national ones), and a NIR is
    its first 13 characters. Placeholders (`n/a`, `unknown`, zeros, a phone number with one or two different digits)
    and `damaged` keys give None.
    """
    value = whole_number(value)
    if damaged(value, kind):
        return None
    if kind == "phone":
        try:
            number = phonenumbers.parse(value, region)
        except phonenumbers.NumberParseException:
            return None
        two = re.search(r";\s*[\d+]", value)  # numbers, of which the library reads the first
        few = len(set(str(number.national_number))) < 3  # different digits: 00 00 00 00 00, 99 99 99 99 99
        if two or few or not phonenumbers.is_possible_number(number):
            return None
        return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))
    plain = letters_and_digits(value)
    if kind == "nir":
        return None if re.search(r"(\d)\1{7}", plain) else nir(plain)
    nobody = NOBODY_SHAPE.fullmatch(plain) or re.fullmatch(r"#\D*", value.strip())  # 999999, #REF!
    return None if nobody or {plain, AROUND.sub("", plain)} & NOBODY else plain


def whole_number(value: str) -> str:
    """`123` for `123.0`, which programs write beside empty cells; numbers from 2^53 on and other text unchanged."""
    found = WHOLE.fullmatch(value.strip())
    return found[1] if found and int(found[1]) < 2**53 else value


def nir(plain: str) -> str | None:
    """The first 13 characters of a French social security number whose last two, its check, are right or left out.

    `plain`: as `letters_and_digits` leaves it. None for anything else.
    """
    found = NIR.fullmatch(plain)
    if found is None:
        return None
    number = int(found[1].replace("2a", "19").replace("2b", "18"))  # Corsica
    return found[1] if found[2] in (None, f"{97 - number % 97:02d}") else None


def shorn(plain: str) -> str:
    """A key without what one list writes and another leaves out: leading zeros, the last two digits of a NIR."""
    return nir(plain) or plain.lstrip("0")


def damaged(value: str, kind: Kind = "text") -> str:
    """How a program has changed this key, so that it may be another's, or nothing. Other keys do not matter."""
    raised = any(unicodedata.category(character) == "No" for character in value)  # 12² is not 122
    plain = unicodedata.normalize("NFKC", value).translate(DASHES).strip() + "²" * raised
    found = [what for what, shape in DAMAGED.items() if re.fullmatch(shape, plain, re.IGNORECASE | re.DOTALL)]
    if kind == "phone":  # +33 (6) is none
        found = [what for what in found if "E" in what or plain.startswith("-")]
    return found[0] if found else ""


def letters_and_digits(value: str) -> str:
    """What is left of a text without case, accents, spaces and punctuation."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKD", value))).casefold()


def pseudonym(normalised: str, key: SecretStr) -> str:
    """128 bits of HMAC-SHA256 (RFC 2104) in hex digits; without the key, trying all phone numbers finds nobody."""
    secret = bytes.fromhex(key.get_secret_value())
    return hmac.digest(secret, f"patient/{normalised}".encode(), "sha256").hex()[:32]
