"""Checks for parts of private training: hand over your own variant, and receive figures or a refusal.

Each check takes one part with the signature that the course's own has, looks at it from outside, and tests a
single property. The course's own parts pass all of them. To pass proves nothing beyond that property. Variants of
the mechanism have their checks in `helpers.privacy.mechanism_checks`.

Statistical checks refuse a right part with a probability of at most `FALSE_ALARM`, and repeat exactly for the
same seed. What needs no part is checked where it is used: δ by `helpers.privacy.accounting.check_delta`, and
what a training really did by `helpers.privacy.release.verify`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats
from transformers import set_seed

from helpers.errors import PrivacyError
from helpers.privacy.patient_gradients import PatientGradients
from helpers.privacy.secure_random import SecureGenerator
from helpers.privacy.units import Unit

FALSE_ALARM = 1e-6
"""Probability at most with which a statistical check refuses a part that is right."""

BATCHES, PATIENTS, RATE = 4000, 40, 0.1

Draw = Callable[[int, float, SecureGenerator], list[int]]
Losses = Callable[[list[Unit]], torch.Tensor]
Figures = dict[str, float]


def check_sampler(draw: Draw, *, seed: int) -> Figures:
    """Is every patient drawn on its own (Poisson sampling), as the accountants take for granted?

    Batch sizes, patients, pairs of patients and draws in two batches running are each compared with their binomial
    distribution, exactly and corrected for their number. Batches of constant size, shuffling and drawing until
    somebody comes are found with near certainty.

    Args:
        draw: like `helpers.privacy.units.draw`, called as `draw(patients, sample_rate, generator)`.
        seed: of the generator it receives.

    Returns:
        `{"batches", "mean_size", "variance", "expected_variance", "empty"}`.

    Raises:
        PrivacyError: with the count that independent draws do not explain.
    """
    generator = SecureGenerator(seed.to_bytes(32, "big"))
    drawn = np.zeros((BATCHES, PATIENTS), dtype=np.int64)
    for batch in drawn:
        np.add.at(batch, draw(PATIENTS, RATE, generator), 1)
    if drawn.max() > 1:
        raise PrivacyError("A batch held the same patient twice; expected was each at most once.")
    sizes = np.bincount(drawn.sum(axis=1), minlength=PATIENTS + 1)
    pairs = (drawn.T @ drawn)[np.triu_indices(PATIENTS, 1)]
    running = np.array([(drawn[0::2] * drawn[1::2]).sum()])
    sized = stats.binom.pmf(range(PATIENTS + 1), PATIENTS, RATE)
    _compare("{} of {} batches held exactly {} patients", sizes, BATCHES, sized)
    _compare("{} of {} batches held patient {}", drawn.sum(axis=0), BATCHES, RATE)
    _compare("{} of {} batches held both patients of a pair", pairs, BATCHES, RATE**2)
    _compare("{} of {} times a patient was drawn in two batches running", running, BATCHES // 2 * PATIENTS, RATE**2)
    return {
        "batches": BATCHES,
        "mean_size": float(drawn.sum(axis=1).mean()),
        "variance": float(drawn.sum(axis=1).var()),
        "expected_variance": PATIENTS * RATE * (1 - RATE),
        "empty": int(sizes[0]),
    }


def _compare(what: str, counts: np.ndarray, trials: int, chance: np.ndarray | float) -> None:
    """Refuse counts that are not binomial; one of the four comparisons between which the false alarms are shared."""
    chances = np.broadcast_to(chance, counts.shape)
    tails = np.minimum(stats.binom.cdf(counts, trials, chances), stats.binom.sf(counts - 1, trials, chances))
    worst = int(tails.argmin())
    if 2 * tails[worst] * counts.size < FALSE_ALARM / 4:
        raise PrivacyError(
            f"This is not Poisson sampling: {what.format(counts[worst], trials, worst)}, expected were "
            f"{trials * chances[worst]:.0f} if each patient is drawn on its own."
        )


def check_generator(make_generator: Callable[[], SecureGenerator], *, seed: int) -> Figures:
    """Does the noise differ between two trainings with one configuration?

    Seeds Python, NumPy and torch before each, as training does. Whether a seed can be guessed, from the time for
    example, cannot be seen from outside.

    Args:
        make_generator: like `helpers.privacy.secure_random.SecureGenerator`.
        seed: of the configuration.

    Returns:
        `{"equal"}`, the share of equal values in 1,000.

    Raises:
        PrivacyError: both drew the same; whoever knows the seed can subtract the noise.
    """
    drawn = []
    for _ in range(2):
        set_seed(seed)
        drawn.append(make_generator().rounded_normal(1000, 2.0**17))
    if torch.equal(*drawn):
        raise PrivacyError(
            "Two trainings with one configuration drew the same 1,000 values of noise, expected were others: whoever "
            "knows the configuration can subtract them."
        )
    return {"equal": float((drawn[0] == drawn[1]).float().mean())}


def check_batch_composition(losses: Losses) -> Figures:
    """Is a patient's loss the same, to the last bit, whoever else is in the batch and wherever it stands?

    Args:
        losses: like `helpers.privacy.patient_gradients.PatientGradients.losses`: of some units, one a unit.

    Returns:
        `{"alone", "largest_change"}`, in nats.

    Raises:
        PrivacyError: it changed: others scale or read this patient's record, and clipping bounds nothing.
    """
    probe, others = _unit(100, 10), [_unit(300, 10), _unit(500, 100), _unit(700, 23)]
    alone = float(losses([probe])[0])
    change = 0.0
    for place, beside in ((0, others[:1]), (1, others[1:2]), (2, others)):
        batch = [*beside[:place], probe, *beside[place:]]
        change = max(change, abs(float(losses(batch)[place]) - alone))
    if change != 0 or not np.isfinite(alone):  # worded so that a value that is not a number is refused too
        raise PrivacyError(
            f"A patient's loss is {alone:.6g} alone and changes by up to {change:.2g} beside others; expected was no "
            "change at all. Others scale this patient's gradient, or the model reads them to predict it."
        )
    return {"alone": alone, "largest_change": change}


def batch_composition_changes(patients: PatientGradients, *, longest: int, compositions: int = 3, seed: int = 0) -> int:
    """How many of some random batches change a patient's gradient in any bit, on this machine, with this model.

    Args:
        patients: with the model to be trained. Its adapter is given random values meanwhile: while LoRA's B is zero,
            A has no gradient.
        longest: tokens of the longest record.
        compositions: batches tried, of up to 8 invented patients.
        seed: of batches and values.
    """
    random = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=random))

    def unit(place: int) -> Unit:
        rows = [tuple(number(0, 99) for _ in range(number(4, max(5, longest)))) for _ in range(number(1, 3))]
        return Unit(str(place), tuple(rows), tuple(number(1, len(row) - 1) for row in rows))

    before = [weight.detach().clone() for weight in patients.weights]
    try:
        for weight in patients.weights:
            weight.data += 0.02 * torch.randn(weight.shape, generator=random).to(weight.device)
        probe = unit(0)
        alone = patients.gradients([probe])[0].clone()
        changed = 0
        for _ in range(compositions):
            batch = [unit(place) for place in range(1, number(2, 8))]
            place = number(0, len(batch))
            batch.insert(place, probe)
            changed += not torch.equal(patients.gradients(batch)[place], alone)
    finally:
        for weight, values in zip(patients.weights, before, strict=True):
            weight.data.copy_(values)
    return changed


def check_adapters(prepare: Callable[[Any], tuple[Any, Any]], base: Any) -> Figures:
    """Does private training move every adapter matrix, and nothing else?

    Args:
        prepare: attaches an adapter to a base and makes its `PrivateOptimizer`; returns (model, optimizer).
        base: a causal language model; `prepare` receives a copy.

    Returns:
        `{"adapter_matrices", "moved"}` after two steps: in the first, LoRA's A has no gradient yet.

    Raises:
        PrivacyError: matrices stayed as they were, or weights of the base moved.
    """
    model, optimizer = prepare(copy.deepcopy(base))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for _ in range(2):
        gradients = PatientGradients(model, torch.float32).gradients([_unit(100, 10), _unit(300, 6)])
        optimizer.add(gradients, torch.arange(2))
        optimizer.step()
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    adapters = {name for name in before if ".lora_A." in name or ".lora_B." in name}
    if moved != adapters:
        raise PrivacyError(
            f"In two steps {len(moved & adapters)} of {len(adapters)} adapter matrices moved and "
            f"{len(moved - adapters)} tensors of the base; expected were all and none. Make the optimizer last."
        )
    return {"adapter_matrices": len(adapters), "moved": len(moved)}


def check_stopping(go_on: Callable[[Sequence[float]], bool], *, steps: int) -> Figures:
    """Is the number of steps the planned one, whatever the loss on private records?

    Args:
        go_on: receives the held-out losses after each step so far; whether another step follows.
        steps: the number that was accounted for.

    Returns:
        Steps taken `{"falling", "rising"}`: while the loss falls, and while it rises.

    Raises:
        PrivacyError: the losses decide; then the length of the training tells of the records.
    """
    curves = {"falling": -1 / steps, "rising": 1 / steps}
    taken: Figures = {}
    for name, slope in curves.items():
        losses = [3 + slope * step for step in range(2 * steps)]
        taken[name] = next((step for step in range(1, 2 * steps) if not go_on(losses[:step])), 2 * steps)
    if set(taken.values()) != {steps}:
        raise PrivacyError(
            f"Training took {taken['falling']} steps with a falling loss and {taken['rising']} with a rising one; "
            f"planned and accounted for were {steps}: the number tells of the private records."
        )
    return taken


def _unit(first: int, tokens: int) -> Unit:
    return Unit(f"from {first}", (tuple(range(first, first + tokens)),))
