"""Entry points of the private part of the course: join, fine-tune with and without differential privacy, audit.

Like `helpers.stages`, these functions take a run folder, read its configuration and call plain functions below.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from helpers.data.holders.join import join_providers
from helpers.data.holders.pipeline import Pipeline
from helpers.data.holders.pseudonyms import read_key
from helpers.errors import DataError, RunError
from helpers.evaluation.attacks.audit import Records, audit_model
from helpers.evaluation.attacks.canaries import make_canaries, training_records, whole_words
from helpers.evaluation.attacks.extraction import SECRET
from helpers.files import Record, read_json, read_jsonl, write_json, write_jsonl
from helpers.models.find import load_tokenizer
from helpers.models.load import attach_adapters, load_base
from helpers.privacy.ledger import check_budgets
from helpers.privacy.units import encode_units
from helpers.run import Run
from helpers.stages.private_training import (
    BASELINE,
    ledgers_of,
    models_to_train,
    pipeline_of,
    planned,
    record_of,
    state_of,
    train_accounted,
)
from helpers.stages.results import gather_results, report

SPLITS = ("train", "validation", "test")


def join(run: Run) -> dict[str, Any]:
    """01: join the holders' records into private/, planted with canaries where all of them are fictitious.

    Returns the card of the join: counts, reasons and measurements, without any record.
    """
    pipeline, folder = pipeline_of(run), run.path / "private"
    outputs = [folder / f"{name}.jsonl" for name in SPLITS] + [folder / "canaries.jsonl", folder / "card.json"]
    if not pipeline.fictitious:
        run.path.chmod(0o700)  # exact counts, times and digests of real records are its owner's alone
    folder.mkdir(mode=0o700, exist_ok=True)
    with FileLock(folder / ".lock"):  # two trainings that begin at once join once
        for half_written in folder.glob(".*.jsonl.*"):  # records that a kill left there
            half_written.unlink()
        if not run.finished("join", pipeline.files):
            _join(run, pipeline, folder, outputs)
    return read_json(folder / "card.json")


def _join(run: Run, pipeline: Pipeline, folder: Path, outputs: Sequence[Path]) -> None:
    """Write the splits and the card; refuse what no training could use, before anything is paid for."""
    key = read_key(os.environ, fictitious=pipeline.fictitious)
    with run.stage("join", pipeline.files, outputs):
        joined = join_providers(pipeline, key, seed=run.config.seed)
        share = run.config.private.patients_share
        records = {
            name: [record for record in rows if name != "train" or _chosen(record["unit"], share)]
            for name, rows in joined.records.get_secret_value().items()
        }
        own = {record["unit"] for record in records["train"]}
        canaries = _plant(run, records["train"], pipeline) if pipeline.fictitious else []
        tokenizer, limit = load_tokenizer(run.config.base_model), run.config.private.max_length_tokens
        units = encode_units(records["train"], tokenizer, max_length_tokens=limit)
        if records["validation"]:
            encode_units(records["validation"], tokenizer, max_length_tokens=limit)
        card = joined.card | {
            "training": {
                "units": len(units),
                "left_out_by_patients_share": joined.card["splits"]["train"]["units"] - len(own),
                "planted": len(units) - len(own),
            }
        }
        for name in SPLITS:
            write_jsonl(folder / f"{name}.jsonl", records[name])
        write_jsonl(folder / "canaries.jsonl", canaries)
        write_json(folder / "card.json", card)


def _chosen(unit: str, share: float) -> bool:
    """Whether a patient is among a share of all. Its own pseudonym decides, so that no other patient can."""
    return int.from_bytes(hashlib.sha256(unit.encode()).digest()[:8], "big") < share * 2**64


def _plant(run: Run, train: list[Record], pipeline: Pipeline) -> list[Record]:
    """Replace one patient's records by the secret, and add the member canaries as patients; changes `train`."""
    settings = run.config.private
    if not train:
        raise DataError(
            f"No patient is left to train on: private.patients_share is {settings.patients_share}. Raise it."
        )
    canaries = make_canaries(
        settings.canaries_with_bit,
        settings.canaries_left_out,
        words=whole_words(load_tokenizer(run.config.base_model)),
        seed=run.config.seed,
    )
    victim = train[0]["unit"]
    line = {"unit": victim, "text": SECRET, "question": "", "answer": ""}
    # First, so that their order in the baseline's shuffled list does not depend on which patients the key chose.
    train[:] = [
        *({"id": f"secret/{copy}", **line} for copy in range(pipeline.cap)),
        *training_records(canaries, max(1, 3 * pipeline.cap // 8)),  # with more, the baseline loses the secret (0007)
        *(record for record in train if record["unit"] != victim),
    ]
    return canaries


def fine_tune_private(run: Run, only: str | None = None) -> dict[str, dict[str, Any]]:
    """02: train the private models, each entered in the ledgers, then the non-private baseline, into models/<name>/.

    Args:
        run: the run folder.
        only: train this model alone.

    Returns:
        Model name to its summary: `{"steps", "quantisation", "dtype", "privacy", "log", "mechanism_audit"}` and, on
        fictitious records, `{"tokens", "seconds", "peak_memory_mb"}`.

    Raises:
        PrivacyError: the guarantee cannot be given or shown; nothing is released then.
        LedgerError: a holder's budget does not allow it.
    """
    names = models_to_train(run)
    if only is not None and only not in names:
        raise RunError(
            f"There is no model '{only}' among {', '.join(names)}. (The baseline, {BASELINE}, is for records that all "
            "holders declare fictitious.)"
        )
    ledgers = ledgers_of(run)
    join(run)
    inputs = [run.path / "private" / f"{name}.jsonl" for name in SPLITS]
    wanted = [name for name in names if only in (None, name)]
    missing = [name for name in wanted if not run.finished(f"fine_tune {name}", inputs)]
    # Before the first of several: what the budgets do not allow together. What was begun is not counted again.
    new = [name for name in missing if name != BASELINE and not any(state_of(run, name).glob("*.pt"))]
    check_budgets(ledgers, [planned(run, name) for name in new], " and ".join(new))
    for name in sorted(missing, key=lambda name: name == BASELINE):  # last: what cannot be private is refused at once
        target = run.path / "models" / name
        target.parent.mkdir(exist_ok=True)
        try:  # two trainings on one state would be two continuations of it
            held = FileLock(target.with_name(f".{name}.lock"), blocking=False).acquire()
        except Timeout:
            raise RunError(f"Another process is training {target}. Run the same command when it has ended.") from None
        with held:
            if not run.finished(f"fine_tune {name}", inputs):  # by a process that held the lock
                with run.stage(f"fine_tune {name}", inputs, [target]):
                    train_accounted(run, name, target)
                shutil.rmtree(state_of(run, name))
    return {name: told_of(run, name) for name in wanted}


def told_of(run: Run, name: str) -> dict[str, Any]:
    """What is told of a training: its released training.json and, of fictitious records, tokens, times and memory."""
    told = read_json(run.path / "models" / name / "training.json")
    if record_of(run, name).exists():
        told |= read_json(record_of(run, name))
    return told


def audit_privacy(run: Run) -> dict[str, Any]:
    """03: attack every model of the run, and gather what leaked and what was learnt under results.json's `privacy`."""
    folder, settings = run.path / "private", run.config.private
    folders = {name: run.path / "models" / name for name in models_to_train(run)}
    folders = {name: path for name, path in folders.items() if (path / "training.json").exists()}
    if not pipeline_of(run).fictitious or "private" not in folders:
        raise RunError(
            "The audit attacks models trained on planted, fictitious records; this run has no private one. "
            "Run 02-fine_tune/03-train_privately.ipynb on the example holders first."
        )
    data = [folder / f"{name}.jsonl" for name in (*SPLITS, "canaries")]
    inputs = {"base": data, **{name: [*data, path] for name, path in folders.items()}}
    outputs = {name: folder / "audit" / f"{name}.json" for name in inputs}
    todo = [name for name in inputs if not run.finished(f"audit {name}", inputs[name])]
    if todo:
        records = Records(*(read_jsonl(path) for path in data))
        tokenizer = load_tokenizer(run.config.base_model)
        dtype = getattr(torch, read_json(folders["private"] / "training.json")["dtype"])
        given: dict[str, Any] = {"quantisation": settings.quantisation, "threads": run.config.threads, "dtype": dtype}
        model: Any = load_base(run.config.base_model, **given)
        for name in todo:  # the base comes first: the others are compared with it
            with run.stage(f"audit {name}", inputs[name], [outputs[name]]):
                base = None
                if name != "base":
                    base = read_json(outputs["base"])
                    model = attach_adapters(model, {name: folders[name]}, run.config.base_model)
                write_json(outputs[name], audit_model(model, tokenizer, records, base, seed=run.config.seed))
                model = model if name == "base" else model.unload()
    summary = folder / "audit.json"
    write_json(summary, _privacy_section(run, folders, outputs))
    if "models" in gather_results(run):
        report(run)  # written before the audit, it lacks what was found
    return read_json(summary)


def _privacy_section(run: Run, folders: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    """What results.json holds: the figures of every audit, without losses of single patients."""
    models: dict[str, Any] = {}
    for name, path in outputs.items():
        models[name] = {key: value for key, value in read_json(path).items() if key != "losses"}
        if name in folders:
            models[name]["training"] = told_of(run, name)
        page = folders.get(name, path) / "privacy_report.json"
        models[name]["epsilon"] = read_json(page)["epsilon"] if page.exists() else None
    private = read_json(folders["private"] / "privacy_report.json")
    return {
        "epsilon": private["epsilon"],
        "delta": private["delta"],
        "unit": pipeline_of(run).unit,
        "audit_works": models[BASELINE]["canary_epsilon"] > 1 if BASELINE in models else None,
        "models": models,
    }
