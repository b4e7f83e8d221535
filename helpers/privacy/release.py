"""Release a private model only with proof: what was done must agree with what was planned and accounted for."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from scipy import stats

from helpers.errors import PrivacyError
from helpers.files import sync, write_atomic, write_json
from helpers.privacy.accounting import LAST_DIGITS, spent
from helpers.privacy.private import Evidence
from helpers.privacy.unit_optimizer import NOISE_TOLERANCE

RARE = 1e-9
"""Probability below which an honest run is taken for a broken one."""

TOUCHED = (
    ("Training", "{unit}s drawn by Poisson sampling, clipped, noised", "covered by (ε, δ)"),
    ("Number of {unit}s", "sets the sampling rate and δ", "not covered; assumed to be public"),
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
    ("Held-out loss while training", "measured on other patients' records", "not covered; they are fictitious"),
    (
        "What was planted",
        "a secret in place of one {unit}'s records, and canaries, which count as {unit}s",
        "not covered: that they were planted, and how many",
    ),
    ("Who was drawn, how often", "evidence.json beside the weights", "not covered; they are fictitious"),
    (
        "Audit",
        "losses of all {unit}s, trained on or not, in the run folder; their summary, and four held-out {unit}s' "
        "questions with answers, in results.json and shown",
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
    "Exact arithmetic: noise is drawn in floating point (Mironov 2012), from a cipher (AES-256) taken to be secure.",
    "What the holders themselves keep of a {unit}: their rosters and {unit}s' numbers decide what is masked in "
    "everybody's texts. The promise compares two trainings that mask the same names and numbers.",
    "Whoever sees the machine or the run folder: times, memory, batch sizes, checkpoints and digests of files stay "
    "inside the trusted boundary. Only this model's folder is made for release.",
    "Rounding: a {unit}'s presence changes in what company others are computed. On this machine, on short invented "
    "rows, their clipped gradients then changed by {carried:.1e} of the clipping norm a step, all together.",
)


def verify(
    evidence: Evidence,
    *,
    units: int,
    steps: int,
    sample_rate: float,
    noise_multiplier: float,
    max_grad_norm: float,
    sizes: Sequence[int],
    epsilon: float,
    delta: float,
) -> None:
    """Compare the records of sampler, noise and accountant with each other and with the plan.

    Args:
        evidence: what the training noted.
        units: patients the plan counts on.
        steps: optimizer steps it allows.
        sample_rate: probability to draw a patient in a step.
        noise_multiplier: standard deviation of the noise over `max_grad_norm`.
        max_grad_norm: clipping norm.
        sizes: trained numbers of each tensor, over which the noise was measured.
        epsilon: what was reserved; the steps that were accounted for may cost no more.
        delta: likewise.

    Raises:
        PrivacyError: naming every disagreement. Nothing may be released then.
    """
    faults = []
    noises = (evidence.noise_stds, evidence.noise_worst, evidence.noise_prints)
    lengths = {len(each) for each in (evidence.sample_rates, evidence.drawn, *noises, evidence.accounted)}
    if lengths != {steps}:
        faults.append(f"sampler, noise and accountant count {sorted(lengths)} steps, planned were {steps}")
    if evidence.units != units:
        faults.append(f"{evidence.units} units could be drawn, planned were {units}")
    if set(evidence.sample_rates) != {sample_rate}:
        faults.append(f"sampling rates {sorted(set(evidence.sample_rates))}, planned was {sample_rate}")
    if set(evidence.accounted) != {(noise_multiplier, sample_rate)}:
        faults.append("the accountant was told another noise or sampling rate than planned")
    if sum(evidence.times_drawn.values()) != sum(evidence.drawn):
        faults.append("the units' own counts do not add up to the batches")
    faults += _not_poisson(evidence.drawn, units, sample_rate, "the sizes of batches")
    faults += _not_poisson(list(evidence.times_drawn.values()), steps, sample_rate, "how often units were drawn")
    for (noise, rate), times in Counter(evidence.accounted).items():
        if noise <= 0 or spent(noise, rate, times, delta).epsilon > epsilon * (1 + LAST_DIGITS):
            faults.append(f"the steps cost more than the ε = {epsilon:.6g} reserved")
    expected = noise_multiplier * max_grad_norm
    off = [std for std in evidence.noise_stds if not abs(std - expected) <= expected * _tolerance(sum(sizes))]
    if off:
        faults.append(f"in {len(off)} steps the noise had a deviation of {off[0]:.4g} instead of {expected:.4g}")
    overall = math.sqrt(sum(std**2 for std in evidence.noise_stds) / max(1, len(evidence.noise_stds)))
    if not off and not abs(overall - expected) <= expected * _tolerance(sum(sizes) * steps):
        faults.append(f"over all steps the noise had a deviation of {overall:.5g} instead of {expected:.5g}")
    uneven = [worst for worst in evidence.noise_worst if not worst <= stats.norm.isf(RARE / 2 / len(sizes))]
    if uneven:
        faults.append(f"in {len(uneven)} steps a tensor had other noise than the rest ({uneven[0]:.3g} errors off)")
    if len(set(evidence.noise_prints)) < len(evidence.noise_prints):
        faults.append("the same noise was used twice")
    if faults:
        raise PrivacyError(
            f"The guarantee cannot be shown, so nothing is released: {'; '.join(faults)}. What was spent stays spent. "
            "Once the cause is found, delete the model's hidden .state folder to train anew, at a new cost."
        )


def _tolerance(numbers: int) -> float:
    """How far, as a share, the deviation of so many Gaussian numbers may seem off: it is known to 1 / sqrt(2 n)."""
    return float(stats.norm.isf(RARE / 2)) / math.sqrt(2 * numbers) + NOISE_TOLERANCE


def _not_poisson(counts: Sequence[int], trials: int, rate: float, what: str) -> list[str]:
    """Whether counts of coins, `trials` each, have another sum or another spread than independent coins give."""
    if rate >= 1:
        return [] if set(counts) <= {trials} else [f"{what} are not all {trials}, though the rate is 1"]
    if not counts:
        return []
    chance = stats.binomtest(sum(counts), trials * len(counts), rate).pvalue
    if chance < RARE:
        return [f"{what} do not look like Poisson sampling at rate {rate} (p = {chance:.1e})"]
    tail = _tail_of_spread(np.array(counts), trials, rate)
    if tail < RARE:
        return [f"{what} spread otherwise than with Poisson sampling (p = {tail:.1e})"]
    return []


def _tail_of_spread(counts: npt.NDArray[np.int64], trials: int, rate: float) -> float:
    """Chance that binomials spread as little, or as much, as `counts` do around what is expected of them.

    Spread is the sum of squared distances, in steps of 1/32 of a binomial's variance (of 1 where that is less). Its
    law is that of one count folded with itself, by Fourier transform, and so holds for few counts and rare draws too.
    """
    law = stats.binom(trials, rate)
    possible = np.arange(law.ppf(1e-15), law.isf(1e-15) + 1)

    def steps(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        found: npt.NDArray[np.int64] = np.rint(32 * (values - law.mean()) ** 2 / max(law.var(), 1.0)).astype(np.int64)
        return found

    size = 2 ** int(np.ceil(np.log2(64 * len(counts) + int(steps(possible).max()) + 4096)))
    one = np.bincount(steps(possible), weights=law.pmf(possible), minlength=size)
    whole = np.fft.irfft(np.fft.rfft(one) ** len(counts), size)
    spread = int(steps(counts).sum())
    if spread >= size:
        return 0.0
    return float(max(0.0, min(whole[: spread + 1].sum(), whole[spread:].sum())))


def privacy_report(
    *,
    epsilon: float,
    delta: float,
    accountants: dict[str, float],
    unit: str,
    units: int,
    steps: int,
    sample_rate: float,
    noise_multiplier: float,
    max_grad_norm: float,
    cap: int,
    not_finite: int,
    spend_id: str,
    ledger_heads: dict[str, Any],
    fictitious: bool,
    joined: Sequence[str],
    adapter_sha256: str,
    carried: float,
) -> dict[str, Any]:
    """What was guaranteed, to whom, by which mechanism, and what is not covered; ready for JSON.

    Args:
        epsilon: the larger of what the two accountants say.
        delta: the probability for which ε does not speak.
        accountants: name to its ε.
        unit: whose privacy: `patient`, or `record` where rows belong to nobody.
        units: how many could be drawn.
        steps: optimizer steps.
        sample_rate: probability to draw a unit in a step.
        noise_multiplier: standard deviation of the noise over `max_grad_norm`.
        max_grad_norm: clipping norm.
        cap: most records of one unit.
        not_finite: gradients left out because they were not finite.
        spend_id: under which the holders' ledgers know this training.
        ledger_heads: holder to where its ledger stood when the spend was committed.
        fictitious: whether every holder declares its data fictitious; only then are measurements on records shown.
        joined: where the join read records, a sentence each.
        adapter_sha256: of the released weights; the ledgers name the same.
        carried: what `helpers.privacy.dry_run` returned.
    """
    shown = {"gradients_left_out_as_not_finite": not_finite} if fictitious else {}
    touched = [[text.format(unit=unit) for text in row] for row in TOUCHED + (FICTITIOUS_ONLY if fictitious else ())]
    return {
        "epsilon": epsilon,
        "delta": delta,
        "unit": unit,
        "neighbours": f"two data sets that differ in one {unit}, present with all records or absent",
        "cap": cap,
        "units": units,
        "sampler": f"Poisson: each {unit} by a coin of its own in each step",
        "sample_rate": sample_rate,
        "expected_units_a_step": sample_rate * units,
        "steps": steps,
        "max_grad_norm": max_grad_norm,
        "noise_multiplier": noise_multiplier,
        "noise": "Gaussian, fp32, once a step on the clipped sum; AES-256 under a key of the operating system",
        "divided_by": f"the expected number of {unit}s",
        "accountants": accountants,
        "composition": "this training alone; the holders' ledgers add up all spends",
        "spend_id": spend_id,
        "ledgers": ledger_heads,
        "adapter_sha256": adapter_sha256,
        "fictitious": fictitious,
        "touched": touched + [[*sentence.split(": ", 1), "not covered"] for sentence in joined],
        "not_covered": [line.format(unit=unit, carried=carried) for line in NOT_COVERED],
        **shown,
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
        report: of `privacy_report`; None for the twin, which has none.
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
