"""What a holder allows all trainings on its patients to cost together, signed with the holder's own key (Ed25519).

The holder writes a grant as JSON, the fields of `Grant` but for the last two, and signs it, the key being made at its
first use: `python -m helpers.privacy.grants hospital_grant.json hospital.key`. It keeps the key file to itself; whoever
trains gets the grant and the public key.

The trainer cannot write a grant, enlarge one, or use one for another ledger, holder, unit or definition of the patient
key. Whoever controls the disk can still fill the column that a definition names with other values, or replace the
pipeline's public key together with a new ledger. A holder therefore compares the key in a report with its own.
"""

import argparse
import json
from pathlib import Path
from typing import Annotated, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from helpers.errors import HelpersError, LedgerError
from helpers.files import write_json

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class Grant(BaseModel):
    """A holder's whole budget, in place of the one before; not signed where the last two fields are empty.

    `patient_key` is the pipeline's `key` of the holder, of kind text where it names none; empty where rows belong to
    nobody.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    holder: Name
    ledger: Name
    serial: Annotated[int, Field(ge=1)]
    unit: Literal["patient", "record"]
    patient_key: Annotated[dict[str, str], AfterValidator(lambda key: key and key | {"kind": key.get("kind", "text")})]
    fictitious: bool
    epsilon: Annotated[float, Field(gt=0)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    date: str = ""
    note: str = ""
    public_key: str = ""
    signature: str = ""

    def _signed_text(self) -> bytes:
        return json.dumps(self.model_dump(exclude={"signature"}), sort_keys=True).encode()


def sign(grant: Grant, key: Ed25519PrivateKey) -> Grant:
    """The grant with the holder's public key and signature."""
    named = grant.model_copy(update={"public_key": key.public_key().public_bytes_raw().hex()})
    return named.model_copy(update={"signature": key.sign(named._signed_text()).hex()})


def check_grant(grant: Grant, where: str, *, above: int = 0, **expected: object) -> None:
    """Refuse a grant that is not its holder's, or is for something else; unsigned ones count for fictitious records.

    `where` names, for the message, what the grant is compared with: the last serial, `above`, and `expected` fields.
    Raises LedgerError, naming all that is wrong.
    """
    faults = []
    for name, value in expected.items():
        if getattr(grant, name) != value:
            faults.append(f"{name} is {getattr(grant, name)!r}, {where} has {value!r}")
    if grant.serial <= above:
        faults.append(f"serial is {grant.serial}, {where} has {above} already, and only a higher one replaces it")
    if grant.signature or grant.public_key or not grant.fictitious:
        try:
            public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(grant.public_key))
            public.verify(bytes.fromhex(grant.signature), grant._signed_text())
        except (InvalidSignature, ValueError):
            faults.append("the signature is not valid: the grant is unsigned, forged, or was edited since")
    if faults:
        raise LedgerError(
            f"The grant of {grant.holder} is refused: {'; '.join(faults)}. Put back the pipeline, the ledger and the "
            "grant as they were signed, or ask the holder for a new grant."
        )


def read_grant(path: Path) -> Grant:
    """Read a grant; `check_grant` says whether it counts. Raises LedgerError if the file is missing or no grant."""
    try:
        return Grant.model_validate_json(path.read_text("utf-8-sig"), strict=True)
    except OSError as error:
        raise LedgerError(f"The grant {path} cannot be read: {error}. Ask its holder for the file.") from None
    except UnicodeDecodeError:
        raise LedgerError(f"{path} is no grant: it is not UTF-8 text. Ask its holder for the file.") from None
    except ValidationError as error:
        faults = "; ".join(": ".join([*map(str, each["loc"]), each["msg"]]) for each in error.errors())
        raise LedgerError(f"{path} is no grant: {faults}. Correct it and have its holder sign it.") from None


def holders_key(path: Path) -> Ed25519PrivateKey:
    """Read a holder's private key, or make one for its owner's eyes only. Raises LedgerError if the file is no key."""
    try:
        if not path.exists():
            path.touch(mode=0o600, exist_ok=False)
            path.write_text(Ed25519PrivateKey.generate().private_bytes_raw().hex())
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text()))
    except (OSError, ValueError):  # whose message might show the key
        raise LedgerError(f"{path} is no key of a holder, or cannot be used. Name another file.") from None


def main() -> None:
    """Sign a grant in its file."""
    parser = argparse.ArgumentParser(prog="python -m helpers.privacy.grants", description="Sign a grant as its holder.")
    parser.add_argument("grant", type=Path, help="JSON; 02-fine_tune/README.md has an example")
    parser.add_argument("key", type=Path, help="the holder's private key; made where there is none")
    options = parser.parse_args()
    try:
        grant = sign(read_grant(options.grant), holders_key(options.key))
        write_json(options.grant, grant.model_dump())
    except HelpersError as error:
        parser.error(str(error))
    print(f"Signed. In the pipeline: grant: {{file: {options.grant.name}, public_key: {grant.public_key}}}")


if __name__ == "__main__":
    main()
