"""One accounted training: reserve its cost, train, verify, commit, release; or the non-private twin, noted as such.

Between any two of these a process may be killed; the same command goes on, spends nothing twice and releases nothing
that was not verified. Read by `helpers.private_stages`, the door.
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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.config import WITHOUT_EFFECT
from helpers.errors import PrivacyError, RunError
from helpers.files import Record, read_json, read_jsonl, sha256, sync, write_atomic, write_json
from helpers.private_plan import (
    TWIN,
    check_trainable,
    ledgers_of,
    pipeline_of,
    planned,
    require_fictitious,
    units_to_train,
)
from helpers.run import Run

if TYPE_CHECKING:
    from helpers.dataset.pipeline import Pipeline
    from helpers.privacy.accounting import Plan
    from helpers.privacy.ledger import Ledger
    from helpers.privacy.private import Trained


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


def train_accounted(run: Run, name: str, target: Path, carried: float) -> None:
    """Reserve, train, verify, commit, release; each can be cut off by a kill and goes on with the same command.

    Args:
        run: with its records joined.
        name: of the model.
        target: the folder it is released into.
        carried: what `helpers.privacy.dry_run` measured, for the report.
    """
    from helpers.privacy import ledger, release

    pipeline = pipeline_of(run)
    if name == TWIN:
        require_fictitious(pipeline)
    else:
        check_trainable(run)
    part, states = target.with_name(f".{name}.part"), target.with_name(f".{name}.state")
    for half_written in states.glob(".*.pt.*"):  # by a kill; it would be a second continuation of one state
        half_written.unlink()
    plan = _begun(states, planned(run, name)) if name != TWIN else None
    chosen = _settings(run, plan)
    identity = _identity(run, chosen)
    ledgers, who = ledgers_of(run), f"{run.path.name}/{name}"
    if not _released(target, identity, plan, ledgers):  # else by a run that was killed before the manifest was written
        found = sorted(states.glob("*.pt"))
        spend_id = found[0].stem if found else uuid.uuid4().hex
        state = states / f"{spend_id}.pt"
        if not found:
            states.mkdir(mode=0o700, exist_ok=True)
            if plan is not None:
                write_json(states / "plan.json", asdict(plan))
            write_atomic(state, b"")  # before the books: a kill between the two leaves no spend that nobody knows
        if plan is None:
            ledger.record_unbounded(ledgers, spend_id, who)
        elif ledger.reserve(ledgers, spend_id, who, plan.epsilon, plan.delta) == "committed" and not _belongs(
            part, identity, spend_id
        ):
            raise PrivacyError(
                f"The training {spend_id} has ended, but its result in {part} is gone. Its last steps may not be drawn "
                f"again for the same ε. Delete {states} to train anew, at a new cost."
            )
        noted = states / "carried.json"
        if not _belongs(part, identity, spend_id):
            # Each machine that computes some of the steps rounds in its own way; the report has the worst of them.
            before = read_json(noted)["carried"] if noted.exists() else 0.0
            write_json(noted, {"carried": max(carried, before)})
            shutil.rmtree(part, ignore_errors=True)  # what a kill left half-written
            part.mkdir(mode=0o700)  # not released yet, and never if its spend is refused
            _fit(run, name, part, state, plan, chosen, identity, spend_id)
        report = None
        if plan is not None:
            weights = sha256(part / "adapter_model.safetensors")
            ledger.commit(ledgers, spend_id, plan.epsilon, plan.delta, weights)
            report = _report(run, part, plan, pipeline, spend_id, ledgers, weights, read_json(noted)["carried"])
        release.release(part, target, report)
    shutil.rmtree(states, ignore_errors=True)


def _begun(states: Path, fresh: Plan) -> Plan:
    """The plan with which a training began that goes on now, where it is `fresh` but for the last digits.

    Processors differ in these, and books and checkpoint hold those of the first.
    """
    from helpers.privacy.accounting import LAST_DIGITS

    path = states / "plan.json"
    if not path.exists():
        return fresh
    noted = read_json(path)
    kept = replace(fresh, noise_multiplier=noted["noise_multiplier"], spent=replace(fresh.spent, **noted["spent"]))
    pairs = zip(
        (kept.noise_multiplier, kept.spent.prv, kept.spent.pld),
        (fresh.noise_multiplier, fresh.spent.prv, fresh.spent.pld),
        strict=True,
    )
    same = asdict(kept) == noted and kept.delta == fresh.delta
    return kept if same and all(math.isclose(*pair, rel_tol=LAST_DIGITS) for pair in pairs) else fresh


def _report(
    run: Run,
    part: Path,
    plan: Plan,
    pipeline: Pipeline,
    spend_id: str,
    ledgers: Sequence[Ledger],
    weights: str,
    carried: float,
) -> dict[str, Any]:
    from helpers.privacy.release import privacy_report

    return privacy_report(
        epsilon=plan.epsilon, delta=plan.delta,
        accountants={"PRV (Opacus)": plan.spent.prv, "PLD (dp-accounting)": plan.spent.pld},
        unit=pipeline.unit, units=plan.units, steps=plan.steps, sample_rate=plan.sample_rate,
        noise_multiplier=plan.noise_multiplier, max_grad_norm=run.config.private.max_grad_norm, cap=pipeline.cap,
        not_finite=read_json(part / "evidence.json")["not_finite"] if pipeline.fictitious else 0,
        spend_id=spend_id, ledger_heads={each.holder: each.head() for each in ledgers},
        fictitious=pipeline.fictitious, joined=read_json(run.path / "private" / "card.json")["touched"],
        adapter_sha256=weights, carried=carried,
    )  # fmt: skip


def _identity(run: Run, chosen: dict[str, Any]) -> str:
    """Digest of the training file and of what decides the result, salted: nobody can compare it with guesses.

    The file's bytes are hashed and no record is read: that comes after its cost is reserved.
    """
    from helpers.privacy.private import MECHANISM

    deciding = {key: value for key, value in chosen.items() if key not in WITHOUT_EFFECT["private"]}
    content = json.dumps([MECHANISM, sha256(run.path / "private" / "train.jsonl"), deciding], sort_keys=True)
    return hmac.new((run.path / "private" / "salt").read_bytes(), content.encode(), "sha256").hexdigest()


def _released(target: Path, identity: str, plan: Plan | None, ledgers: Sequence[Ledger]) -> bool:
    """Whether this very training was released before, as every holder's ledger has it.

    Raises:
        PrivacyError: a private model lies there that is another's, lost its report or was altered. To train over it
            would spend anew without a word.
    """
    if not target.exists() or plan is None:
        return _belongs(target, identity)
    path = target / "privacy_report.json"
    report = read_json(path) if path.exists() and path.with_suffix(".html").exists() else {"spend_id": "none"}
    paid = ("commit", report["spend_id"], report.get("epsilon"), report.get("delta"), report.get("adapter_sha256"))
    if _belongs(target, identity, report["spend_id"]) and all(
        paid in {(each.kind, each.spend_id, each.epsilon, each.delta, each.note) for each in ledger.entries()}
        for ledger in ledgers
    ):
        return True
    raise PrivacyError(
        f"{target} holds a model that these records, settings and code did not make, or one that lost its report or "
        "was altered since. Move it away to train anew, at a new cost, or choose another RUN folder."
    )


def _belongs(folder: Path, identity: str, spend_id: str | None = None) -> bool:
    """Whether a folder holds a finished training on these records with these settings, its weights as they were."""
    path, weights = folder / "training.json", folder / "adapter_model.safetensors"
    if not path.exists() or not weights.exists():
        return False
    told = read_json(path)
    return (
        told["identity"] == identity
        and told["adapter_sha256"] == sha256(weights)
        and spend_id in (None, told["spend_id"])
    )


def _settings(run: Run, plan: Plan | None) -> dict[str, Any]:
    """What decides the trained weights, but for the records."""
    settings, lora = run.config.private, run.config.lora
    return {
        "base_name": run.config.base_model, "quantisation": settings.quantisation,
        "noise_multiplier": None if plan is None else plan.noise_multiplier,
        "max_grad_norm": settings.twin_max_grad_norm if plan is None else settings.max_grad_norm,
        "steps": settings.steps, "sample_rate": min(1.0, settings.patients_a_step / units_to_train(run)),
        "rank": settings.rank, "alpha": settings.alpha, "dropout": lora.dropout,
        "target_modules": lora.target_modules, "physical_rows": settings.physical_rows,
        "learning_rate": settings.twin_learning_rate if plan is None else settings.learning_rate,
        "max_length_tokens": settings.max_length_tokens, "gradient_checkpointing": settings.gradient_checkpointing,
        "checkpoints": settings.checkpoints, "seed": run.config.seed,
    }  # fmt: skip


def _fit(
    run: Run,
    name: str,
    part: Path,
    state: Path,
    plan: Plan | None,
    chosen: dict[str, Any],
    identity: str,
    spend_id: str,
) -> None:
    """Train into `part`; its training.json, written last, says that the adapter there was verified."""
    from helpers.privacy.private import train_units
    from helpers.privacy.release import verify
    from helpers.run import measured

    fictitious, scores = pipeline_of(run).fictitious, run.config.private.scores
    records = run.path / "private" / "train.jsonl"
    train = read_jsonl(records)
    if _identity(run, chosen) != identity:
        raise RunError(
            f"{records} was replaced while its cost was reserved. Delete {state.parent} and run the same command "
            "again; what was reserved stays spent."
        )
    validation = read_jsonl(run.path / "private" / "validation.jsonl") if fictitious else []
    with measured() as cost:
        trained = train_units(
            state, identity=identity, records=train, threads=run.config.threads, title=name, **chosen,
            score=partial(_heldout_loss, records=validation) if fictitious else None, scores=scores,
        )  # fmt: skip
    if plan is not None:
        verify(
            trained.evidence, units=plan.units, steps=plan.steps, sample_rate=plan.sample_rate,
            noise_multiplier=plan.noise_multiplier, max_grad_norm=chosen["max_grad_norm"],
            epsilon=plan.epsilon, delta=plan.delta,
            sizes=[p.numel() for p in trained.model.parameters() if p.requires_grad],
        )  # fmt: skip
    _save(part, trained, run.config.base_model, with_best=plan is None)
    for inner in part.rglob("*"):
        if inner.is_file():
            sync(inner)  # whole on disk before training.json says so
    told: dict[str, Any] = {
        "identity": identity,
        "spend_id": spend_id,
        "adapter_sha256": sha256(part / "adapter_model.safetensors"),
        "steps": chosen["steps"],
        "quantisation": chosen["quantisation"],
        "privacy": None if plan is None else {"epsilon": plan.epsilon, "delta": plan.delta},
    }
    if fictitious:  # of real records, losses and who was drawn would be one more look
        write_json(part / "evidence.json", asdict(trained.evidence))
        told |= {
            "tokens": trained.tokens,
            "log": trained.log,
            "step_seconds": trained.seconds / chosen["steps"],
            **cost,
        }
    write_json(part / "training.json", told)


def _heldout_loss(model: Any, tokenizer: Any, *, records: Sequence[Record]) -> float:
    from helpers.evaluation.likelihood import mean_loss

    return mean_loss(model, tokenizer, records)


def _save(part: Path, trained: Trained, base_name: str, *, with_best: bool) -> None:
    import torch

    from helpers.models import save_adapter

    save_adapter(part, trained.model, trained.tokenizer, base_name)
    if with_best and trained.best:
        with torch.no_grad():
            for name, weight in trained.model.named_parameters():
                if name in trained.best:
                    weight.copy_(trained.best[name])
        save_adapter(part / "best", trained.model, trained.tokenizer, base_name)
