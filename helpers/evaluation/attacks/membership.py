"""What losses give away about who was in the training set: AUC, members found at few false alarms, and an ε."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.special import expit, logit

from helpers.data.example import Example
from helpers.errors import EvaluationError
from helpers.evaluation.intervals import rate_with_interval
from helpers.models.losses import batch_of, row_losses
from helpers.models.tokens import learnt_rows
from helpers.progress import tqdm

Floats = npt.NDArray[np.float64]
BATCH = 16  # examples scored at once


def example_losses(model: Any, tokenizer: Any, examples: Sequence[Example]) -> Floats:
    """Mean loss of the learnt tokens of each example, what training minimises: float64 `(n_examples,)`, nats a token.

    The model is put into evaluation mode. Raises EvaluationError if a loss is not finite.
    """
    rows = learnt_rows(examples, tokenizer)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i][0]))  # so that memory runs out at once or never
    losses = np.zeros(len(rows))
    model.eval()
    with torch.inference_mode():
        for at in tqdm(range(0, len(order), BATCH), desc="losses", delay=2, leave=False):
            batch = order[at : at + BATCH]
            inputs = batch_of([rows[i][0] for i in batch], [rows[i][1] for i in batch], 0, model.device)
            losses[batch] = row_losses(model, inputs).cpu().numpy()
    if not np.isfinite(losses).all():
        raise EvaluationError(f"The model gives no finite loss for {int((~np.isfinite(losses)).sum())} examples.")
    return losses / [len(row) - begin for row, begin in rows]


def auc_with_interval(inside: Floats, outside: Floats) -> dict[str, float]:
    """How often a member scores above a non-member, ties counting half, with a 95 % interval.

    DeLong's variance (DeLong, DeLong and Clarke-Pearson 1988), on the logit scale. Near 0 and 1 it shrinks to nothing,
    so no interval is narrower than the exact one of Clopper and Pearson (1934) for as many separate pairs, all ordered
    right, as the smaller group allows. It is about texts like these, for this one model; another run may differ more.

    Args:
        inside: scores of members, higher for likelier members, `(n_inside,)`, 2 or more.
        outside: scores of non-members, `(n_outside,)`, 10 or more.

    Returns:
        `{"auc", "low", "high"}`; 0.5 where members cannot be told from others.

    Raises:
        EvaluationError: too few scores, one that is not a number, or all of them equal.
    """
    if len(inside) < 2 or len(outside) < 10:
        raise EvaluationError(
            f"{len(inside)} members and {len(outside)} non-members were scored; expected 2 and 10 or more."
        )
    scores = np.concatenate([inside, outside])
    if not np.isfinite(scores).all() or np.ptp(scores) == 0:
        raise EvaluationError("A score is not a finite number, or all are equal; look at the model's losses.")
    above, below = _placed(inside, outside), 1 - _placed(outside, inside)
    auc = above.mean()
    error = np.sqrt(above.var(ddof=1) / len(inside) + below.var(ddof=1) / len(outside))
    low = high = auc
    if 0 < auc < 1:
        low, high = expit(logit(auc) + np.array([-1.96, 1.96]) * error / (auc * (1 - auc)))
    surest = 0.025 ** (1 / min(len(inside), len(outside)))
    return {"auc": float(auc), "low": float(min(low, surest)), "high": float(max(high, 1 - surest))}


def found_at_one_percent(inside: Floats, outside: Floats) -> dict[str, Any] | None:
    """Share of members found while at most 1 % of the non-members are taken for members, with its 95 % interval.

    The average hides an attack that is sure of a few; this does not (Carlini et al. 2022, arXiv:2112.03570). Fewer
    than 100 non-members cannot show so low a rate: None.
    """
    if not (allowed := len(outside) // 100):
        return None
    threshold = np.sort(outside)[-allowed - 1]
    return rate_with_interval(int((inside > threshold).sum()), len(inside))


def membership(losses: Mapping[str, Floats], base: Mapping[str, Sequence[float] | Floats] | None) -> dict[str, Any]:
    """Can members be told from non-members by their losses?

    *Calibrated* scores leave out how hard a text is by itself (Watson et al. 2022, arXiv:2111.08440): a straight
    line, fitted on the non-members, tells what loss to expect from the base model's, and what counts is how far
    below it the loss is. A plain difference would be worse than the loss alone where fine-tuning has changed the prior.

    Args:
        losses: `in` and `out`, a loss for each member and each non-member. Both have to be drawn alike: patients held
            back for their new values are told apart by these values alone.
        base: the same under the base model; None for the base model itself, which saw nobody: an AUC away from 0.5
            says there that the two groups differ by themselves.

    Returns:
        `{"n_in", "n_out", "loss", "calibrated"}`: both attacks have `{"auc", "low", "high", "tpr_at_1_percent_fpr"}`,
        the second is None without `base`.
    """
    attacks = {"loss": {side: -values for side, values in losses.items()}}
    if base is not None:
        slope, offset = np.polyfit(base["out"], losses["out"], 1)
        attacks["calibrated"] = {side: slope * np.array(base[side]) + offset - losses[side] for side in losses}
    found: dict[str, Any] = {"n_in": len(losses["in"]), "n_out": len(losses["out"]), "calibrated": None}
    for name, scores in attacks.items():
        sides = scores["in"], scores["out"]
        found[name] = {**auc_with_interval(*sides), "tpr_at_1_percent_fpr": found_at_one_percent(*sides)}
    return found


def epsilon_of_auc(auc: float) -> float:
    """The least ε whose guarantee allows this AUC: ln(AUC / (1 - AUC)); 0 for 0.5 and less.

    If training is (ε, δ)-private against adding or removing one patient, nobody tells runs with that patient from
    runs without with an AUC above e^ε / (1 + e^ε), but for δ: the area over the trade-off curve (Dong, Roth and Su
    2022, arXiv:1905.02383). For hundreds of canaries with fair inclusion bits in one run it holds nearly, since their
    bits are guessed right no more often than that (Steinke et al. 2023, arXiv:2305.08846). The lower end of an
    interval of the AUC refutes every smaller ε.
    """
    return float(max(0.0, logit(auc)))


def by_unit(examples: Sequence[Example], losses: Floats) -> Floats:
    """Mean loss of each patient's examples, in order of first appearance: those of one patient are not independent."""
    units = [example.unit for example in examples]
    return np.array(pd.Series(losses).groupby(units, sort=False).mean(), dtype=np.float64)


def _placed(these: Floats, among: Floats) -> Floats:
    """Share of `among` below each of `these`, ties counting half."""
    ordered = np.sort(among)
    found: Floats = (np.searchsorted(ordered, these, "left") + np.searchsorted(ordered, these, "right")) / 2
    return found / len(among)
