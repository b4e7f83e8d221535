"""What a run's private trainings are, what they need and cost: read from configuration, pipeline, card and ledgers.

Nothing here reads a record. `helpers.private_training` carries out what is planned here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.errors import LedgerError, PrivacyError
from helpers.files import read_json
from helpers.run import Run

if TYPE_CHECKING:
    from helpers.dataset.pipeline import Holder, Pipeline
    from helpers.privacy.accounting import Plan
    from helpers.privacy.grants import Grant
    from helpers.privacy.ledger import Ledger
    from helpers.privacy.training import Recipe

BASELINE = "non_private"
HOW_TO_GRANT = (
    "The holder makes a key and signs a grant with 'python -m helpers.privacy.grants hospital_grant.json hospital.key' "
    "(02-fine_tune/README.md has an example), and the pipeline gets 'grant: {file: ..., public_key: ...}'."
)


def pipeline_of(run: Run) -> Pipeline:
    """The pipeline of private records that the configuration names, checked."""
    from helpers.dataset.pipeline import load_pipeline

    return load_pipeline(run.config.private.pipeline)


def models_to_train(run: Run) -> dict[str, float | None]:
    """Name to target ε of every model to train; None where the noise is given, or there is none (the baseline)."""
    settings = run.config.private
    further = {f"private_{epsilon:g}": epsilon for epsilon in settings.further_epsilons}
    baseline = {BASELINE: None} if pipeline_of(run).fictitious else {}
    return {**baseline, "private": settings.target_epsilon, **further}


def ledgers_of(run: Run, *, begin: bool = False) -> list[Ledger]:
    """The spend ledger of each holder, with the newest grant that the pipeline names.

    Args:
        run: its configuration names pipeline and folder of ledgers.
        begin: begin missing ledgers with what the holders grant; those of fictitious records always are. Nobody
            else's begins by itself: a lost one would come back with its whole budget.

    Raises:
        LedgerError: a grant is refused; or a ledger is missing, damaged, or behind a released model's report.
        PrivacyError: a holder grants nothing, or has not signed what it grants.
    """
    from helpers.privacy.ledger import open_ledger

    pipeline = pipeline_of(run)
    opened = [
        open_ledger(run.config.private.ledgers, _grant_of(pipeline, holder), begin=begin or holder.fictitious)
        for holder in pipeline.holders
    ]
    for report in sorted(run.path.parent.glob("*/models/[!.]*/privacy_report.json")):
        heads = read_json(report)["ledgers"]
        for ledger in opened:
            head = heads.get(ledger.holder)
            if head is not None and not ledger.contains(head):
                raise LedgerError(
                    f"The ledger of {ledger.holder} lacks an entry that {report} was committed to: it was cut off, or "
                    "begun anew. Restore it, or set private.ledgers to the folder where it lies. If that run keeps "
                    f"ledgers of its own, move its folder, {report.parents[2].name}, out of {run.path.parent.name}/."
                )
    return opened


def _grant_of(pipeline: Pipeline, holder: Holder) -> Grant:
    """What a holder grants in the pipeline, signed with its key and for these records; refused otherwise."""
    from helpers.privacy.grants import Grant, check_grant, read_grant

    given = holder.grant
    if given is None:
        raise PrivacyError(
            f"The holder '{holder.name}' grants no budget, so nothing may be trained on its patients' records. "
            f"{HOW_TO_GRANT}"
        )
    if given.file is not None:
        grant = read_grant(pipeline.path.parent / given.file)
        check_grant(grant, "the pipeline", **holder.granting, public_key=given.public_key)
        return grant
    if not holder.fictitious:
        raise PrivacyError(
            f"The grant of '{holder.name}' is not signed, and its records are not fictitious, so nothing may be "
            f"trained on them. {HOW_TO_GRANT}"
        )
    return Grant.model_validate(
        holder.granting
        | {"ledger": holder.name, "serial": given.serial, "epsilon": given.epsilon, "delta": given.delta}
    )


def planned(run: Run, name: str) -> Plan:
    """What a private training will cost, computed before it begins and without a look at the records.

    Raises:
        PrivacyError: the holders declare no number of patients, or no guarantee can be given.
    """
    from helpers.privacy.accounting import plan

    settings, split = run.config.private, pipeline_of(run).split
    if settings.patients_expected is None:
        raise PrivacyError(
            "private.patients_expected is not set. How many patients there are is itself private, so sampling rate, "
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
        split=f"seed {run.config.seed}, {split.model_dump_json()}",
    )


def recipe_of(run: Run, plan: Plan | None) -> Recipe:
    """What decides the weights of a training; `plan` is None for the non-private baseline."""
    from helpers.privacy.training import Recipe

    settings, lora = run.config.private, run.config.lora
    return Recipe(
        base_name=run.config.base_model,
        quantisation=settings.quantisation,
        rank=settings.rank,
        alpha=settings.alpha,
        dropout=lora.dropout,
        target_modules=lora.target_modules,
        learning_rate=settings.baseline_learning_rate if plan is None else settings.learning_rate,
        steps=settings.steps,
        expected_batch=settings.patients_a_step if plan is None else plan.sample_rate * plan.units,
        sample_rate=1.0 if plan is None else plan.sample_rate,
        noise_multiplier=None if plan is None else plan.noise_multiplier,
        max_grad_norm=settings.baseline_max_grad_norm if plan is None else settings.max_grad_norm,
        validation_noise=None if plan is None else plan.validation_noise,
        scores=settings.scores,
        max_length_tokens=settings.max_length_tokens,
        seed=run.config.seed,
        physical_rows=settings.physical_rows,
        gradient_checkpointing=settings.gradient_checkpointing,
        checkpoints=settings.checkpoints,
        threads=run.config.threads,
    )


def state_of(run: Run, name: str) -> Path:
    """The folder of a training under way; like all that depends on who is in the data it lies in private/."""
    return run.path / "private" / "state" / name


def check_budgets(run: Run, names: Sequence[str]) -> None:
    """Refuse, before the first of several trainings, what the holders' budgets do not allow together.

    A training that was begun before has its reservation already and is not counted again.

    Raises:
        LedgerError: naming the holder, what was spent and what is asked for.
    """
    from helpers.privacy import ledger

    begun = [name for name in names if any(state_of(run, name).glob("*.pt"))]
    costs = {name: planned(run, name).cost for name in names if name != BASELINE and name not in begun}
    ledger.check_budgets(ledgers_of(run), list(costs.values()), " and ".join(costs))


def require_fictitious(pipeline: Pipeline) -> None:
    """Refuse the non-private baseline for records of real people.

    Raises:
        PrivacyError: naming the holders that did not declare theirs invented.
    """
    real = ", ".join(holder.name for holder in pipeline.holders if not holder.fictitious)
    if real:
        raise PrivacyError(
            f"{real} did not declare its records fictitious, so no model is trained on them without privacy. "
            "Train the private one; the baseline is for invented records only."
        )


def check_trainable(run: Run) -> None:
    """Refuse, before anything is trained or paid for, a configuration with which no training could be private.

    Raises:
        PrivacyError: packing is on, values are dropped at random, or a layer has no gradient for each row.
    """
    from helpers.privacy.private_model import check_model

    if run.config.training_arguments.get("packing"):
        raise PrivacyError(
            "training_arguments.packing is on: it puts records of several patients into one row, where none can be "
            "clipped by itself. Remove it for private training."
        )
    check_model(
        run.config.base_model,
        target_modules=run.config.lora.target_modules,
        dropout=run.config.lora.dropout,
        max_length_tokens=run.config.private.max_length_tokens,
    )
