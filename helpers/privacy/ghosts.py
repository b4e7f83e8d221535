"""An audit of the mechanism itself in every private training, real records included.

Ghosts are made-up patients whose gradients lie in numbers of their own, behind those of the weights. A random bit says
of each whether it is in the data. Those that are in are drawn, clipped, summed, noised and divided together with
everybody, by the same functions. Patients have zeros in the ghosts' numbers, and ghosts zeros in those of the weights,
so that neither the model nor anybody's guarantee changes.

Afterwards an attacker scores every ghost by what came out: the likelihood ratio over all steps, the best score against
the claimed mechanism (Neyman and Pearson). Half of the bits are shown to the attacker, who finds the score
above which to guess "in"; the other half are guessed. If far more guesses are right than the claimed trade-off curve
allows on average (p < 1e-6), the claim is refuted, whether noise, clipping, sampling or the number of steps is at
fault. It sees no mistakes made before gradients reach the mechanism, or in other numbers than the ghosts' own: for
these there is `helpers.privacy.self_checks`.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import binom, binomtest, chi2

from helpers.privacy.accounting import Cost, best_accuracy
from helpers.privacy.secure_random import SecureGenerator

GHOSTS = 4000
RECORDS = 4  # of every second ghost; the others have one
LENGTH = 3.0  # of the gradient of one record, in clipping norms
REFUSED_BELOW = 1e-6
"""Nothing is released if either p-value is below this. A true claim fails each test with at most this probability."""
CAUGHT_BELOW = 1e-3
SIMULATED = 20_000


class Ghosts:
    """The ghosts of a training that was planned as `cost`; `members` are the numbers of those in the data.

    `state`, of `drawn` or of a checkpoint, holds tensors `(GHOSTS,)` that `watch` changes in place: bool `included`,
    the inclusion bits; fp64 `scores`, log-likelihood ratios of "in" against "out" over the steps so far; and fp64
    `sums` of what came out, in clipping norms.
    """

    def __init__(self, cost: Cost, state: dict[str, torch.Tensor]) -> None:
        self.cost, self.state = cost, state
        self.members = [int(number) for number in state["included"].nonzero().flatten()]

    @staticmethod
    def drawn(generator: SecureGenerator) -> dict[str, torch.Tensor]:
        """The state of a training that begins."""
        zeros = torch.zeros(GHOSTS, dtype=torch.float64)
        return {"included": generator.uniform(GHOSTS) < 0.5, "scores": zeros, "sums": zeros.clone()}

    def gradients(self, drawn: Sequence[int], max_grad_norm: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The records of some ghosts and whose they are: fp32 `(records, GHOSTS)` and int64 `(records,)`."""
        owners = [place for place, number in enumerate(drawn) for _ in range(RECORDS if number % 2 else 1)]
        rows = torch.zeros(len(owners), GHOSTS)
        rows[torch.arange(len(owners)), [drawn[place] for place in owners]] = LENGTH * max_grad_norm
        return rows, torch.tensor(owners, dtype=torch.long)

    def watch(self, released: torch.Tensor, unit: float) -> None:
        """Score what came out of a step at the ghosts' numbers; `unit` is a whole clipped patient there."""
        seen = (released.double() / unit).cpu()
        ratios = log_likelihood_ratio(seen.numpy(), self.cost.noise_multiplier, self.cost.sample_rate)
        self.state["scores"] += torch.from_numpy(ratios)
        self.state["sums"] += seen


def log_likelihood_ratio(seen: npt.NDArray[Any], noise_multiplier: float, sample_rate: float) -> Any:
    """Of "in" against "out" in one step: `seen` is noise, and besides 1 with probability `sample_rate` if in."""
    ratio = (2 * seen - 1) / (2 * noise_multiplier**2)
    return np.logaddexp(np.log1p(-sample_rate) if sample_rate < 1 else -np.inf, np.log(sample_rate) + ratio)


def audit(ghosts: Ghosts) -> dict[str, Any]:
    """Guess half of the bits, and compare the number of right guesses with what the claim allows.

    Each ghost has a number, a bit and noise of its own, so guesses are independent; under the claim each is right with
    a chance of at most `best_accuracy`. Noise that comes again in a later step can be subtracted, though each step
    alone looks right. So what came out at those who are not in, noise alone, is compared with its claim summed over
    all steps too (chi-square).

    Returns:
        `{"guessed", "right", "allowed", "p_value", "noise_p_value", "shown_noise_multiplier", "caught"}`: `allowed` is
        the most that a true claim lets come right on average; a training with more noise than
        `shown_noise_multiplier` would not have let so many (at 95 %; None if nothing is shown); `caught` is the chance
        with which this audit would have found a training with some share of the claimed noise.
    """
    claim, half = (ghosts.cost.sample_rate, ghosts.cost.steps), GHOSTS // 2
    included, scores, sums = (ghosts.state[name].numpy() for name in ("included", "scores", "sums"))
    above = _best_threshold(scores[:half], included[:half])
    right = int(((scores[half:] > above) == included[half:]).sum())
    allowed = best_accuracy(ghosts.cost.noise_multiplier, *claim)
    low = binomtest(right, half, alternative="greater").proportion_ci(0.95).low
    noises = [ghosts.cost.noise_multiplier * 2 ** (power / 8) for power in range(-16, 25)]
    shown = bisect_left(noises, True, key=lambda noise: best_accuracy(noise, *claim) < low)
    noise = sums[~included] / (ghosts.cost.noise_multiplier * ghosts.cost.steps**0.5)
    spread = chi2(len(noise)).cdf(np.square(noise).sum()), chi2(len(noise)).sf(np.square(noise).sum())
    return {
        "guessed": half,
        "right": right,
        "allowed": allowed * half,
        "p_value": float(binom.sf(right - 1, half, allowed)),
        "noise_p_value": float(min(1.0, 2 * min(spread))),
        "shown_noise_multiplier": noises[shown] if shown < len(noises) else None,
        "caught": {share: _chance_to_catch(ghosts.cost, share, allowed) for share in (0.5, 0.8, 0.9)},
    }


def _chance_to_catch(cost: Cost, noise: float, allowed: float) -> float:
    """Share of simulated trainings with `noise` times the claimed noise that are refuted at `CAUGHT_BELOW`."""
    random = np.random.default_rng(0)
    scores = np.zeros(SIMULATED)
    for _ in range(cost.steps):
        seen = random.normal(0, noise * cost.noise_multiplier, SIMULATED)
        seen[::2] += random.random(SIMULATED // 2) < cost.sample_rate
        scores += log_likelihood_ratio(seen, cost.noise_multiplier, cost.sample_rate)
    included = np.arange(SIMULATED) % 2 == 0
    accuracy = ((scores > _best_threshold(scores, included)) == included).mean()
    guessed = GHOSTS // 2
    return float(binom.sf(binom.isf(CAUGHT_BELOW, guessed, allowed), guessed, accuracy))


def _best_threshold(scores: npt.NDArray[Any], included: npt.NDArray[Any]) -> float:
    """The score above which "in" is right most often."""
    order = np.argsort(-scores)
    right = np.cumsum(np.where(included[order], 1, -1))  # more "in" than "out" among those above
    return float(scores[order[right.argmax()]]) - 1e-12
