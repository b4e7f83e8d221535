"""Records, models and machines that private training takes or refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import SHAPE, save_small
from small_trainings import BASELINE, Train, patients, plain
from transformers import GPT2Config, LlamaConfig, OPTConfig

from helpers.data.example import Example, asked
from helpers.errors import PrivacyError
from helpers.models.find import load_tokenizer
from helpers.privacy import training
from helpers.privacy.training import Training
from helpers.privacy.units import Unit, encode_units


def test_questions_are_read_and_not_learnt(tiny: str, train: Train) -> None:
    question = Example("", "records", asked("A rash after Tavsol. Drug:"), "Tavsol", unit="a")
    records = [question, plain("a", "A rash."), plain("b", "A cough.")]
    tokenizer = load_tokenizer(tiny)
    one, other = encode_units(records, tokenizer, max_length_tokens=64)
    learnt = [
        tokenizer.decode(row[begin:])
        for unit in (one, other)
        for row, begin in zip(unit.rows, unit.begins, strict=True)
    ]
    end = tokenizer.eos_token
    assert learnt == [f"Tavsol{end}\n", f"A rash.{end}", f"A cough.{end}"]  # the answer in the chat template, and texts
    trained = train(base_name=tiny, records=records, steps=1, patients_a_step=2.0, **BASELINE)
    assert trained.tokens == sum(len(tokenizer(text)["input_ids"]) for text in learnt)


def test_one_patient_and_long_records_are_refused(train: Train) -> None:
    with pytest.raises(PrivacyError, match="Patients with records: 1"):
        train(records=patients(1))
    with pytest.raises(PrivacyError, match="longer than privacy") as caught:
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
    with pytest.raises(PrivacyError, match=r"No budget was spent.*drop"):
        made(base_name=saved(tmp_path / "opt", config))


def test_positions_that_the_longest_record_decides_are_noticed(tmp_path: Path, made: Callable[..., Training]) -> None:
    half = {"original_max_position_embeddings": 32, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    for kind, longest, own in (("dynamic", 64, {}), ("longrope", 32, half)):
        rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 2.0, **own}
        name = saved(tmp_path / kind, LlamaConfig(**SHAPE, rope_parameters=rope, max_position_embeddings=64))
        made(base_name=name, max_length_tokens=longest)
        with pytest.raises(PrivacyError, match=r"No budget was spent.*positions"):
            made(base_name=name, max_length_tokens=4 * longest)


def test_a_layer_that_cannot_be_clipped_is_refused(made: Callable[..., Training]) -> None:
    with pytest.raises(PrivacyError, match="leave bias and DoRA out"):
        made(target_modules=["embed_tokens"])


def test_where_bf16_lets_others_change_a_gradient_training_takes_fp32(
    made: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def changes(gradients: Any, *, longest: int) -> None:
        asked.append((gradients.__self__.dtype, gradients.__name__, longest))
        if gradients.__self__.dtype is torch.bfloat16:
            raise PrivacyError("changed")

    monkeypatch.setattr(training, "compute_dtype", lambda _: torch.bfloat16)
    monkeypatch.setattr(training, "check_batch_composition", changes)
    ready = made()
    assert ready.patients.dtype is torch.float32
    both = [(torch.float32, computed, 64) for computed in ("gradients", "losses")]
    assert asked == [(torch.bfloat16, "gradients", 64), *both]
    assert {weight.dtype for weight in ready.model.parameters()} == {torch.float32}
    held = {id(weight) for group in ready.optimizer.param_groups for weight in group["params"]}
    assert held == {id(weight) for weight in ready.model.parameters() if weight.requires_grad}


def test_where_no_format_keeps_patients_apart_training_is_refused(
    made: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    def changes(*_: Any, **__: Any) -> None:
        raise PrivacyError("2 of 3 compositions changed it.")

    monkeypatch.setattr(training, "check_batch_composition", changes)
    with pytest.raises(PrivacyError, match=r"cannot be kept apart.*No budget was spent. 2 of 3 compositions"):
        made()
