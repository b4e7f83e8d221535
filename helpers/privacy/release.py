"""Release a private model only if its training was planned, recorded as spent, and passes the audit."""

import shutil
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined, Template

from helpers.data.holders.pipeline import Pipeline
from helpers.errors import PrivacyError
from helpers.files import sync, write_atomic, write_json
from helpers.privacy.accounting import Cost
from helpers.privacy.ghosts import REFUSED_BELOW, Ghosts, audit
from helpers.privacy.training import Recipe, Training


def verify(training: Training, cost: Cost) -> dict[str, Any]:
    """Compare what a training did with what was reserved, its `cost`, and the mechanism with its claim.

    Returns what `ghosts.audit` found. Raises PrivacyError with every disagreement: nothing may be released then.
    """
    faults = []
    if training.steps != cost.steps:
        faults.append(f"{training.steps} steps were taken, planned were {cost.steps}")
    if len(training.log) > cost.scores:
        faults.append(f"{len(training.log)} losses were measured, planned were {cost.scores}")
    if not training.ghosts:
        raise PrivacyError("The mechanism was not audited while it trained, so nothing is released.")
    found = audit(Ghosts(cost, training.ghosts))
    if not found["p_value"] >= REFUSED_BELOW:
        faults.append(
            f"an attacker guessed right for {found['right']} of {found['guessed']} made-up patients, where the claim "
            f"allows {found['allowed']:.0f} on average (p = {found['p_value']:.1e})"
        )
    if not found["noise_p_value"] >= REFUSED_BELOW:
        faults.append(
            f"summed over all steps the noise does not spread as independent noise does (p = "
            f"{found['noise_p_value']:.1e}): the same noise may have come again, and can be subtracted"
        )
    if faults:
        raise PrivacyError(
            f"The guarantee cannot be shown, so nothing is released: {'; '.join(faults)}. What was spent stays spent. "
            "Once the cause is found, delete the training's folder in private/state to train anew, at a new cost."
        )
    return found


def privacy_report(
    recipe: Recipe,
    pipeline: Pipeline,
    *,
    audit: dict[str, Any],
    spend_id: str,
    ledger_heads: dict[str, Any],
    masking_measured: bool,
    adapter_sha256: str,
) -> dict[str, Any]:
    """What was guaranteed, to whom, by which mechanism, and what is not covered; ready for JSON.

    `audit` is what `verify` returned, `spend_id` what the ledgers call the training, `ledger_heads` each holder's
    `Ledger.head` after the commit, `masking_measured` whether it is known how much de-identification misses.
    """
    cost, settings, unit = recipe.cost, recipe.settings, pipeline.unit
    assert cost is not None  # for the type checker: a baseline has no report
    texts = yaml.safe_load(Path(__file__).with_name("coverage.yaml").read_text("utf-8"))
    rows = texts["touched"] + texts["touched_where_measured"] * bool(cost.scores)
    rows += texts["touched_where_fictitious"] * pipeline.fictitious + texts["touched_by_the_join"]
    rows += texts["touched_by_unmeasured_masking"] * (not masking_measured)
    declared, noise = settings.patients_expected, cost.validation_noise or 0.0
    words = {"unit": unit, "declared": declared, "scores": cost.scores, "noise": noise}
    touched = [[row[column].format(**words) for column in ("place", "what", "covered")] for row in rows]
    return {
        "epsilon": cost.epsilon,
        "delta": cost.delta,
        "unit": unit,
        "neighbours": f"two data sets of which one has one {unit} more, with all records",
        "cap": pipeline.cap,
        "units_declared": declared,
        "sampler": f"Poisson sampling: each {unit} independently in each step",
        "sample_rate": cost.sample_rate,
        "expected_units_a_step": recipe.expected_batch,
        "steps": cost.steps,
        "max_grad_norm": settings.max_grad_norm,
        "noise_multiplier": cost.noise_multiplier,
        "noise": "exact rounded Gaussian, once a step on the clipped sum; AES-256 under a key of the operating system",
        "divided_by": f"the expected number of {unit}s in a step",
        "accountants": {"PRV (Opacus)": cost.prv, "PLD (dp-accounting)": cost.pld},
        "composition": "this training alone; the total of all trainings stands with each holder's ledger",
        "mechanism_audit": audit,
        "spend_id": spend_id,
        "ledgers": ledger_heads,
        "adapter_sha256": adapter_sha256,
        "fictitious": pipeline.fictitious,
        "touched": touched,
        "not_covered": [line.format(**words) for line in texts["not_covered"]],
    }


def report_page(report: dict[str, Any]) -> str:
    """The report as one page of HTML for people who do not read JSON."""
    page = Path(__file__).with_name("privacy_report.html").read_text("utf-8")
    return str(Template(page, autoescape=True, undefined=StrictUndefined).render(report=report))


def release(part: Path, target: Path, report: dict[str, Any] | None) -> None:
    """Put a trained folder and its report (the baseline has none) into place together: both appear, or neither.

    `part` lies beside `target` and holds the adapter; an older model at `target` is replaced.
    """
    if report is not None:
        write_json(part / "privacy_report.json", report)
        write_atomic(part / "privacy_report.html", report_page(report))
    for made in (part, *part.rglob("*")):
        made.chmod(0o755 if made.is_dir() else 0o644)  # its owner's alone until now
        sync(made)
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)  # whole or not at all, never without its report
    sync(target.parent)
