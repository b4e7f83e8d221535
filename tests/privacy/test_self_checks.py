import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch

from helpers import open_run
from helpers.errors import PrivacyError
from helpers.models.load import load_base
from helpers.privacy import mechanism
from helpers.privacy.accounting import check_delta
from helpers.privacy.mechanism import COLUMNS, PrivateOptimizer, clipped_sum, grid_of
from helpers.privacy.release import verify
from helpers.privacy.secure_random import SecureGenerator
from helpers.privacy.self_checks import (
    check_adapters,
    check_batch_composition,
    check_clipping,
    check_generator,
    check_noisy_sum,
    check_sampler,
    check_step,
    clipped_length,
)
from helpers.privacy.units import Unit, draw

NOTEBOOK = Path(__file__).parents[2] / "02-fine_tune" / "04-break_privacy.ipynb"
Lab = dict[str, Any]
SEED = {"seed": 0}
FEWER = {"numbers": 200_000}
BREAKS: dict[str, tuple[Callable[..., Any], str, dict[str, Any], str]] = {
    "shuffled": (check_sampler, "draw", SEED, "0 of 4000 batches held exactly"),
    "optimizer_first": (check_adapters, "optimizer_last", {}, "0 of 28 adapter matrices moved and"),
    "noise_in_bf16": (check_noisy_sum, "noisy_sum", FEWER, "Last bits uniform: p = 0;"),
    "noise_in_fp32": (check_noisy_sum, "noisy_sum", FEWER, r"numbers [1-9][\d,]* are impossible"),
    "ClipsRecords": (check_clipping, "PrivateOptimizer", {}, "50 long records moved the sum by 50 times"),
    "DividesByDrawn": (check_step, "PrivateOptimizer", {}, r"drew 1 was divided by (1|1\.0\d*|0\.99\d*);"),
    "mean_over_tokens": (check_batch_composition, "losses", {}, "changed in 3 of 3 compositions"),
    "SkipsEmptyBatches": (check_step, "PrivateOptimizer", {}, "drew 0 moved 0% of the weights"),
    "packed": (check_batch_composition, "losses", {}, "changed in [23] of 3 compositions"),
    "by_batches": (check_delta, "by_patients", {}, "delta is 0.1; expected above 0 and at most 1/640"),
    "seeded": (check_generator, "SecureGenerator", SEED, "drew the same 1,000 values"),
    "sixty": (verify, "three", {}, "3 steps were taken, planned were 60"),
}
OPTIMIZERS = {name: check for name, (check, own, *_) in BREAKS.items() if own == "PrivateOptimizer"}


@pytest.fixture(scope="module")
def model(tiny: str) -> Any:
    return load_base("tiny-random", dtype=torch.float32)


@pytest.fixture(scope="module")
def lab(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """What the notebook's sandbox cells define: the breaks that readers see are the ones tested here."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    run = open_run("smoke", tmp_path_factory.mktemp("lab") / "run")
    lab: Lab = {"run": run, "HelpersError": PrivacyError, "load_base": load_base, "model": model, "seed": 0}
    for cell in cells:
        if "sandbox" in cell.metadata.get("tags", []):
            exec(cell.source, lab)
    return lab | {"by_patients": 1 / len(lab["patients"])}


def looks(check: Callable[..., Any], part: Any, options: dict[str, Any], lab: Lab, model: Any) -> Any:
    if check is verify:
        return verify(lab["stopped"], part)
    further = {check_delta: [len(lab["patients"])], check_adapters: [model]}
    return check(part, *further.get(check, []), **options)


def test_clipping_part_by_part_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_parts(gradients: torch.Tensor, **given: float) -> torch.Tensor:
        return torch.cat([clipped_sum(part.clone(), **given) for part in gradients.split(COLUMNS, dim=1)])

    monkeypatch.setattr(mechanism, "clipped_sum", by_parts)
    with pytest.raises(PrivacyError, match=r"moved the sum by 1\.7"):
        check_clipping(PrivateOptimizer)


@pytest.mark.parametrize("name", BREAKS)
def test_the_courses_own_part_passes_and_the_broken_one_is_caught(name: str, lab: Lab, model: Any) -> None:
    check, own, options, message = BREAKS[name]
    looks(check, lab[own], options, lab, model)
    with pytest.raises(PrivacyError, match=message):
        looks(check, lab[name], options, lab, model)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_broken_optimizer_is_caught_by_its_own_check_alone(name: str, lab: Lab) -> None:
    for check in set(OPTIMIZERS.values()) - {OPTIMIZERS[name]}:
        check(lab[name])


# ---------------------------------------------------------------------------------- samplers, generators, adapters


def test_right_samplers_pass_with_every_seed() -> None:
    for seed in range(1, 6):
        figures = check_sampler(draw, seed=seed)
        assert figures["variance"] == pytest.approx(figures["expected_variance"], rel=0.15) and figures["empty"] > 0


def test_other_samplers_are_caught() -> None:
    waiting: list[list[int]] = []

    def until_somebody_comes(*given: Any) -> list[int]:
        while not (batch := draw(*given)):
            pass
        return batch

    def epoch_in_bins(count: int, rate: float, generator: SecureGenerator) -> list[int]:
        if not waiting:
            bins = (generator.uniform(count) / rate).int()
            waiting.extend((bins == part).nonzero().flatten().tolist() for part in range(round(1 / rate)))
        return waiting.pop()

    def couples(count: int, rate: float, generator: SecureGenerator) -> list[int]:
        return [position for one in draw(count // 2, rate, generator) for position in (2 * one, 2 * one + 1)]

    def a_favourite(count: int, rate: float, generator: SecureGenerator) -> list[int]:
        return sorted({*draw(count, rate, generator), *draw(1, rate, generator)})

    for sampler, message in (
        (until_somebody_comes, "0 of 4000 batches held exactly 0 patients"),
        (epoch_in_bins, "a patient was drawn in two batches running"),
        (couples, "held exactly"),
        (a_favourite, "batches held patient 0;"),
        (lambda *given: [*draw(*given), 0, 0], "same patient twice"),
    ):
        with pytest.raises(PrivacyError, match=message):
            check_sampler(sampler, seed=0)


def test_a_key_that_training_seeds_is_caught() -> None:
    with pytest.raises(PrivacyError, match="drew the same"):
        check_generator(lambda: SecureGenerator(random.randbytes(32)), seed=0)


def test_a_base_that_moves_is_caught(lab: Lab, model: Any) -> None:
    def and_the_base(base: Any) -> tuple[Any, Any]:
        adapted, optimizer = lab["optimizer_last"](base)
        step = optimizer.step

        def drift() -> None:
            step()
            adapted.get_input_embeddings().weight.data += 1

        optimizer.step = drift
        return adapted, optimizer

    with pytest.raises(PrivacyError, match="28 of 28 adapter matrices moved and 1 tensors of the base"):
        check_adapters(and_the_base, model)


# ------------------------------------------------------------------------------------------------------- batches


def test_a_loss_that_is_no_number_is_not_taken_for_a_constant_one() -> None:
    with pytest.raises(PrivacyError, match="in 3 of 3 compositions of the batch, by up to nan"):
        check_batch_composition(lambda units: torch.full((len(units),), torch.nan))
    assert check_batch_composition(lambda units: torch.ones(len(units)))["largest_change"] == 0


def test_batches_differ_in_what_a_gradient_may_depend_on() -> None:
    seen: list[list[Unit]] = []

    def alone(units: list[Unit]) -> torch.Tensor:
        seen.append(units)
        return torch.tensor([[float(sum(map(sum, unit.rows)))] for unit in units])

    assert check_batch_composition(alone, longest=64, compositions=50) == {"compositions": 50, "largest_change": 0}
    batches = [units for units in seen if len(units) > 1]
    assert {len(units) for units in batches} == set(range(3, 9))
    assert all(max(len(row) for unit in units for row in unit.rows) == 64 for units in batches)
    probes = [units[0] for units in seen if len(units) == 1]
    assert {len(probe.rows) for probe in probes} == {1, 2, 3}
    assert {batch.index(probe) for batch, probe in zip(batches, probes, strict=True)} >= set(range(1, 6))
    assert {token for units in batches for unit in units for row in unit.rows for token in row} == set(range(100))


@pytest.mark.parametrize("stretched_beyond", [16, 40, 63])
def test_positions_that_depend_on_the_longest_record_are_caught(stretched_beyond: int) -> None:
    def stretched(units: list[Unit]) -> torch.Tensor:
        longest = max(len(row) for unit in units for row in unit.rows)
        return torch.full((len(units), 1), float(longest > stretched_beyond))

    for seed in range(20):
        with pytest.raises(PrivacyError, match="positions that depend on the longest record"):
            check_batch_composition(stretched, longest=64, seed=seed)


def test_memory_that_is_used_again_hides_no_change() -> None:
    kept = torch.empty(8, 3)

    def in_one_place(units: list[Unit]) -> torch.Tensor:
        kept.fill_(len(units))
        return kept[: len(units)]

    with pytest.raises(PrivacyError, match="changed in 3 of 3 compositions"):
        check_batch_composition(in_one_place)


# ------------------------------------------------------------------------------------------- clipping and division


class ClipsTheBatch(PrivateOptimizer):
    def add(self, gradients: torch.Tensor, patients: torch.Tensor, first: int = 0) -> None:
        super().add(gradients, torch.zeros_like(patients), first)


class StretchesShortOnes(PrivateOptimizer):
    def add(self, gradients: torch.Tensor, patients: torch.Tensor, first: int = 0) -> None:
        super().add(gradients * 100, patients, first)


class ClipsToTwice(PrivateOptimizer):
    def __init__(self, *given: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self.max_grad_norm *= 2


class ClipsEachNumber(PrivateOptimizer):
    def add(self, gradients: torch.Tensor, patients: torch.Tensor, first: int = 0) -> None:
        rows = torch.zeros(int(patients.max()) + 1, gradients.shape[1]).index_add_(0, patients, gradients)
        grid = grid_of(self.noise_std)
        self.sum += (rows.clamp(-self.max_grad_norm, self.max_grad_norm).double() / grid).trunc().sum(dim=0) * grid


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (ClipsTheBatch, r"Three patients .* moved the sum by (1|0\.99\d*|1\.0\d*) times"),
        (StretchesShortOnes, r"one short record moved the sum by (1|0\.99\d*|1\.0\d*) times max_grad_norm; .* 0\.1"),
        (ClipsToTwice, "50 long records moved the sum by 2 times"),
        (ClipsEachNumber, "50 long records moved the sum by"),
    ],
)
def test_other_clipping_is_caught(broken: Callable[..., Any], message: str) -> None:
    with pytest.raises(PrivacyError, match=message):
        check_clipping(broken)


def test_what_a_patient_adds_is_measured_in_clipping_norms() -> None:
    measured = partial(clipped_length, PrivateOptimizer)
    assert measured([1], length=0.25) == pytest.approx(0.25, rel=1e-3)
    assert measured([5], length=0.1) == pytest.approx(0.5, rel=1e-3)
    assert measured([50, 2], length=2) == pytest.approx(2, rel=1e-3)


class MeanOverNobody(PrivateOptimizer):
    drawn = 0.0

    def add(self, gradients: torch.Tensor, patients: torch.Tensor, first: int = 0) -> None:
        self.drawn += len(patients)
        super().add(gradients, patients, first)

    def step(self) -> torch.Tensor:
        self.expected_batch *= self.drawn / self.drawn if self.drawn else float("nan")
        return super().step()


class NeverSteps(PrivateOptimizer):
    def step(self) -> torch.Tensor:
        return torch.empty(0)


def test_an_optimizer_that_stands_still_or_loses_itself_is_caught() -> None:
    for broken in (MeanOverNobody, NeverSteps):
        with pytest.raises(PrivacyError, match="drew 0 moved 0% of the weights"):
            check_step(broken)
