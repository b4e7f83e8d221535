"""Models whose patients' gradients cannot be kept apart, or are not computed, are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from small_gradients import UNITS, adapted, error, one_by_one
from small_models import SHAPE, save_small
from torch import nn

from helpers.errors import PrivacyError
from helpers.models.load import load_base
from helpers.privacy.patient_gradients import PatientGradients


def with_trained_norm(base: str) -> Any:
    model = adapted(base)
    next(module for name, module in model.named_modules() if name.endswith("norm")).weight.requires_grad_()
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda base: adapted(base, use_dora=True), "found 0 such layers"),
        (lambda base: adapted(base, target_modules=["embed_tokens"]), "found 0 such layers"),
        (lambda base: adapted(base, target_modules=["embed_tokens", "q_proj"]), "found 2 such layers and, besides"),
        (lambda base: adapted(base, modules_to_save=["lm_head"]), "found 14 such layers and, besides"),
        (lambda base: adapted(base, target_modules=["q_proj", "lm_head"]), "An adapter on the output layer"),
        (lambda base: load_base(base).requires_grad_(False), "found 0 such layers and, besides, nothing"),
        (with_trained_norm, "besides, .*norm"),
    ],
)
def test_what_cannot_be_kept_apart_is_refused(small: str, make: Callable[[str], Any], message: str) -> None:
    model = make(small)
    with pytest.raises(PrivacyError, match=message):
        PatientGradients(model, torch.float32)


@pytest.mark.parametrize("bias", ["lora_only", "all"])
def test_trained_biases_are_refused(tmp_path: Path, bias: str) -> None:
    save_small(tmp_path, transformers.Qwen2Config(**SHAPE))
    with pytest.raises(PrivacyError, match=r"found 14 such layers and, besides, .*bias"):
        PatientGradients(adapted(str(tmp_path), bias=bias), torch.float32)


def test_experts_are_refused(tmp_path: Path) -> None:
    config = transformers.MixtralConfig(**SHAPE, num_local_experts=2)
    save_small(tmp_path, config)
    with pytest.raises(PrivacyError, match=r"experts.*computed for the tokens of several patients together"):
        PatientGradients(adapted(str(tmp_path), target_modules=["q_proj"]), torch.float32)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (transformers.Gemma2Config(**SHAPE, head_dim=16, attn_logit_softcapping=5.0, sliding_window=64), "softcap"),
        (transformers.MistralConfig(**SHAPE, sliding_window=16), "sliding_window"),
    ],
)
def test_other_attention_is_refused(tmp_path: Path, config: Any, message: str) -> None:
    save_small(tmp_path, config)
    patients = PatientGradients(adapted(str(tmp_path)), torch.float32)
    with pytest.raises(PrivacyError, match=f"asks for {message}.*does not compute"):
        patients.gradients(UNITS)


def test_a_window_that_no_record_fills_is_no_window(tmp_path: Path) -> None:
    save_small(tmp_path, transformers.MistralConfig(**SHAPE, sliding_window=64))
    model = adapted(str(tmp_path))
    assert error(PatientGradients(model, torch.float32).gradients(UNITS), one_by_one(model, UNITS)[1]) < 1e-5


def test_a_matrix_without_gradient_is_refused(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patients = PatientGradients(adapted(small), torch.float32)
    real = patients._linear

    def detached(part: Any, module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        return (
            real(part, module, inputs).detach()
            if module is next(iter(patients.adapters))
            else real(part, module, inputs)
        )

    monkeypatch.setattr(patients, "_linear", detached)
    with pytest.raises(PrivacyError, match="No gradient reached 2 matrices"):
        patients.gradients(UNITS)
