"""Fit an adapter to patients' records: with differential privacy, or without as the non-private baseline.

Both use the same model code, steps and expected batch. The private one draws patients by Poisson sampling and steps by
`helpers.privacy.mechanism`; the baseline is ordinary training, passes over shuffled patients.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import set_seed

from helpers.errors import PrivacyError
from helpers.files import Record, write_atomic
from helpers.models import load_tokenizer
from helpers.precision import best_device, compute_dtype
from helpers.privacy.ghosts import GHOSTS, Ghosts
from helpers.privacy.mechanism import SLACK, PrivateOptimizer, clipped_sum, grid_of, noisy_sum
from helpers.privacy.patient_gradients import BLOCK, PatientGradients
from helpers.privacy.private_model import adapted_model, refuse_dropout, refuse_shared_positions
from helpers.privacy.secure_random import SecureGenerator
from helpers.privacy.self_checks import batch_composition_changes
from helpers.privacy.units import Unit, draw, encode_units, shuffled

MECHANISM = f"Poisson sampling and exact rounded noise from AES-256; slack {SLACK}, blocks of {BLOCK}, {GHOSTS} ghosts"
"""How a private step is made, as far as settings do not say. It is part of a training's identity: whoever changes what
a step draws, clips or adds changes it too, so that no training goes on from steps that another code made."""

LARGEST_LOSS = 8.0
"""Nats a token at which a patient's validation loss is cut, so that one patient can move the mean by so much at most;
a model that guesses among 3,000 tokens has 8."""


Step = Callable[..., list[Unit]]


@dataclass(frozen=True)
class Recipe:
    """What decides the trained weights, but for the records; `threads` and those marked so change no result.

    Attributes:
        base_name: the frozen base; see `helpers.models.resolve_model`.
        quantisation: `none` or `nf4`.
        rank: columns of each adapter matrix.
        alpha: the adapter's output is scaled by alpha / rank.
        dropout: of the adapter's input; private training takes 0 only.
        target_modules: `all-linear` or names of layers.
        learning_rate: the highest of AdamW, after a short rise; then it falls linearly to zero.
        steps: optimizer steps, empty batches included.
        expected_batch: patients in a step on average; the divisor.
        sample_rate: probability that a step draws a patient, above 0 and up to 1; unused in the baseline.
        noise_multiplier: standard deviation of the noise over `max_grad_norm`; None for the baseline.
        max_grad_norm: longest gradient a patient may add to a step; in the baseline, longest mean of a batch.
        validation_noise: standard deviation of the noise on a measured loss, in patients; None for the baseline.
        scores: measurements of the loss on validation patients, spread over the run.
        max_length_tokens: longest record.
        seed: of the adapter's first values, and of the order of the baseline's patients.
        physical_rows: records computed at once (no result).
        gradient_checkpointing: compute activations twice instead of keeping them (no result).
        checkpoints: states saved over the run (no result).
        threads: CPU threads; None leaves torch's choice.
    """

    base_name: str
    quantisation: str
    rank: int
    alpha: float
    dropout: float
    target_modules: str | list[str]
    learning_rate: float
    steps: int
    expected_batch: float
    sample_rate: float
    noise_multiplier: float | None
    max_grad_norm: float
    validation_noise: float | None
    scores: int
    max_length_tokens: int
    seed: int
    physical_rows: int
    gradient_checkpointing: bool
    checkpoints: int
    threads: int | None


@dataclass
class Trained:
    """What a training did so far; all of it but `model` and `tokenizer` stands in its checkpoint.

    Attributes:
        model: the PeftModel.
        tokenizer: its tokenizer.
        steps: taken, each counted where its noise was drawn.
        ghosts: bits and scores of the mechanism's audit; empty in the baseline.
        log: a row for each measurement: `{"step", "heldout_loss"}`, noised in a private training.
        counts: numbers of validation patients, noised like the losses.
        best: adapter tensors at the lowest loss, in the baseline only: to choose by a noised loss gains nothing.
        times_drawn: for each patient, how often it was drawn. Private.
        tokens: learnt tokens, all steps together; equal records are computed, and counted, once. Private.
        seconds: of all steps, measurements left out. Private.
    """

    model: Any
    tokenizer: Any
    steps: int = 0
    ghosts: dict[str, Any] = field(default_factory=dict)
    log: list[Record] = field(default_factory=list)
    counts: list[float] = field(default_factory=list)
    best: list[torch.Tensor] = field(default_factory=list, repr=False)
    times_drawn: dict[str, int] = field(default_factory=dict, repr=False)
    tokens: int = 0
    seconds: float = 0.0


class Training:
    """A model made ready for one training; `run` trains it. To make it costs no budget: no record is read.

    Raises:
        PrivacyError: the model cannot be trained privately, or not on this machine.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.private = recipe, recipe.noise_multiplier is not None
        self.tokenizer = load_tokenizer(recipe.base_name)
        device = best_device()
        for dtype in dict.fromkeys((compute_dtype(device), torch.float32)):
            set_seed(recipe.seed)
            self.model = adapted_model(recipe, dtype)
            torch.set_num_threads(2 ** (torch.get_num_threads().bit_length() - 1))  # see `patient_gradients`
            if self.private:
                refuse_dropout(self.model)
                refuse_shared_positions(self.model.config, recipe.max_length_tokens)
            self.patients = PatientGradients(self.model, dtype)
            if not batch_composition_changes(self.patients, longest=recipe.max_length_tokens):
                break
        else:
            raise PrivacyError(
                f"On this {device} a patient's gradient depends on who else is in the batch, in {dtype} too. The "
                "guarantee cannot be shown to hold here, and nothing was paid. Train on a CPU: ACCELERATE_USE_CPU=true "
                "in front of the command."
            )
        weights = self.patients.weights
        self.optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=0.0, fused=True)
        self.trained = Trained(self.model, self.tokenizer)

    def run(
        self, checkpoint: Path, identity: str, records: Sequence[Record], validation: Sequence[Record], title: str
    ) -> Trained:
        """Take all steps, and return the model after the last one.

        A killed training goes on from `checkpoint`. A private one draws patients and noise from generators that get a
        new key of the operating system at every start, so that no noise is used twice; the state after a step replaces
        the one before, so that no two continuations of one state can be compared.

        Args:
            checkpoint: the file that holds the last state.
            identity: digest of records, settings and purpose; a checkpoint with another one is refused.
            records: see `helpers.privacy.units.encode_units`.
            validation: of other patients; may be empty.
            title: of the progress bar.

        Raises:
            PrivacyError: records or checkpoint cannot be used.
        """
        recipe, trained = self.recipe, self.trained
        limit = recipe.max_length_tokens
        units = encode_units(records, self.tokenizer, max_length_tokens=limit)
        held_out = encode_units(validation, self.tokenizer, max_length_tokens=limit) if validation else []
        trained.times_drawn = {unit.name: 0 for unit in units}
        generator = SecureGenerator()
        step_of = self.private_step(generator) if self.private else self._baseline_step()
        _resume(checkpoint, identity, self.patients.weights, self.optimizer, trained)
        with tqdm(total=recipe.steps, initial=trained.steps, desc=f"train {title}", unit="step") as bar:
            while trained.steps < recipe.steps:
                started = time.monotonic()
                for group in self.optimizer.param_groups:
                    group["lr"] = recipe.learning_rate * _schedule(trained.steps, recipe.steps)
                for unit in step_of(units):
                    trained.times_drawn[unit.name] += 1
                    trained.tokens += sum(len(row) - begin for row, begin in unit.distinct)
                self.optimizer.zero_grad()
                trained.seconds += time.monotonic() - started
                if held_out and _due(trained.steps, recipe.steps, recipe.scores):
                    self._measure(held_out, generator)
                if _due(trained.steps, recipe.steps, recipe.checkpoints):
                    _save(checkpoint, identity, self.patients.weights, self.optimizer, trained)
                bar.update()
        self.model.eval()
        return trained

    def private_step(self, generator: SecureGenerator) -> Step:
        """What takes one private step: draws among the patients it is given, trains on them and returns them.

        It takes the places of those to be drawn too, ghosts behind patients, where speed is measured.
        """
        recipe, trained = self.recipe, self.trained
        assert recipe.noise_multiplier is not None  # for the type checker
        mechanism = PrivateOptimizer(
            self.optimizer,
            noise_multiplier=recipe.noise_multiplier,
            max_grad_norm=recipe.max_grad_norm,
            expected_batch=recipe.expected_batch,
            generator=generator,
            ghosts=GHOSTS,
        )
        ghosts = Ghosts(recipe.noise_multiplier, recipe.sample_rate, generator)
        trained.ghosts = {"included": ghosts.included, "scores": ghosts.scores}

        def step(units: Sequence[Unit], places: Sequence[int] | None = None) -> list[Unit]:
            ghosts.included, ghosts.scores = trained.ghosts["included"], trained.ghosts["scores"]  # of a checkpoint
            members = ghosts.members
            if places is None:
                places = draw(len(units) + len(members), recipe.sample_rate, generator)
            drawn = [units[place] for place in places if place < len(units)]
            for part in parts(drawn, recipe.physical_rows):
                mechanism.add(self.patients.gradients(part), torch.arange(len(part)))
            visited = [members[place - len(units)] for place in places if place >= len(units)]
            mechanism.add(*ghosts.gradients(visited, recipe.max_grad_norm), first=mechanism.numbers)
            ghosts.watch(mechanism.step(), recipe.max_grad_norm / recipe.expected_batch)
            trained.steps += 1
            return drawn

        return step

    def _baseline_step(self) -> Step:
        recipe, trained = self.recipe, self.trained

        def step(units: Sequence[Unit]) -> list[Unit]:
            size = max(1, round(recipe.expected_batch))
            drawn = [units[place] for place in shuffled(len(units), size, trained.steps, recipe.seed)]
            mean = sum(self.patients.gradients(part).sum(dim=0) for part in parts(drawn, recipe.physical_rows)) / size
            for weight, own in zip(self.patients.weights, self.patients.by_weight(mean), strict=True):
                weight.grad = own
            torch.nn.utils.clip_grad_norm_(self.patients.weights, recipe.max_grad_norm)
            self.optimizer.step()
            trained.steps += 1
            return drawn

        return step

    def _measure(self, held_out: Sequence[Unit], generator: SecureGenerator) -> None:
        """Mean loss a token of the validation patients; their sum and number are both noised if private."""
        trained, noise = self.trained, self.recipe.validation_noise
        self.model.eval()
        losses = torch.cat([self.patients.losses(part) for part in parts(held_out, self.recipe.physical_rows)])
        self.model.train()
        losses /= torch.tensor([float(len(unit.rows)) for unit in held_out])
        if noise is None:
            mean = float(losses.clamp(max=LARGEST_LOSS).mean())
            if all(mean < row["heldout_loss"] for row in trained.log):
                trained.best = [weight.detach().clone().cpu() for weight in self.patients.weights]
        else:
            shares = torch.stack(
                [losses.nan_to_num(LARGEST_LOSS).clamp(0, LARGEST_LOSS) / LARGEST_LOSS, torch.ones_like(losses)], 1
            )
            total = clipped_sum(shares * 0.5**0.5, max_grad_norm=1.0, grid=grid_of(noise))  # a patient: 1 at most
            loss, count = (noisy_sum(total, noise_std=noise, generator=generator, largest=2**52) * 2**0.5).tolist()
            trained.counts.append(count)
            mean = LARGEST_LOSS * loss / max(1.0, sum(trained.counts) / len(trained.counts))
        trained.log.append({"step": trained.steps, "heldout_loss": mean})


def parts(units: Sequence[Unit], rows: int) -> Iterator[list[Unit]]:
    """Cut patients into parts of at most `rows` different records, none split; a longer one is a part of its own."""
    part: list[Unit] = []
    for unit in units:
        if part and sum(len(each.distinct) for each in part) + len(unit.distinct) > rows:
            yield part
            part = []
        part.append(unit)
    if part:
        yield part


def _schedule(step: int, steps: int) -> float:
    """Rise over the first twentieth of the steps, then fall to zero: the last steps leave little noise behind."""
    rise = max(1, steps // 20)
    return min((step + 1) / rise, (steps - step) / max(1, steps - rise))


def _due(done: int, steps: int, times: int) -> bool:
    """Whether what happens `times` times over `steps` steps, the last of them included, happens after step `done`."""
    return done * times // steps > (done - 1) * times // steps


SAVED = ("steps", "ghosts", "log", "counts", "best", "times_drawn", "tokens", "seconds")


def _save(
    checkpoint: Path, identity: str, weights: Sequence[torch.Tensor], optimizer: torch.optim.Optimizer, trained: Trained
) -> None:
    buffer = io.BytesIO()
    state = {name: getattr(trained, name) for name in SAVED}
    state |= {
        "identity": identity,
        "weights": [weight.detach() for weight in weights],
        "optimizer": optimizer.state_dict(),
    }
    torch.save(state, buffer)
    write_atomic(checkpoint, buffer.getvalue())


def _resume(
    checkpoint: Path, identity: str, weights: Sequence[torch.Tensor], optimizer: torch.optim.Optimizer, trained: Trained
) -> None:
    """Put the last state in place, if there is one."""
    if not checkpoint.exists() or not checkpoint.stat().st_size:  # empty: the budget is reserved, no step was saved
        return
    try:
        state = torch.load(checkpoint, weights_only=True)
    except Exception:  # damaged in one of many ways
        state = {}
    if state.get("identity") != identity:
        raise PrivacyError(
            f"{checkpoint} is damaged, or belongs to other records, settings or code. Training on from it would void "
            "the guarantee. Choose another RUN folder, or delete the folder it lies in to train anew, at a new cost."
        )
    with torch.no_grad():
        for weight, saved in zip(weights, state["weights"], strict=True):
            weight.copy_(saved)
    optimizer.load_state_dict(state["optimizer"])
    for name in SAVED:
        setattr(trained, name, state[name])
