"""A run's private trainings: planned without a look at records, then reserved, trained, verified, committed, released.

Between any two of these a process may be killed; the same command goes on, spends nothing twice and releases nothing
that was not verified. What depends on who is in the data stays in the run's private/ folder.
"""

import hashlib
import json
import shutil
import uuid
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from helpers.config import WITHOUT_EFFECT
from helpers.data.example import SPLITS, Example, read_examples
from helpers.data.holders.candidates import lookalike_examples
from helpers.data.holders.pipeline import Holder, Pipeline
from helpers.errors import ConfigError, LedgerError, PrivacyError, RunError
from helpers.files import held, read_json, sha256, sync, write_atomic, write_json
from helpers.models.hot_test import QUESTIONS
from helpers.models.load import save_adapter
from helpers.privacy import ledger, release
from helpers.privacy.accounting import Cost, plan
from helpers.privacy.grants import Grant, check_grant, read_grant
from helpers.privacy.ledger import Ledger, check_budgets, open_ledger
from helpers.privacy.training import MECHANISM, Recipe, Training
from helpers.provenance import measured
from helpers.run import Run
from helpers.stages.common import pipeline_of
from helpers.stages.join import join
from helpers.storage import copy_model

BASELINE = "non_private"


def models_to_train(run: Run) -> dict[str, float | None]:
    """Name to target ε of every model to train; None where the noise is given, or there is none (the baseline)."""
    settings = run.config.privacy
    further = {f"private_{epsilon:g}": epsilon for epsilon in settings.further_epsilons}
    baseline = {BASELINE: None} if pipeline_of(run).fictitious else {}
    return {**baseline, "private": settings.target_epsilon, **further}


def ledgers_of(run: Run, *, begin: bool = False) -> list[Ledger]:
    """The spend ledger of each holder, with the newest grant that the pipeline names.

    With `begin`, missing ledgers are created with what the holders grant; those of fictitious records always are. A
    ledger of real records is never created by itself: a lost one would come back with its whole budget. Raises
    LedgerError if a grant is refused, or a ledger missing, damaged, or behind a released model's report, and
    PrivacyError if a holder grants nothing.
    """
    pipeline = pipeline_of(run)
    opened = [
        open_ledger(run.config.privacy.ledgers, _grant_of(pipeline, holder), begin=begin or holder.fictitious)
        for holder in pipeline.holders
    ]
    for report in sorted(run.path.parent.glob("*/models/[!.]*/privacy_report.json")):
        heads = read_json(report)["ledgers"]
        for each in opened:
            if each.holder in heads and not each.contains(heads[each.holder]):
                raise LedgerError(
                    f"The ledger of {each.holder} lacks an entry that {report} was committed to: it was cut off, or "
                    "begun anew. Restore it, or set privacy.ledgers to the folder where it lies. If that run keeps "
                    f"ledgers of its own, move its folder, {report.parents[2].name}, out of {run.path.parent.name}/."
                )
    return opened


def _grant_of(pipeline: Pipeline, holder: Holder) -> Grant:
    """What a holder grants in the pipeline, signed with its key and for these records; refused otherwise."""
    given = holder.grant
    if given is None:
        raise PrivacyError(
            f"The holder '{holder.name}' grants no budget, so nothing may be trained on its patients' records. It "
            "makes a key and signs a grant with 'python -m helpers.privacy.grants hospital_grant.json hospital.key' "
            "(02-fine_tune/README.md has an example), and the pipeline gets 'grant: {file: ..., public_key: ...}'."
        )
    if given.file is None:  # of fictitious records; of others, unsigned ones are refused
        amounts = {"ledger": holder.name, "serial": given.serial, "epsilon": given.epsilon, "delta": given.delta}
        return Grant.model_validate(holder.granting | amounts)
    grant = read_grant(pipeline.path.parent / given.file)
    check_grant(grant, "the pipeline", **holder.granting, public_key=given.public_key)
    return grant


def planned(run: Run, name: str = "private") -> Cost:
    """What a private training will cost, without a look at records. Raises PrivacyError if there is no guarantee."""
    settings, pipeline = run.config.privacy, pipeline_of(run)
    split = pipeline.split
    by_content = f", {sha256(pipeline.path)}" if pipeline.unit == "record" else ""  # columns and masking decide too
    if settings.patients_expected is None:
        raise PrivacyError(
            "privacy.patients_expected is not set. How many patients there are is itself private, so sampling rate, "
            "noise and δ follow from a public figure: write a round number that the holders agree to tell, for "
            "example of their annual reports, into the configuration."
        )
    return plan(
        settings.patients_expected,
        settings.steps,
        min(1.0, settings.patients_a_step / settings.patients_expected),
        target_epsilon=models_to_train(run)[name],
        noise_multiplier=settings.noise_multiplier if name == "private" else None,
        delta=settings.delta,
        scores=settings.scores if split.validation else 0,
        split=f"seed {run.config.seed}, {split.model_dump_json()}" + by_content,
    )


def recipe_of(run: Run, name: str) -> Recipe:
    """What decides the weights of a training, its cost included. Raises PrivacyError for a baseline on real records."""
    real = ", ".join(holder.name for holder in pipeline_of(run).holders if not holder.fictitious)
    if name == BASELINE and real:
        raise PrivacyError(
            f"{real} did not declare its records fictitious, so no model is trained on them without privacy. "
            "Train the private one; the baseline is for invented records only."
        )
    config, cost = run.config, planned(run, name) if name != BASELINE else None
    if unused := [key for key in ("training_arguments", "lora_arguments") if getattr(config, key)]:
        raise ConfigError(f"{unused[0]} has no effect in private training. Empty it and use the section privacy.")
    return Recipe(config.base_model, config.lora.target_modules, config.privacy, cost, config.seed, config.threads)


def state_of(run: Run, name: str) -> Path:
    """The folder of a training under way; like all that depends on who is in the data it lies in private/."""
    return run.home / "state" / name


def fine_tune_private(run: Run, only: str | None = None) -> dict[str, dict[str, Any]]:
    """02: train the private models, each entered in the ledgers, then the non-private baseline, into models/<name>/.

    With `only`, that model alone. Returns model name to `told_of`. Raises PrivacyError if the guarantee cannot be given
    or shown, and LedgerError if a holder's budget does not allow it; that model is not released then.
    """
    names = models_to_train(run)
    if only is not None and only not in names:
        raise RunError(
            f"There is no model '{only}' among {', '.join(names)}. (The baseline, {BASELINE}, is for records that all "
            "holders declare fictitious.)"
        )
    ledgers = ledgers_of(run)
    join(run)
    inputs = [run.home / "dataset" / f"{name}.jsonl" for name in SPLITS]
    wanted = [name for name in names if only in (None, name)]
    missing = [name for name in wanted if not run.finished(f"fine_tune {name}", inputs)]
    for name in {*wanted} - {*missing}:  # a kill may have left the state of a finished training
        shutil.rmtree(state_of(run, name), ignore_errors=True)
    # Before the first of several: what the budgets do not allow together. What was begun is not counted again.
    new = [name for name in missing if name != BASELINE and not any(state_of(run, name).glob("*.pt"))]
    check_budgets(ledgers, [planned(run, name) for name in new], " and ".join(new))
    for name in sorted(missing, key=lambda name: name == BASELINE):  # last: what cannot be private is refused at once
        target = run.path / "models" / name
        with held(target, "training"):  # two trainings on one state would be two continuations of it
            if not run.finished(f"fine_tune {name}", inputs):  # by a process that held the lock
                with run.stage(f"fine_tune {name}", inputs, [target]):
                    train_accounted(run, name, target)
                shutil.rmtree(state_of(run, name))
    for name in wanted:  # when all are trained: a copy that fails stops none of them
        copy_model(run.path / "models" / name, run.config.training.additional_output_paths)
    return {name: told_of(run, name) for name in wanted}


def told_of(run: Run, name: str) -> dict[str, Any]:
    """What is told of a training: `{"steps", "quantisation", "dtype", "privacy", "log", "mechanism_audit"}`.

    On fictitious records also what it took, which depends on who was drawn, and what was answered on the way:
    `{"tokens", "seconds", "peak_memory_mb", "hot_test"}`.
    """
    took = run.home / "trainings" / f"{name}.json"
    return read_json(run.path / "models" / name / "training.json") | (read_json(took) if took.exists() else {})


def train_accounted(run: Run, name: str, target: Path) -> None:
    """Make ready, reserve, train, verify, commit, release; a kill anywhere goes on with the same command.

    The last checkpoint holds the whole result. Until the caller deletes it, all that comes after training can be done
    again from it, to the same weights.
    """
    part, states = target.with_name(f".{name}.part"), state_of(run, name)
    for half_written in states.glob(".*.pt.*"):  # by a kill; it would be a second continuation of one state
        half_written.unlink()
    found = sorted(states.glob("*.pt"))
    if target.exists() and not found and name != BASELINE:  # to train over it would spend anew without a word
        raise PrivacyError(
            f"{target} holds a model that this run did not make, one that lost its report or was altered since, or "
            "one of other records. Move it away to train anew, at a new cost, or choose another RUN folder."
        )
    recipe, ledgers = recipe_of(run, name), ledgers_of(run)
    identity = _identity(run, recipe)
    ready = Training(recipe)  # before any budget is spent: this machine may be refused
    spend_id = found[0].stem if found else uuid.uuid4().hex
    state = states / f"{spend_id}.pt"
    if not found:
        write_atomic(state, b"")
        sync(states)  # before the ledgers: a kill between the two leaves no spend that nobody knows
    if recipe.cost is not None:
        ledger.reserve(ledgers, spend_id, f"{run.path.name}/{name}", recipe.cost)
    shutil.rmtree(part, ignore_errors=True)  # what a kill left half-written
    part.mkdir(mode=0o700)  # not released yet, and never if its spend is refused
    audit = _fit(run, name, part, state, ready, identity)
    report = None
    if recipe.cost is not None:
        weights = sha256(part / "adapter_model.safetensors")
        ledger.commit(ledgers, spend_id, weights)
        report = release.privacy_report(
            recipe,
            pipeline_of(run),
            audit=audit,
            spend_id=spend_id,
            ledger_heads={each.holder: each.head() for each in ledgers},
            masking_measured=read_json(run.home / "dataset" / "card.json")["deidentify"]["measured"],
            adapter_sha256=weights,
        )
    release.release(part, target, report)


def hot_questions(run: Run) -> list[Example]:
    """What a model is asked while it is trained: look-alikes, made of the pipeline's public words, never a record.

    Empty unless all holders declare their records fictitious: on real records, nothing is shown of a model that is
    still being trained.
    """
    pipeline = pipeline_of(run)
    if not pipeline.fictitious:
        return []
    alike = lookalike_examples(pipeline, QUESTIONS, run.config.seed)
    return [replace(each, bucket="look-alike", unit="") for each in alike if each.prompt]


def _identity(run: Run, recipe: Recipe) -> str:
    """Digest of what decides the result. The records' file is only hashed: none is read before its cost is reserved."""
    settings = recipe.settings.model_dump(mode="json", exclude=WITHOUT_EFFECT["privacy"])
    cost = asdict(recipe.cost) if recipe.cost else None
    records = sha256(run.home / "dataset" / "train.jsonl")
    content = json.dumps([MECHANISM, records, recipe.base_name, recipe.target_modules, recipe.seed, cost, settings])
    return hashlib.sha256(content.encode()).hexdigest()


def _fit(run: Run, name: str, part: Path, state: Path, ready: Training, identity: str) -> dict[str, Any]:
    """Train and save into `part` what passed `verify`; returns the audit of the mechanism, empty for the baseline."""
    recipe, folder = ready.recipe, run.home / "dataset"
    train, validation = read_examples(folder / "train.jsonl"), []
    if _identity(run, recipe) != identity:
        raise RunError(
            f"{folder / 'train.jsonl'} was replaced while its cost was reserved. Delete {state.parent} and run the "
            "same command again; what was reserved stays spent."
        )
    if recipe.cost is None or recipe.cost.validation_noise:
        validation = read_examples(folder / "validation.jsonl")
    with measured() as used:
        asked, points = hot_questions(run), run.config.training.hot_test
        ready.run(state, identity, train, validation, name, questions=asked, points=points)
    audit = release.verify(ready, recipe.cost) if recipe.cost else {}
    save_adapter(part, ready.model, ready.tokenizer, recipe.base_name)
    told: dict[str, Any] = {
        "steps": ready.steps,
        "quantisation": recipe.settings.quantisation,
        "dtype": str(ready.patients.dtype).removeprefix("torch."),
        "privacy": recipe.cost and {"epsilon": recipe.cost.epsilon, "delta": recipe.cost.delta},
        "log": ready.log,
        "mechanism_audit": audit,
    }
    write_json(part / "training.json", told)
    if pipeline_of(run).fictitious:  # of real records, this would be one more look
        took = {"tokens": ready.tokens, **used, "hot_test": ready.hot_test}
        write_json(run.home / "trainings" / f"{name}.json", took)
    return audit
