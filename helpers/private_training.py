"""One accounted training: make ready, reserve its cost, train, verify, commit, release; or the non-private baseline.

Between any two of these a process may be killed; the same command goes on, spends nothing twice and releases nothing
that was not verified. What depends on who is in the data stays in the run's private/ folder.
"""

from __future__ import annotations

import hmac
import json
import math
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.config import WITHOUT_EFFECT
from helpers.errors import PrivacyError, RunError
from helpers.files import Record, read_json, read_jsonl, sha256, sync, write_atomic, write_json
from helpers.private_plan import (
    BASELINE,
    check_trainable,
    ledgers_of,
    pipeline_of,
    planned,
    recipe_of,
    require_fictitious,
    state_of,
)
from helpers.run import Run

if TYPE_CHECKING:
    from helpers.privacy.accounting import Plan
    from helpers.privacy.ledger import Ledger
    from helpers.privacy.training import Recipe, Trained, Training


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Hold the lock of one model: two trainings on one state would be two continuations of it."""
    from filelock import FileLock, Timeout

    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.with_name(f".{target.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(f"Another process is training {target}. Let it end, then run the same command again.") from None
    try:
        yield
    finally:
        lock.release()


def record_of(run: Run, name: str) -> Path:
    """What is kept of a training inside the trusted boundary: its identity; of fictitious records, who was drawn."""
    return run.path / "private" / "trainings" / f"{name}.json"


def train_accounted(run: Run, name: str, target: Path) -> None:
    """Make ready, reserve, train, verify, commit, release; a kill anywhere goes on with the same command.

    Args:
        run: with its records joined.
        name: of the model.
        target: the folder it is released into.
    """
    from helpers.privacy import ledger, release
    from helpers.privacy.training import Training

    if name == BASELINE:
        require_fictitious(pipeline_of(run))
    else:
        check_trainable(run)
    part, states = target.with_name(f".{name}.part"), state_of(run, name)
    for half_written in states.glob(".*.pt.*"):  # by a kill; it would be a second continuation of one state
        half_written.unlink()
    plan = _begun(states, planned(run, name)) if name != BASELINE else None
    recipe = recipe_of(run, plan)
    identity = _identity(run, recipe)
    ledgers, who = ledgers_of(run), f"{run.path.name}/{name}"
    if not _released(
        run, name, target, identity, plan, ledgers
    ):  # else by a run killed before the manifest was written
        found = sorted(states.glob("*.pt"))
        spend_id = found[0].stem if found else uuid.uuid4().hex
        state = states / f"{spend_id}.pt"
        ended = _belongs(run, name, part, identity, spend_id)
        ready = None if ended else Training(recipe)  # before anything is paid for: this machine may be refused
        if not found:
            states.mkdir(mode=0o700, parents=True, exist_ok=True)
            if plan is not None:
                write_json(states / "plan.json", asdict(plan))
            write_atomic(state, b"")  # before the ledgers: a kill between the two leaves no spend that nobody knows
        standing = ledger.reserve(ledgers, spend_id, who, None if plan is None else plan.cost)
        if standing == "committed" and not ended:
            raise PrivacyError(
                f"The training {spend_id} has ended, but its result in {part} is gone. Its last steps may not be drawn "
                f"again for the same ε. Delete {states} to train anew, at a new cost."
            )
        if ready is not None:
            shutil.rmtree(part, ignore_errors=True)  # what a kill left half-written
            part.mkdir(mode=0o700)  # not released yet, and never if its spend is refused
            _fit(run, name, part, state, plan, ready, identity, spend_id)
        report = None
        if plan is not None:
            weights = sha256(part / "adapter_model.safetensors")
            ledger.commit(ledgers, spend_id, weights)
            report = release.privacy_report(
                plan,
                recipe,
                pipeline_of(run),
                audit=read_json(part / "training.json")["mechanism_audit"],
                spend_id=spend_id,
                ledger_heads={each.holder: each.head() for each in ledgers},
                joined=read_json(run.path / "private" / "card.json")["touched"],
                adapter_sha256=weights,
            )
        release.release(part, target, report)
    shutil.rmtree(states, ignore_errors=True)


def _begun(states: Path, fresh: Plan) -> Plan:
    """Return the saved plan if it equals the new one up to rounding between processors.

    Ledgers and checkpoint hold the last digits of the processor on which the training began.
    """
    from helpers.privacy.accounting import LAST_DIGITS, Spent

    path = states / "plan.json"
    if not path.exists():
        return fresh
    noted = read_json(path)
    kept = replace(fresh, **{**noted, "spent": Spent(**noted["spent"])})
    numbers = [
        (one.noise_multiplier, one.spent.prv, one.spent.pld, one.validation_noise or 0.0) for one in (kept, fresh)
    ]
    near = all(math.isclose(*pair, rel_tol=LAST_DIGITS) for pair in zip(*numbers, strict=True))
    rounded = {"noise_multiplier": 0.0, "spent": None, "validation_noise": None}
    return kept if near and asdict(kept) | rounded == asdict(fresh) | rounded else fresh


def _identity(run: Run, recipe: Recipe) -> str:
    """Digest of the training file and of what decides the result, salted: nobody can compare it with guesses.

    The file's bytes are hashed and no record is read: that comes after its cost is reserved.
    """
    from helpers.privacy.training import MECHANISM

    without_effect = (*WITHOUT_EFFECT["private"], "threads")
    deciding = {key: value for key, value in asdict(recipe).items() if key not in without_effect}
    content = json.dumps([MECHANISM, sha256(run.path / "private" / "train.jsonl"), deciding], sort_keys=True)
    return hmac.new((run.path / "private" / "salt").read_bytes(), content.encode(), "sha256").hexdigest()


def _released(run: Run, name: str, target: Path, identity: str, plan: Plan | None, ledgers: Sequence[Ledger]) -> bool:
    """Whether this very training was released before, as every holder's ledger has it.

    Raises:
        PrivacyError: a private model lies there that is another's, lost its report or was altered. To train over it
            would spend anew without a word.
    """
    if not target.exists() or plan is None:
        return _belongs(run, name, target, identity)
    path = target / "privacy_report.json"
    report = read_json(path) if path.exists() and path.with_suffix(".html").exists() else {"spend_id": "none"}
    paid = (report.get("epsilon"), report.get("delta"), report.get("adapter_sha256"))
    if _belongs(run, name, target, identity, report["spend_id"]) and all(
        ledger.committed(report["spend_id"]) == paid for ledger in ledgers
    ):
        return True
    raise PrivacyError(
        f"{target} holds a model that these records, settings and code did not make, or one that lost its report or "
        "was altered since. Move it away to train anew, at a new cost, or choose another RUN folder."
    )


def _belongs(run: Run, name: str, folder: Path, identity: str, spend_id: str | None = None) -> bool:
    """Whether a folder holds a finished training on these records with these settings, its weights as they were."""
    path, weights = record_of(run, name), folder / "adapter_model.safetensors"
    if not path.exists() or not weights.exists() or not (folder / "training.json").exists():
        return False
    told = read_json(path)
    return (
        told["identity"] == identity
        and told["adapter_sha256"] == sha256(weights)
        and spend_id in (None, told["spend_id"])
    )


def _fit(
    run: Run, name: str, part: Path, state: Path, plan: Plan | None, ready: Training, identity: str, spend_id: str
) -> None:
    """Train into `part`; the record of the training, written last, says that the adapter there was verified."""
    from helpers.privacy.release import verify
    from helpers.run import measured

    fictitious = pipeline_of(run).fictitious
    records = run.path / "private" / "train.jsonl"
    train = read_jsonl(records)
    if _identity(run, ready.recipe) != identity:
        raise RunError(
            f"{records} was replaced while its cost was reserved. Delete {state.parent} and run the same command "
            "again; what was reserved stays spent."
        )
    validation: list[Record] = []
    if plan is None or plan.validation_noise:
        validation = read_jsonl(run.path / "private" / "validation.jsonl")
    with measured() as cost:
        trained = ready.run(state, identity, train, validation, name)
    audit = None if plan is None else verify(trained, plan)
    _save(part, trained, run.config.base_model, with_best=plan is None)
    told: dict[str, Any] = {
        "steps": trained.steps,
        "quantisation": ready.recipe.quantisation,
        "dtype": str(ready.patients.dtype).removeprefix("torch."),
        "privacy": None if plan is None else {"epsilon": plan.epsilon, "delta": plan.delta},
        "log": trained.log,
        "mechanism_audit": audit,
    }
    write_json(part / "training.json", told)
    for inner in part.rglob("*"):
        if inner.is_file():
            sync(inner)  # whole on disk before the record says so
    kept: dict[str, Any] = {
        "identity": identity,
        "spend_id": spend_id,
        "adapter_sha256": sha256(part / "adapter_model.safetensors"),
    }
    if fictitious:  # of real records, who was drawn would be one more look
        kept |= {"times_drawn": trained.times_drawn, "tokens": trained.tokens, **cost}
        kept["step_seconds"] = trained.seconds / trained.steps
    record_of(run, name).parent.mkdir(mode=0o700, exist_ok=True)
    write_json(record_of(run, name), kept)


def _save(part: Path, trained: Trained, base_name: str, *, with_best: bool) -> None:
    import torch

    from helpers.models import save_adapter

    save_adapter(part, trained.model, trained.tokenizer, base_name)
    if with_best and trained.best:
        weights = [weight for weight in trained.model.parameters() if weight.requires_grad]
        with torch.no_grad():
            for weight, best in zip(weights, trained.best, strict=True):
                weight.copy_(best)
        save_adapter(part / "best", trained.model, trained.tokenizer, base_name)
