"""Checks for parts of private training: hand over your own variant, and receive figures or a refusal.

Each check takes one part with the signature that the course's own has, looks at it from outside, and tests a
single property. The course's own parts pass all of them. To pass proves nothing beyond that property. Variants of
the optimizer have their checks in `helpers.privacy.optimizer_checks`.

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
from helpers.privacy.row_adapters import adapter_layers, own_copies
from helpers.privacy.secure_random import SecureGenerator
from helpers.privacy.units import Unit, unit_losses, unit_of_row

FALSE_ALARM = 1e-6
"""Probability at most with which a statistical check refuses a part that is right."""

BATCHES, PATIENTS, RATE = 4000, 40, 0.1

Draw = Callable[[int, float, SecureGenerator], list[int]]
Losses = Callable[..., torch.Tensor]
Figures = dict[str, float]


def check_sampler(draw: Draw, *, seed: int) -> Figures:
    """Is every patient drawn by a coin of its own, as accountants of Poisson sampling take for granted?

    Batch sizes, patients, pairs of patients and draws in two batches running are each compared with their binomial
    distribution, exactly and corrected for their number. Batches of constant size, shuffling and drawing until
    somebody comes are found with near certainty.

    Args:
        draw: like `helpers.privacy.units.draw`, called as `draw(patients, sample_rate, generator)`.
        seed: of the generator it receives.

    Returns:
        `{"batches", "mean_size", "variance", "expected_variance", "empty"}`.

    Raises:
        PrivacyError: with the count that a coin for each patient does not explain.
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
            f"{trials * chances[worst]:.0f} with a coin for each patient."
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
        drawn.append(make_generator().normal(1000, 1.0))
    if torch.equal(*drawn):
        raise PrivacyError(
            "Two trainings with one configuration drew the same 1,000 values of noise, expected were others: whoever "
            "knows the configuration can subtract them."
        )
    return {"equal": float((drawn[0] == drawn[1]).float().mean())}


def check_loss_scale(losses: Losses, model: Any, *, pad_token: int = 0) -> Figures:
    """Does a patient weigh the same beside others with many tokens as beside others with few?

    Args:
        losses: like `helpers.privacy.units.unit_losses`.
        model: a causal language model in evaluation mode.
        pad_token: handed to `losses`.

    Returns:
        `{"beside_short", "beside_long"}`: the patient's loss, in nats.

    Raises:
        PrivacyError: the two differ by more than 2 %, more than the padding does in bf16.
    """
    short, long = _unit(300, 10), _unit(300, 100)
    beside_short, beside_long = (_loss(losses, model, [_unit(100, 10), other], 0, pad_token) for other in (short, long))
    if not np.isclose(beside_long, beside_short, rtol=0.02):
        raise PrivacyError(
            f"A patient's loss was {beside_short:.4g} beside one of 10 tokens and {beside_long:.4g} beside one of 100, "
            "expected were equal ones: the tokens of others scale its gradient, and clipping bounds nothing."
        )
    return {"beside_short": beside_short, "beside_long": beside_long}


def check_independence(losses: Losses, model: Any, *, pad_token: int = 0) -> Figures:
    """Does a patient's loss stay the same when another's record is exchanged for one of equal length?

    Args:
        losses: like `helpers.privacy.units.unit_losses`.
        model: a causal language model in evaluation mode.
        pad_token: handed to `losses`.

    Returns:
        `{"change"}`: largest change, as a share of the loss.

    Raises:
        PrivacyError: it changed by more than a ten-thousandth: the model read one patient to predict another.
    """
    probe, changes = _unit(100, 10), []
    for place in (0, 1):
        pairs = [[other, probe] if place else [probe, other] for other in (_unit(300, 10), _unit(500, 10))]
        one, two = (_loss(losses, model, pair, place, pad_token) for pair in pairs)
        changes.append(abs(one - two) / abs(one))
    change = float(np.max(changes))
    if not change <= 1e-4:
        raise PrivacyError(
            f"A patient's loss changed by {change:.2%} when another patient's record was exchanged, expected was no "
            "change: the model reads one patient to predict the other."
        )
    return {"change": change}


def check_adapters(prepare: Callable[[Any], tuple[Any, Any]], base: Any) -> Figures:
    """Does private training move every adapter matrix, and nothing else?

    Args:
        prepare: attaches an adapter to a base and makes its `UnitOptimizer`; returns (model, optimizer).
        base: a causal language model; `prepare` receives a copy.

    Returns:
        `{"adapter_matrices", "moved"}` after two steps: in the first, LoRA's A has no gradient yet.

    Raises:
        PrivacyError: matrices stayed as they were, or weights of the base moved.
    """
    model, optimizer = prepare(copy.deepcopy(base))
    layers, units = adapter_layers(model), [_unit(100, 10), _unit(300, 6)]
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for _ in range(2):
        with own_copies(layers, len(unit_of_row(units)), torch.float32):
            unit_losses(model, units, pad_token=0).sum().backward()
        optimizer.unit_of_row = unit_of_row(units)
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    adapters = {f"{name}.weight" for name in layers}
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


def _loss(losses: Losses, model: Any, units: list[Unit], place: int, pad_token: int) -> float:
    with torch.no_grad():
        return float(losses(model, units, pad_token=pad_token)[place])
