"""Release a private model only with proof: what was done agrees with what was planned, paid for and audited."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from helpers.errors import PrivacyError
from helpers.files import sync, write_atomic, write_json
from helpers.privacy.accounting import LAST_DIGITS, Plan, spent
from helpers.privacy.ghosts import REFUSED_BELOW, Ghosts, audit

if TYPE_CHECKING:
    from helpers.dataset.pipeline import Pipeline
    from helpers.privacy.training import Recipe, Trained

TOUCHED = (
    ("Training", "{unit}s drawn by Poisson sampling, clipped, noised", "covered by (ε, δ)"),
    (
        "Number of {unit}s",
        "never used: sampling rate, divisor, noise and δ follow from {units:,}, which the holders declare",
        "nothing to cover; if far more {unit}s are in the data, steps are larger and slower, if far fewer, noisier; "
        "(ε, δ) stays as it is",
    ),
    (
        "Loss on validation {unit}s",
        "{scores} measurements on {unit}s who are not trained on, cut and noised (deviation: {noise:.3g} {unit}s)",
        "covered by the same (ε, δ): a {unit} is in one part only",
    ),
    ("Longest record", "compared with a limit fixed in the configuration", "not covered: that the run went on is seen"),
    ("Tokenizer", "that of the public base model; nothing is fitted to records", "nothing to cover"),
    (
        "Steps, learning rate and other settings",
        "fixed in the configuration beforehand",
        "nothing to cover, unless they were chosen by trials: each of these is a spend of its own in the ledgers",
    ),
    (
        "Early stopping, choice of a checkpoint",
        "none: what is released is the state after the last step",
        "nothing to cover",
    ),
    ("Previews", "synthetic look-alikes only", "nothing to cover"),
)
FICTITIOUS_ONLY = (
    (
        "What was planted",
        "a secret in place of one {unit}'s records, and canaries, which count as {unit}s",
        "not covered: that they were planted, and how many",
    ),
    (
        "Audit by attacks",
        "losses of all {unit}s, trained on or not, and who was drawn how often, in private/; their summary, and four "
        "held-out {unit}s' questions with answers, in results.json and shown",
        "not covered; they are fictitious",
    ),
    (
        "Choice of settings",
        "the course's defaults were found by trials on its example records",
        "not covered; they are fictitious",
    ),
)
NOT_COVERED = (
    "A fact that stands in the records of many {unit}s: it is learnt as common knowledge.",
    "A person who stands in the records as two {unit}s, or in the text of another's record: each {unit} is protected "
    "by its own.",
    "People who share one key count as one {unit}. For one of them alone the bound is 2 ε and (1 + e^ε) δ.",
    "What the base model knew before: it may name the right disease without having seen any record.",
    "What de-identification missed is protected by (ε, δ) like every other word, but not removed from the joined file.",
    "The endpoint that writes conversations: it never receives records, and the guarantee says nothing of it.",
    "Randomness: AES-256 in counter mode is taken to be secure. Arithmetic needs no assumption: sums are exact and the "
    "noise is an exact rounded Gaussian (helpers/privacy/mechanism.py).",
    "What the holders themselves keep of a {unit}: their rosters and {unit}s' numbers decide what is masked in "
    "everybody's texts. The promise compares two trainings that mask the same names and numbers.",
    "Whoever sees the machine or the run folder: times, memory, batch sizes, checkpoints and digests of files stay "
    "inside the trusted boundary. Only this model's folder is made for release.",
)


def verify(trained: Trained, plan: Plan) -> dict[str, Any]:
    """Compare what a training did with its plan, and the mechanism with its claim.

    Args:
        trained: after its last step.
        plan: what was reserved.

    Returns:
        The audit of the mechanism; see `helpers.privacy.ghosts.audit`.

    Raises:
        PrivacyError: naming every disagreement. Nothing may be released then.
    """
    faults = []
    if trained.steps != plan.steps:
        faults.append(f"{trained.steps} steps were taken, planned were {plan.steps}")
    if len(trained.counts) > plan.scores:
        faults.append(f"{len(trained.counts)} losses were measured, planned were {plan.scores}")
    cost = spent(plan.noise_multiplier, plan.sample_rate, trained.steps, plan.delta)
    if cost.epsilon > plan.epsilon * (1 + LAST_DIGITS):
        faults.append(f"the steps cost ε = {cost.epsilon:.6g}, more than the {plan.epsilon:.6g} reserved")
    found = audit(Ghosts.of(trained.ghosts, plan.noise_multiplier, plan.sample_rate), plan.steps)
    if not found["p_value"] >= REFUSED_BELOW:
        faults.append(
            f"an attacker told {found['right']} of {found['guessed']} made-up patients in from out, where the claim "
            f"allows {found['allowed']:.0f} on average (p = {found['p_value']:.1e})"
        )
    if faults:
        raise PrivacyError(
            f"The guarantee cannot be shown, so nothing is released: {'; '.join(faults)}. What was spent stays spent. "
            "Once the cause is found, delete the training's folder in private/state to train anew, at a new cost."
        )
    return found


def privacy_report(
    plan: Plan,
    recipe: Recipe,
    pipeline: Pipeline,
    *,
    audit: dict[str, Any],
    spend_id: str,
    ledger_heads: dict[str, Any],
    joined: Sequence[str],
    adapter_sha256: str,
) -> dict[str, Any]:
    """What was guaranteed, to whom, by which mechanism, and what is not covered; ready for JSON.

    Args:
        plan: accounted for and verified.
        recipe: of the training.
        pipeline: of the records.
        audit: what `verify` returned.
        spend_id: under which the holders' ledgers know this training.
        ledger_heads: holder to its `Ledger.head` when the spend was committed.
        joined: where the join read records, a sentence each.
        adapter_sha256: of the released weights; the ledgers name the same.
    """
    unit = pipeline.unit
    figures = {"unit": unit, "units": plan.units, "scores": plan.scores, "noise": plan.validation_noise or 0.0}
    rows = [row for row in TOUCHED if plan.scores or "validation" not in row[0]]
    touched = [[text.format(**figures) for text in row] for row in rows + list(FICTITIOUS_ONLY) * pipeline.fictitious]
    return {
        "epsilon": plan.epsilon,
        "delta": plan.delta,
        "unit": unit,
        "neighbours": f"two data sets of which one has one {unit} more, with all records",
        "cap": pipeline.cap,
        "units_declared": plan.units,
        "sampler": f"Poisson sampling: each {unit} independently in each step",
        "sample_rate": plan.sample_rate,
        "expected_units_a_step": recipe.expected_batch,
        "steps": plan.steps,
        "max_grad_norm": recipe.max_grad_norm,
        "noise_multiplier": plan.noise_multiplier,
        "noise": "exact rounded Gaussian, once a step on the clipped sum; AES-256 under a key of the operating system",
        "divided_by": f"the expected number of {unit}s",
        "accountants": {"PRV (Opacus)": plan.spent.prv, "PLD (dp-accounting)": plan.spent.pld},
        "composition": "this training alone; the total of all trainings stands with each holder's ledger",
        "mechanism_audit": audit,
        "spend_id": spend_id,
        "ledgers": ledger_heads,
        "adapter_sha256": adapter_sha256,
        "fictitious": pipeline.fictitious,
        "touched": touched + [[*sentence.split(": ", 1), "not covered"] for sentence in joined],
        "not_covered": [line.format(unit=unit) for line in NOT_COVERED],
    }


def report_page(report: dict[str, Any]) -> str:
    """The report as one page of HTML for people who do not read JSON."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("privacy_report.html").render(report=report)


def release(part: Path, target: Path, report: dict[str, Any] | None) -> None:
    """Put a trained folder and its report into place together: both appear, or neither.

    Args:
        part: a folder beside `target` that holds the adapter.
        target: where the model is released; an older one there is replaced.
        report: of `privacy_report`; None for the non-private baseline, which has none.
    """
    if report is not None:
        write_json(part / "privacy_report.json", report)
        write_atomic(part / "privacy_report.html", report_page(report))
    for inner in part.rglob("*"):
        if inner.is_file():
            sync(inner)
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)  # whole or not at all, never without its report
    for made in (part, *part.rglob("*")):  # its owner's alone until now
        made.chmod(0o755 if made.is_dir() else 0o644)
    part.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    sync(target.parent)
