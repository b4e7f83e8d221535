"""What a run's private trainings are, what they need and cost: read from configuration, pipeline, card and ledgers.

Nothing here reads a record. `helpers.private_training` carries out what is planned here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from helpers.errors import LedgerError, PrivacyError
from helpers.files import read_json
from helpers.run import Run

if TYPE_CHECKING:
    from helpers.dataset.pipeline import Pipeline
    from helpers.privacy.accounting import Plan
    from helpers.privacy.ledger import Ledger

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


def ledgers_of(run: Run, *, begin: bool = False) -> list[Ledger]:
    """The spend ledger of each holder.

    Args:
        run: its configuration names pipeline and folder of ledgers.
        begin: begin missing ledgers with what the holders grant in the pipeline; those of fictitious records always
            are. Nobody else's begins by itself: a lost one would come back with its whole budget.

    Raises:
        LedgerError: a ledger is missing, damaged, begun with another grant, for another unit or for real records where
            fictitious ones are declared, or behind a released model's report.
        PrivacyError: a holder grants nothing.
    """
    from helpers.privacy.ledger import Ledger, open_ledger

    pipeline, folder, opened = pipeline_of(run), run.config.private.ledgers, []
    for holder in pipeline.holders:
        kind = "fictitious" if holder.fictitious else "real"
        note = f"first grant; the unit is a {pipeline.unit}; the records are {kind}"
        if holder.grant is None:
            raise PrivacyError(
                f"The holder '{holder.name}' grants no budget, so nothing may be trained on its patients' records. "
                "Let it write 'grant: {epsilon: ..., delta: ...}' into the pipeline."
            )
        path = (folder / f"{holder.name}.jsonl").resolve()
        if not path.exists():
            if not (begin or holder.fictitious):
                raise LedgerError(
                    f"{holder.name} has no ledger at {path}. If there was one, restore it, or set private.ledgers to "
                    "its folder. If nothing was ever trained on this holder's records, begin it, once, with "
                    "'python -m helpers.course begin-ledgers' and the same --conf and --set as the training."
                )
            open_ledger(folder, holder.name, epsilon=holder.grant.epsilon, delta=holder.grant.delta, note=note)
        ledger = Ledger(path, holder.name)
        # The pipeline's grant begins the books; from then on they count, and only the holder changes them.
        first = ledger.entries()[0]
        if (first.epsilon, first.delta) != (holder.grant.epsilon, holder.grant.delta):
            raise LedgerError(
                f"The pipeline grants ε {holder.grant.epsilon:g} and δ {holder.grant.delta:g} of {holder.name}; its "
                f"ledger was begun with {first.epsilon:g} and {first.delta:g}. Put these back: a budget is changed in "
                "the ledger, by its holder, with Ledger.grant."
            )
        if first.note != note:
            raise LedgerError(
                f"The ledger of {holder.name} begins with {first.note!r}, where this pipeline has {note!r}. "
                "An ε for a record and one for a patient do not add up, and records once called real stay so. Put back "
                "what the ledger has."
            )
        opened.append(ledger)
    for report in sorted(run.path.parent.glob("*/models/[!.]*/privacy_report.json")):
        heads = read_json(report)["ledgers"]
        for ledger in opened:
            head = heads.get(ledger.holder)
            if head is not None and not ledger.contains(head):
                raise LedgerError(
                    f"The ledger of {ledger.holder} lacks an entry that {report} was committed to: it was cut off, or "
                    "begun anew. Restore it, or set private.ledgers to the folder where it lies. If that run keeps "
                    f"books of its own, move its folder, {report.parents[2].name}, out of {run.path.parent.name}/."
                )
    return opened


def planned(run: Run, name: str) -> Plan:
    """What a private training will cost, computed before it begins and without a look at the records."""
    from helpers.privacy.accounting import plan

    settings, units = run.config.private, units_to_train(run)
    return plan(
        units,
        settings.steps,
        min(1.0, settings.patients_a_step / max(1, units)),
        target_epsilon=models_to_train(run)[name],
        noise_multiplier=settings.noise_multiplier if name == "private" else None,
        delta=settings.delta,
    )


def check_budgets(run: Run, names: Sequence[str]) -> None:
    """Refuse, before the first of several trainings, what the holders' budgets do not allow together.

    A training that was begun before has its reservation already and is not counted again.

    Raises:
        LedgerError: naming the holder, what is left and what is asked for.
    """
    from helpers.privacy.ledger import summary

    begun = [name for name in names if any((run.path / "models" / f".{name}.state").glob("*.pt"))]
    plans = {name: planned(run, name) for name in names if name != TWIN and name not in begun}
    asked = {"epsilon": sum(p.epsilon for p in plans.values()), "delta": sum(p.delta for p in plans.values())}
    for row in summary(ledgers_of(run)):
        for sign, what in (("ε", "epsilon"), ("δ", "delta")):
            if asked[what] > row[f"left_{what}"] * (1 + 1e-9):
                raise LedgerError(
                    f"The budget of {row['holder']} is too small for {' and '.join(plans)}: left is {sign} "
                    f"{row[f'left_{what}']:.6g}, asked for are {asked[what]:.6g} together. Nothing was trained. Train "
                    "fewer models, with a smaller ε each, or let the holder grant more."
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


def dry_run(run: Run) -> float:
    """A step on invented rows, on this machine and with this configuration; see `helpers.privacy.dry_run`."""
    from helpers.privacy.dry_run import dry_run as step_on_invented_rows

    settings = run.config.private
    return step_on_invented_rows(
        run.config.base_model, quantisation=settings.quantisation, rank=settings.rank, alpha=settings.alpha,
        target_modules=run.config.lora.target_modules, gradient_checkpointing=settings.gradient_checkpointing,
        physical_rows=settings.physical_rows, max_length_tokens=settings.max_length_tokens,
        max_grad_norm=settings.max_grad_norm, units_a_step=settings.patients_a_step, threads=run.config.threads,
    )  # fmt: skip


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
        run.config.base_model, target_modules=run.config.lora.target_modules, dropout=run.config.lora.dropout,
        max_length_tokens=run.config.private.max_length_tokens,
    )  # fmt: skip
