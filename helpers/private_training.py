"""One accounted training: reserve its cost, train, verify, commit, release; or the non-private twin, noted as such.

Between any two of these a process may be killed; the same command goes on, spends nothing twice and releases nothing
that was not verified. Read by `helpers.private_stages`, the door.
"""

from __future__ import annotations

import hmac
import json
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.errors import LedgerError, PrivacyError, RunError
from helpers.files import Record, read_json, read_jsonl, sha256, sync, write_atomic, write_json
from helpers.run import Run

if TYPE_CHECKING:
    from helpers.dataset.pipeline import Pipeline
    from helpers.training.accounting import Plan
    from helpers.training.ledger import Ledger
    from helpers.training.private import Trained

TWIN = "non_private"


def pipeline_of(run: Run) -> Pipeline:
    """The pipeline of private records that the configuration names, checked."""
    from helpers.dataset.pipeline import load_pipeline

    return load_pipeline(run.config.private.pipeline)


def models_to_train(run: Run) -> dict[str, float | None]:
    """Name to target ε of every model to train; None where the noise is given, or there is none (the twin)."""
    settings = run.config.private
    further = {f"private_{epsilon:g}": epsilon for epsilon in settings.further_epsilons}
    twin = {TWIN: None} if pipeline_of(run).fictitious else {}
    return {**twin, "private": settings.target_epsilon, **further}


def ledgers_of(run: Run) -> list[Ledger]:
    """The spend ledger of each holder; begun with what the holder grants in the pipeline."""
    from helpers.training.ledger import Ledger, open_ledger, summary

    folder, opened = run.config.private.ledgers, []
    for holder in pipeline_of(run).holders:
        if holder.grant is None:
            raise PrivacyError(
                f"The holder '{holder.name}' grants no budget, so nothing may be trained on its patients' records. "
                "Let it write 'grant: {epsilon: ..., delta: ...}' into the pipeline."
            )
        path = (folder / f"{holder.name}.jsonl").resolve()
        if not path.exists():
            open_ledger(folder, holder.name, epsilon=holder.grant.epsilon, delta=holder.grant.delta)
        ledger = Ledger(path, holder.name)
        # The pipeline's grant begins the books; from then on they count, and only the holder changes them.
        [row] = summary([ledger])
        if row["granted_epsilon"] > holder.grant.epsilon or row["granted_delta"] > holder.grant.delta:
            raise LedgerError(
                f"The pipeline grants less of {holder.name} than its ledger records: ε {holder.grant.epsilon:g} and δ "
                f"{holder.grant.delta:g} instead of {row['granted_epsilon']:g} and {row['granted_delta']:g}. Let the "
                "holder write the lower budget into the ledger with Ledger.grant."
            )
        opened.append(ledger)
    for report in sorted(run.path.parent.glob("*/models/[!.]*/privacy_report.json")):
        heads = read_json(report)["ledgers"]
        for ledger in opened:
            head = heads.get(ledger.holder)
            if head is not None and not ledger.contains(head):
                raise LedgerError(
                    f"The ledger of {ledger.holder} lacks an entry that {report} was committed to: it was cut off, or "
                    "begun anew. Restore it, or set private.ledgers to the folder where it lies."
                )
    return opened


def planned(run: Run, name: str) -> Plan:
    """What a private training will cost, computed before it begins and without a look at the records."""
    from helpers.training.accounting import plan

    settings, units = run.config.private, units_to_train(run)
    return plan(
        units,
        settings.steps,
        min(1.0, settings.patients_a_step / max(1, units)),
        target_epsilon=models_to_train(run)[name],
        noise_multiplier=settings.noise_multiplier if name == "private" else None,
        delta=settings.delta,
    )


def units_to_train(run: Run) -> int:
    """How many patients can be drawn, as the join counted them."""
    return int(read_json(run.path / "private" / "card.json")["training"]["units"])


def require_fictitious(pipeline: Pipeline) -> None:
    """Refuse the twin for records of real people.

    Raises:
        PrivacyError: naming the holders that did not declare theirs invented.
    """
    real = ", ".join(holder.name for holder in pipeline.holders if not holder.fictitious)
    if real:
        raise PrivacyError(
            f"{real} did not declare its records fictitious, so no model is trained on them without privacy. "
            "Train the private one; the twin is for invented records only."
        )


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


def train_accounted(run: Run, name: str, target: Path) -> None:
    """Reserve, train, verify, commit, release; each can be cut off by a kill and goes on with the same command."""
    from helpers.training import ledger, release
    from helpers.training.private_model import check_model

    pipeline = pipeline_of(run)
    if run.config.training_arguments.get("packing"):
        raise PrivacyError(
            "training_arguments.packing is on: it puts records of several patients into one row, where none can be "
            "clipped by itself. Remove it for private training."
        )
    if name == TWIN:
        require_fictitious(pipeline)
    else:
        check_model(
            run.config.base_model, target_modules=run.config.lora.target_modules, dropout=run.config.lora.dropout
        )
    part, states = target.with_name(f".{name}.part"), target.with_name(f".{name}.state")
    plan = planned(run, name) if name != TWIN else None
    chosen = _settings(run, plan)
    # Of the file, not of its records: none of them is read before its cost is reserved.
    identity = _identity(run, [sha256(run.path / "private" / "train.jsonl"), chosen])
    if not _released(target, identity, name):  # else by a run that was killed before the manifest was written
        ledgers, who = ledgers_of(run), f"{run.path.name}/{name}"
        found = sorted(states.glob("*.pt"))
        spend_id = found[0].stem if found else uuid.uuid4().hex
        state = states / f"{spend_id}.pt"
        if not found:
            states.mkdir(mode=0o700, exist_ok=True)
            write_atomic(state, b"")  # before the books: a kill between the two leaves no spend that nobody knows
        if plan is None:
            ledger.record_unbounded(ledgers, spend_id, who)
        elif ledger.reserve(ledgers, spend_id, who, plan.epsilon, plan.delta) == "committed" and not _belongs(
            part, identity
        ):
            raise PrivacyError(
                f"The training {spend_id} has ended, but its result in {part} is gone. Its last steps may not be drawn "
                f"again for the same ε. Delete {states} to train anew, at a new cost."
            )
        if not _belongs(part, identity):
            shutil.rmtree(part, ignore_errors=True)  # what a kill left half-written
            _fit(run, name, part, state, plan, chosen, identity)
        report = None
        if plan is not None:
            weights = sha256(part / "adapter_model.safetensors")
            ledger.commit(ledgers, spend_id, plan.epsilon, plan.delta, weights)
            report = _report(run, part, plan, pipeline, spend_id, ledgers, weights)
        release.release(part, target, report)
    shutil.rmtree(states, ignore_errors=True)


def _report(
    run: Run, part: Path, plan: Plan, pipeline: Pipeline, spend_id: str, ledgers: Sequence[Ledger], weights: str
) -> dict[str, Any]:
    from helpers.training.release import privacy_report

    return privacy_report(
        epsilon=plan.epsilon, delta=plan.delta,
        accountants={"PRV (Opacus)": plan.spent.prv, "PLD (dp-accounting)": plan.spent.pld},
        unit=pipeline.unit, units=plan.units, steps=plan.steps, sample_rate=plan.sample_rate,
        noise_multiplier=plan.noise_multiplier, max_grad_norm=run.config.private.max_grad_norm, cap=pipeline.cap,
        not_finite=read_json(part / "evidence.json")["not_finite"] if pipeline.fictitious else 0,
        spend_id=spend_id, ledger_heads={each.holder: each.head() for each in ledgers},
        fictitious=pipeline.fictitious, joined=read_json(run.path / "private" / "card.json")["touched"],
        adapter_sha256=weights,
    )  # fmt: skip


def _identity(run: Run, value: Any) -> str:
    """A digest that nobody can compare with guesses: it is salted, and the salt stays in the run folder."""
    return hmac.new(
        (run.path / "private" / "salt").read_bytes(), json.dumps(value, sort_keys=True).encode(), "sha256"
    ).hexdigest()


def _released(target: Path, identity: str, name: str) -> bool:
    """Whether this very training was released before.

    Raises:
        PrivacyError: a private model lies there that is another's, lost its report or was altered. To train over it
            would spend anew without a word.
    """
    if not target.exists() or name == TWIN:
        return _belongs(target, identity)
    report = target / "privacy_report.json"
    told = read_json(report)["adapter_sha256"] if report.exists() else None
    weights = target / "adapter_model.safetensors"
    if _belongs(target, identity) and weights.exists() and told == sha256(weights):
        return True
    raise PrivacyError(
        f"{target} holds a model that these records and settings did not make, or one that lost its report or was "
        "altered since. Move it away to train anew, at a new cost, or choose another RUN folder."
    )


def _belongs(folder: Path, identity: str) -> bool:
    """Whether a folder holds a finished training on these records with these settings."""
    path = folder / "training.json"
    return path.exists() and read_json(path)["identity"] == identity


def _settings(run: Run, plan: Plan | None) -> dict[str, Any]:
    """What decides the trained weights, but for the records."""
    settings, lora = run.config.private, run.config.lora
    return {
        "base_name": run.config.base_model, "quantisation": settings.quantisation,
        "noise_multiplier": None if plan is None else plan.noise_multiplier,
        "max_grad_norm": None if plan is None else settings.max_grad_norm,
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
) -> None:
    """Train into `part`; its training.json, written last, says that the adapter there was verified."""
    from helpers.run import measured
    from helpers.training.private import train_units
    from helpers.training.release import verify

    fictitious, scores = pipeline_of(run).fictitious, run.config.private.scores
    records = run.path / "private" / "train.jsonl"
    train = read_jsonl(records)
    if _identity(run, [sha256(records), chosen]) != identity:
        raise RunError(f"{records} was replaced while its cost was reserved. Run the same command again.")
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
            values=sum(p.numel() for p in trained.model.parameters() if p.requires_grad),
        )  # fmt: skip
    _save(part, trained, run.config.base_model, with_best=plan is None)
    for inner in part.rglob("*"):
        if inner.is_file():
            sync(inner)  # whole on disk before training.json says so
    told = {"identity": identity, "steps": chosen["steps"], "quantisation": chosen["quantisation"]}
    told["privacy"] = None if plan is None else {"epsilon": plan.epsilon, "delta": plan.delta}
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

    return mean_loss(model, tokenizer, [record["text"] for record in records])


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
