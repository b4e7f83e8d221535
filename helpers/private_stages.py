"""The door to the private half of the course: join, fine-tune with and without differential privacy, audit.

Like `helpers.stages`, these functions take a run folder, read its configuration and call plain functions below.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dotenv import load_dotenv
from filelock import FileLock

from helpers.config import PROJECT_ROOT
from helpers.errors import DataError, RunError
from helpers.files import Record, read_json, read_jsonl, write_atomic, write_json, write_jsonl
from helpers.private_plan import (
    BASELINE,
    check_budgets,
    check_trainable,
    ledgers_of,
    models_to_train,
    pipeline_of,
    planned,
    require_fictitious,
)
from helpers.private_training import alone, record_of, train_accounted
from helpers.run import Run

if TYPE_CHECKING:
    from pydantic import SecretStr

    from helpers.dataset.pipeline import Pipeline
    from helpers.privacy.accounting import Plan

__all__ = [
    "audit_privacy",
    "fine_tune_private",
    "holders_key",
    "join",
    "ledgers_of",
    "models_to_train",
    "pipeline_of",
    "plan_of",
]

SPLITS = ("train", "validation", "test")
BEST = "non_private_best"
MEASURED = ("tokens", "step_seconds", "seconds", "peak_memory_mb")


def join(run: Run) -> dict[str, Any]:
    """01: join the holders' records into private/, planted with canaries where all of them are fictitious.

    Returns:
        The card of the join: counts, reasons and measurements, without any record.
    """
    load_dotenv(PROJECT_ROOT / ".env")  # the key, and for models of the hub a token
    pipeline, folder = pipeline_of(run), run.path / "private"
    outputs = [folder / f"{name}.jsonl" for name in SPLITS] + [folder / "canaries.jsonl", folder / "card.json"]
    if not pipeline.fictitious:
        run.path.chmod(0o700)  # exact counts, times and digests of real records are its owner's alone
    folder.mkdir(mode=0o700, exist_ok=True)
    with FileLock(folder / ".lock"):  # two trainings that begin at once join once
        for half_written in folder.glob(".*.jsonl.*"):  # records that a kill left there
            half_written.unlink()
        if not (folder / "salt").exists():
            write_atomic(folder / "salt", secrets.token_hex(32))
        if not run.finished("join", pipeline.files):
            _join(run, pipeline, folder, outputs)
    return read_json(folder / "card.json")


def _join(run: Run, pipeline: Pipeline, folder: Path, outputs: Sequence[Path]) -> None:
    """Write the splits and the card; refuse what no training could use, before anything is paid for."""
    from helpers.dataset.join import join_providers
    from helpers.models import load_tokenizer
    from helpers.privacy.units import encode_units

    with run.stage("join", pipeline.files, outputs):
        joined = join_providers(pipeline, holders_key(pipeline), seed=run.config.seed)
        share = run.config.private.patients_share
        records = {
            name: [record for record in rows if name != "train" or _chosen(record["unit"], share)]
            for name, rows in joined.records.get_secret_value().items()
        }
        own = {record["unit"] for record in records["train"]}
        canaries = _plant(run, records["train"], pipeline) if pipeline.fictitious else []
        tokenizer = load_tokenizer(run.config.base_model)
        units = encode_units(records["train"], tokenizer, max_length_tokens=run.config.private.max_length_tokens)
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


def holders_key(pipeline: Pipeline) -> SecretStr:
    """The holders' common key, from the environment or `.env`; a throw-away one where all records are fictitious."""
    from helpers.dataset.pseudonyms import read_key

    load_dotenv(PROJECT_ROOT / ".env")
    return read_key(os.environ, fictitious=pipeline.fictitious)


def _chosen(unit: str, share: float) -> bool:
    """Whether a patient is among a share of all. Its own pseudonym decides, so that no other patient can."""
    return int.from_bytes(hashlib.sha256(unit.encode()).digest()[:8], "big") < share * 2**64


def _plant(run: Run, train: list[Record], pipeline: Pipeline) -> list[Record]:
    """Add the secret to one patient's records and the member canaries as patients of their own, in place."""
    from helpers.evaluation.canaries import make_canaries, training_records, whole_words
    from helpers.evaluation.extraction import SECRET
    from helpers.models import load_tokenizer

    settings = run.config.private
    if not train:
        raise DataError(
            f"No patient is left to train on: private.patients_share is {settings.patients_share}. Raise it."
        )
    canaries = make_canaries(
        settings.canary_coins,
        settings.canaries_out,
        words=whole_words(load_tokenizer(run.config.base_model)),
        seed=run.config.seed,
    )
    victim = train[0]["unit"]
    line = {"unit": victim, "text": SECRET, "question": "", "answer": ""}
    # First of all: what is planted then stands in the baseline's list in the same order, whoever the key chose besides.
    train[:] = [
        *({"id": f"secret/{copy}", **line} for copy in range(pipeline.cap)),
        *training_records(canaries, max(1, 3 * pipeline.cap // 8)),  # more, and the secret is lost among so many
        *(record for record in train if record["unit"] != victim),
    ]
    return canaries


def plan_of(run: Run, name: str = "private") -> Plan:
    """What a private training will cost, computed before it begins."""
    join(run)
    return planned(run, name)


def fine_tune_private(run: Run, only: str | None = None) -> dict[str, dict[str, Any]]:
    """02: train the non-private baseline and the private models into models/<name>/, each entered in the ledgers.

    Args:
        run: the run folder.
        only: train this model alone.

    Returns:
        Model name to its summary: `{"steps", "quantisation", "dtype", "privacy", "log", "mechanism_audit"}` and, on
        fictitious records, `{"tokens", "step_seconds", "seconds", "peak_memory_mb"}`.

    Raises:
        PrivacyError: the guarantee cannot be given or shown; nothing is released then.
        LedgerError: a holder's budget does not allow it.
    """
    pipeline = pipeline_of(run)
    if only == BASELINE:
        require_fictitious(pipeline)
    names = models_to_train(run)
    if only is not None and only not in names:
        raise RunError(f"There is no model '{only}' among {', '.join(names)}.")
    check_trainable(run)  # what is impossible is refused before records are read, trained on or paid for
    ledgers_of(run)
    join(run)
    inputs = [run.path / "private" / f"{name}.jsonl" for name in SPLITS]
    wanted = [name for name in names if only in (None, name)]
    missing = [name for name in wanted if not run.finished(f"fine_tune {name}", inputs)]
    check_budgets(run, [name for name in missing if not (run.path / "models" / name).exists()])
    for name in missing:
        target = run.path / "models" / name
        with alone(target):
            if not run.finished(f"fine_tune {name}", inputs):  # by a process that held the lock
                with run.stage(f"fine_tune {name}", inputs, [target]):
                    train_accounted(run, name, target)
    return {name: told_of(run, name) for name in wanted}


def told_of(run: Run, name: str) -> dict[str, Any]:
    """What is told of a training: its released training.json and, of fictitious records, tokens, times and memory."""
    told = read_json(run.path / "models" / name / "training.json")
    if pipeline_of(run).fictitious and record_of(run, name).exists():
        told |= {key: value for key, value in read_json(record_of(run, name)).items() if key in MEASURED}
    return told


def audit_privacy(run: Run) -> dict[str, Any]:
    """03: attack every model of the run, and gather what leaked and what was learnt under results.json's `privacy`."""
    import torch

    from helpers.evaluation.privacy_audit import audit_model, what_was_learnt
    from helpers.models import attach_adapters, load_base, load_tokenizer
    from helpers.stages import gather_results, report

    folder, settings = run.path / "private", run.config.private
    folders = {name: run.path / "models" / name for name in models_to_train(run)}
    folders = {name: path for name, path in folders.items() if (path / "training.json").exists()}
    if not pipeline_of(run).fictitious or "private" not in folders:
        raise RunError(
            "The audit attacks models trained on planted, fictitious records; this run has no private one. "
            "Run 02-fine_tune/03-train_privately.ipynb on the example holders first."
        )
    if (folders.get(BASELINE, folder) / "best").is_dir():
        folders[BEST] = folders[BASELINE] / "best"
    data = [folder / f"{name}.jsonl" for name in (*SPLITS, "canaries")]
    inputs = {"base": data, **{name: [*data, path] for name, path in folders.items()}}
    outputs = {name: folder / "audit" / f"{name}.json" for name in inputs}
    todo = [name for name in inputs if not run.finished(f"audit {name}", inputs[name])]
    if todo:
        *splits, canaries = (read_jsonl(path) for path in data)
        tokenizer = load_tokenizer(run.config.base_model)
        model = load_base(
            run.config.base_model, quantisation=settings.quantisation, threads=run.config.threads,
            dtype=getattr(torch, read_json(folders["private"] / "training.json")["dtype"]),
        )  # fmt: skip
        attack = partial(
            audit_model, tokenizer=tokenizer, canaries=canaries, delta=_delta(folders), seed=run.config.seed
        )
        for name in todo:  # the base comes first: the others are compared with it
            with run.stage(f"audit {name}", inputs[name], [outputs[name]]):
                if name != "base":
                    model = attach_adapters(model, {name: folders[name]}, run.config.base_model)
                    model.set_adapter(name)
                if name == BEST:  # no attack is made on it: it is what the private model's price is counted from
                    found = what_was_learnt(model, tokenizer, splits[-1])
                else:
                    drawn = read_json(record_of(run, name))["times_drawn"] if name != "base" else None
                    reference = read_json(outputs["base"]) if name != "base" else None
                    found = attack(
                        model, *splits, times_drawn=drawn, chance=_chance_to_be_drawn(run, name), reference=reference
                    )
                write_json(outputs[name], found)
                model = model if name == "base" else model.unload()
    summary = folder / "audit.json"
    write_json(summary, _privacy_section(run, folders, outputs))
    if "models" in gather_results(run):
        report(run)  # written before the audit, it lacks what was found
    return read_json(summary)


def _chance_to_be_drawn(run: Run, name: str) -> float:
    """Chance of a patient to be drawn at all; the baseline takes everybody."""
    if name not in models_to_train(run) or name == BASELINE:
        return 1.0
    plan = planned(run, name)
    return 1 - float((1 - plan.sample_rate) ** plan.steps)


def _delta(folders: dict[str, Path]) -> float:
    """The δ that audits refer to: that of the private models, the same for all of them."""
    reports = [path / "privacy_report.json" for path in folders.values()]
    return float(next((read_json(path)["delta"] for path in reports if path.exists()), 1e-5))


def _privacy_section(run: Run, folders: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    """What results.json holds: the figures of every audit, without scores of single canaries."""
    models: dict[str, Any] = {}
    for name, path in outputs.items():
        if name == BEST:
            continue
        models[name] = {key: value for key, value in read_json(path).items() if key != "scores"}
        if name in folders:
            models[name]["training"] = told_of(run, name)
        report = folders.get(name, path) / "privacy_report.json"
        models[name]["epsilon"] = read_json(report)["epsilon"] if report.exists() else None
    private = read_json(folders["private"] / "privacy_report.json") if "private" in folders else {}
    baseline = models.get(BASELINE)
    return {
        "epsilon": private.get("epsilon"),
        "delta": private.get("delta"),
        "unit": pipeline_of(run).unit,
        "audit_works": baseline["one_run"]["claim"]["refuted"] if baseline else None,
        "models": models,
        BEST: read_json(outputs[BEST]) if BEST in outputs else None,
    }
