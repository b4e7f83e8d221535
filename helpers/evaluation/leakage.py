"""What a model gives away about who was in its training set: AUC, hits at few false alarms, exposure.

Scores are higher for likelier members: a loss with its sign turned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.errors import EvaluationError
from helpers.evaluation.intervals import rate_with_interval
from helpers.files import Record

Floats = npt.NDArray[np.float64]


def auc_with_interval(inside: Floats, outside: Floats) -> dict[str, float]:
    """How often a member scores above a non-member, ties counting half, with a 95 % interval.

    DeLong's variance (DeLong, DeLong and Clarke-Pearson 1988) assumes no shape of the scores, which matters
    where a model keeps some members and not others; on the logit scale the interval stays inside (0, 1). Near 0
    and 1 that variance, like a bootstrap's, shrinks to nothing. So no interval is narrower than the exact one of
    Clopper and Pearson (1934) for as many separate pairs, all ordered right, as the smaller group allows.

    The interval is about canaries or patients like these, for this one model; another training run may differ more.

    Args:
        inside: scores of members, `(n_inside,)`, 2 or more.
        outside: scores of non-members, `(n_outside,)`, 2 or more.

    Returns:
        `{"auc", "low", "high"}`; 0.5 where members cannot be told from others.

    Raises:
        EvaluationError: too few scores, one that is not a number, or all of them equal.
    """
    from scipy.special import expit, logit

    _check(inside, outside, at_least=2)
    if np.ptp(np.concatenate([inside, outside])) == 0:
        raise EvaluationError("All scores are equal, so nothing was measured. Score the texts with the tuned model.")
    above, below = _placed(inside, outside), 1 - _placed(outside, inside)
    auc = above.mean()
    error = np.sqrt(above.var(ddof=1) / len(inside) + below.var(ddof=1) / len(outside))
    low = high = auc
    if 0 < auc < 1:
        low, high = expit(logit(auc) + np.array([-1.96, 1.96]) * error / (auc * (1 - auc)))
    surest = 0.025 ** (1 / min(len(inside), len(outside)))
    return {"auc": float(auc), "low": float(min(low, surest)), "high": float(max(high, 1 - surest))}


def tpr_at_fpr(inside: Floats, outside: Floats, fpr: float = 0.01) -> dict[str, float | None]:
    """Share of members found while at most `fpr` of the non-members are taken for members.

    The average hides an attack that is sure of a few; this does not (Carlini et al. 2022, arXiv:2112.03570).

    Args:
        inside: scores of members, `(n_inside,)`, 1 or more.
        outside: scores of non-members, `(n_outside,)`: 1/fpr or more for a single false alarm, ten times that
            for a threshold that says much.
        fpr: false-positive rate, in (0, 1).

    Returns:
        `{"tpr", "low", "high", "fpr", "fpr_low", "fpr_high", "n_out"}` with 95 % Wilson intervals: of the hits
        at the threshold found, and of the false alarms it would give on other non-members.

    Raises:
        EvaluationError: too few non-members, or a score that is not a number.
    """
    _check(inside, outside, at_least=1)
    allowed = int(len(outside) * fpr + 1e-9)
    if allowed < 1:
        raise EvaluationError(
            f"A false-positive rate of {fpr} needs {int(np.ceil(1 / fpr))} non-members or more, better "
            f"{int(np.ceil(10 / fpr))}; received {len(outside)}."
        )
    threshold = np.sort(outside)[len(outside) - allowed - 1]
    hits = rate_with_interval(int((inside > threshold).sum()), len(inside))
    alarms = rate_with_interval(int((outside > threshold).sum()), len(outside))
    return {
        "tpr": hits["rate"], "low": hits["low"], "high": hits["high"],
        "fpr": alarms["rate"], "fpr_low": alarms["low"], "fpr_high": alarms["high"], "n_out": len(outside),
    }  # fmt: skip


def exposures(losses: Floats, candidates: Floats) -> Floats:
    """Exposure of each canary in bits by its rank among candidates (Carlini et al. 2019, section 4.2).

    log2 of the number of candidates, the canary among them, less log2 of its rank; ties rank before the canary.
    An unseen canary has 1.44 bits on average, and none can have more than log2(candidates + 1).

    Args:
        losses: of canaries, `(n,)`.
        candidates: losses of canaries never trained on, `(n_candidates,)`.
    """
    rank = 1 + np.searchsorted(np.sort(candidates), losses, side="right")
    found: Floats = np.log2(len(candidates) + 1) - np.log2(rank)
    return found


def calibrated_scores(losses: Floats, base_losses: Floats, reference: Sequence[bool]) -> Floats:
    """Scores that leave out what the base model already found likely.

    A straight line, fitted on texts known to be outside, tells what loss to expect from the base model's; what
    counts is how far below it the loss is. Unlike a plain difference this is no worse than the loss alone where
    fine-tuning has changed the prior.

    Args:
        losses: of the tuned model, `(n,)`.
        base_losses: of its base model on the same texts, `(n,)`.
        reference: which of them are known to be outside, `(n,)`, 10 or more; for the one-run audit none with an
            inclusion bit.

    Raises:
        EvaluationError: too few texts are known to be outside.
    """
    known = np.asarray(reference, dtype=bool)
    if known.sum() < 10:
        raise EvaluationError(f"Calibration needs 10 canaries or more that are never trained; received {known.sum()}.")
    slope, offset = np.polyfit(base_losses[known], losses[known], 1)
    scores: Floats = slope * base_losses + offset - losses
    return scores


def canary_leakage(canaries: Sequence[Record], losses: Floats, base_losses: Floats | None = None) -> dict[str, Any]:
    """Everything the canaries tell about one model.

    Args:
        canaries: from `helpers.evaluation.canaries.make_canaries`, with out canaries.
        losses: summed losses of their answers under the model, `(n_canaries,)`.
        base_losses: the same under the base model; None for the base model itself.

    Returns:
        `{"n_in", "n_out", "loss", "calibrated", "exposure", "scores"}`: AUC and TPR at 1 % FPR for the loss and,
        with `base_losses`, for the calibrated scores (else None); exposures in bits, by the loss; and a score for
        each canary, calibrated where there are base losses, for the one-run audit.

    Raises:
        EvaluationError: canaries and losses differ in number, or there are too few.
    """
    if len(canaries) != len(losses):
        raise EvaluationError(f"{len(losses)} losses were given for {len(canaries)} canaries.")
    member = np.array([c["member"] for c in canaries], dtype=bool)
    never = [not c["tossed"] for c in canaries]
    scores = -losses if base_losses is None else calibrated_scores(losses, base_losses, never)
    return {
        "n_in": int(member.sum()),
        "n_out": int((~member).sum()),
        "loss": membership(-losses[member], -losses[~member]),
        "calibrated": None if base_losses is None else membership(scores[member], scores[~member]),
        "exposure": _exposure_summary(losses[member], losses[~member]),
        "scores": scores.tolist(),
    }


def membership(inside: Floats, outside: Floats) -> dict[str, Any]:
    """`auc_with_interval` and `tpr_at_fpr` at 1 % in one: `{"auc", "low", "high", "tpr_at_1_percent_fpr"}`.

    The last is None for fewer than 100 non-members, who cannot show so low a rate.
    """
    hits = tpr_at_fpr(inside, outside) if len(outside) >= 100 else None
    return {**auc_with_interval(inside, outside), "tpr_at_1_percent_fpr": hits}


def membership_inference(
    inside: Floats, outside: Floats, base_inside: Floats, base_outside: Floats
) -> dict[str, dict[str, Any]]:
    """Can the patients of the training set be told from unseen ones by the losses of their records?

    Args:
        inside: losses of the training set, one a patient (`by_unit`), `(n_inside,)`.
        outside: losses of unseen patients, `(n_outside,)`, 2 or more. They have to be drawn as the training
            patients were: patients held back for their new values are told apart by these values alone.
        base_inside: the same as `inside` under the base model.
        base_outside: the same as `outside` under the base model.

    Returns:
        `membership` for `loss`; for `calibrated`, the base model's loss less the tuned model's, which takes out
        how hard a text is (Watson et al. 2022, arXiv:2111.08440); and for `base`, which saw neither: an AUC away
        from 0.5 there says that the two groups differ by themselves, and that the other two measure this as well.
    """
    return {
        "loss": membership(-inside, -outside),
        "calibrated": membership(base_inside - inside, base_outside - outside),
        "base": membership(-base_inside, -base_outside),
    }


def by_unit(units: Sequence[str], losses: Floats) -> Floats:
    """Mean loss of each patient's records, in order of first appearance: records of one patient are not independent.

    Args:
        units: the patient of each record, `(n_records,)`.
        losses: of the records, `(n_records,)`.

    Returns:
        float64 `(n_patients,)`.
    """
    place = {unit: number for number, unit in enumerate(dict.fromkeys(units))}
    at = [place[unit] for unit in units]
    means: Floats = np.bincount(at, weights=losses).astype(np.float64) / np.bincount(at)
    return means


def _exposure_summary(members: Floats, candidates: Floats) -> dict[str, float]:
    from scipy.stats import quantile_test

    ranked = exposures(members, candidates)
    interval = quantile_test(ranked, p=0.5).confidence_interval(0.95)
    return {
        "median": float(np.median(ranked)),
        "median_low": float(interval.low),
        "median_high": float(interval.high),
        "highest": float(ranked.max()),
        "ceiling": float(np.log2(len(candidates) + 1)),
    }


def _placed(these: Floats, among: Floats) -> Floats:
    """Share of `among` below each of `these`, ties counting half."""
    ordered = np.sort(among)
    found: Floats = (np.searchsorted(ordered, these, "left") + np.searchsorted(ordered, these, "right")) / 2
    return found / len(among)


def _check(inside: Floats, outside: Floats, *, at_least: int) -> None:
    if min(len(inside), len(outside)) < at_least:
        raise EvaluationError(
            f"{len(inside)} members and {len(outside)} non-members were scored; expected {at_least} or more of each."
        )
    if not (np.isfinite(inside).all() and np.isfinite(outside).all()):
        raise EvaluationError("A score is not a finite number; look at the model's losses.")
