"""Checks for parts of private training: hand over your own variant, and receive figures or a refusal.

Each check takes one part with the signature that the course's own has, and tests one property from outside. A part
without it is refused: `PrivacyError` says what was found and what was expected. To pass proves nothing beyond the
property. Where chance plays a role, a right part is refused with a probability of at most `FALSE_ALARM`. δ is checked
by `helpers.privacy.accounting.check_delta`, and what a training really did by `helpers.privacy.release.verify`.
"""

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats
from transformers import set_seed

from helpers.errors import PrivacyError
from helpers.privacy.mechanism import COLUMNS, clipped_sum, grid_of
from helpers.privacy.secure_random import SecureGenerator
from helpers.privacy.units import Unit

FALSE_ALARM = 1e-6
BATCHES, PATIENTS, RATE = 4000, 40, 0.1
NORM, EXPECTED = 0.5, 8.0
NUMBERS = 3 * COLUMNS  # of an optimizer under test: several parts, each of which could be clipped by itself

Figures = dict[str, float]
MakeOptimizer = Callable[..., Any]
NoisySum = Callable[..., torch.Tensor]


def check_sampler(draw: Callable[[int, float, SecureGenerator], list[int]], *, seed: int) -> Figures:
    """Is every patient drawn on its own (Poisson sampling), as the accountants take for granted?

    Batch sizes, patients, pairs of patients and draws in two batches running are each compared with their binomial
    distribution, exactly and corrected for their number. `draw`, like `helpers.privacy.units.draw`, receives a
    generator of this `seed`. Returns figures of the batch sizes, and the number of empty batches.
    """
    generator = SecureGenerator(seed.to_bytes(32, "big"))
    drawn = np.zeros((BATCHES, PATIENTS), dtype=np.int64)
    for batch in drawn:
        np.add.at(batch, draw(PATIENTS, RATE, generator), 1)
    if drawn.max() > 1:
        raise PrivacyError("A batch held the same patient twice; expected each at most once.")
    sizes = np.bincount(drawn.sum(axis=1), minlength=PATIENTS + 1)
    sized = stats.binom.pmf(range(PATIENTS + 1), PATIENTS, RATE)
    pairs = (drawn.T @ drawn)[np.triu_indices(PATIENTS, 1)]
    running = np.array([(drawn[0::2] * drawn[1::2]).sum()])
    comparisons: dict[str, tuple[Any, int, Any]] = {
        "{} of {} batches held exactly {} patients": (sizes, BATCHES, sized),
        "{} of {} batches held patient {}": (drawn.sum(axis=0), BATCHES, RATE),
        "{} of {} batches held both patients of a pair": (pairs, BATCHES, RATE**2),
        "{} of {} times a patient was drawn in two batches running": (running, BATCHES // 2 * PATIENTS, RATE**2),
    }
    for what, (counts, trials, chance) in comparisons.items():
        chances = np.broadcast_to(chance, counts.shape)
        tails = np.minimum(stats.binom.cdf(counts, trials, chances), stats.binom.sf(counts - 1, trials, chances))
        worst = int(tails.argmin())
        if 2 * tails[worst] * counts.size < FALSE_ALARM / len(comparisons):
            raise PrivacyError(
                f"This is not Poisson sampling: {what.format(counts[worst], trials, worst)}; expected "
                f"{trials * chances[worst]:.0f} if each patient is drawn on its own."
            )
    return {
        "variance": float(drawn.sum(axis=1).var()),
        "expected_variance": PATIENTS * RATE * (1 - RATE),
        "empty": int(sizes[0]),
    }


def check_batch_composition(
    gradients: Callable[[list[Unit]], torch.Tensor], *, longest: int = 32, compositions: int = 3, seed: int = 0
) -> Figures:
    """Is a patient's gradient the same, to the last bit, whoever else is in the batch and wherever it stands?

    If not, others scale or read this patient's records, and clipping bounds nothing. `gradients` is like
    `PatientGradients.gradients`, or its `losses`, of a model whose adapter changes something: a row or a number for
    each patient. Each of the `compositions` has 3 to 8 invented patients with up to 3 records, the longest of which
    has `longest` tokens, 3 or more.
    """
    chooser = random.Random(seed)

    def patient(low: int, high: int) -> Unit:
        lengths = [chooser.randint(low, high) for _ in range(chooser.randint(1, 3))]
        rows = tuple(tuple(chooser.choices(range(100), k=length)) for length in lengths)
        return Unit("invented", rows, tuple(chooser.randint(1, length - 1) for length in lengths))

    changes = []
    for number in range(compositions):
        # At most the longest length, half and a quarter of it, in turn: some models change positions for long texts.
        probe = patient(2, max(2, longest >> number % 3))
        others = [patient(2, longest) for _ in range(chooser.randint(0, 5))]
        batch = [patient(longest - 1, longest - 1), patient(longest, longest), *others]  # no block ends between them
        place = chooser.randint(1, len(batch))
        batch.insert(place, probe)
        alone = gradients([probe])[0].clone()  # the next call may use its memory again
        beside = gradients(batch)[place]
        if not torch.equal(alone, beside):  # true of values that are not numbers too
            changes.append(float((alone - beside).abs().max()))
    if changes:
        raise PrivacyError(
            f"A patient's gradient or loss changed in {len(changes)} of {compositions} compositions of the batch, by "
            f"up to {max(changes):.2g}; expected no change in any bit. Likely causes: a loss averaged over the "
            "batch; records of other patients that are read too; dropout; positions that depend on the longest record; "
            "a processor or a library whose sums follow the shape of the batch."
        )
    return {"compositions": compositions, "largest_change": 0.0}


def clipped_length(make_optimizer: MakeOptimizer, records: Sequence[int], *, length: float) -> float:
    """Length of the clipped sum over patients with so many `records` each, all of one direction and this `length`.

    Both lengths are multiples of `max_grad_norm`.
    """
    optimizer, _ = _optimizer(make_optimizer)
    owners = torch.tensor([owner for owner, count in enumerate(records) for _ in range(count)])
    optimizer.add(torch.full((sum(records), NUMBERS), length * NORM / NUMBERS**0.5), owners)
    return float(optimizer.sum.norm()) / NORM


def check_clipping(make_optimizer: MakeOptimizer) -> Figures:
    """Does an optimizer like `PrivateOptimizer` clip a patient as one, however many records, and no more than needed?

    Returns `clipped_length` of each case.
    """
    cases = {
        "A patient with 50 long records": ([50], 2.0, 1.0),
        "Three patients with 50, 1 and 3 long records": ([50, 1, 3], 2.0, 3.0),
        "A patient with one short record": ([1], 0.1, 0.1),
    }
    found = {}
    for who, (records, length, wanted) in cases.items():
        found[who] = clipped_length(make_optimizer, records, length=length)
        if not wanted * 0.98 <= found[who] <= wanted * (1 + 1e-6):
            raise PrivacyError(f"{who} moved the sum by {found[who]:.3g} times max_grad_norm; expected {wanted:g}.")
    return found


def check_noisy_sum(noisy_sum: NoisySum, *, numbers: int = 1_000_000, noise_multiplier: float = 0.767) -> Figures:
    """Could every published number have come about without a patient as well as with that patient?

    One step of eight patients, and one of nine. Somebody asks of each published number whether any fp32 noise leads
    there from the eight, and from the nine; one number that cannot be reached is certainty, whatever ε says (Mironov
    2012). Then the noise itself: all on one grid, which does not depend on the data; the last eight bits of its
    multiples uniform, with and without the known sum, so that they tell nothing; Gaussian, with the claimed deviation.
    Takes a function like `helpers.privacy.mechanism.noisy_sum`; returns counts over both steps, and the least p-values.
    """
    noise_std = noise_multiplier * NORM
    grid = grid_of(noise_std)
    gradients = torch.randn(9, numbers, generator=torch.Generator().manual_seed(0))
    eight, nine = (clipped_sum(gradients[:count].clone(), max_grad_norm=NORM, grid=grid) for count in (8, 9))
    impossible = off_grid = 0
    bits, gauss = [], []  # p-values
    for own in (eight, nine):
        published = noisy_sum(own.clone(), noise_std=noise_std, generator=SecureGenerator())
        seen, multiples = published.float(), published.double() / grid
        for known in (eight.float(), nine.float()):
            noise = seen - known  # rounded, so that a neighbour may be what was added
            near = (noise, torch.nextafter(noise, noise - 1), torch.nextafter(noise, noise + 1))
            impossible += int(torch.stack([known + each != seen for each in near]).all(dim=0).sum())
        off_grid += int((multiples != multiples.round()).sum())
        for whole in (multiples, multiples - own / grid):
            counts = torch.bincount(whole.round().long() & 255, minlength=256)
            bits.append(float(stats.chisquare(counts.numpy()).pvalue))
        gauss.append(float(stats.kstest(((published - own) / noise_std).numpy(), "norm").pvalue))
    bits_p, gauss_p = min(bits), min(gauss)
    least = FALSE_ALARM / len(bits + gauss)
    if impossible or off_grid or not min(bits_p, gauss_p) >= least:
        raise PrivacyError(
            f"Of {2 * numbers:,} published numbers {impossible:,} are impossible with one patient more or less, and "
            f"{off_grid:,} are off the grid of {grid:.3g}; expected none. Last bits uniform: p = {bits_p:.2g}; "
            f"Gaussian of deviation {noise_std:.4g}: p = {gauss_p:.2g}; expected {least:.2g} or more."
        )
    return {"impossible": impossible, "off_grid": off_grid, "bits_p": bits_p, "gauss_p": gauss_p}


def check_step(make_optimizer: MakeOptimizer) -> Figures:
    """Does an optimizer like `PrivateOptimizer` add noise and divide by the expected number in all steps, empty too?"""
    share = NORM / 2 / NUMBERS**0.5  # of a patient in each number, half as long as is clipped
    for batch in ([0], [1], [3], [1, 2]):  # patients in each micro-batch
        optimizer, weight = _optimizer(make_optimizer)
        for patients in batch:
            optimizer.add(torch.full((patients, NUMBERS), share), torch.arange(patients))
        optimizer.step()
        moved = float(((weight != 0) & weight.isfinite()).float().mean())  # a mean over nobody is not a number
        if moved < 0.99:
            raise PrivacyError(
                f"A batch that drew {sum(batch)} moved {moved:.0%} of the weights; expected all of them, by the "
                "noise: a step left out tells that nobody was drawn, and the accountant counts it."
            )
        divisor = -sum(batch) * share / float(weight.detach().mean())
        if sum(batch) and not np.isclose(divisor, EXPECTED, rtol=1e-2):
            raise PrivacyError(
                f"A batch that drew {sum(batch)} was divided by {divisor:.3g}; expected expected_batch = "
                f"{EXPECTED:g}: the number that was drawn is private."
            )
    return {"divisor": EXPECTED}


def _optimizer(make: MakeOptimizer) -> tuple[Any, torch.nn.Parameter]:
    """An optimizer to check around plain descent with rate 1, with next to no noise, and the numbers it moves."""
    weight = torch.nn.Parameter(torch.zeros(NUMBERS))
    descent, generator = torch.optim.SGD([weight], lr=1.0), SecureGenerator()
    settings = {"noise_multiplier": 1e-3, "max_grad_norm": NORM, "expected_batch": EXPECTED}
    return make(descent, generator=generator, **settings), weight


def check_adapters(prepare: Callable[[Any], tuple[Any, Any]], base: Any) -> Figures:
    """Does a step move every adapter matrix, and nothing else? Its noise moves all that the optimizer holds.

    `prepare` receives a copy of `base`, a causal language model, attaches an adapter and makes its `PrivateOptimizer`;
    it returns (model, optimizer).
    """
    model, optimizer = prepare(copy.deepcopy(base))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer.step()
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    adapters = {name for name in before if ".lora_A." in name or ".lora_B." in name}
    if moved != adapters:
        raise PrivacyError(
            f"In a step {len(moved & adapters)} of {len(adapters)} adapter matrices moved and "
            f"{len(moved - adapters)} tensors of the base; expected all and none. Make the optimizer last."
        )
    return {"adapter_matrices": len(adapters)}


def check_generator(make_generator: Callable[[], SecureGenerator], *, seed: int) -> Figures:
    """Does the noise of generators like `SecureGenerator` differ between two trainings with one configuration's `seed`?

    Python, NumPy and torch are seeded before each, as training does. Whether a seed can be guessed, from the time for
    example, cannot be seen from outside. Returns the share of equal values in 1,000.
    """
    drawn = []
    for _ in range(2):
        set_seed(seed)
        drawn.append(make_generator().rounded_normal(1000, 2.0**17))
    if torch.equal(*drawn):
        raise PrivacyError(
            "Two trainings with one configuration drew the same 1,000 values of noise; expected others: whoever "
            "knows the configuration can subtract them."
        )
    return {"equal": float((drawn[0] == drawn[1]).float().mean())}
