"""Ledgers of a holder whose key the tests hold, and trainings so cheap that many of them are composed at once."""

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from helpers.privacy.accounting import Cost
from helpers.privacy.grants import Grant, sign
from helpers.privacy.ledger import Ledger, open_ledger

KEY = Ed25519PrivateKey.from_private_bytes(b"the key of a holder in the tests")
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"the key of whoever trains models")
CHEAP = Cost(noise_multiplier=50.0, sample_rate=1.0, steps=1, delta=1e-5, prv=0.03, pld=0.02)
FIELDS: dict[str, Any] = {
    "holder": "hospital",
    "ledger": "hospital-2026",
    "serial": 1,
    "unit": "patient",
    "patient_key": {"column": "mobile", "kind": "phone", "region": "FR"},
    "fictitious": False,
    "epsilon": 10.0,
    "delta": 1e-5,
    "note": "board of 3 May",
}


def granted(key: Ed25519PrivateKey = KEY, **changes: Any) -> Grant:
    return sign(Grant.model_validate(FIELDS | changes), key)


def opened(folder: Path, holder: str = "hospital", **changes: Any) -> Ledger:
    return open_ledger(folder, granted(holder=holder, **changes), begin=True)
