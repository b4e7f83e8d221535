"""Trainings of a few invented patients on the small model, and how they are compared."""

import random
from collections.abc import Callable
from typing import Any

import torch
from small_models import WORDS

from helpers.config import load_config
from helpers.data.example import Example
from helpers.privacy.training import Training

BASELINE: dict[str, Any] = {"cost": None}
Train = Callable[..., Training]
SETTINGS = load_config("smoke").privacy.model_copy(
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


def plain(unit: str, text: str) -> Example:
    """A patient's text, learnt whole."""
    return Example("", "records", (), text, unit=unit)


def patients(count: int = 12, most: int = 3) -> list[Example]:
    chooser = random.Random(0)
    return [
        plain(f"u{unit}", " ".join(chooser.choices(WORDS, k=chooser.randint(4, 9))))
        for unit in range(count)
        for _ in range(chooser.randint(1, most))
    ]


def adapter(trained: Training) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trained.model.named_parameters() if p.requires_grad}


def equal(one: Training, other: Training) -> bool:
    return all(torch.equal(weight, adapter(other)[name]) for name, weight in adapter(one).items())
