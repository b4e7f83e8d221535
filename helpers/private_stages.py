"""The door to the private half of the course: join, fine-tune with and without differential privacy, audit.

Like `helpers.stages`, these functions take a run folder, read its configuration and call plain functions below.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dotenv import load_dotenv

from helpers.config import PROJECT_ROOT
from helpers.errors import PrivacyError, RunError
from helpers.files import Record, read_json, read_jsonl, write_atomic, write_json, write_jsonl
from helpers.run import Run

if TYPE_CHECKING:
    from helpers.dataset.pipeline import Pipeline
    from helpers.training.accounting import Plan
    from helpers.training.ledger import Ledger
    from helpers.training.private import Trained

SPLITS = ("train", "validation", "test")
TWIN = "non_private"
BEST = "non_private_best"


def pipeline_of(run: Run) -> Pipeline:
    """The pipeline of private records that the configuration names, checked."""
    from helpers.dataset.pipeline import load_pipeline

    return load_pipeline(run.config.private.pipeline)


def join(run: Run) -> dict[str, Any]:
    """01: join the holders' records into private/, planted with canaries where all of them are fictitious.

    Returns:
        The card of the join: counts, reasons and measurements, without any record.
    """
    from helpers.dataset.join import join_providers
    from helpers.dataset.pseudonyms import read_key

    pipeline, folder = pipeline_of(run), run.path / "private"
    outputs = [folder / f"{name}.jsonl" for name in SPLITS] + [folder / "canaries.jsonl", folder / "card.json"]
    if not run.finished("join", pipeline.files):
        with run.stage("join", pipeline.files, outputs):
            load_dotenv(PROJECT_ROOT / ".env")
            key = read_key(os.environ, fictitious=pipeline.fictitious)
            joined = join_providers(pipeline, key, seed=run.config.seed)
            records = joined.records.get_secret_value()
            canaries = _plant(run, records["train"], pipeline) if pipeline.fictitious else []
            for name in SPLITS:
                write_jsonl(folder / f"{name}.jsonl", records[name])
            write_jsonl(folder / "canaries.jsonl", canaries)
            write_json(folder / "card.json", joined.card)
    return read_json(folder / "card.json")


def _plant(run: Run, train: list[Record], pipeline: Pipeline) -> list[Record]:
    """Add the secret to one patient's records and the member canaries as patients of their own, in place."""
    from helpers.evaluation.canaries import make_canaries, training_records, whole_words
    from helpers.evaluation.extraction import SECRET
    from helpers.models import load_tokenizer

    settings = run.config.private
    canaries = make_canaries(
        settings.canary_coins,
        settings.canaries_out,
        words=whole_words(load_tokenizer(run.config.base_model)),
        seed=run.config.seed,
    )
    victim = train[0]["unit"]
    train[:] = [record for record in train if record["unit"] != victim]
    line = {"unit": victim, "text": SECRET, "question": "", "answer": ""}
    train += [{"id": f"secret/{copy}", **line} for copy in range(pipeline.cap)]
    train += training_records(canaries, pipeline.cap)
    return canaries


def models_to_train(run: Run) -> dict[str, float | None]:
    """Name to target ε of every model to train; None where the noise is given, or there is none (the twin)."""
    settings = run.config.private
    further = {f"private_{epsilon:g}": epsilon for epsilon in settings.further_epsilons}
    twin = {TWIN: None} if pipeline_of(run).fictitious else {}
    return {**twin, "private": settings.target_epsilon, **further}


def ledgers_of(run: Run) -> list[Ledger]:
    """The spend ledger of each holder; begun with what the holder grants in the pipeline."""
    from helpers.training.ledger import open_ledger

    folder, opened = run.config.private.ledgers, []
    for holder in pipeline_of(run).holders:
        if holder.grant is None:
            raise PrivacyError(
                f"The holder '{holder.name}' grants no budget, so nothing may be trained on its patients' records. "
                "Let it write 'grant: {epsilon: ..., delta: ...}' into the pipeline."
            )
        opened.append(open_ledger(folder, holder.name, epsilon=holder.grant.epsilon, delta=holder.grant.delta))
    return opened


def plan_of(run: Run, name: str = "private") -> Plan:
    """What a private training will cost, computed before it begins."""
    from helpers.training.accounting import plan

    settings = run.config.private
    join(run)
    units = len({record["unit"] for record in read_jsonl(run.path / "private" / "train.jsonl")})
    return plan(
        units,
        settings.steps,
        min(1.0, settings.patients_a_step / max(1, units)),
        target_epsilon=models_to_train(run)[name],
        noise_multiplier=settings.noise_multiplier,
        delta=settings.delta,
    )


def fine_tune_private(run: Run, only: str | None = None) -> dict[str, dict[str, Any]]:
    """02: train the non-private twin and the private models into models/<name>/, each with its books kept.

    Args:
        run: the run folder.
        only: train this model alone.

    Returns:
        Model name to its summary: `{"steps", "tokens", "seconds", "peak_memory_mb", "log", "privacy"}`.

    Raises:
        PrivacyError: the guarantee cannot be given or shown; nothing is released then.
        LedgerError: a holder's budget does not allow it.
    """
    pipeline = pipeline_of(run)
    if only == TWIN and not pipeline.fictitious:
        real = ", ".join(holder.name for holder in pipeline.holders if not holder.fictitious)
        raise PrivacyError(
            f"{real} did not declare its records fictitious, so no model is trained on them without privacy. "
            "Train the private one; the twin is for invented records only."
        )
    names = models_to_train(run)
    if only is not None and only not in names:
        raise RunError(f"There is no model '{only}' among {', '.join(names)}.")
    join(run)
    inputs = [run.path / "private" / f"{name}.jsonl" for name in SPLITS]
    summaries = {}
    for name in names:
        target = run.path / "models" / name
        if only in (None, name):
            if not run.finished(f"fine_tune {name}", inputs):
                with run.stage(f"fine_tune {name}", inputs, [target]):
                    _train(run, name, target, pipeline)
            summaries[name] = read_json(target / "training.json")
    return summaries


def _train(run: Run, name: str, target: Path, pipeline: Pipeline) -> None:
    """Reserve, train, verify, commit, release; each can be cut off by a kill and goes on with the same command."""
    from helpers.training import ledger, release

    part = target.with_name(f".{name}.part")
    plan = plan_of(run, name) if name != TWIN else None
    train = read_jsonl(run.path / "private" / "train.jsonl")
    chosen = _settings(run, plan, units=len({record["unit"] for record in train}))
    identity = hashlib.sha256(json.dumps([train, chosen], sort_keys=True).encode()).hexdigest()
    if _belongs(target, identity):
        return  # released by a run that a kill ended before the manifest was written
    ledgers, who = ledgers_of(run), f"{run.path.name}/{name}"
    states = sorted(part.glob("*.pt"))
    spend_id = states[0].stem if states else uuid.uuid4().hex
    state = part / f"{spend_id}.pt"
    if not states:
        write_atomic(state, b"")  # before the books: a kill between the two leaves no spend that nobody knows
    if plan is None:
        ledger.record_unbounded(ledgers, spend_id, who)
    else:
        ledger.reserve(ledgers, spend_id, who, plan.epsilon, plan.delta)
    if not _belongs(part, identity):
        _fit(run, name, part, state, plan, train, chosen, identity)
    report = None
    if plan is not None:
        ledger.commit(ledgers, spend_id, plan.epsilon, plan.delta)
        report = release.privacy_report(
            epsilon=plan.epsilon, delta=plan.delta, epsilon_check=plan.spent.pld, units=plan.units, steps=plan.steps,
            sample_rate=plan.sample_rate, noise_multiplier=plan.noise_multiplier,
            max_grad_norm=run.config.private.max_grad_norm, cap=pipeline.cap,
            not_finite=read_json(part / "evidence.json")["not_finite"] if pipeline.fictitious else 0,
            spend_id=spend_id, ledger_heads={each.holder: each.head() for each in ledgers},
            fictitious=pipeline.fictitious, joined=read_json(run.path / "private" / "card.json")["touched"],
        )  # fmt: skip
    write_atomic(state, b"")  # the last checkpoint was never meant for release; its name goes with it
    release.release(part, target, report)
    (target / state.name).unlink()


def _belongs(folder: Path, identity: str) -> bool:
    """Whether a folder holds a finished training on these records with these settings."""
    path = folder / "training.json"
    return path.exists() and read_json(path)["identity"] == identity


def _settings(run: Run, plan: Plan | None, units: int) -> dict[str, Any]:
    """What decides the trained weights, but for the records."""
    settings, lora = run.config.private, run.config.lora
    return {
        "base_name": run.config.base_model, "quantisation": settings.quantisation,
        "noise_multiplier": None if plan is None else plan.noise_multiplier,
        "max_grad_norm": None if plan is None else settings.max_grad_norm,
        "steps": settings.steps, "sample_rate": min(1.0, settings.patients_a_step / max(1, units)),
        "rank": settings.rank, "alpha": 2.0 * settings.rank, "dropout": lora.dropout,
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
    train: list[Record],
    chosen: dict[str, Any],
    identity: str,
) -> None:
    """Train into `part`; its training.json, written last, says that the adapter there was verified."""
    from helpers.run import measured
    from helpers.training.private import train_units
    from helpers.training.release import verify

    fictitious, scores = pipeline_of(run).fictitious, run.config.private.scores
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
            values=sum(p.numel() for p in trained.model.parameters() if p.requires_grad),
        )  # fmt: skip
    _save(part, trained, run.config.base_model, with_best=plan is None)
    told = {"identity": identity, "steps": chosen["steps"], "step_seconds": trained.seconds / chosen["steps"], **cost}
    if fictitious:  # on real records, tokens, losses and how often somebody was drawn would be one more look
        write_json(part / "evidence.json", asdict(trained.evidence))
        told |= {"tokens": trained.tokens, "log": trained.log}
    privacy = None if plan is None else {"epsilon": plan.epsilon, "delta": plan.delta}
    write_json(part / "training.json", {**told, "quantisation": chosen["quantisation"], "privacy": privacy})


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


def audit_privacy(run: Run) -> dict[str, Any]:
    """03: attack every model of the run, and gather what leaked and what was learnt under results.json's `privacy`."""
    from helpers.evaluation.privacy_audit import audit_model
    from helpers.models import attach_adapters, load_base, load_tokenizer
    from helpers.stages import gather_results

    folder, settings = run.path / "private", run.config.private
    folders = {name: run.path / "models" / name for name in models_to_train(run)}
    folders = {name: path for name, path in folders.items() if (path / "training.json").exists()}
    if not pipeline_of(run).fictitious or not folders:
        raise RunError(
            "The audit attacks models trained on planted, fictitious records; this run has none. "
            "Run 02-fine_tune/03-train_privately.ipynb on the example holders first."
        )
    if (folders.get(TWIN, folder) / "best").is_dir():
        folders[BEST] = folders[TWIN] / "best"
    data = [folder / f"{name}.jsonl" for name in (*SPLITS, "canaries")]
    inputs = {"base": data, **{name: [*data, path] for name, path in folders.items()}}
    outputs = {name: folder / "audit" / f"{name}.json" for name in inputs}
    todo = [name for name in inputs if not run.finished(f"audit {name}", inputs[name])]
    if todo:
        *splits, canaries = (read_jsonl(path) for path in data)
        tokenizer = load_tokenizer(run.config.base_model)
        model = load_base(run.config.base_model, quantisation=settings.quantisation, threads=run.config.threads)
        attack = partial(
            audit_model, tokenizer=tokenizer, canaries=canaries, delta=_delta(folders), seed=run.config.seed
        )
        for name in todo:  # the base comes first: the others are compared with it
            with run.stage(f"audit {name}", inputs[name], [outputs[name]]):
                if name != "base":
                    model = attach_adapters(model, {name: folders[name]}, run.config.base_model)
                    model.set_adapter(name)
                home = folders[TWIN] if name == BEST else folders.get(name)
                evidence = read_json(home / "evidence.json") if home else None
                reference = read_json(outputs["base"]) if name != "base" else None
                found = attack(model, *splits, evidence=evidence, reference=reference)
                write_json(outputs[name], found)
                model = model if name == "base" else model.unload()
    summary = folder / "audit.json"
    write_json(summary, _privacy_section(folders, outputs))
    gather_results(run)
    return read_json(summary)


def _delta(folders: dict[str, Path]) -> float:
    """The δ that audits refer to: that of the private models, the same for all of them."""
    reports = [path / "privacy_report.json" for path in folders.values()]
    return float(next((read_json(path)["delta"] for path in reports if path.exists()), 1e-5))


def _privacy_section(folders: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    """What results.json holds: the figures of every audit, without scores of single canaries."""
    models: dict[str, Any] = {}
    for name, path in outputs.items():
        models[name] = {key: value for key, value in read_json(path).items() if key != "scores"}
        if name in folders and (folders[name] / "training.json").exists():
            models[name]["training"] = read_json(folders[name] / "training.json")
        report = folders.get(name, path) / "privacy_report.json"
        models[name]["epsilon"] = read_json(report)["epsilon"] if report.exists() else None
    private = read_json(folders["private"] / "privacy_report.json") if "private" in folders else {}
    return {"epsilon": private.get("epsilon"), "delta": private.get("delta"), "unit": "patient", "models": models}
