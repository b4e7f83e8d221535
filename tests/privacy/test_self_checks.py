import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from opacus.optimizers import DPOptimizer

from helpers import open_run
from helpers.errors import PrivacyError
from helpers.models import load_base
from helpers.privacy.accounting import check_delta
from helpers.privacy.optimizer_checks import check_clipping, check_division, check_empty_batch, check_noise
from helpers.privacy.privacy_checks import (
    check_adapters,
    check_generator,
    check_independence,
    check_loss_scale,
    check_sampler,
    check_stopping,
)
from helpers.privacy.private import train_units
from helpers.privacy.release import verify
from helpers.privacy.row_adapters import adapter_layers, own_copies
from helpers.privacy.secure_random import SecureGenerator
from helpers.privacy.unit_optimizer import UnitOptimizer
from helpers.privacy.units import Unit, draw, unit_losses

NOTEBOOK = Path(__file__).parents[2] / "02-fine_tune" / "04-break_privacy.ipynb"
Lab = dict[str, Any]
SEED = {"seed": 0}
BREAKS: dict[str, tuple[Callable[..., Any], str, dict[str, Any], str]] = {
    "shuffled": (check_sampler, "draw", SEED, "0 of 4000 batches held exactly"),
    "optimizer_first": (check_adapters, "optimizer_last", {}, "0 of 28 adapter matrices moved and 0 tensors"),
    "NoiseInBf16": (check_noise, "UnitOptimizer", SEED, "10% of 20,000 values of the noise differ"),
    "ClipsRecords": (check_clipping, "UnitOptimizer", {}, "50 long records moved the sum by 49.5 times"),
    "DividesByDrawn": (check_division, "UnitOptimizer", {}, "A batch that drew 1 was divided by 1;"),
    "mean_over_tokens": (check_loss_scale, "unit_losses", {}, "the tokens of others scale its gradient"),
    "SkipsEmptyBatches": (check_empty_batch, "UnitOptimizer", SEED, "0% of the weights had moved"),
    "packed": (check_independence, "unit_losses", {}, "reads one patient to predict the other"),
    "by_batches": (check_delta, "by_patients", {}, "delta is 0.1; expected above 0 and at most 1/640"),
    "seeded": (check_generator, "SecureGenerator", SEED, "drew the same 1,000 values"),
    "until_it_rises": (check_stopping, "as_planned", {"steps": 60}, "60 steps with a falling loss and 2 with a rising"),
}
OPTIMIZERS = {name: check for name, (check, own, *_) in BREAKS.items() if own == "UnitOptimizer"}


@pytest.fixture(scope="module")
def lab(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """What the notebook's sandbox cells define: the breaks that readers see are the ones tested here."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    lab: Lab = {"run": open_run("smoke", tmp_path_factory.mktemp("lab") / "run"), "HelpersError": PrivacyError}
    for cell in cells:
        if "sandbox" in cell.metadata.get("tags", []):
            exec(cell.source, lab)
    return lab | {"by_patients": 1 / len(lab["patients"])}


@pytest.fixture(scope="module")
def model(tiny: str) -> Any:
    return load_base("tiny-random")


def looks(check: Callable[..., Any], part: Any, options: dict[str, Any], lab: Lab, model: Any) -> Any:
    further = {check_delta: [len(lab["patients"])]}
    on_model = check in (check_adapters, check_loss_scale, check_independence)
    return check(part, *([model] if on_model else further.get(check, [])), **options)


@pytest.mark.parametrize("name", BREAKS)
def test_the_courses_own_part_passes(name: str, lab: Lab, model: Any) -> None:
    check, own, options, _ = BREAKS[name]
    looks(check, lab[own], options, lab, model)


@pytest.mark.parametrize("name", BREAKS)
def test_the_broken_part_is_caught(name: str, lab: Lab, model: Any) -> None:
    check, _, options, message = BREAKS[name]
    with pytest.raises(PrivacyError, match=message):
        looks(check, lab[name], options, lab, model)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_broken_optimizer_is_caught_by_its_own_check_alone(name: str, lab: Lab) -> None:
    for other, check in OPTIMIZERS.items():
        if other != name:
            check(lab[name], **BREAKS[other][2])


def test_a_broken_loss_is_caught_by_its_own_check_alone(lab: Lab, model: Any) -> None:
    check_independence(lab["mean_over_tokens"], model)
    check_loss_scale(lab["packed"], model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_and_rounding_are_not_mistaken_for_a_neighbour(dtype: torch.dtype, tiny: str, lab: Lab) -> None:
    model = load_base("tiny-random").to(dtype)
    assert check_independence(unit_losses, model)["change"] < 1e-6
    figures = check_loss_scale(unit_losses, model)
    assert figures["beside_long"] == pytest.approx(figures["beside_short"], rel=1e-3)
    with pytest.raises(PrivacyError, match="reads one patient"):
        check_independence(lab["packed"], model)


def test_right_parts_pass_with_every_seed() -> None:
    for seed in range(1, 6):
        figures = check_sampler(draw, seed=seed)
        assert figures["variance"] == pytest.approx(figures["expected_variance"], rel=0.15) and figures["empty"] > 0
        figures = check_noise(UnitOptimizer, seed=seed)
        assert figures["std"] == pytest.approx(figures["expected_std"], rel=0.03) and figures["different"] > 0.999


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
        (a_favourite, "batches held patient 0,"),
        (lambda *given: [*draw(*given), 0, 0], "same patient twice"),
    ):
        with pytest.raises(PrivacyError, match=message):
            check_sampler(sampler, seed=0)


class NoiseAtEveryPart(UnitOptimizer):
    def clip_and_accumulate(self) -> None:
        super().clip_and_accumulate()
        for weight in self.params:
            weight.summed_grad += self.generator.normal(weight.numel(), 0.65).view_as(weight)


class NoiseOfEvenSpread(UnitOptimizer):
    def add_noise(self) -> None:
        for weight in self.params:
            even = self.generator.uniform(weight.numel()).float().view_as(weight) - 0.5
            weight.grad = weight.summed_grad + even * 12**0.5 * self.noise_multiplier * self.max_grad_norm


class SameNoiseAgain(UnitOptimizer):
    def add_noise(self) -> None:
        self.generator = SecureGenerator(bytes(32))
        super().add_noise()


class NoiseWithoutEnd(UnitOptimizer):
    def add_noise(self) -> None:
        super().add_noise()
        self.params[0].grad[0, 0] = torch.nan


class NoiseTooSmall(UnitOptimizer):
    def add_noise(self) -> None:
        self.noise_multiplier *= 0.95
        super().add_noise()
        self.noise_multiplier /= 0.95


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (NoiseAtEveryPart, "standard deviation of"),
        (NoiseTooSmall, "standard deviation of"),
        (NoiseOfEvenSpread, "not Gaussian"),
        (SameNoiseAgain, "Only 50% of 20,000"),
        (NoiseWithoutEnd, "standard deviation of nan"),
        (partial(UnitOptimizer, loss_reduction="sum"), r"standard deviation of 0\.6[45]"),  # twice the right one
    ],
)
def test_other_noise_is_caught(broken: Callable[..., Any], message: str) -> None:
    for seed in range(3):
        with pytest.raises(PrivacyError, match=message):
            check_noise(broken, seed=seed)


def test_opacus_optimizer_clips_records_and_does_the_rest_right() -> None:
    def opacus(*given: Any, generator: SecureGenerator, **settings: Any) -> DPOptimizer:
        return DPOptimizer(*given, generator=torch.Generator().manual_seed(0), **settings)  # it knows no other kind

    check_noise(opacus, seed=0)
    check_division(opacus)
    check_empty_batch(opacus, seed=0)
    with pytest.raises(PrivacyError, match="moved the sum by 50 times"):
        check_clipping(opacus)


class MeanOverNobody(UnitOptimizer):
    def clip_and_accumulate(self) -> None:
        self.drawn = torch.tensor(float(len(self.unit_of_row)))
        super().clip_and_accumulate()

    def scale_grad(self) -> None:
        for weight in self.params:
            weight.grad *= self.drawn / self.drawn


class NeverSteps(UnitOptimizer):
    def pre_step(self, closure: Any = None) -> bool:
        return False


def test_an_optimizer_that_stands_still_or_loses_itself_is_caught() -> None:
    with pytest.raises(PrivacyError, match="0% of the weights had moved"):
        check_empty_batch(MeanOverNobody, seed=0)
    with pytest.raises(PrivacyError, match="was divided by inf"):
        check_division(NeverSteps)


class ClipsTheBatch(UnitOptimizer):
    def clip_and_accumulate(self) -> None:
        self.unit_of_row = torch.zeros_like(self.unit_of_row)
        super().clip_and_accumulate()


class StretchesShortOnes(UnitOptimizer):
    def clip_and_accumulate(self) -> None:
        for weight in self.params:
            weight.grad_sample = weight.grad_sample * 100
        super().clip_and_accumulate()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (ClipsTheBatch, "Three patients .* moved the sum by 0.99 times"),
        (StretchesShortOnes, "one short record moved the sum by 0.99 times max_grad_norm; expected was 0.1"),
    ],
)
def test_other_clipping_is_caught(broken: Callable[..., Any], message: str) -> None:
    with pytest.raises(PrivacyError, match=message):
        check_clipping(broken)


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


def test_packed_patients_are_refused_by_training(lab: Lab) -> None:
    adapted, _ = lab["optimizer_last"](load_base("tiny-random"))
    units = [Unit("a", ((1, 40, 41, 2),)), Unit("b", ((1, 50, 51, 2),))]
    with pytest.raises(PrivacyError, match="rows are mixed"), own_copies(adapter_layers(adapted), 2, torch.float32):
        lab["packed"](adapted, units, pad_token=0)


def test_a_run_that_stopped_early_is_not_released(tiny: str, tmp_path: Path) -> None:
    records = [{"unit": f"u{number}", "text": f"record {number}"} for number in range(20)]
    stopped = train_units(
        tmp_path / "state.pt", identity="x", base_name="tiny-random", quantisation="none", records=records,
        noise_multiplier=1.0, max_grad_norm=0.5, steps=3, sample_rate=0.5, rank=4, alpha=8, dropout=0.0,
        target_modules="all-linear", learning_rate=1e-3, physical_rows=8, max_length_tokens=64,
        gradient_checkpointing=False, checkpoints=1, seed=0,
    )  # fmt: skip
    plan = {
        "units": 20,
        "sample_rate": 0.5,
        "noise_multiplier": 1.0,
        "max_grad_norm": 0.5,
        "epsilon": 100.0,
        "delta": 1e-3,
    }
    sizes = [weight.numel() for weight in stopped.model.parameters() if weight.requires_grad]
    verify(stopped.evidence, steps=3, sizes=sizes, **plan)
    with pytest.raises(PrivacyError, match=r"count \[3\] steps, planned were 60"):
        verify(stopped.evidence, steps=60, sizes=sizes, **plan)
