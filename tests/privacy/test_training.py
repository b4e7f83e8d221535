import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.errors import PrivacyError
from helpers.files import Record
from helpers.models import load_tokenizer
from helpers.privacy import private
from helpers.privacy.private import Trained, train_units
from helpers.privacy.private_model import check_model, refuse_shared_positions
from helpers.privacy.units import Unit, encode_units, shuffled
from helpers.private_training import _save

WORDS = (
    "fever",
    "cough",
    "rash",
    "drug",
    "dose",
    "mild",
    "after",
    "before",
    "patient",
    "took",
    "gave",
    "headache",
    "nausea",
)


def patients(count: int = 12, most: int = 3) -> list[Record]:
    chooser = random.Random(0)
    return [
        {"unit": f"u{unit}", "text": " ".join(chooser.choices(WORDS, k=chooser.randint(4, 9)))}
        for unit in range(count)
        for _ in range(chooser.randint(1, most))
    ]


def train(folder: Path, noise: float | None, norm: float | None = 0.5, **changes: Any) -> Trained:
    settings: dict[str, Any] = {
        "identity": "x", "base_name": "tiny-random", "quantisation": "none", "records": patients(),
        "noise_multiplier": noise, "max_grad_norm": None if noise is None else norm, "steps": 4, "sample_rate": 0.5,
        "rank": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear",
        "learning_rate": 1e-2, "physical_rows": 4, "max_length_tokens": 64,
        "gradient_checkpointing": False, "checkpoints": 4, "seed": 0,
    }  # fmt: skip
    return train_units(folder / "state.pt", **(settings | changes))


def test_questions_are_read_and_not_learnt(tiny: str, tmp_path: Path) -> None:
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
    assert train(tmp_path, None, records=asked, sample_rate=1.0, steps=1).tokens == sum(
        len(tokenizer(text)["input_ids"]) for text in learnt
    )


def adapter(trained: Trained) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trained.model.named_parameters() if p.requires_grad}


def close(one: Trained, other: Trained, atol: float) -> bool:
    weights = adapter(other)
    return all(torch.allclose(weight, weights[name], atol=atol) for name, weight in adapter(one).items())


@pytest.fixture
def descent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain gradient descent: AdamW blows up rounding where a gradient is all but zero."""
    monkeypatch.setattr(torch.optim, "AdamW", lambda weights, lr, **_: torch.optim.SGD(weights, lr=lr))


EVERYBODY: dict[str, Any] = {"sample_rate": 1.0, "steps": 3, "learning_rate": 0.5}


@pytest.mark.parametrize("quantisation", ["none", "nf4"])
def test_without_noise_and_with_a_huge_norm_it_equals_the_twin(
    tiny: str, tmp_path: Path, fp32: None, descent: None, quantisation: str
) -> None:
    settings = EVERYBODY | {"quantisation": quantisation}
    twin = train(tmp_path / "b", None, **settings)
    start = train(tmp_path / "c", None, **settings | {"learning_rate": 0.0})
    assert not close(start, twin, atol=1e-2)  # it went somewhere
    for rows in (1, 4, 100):
        assert close(train(tmp_path / f"d{rows}", 0.0, 1e9, physical_rows=rows, **settings), twin, atol=1e-5)
    assert not close(train(tmp_path / "e", 0.0, 1e-3, **settings), twin, atol=1e-2)  # and clipping would keep it there


def test_a_gradient_that_is_not_a_number_is_left_out_and_counted(
    tiny: str, tmp_path: Path, fp32: None, descent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [record for record in patients() if record["unit"] != "u3"]
    without = train(tmp_path / "a", 0.0, 0.5, records=others, **EVERYBODY | {"learning_rate": 0.5 * 11 / 12})
    real = private.unit_losses

    def broken(model: Any, units: list[Unit], *, pad_token: int) -> torch.Tensor:
        factor = torch.tensor([float("nan") if unit.name == "u3" else 1.0 for unit in units])
        return real(model, units, pad_token=pad_token) * factor

    monkeypatch.setattr(private, "unit_losses", broken)
    trained = train(tmp_path / "b", 0.0, 0.5, **EVERYBODY)
    assert trained.evidence.not_finite == 3  # once a step, and the training went on
    assert close(trained, without, atol=1e-5)


def test_a_model_that_drops_values_at_random_is_refused(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_model("tiny-random", target_modules="all-linear", dropout=0.0, max_length_tokens=64)
    for attempt in (
        lambda: check_model("tiny-random", target_modules=["q_proj"], dropout=0.1, max_length_tokens=64),
        lambda: train(tmp_path, 0.7, dropout=0.1),
    ):
        with pytest.raises(PrivacyError, match=r"lora_dropout.*= 0\.1"):
            attempt()
    config = json.loads(Path(tiny, "config.json").read_text("utf-8"))
    (tmp_path / "dropping").mkdir()
    (tmp_path / "dropping" / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.2}), "utf-8")
    with pytest.raises(PrivacyError, match=r"attention_dropout = 0\.2"):
        check_model(str(tmp_path / "dropping"), target_modules="all-linear", dropout=0.0, max_length_tokens=64)


def test_positions_that_the_longest_row_decides_are_refused(tiny: str, tmp_path: Path) -> None:
    config = json.loads(Path(tiny, "config.json").read_text("utf-8"))
    factors = {"original_max_position_embeddings": 32, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    for kind, longest, own in (("dynamic", 2048, {}), ("longrope", 32, factors)):
        rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 2.0, **own}
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config | {"rope_parameters": rope}), "utf-8")
        check = partial(check_model, str(folder), target_modules="all-linear", dropout=0.0)
        check(max_length_tokens=longest)
        with pytest.raises(PrivacyError, match=f"{kind}.*more than {longest} tokens"):
            check(max_length_tokens=longest + 1)


def test_positions_of_a_model_within_a_model_are_looked_at() -> None:
    from transformers import Gemma3Config

    refuse_shared_positions(Gemma3Config(), 128)  # has no length of its own
    dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    inner = Gemma3Config(text_config={"rope_parameters": {"full_attention": dynamic}, "max_position_embeddings": 64})
    with pytest.raises(PrivacyError, match="more than 64 tokens"):
        refuse_shared_positions(inner, 128)


def test_layers_are_named_by_the_end_of_their_path(tiny: str) -> None:
    check = partial(check_model, "tiny-random", dropout=0.0, max_length_tokens=64)
    check(target_modules="q_proj")
    check(target_modules=["layers.0.self_attn.q_proj"])
    for missing in ("layers.99.self_attn.q_proj", "proj"):
        with pytest.raises(PrivacyError, match=f"names {missing}, which"):
            check(target_modules=["q_proj", missing])


def test_a_layer_that_cannot_be_clipped_is_refused_before_anything_is_loaded(tiny: str) -> None:
    with pytest.raises(PrivacyError, match="embed_tokens"):
        check_model("tiny-random", target_modules=["embed_tokens"], dropout=0.0, max_length_tokens=64)


def test_what_is_saved_of_a_private_training_is_its_last_step_whatever_was_best(tmp_path: Path) -> None:
    losses = iter([1.0, 2.0, 3.0, 4.0])
    trained = train(tmp_path, 0.5, score=lambda *_: next(losses), scores=4)
    last = adapter(trained)
    assert any(not torch.equal(best, last[name]) for name, best in trained.best.items())
    _save(tmp_path / "part", trained, "tiny-random", with_best=False)
    saved = load_file(tmp_path / "part" / "adapter_model.safetensors")
    assert sorted(float(w.float().norm()) for w in saved.values()) == sorted(float(w.norm()) for w in last.values())
    assert not (tmp_path / "part" / "best").exists()


@pytest.mark.parametrize("quantisation", ["none", "nf4"])
def test_every_adapter_tensor_moves_and_no_other(tiny: str, tmp_path: Path, quantisation: str) -> None:
    trained = train(tmp_path / "a", 0.5, 0.5, quantisation=quantisation)
    start = train(tmp_path / "b", 0.5, 0.5, quantisation=quantisation, learning_rate=0.0)
    before, after = dict(start.model.named_parameters()), dict(trained.model.named_parameters())
    for name, weight in after.items():
        assert torch.equal(weight, before[name]) is not weight.requires_grad, name
    assert sum(weight.requires_grad for weight in after.values()) == 28


def test_evidence_tells_what_was_done(tiny: str, tmp_path: Path) -> None:
    trained = train(tmp_path / "a", 0.7, 0.5, steps=6, sample_rate=0.1)
    evidence = trained.evidence
    assert evidence.units == 12 and set(evidence.times_drawn) == {f"u{n}" for n in range(12)}
    assert evidence.sample_rates == [0.1] * 6 and evidence.accounted == [(0.7, 0.1)] * 6
    assert sum(evidence.drawn) == sum(evidence.times_drawn.values()) and len(evidence.drawn) == 6
    assert evidence.noise_stds == pytest.approx([0.35] * 6, rel=0.05)
    assert trained.log == [] and trained.best == {}  # no loss was looked at


def test_an_empty_batch_is_a_step_with_noise(tiny: str, tmp_path: Path) -> None:
    trained = train(tmp_path / "a", 0.7, 0.5, sample_rate=1e-9)
    assert trained.evidence.drawn == [0] * 4 and len(trained.evidence.noise_stds) == 4
    assert not close(trained, train(tmp_path / "b", None, sample_rate=1e-9), atol=1e-3)


class Killed(Exception):
    pass


def interrupt_after(monkeypatch: pytest.MonkeyPatch, saves: int) -> None:
    real: Callable[..., None] = private._save
    left = [saves]

    def save(*given: Any) -> None:
        real(*given)
        left[0] -= 1
        if not left[0]:
            raise Killed

    monkeypatch.setattr(private, "_save", save)


def test_a_killed_twin_ends_as_an_undisturbed_one(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(model: Any, _: Any) -> float:
        return float(sum(p.float().abs().sum() for p in model.parameters() if p.requires_grad))

    options: dict[str, Any] = {"steps": 6, "checkpoints": 6, "score": score, "scores": 3}
    whole = train(tmp_path / "a", None, **options)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt_after(patch, 3)
        train(tmp_path / "b", None, **options)
    resumed = train(tmp_path / "b", None, **options)
    assert close(whole, resumed, atol=1e-6)
    assert resumed.evidence == whole.evidence and resumed.tokens == whole.tokens
    assert [row["step"] for row in resumed.log] == [2, 4, 6] == [row["step"] for row in whole.log]
    assert resumed.best.keys() == whole.best.keys()


@pytest.mark.parametrize(("scores", "steps"), [(2, [3, 5]), (3, [2, 4, 5]), (9, [1, 2, 3, 4, 5])])
def test_measurements_are_spread_over_the_run_and_end_with_it(
    tiny: str, tmp_path: Path, scores: int, steps: list[int]
) -> None:
    log = train(tmp_path, None, steps=5, score=lambda model, tokenizer: 0.0, scores=scores).log
    assert [row["step"] for row in log] == steps


def test_the_twin_learns_from_everybody_equally_often(tiny: str, tmp_path: Path) -> None:
    # 12 patients, 5 a step: two passes are used up within the fifth step
    evidence = train(tmp_path, None, steps=5, sample_rate=5 / 12).evidence
    assert evidence.drawn == [5] * 5
    assert sorted(evidence.times_drawn.values()) == [2] * 11 + [3]


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


def test_a_killed_private_training_counts_each_step_once(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for saves in (1, 2):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            interrupt_after(patch, saves)
            train(tmp_path / "a", 0.7, 0.5, steps=6, checkpoints=6)
    evidence = train(tmp_path / "a", 0.7, 0.5, steps=6, checkpoints=6).evidence
    assert len(evidence.drawn) == len(evidence.noise_stds) == len(evidence.accounted) == 6
    assert len(set(evidence.noise_prints)) == 6  # no noise came twice


def test_a_checkpoint_of_something_else_is_refused(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt_after(patch, 1)
        train(tmp_path / "a", 0.7, 0.5)
    with pytest.raises(PrivacyError, match="belongs to other records, settings or code"):
        train(tmp_path / "a", 0.7, 0.5, identity="other")
    (tmp_path / "a" / "state.pt").write_bytes(b"damaged")
    with pytest.raises(PrivacyError, match="damaged"):
        train(tmp_path / "a", 0.7, 0.5)


def test_an_empty_checkpoint_is_a_training_that_has_not_begun(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"")
    assert len(train(tmp_path, 0.7, 0.5).evidence.drawn) == 4


def test_one_patient_and_long_records_are_refused(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="There is 1 patient"):
        train(tmp_path, None, records=patients(1))
    with pytest.raises(PrivacyError, match="longer than private") as caught:
        train(tmp_path, None, max_length_tokens=5)
    assert not any(word in str(caught.value) for word in ("cough", "nausea"))


def test_gradient_checkpointing_changes_memory_and_not_the_result(tiny: str, tmp_path: Path, fp32: None) -> None:
    one, other = (
        train(tmp_path / str(on), 0.0, 0.5, sample_rate=1.0, gradient_checkpointing=on) for on in (False, True)
    )
    assert close(one, other, atol=2e-4)


def test_the_best_state_is_that_of_the_lowest_loss(tiny: str, tmp_path: Path) -> None:
    given = iter([3.0, 1.0, 2.0])
    trained = train(tmp_path, None, steps=3, score=lambda *_: next(given), scores=3)
    assert trained.log == [{"step": n + 1, "heldout_loss": loss} for n, loss in enumerate((3.0, 1.0, 2.0))]
    last = {name: weight.detach() for name, weight in trained.model.named_parameters() if weight.requires_grad}
    assert any(not torch.equal(weight, last[name]) for name, weight in trained.best.items())


def test_noise_without_clipping_is_refused(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="go together"):
        train(tmp_path, 0.7, max_grad_norm=None)


def test_a_batch_of_the_twin_moves_no_further_than_its_norm(
    tiny: str, tmp_path: Path, fp32: None, descent: None
) -> None:
    once = EVERYBODY | {"steps": 1}
    start = adapter(train(tmp_path / "a", None, **once | {"learning_rate": 0.0}))

    def moved(trained: Trained) -> float:
        return sum(float((w - start[n]).square().sum()) for n, w in adapter(trained).items()) ** 0.5

    assert moved(train(tmp_path / "b", None, **once)) > 0.1
    cut = [train(tmp_path / f"c{rows}", None, max_grad_norm=0.02, physical_rows=rows, **once) for rows in (1, 4, 100)]
    assert [moved(trained) for trained in cut] == pytest.approx([0.5 * 0.02] * 3, rel=1e-3)
    assert close(cut[0], cut[2], atol=1e-6)
