"""Fit an adapter to patients' records: with differential privacy, or without as its non-private twin.

Both go through the same model code, number of steps and expected batch. The private one draws patients by coins, clips
what each contributes and adds noise (`helpers.privacy.unit_optimizer`); the twin is ordinary training, passes over
shuffled patients, and shows what is learnt, and leaked, without.
"""

from __future__ import annotations

import copy
import io
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft.helpers import disable_input_dtype_casting
from tqdm import tqdm
from transformers import set_seed

from helpers.errors import PrivacyError
from helpers.files import Record, write_atomic
from helpers.models import load_tokenizer
from helpers.precision import private_dtype
from helpers.privacy.private_model import adapted_model, refuse_dropout, refuse_shared_positions
from helpers.privacy.row_adapters import adapter_layers, own_copies
from helpers.privacy.secure_random import SecureGenerator
from helpers.privacy.unit_optimizer import ROOM, UnitOptimizer
from helpers.privacy.units import Unit, draw, encode_units, micro_batches, shuffled, unit_losses, unit_of_row

MECHANISM = f"coins and noise from AES-256; clipped with room of {ROOM} of the norm"
"""How a private step is made, as far as settings do not say. It is part of a training's identity: whoever changes what
a step draws, clips or adds changes it too, so that no training goes on from steps that another code made."""


@dataclass
class Evidence:
    """What a private training really did, step by step; `helpers.privacy.release` compares it with the plan.

    Attributes:
        units: patients that could be drawn.
        sample_rates: the probability with which each step drew a patient.
        drawn: how many it drew.
        noise_stds: standard deviation of the noise found in the gradient, over patients' sum.
        noise_worst: how far the noise of the least likely tensor was off; see `UnitOptimizer`.
        noise_prints: a digest of that noise.
        accounted: (noise multiplier, sample rate) that the accountant was told.
        not_finite: patients' gradients left out because they were not finite, over all steps.
        times_drawn: for each patient, how often it was drawn.
    """

    units: int = 0
    sample_rates: list[float] = field(default_factory=list)
    drawn: list[int] = field(default_factory=list)
    noise_stds: list[float] = field(default_factory=list)
    noise_worst: list[float] = field(default_factory=list)
    noise_prints: list[str] = field(default_factory=list)
    accounted: list[tuple[float, float]] = field(default_factory=list)
    not_finite: int = 0
    times_drawn: dict[str, int] = field(default_factory=dict, repr=False)


@dataclass
class Trained:
    """A trained adapter, still in memory.

    Attributes:
        model: the PeftModel after the last step.
        tokenizer: its tokenizer.
        evidence: see `Evidence`.
        log: a row for each measurement `score` made: `{"step", "heldout_loss"}`.
        best: adapter tensors at the lowest held-out loss; empty without `score`.
        tokens: learnt tokens, all steps together; equal records of a patient are computed, and counted, once.
        seconds: of all steps, measurements left out.
    """

    model: Any
    tokenizer: Any
    evidence: Evidence
    log: list[Record] = field(default_factory=list)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0


def train_units(
    checkpoint: Path,
    *,
    identity: str,
    base_name: str,
    quantisation: str,
    records: Sequence[Record],
    noise_multiplier: float | None,
    max_grad_norm: float | None,
    steps: int,
    sample_rate: float,
    rank: int,
    alpha: float,
    dropout: float,
    target_modules: str | list[str],
    learning_rate: float,
    physical_rows: int,
    max_length_tokens: int,
    gradient_checkpointing: bool,
    checkpoints: int,
    seed: int,
    score: Callable[[Any, Any], float] | None = None,
    scores: int = 0,
    threads: int | None = None,
    title: str = "private",
) -> Trained:
    """Train for `steps` steps, each on patients drawn by coins of their own; the twin takes them from a shuffled list.

    A killed training goes on from `checkpoint`. The private one draws coins and noise from generators that get a
    new key of the operating system at every start, so that no noise is ever used twice; the state after a step
    replaces the one before, so that no two continuations of one state can be compared.

    Args:
        checkpoint: the file that holds the last state.
        identity: digest of records, settings and purpose; a checkpoint with another one is refused.
        base_name: the frozen base; see `helpers.models.resolve_model`.
        quantisation: `none` or `nf4`.
        records: see `helpers.privacy.units.encode_units`.
        noise_multiplier: standard deviation of the noise over `max_grad_norm`; None for the twin.
        max_grad_norm: longest gradient a patient may contribute to a step; for the twin, longest gradient of a whole
            batch, or None to take it as it is.
        steps: optimizer steps, empty batches included.
        sample_rate: probability that a step draws a patient, above 0 and up to 1; the twin takes this share of all.
        rank: columns of each adapter matrix.
        alpha: the adapter's output is scaled by alpha / rank.
        dropout: of the adapter's input, 0 to 1.
        target_modules: `all-linear` or names of layers.
        learning_rate: the highest of AdamW, after a short rise; then it falls linearly to zero.
        physical_rows: records computed at once; changes memory and speed only.
        max_length_tokens: longest record.
        gradient_checkpointing: compute activations twice instead of keeping them: less memory, a third more time.
        checkpoints: states saved over the run.
        seed: of the adapter's first values, and of the order of the twin's patients; never of private coins or noise.
        score: called with (model, tokenizer) for the held-out loss. None where held-out records are private.
        scores: how many times, spread over the run.
        threads: CPU threads; None leaves torch's choice.
        title: of the progress bar.

    Raises:
        PrivacyError: the records, the model or the checkpoint cannot be used.
    """
    if noise_multiplier is not None and max_grad_norm is None:
        raise PrivacyError(
            f"Clipping and noise go together; received max_grad_norm = None and noise_multiplier = {noise_multiplier}. "
            "Say how much a patient may add to a step."
        )
    private = noise_multiplier is not None
    tokenizer = load_tokenizer(base_name)
    units = encode_units(records, tokenizer, max_length_tokens=max_length_tokens)
    set_seed(seed)
    model = adapted_model(
        base_name, quantisation=quantisation, rank=rank, alpha=alpha, dropout=dropout, target_modules=target_modules,
        gradient_checkpointing=gradient_checkpointing, threads=threads,
    )  # fmt: skip
    if private:
        refuse_dropout(model)
        refuse_shared_positions(model.config, max_length_tokens)
    layers = adapter_layers(model)
    weights = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    trained = Trained(model, tokenizer, Evidence(units=len(units), times_drawn={unit.name: 0 for unit in units}))
    optimizer: Any = torch.optim.AdamW(weights.values(), lr=learning_rate, weight_decay=0.0, fused=True)
    expected = sample_rate * len(units)
    if private:
        optimizer = UnitOptimizer(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=expected,
            generator=SecureGenerator(),
        )
        optimizer.attach_step_hook(  # the accountant's own record, of what the optimizer really used
            lambda used: trained.evidence.accounted.append((used.noise_multiplier, sample_rate))
        )
    coins = SecureGenerator()
    dtype = private_dtype(model.device.type)
    began = _resume(checkpoint, identity, weights, optimizer, trained)
    with (
        disable_input_dtype_casting(model, active=dtype is torch.bfloat16),
        tqdm(total=steps, initial=began, desc=f"train {title}", unit="step") as bar,
    ):
        for step in range(began, steps):
            started = time.monotonic()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * _schedule(step, steps)
            if private:
                positions = draw(len(units), sample_rate, coins)
            else:
                positions = shuffled(len(units), max(1, round(expected)), step, seed)
            drawn = [units[position] for position in positions]
            trained.tokens += sum(len(row) - begin for unit in drawn for row, begin in unit.distinct)
            parts = list(micro_batches(drawn, physical_rows))
            for number, part in enumerate(parts):
                last = number == len(parts) - 1
                if not private:
                    backward_part(model, part, tokenizer, dtype, expected)
                    if not last:
                        continue
                    if max_grad_norm is not None:
                        torch.nn.utils.clip_grad_norm_(weights.values(), max_grad_norm)
                else:
                    with own_copies(layers, len(unit_of_row(part)), dtype):
                        backward_part(model, part, tokenizer, dtype, 1.0)
                    optimizer.unit_of_row = unit_of_row(part)
                    optimizer.signal_skip_step(do_skip=not last)
                optimizer.step()
                optimizer.zero_grad()
            _note(trained.evidence, drawn, sample_rate, optimizer)
            trained.seconds += time.monotonic() - started
            done = step + 1
            if score is not None and _due(done, steps, max(1, scores)):
                _measure(trained, weights, score, done, dtype)
            if _due(done, steps, checkpoints):
                _save(checkpoint, identity, done, weights, optimizer, trained)
            bar.update()
    model.eval()
    return trained


def _schedule(step: int, steps: int) -> float:
    """Rise over the first twentieth of the steps, then fall to zero: the last steps leave little noise behind."""
    rise = max(1, steps // 20)
    return min((step + 1) / rise, (steps - step) / max(1, steps - rise))


def _due(done: int, steps: int, times: int) -> bool:
    """Whether what happens `times` times over `steps` steps, the last of them included, happens after step `done`."""
    return done * times // steps > (done - 1) * times // steps


def backward_part(model: Any, part: list[Unit], tokenizer: Any, dtype: torch.dtype, divisor: float) -> None:
    """Forward and backward pass of a micro-batch: gradients of the patients' summed losses over `divisor`."""
    if not part:
        return
    with _autocast(model, dtype):
        losses = unit_losses(model, part, pad_token=tokenizer.pad_token_id)
    (losses.sum() / divisor).backward()


def _autocast(model: Any, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Autocast for one forward pass: kept open longer, it would go on using the adapters as they were at first."""
    return torch.autocast(model.device.type, dtype=dtype) if dtype is torch.bfloat16 else nullcontext()


def _note(evidence: Evidence, drawn: list[Unit], sample_rate: float, optimizer: Any) -> None:
    evidence.sample_rates.append(sample_rate)
    evidence.drawn.append(len(drawn))
    for unit in drawn:
        evidence.times_drawn[unit.name] += 1
    if isinstance(optimizer, UnitOptimizer):
        evidence.noise_stds.append(optimizer.noise_stds[-1])
        evidence.noise_worst.append(optimizer.noise_worst[-1])
        evidence.noise_prints.append(optimizer.noise_prints[-1])
        evidence.not_finite += optimizer.not_finite
        optimizer.not_finite = 0


def _measure(
    trained: Trained, weights: dict[str, Any], score: Callable[[Any, Any], float], step: int, dtype: torch.dtype
) -> None:
    trained.model.eval()
    with _autocast(trained.model, dtype):
        loss = score(trained.model, trained.tokenizer)
    trained.model.train()
    if all(loss < row["heldout_loss"] for row in trained.log):
        trained.best = {name: weight.detach().clone().cpu() for name, weight in weights.items()}
    trained.log.append({"step": step, "heldout_loss": loss})


def _save(
    checkpoint: Path, identity: str, step: int, weights: dict[str, Any], optimizer: Any, trained: Trained
) -> None:
    buffer = io.BytesIO()
    state = {
        "identity": identity,
        "step": step,
        "weights": {name: weight.detach() for name, weight in weights.items()},
        "optimizer": optimizer.state_dict(),
        "evidence": asdict(trained.evidence),
        "log": trained.log,
        "best": trained.best,
        "tokens": trained.tokens,
        "seconds": trained.seconds,
    }
    torch.save(state, buffer)
    write_atomic(checkpoint, buffer.getvalue())


def _resume(checkpoint: Path, identity: str, weights: dict[str, Any], optimizer: Any, trained: Trained) -> int:
    """Put the last state in place and return its step; 0 without one."""
    if not checkpoint.exists() or not checkpoint.stat().st_size:  # empty: the budget is reserved, no step was saved
        return 0
    try:
        state = torch.load(checkpoint, weights_only=True)
    except Exception:  # damaged in one of many ways
        state = {}
    if state.get("identity") != identity:
        raise PrivacyError(
            f"{checkpoint} is damaged, or belongs to other records, settings or code. Training on from it would void "
            "the guarantee. Choose another RUN folder, or delete the folder it lies in to train anew, at a new cost."
        )
    for name, weight in weights.items():
        weight.data.copy_(state["weights"][name])
    optimizer.load_state_dict(state["optimizer"])
    trained.evidence = Evidence(**copy.deepcopy(state["evidence"]))
    trained.evidence.accounted = [(noise, rate) for noise, rate in trained.evidence.accounted]
    trained.log, trained.best = state["log"], state["best"]
    trained.tokens, trained.seconds = state["tokens"], state["seconds"]
    return int(state["step"])
