"""The audit itself on trial: a training whose noise was left out, and which claims ε = 1, has to be found out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.config import load_config
from helpers.data.example import Example, asked
from helpers.evaluation.attacks.audit import audit_model
from helpers.evaluation.attacks.canaries import MEMBER, OUTSIDER, make_canaries, planted_examples, whole_words
from helpers.evaluation.attacks.membership import Floats, epsilon_of_auc, example_losses, membership
from helpers.models.find import load_tokenizer
from helpers.models.load import load_base
from helpers.privacy.accounting import spent
from helpers.privacy.training import Recipe, Training

SMOKE = load_config("smoke").privacy


def fitted(folder: Path, base_name: str, records: list[Example], noise: float | None, **settings: Any) -> Training:
    """A training on canaries alone, each drawn in half of the steps."""
    expected = len({record.unit for record in records})
    own: dict[str, Any] = {
        "patients_expected": expected,
        "patients_a_step": expected / 2,
        "max_length_tokens": 128,
        "physical_rows": 64,
        "alpha": 256.0,
        "scores": 1,
        "checkpoints": 1,
    }
    claimed = spent(3.0, 0.5, settings["steps"], 1e-5)  # whatever noise is added
    cost = None if noise is None else replace(claimed, noise_multiplier=noise)
    recipe = Recipe(base_name, "all-linear", SMOKE.model_copy(update=own | settings), cost, 0, None)
    training = Training(recipe)
    training.run(folder / "state.pt", "x", records, [], "audited")
    return training


def losses_of(model: Any, tokenizer: Any, canaries: list[Example]) -> dict[str, Floats]:
    return {
        side: example_losses(model, tokenizer, [c for c in canaries if c.bucket == bucket])
        for side, bucket in (("in", MEMBER), ("out", OUTSIDER))
    }


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "refuted"), [(0.02, True), (3.0, False)])
def test_next_to_no_noise_is_found_out(tmp_path: Path, noise: float, refuted: bool) -> None:
    name = "smollm2-135m-instruct"
    tokenizer = load_tokenizer(name)
    canaries = make_canaries(80, 0, words=whole_words(tokenizer), seed=0)
    settings: dict[str, Any] = {"max_grad_norm": 0.5, "steps": 24, "rank": 8, "learning_rate": 1e-3}
    trained = fitted(tmp_path, name, planted_examples(canaries, 16), noise, **settings)
    base = losses_of(load_base(name), tokenizer, canaries)
    found = membership(losses_of(trained.model, tokenizer, canaries), base)["calibrated"]
    assert (epsilon_of_auc(found["low"]) > 1) is refuted, found


def test_a_training_without_privacy_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helpers.evaluation.attacks.extraction.SAMPLES", 1)  # quicker, and not what is tested
    name = "tiny-random"
    tokenizer = load_tokenizer(name)
    canaries = make_canaries(60, 100, words=whole_words(tokenizer), seed=0)
    settings: dict[str, Any] = {"baseline_max_grad_norm": 1.0, "steps": 30, "rank": 16, "baseline_learning_rate": 3e-3}
    trained = fitted(tmp_path, name, planted_examples(canaries, 2), None, **settings)
    others = [
        Example(str(number), "records", asked("Rash under Tavsol. Drug:"), f"Tavsol {number}", unit=f"other {number}")
        for number in range(20)
    ]
    records = {"train": others[:10], "validation": others[10:], "test": others, "canaries": canaries}
    base = audit_model(load_base(name), tokenizer, records, None, seed=0)
    found = audit_model(trained.model, tokenizer, records, base, seed=0)
    assert found["canary_auc"] > 0.95 and found["canary_epsilon"] > 1
    assert found["canary_epsilon"] == epsilon_of_auc(found["canaries"]["calibrated"]["low"])
    assert base["canary_auc_low"] < 0.5 < base["canary_auc_high"] and base["canaries"]["calibrated"] is None
    assert found["membership"]["n_in"] == found["membership"]["n_out"] == 10
