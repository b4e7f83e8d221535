"""Fit an adapter to patients' records: with differential privacy, or without as the non-private baseline.

Both use the same model code, steps and expected batch. The private one draws patients by Poisson sampling and steps by
`helpers.privacy.mechanism`; the baseline is ordinary training, passes over shuffled patients.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import nn
from transformers import set_seed

from helpers.config import Privacy
from helpers.data.example import Example
from helpers.errors import PrivacyError
from helpers.files import Record, write_atomic
from helpers.models.find import load_tokenizer
from helpers.models.hot_test import due, hot_test
from helpers.models.load import add_adapter, load_base
from helpers.models.precision import best_device, compute_dtype
from helpers.privacy.accounting import Cost
from helpers.privacy.ghosts import GHOSTS, Ghosts
from helpers.privacy.layout import BLOCK
from helpers.privacy.mechanism import SLACK, PrivateOptimizer, clipped_sum, grid_of, hand_out, noisy_sum
from helpers.privacy.patient_gradients import PatientGradients
from helpers.privacy.secure_random import SecureGenerator
from helpers.privacy.self_checks import check_batch_composition, check_noisy_sum
from helpers.privacy.units import Unit, draw, encode_units, shuffled
from helpers.progress import tqdm

MECHANISM = f"Poisson sampling and exact rounded noise from AES-256; slack {SLACK}, blocks of {BLOCK}, {GHOSTS} ghosts"
"""How a private step is made, as far as settings do not say. It is part of a training's identity: whoever changes what
a step draws, clips or adds changes it too, so that no training goes on from steps that another code made."""

LARGEST_LOSS = 8.0
"""Nats a token at which a patient's validation loss is cut, so that one patient can move the mean by so much at most;
a model that guesses among 3,000 tokens has 8."""

Step = Callable[[Sequence[Unit]], list[Unit]]


@dataclass(frozen=True)
class Recipe:
    """What decides the trained weights, but for the records."""

    base_name: str  # the frozen base; see `helpers.models.find.resolve_model`
    target_modules: str | list[str]  # `all-linear` or names of layers
    settings: Privacy
    cost: Cost | None  # as planned, and as the ledgers have it; None for the baseline
    seed: int  # of the adapter's first values, and of the order of the baseline's patients
    threads: int | None  # of the CPU; None leaves torch's choice

    @property
    def expected_batch(self) -> float:
        """Patients in a step on average: the divisor, whatever number was drawn."""
        return min(self.settings.patients_a_step, self.settings.patients_expected or float("inf"))


SAVED = ("steps", "ghosts", "log", "tokens")


class Training:
    """A model made ready for one training; `run` trains it. To make it costs no budget: no record is read.

    Raises PrivacyError if the model cannot be trained privately, or not on this machine.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, settings = recipe, recipe.settings
        if recipe.cost:  # ghosts see only their own numbers; this sees noise that repeats in others (two blocks' worth)
            check_noisy_sum(noisy_sum, numbers=2**18, noise_multiplier=recipe.cost.noise_multiplier)
        self.tokenizer = load_tokenizer(recipe.base_name)
        device = best_device()
        for dtype in dict.fromkeys((compute_dtype(device), torch.float32)):
            set_seed(recipe.seed)
            self.model = adapted_model(recipe, dtype)
            torch.set_num_threads(2 ** (torch.get_num_threads().bit_length() - 1))  # threads share whole blocks
            self.patients = PatientGradients(self.model, dtype)
            try:
                self._check_on_moved_weights()
                break
            except PrivacyError as error:
                refused = error
        else:
            raise PrivacyError(
                f"Patients' gradients cannot be kept apart on this {device}, not even in fp32. No budget was spent. "
                f"{refused} Where the device is the cause, train on a CPU: ACCELERATE_USE_CPU=true in front of the "
                "command."
            )
        rate = settings.baseline_learning_rate if recipe.cost is None else settings.learning_rate
        self.optimizer = torch.optim.AdamW(self.patients.weights, lr=rate, weight_decay=0.0, fused=True)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: _schedule(step, settings.steps))
        self.steps = 0  # each counted where its noise was drawn
        self.tokens = 0  # learnt tokens of all steps; equal records are computed, and counted, once. Private
        self.ghosts: dict[str, torch.Tensor] = {}  # what the mechanism's audit needs; empty in the baseline
        self.log: list[Record] = []  # see `measure`
        self.hot_test: list[Record] = []  # see `run`

    def _check_on_moved_weights(self) -> None:
        """Check independence with an adapter that changes something: LoRA's B is zero at first."""
        before = [weight.detach().clone() for weight in self.patients.weights]
        for weight in self.patients.weights:
            weight.data += 0.02 * torch.randn_like(weight)
        for computed in (self.patients.gradients, self.patients.losses):
            check_batch_composition(computed, longest=self.recipe.settings.max_length_tokens)
        for weight, values in zip(self.patients.weights, before, strict=True):
            weight.data.copy_(values)

    def run(
        self,
        checkpoint: Path,
        identity: str,
        examples: Sequence[Example],
        validation: Sequence[Example],
        title: str,
        *,
        questions: Sequence[Example] = (),
        points: int = 0,
    ) -> None:
        """Take all steps; the model is then as after the last one.

        A killed training goes on from `checkpoint`. A private one gets a new key of the operating system at every
        start, so that no noise is used twice; each checkpoint replaces the one before, and steps after the last one
        are lost with the process, so that no two continuations of one state are ever on the disk. A checkpoint of
        another `identity`, a digest of records and settings, is refused. `validation` may be empty. `questions` are
        answered at `points` of the training, into `hot_test`; they must be about nobody.
        """
        settings, limit = self.recipe.settings, self.recipe.settings.max_length_tokens
        units = encode_units(examples, self.tokenizer, max_length_tokens=limit)
        held_out = encode_units(validation, self.tokenizer, max_length_tokens=limit) if validation else []
        generator = SecureGenerator()
        self._resume(checkpoint, identity)
        take_step = self.baseline_step if self.recipe.cost is None else self.private_step(self.recipe.cost, generator)
        with tqdm(total=settings.steps, initial=self.steps, desc=f"train {title}", unit="step") as bar:
            self._ask(questions, points)
            while self.steps < settings.steps:
                for unit in take_step(units):
                    self.tokens += sum(len(row) - begin for row, begin in unit.distinct)
                self.optimizer.zero_grad()
                self.scheduler.step()
                if held_out and _due(self.steps, settings.steps, settings.scores):
                    self.measure(held_out, generator)
                self._ask(questions, points)
                if _due(self.steps, settings.steps, settings.checkpoints):
                    self._save(checkpoint, identity)
                bar.update()
        self.model.eval()

    def private_step(self, cost: Cost, generator: SecureGenerator) -> Step:
        """What takes one private step: draws among the patients it is given, trains on them and returns them."""
        settings = self.recipe.settings
        mechanism = PrivateOptimizer(
            self.optimizer,
            noise_multiplier=cost.noise_multiplier,
            max_grad_norm=settings.max_grad_norm,
            expected_batch=self.recipe.expected_batch,
            generator=generator,
            ghosts=GHOSTS,
        )
        ghosts = Ghosts(cost, self.ghosts or Ghosts.drawn(generator))
        self.ghosts = ghosts.state

        def step(units: Sequence[Unit]) -> list[Unit]:
            places = draw(len(units) + len(ghosts.members), cost.sample_rate, generator)
            drawn = [units[place] for place in places if place < len(units)]
            for part in parts(drawn, settings.physical_rows):
                mechanism.add(self.patients.gradients(part), torch.arange(len(part)))
            visited = [ghosts.members[place - len(units)] for place in places if place >= len(units)]
            mechanism.add(*ghosts.gradients(visited, settings.max_grad_norm), first=mechanism.numbers)
            ghosts.watch(mechanism.step(), settings.max_grad_norm / self.recipe.expected_batch)
            self.steps += 1
            return drawn

        return step

    def baseline_step(self, units: Sequence[Unit]) -> list[Unit]:
        """Take one ordinary step on the patients whose turn it is, and return them."""
        settings, weights = self.recipe.settings, self.patients.weights
        size = max(1, round(self.recipe.expected_batch))
        drawn = [units[place] for place in shuffled(len(units), size, self.steps, self.recipe.seed)]
        sums = [self.patients.gradients(part).sum(dim=0) for part in parts(drawn, settings.physical_rows)]
        hand_out(sum(sums) / size, weights)
        torch.nn.utils.clip_grad_norm_(weights, settings.baseline_max_grad_norm)
        self.optimizer.step()
        self.steps += 1
        return drawn

    def measure(self, held_out: Sequence[Unit], generator: SecureGenerator) -> None:
        """Log the mean loss per token of validation patients: `{"step", "heldout_loss"}` and, if private, `"patients"`.

        In a private training the sum of losses and the number of patients are both noised.
        """
        cost = self.recipe.cost
        self.model.eval()
        batches = parts(held_out, self.recipe.settings.physical_rows)
        losses = torch.cat([self.patients.losses(part) for part in batches])
        self.model.train()
        losses /= torch.tensor([float(len(unit.rows)) for unit in held_out])
        row: Record = {"step": self.steps}
        if cost is None:
            row["heldout_loss"] = float(losses.clamp(max=LARGEST_LOSS).mean())
        else:
            assert cost.validation_noise is not None  # for the type checker: measured only where it was planned
            shares = losses.nan_to_num(LARGEST_LOSS).clamp(0, LARGEST_LOSS) / LARGEST_LOSS
            pairs = torch.stack([shares, torch.ones_like(shares)], dim=1) * 0.5**0.5  # a patient's: 1 long at most
            total = clipped_sum(pairs, max_grad_norm=1.0, grid=grid_of(cost.validation_noise))
            noisy = noisy_sum(total, noise_std=cost.validation_noise, generator=generator, largest=2**52) * 2**0.5
            row["patients"] = float(noisy[1])
            counts = [other["patients"] for other in [*self.log, row]]
            row["heldout_loss"] = LARGEST_LOSS * float(noisy[0]) / max(1.0, sum(counts) / len(counts))
        self.log.append(row)

    def _ask(self, questions: Sequence[Example], points: int) -> None:
        if due(self.steps, self.recipe.settings.steps, points) and self.steps not in (r["step"] for r in self.hot_test):
            self.hot_test += hot_test(self.model, self.tokenizer, questions, self.steps)

    def _save(self, checkpoint: Path, identity: str) -> None:
        state: dict[str, Any] = {name: getattr(self, name) for name in SAVED}
        state |= {"identity": identity, "hot_test": self.hot_test}
        state["weights"] = [weight.detach() for weight in self.patients.weights]
        state["optimizer"] = self.optimizer.state_dict()
        state["scheduler"] = self.scheduler.state_dict()
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(checkpoint, buffer.getvalue())

    def _resume(self, checkpoint: Path, identity: str) -> None:
        """Put the last state in place, if there is one."""
        if not checkpoint.exists() or not checkpoint.stat().st_size:  # empty: the budget is reserved, no step was saved
            return
        try:
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        except Exception:  # damaged in one of many ways
            state = {}
        if state.get("identity") != identity:
            raise PrivacyError(
                f"{checkpoint} is damaged, or belongs to other records, settings or code. Training on from it would "
                "void the guarantee. Choose another RUN folder, or delete the folder it lies in to train anew, at a "
                "new cost."
            )
        for weight, saved in zip(self.patients.weights, state["weights"], strict=True):
            weight.data.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        for name in SAVED:
            setattr(self, name, state[name])
        self.hot_test = state.get("hot_test", [])  # older states have none


def adapted_model(recipe: Recipe, dtype: torch.dtype) -> Any:
    """Load the base and put a trainable adapter in fp32 on it; nothing in it is dropped at random.

    Base, then adapter, then optimizer: in any other order private training may train nothing (opacus #820).
    """
    settings = recipe.settings
    base = load_base(recipe.base_name, quantisation=settings.quantisation, threads=recipe.threads, dtype=dtype)
    lora = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules=recipe.target_modules, task_type="CAUSAL_LM"
    )
    model = add_adapter(base, lora, recipe.base_name).train()
    if settings.gradient_checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": True})
    for module in model.modules():  # masks would depend on who else was drawn
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return model


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
