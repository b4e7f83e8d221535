"""The step on invented rows: what it measures here, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from helpers.errors import PrivacyError
from helpers.models import load_tokenizer
from helpers.privacy.dry_run import ROOM, backward_part, dry_run

SETTINGS: dict[str, Any] = {
    "quantisation": "none", "rank": 4, "alpha": 8, "target_modules": "all-linear", "gradient_checkpointing": False,
    "physical_rows": 8, "max_length_tokens": 40, "max_grad_norm": 0.5, "units_a_step": 100.0, "threads": None,
}  # fmt: skip


@pytest.mark.usefixtures("fp32")
@pytest.mark.parametrize("change", [{}, {"gradient_checkpointing": True}, {"quantisation": "nf4"}])
def test_in_fp32_rounding_carries_next_to_nothing_from_one_unit_to_others(tiny: str, change: dict[str, Any]) -> None:
    assert dry_run(tiny, **SETTINGS | change) < 1e-4


def test_this_machines_own_format_leaves_enough_room(tiny: str) -> None:
    assert dry_run(tiny, **SETTINGS) < ROOM / 2


def test_a_short_row_of_the_real_model_is_computed_alike_in_short_and_long_company() -> None:
    torch.manual_seed(11)  # with these adapters a row of 5 tokens, padded to 5 and to 30, differed by 1.6 % in bf16
    settings: dict[str, Any] = {"physical_rows": 16, "rank": 8, "alpha": 256, "max_length_tokens": 128}
    assert dry_run("smollm2-135m-instruct", **SETTINGS | settings) < 1e-4


def test_every_other_unit_stands_in_other_company_without_the_one(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[frozenset[str]] = []

    def noted(model: Any, part: list[Any], *others: Any) -> None:
        parts.append(frozenset(unit.name for unit in part))
        backward_part(model, part, *others)

    monkeypatch.setattr("helpers.privacy.dry_run.backward_part", noted)
    dry_run(tiny, **SETTINGS)
    *everybody, alone, one, other = parts
    assert len(alone) == 1 and frozenset.union(*everybody) == one | other | alone
    assert not set(everybody) & {one, other}


def test_units_that_scale_each_other_are_refused(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def token_mean(model: Any, part: list[Any], tokenizer: Any, dtype: torch.dtype, divisor: float) -> None:
        tokens = sum(len(row) for unit in part for row in unit.rows)
        backward_part(model, part, tokenizer, dtype, divisor * tokens)

    monkeypatch.setattr("helpers.privacy.dry_run.backward_part", token_mean)
    with pytest.raises(PrivacyError, match="of the clipping norm, by rounding"):
        dry_run(tiny, **SETTINGS)


def test_gradients_that_are_no_numbers_are_refused(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: Any, part: list[Any], tokenizer: Any, dtype: torch.dtype, divisor: float) -> None:
        backward_part(model, part, tokenizer, dtype, 0.0)

    monkeypatch.setattr("helpers.privacy.dry_run.backward_part", broken)
    with pytest.raises(PrivacyError, match="by nan of the clipping norm"):
        dry_run(tiny, **SETTINGS)


def test_experts_that_mix_rows_are_refused(tiny: str, tmp_path: Path) -> None:
    config = transformers.MixtralConfig(
        vocab_size=49152, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2,
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    load_tokenizer(tiny).save_pretrained(tmp_path)
    with pytest.raises(PrivacyError, match=r"rows are mixed|No gradient reached"):
        dry_run(str(tmp_path), **SETTINGS)


def test_a_layer_that_is_not_there_is_named(tiny: str) -> None:
    with pytest.raises(PrivacyError, match=r"names all_linear, which this model has not.*q_proj"):
        dry_run(tiny, **SETTINGS | {"target_modules": ["q_proj", "all_linear"]})
