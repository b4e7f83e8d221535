"""The audit itself on trial: a training whose noise was left out, and which claims ε = 1, has to be found out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.evaluation.canaries import code_losses, make_canaries, training_records, whole_words
from helpers.evaluation.leakage import canary_leakage
from helpers.evaluation.one_run_audit import refutes
from helpers.models import load_base, load_tokenizer
from helpers.training.private import train_units


def claim_of_one(noise_multiplier: float, folder: Path) -> dict[str, Any]:
    """Train a tiny real model by clipped steps, with so much noise, and test the claim ε = 1."""
    tokenizer = load_tokenizer("tiny-random")
    canaries = make_canaries(100, 100, words=whole_words(tokenizer), seed=0)
    trained = train_units(
        folder / "state.pt", identity="x", base_name="tiny-random", quantisation="none",
        records=training_records(canaries, 16), noise_multiplier=noise_multiplier, max_grad_norm=0.5, steps=60,
        sample_rate=0.5, rank=8, alpha=64, dropout=0.0, target_modules="all-linear", learning_rate=2e-2,
        physical_rows=16, max_length_tokens=128, gradient_checkpointing=False, checkpoints=1, seed=0,
    )  # fmt: skip
    base = code_losses(load_base("tiny-random"), tokenizer, canaries)
    leak = canary_leakage(canaries, code_losses(trained.model, tokenizer, canaries), base)
    tossed = np.array([canary["tossed"] for canary in canaries])
    coins = np.array([canary["member"] for canary in canaries])[tossed]
    return refutes(np.array(leak["scores"])[tossed], coins, claimed_epsilon=1.0, delta=1e-5)


@pytest.mark.parametrize(("noise_multiplier", "refuted"), [(0.0, True), (5.0, False)])
def test_noise_left_out_is_found_out(tiny: str, tmp_path: Path, noise_multiplier: float, refuted: bool) -> None:
    found = claim_of_one(noise_multiplier, tmp_path)
    assert found["refuted"] is refuted, found["p_value"]
