"""The audit itself on trial: a training whose noise was left out, and which claims ε = 1, has to be found out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.evaluation.canaries import code_losses, make_canaries, training_records, whole_words
from helpers.evaluation.leakage import canary_leakage
from helpers.evaluation.one_run_audit import refutes
from helpers.files import Record
from helpers.models import load_base, load_tokenizer
from helpers.privacy.training import Recipe, Trained, Training

BASE = "smollm2-135m-instruct"


def fitted(folder: Path, canaries: list[Record], *, copies: int, **settings: Any) -> Trained:
    """A training on canaries alone, each drawn in half of the steps."""
    usual: dict[str, Any] = {
        "quantisation": "none",
        "alpha": 256,
        "dropout": 0.0,
        "target_modules": "all-linear",
        "expected_batch": len({canary["unit"] for canary in canaries if canary["member"]}) / 2,
        "sample_rate": 0.5,
        "validation_noise": None,
        "scores": 1,
        "max_length_tokens": 128,
        "seed": 0,
        "physical_rows": 64,
        "gradient_checkpointing": False,
        "checkpoints": 1,
        "threads": None,
    }
    training = Training(Recipe(**usual, **settings))
    return training.run(folder / "state.pt", "x", training_records(canaries, copies), [], "audited")


@pytest.mark.slow
@pytest.mark.parametrize(("noise_multiplier", "refuted"), [(0.02, True), (3.0, False)])
def test_next_to_no_noise_is_found_out(tmp_path: Path, noise_multiplier: float, refuted: bool) -> None:
    tokenizer = load_tokenizer(BASE)
    canaries = make_canaries(80, 0, words=whole_words(tokenizer), seed=0)
    trained = fitted(
        tmp_path, canaries, base_name=BASE, copies=16, noise_multiplier=noise_multiplier, max_grad_norm=0.5, steps=24,
        rank=8, learning_rate=1e-3,
    )  # fmt: skip
    base = code_losses(load_base(BASE), tokenizer, canaries)
    gained = base - code_losses(trained.model, tokenizer, canaries)
    coins = np.array([canary["member"] for canary in canaries])
    found = refutes(gained, coins, claimed_epsilon=1.0, delta=1e-5)
    assert found["refuted"] is refuted, found["p_value"]


def test_a_training_without_privacy_is_found_out(tmp_path: Path) -> None:
    base_name = "tiny-random"
    tokenizer = load_tokenizer(base_name)
    canaries = make_canaries(60, 100, words=whole_words(tokenizer), seed=0)
    trained = fitted(
        tmp_path, canaries, base_name=base_name, copies=2, noise_multiplier=None, max_grad_norm=1.0, steps=30,
        rank=16, learning_rate=3e-3,
    )  # fmt: skip
    base = code_losses(load_base(base_name), tokenizer, canaries)
    leak = canary_leakage(canaries, code_losses(trained.model, tokenizer, canaries), base)
    assert leak["calibrated"]["auc"] > 0.95
    tossed, inside = (np.array([canary[key] for canary in canaries]) for key in ("tossed", "member"))
    for scores, refuted in ((leak["scores"], True), (-np.array(leak["scores"]), False)):  # turned round, it is blind
        found = refutes(np.array(scores)[tossed], inside[tossed], claimed_epsilon=1.0, delta=1e-5)
        assert found["refuted"] is refuted, found["p_value"]
