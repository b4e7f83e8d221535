import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import SHAPE, WORDS, save_small
from transformers import GPT2Config, LlamaConfig, OPTConfig

from helpers.config import load_config
from helpers.errors import PrivacyError
from helpers.files import Record
from helpers.models import load_tokenizer
from helpers.privacy import mechanism, training
from helpers.privacy.accounting import Cost, spent
from helpers.privacy.ghosts import GHOSTS
from helpers.privacy.patient_gradients import PatientGradients
from helpers.privacy.release import verify
from helpers.privacy.secure_random import SecureGenerator
from helpers.privacy.training import LARGEST_LOSS, Recipe, Training
from helpers.privacy.units import Unit, encode_units, shuffled

BASELINE: dict[str, Any] = {"cost": None}


def patients(count: int = 12, most: int = 3) -> list[Record]:
    chooser = random.Random(0)
    return [
        {"unit": f"u{unit}", "text": " ".join(chooser.choices(WORDS, k=chooser.randint(4, 9)))}
        for unit in range(count)
        for _ in range(chooser.randint(1, most))
    ]


@pytest.fixture
def made(small: str) -> Callable[..., Training]:
    """Make a training of four steps; names change its settings, its cost or its recipe."""

    def make(base_name: str = small, target_modules: Any = "all-linear", seed: int = 0, **changes: Any) -> Training:
        of_cost = {name: changes.pop(name) for name in list(changes) if name in CLAIMED}
        private = changes.pop("cost", CLAIMED) is not None
        settings = SETTINGS.model_copy(update=changes)
        claimed = CLAIMED | of_cost | {"steps": settings.steps, "scores": settings.scores}
        cost = Cost(**claimed, delta=1e-3, prv=9.0, pld=9.0) if private else None
        return Training(Recipe(base_name, target_modules, settings, cost, seed, None))

    return make


Train = Callable[..., Training]
SETTINGS = load_config("smoke").private.model_copy(
    update={
        "rank": 4,
        "alpha": 8.0,
        "learning_rate": 1e-2,
        "baseline_learning_rate": 1e-2,
        "baseline_max_grad_norm": 0.5,
        "max_grad_norm": 0.5,
        "steps": 4,
        "patients_expected": 12,
        "patients_a_step": 3.0,
        "scores": 1,
        "max_length_tokens": 64,
        "physical_rows": 4,
        "checkpoints": 4,
    }
)
CLAIMED: dict[str, Any] = {"noise_multiplier": 0.7, "sample_rate": 0.25, "validation_noise": 0.1}


@pytest.fixture
def train(made: Callable[..., Training], tmp_path: Path) -> Train:
    """Train in a folder of its own, or in `folder`."""
    numbers = count()

    def run(
        folder: str = "",
        records: list[Record] | None = None,
        validation: list[Record] | None = None,
        identity: str = "x",
        **changes: Any,
    ) -> Training:
        path = tmp_path / (folder or str(next(numbers))) / "state.pt"
        path.parent.mkdir(exist_ok=True)
        training = made(**changes)
        training.run(path, identity, records or patients(), validation or [], "test")
        return training

    return run


@pytest.fixture
def same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every training draws the same coins and the same noise."""
    monkeypatch.setattr(training, "SecureGenerator", lambda: SecureGenerator(bytes(32)))


def adapter(trained: Training) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trained.model.named_parameters() if p.requires_grad}


def equal(one: Training, other: Training) -> bool:
    return all(torch.equal(weight, adapter(other)[name]) for name, weight in adapter(one).items())


# ------------------------------------------------------------------------------------------------- records, models


def test_questions_are_read_and_not_learnt(tiny: str, train: Train) -> None:
    asked: list[Record] = [
        {"unit": "a", "question": "A rash after Tavsol. Drug:", "text": "A rash after Tavsol. Drug: Tavsol."},
        {"unit": "a", "question": "", "text": "A rash."},
        {"unit": "b", "text": "A cough."},
    ]
    tokenizer = load_tokenizer(tiny)
    one, other = encode_units(asked, tokenizer, max_length_tokens=64)
    learnt = [
        tokenizer.decode(row[begin:])
        for unit in (one, other)
        for row, begin in zip(unit.rows, unit.begins, strict=True)
    ]
    assert learnt == [f"{text}{tokenizer.eos_token}" for text in (" Tavsol.", "A rash.", "A cough.")]
    trained = train(base_name=tiny, records=asked, steps=1, patients_a_step=2.0, **BASELINE)
    assert trained.tokens == sum(len(tokenizer(text)["input_ids"]) for text in learnt)


def test_one_patient_and_long_records_are_refused(train: Train) -> None:
    with pytest.raises(PrivacyError, match="There is 1 patient"):
        train(records=patients(1))
    with pytest.raises(PrivacyError, match="longer than private") as caught:
        train(max_length_tokens=5)
    assert not any(word in str(caught.value) for word in ("cough", "nausea"))


def saved(folder: Path, config: Any) -> str:
    save_small(folder, config)
    return str(folder)


def test_nothing_is_dropped_at_random(tmp_path: Path, made: Callable[..., Training]) -> None:
    dropping = GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=128)
    assert dropping.resid_pdrop == dropping.attn_pdrop == dropping.embd_pdrop == 0.1
    for name, config in (("gpt2", dropping), ("llama", LlamaConfig(**SHAPE, attention_dropout=0.2))):
        patients = made(base_name=saved(tmp_path / name, config)).patients
        assert patients.model.training
        one, other = (patients.gradients([Unit("a", ((1, 5, 6, 7),))]).clone() for _ in range(2))
        assert torch.equal(one, other)


def test_values_dropped_by_the_models_own_code_are_noticed(tmp_path: Path, made: Callable[..., Training]) -> None:
    config = OPTConfig(
        hidden_size=64, ffn_dim=64, num_hidden_layers=1, num_attention_heads=4, vocab_size=128, dropout=0.1
    )
    with pytest.raises(PrivacyError, match=r"nothing was paid.*drop"):
        made(base_name=saved(tmp_path / "opt", config))


def test_positions_that_the_longest_record_decides_are_noticed(tmp_path: Path, made: Callable[..., Training]) -> None:
    half = {"original_max_position_embeddings": 32, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    for kind, longest, own in (("dynamic", 64, {}), ("longrope", 32, half)):
        rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 2.0, **own}
        name = saved(tmp_path / kind, LlamaConfig(**SHAPE, rope_parameters=rope, max_position_embeddings=64))
        made(base_name=name, max_length_tokens=longest)
        with pytest.raises(PrivacyError, match=r"nothing was paid.*positions"):
            made(base_name=name, max_length_tokens=4 * longest)


def test_a_layer_that_cannot_be_clipped_is_refused(made: Callable[..., Training]) -> None:
    with pytest.raises(PrivacyError, match="leave bias and DoRA out"):
        made(target_modules=["embed_tokens"])


# ---------------------------------------------------------------------------------------- on a machine that mixes


def test_where_bf16_lets_others_change_a_gradient_training_takes_fp32(
    made: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def changes(gradients: Any, *, longest: int) -> None:
        asked.append((gradients.__self__.dtype, longest))
        if gradients.__self__.dtype is torch.bfloat16:
            raise PrivacyError("changed")

    monkeypatch.setattr(training, "compute_dtype", lambda _: torch.bfloat16)
    monkeypatch.setattr(training, "check_batch_composition", changes)
    ready = made()
    assert ready.patients.dtype is torch.float32 and asked == [(torch.bfloat16, 64), (torch.float32, 64)]
    assert {weight.dtype for weight in ready.model.parameters()} == {torch.float32}
    held = {id(weight) for group in ready.optimizer.param_groups for weight in group["params"]}
    assert held == {id(weight) for weight in ready.model.parameters() if weight.requires_grad}


def test_where_no_format_keeps_patients_apart_training_is_refused(
    made: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    def changes(*_: Any, **__: Any) -> None:
        raise PrivacyError("2 of 3 compositions changed it.")

    monkeypatch.setattr(training, "check_batch_composition", changes)
    with pytest.raises(PrivacyError, match=r"cannot be kept apart.*nothing was paid. 2 of 3 compositions"):
        made()


# ------------------------------------------------------------------------------------------------- private steps


@pytest.mark.parametrize("quantisation", ["none", "nf4"])
def test_every_adapter_tensor_moves_and_no_other(train: Train, quantisation: str) -> None:
    trained = train(quantisation=quantisation)
    start = train(quantisation=quantisation, learning_rate=0.0)
    before, after = dict(start.model.named_parameters()), dict(trained.model.named_parameters())
    for name, weight in after.items():
        assert torch.equal(weight, before[name]) is not weight.requires_grad, name
    assert sum(weight.requires_grad for weight in after.values()) == 28


def test_what_was_done_is_counted(train: Train) -> None:
    trained = train(steps=6, sample_rate=0.3)
    assert trained.steps == 6 and trained.tokens > 0 and trained.log == []  # no loss was looked at
    assert {values.shape for values in trained.ghosts.values()} == {(GHOSTS,)}
    assert trained.ghosts["scores"].isfinite().all() and trained.ghosts["scores"].unique().numel() > GHOSTS / 2


def test_an_empty_batch_is_a_step_with_noise(train: Train) -> None:
    trained = train(sample_rate=1e-9)
    assert (trained.steps, trained.tokens) == (4, 0)
    start = adapter(train(sample_rate=1e-9, learning_rate=0.0))
    assert all(((weight - start[name]).abs() > 1e-5).float().mean() > 0.99 for name, weight in adapter(trained).items())


@pytest.mark.usefixtures("same_numbers")
def test_how_many_rows_are_computed_at_once_changes_no_bit(train: Train) -> None:
    one, four, hundred = (train(physical_rows=rows) for rows in (1, 4, 100))
    assert equal(one, four) and equal(one, hundred)
    assert torch.equal(one.ghosts["scores"], hundred.ghosts["scores"])
    assert one.tokens == four.tokens == hundred.tokens > 0
    assert not equal(one, train(seed=1))


@pytest.mark.usefixtures("same_numbers")
def test_gradient_checkpointing_changes_memory_and_not_the_result(train: Train) -> None:
    assert equal(*(train(gradient_checkpointing=on) for on in (False, True)))


def test_two_private_trainings_share_neither_coins_nor_noise(train: Train) -> None:
    one, other = train(), train()
    assert not equal(one, other) and not torch.equal(one.ghosts["included"], other.ghosts["included"])


@pytest.mark.usefixtures("same_numbers")
def test_a_gradient_that_is_not_a_number_is_left_out(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    real = PatientGradients.gradients

    def as_if(value: float) -> None:
        def gradients(patients: PatientGradients, units: list[Unit]) -> torch.Tensor:
            found = real(patients, units)
            for place, unit in enumerate(units):
                if unit.name == "u3":
                    found[place] = value
            return found

        monkeypatch.setattr(PatientGradients, "gradients", gradients)

    plain = train(sample_rate=0.8)
    as_if(0.0)
    without = train(sample_rate=0.8)
    as_if(float("nan"))
    assert equal(train(sample_rate=0.8), without) and not equal(without, plain)


def test_a_training_with_half_the_noise_is_not_released(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    claimed = spent(1.0, 0.25, 12, 1e-3)
    settings = {"noise_multiplier": 1.0, "steps": 12, "records": patients(4, 1), "checkpoints": 1}
    assert verify(train(**settings), claimed)["p_value"] >= 1e-6
    real = mechanism.noisy_sum

    def half(clipped: torch.Tensor, *, noise_std: float, generator: SecureGenerator) -> torch.Tensor:
        return real(clipped, noise_std=noise_std / 2, generator=generator)

    monkeypatch.setattr(mechanism, "noisy_sum", half)
    quiet = train(**settings)
    with pytest.raises(PrivacyError, match=r"an attacker guessed right for .* made-up patients"):
        verify(quiet, claimed)


# ---------------------------------------------------------------------------------------------- validation patients


@pytest.fixture
def measuring(made: Callable[..., Training]) -> Callable[..., tuple[float, float]]:
    """Measure made-up losses once; returns what is published: mean loss and number."""

    def measure(losses: list[float] | torch.Tensor, noise: float | None = 1.0) -> tuple[float, float]:
        ready = private if noise else baseline
        ready.log = []
        values = iter(torch.as_tensor(losses, dtype=torch.float32))
        ready.patients.losses = lambda units: torch.stack([next(values) for _ in units])
        ready.measure([Unit(str(number), ((1, 2),)) for number in range(len(losses))], SecureGenerator())
        row = ready.log[-1]
        return row["heldout_loss"], row.get("patients", len(losses))

    private, baseline = made(validation_noise=1.0), made(**BASELINE)
    return measure


def test_a_noised_loss_is_close_to_the_mean_over_many_patients(measuring: Callable[..., tuple[float, float]]) -> None:
    losses = torch.rand(80, generator=torch.Generator().manual_seed(0)) * 6
    assert measuring(losses, None) == (pytest.approx(float(losses.mean()), rel=1e-5), 80)
    found = [measuring(losses, 1.0) for _ in range(30)]
    means, counts = (torch.tensor(each) for each in zip(*found, strict=True))
    assert float(means.mean()) == pytest.approx(float(losses.mean()), abs=0.15) and 0.01 < means.std() < 0.4
    assert float(counts.mean()) == pytest.approx(80, abs=1.5) and 0.7 < counts.std() < 2.5  # the number is noised too


def test_the_number_of_validation_patients_is_not_cut(measuring: Callable[..., tuple[float, float]]) -> None:
    mean, number = measuring([2.0] * 500, 1.0)
    assert number == pytest.approx(500, abs=10) and mean == pytest.approx(2.0, abs=0.2)


def test_a_validation_patient_moves_what_is_noised_by_at_most_1(
    measuring: Callable[..., tuple[float, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = []

    def seen(clipped: torch.Tensor, **_: Any) -> torch.Tensor:
        sums.append(clipped.clone())
        return clipped

    monkeypatch.setattr(training, "noisy_sum", seen)
    others = [1.0, 2.5, 7.9, 0.3]
    for loss in (0.0, 1e-3, 3.0, 8.0, 1e30, -5.0, float("nan"), float("inf"), -float("inf")):
        measuring(others)
        measuring([*others, loss])
        share = sums[-1] - sums[-2]
        assert share.norm() <= 1
        assert 2**0.5 * share[1] == pytest.approx(1, abs=1e-3)
        cut = min(8.0, max(0.0, loss)) if loss == loss else 8.0
        assert 2**0.5 * share[0] * LARGEST_LOSS == pytest.approx(cut, abs=1e-2)


@pytest.mark.parametrize(("scores", "steps"), [(2, [3, 5]), (3, [2, 4, 5]), (9, [1, 2, 3, 4, 5])])
def test_measurements_are_spread_over_the_run_and_end_with_it(train: Train, scores: int, steps: list[int]) -> None:
    trained = train(steps=5, scores=scores, validation=patients(3))
    assert [row["step"] for row in trained.log] == steps
    assert all(row["patients"] != round(row["patients"]) for row in trained.log)


# ---------------------------------------------------------------------------------------- interruption, checkpoints


class Killed(Exception):
    pass


@pytest.fixture
def kill_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Any]:
    """Within the block, the process dies right after so many checkpoints."""
    from contextlib import contextmanager

    @contextmanager
    def killing(saves: int) -> Iterator[None]:
        real, left = Training._save, [saves]

        def save(*given: Any) -> None:
            real(*given)
            left[0] -= 1
            if not left[0]:
                raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Training, "_save", save)
            yield

    return killing


def test_a_killed_private_training_goes_on_and_counts_each_step_once(train: Train, kill_after: Any) -> None:
    options = {"folder": "a", "steps": 6, "checkpoints": 6, "validation": patients(4)}
    for saves in (1, 2):
        with kill_after(saves):
            train(**options, scores=6)
    trained = train(**options, scores=6)
    assert trained.steps == 6 and [row["step"] for row in trained.log] == [1, 2, 3, 4, 5, 6]
    again = train(**options, scores=6)  # ended: nothing more is drawn
    assert equal(again, trained) and torch.equal(again.ghosts["scores"], trained.ghosts["scores"])
    assert again.tokens == trained.tokens and again.log == trained.log


def test_the_audit_goes_on_with_the_same_ghosts_after_a_kill(train: Train, kill_after: Any) -> None:
    options = {"folder": "a", "noise_multiplier": 1.0, "steps": 12, "checkpoints": 12, "records": patients(4, 1)}
    with kill_after(6):
        train(**options)
    found = verify(train(**options), spent(1.0, 0.25, 12, 1e-3))
    assert found["p_value"] >= 1e-6
    assert found["right"] > 0.9 * found["allowed"]  # with other ghosts after the kill they would tell far less


def test_a_killed_baseline_ends_as_an_undisturbed_one(train: Train, kill_after: Any) -> None:
    options: dict[str, Any] = {"steps": 6, "checkpoints": 6, "validation": patients(4), "scores": 3, **BASELINE}
    whole = train(**options)
    with kill_after(3):
        train(folder="b", **options)
    resumed = train(folder="b", **options)
    assert equal(whole, resumed)
    assert (resumed.steps, resumed.tokens) == (whole.steps, whole.tokens)
    assert [row["step"] for row in resumed.log] == [2, 4, 6] and resumed.log == whole.log


def test_a_checkpoint_of_something_else_is_refused(train: Train, kill_after: Any, tmp_path: Path) -> None:
    with kill_after(1):
        train(folder="a")
    with pytest.raises(PrivacyError, match="belongs to other records, settings or code"):
        train(folder="a", identity="other")
    whole = (tmp_path / "a" / "state.pt").read_bytes()
    for damaged in (b"damaged", whole[: len(whole) // 2]):
        (tmp_path / "a" / "state.pt").write_bytes(damaged)
        with pytest.raises(PrivacyError, match="damaged"):
            train(folder="a")


def test_an_empty_checkpoint_is_a_training_that_has_not_begun(train: Train, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "state.pt").write_bytes(b"")
    assert train(folder="a").steps == 4


# --------------------------------------------------------------------------------------------- non-private baseline


def test_the_baseline_learns_from_everybody_equally_often() -> None:
    # 12 patients, 5 a step: two passes are used up within the fifth step
    drawn = Counter(place for step in range(5) for place in shuffled(12, 5, step, 0))
    assert sorted(drawn.values()) == [2] * 11 + [3]


def test_the_baseline_is_repeatable_whatever_is_computed_at_once(train: Train) -> None:
    one, other = train(**BASELINE), train(**BASELINE)
    assert equal(one, other) and not equal(one, train(**BASELINE, seed=1))
    weights = adapter(train(**BASELINE, physical_rows=100))
    assert all(torch.allclose(weight, weights[name], atol=1e-3) for name, weight in adapter(one).items())
    assert one.ghosts == {}


def test_a_batch_of_the_baseline_moves_no_further_than_its_norm(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim, "AdamW", lambda weights, lr, **_: torch.optim.SGD(weights, lr=lr))
    once = {"steps": 1, "patients_a_step": 12.0, **BASELINE}
    start = adapter(train(**once, baseline_learning_rate=0.0))

    def moved(trained: Training) -> float:
        return sum(float((w - start[n]).square().sum()) for n, w in adapter(trained).items()) ** 0.5

    assert moved(train(**once, baseline_learning_rate=0.5, baseline_max_grad_norm=1e9)) > 0.1
    assert moved(train(**once, baseline_learning_rate=0.5, baseline_max_grad_norm=0.02)) == pytest.approx(
        0.5 * 0.02, rel=1e-3
    )


def test_shuffled_passes_differ_and_follow_their_seed() -> None:
    def lists(seed: int) -> list[list[int]]:
        taken = [one for step in range(10) for one in shuffled(50, 15, step, seed)]
        return [taken[start : start + 50] for start in (0, 50, 100)]

    first = lists(0)
    assert all(sorted(one) == list(range(50)) for one in first)
    assert len({tuple(one) for one in (*first, *lists(1))}) == 6
    assert lists(0) == first


def test_the_first_units_of_a_pass_stand_in_the_same_order_however_many_follow() -> None:
    orders = {count: [one for one in shuffled(count, count, 0, 0) if one < 300] for count in (300, 557, 692)}
    assert orders[300] == orders[557] == orders[692] != list(range(300))


def test_parts_hold_whole_patients_and_at_most_so_many_different_records() -> None:
    sizes = [1, 3, 2, 7, 1, 1, 4]
    units = [Unit(str(n), tuple((1, n, record) for record in range(size)) * 2) for n, size in enumerate(sizes)]
    parts = list(training.parts(units, 4))
    assert [unit for part in parts for unit in part] == units and all(parts)
    assert [[len(unit.distinct) for unit in part] for part in parts] == [[1, 3], [2], [7], [1, 1], [4]]
    assert list(training.parts([], 4)) == []
