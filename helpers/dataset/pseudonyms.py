"""Keyed pseudonyms: the holders' keys for a patient, made equal and turned into HMACs that nobody else can make."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import unicodedata
from collections.abc import Mapping
from typing import Literal

import phonenumbers
from pydantic import SecretStr

from helpers.errors import ConfigError

KEY_VARIABLE = "PSEUDONYM_KEY"
HEX_KEY = re.compile(r"(?:[0-9a-fA-F]{2}){32,}")
NOBODY = {"na", "nan", "nil", "none", "null", "unknown", "inconnu", "inconnue", "anonymous", "anonyme", "missing"}
"""Keys that stand for no key. Whoever shares one would be one patient, protected as one."""
MAKE_ONE = 'python -c "import secrets; print(secrets.token_hex(32))"'


def read_key(environment: Mapping[str, str], *, fictitious: bool) -> SecretStr:
    """The holders' common key, 32 bytes or more in hex digits; it is never written anywhere.

    Args:
        environment: usually `os.environ`.
        fictitious: whether every holder declares its records invented; only then may a throw-away key serve.

    Raises:
        ConfigError: the key is missing, too short or not hex; the message does not show it.
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


def normalise_key(value: str, kind: Literal["text", "phone"] = "text", region: str | None = None) -> str | None:
    """One spelling for all spellings of a key, or None where there is no usable key.

    `text` keeps letters and digits only, without case or accents. `phone` becomes international
    (E.164), so that `06 39 98 12 34` read in region FR equals `+33639981234` and `0033 6 39 98 12 34`.
    What stands for no key (`n/a`, `unknown`, zeros, a phone number of one or two digits) is none.
    """
    if kind == "phone":
        try:
            number = phonenumbers.parse(value, region)
        except phonenumbers.NumberParseException:
            return None
        if not phonenumbers.is_possible_number(number):
            return None
        if len(set(str(number.national_number))) < 3:  # 00 00 00 00 00, 99 99 99 99 99
            return None
        return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))
    plain = letters_and_digits(value)
    return None if not plain or plain in NOBODY or re.fullmatch("x+|00+", plain) else plain


def letters_and_digits(value: str) -> str:
    """What is left of a text without case, accents, blanks and punctuation."""
    plain = "".join(character for character in unicodedata.normalize("NFKD", value) if character.isalnum())
    return plain.casefold()


def pseudonym(normalised: str, key: SecretStr) -> str:
    """HMAC-SHA256 (RFC 2104) of a normalised key: its first 128 bits as 32 hex digits.

    An unkeyed hash of a phone number falls to trying every number; this falls only with the key.
    """
    secret = bytes.fromhex(key.get_secret_value())
    return hmac.new(secret, f"patient/{normalised}".encode(), hashlib.sha256).hexdigest()[:32]
